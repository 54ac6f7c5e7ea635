"""read_structure compares every convolution, so that what it builds is as large as the file's tensors, and no larger."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minires.io.structure import read_structure
from minires.models import Bottleneck, CifarResNet, ResNet
from minires.nn import Module

NARROW: dict[str, Any] = {"widths": [8, 8, 16, 16], "stem_width": 8}


def shapes(model: Module, **changes: tuple[int, ...] | None) -> dict[str, np.ndarray]:
    """A state dict of empty memory: zeros by broadcasting, with some shapes changed (names with __ for the dot)."""
    found = {name: value.array.shape for name, value in model.state_dict().items()}
    for name, shape in changes.items():
        key = name.replace("__", ".")
        if shape is None:
            del found[key]
        else:
            found[key] = shape
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in found.items()}


def resnext(**options: Any) -> ResNet:
    return ResNet(Bottleneck, [1, 1, 1, 1], 5, **NARROW, **options)


def test_read_structure_reads_what_was_built() -> None:
    for options in (
        {"groups": 2, "width_per_group": 32},
        {"squeeze_excitation": True},
        {"deep_stem": (4, 6), "avg_pool_shortcut": True},
        {"small_input": True},
    ):
        model = resnext(**options)
        again = read_structure(shapes(model)).build()
        assert repr(again) == repr(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer2__0__conv1__weight": (8, 10**6, 1, 1)},
            r"layer2.0.conv1.weight has shape .*, expected \(8, 32, 1, 1\)",
        ),
        ({"layer4__0__se__fc1__weight": (10**6, 64, 1, 1)}, r"se.fc1.weight has shape .*, expected \(8, 64, 1, 1\)"),
        ({"layer1__0__conv2__weight": (8, 3, 3, 3)}, "8 channels in groups of 3: no ResNeXt has"),
        ({"layer1__0__conv3__weight": (48, 8, 1, 1)}, "8 channels in groups of 8: no ResNeXt has"),
        (
            {"layer3__0__downsample__0__weight": None, "layer3__0__downsample__1__weight": (64, 32, 1, 1)},
            "its shortcuts are of different kinds",
        ),
    ],
)
def test_read_structure_refuses_shapes_that_do_not_go_together(
    changes: dict[str, tuple[int, ...] | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_structure(shapes(resnext(squeeze_excitation=True), **changes))


def test_read_structure_three_stages_are_hes_family() -> None:
    model = CifarResNet(8, 5)
    assert repr(read_structure(shapes(model)).build()) == repr(model)
    for changes in (
        {"layer2__1__conv1__weight": (32, 32, 3, 3), "layer2__1__conv2__weight": (32, 32, 3, 3)},  # 1 2 1 blocks
        {"conv1__weight": (16, 3, 7, 7)},
        {"layer1__0__se__fc1__weight": (8, 16, 1, 1), "layer2__0__se__fc1__weight": (8, 32, 1, 1),
         "layer3__0__se__fc1__weight": (8, 64, 1, 1)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="it has three stages, but is not He's family of depth 6n"):
            read_structure(shapes(model, **changes))
