"""A whole residual block: first and second derivatives, by finite differences and beside torch, in every mode."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import nn
from minires.autograd import gradcheck, gradgradcheck
from minires.nn import functional as F
from tests.strategies import values
from tests.torch_oracle import compare, torch

TF = torch.nn.functional
SHAPES = [(3, 2, 3, 3), (3,), (3,), (3, 3, 3, 3), (3,), (3,), (3, 2, 1, 1), (3,), (3,)]  # as in block's call
PARAMETERS = [values(shape, seed) for seed, shape in enumerate(SHAPES, 10)]
MEAN, VAR = values((3,), 30), values((3,), 31, 0.5, 2.0)


def block(functional, library, mode, fused):
    """conv-bn-relu-conv-bn plus a projection shortcut of stride 2; `mode`: train, eval or none (no running statistics)."""

    def bn(x, weight, bias):
        statistics = (None, None) if mode == "none" else (library(MEAN.copy()), library(VAR.copy()))
        return functional.batch_norm(x, *statistics, weight, bias, training=mode != "eval")

    def call(x, w1, g1, b1, w2, g2, b2, ws, gs, bs):
        out = functional.relu(bn(functional.conv2d(x, w1, stride=2, padding=1), g1, b1))
        out = bn(functional.conv2d(out, w2, padding=1), g2, b2)
        shortcut = bn(functional.conv2d(x, ws, stride=2), gs, bs)
        return functional.residual_relu(out, shortcut) if fused else functional.relu(out + shortcut)

    return call


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("mode", ["train", "eval", "none"])
@pytest.mark.parametrize("size", [4, 5])
def test_block_is_torchs_to_the_second_derivative(size, mode, fused) -> None:
    x = values((2, 2, size, size), 1)
    compare(block(F, minires.tensor, mode, fused), block(TF, torch.tensor, mode, False), x, *PARAMETERS, n=100)


@pytest.mark.parametrize("mode", ["train", "eval", "none"])
def test_block_by_finite_differences(mode) -> None:
    inputs = tuple(minires.tensor(a, requires_grad=True) for a in (values((2, 2, 4, 4), 1), *PARAMETERS))
    assert gradcheck(block(F, minires.tensor, mode, True), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_block_second_derivatives_by_finite_differences(mode) -> None:
    inputs = tuple(minires.tensor(a, requires_grad=True) for a in (values((2, 2, 3, 3), 1), *PARAMETERS))
    assert gradgradcheck(block(F, minires.tensor, mode, True), inputs)


def test_the_gradient_penalty_of_a_block_trains() -> None:
    """Double backward in use: the norm of an input gradient is minimised through batch norm in training mode."""
    minires.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 1),
    )
    x = minires.randn(4, 1, 6, 6, requires_grad=True)
    penalties = []
    for _ in range(12):
        (grad,) = minires.autograd.grad(net(x).sum(), x, create_graph=True)
        penalty = (grad * grad).sum()
        net.zero_grad()
        penalty.backward()
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        step = 0.2 * penalty.item() / sum((g * g).sum().item() for g in gradients)  # Polyak's step towards zero
        with minires.no_grad():
            for p in net.parameters():
                if p.grad is not None:
                    p -= step * p.grad
        penalties.append(penalty.item())
    assert np.isfinite(penalties).all()
    assert penalties[-1] < 0.5 * penalties[0]
