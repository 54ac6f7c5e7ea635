"""Keys, shapes, outputs, gradients and batch-norm buffers equal those of a torch twin with the same weights."""

from __future__ import annotations

from functools import partial

import pytest

import minires
from minires import models
from minires.models.preact import PreActBottleneck
from tests.models.twins import Twin, batch, copy_weights, net
from tests.tolerances import assert_close
from tests.torch_oracle import torch

FOUR, THREE = [64, 128, 256, 512], [16, 32, 64]

# Short forms of the deep networks: blocks differ from the full ones in number alone, which test_counts.py holds.
BOTTLENECKS = partial(models.ResNet, models.Bottleneck, [1, 2, 1, 1])
PREACT_BOTTLENECKS = partial(models.PreActResNet, PreActBottleneck, [1, 2, 1, 1])

# name of the case: (our name or builder, our options, pixels, the twin's arguments)
CASES = {
    "resnet18": ("resnet18", {}, 40, net([2, 2, 2, 2], FOUR, stem="imagenet")),
    "resnet18_small": ("resnet18", {"small_input": True}, 9, net([2, 2, 2, 2], FOUR)),
    "resnet50": ("resnet50", {}, 33, net([3, 4, 6, 3], FOUR, stem="imagenet", bottleneck=True)),
    "bottleneck_v1": (
        BOTTLENECKS,
        {"stride_on_1x1": True, "small_input": True},
        8,
        net([1, 2, 1, 1], FOUR, bottleneck=True, stride_on_1x1=True),
    ),
    "resnext": (
        BOTTLENECKS,
        {"groups": 32, "width_per_group": 4, "small_input": True},
        8,
        net([1, 2, 1, 1], FOUR, bottleneck=True, groups=32, base_width=4),
    ),
    "wide_bottleneck": (
        BOTTLENECKS,
        {"width_per_group": 128, "small_input": True},
        8,
        net([1, 2, 1, 1], FOUR, bottleneck=True, base_width=128),
    ),
    "resnet18d": ("resnet18d", {}, 72, net([2, 2, 2, 2], FOUR, stem="deep", shortcut="D")),
    "seresnet18": ("seresnet18", {"small_input": True}, 8, net([2, 2, 2, 2], FOUR, se=True)),
    "plain18": ("plain_resnet18", {"small_input": True}, 8, net([2, 2, 2, 2], FOUR, plain=True)),
    "resnet20_a": ("resnet20", {}, 12, net([3] * 3, THREE, stem_width=16, shortcut="A")),
    "resnet20_a_odd": ("resnet20", {}, 7, net([3] * 3, THREE, stem_width=16, shortcut="A")),
    "resnet20_b": ("resnet20", {"shortcut": "B"}, 12, net([3] * 3, THREE, stem_width=16)),
    "resnet8_grey": ("resnet8", {"in_channels": 1}, 8, net([1] * 3, THREE, stem_width=16, shortcut="A")),
    "plain20": ("plain_resnet20", {}, 8, net([3] * 3, THREE, stem_width=16, plain=True)),
    "preact18": (
        "preact_resnet18",
        {},
        40,
        net([2, 2, 2, 2], FOUR, stem="imagenet", shortcut="bare", preact=True),
    ),
    "preact_bottleneck": (
        PREACT_BOTTLENECKS,
        {"small_input": True},
        8,
        net([1, 2, 1, 1], FOUR, bottleneck=True, shortcut="bare", preact=True),
    ),
    "preact20": (
        "preact_resnet20",
        {},
        8,
        net([3] * 3, THREE, stem_width=16, shortcut="bare", preact=True),
    ),
    "preact164": (
        "preact_resnet164",
        {},
        8,
        net([18] * 3, THREE, stem_width=16, bottleneck=True, shortcut="bare", preact=True),
    ),
    "plain_preact20": (
        "plain_preact_resnet20",
        {},
        8,
        net([3] * 3, THREE, stem_width=16, plain=True, preact=True),
    ),
    "wrn_16_4": (
        "wrn_16_4",
        {},
        8,
        net([2] * 3, [64, 128, 256], stem_width=16, shortcut="bare", preact=True),
    ),
}


def make(case: str, dtype: str = "float64"):
    name, options, pixels, twin_arguments = CASES[case]
    channels = options.get("in_channels", 3)
    builder = partial(models.build, name) if isinstance(name, str) else name
    model = builder(num_classes=5, **options).to(getattr(minires, dtype))
    twin = Twin(**twin_arguments, num_classes=5, in_channels=channels).to(getattr(torch, dtype))
    return model, twin, channels, pixels


@pytest.mark.parametrize("case", CASES)
def test_model_equals_its_twin(case):
    model, twin, channels, pixels = make(case)
    ours, theirs = model.state_dict(), twin.state_dict()
    assert {k: tuple(v.shape) for k, v in ours.items()} == {k: tuple(v.shape) for k, v in theirs.items()}
    assert list(ours) == list(theirs)

    copy_weights(model, twin)
    x, x_torch = batch("float64", 3, channels, pixels, pixels)

    model.eval(), twin.eval()
    assert_close(model(x).array, twin(x_torch).detach().numpy(), "float64")

    model.train(), twin.train()
    y, y_torch = model(x), twin(x_torch)
    assert_close(y.array, y_torch.detach().numpy(), "float64")
    (y * y).sum().backward()
    (y_torch * y_torch).sum().backward()
    for (key, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        scale = float(q.grad.abs().max())
        assert scale > 0, key
        assert_close(p.grad.array / scale, q.grad.numpy() / scale, "float64", what=key)
    for (key, b), c in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert_close(b.array, c.numpy(), "float64", what=key)
