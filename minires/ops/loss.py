"""Losses of regression and of yes-or-no questions; those of classification are in `cross_entropy`.

`reduction` is 'mean', 'sum' or 'none' everywhere. The mean of no elements is NaN, as 0 / 0 says, without a warning.

Source: smooth L1: R. Girshick, "Fast R-CNN", 2015, equation 3.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.errors import ArgumentError, ShapeError
from minires.ops.activation import logsigmoid
from minires.ops.arithmetic import mul, where
from minires.ops.checks import check_floating, check_same_dtype, check_tensor
from minires.ops.cross_entropy import check_options, cross_entropy, nll_loss
from minires.ops.reduce import sum as sum_over
from minires.ops.unary import abs as absolute
from minires.ops.unary import sign

if TYPE_CHECKING:
    from minires.tensor import Tensor

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
]


class SmoothL1(Op):
    """y = d^2 / (2 beta) where |d| < beta, else |d| - beta / 2;  dL/dd = dL/dy d / beta, or dL/dy sign(d). Saves: d."""

    name = "smooth_l1"

    @staticmethod
    def forward(ctx: Any, d: Any, beta: float) -> Any:
        ctx.save_for_backward(d)
        ctx.beta = beta
        size = ctx.xp.abs(d)
        return ctx.xp.where(size < beta, d * d * (0.5 / beta), size - 0.5 * beta)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (d,) = ctx.saved_tensors
        return grad_y * where(absolute(d) >= ctx.beta, sign(d), d / ctx.beta)  # a NaN falls to the side that keeps it


def mse_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None, reduction: str = "mean"
) -> Tensor:
    """(input - target)^2.

    Args:
        input, target: one shape, floating; unequal shapes broadcast with a warning, as in torch.
        reduction: 'mean', 'sum' or 'none'.

    Raises:
        DTypeError, ShapeError, ArgumentError, UnsupportedError: what does not fit, and why.
    """
    difference = _difference("mse_loss", input, target, size_average, reduce, reduction)
    return _reduce(difference * difference, reduction)


def l1_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None, reduction: str = "mean"
) -> Tensor:
    """|input - target|; the derivative where they are equal is 0. Arguments as for `mse_loss`."""
    return _reduce(absolute(_difference("l1_loss", input, target, size_average, reduce, reduction)), reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, d = input - target; beta = 0 is l1_loss.

    Raises:
        ArgumentError: beta < 0, or another reduction.
        DTypeError, ShapeError, UnsupportedError: as `mse_loss`.
    """
    if beta < 0:
        raise ArgumentError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    difference = _difference("smooth_l1_loss", input, target, size_average, reduce, reduction)
    return _reduce(apply(SmoothL1, difference, float(beta)) if beta else absolute(difference), reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-weight (pos_weight t log s + (1 - t) log(1 - s)), s = sigmoid(input), t = target: a yes or no for each element.

    Computed as (1 - t) x - (1 + (pos_weight - 1) t) log sigmoid(x), in which nothing overflows.

    Args:
        input, target: one shape, floating.
        weight, pos_weight: a shape that broadcasts against it, or None (1).
        reduction: 'mean', 'sum' or 'none'.

    Raises:
        ShapeError: unequal shapes.
        DTypeError, ArgumentError, UnsupportedError: what does not fit, and why.
    """
    op = "binary_cross_entropy_with_logits"
    check_options(op, reduction, size_average, reduce)
    check_tensor(op, "input", input)
    check_tensor(op, "target", target)
    check_floating(op, "input", input)
    if input.shape != target.shape:
        raise ShapeError(f"{op}: target must have input's shape {tuple(input.shape)}, got {tuple(target.shape)}")
    check_same_dtype(op, input=input, target=target, weight=weight, pos_weight=pos_weight)
    log_weight: Any = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * input - mul(logsigmoid(input), log_weight)
    return _reduce(loss if weight is None else loss * weight, reduction)


def _difference(op: str, input: Any, target: Any, size_average: Any, reduce: Any, reduction: str) -> Any:
    check_options(op, reduction, size_average, reduce)
    check_tensor(op, "input", input)
    check_tensor(op, "target", target)
    check_floating(op, "input", input)
    check_same_dtype(op, input=input, target=target)
    if input.shape != target.shape:
        warnings.warn(
            f"{op}: target.shape = {tuple(target.shape)} differs from input.shape = {tuple(input.shape)}; they broadcast, "
            "which is rarely what a loss means: make them equal",
            stacklevel=3,
        )
    return input - target


def _reduce(loss: Any, reduction: str) -> Any:
    if reduction == "none":
        return loss
    total = sum_over(loss)
    return total if reduction == "sum" else total / loss.raw.size
