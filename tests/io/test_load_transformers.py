"""load_model beside transformers itself: ResNetForImageClassification, saved by save_pretrained, gives the same logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires.errors import CheckpointError
from minires.io.names import naming_of, to_minires
from minires.nn import init
from tests.io.checkpoints import assert_same_logits
from tests.torch_oracle import torch

NARROW = {"embedding_size": 16, "hidden_sizes": [16, 24, 40, 48]}
CASES: dict[str, dict[str, Any]] = {
    "basic": {"layer_type": "basic", "depths": [2, 1, 3, 1], **NARROW},
    "basic, as wide as the default": {"layer_type": "basic", "depths": [1, 1, 1, 1]},
    "basic, every stage with a shortcut": {
        "layer_type": "basic",
        "depths": [1, 2, 1, 1],
        **NARROW,
        "embedding_size": 8,
    },
    "bottleneck": {"depths": [1, 3, 1, 2], "embedding_size": 16, "hidden_sizes": [32, 64, 72, 128]},
    "bottleneck, stride on the 1x1": {
        "depths": [2, 1, 2, 1],
        "downsample_in_bottleneck": True,
        "embedding_size": 16,
        "hidden_sizes": [32, 64, 72, 128],
    },
    "as resnet-50, one block a stage": {"depths": [1, 1, 1, 1]},
    "grey images": {"layer_type": "basic", "depths": [1, 1, 1, 1], "num_channels": 1, **NARROW},
}


@pytest.fixture
def hf(transformers: Any) -> Any:
    """By its short name."""
    return transformers


def network(hf: Any, **config: Any) -> Any:
    """A random network in evaluation mode, none of whose statistics is a fresh one."""
    torch.manual_seed(0)
    judge = hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=7, **config)).eval()
    for name, value in judge.state_dict().items():
        if name.endswith(("running_var", "normalization.weight")):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2)
    return judge


def as_bin(path: Path) -> None:
    """The folder as older versions of the library wrote it: torch.save, pytorch_model.bin in place of model.safetensors."""
    import safetensors.torch

    for file in sorted(path.glob("model*.safetensors")):
        name = file.name.replace("model", "pytorch_model", 1).replace(".safetensors", ".bin")
        torch.save(safetensors.torch.load_file(file), path / name)
        file.unlink()
    for file in path.glob("*.index.json"):
        text = file.read_text(encoding="utf-8").replace('"model-', '"pytorch_model-').replace(".safetensors", ".bin")
        (path / "pytorch_model.bin.index.json").write_text(text, encoding="utf-8")
        file.unlink()


@pytest.mark.parametrize("case", CASES)
def test_load_model_equals_transformers(hf: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str) -> None:
    judge = network(hf, **CASES[case])
    judge.save_pretrained(tmp_path)
    assert_same_logits(minires.load_model(tmp_path), judge, channels=CASES[case].get("num_channels", 3))
    assert caplog.messages == []  # nothing was guessed


@pytest.mark.parametrize("form", ["one file", "split"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_load_model_equals_transformers_in_every_form_of_folder(hf: Any, tmp_path: Path, form: str, kind: str) -> None:
    judge = network(hf, **CASES["bottleneck, stride on the 1x1"])
    judge.save_pretrained(tmp_path, max_shard_size="200KB" if form == "split" else "1GB")
    if kind == "bin":
        as_bin(tmp_path)
    names = sorted(file.name for file in tmp_path.iterdir())
    prefix = "pytorch_model.bin" if kind == "bin" else "model.safetensors"
    assert (f"{prefix}.index.json" in names) == (form == "split")
    assert (prefix in names) == (form == "one file")
    assert_same_logits(minires.load_model(tmp_path), judge)
    if form == "split":
        index = tmp_path / f"{prefix}.index.json"
        assert_same_logits(minires.load_model(index), judge)  # the index itself may be named
        weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        lost = weights["resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"]
        (tmp_path / lost).unlink()
        with pytest.raises(CheckpointError, match=f"there is no file {lost} beside the index; fetch all"):
            minires.load_model(tmp_path)


def test_load_model_takes_transformers_half_precision(hf: Any, tmp_path: Path) -> None:
    judge = network(hf, **CASES["basic"])
    for dtype in (torch.float16, torch.bfloat16):
        half = judge.to(dtype)
        half.save_pretrained(tmp_path)
        model = minires.load_model(tmp_path)
        assert all(parameter.dtype is minires.float32 for parameter in model.parameters())
        assert_same_logits(model, half.float())


def test_load_model_refuses_another_depth_than_its_configuration(hf: Any, tmp_path: Path) -> None:
    network(hf, **CASES["basic"]).save_pretrained(tmp_path)
    shutil.copy(tmp_path / "config.json", tmp_path / "right.json")
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for change, message in [
        ({"depths": [2, 1, 3, 2]}, r"layers is \(2, 1, 3, 1\), expected \(2, 1, 3, 2\)"),
        ({"layer_type": "bottleneck"}, "bottleneck is False, expected True"),
        ({"num_channels": 1}, "in_channels is 3, expected 1"),
        ({"embedding_size": 32}, r"stem_widths is \(16,\), expected \(32,\)"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=message):
            minires.load_model(tmp_path)


def test_every_name_of_resnet_50_has_its_place(hf: Any) -> None:
    """320 names of 320, and each the shape that torchvision's name has."""
    with torch.device("meta"):
        theirs = hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=1000)).state_dict()
    state = {name: np.broadcast_to(np.float32(0), tuple(value.shape)) for name, value in theirs.items()}
    assert naming_of(state) == "huggingface"
    mapped = to_minires(state, "here")
    with init.skipped():
        ours = minires.models.build("resnet50").state_dict()
    assert len(mapped) == len(ours) == 320
    assert {name: value.shape for name, value in mapped.items()} == {name: tuple(v.shape) for name, v in ours.items()}
