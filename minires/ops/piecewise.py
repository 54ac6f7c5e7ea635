"""Piecewise activations: straight lines with kinks, and hard (cheap) versions of the smooth ones.

At a kink the derivative is one side's, the same as torch's; each class says which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply, apply_inplace
from minires.errors import ArgumentError
from minires.ops.arithmetic import where
from minires.ops.checks import check_floating, check_tensor

if TYPE_CHECKING:
    from minires.tensor import Tensor


class LeakyReLU(Op):
    """y = x where x > 0, else slope x;  dL/dx = dL/dy where x > 0, else slope dL/dy (also at 0). Saves: the mask."""

    name = "leaky_relu"

    @staticmethod
    def forward(ctx: Any, x: Any, slope: float) -> Any:
        positive = x > 0
        ctx.save_for_backward(positive)
        ctx.slope = slope
        return ctx.xp.where(positive, x, x * slope)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (positive,) = ctx.saved_tensors
        return where(positive, grad_y, grad_y * ctx.slope)


class Hardtanh(Op):
    """y = min(max(x, low), high);  dL/dx = dL/dy where low < x < high, 0 at the bounds and beyond. Saves: the mask."""

    name = "hardtanh"

    @staticmethod
    def forward(ctx: Any, x: Any, low: float, high: float) -> Any:
        ctx.save_for_backward((x <= low) | (x >= high))
        return ctx.xp.clip(x, low, high)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (outside,) = ctx.saved_tensors
        return where(outside, 0.0, grad_y)


class Hardsigmoid(Op):
    """y = min(max(x + 3, 0), 6) / 6;  dL/dx = dL/dy / 6 where -3 < x < 3, else 0. Saves: the mask.

    Source: A. Howard et al., "Searching for MobileNetV3", 2019.
    """

    name = "hardsigmoid"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward((x > -3) & (x < 3))
        return ctx.xp.clip(x + 3, 0, 6) / 6

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return where(inside, grad_y / 6, 0.0)


class Hardswish(Op):
    """y = x min(max(x + 3, 0), 6) / 6;  dL/dx = 0 where x <= -3, dL/dy where x >= 3, dL/dy (x / 3 + 1/2) between.

    Saves: x. Source: as Hardsigmoid.
    """

    name = "hardswish"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * ctx.xp.clip(x + 3, 0, 6) / 6

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        return where(x <= -3, 0.0, where(x >= 3, grad_y, grad_y * (x / 3 + 0.5)))


def activate(op: type[Op], input: Any, inplace: bool, *constants: float) -> Any:
    """Validate, then run `op` through the gate, in place or not."""
    check_tensor(op.name, "input", input)
    check_floating(op.name, "input", input)
    return (apply_inplace if inplace else apply)(op, input, *constants)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope x. See `LeakyReLU`."""
    return activate(LeakyReLU, input, inplace, negative_slope)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to [min_val, max_val]. See `Hardtanh`.

    Raises:
        ArgumentError: min_val > max_val.
    """
    if min_val > max_val:
        raise ArgumentError(f"hardtanh: min_val must not exceed max_val, got min_val = {min_val}, max_val = {max_val}")
    return activate(Hardtanh, input, inplace, min_val, max_val)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x limited to [0, 6]. See `Hardtanh`."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6. See `Hardsigmoid`."""
    return activate(Hardsigmoid, input, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x min(max(x + 3, 0), 6) / 6. See `Hardswish`."""
    return activate(Hardswish, input, inplace)
