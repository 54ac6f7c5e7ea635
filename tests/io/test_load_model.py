"""load_model: the same logits as the network that was saved, from every library's files; what is something else is refused."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import ArgumentError, CheckpointError, UnknownNameError
from minires.io.safetensors import save_file
from tests.io.checkpoints import (
    FOUR,
    THREE,
    assert_same_logits,
    cifar_name,
    folder,
    huggingface_config,
    huggingface_name,
    named,
    timm_config,
    twin,
)
from tests.torch_oracle import torch

D = {"stem": "deep", "shortcut": "D"}
TIMM = {
    "resnet18": ([2, 2, 2, 2], {}),
    "resnet18.a1_in1k": ([2, 2, 2, 2], {}),
    "tv_resnet34": ([3, 4, 6, 3], {}),
    "resnet10t": ([1, 1, 1, 1], {**D, "tiered": True}),
    "resnet18d": ([2, 2, 2, 2], D),
    "resnet26": ([2, 2, 2, 2], {"bottleneck": True}),
    "resnet26d": ([2, 2, 2, 2], {"bottleneck": True, **D}),
    "resnet14t": ([1, 1, 1, 1], {"bottleneck": True, **D, "tiered": True}),
    "seresnet18": ([2, 2, 2, 2], {"se": True}),
    "seresnext26d_32x4d": ([2, 2, 2, 2], {"bottleneck": True, "se": True, "groups": 32, "base_width": 4, **D}),
    "resnext26_32x4d": ([2, 2, 2, 2], {"bottleneck": True, "groups": 32, "base_width": 4}),
    "resnet18_grey": ([2, 2, 2, 2], {"in_channels": 1}),
}


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Fails the test if something was announced."""
    yield
    assert caplog.messages == []


@pytest.mark.parametrize("name", TIMM)
def test_load_model_from_a_folder_of_timm(tmp_path: Path, quiet: None, name: str) -> None:
    layers, options = TIMM[name]
    judge = twin(layers, **options)
    config = timm_config(name.removesuffix("_grey"), model_args={"in_chans": 3, "drop_rate": 0.1})
    model = minires.load_model(folder(tmp_path / "m", named(judge), config))
    assert not model.training
    assert_same_logits(model, judge, 72 if "stem" in options else 40, options.get("in_channels", 3))
    assert model.pretrained_config == config
    assert model.preprocess_config == config["pretrained_cfg"]


HUGGINGFACE = {
    "basic": ([1, 2, 1, 3], {}, {"layer_type": "basic", "hidden_sizes": FOUR}),
    "bottleneck": ([1, 2, 3, 1], {"bottleneck": True}, {}),
    "v1": ([1, 2, 1, 1], {"bottleneck": True, "stride_on_1x1": True}, {"downsample_in_bottleneck": True}),
    "narrow": (
        [2, 1, 1, 1],
        {"widths": [16, 24, 32, 50], "stem_width": 32},
        {"layer_type": "basic", "hidden_sizes": [16, 24, 32, 50], "embedding_size": 32},
    ),
}


@pytest.mark.parametrize("case", HUGGINGFACE)
def test_load_model_from_a_folder_of_hugging_face(tmp_path: Path, quiet: None, case: str) -> None:
    layers, options, more = HUGGINGFACE[case]
    judge = twin(layers, **options)
    config = huggingface_config(depths=layers, id2label={"0": "tench"}, **more)
    preprocess = {"crop_pct": 0.875, "size": {"shortest_edge": 224}}
    path = folder(tmp_path / "m", named(judge, huggingface_name), config, preprocessor_config=preprocess)
    model = minires.load_model(path)
    assert_same_logits(model, judge)
    assert model.pretrained_config == config
    assert model.preprocess_config == preprocess
    assert_same_logits(minires.load_model(path / "model.safetensors"), judge)  # the file finds its neighbours


@pytest.mark.parametrize("bottleneck", [False, True])
def test_load_model_from_a_checkpoint_of_pytorch_cifar(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bottleneck: bool
) -> None:
    judge = twin([1, 2, 1, 1], stem="small", bottleneck=bottleneck)
    tree = {"net": named(judge, cifar_name, "module."), "acc": 95.1, "epoch": 199}
    torch.save(tree, tmp_path / "ckpt.pth")
    assert_same_logits(minires.load_model(tmp_path), judge, 8)
    assert "Guessed from their names and shapes" in caplog.text
    assert f"{'bottlenecks' if bottleneck else 'basic blocks'} 1 2 1 1, stem 3x3" in caplog.text
    assert ("assumed: the stride on the 3x3" in caplog.text) == bottleneck


