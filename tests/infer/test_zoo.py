"""Every network by name: the plan gives what the model gives."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import models
from tests.infer.nets import eager, images, small
from tests.tolerances import assert_close

LONG = ("1202", "1001", "_200", "resnet200", "wrn_28_10", "152", "164", "resnet110")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if any(part in name for part in LONG) else name
    for name in models.list_models()
]


@pytest.mark.parametrize("name", NAMES)
def test_plan_equals_model(name):
    net = small(name).double()
    plan = minires.compile(net, (1, 3, 16, 16), kernels="reference")
    x = images(2, 3, 16, 16)
    expected = eager(net, x)
    assert np.abs(expected).max() > 1e-6  # two zeros would be equal too
    assert_close(plan(x), expected, "float64")
    # Batch norm in front of a convolution, or behind max-pool, cannot be folded.
    assert all(step.kind != "scale_shift" for step in plan.graph.steps) or any(
        n in name for n in ("preact", "wrn", "resnet9")
    )


@pytest.mark.parametrize("name", ["resnet20", "resnet18d", "seresnet18", "preact_resnet18", "resnext50_32x4d"])
def test_plan_equals_model_in_float32(name):
    net = small(name)
    plan = minires.compile(net, (1, 3, 32, 32), kernels="reference")
    x = images(2, 3, 32, 32, dtype="float32")
    y = plan(x)
    assert y.dtype == np.float32
    assert_close(y, eager(net, x), "float32", n=64)


@pytest.mark.parametrize(
    ("name", "options", "pixels"),
    [
        ("resnet18", {"small_input": True}, 16),
        ("resnet18d", {"deep_stem": (12, 16)}, 33),  # timm's t stems; an odd map, so the mean's ceil_mode counts
        ("resnet50", {"stride_on_1x1": True}, 32),
        ("resnet20", {"shortcut": "B"}, 16),
        ("wrn_16_4", {"dropout": 0.3}, 16),
    ],
)
def test_plan_equals_model_with_options(name, options, pixels):
    net = small(name, **options).double()
    x = images(1, 3, pixels, pixels)
    assert_close(minires.compile(net, x.shape, kernels="reference")(x), eager(net, x), "float64")


def test_resnet_becomes_the_fewest_steps():
    """One step a convolution (its norm, ReLU and addition are inside), one for each of max-pool, mean, reshape and fc."""
    plan = minires.compile(small("resnet18"), (1, 3, 32, 32), kernels="reference")
    kinds = [step.kind for step in plan.graph.steps]
    assert kinds.count("conv2d") == 20
    assert sorted(set(kinds) - {"conv2d"}) == ["adaptive_avg_pool2d", "linear", "max_pool2d", "reshape"]
    assert len(kinds) == 24
    assert sum(len(step.inputs) == 2 for step in plan.graph.steps) == 8  # a shortcut a block
    assert sum(step.attributes.get("relu", False) for step in plan.graph.steps) == 17  # as in the model


def test_macs_are_those_of_the_literature():
    """ResNet-18 at 224 pixels: 1.81 G multiply-accumulates (torchvision's table: 1.81 GFLOPS)."""
    plan = minires.compile(models.resnet18(), (1, 3, 224, 224), kernels="reference")
    assert round(plan.macs / 1e9, 2) == 1.81
