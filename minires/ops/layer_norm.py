"""Layer and group normalisation: each sample by itself, so a batch of one works and training equals evaluation.

Source: J. Ba, J. Kiros, G. Hinton, "Layer Normalization", 2016; Y. Wu, K. He, "Group Normalization", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.errors import ArgumentError, ShapeError
from minires.ops.checks import check_floating, check_same_device, check_same_dtype, check_tensor
from minires.ops.normalization import second_derivative

if TYPE_CHECKING:
    from minires.tensor import Tensor


class LayerNorm(Op):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, over the last dimensions of each sample.

    dL/dx = s (h - mean(h) - x_hat mean(h x_hat)),  h = weight dL/dy;  dL/dweight = sum dL/dy x_hat,  dL/dbias = sum dL/dy.

    Saves: x, weight; mean and var, which the second derivative computes again.
    """

    name = "layer_norm"

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, normalized_ndim: int, eps: float) -> Any:
        y, *ctx.statistics = ctx.kernels.layer_norm_forward(x, normalized_ndim, weight, bias, eps)
        ctx.save_for_backward(x, weight)
        ctx.normalized_ndim, ctx.eps = normalized_ndim, eps
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        x, weight = ctx.saved_tensors
        grads = apply(LayerNormBackward, grad_y, x, weight, *ctx.statistics, ctx.normalized_ndim, ctx.eps)
        return tuple(g if wanted else None for g, wanted in zip(grads, ctx.needs_input_grad, strict=False))


class LayerNormBackward(Op):
    """grad_x, grad_weight, grad_bias of LayerNorm, by one kernel; its own derivative is in `normalization`."""

    name = "layer_norm_backward"

    @staticmethod
    def forward(
        ctx: Any, grad_y: Any, x: Any, weight: Any, mean: Any, var: Any, normalized_ndim: int, eps: float
    ) -> Any:
        ctx.save_for_backward(grad_y, x, weight)
        ctx.normalized_ndim, ctx.eps = normalized_ndim, eps
        return ctx.kernels.layer_norm_backward(grad_y, x, normalized_ndim, weight, mean, var, eps)

    @staticmethod
    def backward(ctx: Any, u: Any, v: Any, z: Any) -> Any:
        _, x, _ = ctx.saved_tensors
        split = x.ndim - ctx.normalized_ndim
        rows, columns = math.prod(x.shape[:split]), math.prod(x.shape[split:])
        return second_derivative(ctx.saved_tensors, ctx.eps, (u, v, z), (rows, columns), (1, columns), (1,))


class GroupNorm(Op):
    """LayerNorm's formulas over each of num_groups groups of channels, weight and bias one number a channel.

    Saves: x, weight; mean and var, which the second derivative computes again.
    """

    name = "group_norm"

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, num_groups: int, eps: float) -> Any:
        y, *ctx.statistics = ctx.kernels.group_norm_forward(x, num_groups, weight, bias, eps)
        ctx.save_for_backward(x, weight)
        ctx.num_groups, ctx.eps = num_groups, eps
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        x, weight = ctx.saved_tensors
        grads = apply(GroupNormBackward, grad_y, x, weight, *ctx.statistics, ctx.num_groups, ctx.eps)
        return tuple(g if wanted else None for g, wanted in zip(grads, ctx.needs_input_grad, strict=False))


class GroupNormBackward(Op):
    """grad_x, grad_weight, grad_bias of GroupNorm, by one kernel; its own derivative is in `normalization`."""

    name = "group_norm_backward"

    @staticmethod
    def forward(ctx: Any, grad_y: Any, x: Any, weight: Any, mean: Any, var: Any, num_groups: int, eps: float) -> Any:
        ctx.save_for_backward(grad_y, x, weight)
        ctx.num_groups, ctx.eps = num_groups, eps
        return ctx.kernels.group_norm_backward(grad_y, x, num_groups, weight, mean, var, eps)

    @staticmethod
    def backward(ctx: Any, u: Any, v: Any, z: Any) -> Any:
        _, x, _ = ctx.saved_tensors
        groups, per_group = ctx.num_groups, x.shape[1] // ctx.num_groups
        volume = (x.shape[0], groups, per_group, math.prod(x.shape[2:]))
        return second_derivative(ctx.saved_tensors, ctx.eps, (u, v, z), volume, (1, groups, per_group, 1), (2, 3))


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions, then scale and shift element by element.

    Args:
        input: (*, *normalized_shape), floating.
        normalized_shape: the sizes of the dimensions to normalise over; an int for the last alone.
        weight, bias: (*normalized_shape) or None.
        eps: added to the variance.

    Returns:
        input's shape.

    Raises:
        ShapeError: normalized_shape is empty or not how input's shape ends; weight or bias of another shape.
        DTypeError: not floating, or different dtypes.
    """
    check_tensor("layer_norm", "input", input)
    check_floating("layer_norm", "input", input)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise ShapeError(
            f"layer_norm: normalized_shape must be the last sizes of input.shape = {tuple(input.shape)}, at least one, "
            f"got {shape}"
        )
    _check_parameters("layer_norm", input, shape, weight, bias)
    return apply(LayerNorm, input, weight, bias, len(shape), float(eps))


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise each group of C / num_groups neighbouring channels of each sample, then scale and shift each channel.

    Args:
        input: (N, C, *), floating.
        num_groups: a divisor of C. 1 normalises the sample as a whole, C is instance normalisation.
        weight, bias: (C,) or None.
        eps: added to the variance.

    Returns:
        input's shape.

    Raises:
        ArgumentError: num_groups is not a positive divisor of C.
        ShapeError: input of rank below 2, one value per channel, weight or bias of another shape.
        DTypeError: not floating, or different dtypes.
    """
    check_tensor("group_norm", "input", input)
    check_floating("group_norm", "input", input)
    if input.ndim < 2:
        raise ShapeError(
            f"group_norm: input needs at least 2 dimensions (N, C, *), got input.shape = {tuple(input.shape)}"
        )
    if num_groups <= 0 or input.shape[1] % num_groups:
        raise ArgumentError(
            f"group_norm: num_groups must divide the number of channels, {input.shape[1]}, got {num_groups}"
        )
    if input.shape[0] * (input.shape[1] // num_groups) * math.prod(input.shape[2:]) == 1:
        raise ShapeError(
            f"group_norm: a group needs more than one value to have a variance, got input.shape = {tuple(input.shape)} and "
            f"num_groups = {num_groups}"
        )
    _check_parameters("group_norm", input, (input.shape[1],), weight, bias)
    return apply(GroupNorm, input, weight, bias, num_groups, float(eps))


def _check_parameters(op: str, input: Any, shape: tuple[int, ...], weight: Any, bias: Any) -> None:
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        check_tensor(op, name, parameter)
        if tuple(parameter.shape) != shape:
            raise ShapeError(f"{op}: {name} must have shape {shape}, got {tuple(parameter.shape)}")
    check_same_dtype(op, input=input, weight=weight, bias=bias)
    check_same_device(op, input=input, weight=weight, bias=bias)