@pytest.mark.parametrize(("shortcut", "n"), [("A", 3), ("B", 3), ("A", 1)])
@pytest.mark.parametrize("say", [False, True])
def test_load_model_from_a_checkpoint_of_a_cifar_net(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shortcut: str, n: int, say: bool
) -> None:
    judge = twin([n] * 3, THREE, stem="small", stem_width=16, shortcut=shortcut)
    torch.save({"state_dict": named(judge, cifar_name, "module."), "best_prec1": 91.7}, tmp_path / "model.th")
    model = minires.load_model(tmp_path / "model.th", model=f"resnet{6 * n + 2}" if say else None)
    assert_same_logits(model, judge, 9)
    assert ("shortcuts of kind A" in caplog.text) == (shortcut == "A" and not say)
    assert (caplog.text == "") == say


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy", "npz", "minires"])
def test_load_model_reads_every_format(tmp_path: Path, quiet: None, form: str) -> None:
    judge = twin([1, 1, 1, 1])
    state, path = named(judge), tmp_path / "weights"
    arrays = {name: value.numpy() for name, value in state.items()}
    if form == "safetensors":
        save_file(arrays, path)
    elif form == "npz":
        with open(path, "wb") as file:
            np.savez(file, **arrays)
    elif form == "minires":
        minires.save({"state_dict": {name: minires.tensor(array) for name, array in arrays.items()}}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    assert_same_logits(minires.load_model(path, model="resnet10"), judge)


def test_load_model_believes_what_its_own_files_say(tmp_path: Path, quiet: None) -> None:
    """The metadata of a safetensors file, and the configuration in a checkpoint of `minires train`."""
    net = minires.models.build("wrn_16_4", num_classes=3)
    state = net.state_dict()
    save_file(state, tmp_path / "a", {"architecture": "wrn_16_4"})
    run = {"format": "minires-checkpoint", "version": 1, "config": {"model": "wrn_16_4"}, "model": state}
    minires.save(run, tmp_path / "b")
    net.eval()
    images = minires.randn(1, 3, 8, 8)
    for name in ("a", "b"):
        model = minires.load_model(tmp_path / name)
        with minires.no_grad():
            np.testing.assert_array_equal(model(images).numpy(), net(images).numpy())
    save_file(state, tmp_path / "c", {"architecture": "resnetblur50"})
    with pytest.raises(CheckpointError, match="the file says resnetblur50, which minires does not have"):
        minires.load_model(tmp_path / "c")


def test_load_model_fills_a_given_module(tmp_path: Path, quiet: None) -> None:
    judge = twin([1, 1, 1, 1])
    path = folder(tmp_path / "m", named(judge, huggingface_name), {"architecture": "resnetblur18"})
    mine = minires.models.ResNet(minires.models.BasicBlock, [1, 1, 1, 1], 7)
    assert minires.load_model(path, model=mine) is mine
    assert_same_logits(mine, judge)
    with pytest.raises(ArgumentError, match="num_classes and stride_on_1x1 go with a name"):
        minires.load_model(path, model=mine, num_classes=7)
    with pytest.raises(CheckpointError, match=r"(?s)its tensors do not fit: .*Missing key"):
        minires.load_model(path, model=nn.Linear(2, 2))


def test_load_model_with_another_number_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge = twin([1, 1, 1, 1])
    save_file({name: value.numpy() for name, value in named(judge).items()}, tmp_path / "a")
    model = minires.load_model(tmp_path / "a", model="resnet10", num_classes=3)
    assert "a classifier for 3 classes is not in the file; it begins with fresh weights" in caplog.text
    assert model.get_submodule("fc").weight.shape == (3, 512)
    np.testing.assert_array_equal(
        model.get_submodule("conv1").weight.detach().numpy(), judge.conv1.weight.detach().numpy()
    )
    caplog.clear()
    assert_same_logits(minires.load_model(tmp_path / "a", model="resnet10", num_classes=7), judge)
    assert caplog.messages == []
    with pytest.raises(ArgumentError, match="num_classes must be a positive int, got 0"):
        minires.load_model(tmp_path / "a", num_classes=0)


def test_load_model_announces_which_of_two_state_dicts_it_took(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge, other = twin([1, 1, 1, 1]), twin([1, 1, 1, 1], seed=1)
    torch.save({"state_dict": named(other), "state_dict_ema": named(judge)}, tmp_path / "a.pth")
    assert_same_logits(minires.load_model(tmp_path / "a.pth", model="resnet10"), judge)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "took state_dict_ema, not state_dict" in caplog.text


def test_load_model_takes_the_stride_from_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge = twin([1, 1, 1, 1], bottleneck=True, stride_on_1x1=True)
    save_file({name: value.numpy() for name, value in named(judge).items()}, tmp_path / "a")
    assert_same_logits(minires.load_model(tmp_path / "a", stride_on_1x1=True), judge)
    assert "assumed: the stride on the 1x1" in caplog.text
    save_file({name: value.numpy() for name, value in named(twin([1, 1, 1, 1])).items()}, tmp_path / "b")
    with pytest.raises(CheckpointError, match="stride_on_1x1 needs bottlenecks, the weights have basic blocks 1 1 1 1"):
        minires.load_model(tmp_path / "b", stride_on_1x1=True)


def test_load_model_plain_networks_need_their_name(tmp_path: Path, quiet: None) -> None:
    judge = twin([2, 2, 2, 2], plain=True)
    save_file({name: value.numpy() for name, value in named(judge).items()}, tmp_path / "a")
    with pytest.raises(CheckpointError, match="a plain network\\? Say which one"):
        minires.load_model(tmp_path / "a")
    assert_same_logits(minires.load_model(tmp_path / "a", model="plain_resnet18"), judge)
    with pytest.raises(CheckpointError, match="another network: shortcut is none, expected conv"):
        minires.load_model(tmp_path / "a", model="resnet18")


@functools.cache
def resnet18() -> dict[str, Any]:
    return named(twin([2, 2, 2, 2]))


OTHERS = [
    "resnetblur50",
    "resnetblur18",
    "resnetaa50",
    "seresnextaa101d_32x8d",
    "resnetrs50",
    "ecaresnet26t",
    "eca_resnet33ts",
    "skresnet18",
    "resnetv2_50",
    "resnest14d",
    "legacy_seresnet18",
    "senet154",
    "cspresnet50",
    "nf_resnet26",
    "gcresnet50t",
    "tresnet_m",
    "seresnet33ts",
    "resnet51q",
    "resnet50_gn",
    "resnet50_clip",
    "inception_resnet_v2",
    "regnetx_002",
]


@pytest.mark.parametrize("name", OTHERS)
def test_load_model_refuses_what_is_known_to_be_something_else(tmp_path: Path, name: str) -> None:
    """By the configuration, also where the user gives a name; and by the file's name, unless the user gives one."""
    path = folder(tmp_path / "m", {}, timm_config(name))
    save_file({"fc.weight": np.zeros((1, 1))}, path / "model.safetensors")
    for model in (None, "resnet50"):
        with pytest.raises(CheckpointError, match=f"config.json says {name}, which minires does not have: it"):
            minires.load_model(path, model=model)
    save_file({"fc.weight": np.zeros((1, 1))}, tmp_path / f"{name}-84f4748f.safetensors")
    with pytest.raises(CheckpointError, match=f"the file's name says {name}-84f4748f, which minires does not have"):
        minires.load_model(tmp_path / f"{name}-84f4748f.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (timm_config("resnet26"), "config.json says resnet26, but .*: bottleneck is False, expected True"),
        (timm_config("resnet34"), r"layers is \(2, 2, 2, 2\), expected \(3, 4, 6, 3\)"),
        (timm_config("seresnet18"), "squeeze_excitation is False, expected True"),
        (timm_config("resnet18d"), "stem is 7x7, expected deep; shortcut is conv, expected avg"),
        (timm_config("vit_tiny"), "config.json says architecture 'vit_tiny': unknown model 'vit_tiny'"),
        (timm_config("resnet18", model_args={"act_layer": "silu"}), "builds resnet18 with act_layer = 'silu'"),
        (timm_config("resnet18", model_args={"output_stride": 8}), "builds resnet18 with output_stride = 8"),
        (timm_config("resnet18", global_pool="max"), "builds resnet18 with global_pool = 'max'"),
        (huggingface_config(layer_type="basic", hidden_sizes=FOUR, depths=[2, 2, 2, 3]), "layers is"),
        (
            huggingface_config(layer_type="basic", hidden_sizes=[64, 128, 256, 500], depths=[2, 2, 2, 2]),
            r"widths is \(64, 128, 256, 512\), expected \(64, 128, 256, 500\)",
        ),
        (huggingface_config(hidden_act="gelu"), "has hidden_act 'gelu'; minires' networks have relu"),
        (huggingface_config(downsample_in_first_stage=True), "has downsample_in_first_stage"),
        (huggingface_config(layer_type="wide"), "has layer_type 'wide'; it is basic or bottleneck"),
        (huggingface_config(depths=[2, 2, 2]), "has 3 stages; minires' networks have four"),
        (huggingface_config(depths="2222"), "has depths = '2222'; expected a list"),
        (huggingface_config(depths=[2, 2, 2, "2"]), "that are no integers"),
        ({"model_type": "regnet"}, "says model_type 'regnet'; minires reads resnet"),
    ],
)
def test_load_model_refuses_a_configuration_of_another_network(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    path = folder(tmp_path / "m", resnet18(), config)
    with pytest.raises(CheckpointError, match=message):
        minires.load_model(path)


def test_load_model_wide_networks_are_told_from_others(tmp_path: Path, quiet: None) -> None:
    """Their names say a width that the usual ones do not have; with it, they load."""
    judge = twin([3, 4, 6, 3], bottleneck=True, base_width=128)
    path = folder(tmp_path / "m", named(judge), {})
    with pytest.raises(CheckpointError, match="width_per_group is 128, expected 64"):
        minires.load_model(path, model="resnet50")
    assert_same_logits(minires.load_model(path, model="wide_resnet50_2"), judge)


def test_load_model_caller_and_configuration_must_agree(tmp_path: Path, quiet: None) -> None:
    path = folder(tmp_path / "m", resnet18(), timm_config("resnet18"))
    with pytest.raises(
        CheckpointError, match=r"config.json says resnet18 with layers \(2, 2, 2, 2\), the caller resnet34"
    ):
        minires.load_model(path, model="resnet34")
    with pytest.raises(CheckpointError, match=r"config.json says resnet18, the caller wrn_16_4"):
        minires.load_model(path, model="wrn_16_4")
    with pytest.raises(UnknownNameError, match="unknown model 'resnet19': did you mean"):
        minires.load_model(path, model="resnet19")
    minires.load_model(path, model="resnet18")
    # Beside a name, the configuration still knows the stride.
    judge = twin([2, 2, 2, 2], bottleneck=True, stride_on_1x1=True)
    path = folder(
        tmp_path / "v1",
        named(judge, huggingface_name),
        huggingface_config(depths=[2, 2, 2, 2], downsample_in_bottleneck=True),
    )
    assert_same_logits(minires.load_model(path, model="resnet26"), judge)


@functools.cache
def resnet10() -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in named(twin([1, 1, 1, 1])).items()}


def changed(**changes: tuple[int, ...] | None) -> Callable[[], dict[str, np.ndarray]]:
    """Makes resnet10's tensors, with some taken out or of another shape."""
    return lambda: _changed(changes)


def _changed(changes: dict[str, tuple[int, ...] | None]) -> dict[str, np.ndarray]:
    state = dict(resnet10())
    for name, shape in changes.items():
        key = name.replace("__", ".")
        if shape is None:
            del state[key]
        else:
            state[key] = np.zeros(shape, np.float32)
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(conv1__weight=None), "there is no conv1.weight. If it is another network of minires, say which"),
        (changed(conv1__weight=(64, 3, 5, 5)), "conv1.weight is 5x5; the family has 7x7 or 3x3"),
        (changed(conv1__weight=(64, 0, 7, 7)), "expected 4 dimensions, none of size 0"),
        (changed(bn1__weight=None), "there is no bn1.weight behind conv1: a pre-activation network"),
        (changed(fc__weight=None), "these are features without a classifier"),
        (changed(fc__weight=(7, 256)), r"fc.weight has shape \(7, 256\), expected \(7, 512\)"),
        (changed(layer3__0__conv1__weight=None), r"it has the stages \[1, 2, 4\]; the family has 1 to 4"),
        (
            changed(layer2__0__conv2__weight=(128, 64, 3, 3)),
            r"conv2.weight has shape \(128, 64, 3, 3\), expected \(128, 128",
        ),
        (changed(layer2__0__conv2__weight=(10**9, 0, 3, 3)), "none of size 0"),
        (changed(layer2__5__conv1__weight=(128, 128, 3, 3)), "the blocks of layer2 are not numbered from 0"),
        (changed(layer2__0__downsample__0__weight=None), "downsample is no 1x1 convolution with batch norm"),
        (changed(layer2__0__downsample__0__weight=(128, 64, 3, 3)), "expected \\(128, 64, 1, 1\\)"),
        (changed(layer1__0__conv3__weight=(64, 64, 1, 1)), "there is no layer2.0.conv3.weight"),
        (
            changed(**{f"layer{stage}__0__conv3__weight": (10, 64, 1, 1) for stage in (1, 2, 3, 4)}),
            r"its stages are \[10, 10, 10, 10\] wide; bottlenecks need multiples of 4",
        ),
        (changed(bn1__bias=(32,)), "its tensors do not fit: .*size mismatch for bn1.bias"),
        (
            changed(extra__weight=(32,)),
            r"its tensors do not fit: .*Unexpected key\(s\) in state_dict: \"extra.weight\"",
        ),
        (lambda: {"layer1.0.conv1.weight": np.zeros((4, 4, 3, 3))}, r"it has the stages \[1\]"),
        (lambda: {"w": np.zeros(3)}, "there is no layer1.0.conv1.weight"),
    ],
)
def test_load_model_refuses_weights_of_no_network_of_ours(
    tmp_path: Path, state: Callable[[], dict[str, np.ndarray]], message: str
) -> None:
    save_file(state(), tmp_path / "a")
    with pytest.raises(CheckpointError, match=f"(?s)load_model: .*{message}"):
        minires.load_model(tmp_path / "a")


