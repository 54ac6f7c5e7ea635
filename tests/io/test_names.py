"""State dicts are found under their wrappers and renamed from each library's names; what is none is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires.errors import CheckpointError
from minires.io.names import find_state_dict, naming_of, strip_prefixes, to_minires
from minires.io.pickle_values import Placeholder
from minires.tensor import Tensor

W, B = np.zeros((2, 3)), np.ones(2)
STATE = {"fc.weight": W, "fc.bias": B}
WRAPPED = [
    STATE,
    {"state_dict": STATE, "epoch": 3, "best_prec1": 91.2},
    {"net": STATE, "acc": 95.1},
    {"model": STATE, "optimizer": {"state": {}}, "epoch": 1},
    {"model": {"module.fc.weight": W, "module.fc.bias": B}},
    {"state_dict": {"state_dict": STATE}},
    {"module._orig_mod.fc.weight": W, "module._orig_mod.fc.bias": B},
    {"state_dict": {"model.fc.weight": W, "model.fc.bias": B}, "pytorch-lightning_version": "2"},
    {"timm_model.fc.weight": W, "timm_model.fc.bias": B},
    {"fc.weight": Tensor(W), "fc.bias": Tensor(B)},
]


@pytest.mark.parametrize("tree", WRAPPED)
def test_find_state_dict_takes_wrappers_off(tree: dict[str, Any]) -> None:
    state, chosen = find_state_dict(tree, "here")
    assert list(state) == ["fc.weight", "fc.bias"]
    np.testing.assert_array_equal(state["fc.weight"], W)
    assert chosen is None


def test_find_state_dict_takes_the_averaged_weights_and_says_so() -> None:
    state, chosen = find_state_dict({"state_dict": STATE, "state_dict_ema": {"fc.weight": W + 1}, "epoch": 3}, "here")
    np.testing.assert_array_equal(state["fc.weight"], W + 1)
    assert chosen == "state_dict_ema, not state_dict"


def test_strip_prefixes_leaves_names_that_only_some_have() -> None:
    assert list(strip_prefixes({"module.a": W, "b": B})) == ["module.a", "b"]
    assert list(strip_prefixes({})) == []


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            Placeholder("torchvision.models.resnet", "ResNet"),
            r"here: holds a torchvision\.models\.resnet\.ResNet, a whole object",
        ),
        (
            {"model": Placeholder("net", "Net"), "epoch": 1},
            r"holds a net\.Net, a whole object, .* torch\.save\(model\.state_dict",
        ),
        ([W], "holds a list, not a state dict"),
        (Tensor(W), "holds a Tensor, not a state dict"),
        ({}, "holds no tensors"),
        ({"weights": {}}, "holds no tensors"),
        ({"resnet": STATE, "epoch": 3}, "'resnet' is a dict, not a tensor. It has the keys resnet, epoch;"),
        ({"fc.weight": W, "lr": 0.1}, "'lr' is a float, not a tensor"),
        ({3: W}, "'3' is a ndarray, not a tensor"),
    ],
)
def test_find_state_dict_refuses_what_is_none(tree: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_state_dict(tree, "here")


PAIRS = {
    "huggingface": {
        "resnet.embedder.embedder.convolution.weight": "conv1.weight",
        "resnet.embedder.embedder.normalization.running_var": "bn1.running_var",
        "resnet.encoder.stages.2.layers.10.layer.1.convolution.weight": "layer3.10.conv2.weight",
        "resnet.encoder.stages.0.layers.1.layer.2.normalization.num_batches_tracked": "layer1.1.bn3.num_batches_tracked",
        "resnet.encoder.stages.3.layers.0.shortcut.convolution.weight": "layer4.0.downsample.0.weight",
        "resnet.encoder.stages.3.layers.0.shortcut.normalization.bias": "layer4.0.downsample.1.bias",
        "classifier.1.bias": "fc.bias",
    },
    "cifar": {
        "conv1.weight": "conv1.weight",
        "layer2.0.shortcut.0.weight": "layer2.0.downsample.0.weight",
        "layer2.0.shortcut.1.running_mean": "layer2.0.downsample.1.running_mean",
        "layer3.8.bn2.bias": "layer3.8.bn2.bias",
        "linear.weight": "fc.weight",
    },
    "torchvision": {"layer1.0.downsample.1.bias": "layer1.0.downsample.1.bias", "fc.weight": "fc.weight"},
}


@pytest.mark.parametrize("naming", PAIRS)
def test_to_minires_renames(naming: str) -> None:
    state = {theirs: np.full(1, i) for i, theirs in enumerate(PAIRS[naming])}
    assert naming_of(state) == naming
    ours = to_minires(state, "here")
    assert {name: int(array[0]) for name, array in ours.items()} == {
        name: i for i, name in enumerate(PAIRS[naming].values())
    }


def test_to_minires_leaves_what_it_does_not_know() -> None:
    assert list(to_minires({"linear.weight": W, "linear.weights": W, "xlinear.weight": W}, "here")) == [
        "fc.weight",
        "linear.weights",
        "xlinear.weight",
    ]


@pytest.mark.parametrize("number", ["9" * 5_000, "\u0661"])
def test_to_minires_leaves_numbers_that_no_network_has(number: str) -> None:
    """Python refuses to make an int of more than 4,300 digits, and takes digits of every script."""
    names = [
        f"resnet.encoder.stages.{number}.layers.0.layer.0.convolution.weight",
        f"resnet.encoder.stages.0.layers.0.layer.{number}.convolution.weight",
        f"layer{number}.0.shortcut.0.weight",
    ]
    for name in names:
        for known in ("resnet.embedder.embedder.convolution.weight", "linear.weight"):
            assert name in to_minires({known: W, name: W}, "here")


def test_to_minires_refuses_two_names_for_one_tensor() -> None:
    with pytest.raises(
        CheckpointError, match=re.escape("here: two of its tensors are fc.weight here, one of them linear")
    ):
        to_minires({"fc.weight": W, "linear.weight": W}, "here")


def test_load_state_dict_file_reads_every_format_alike(tmp_path: Path) -> None:
    from minires.io.safetensors import save_file

    arrays = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "fc.bias": np.ones(2, np.float32)}
    save_file({f"module.{name}": array for name, array in arrays.items()}, tmp_path / "a")
    np.savez(tmp_path / "b.npz", **arrays)
    minires.save({"state_dict": {name: minires.tensor(array) for name, array in arrays.items()}}, tmp_path / "c")
    files = ["a", "b.npz", "c"]
    torch = pytest.importorskip("torch", reason="torch writes two of the formats")
    tree = {"model": {name: torch.tensor(array) for name, array in arrays.items()}, "epoch": 3}
    for name, new in (("d", True), ("e", False)):
        torch.save(tree, tmp_path / name, _use_new_zipfile_serialization=new)
        files.append(name)
    for name in files:
        state = minires.load_state_dict_file(tmp_path / name)
        assert list(state) == list(arrays) or name == "a"  # safetensors sorts
        for key, array in arrays.items():
            np.testing.assert_array_equal(state[key], array)


def test_load_state_dict_file_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"load_state_dict_file: .*nowhere: there is no such file"):
        minires.load_state_dict_file(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="a folder, not a file; load_model reads folders"):
        minires.load_state_dict_file(tmp_path)
    (tmp_path / "x").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="a web page"):
        minires.load_state_dict_file(tmp_path / "x")
