"""Dropout: zero each element (or each channel) with probability p while training, scale the others by 1 / (1 - p).

Scaling while training ("inverted" dropout) keeps the expected value, so evaluation does nothing at all.

Source: N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014; whole channels:
J. Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2015, section 3.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minires import random
from minires.autograd import Op, apply, apply_inplace
from minires.errors import ArgumentError
from minires.ops.checks import check_floating, check_rank, check_tensor

if TYPE_CHECKING:
    from minires.tensor import Tensor


class Dropout(Op):
    """y = x m,  dL/dx = dL/dy m,  m = 0 with probability p, else 1 / (1 - p), drawn anew at every call. Saves: m."""

    name = "dropout"

    @staticmethod
    def forward(ctx: Any, x: Any, p: float, mask_shape: tuple[int, ...]) -> Any:
        kept = random.generator().random(mask_shape, np.float32) >= p
        scale = 0.0 if p == 1 else 1 / (1 - p)
        mask = ctx.xp.asarray(kept * x.dtype.type(scale))
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (mask,) = ctx.saved_tensors
        return grad_y * mask


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability p, scale the others by 1 / (1 - p); the input itself where training=False.

    Args:
        input: any shape, floating.
        p: from 0 to 1.
        training: whether to drop at all.
        inplace: write into the input's memory.

    Raises:
        ArgumentError: p outside [0, 1].
        DTypeError: not floating.
    """
    return _drop("dropout", input, p, training, inplace, per_channel=False)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` of whole channels: neighbouring pixels say much the same, so dropping some of them drops nothing.

    Args:
        input: (N, C, H, W), or (N, C, L).
        p, training, inplace: as for `dropout`.

    Raises:
        ShapeError: another rank.
        ArgumentError, DTypeError: as `dropout`.
    """
    check_tensor("dropout2d", "input", input)
    check_rank("dropout2d", "input", input, (3, 4))
    return _drop("dropout2d", input, p, training, inplace, per_channel=True)


def _drop(op: str, input: Any, p: float, training: bool, inplace: bool, per_channel: bool) -> Any:
    check_tensor(op, "input", input)
    check_floating(op, "input", input)
    if not 0 <= p <= 1:
        raise ArgumentError(f"{op}: p, the probability to drop, must be from 0 to 1, got {p}")
    if not training or p == 0:
        return input
    shape = (*input.shape[:2], *[1] * (input.ndim - 2)) if per_channel else tuple(input.shape)
    return (apply_inplace if inplace else apply)(Dropout, input, float(p), shape)