def test_load_model_looks_for_weights_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"load_model: there is no file or folder .*nowhere"):
        minires.load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no weights in this folder; looked for model.safetensors"):
        minires.load_model(tmp_path)
    (tmp_path / "a.pth").write_bytes(b"")
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"several files of weights, a.pth, b.safetensors; name one"):
        minires.load_model(tmp_path)
    os.remove(tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.pth: empty file"):
        minires.load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"index\.json: it has no weight_map"):
        minires.load_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "config.json: not JSON"),
        (b"[" * 100_000, "config.json: not JSON"),
        (b"\xff", "config.json: not JSON"),
        (b"[]", "config.json: holds a list, not the names and values"),
        (b" " * 10_000_001, "10,000,001 bytes, no configuration"),
    ],
)
def test_load_model_refuses_a_broken_configuration(tmp_path: Path, text: bytes, message: str) -> None:
    path = folder(tmp_path / "m", {}, {})
    (path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=message):
        minires.load_model(path)


def test_load_model_ignores_a_neighbour_that_is_no_configuration_of_weights(tmp_path: Path) -> None:
    save_file(resnet10(), tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"theme": "dark"}))
    model = minires.load_model(tmp_path / "a.safetensors", model="resnet10")
    assert model.pretrained_config is None
    assert model.preprocess_config is None


def test_load_model_reads_timms_older_flat_configuration(tmp_path: Path) -> None:
    config = {"architecture": "resnet10t", "mean": [0.5] * 3, "crop_pct": 0.9}
    judge = twin([1, 1, 1, 1], tiered=True, **D)
    model = minires.load_model(folder(tmp_path / "m", named(judge), config))
    assert model.preprocess_config == config


def test_load_model_converts_half_precision(tmp_path: Path) -> None:
    judge = twin([1, 1, 1, 1]).to(torch.bfloat16)
    torch.save(named(judge), tmp_path / "a.pth")
    model = minires.load_model(tmp_path / "a.pth", model="resnet10")
    assert model.get_submodule("conv1").weight.dtype is minires.float32
    assert_same_logits(model, judge.float())
