"""load_model beside timm and torchvision themselves: every ResNet of theirs gives the same logits, or it is refused.

These run where the two are installed:

    pip install timm torchvision==0.28.0        # the torchvision of torch 2.13
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires.errors import CheckpointError
from minires.io.architectures import from_config
from minires.io.structure import read_structure
from minires.nn import init
from tests.io.checkpoints import assert_same_logits
from tests.io.judges import timm, torchvision, with_statistics
from tests.io.test_architectures import ACCEPTED, REFUSED
from tests.torch_oracle import torch

TORCHVISION, TIMM = torchvision(), timm()  # the first must come first
SMALL = ["resnet10t", "resnet18", "resnet18d", "resnet26t", "seresnet18", "seresnext26t_32x4d"]


def test_the_names_are_all_that_timm_has() -> None:
    known = {name for pattern in ("*resne*", "*senet*") for name in TIMM.list_models(pattern)}
    assert known - {name for name in known if name.startswith("dense")} == {*ACCEPTED, *REFUSED}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_names_have_timms_tensors(name: str) -> None:
    with torch.device("meta"):
        theirs = {key: tuple(value.shape) for key, value in TIMM.create_model(name).state_dict().items()}
    structure = read_structure({key: np.broadcast_to(np.float32(0), shape) for key, shape in theirs.items()})
    declared = from_config({"architecture": name}, "here", "config.json")
    assert declared is not None
    assert declared.differences(structure) == []
    with init.skipped():
        ours = structure.build(**declared.options).state_dict()
    assert {key: tuple(value.shape) for key, value in ours.items()} == theirs


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "safetensors") for name in SMALL),
        ("seresnet18", "bin"),
        *(pytest.param(name, "safetensors", marks=pytest.mark.slow) for name in ACCEPTED if name not in SMALL),
    ],
)
def test_load_model_equals_timm(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, form: str) -> None:
    torch.manual_seed(0)
    judge = with_statistics(TIMM.create_model(name, num_classes=7))
    TIMM.models.save_for_hf(judge, str(tmp_path), safe_serialization=form == "safetensors")
    model = minires.load_model(tmp_path)
    assert_same_logits(model, judge, size=64)
    assert caplog.messages == []
    assert model.preprocess_config["interpolation"] in ("bicubic", "bilinear")


@pytest.mark.parametrize(
    "name", ["resnetblur18", "resnetaa34d", "skresnet18", "legacy_seresnet18", "ecaresnet26t", "resnetv2_18"]
)
def test_load_model_refuses_what_timm_computes_otherwise(tmp_path: Path, name: str) -> None:
    """The first has exactly resnet18's names and shapes: without the configuration it would load, and be wrong."""
    judge = with_statistics(TIMM.create_model(name, num_classes=7))
    TIMM.models.save_for_hf(judge, str(tmp_path), safe_serialization=True)
    with pytest.raises(CheckpointError, match=f"config.json says {name}, which minires does not have"):
        minires.load_model(tmp_path)
    if name == "resnetblur18":
        (tmp_path / "config.json").unlink()
        with pytest.raises(AssertionError):
            assert_same_logits(minires.load_model(tmp_path), judge, size=64)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet34",
        "resnet50",
        pytest.param("resnet101", marks=pytest.mark.slow),
        pytest.param("resnet152", marks=pytest.mark.slow),
        "resnext50_32x4d",
        pytest.param("resnext101_32x8d", marks=pytest.mark.slow),
        pytest.param("resnext101_64x4d", marks=pytest.mark.slow),
        "wide_resnet50_2",
        pytest.param("wide_resnet101_2", marks=pytest.mark.slow),
    ],
)
def test_load_model_equals_torchvision(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """From a file as torch-hub names it; the file names no network, the user does."""
    torch.manual_seed(0)
    judge: Any = with_statistics(TORCHVISION.models.get_model(name, weights=None, num_classes=7))
    for legacy in (False, True):
        file = tmp_path / f"{name}-0676ba61.pth"
        torch.save(judge.state_dict(), file, _use_new_zipfile_serialization=not legacy)
        assert_same_logits(minires.load_model(file, model=name), judge, size=64)
        assert caplog.messages == []
