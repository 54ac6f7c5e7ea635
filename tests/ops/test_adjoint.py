"""The adjoint identity, which needs no other library: <L x, y> = <x, L^T y> for every linear operation L.

L^T y is what the backward pass computes from y, so one random pair (x, y) judges the whole Jacobian at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minires
from minires.nn import functional as F
from tests.strategies import values
from tests.tolerances import tolerance

W = minires.tensor(values((4, 2, 3, 3), 1))
M = minires.tensor(values((5, 7), 2))
ROWS = minires.tensor([[0, 2, 1, 0, 3]])

LINEAR: dict[str, Callable[[Any], Any]] = {
    "neg": lambda x: -x,
    "scale": lambda x: x * 2.5,
    "sum": lambda x: x.sum((0, 2)),
    "mean": lambda x: x.mean(1),
    "cumsum": lambda x: x.cumsum(2),
    "reshape": lambda x: x.reshape(4, -1),
    "permute": lambda x: x.permute(3, 0, 2, 1),
    "expand": lambda x: x.unsqueeze(0).expand(3, -1, -1, -1, -1),
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "flip": lambda x: x.flip(0, 3),
    "roll": lambda x: x.roll(2, 3),
    "cat": lambda x: minires.cat([x, 3 * x], 1),
    "slice": lambda x: x[:, 1:, ::2, 1],
    "list index": lambda x: x[:, :, [0, 3, 3]],
    "gather": lambda x: x.flatten(1)[:1].gather(1, ROWS),
    "tril": lambda x: x.tril(1),
    "linear": lambda x: F.linear(x, M),
    "matmul": lambda x: M @ x.transpose(2, 3),
    "conv2d": lambda x: F.conv2d(x, W, stride=2, padding=1, groups=2),
    "conv2d dilated": lambda x: F.conv2d(x, W, padding=2, dilation=2, groups=2),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, W, stride=2, output_padding=1),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "nearest": lambda x: F.interpolate(x, size=(9, 4)),
    "bilinear": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad reflect": lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    "batch_norm eval": lambda x: F.batch_norm(x, minires.zeros(4, dtype=x.dtype), minires.full((4,), 2.0).double()),
}


@pytest.mark.parametrize("name", LINEAR)
def test_backward_is_the_adjoint(name: str) -> None:
    x = minires.tensor(values((2, 4, 6, 7), 3), requires_grad=True)
    result = LINEAR[name](x)
    y = minires.tensor(values(tuple(result.shape), 4))
    (back,) = minires.autograd.grad(result, x, y)
    np.testing.assert_allclose((result * y).sum().item(), (x * back).sum().item(), **tolerance("float64", x.numel()))
