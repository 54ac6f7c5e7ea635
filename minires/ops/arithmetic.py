"""Elementwise arithmetic of two operands, with broadcasting (see `operands.py`).

Values follow IEEE 754 without warnings, so 1/0 is inf and 0/0 is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Op, apply
from minires.autograd.variable import Variable
from minires.dtypes import result_type
from minires.errors import ArgumentError, DTypeError
from minires.kernels.private import PrivateArray
from minires.ops.comparison import logical_and, logical_not, logical_or
from minires.ops.operands import operands
from minires.ops.shape import sum_to_shape, to_dtype
from minires.ops.unary import isnan, log, trunc

if TYPE_CHECKING:
    from minires.tensor import Tensor


class Add(Op):
    """y = a + b;  dL/da = dL/dy,  dL/db = dL/dy."""

    name = "add"
    structured = alike = True  # two private arrays of one shape (a residual join) meet in the kernel set's own form

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.shapes = a.shape, b.shape
        return a.add(b) if isinstance(a, PrivateArray) else a + b

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return sum_to_shape(grad_y, ctx.shapes[0]), sum_to_shape(grad_y, ctx.shapes[1])


class Sub(Op):
    """y = a - b;  dL/da = dL/dy,  dL/db = -dL/dy."""

    name = "sub"

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.shapes = a.shape, b.shape
        return a - b

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        grad_b = sum_to_shape(-grad_y, ctx.shapes[1]) if ctx.needs_input_grad[1] else None
        return sum_to_shape(grad_y, ctx.shapes[0]), grad_b


class Mul(Op):
    """y = a b;  dL/da = b dL/dy,  dL/db = a dL/dy."""

    name = "mul"

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.shapes = a.shape, b.shape
        ctx.save_for_backward(a if ctx.needs_input_grad[1] else None, b if ctx.needs_input_grad[0] else None)
        return a * b

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        a, b = ctx.saved_tensors
        grad_a = sum_to_shape(grad_y * b, ctx.shapes[0]) if b is not None else None
        grad_b = sum_to_shape(grad_y * a, ctx.shapes[1]) if a is not None else None
        return grad_a, grad_b


class Div(Op):
    """y = a / b;  dL/da = dL/dy / b,  dL/db = -dL/dy a / b^2."""

    name = "div"

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.shapes = a.shape, b.shape
        ctx.save_for_backward(a if ctx.needs_input_grad[1] else None, b)
        return a / b

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        a, b = ctx.saved_tensors
        grad_a = sum_to_shape(grad_y / b, ctx.shapes[0]) if ctx.needs_input_grad[0] else None
        grad_b = sum_to_shape(-grad_y * a / (b * b), ctx.shapes[1]) if a is not None else None
        return grad_a, grad_b


class Pow(Op):
    """y = a^b;  dL/da = dL/dy b a^(b-1)  (0 where b = 0),  dL/db = dL/dy y ln a  (0 where a = 0 and b >= 0)."""

    name = "pow"

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.shapes = a.shape, b.shape
        y = a**b
        ctx.save_for_backward(a, b, y if ctx.needs_input_grad[1] else None)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        a, b, y = ctx.saved_tensors
        grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            slope = b * a ** (b - 1)
            grad_a = sum_to_shape(grad_y * where(b == 0, 0.0, slope), ctx.shapes[0])
        if ctx.needs_input_grad[1]:
            flat = logical_and(a == 0, b >= 0)
            grad_b = sum_to_shape(where(flat, 0.0, grad_y * y * log(where(flat, 1.0, a))), ctx.shapes[1])
        return grad_a, grad_b


class Maximum(Op):
    """y = max(a, b); the gradient goes to the larger, half to each where they are equal. NaN propagates."""

    name = "maximum"

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.save_for_backward(a, b)
        return ctx.xp.maximum(a, b)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        a, b = ctx.saved_tensors
        return _to_the_chosen(grad_y, a, b, a > b)


class Minimum(Op):
    """y = min(a, b); the gradient goes to the smaller, half to each where they are equal. NaN propagates."""

    name = "minimum"

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.save_for_backward(a, b)
        return ctx.xp.minimum(a, b)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        a, b = ctx.saved_tensors
        return _to_the_chosen(grad_y, a, b, a < b)


def _to_the_chosen(grad_y: Any, a: Any, b: Any, a_wins: Any) -> tuple[Any, Any]:
    # Comparisons with NaN are false: with a NaN on either side both get the whole gradient, as in torch.
    tie = a == b
    nan = logical_or(isnan(a), isnan(b))
    share_a = where(tie, 0.5, where(logical_or(a_wins, nan), 1.0, 0.0))
    share_b = where(tie, 0.5, where(logical_and(a_wins, logical_not(nan)), 0.0, 1.0))
    return sum_to_shape(grad_y * share_a, a.raw.shape), sum_to_shape(grad_y * share_b, b.raw.shape)


class Where(Op):
    """y = a where condition else b; each element's gradient goes where its value came from."""

    name = "where"

    @staticmethod
    def forward(ctx: Any, condition: Any, a: Any, b: Any) -> Any:
        ctx.shapes = a.shape, b.shape
        ctx.save_for_backward(condition)
        return ctx.xp.where(condition, a, b)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (condition,) = ctx.saved_tensors
        zero = 0.0
        grad_a = sum_to_shape(where(condition, grad_y, zero), ctx.shapes[0]) if ctx.needs_input_grad[1] else None
        grad_b = sum_to_shape(where(condition, zero, grad_y), ctx.shapes[1]) if ctx.needs_input_grad[2] else None
        return None, grad_a, grad_b


class Clamp(Op):
    """y = min(max(x, low), high); the gradient passes where low <= x <= high. NaN propagates."""

    name = "clamp"

    @staticmethod
    def forward(ctx: Any, x: Any, low: Any, high: Any) -> Any:
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return ctx.xp.clip(x, low, high)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        above = None if ctx.low is None else x >= ctx.low
        below = None if ctx.high is None else x <= ctx.high
        inside = below if above is None else above if below is None else logical_and(above, below)
        return where(inside, grad_y, 0.0)


# --- public functions ------------------------------------------------------------------------------------------------


def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input + alpha other."""
    return apply(Add, *operands("add", input, other if _is_one(alpha) else mul(other, alpha)))


def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input - alpha other."""
    a, b = operands("sub", input, other if _is_one(alpha) else mul(other, alpha))
    if (a.array if isinstance(a, Variable) else a).dtype == np.bool_:
        raise DTypeError("sub: subtraction is not defined for bool; use logical_xor or convert with .int()")
    return apply(Sub, a, b)


def _is_one(alpha: Any) -> bool:
    return isinstance(alpha, int) and alpha == 1


def mul(input: Any, other: Any) -> Tensor:
    """input other, element by element."""
    return apply(Mul, *operands("mul", input, other))


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other; integers divide as floating numbers. rounding_mode 'floor' or 'trunc' rounds the quotient."""
    if rounding_mode is None:
        return apply(Div, *operands("div", input, other, floating=True))
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode == "trunc":
        dtype = result_type(input, other)
        return to_dtype(trunc(apply(Div, *operands("div", input, other, floating=True))), dtype)
    raise ArgumentError(f"div: rounding_mode must be None, 'floor' or 'trunc', got {rounding_mode!r}")


class FloorDivide(Op):
    """y = floor(a / b); piecewise constant, so its gradient is zero."""

    name = "floor_divide"

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        return a // b

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return None, None


class Remainder(Op):
    """y = a - b floor(a / b), with the sign of b;  dL/da = dL/dy,  dL/db = -dL/dy floor(a / b)."""

    name = "remainder"

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.shapes = a.shape, b.shape
        ctx.save_for_backward(a, b)
        return a % b

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        a, b = ctx.saved_tensors
        return sum_to_shape(grad_y, ctx.shapes[0]), sum_to_shape(-grad_y * floor_divide(a, b), ctx.shapes[1])


def floor_divide(input: Any, other: Any) -> Tensor:
    """floor(input / other)."""
    a, b = operands("floor_divide", input, other)
    _refuse_integer_zero("floor_divide", a, b)
    return apply(FloorDivide, a, b)


def remainder(input: Any, other: Any) -> Tensor:
    """The remainder with the sign of `other`, as Python's %."""
    a, b = operands("remainder", input, other)
    _refuse_integer_zero("remainder", a, b)
    return apply(Remainder, a, b)


def _refuse_integer_zero(op: str, a: Any, b: Any) -> None:
    divisor = b.array if isinstance(b, Variable) else b
    if divisor.dtype.kind != "f" and (divisor == 0).any():
        raise ArgumentError(f"{op}: integer division by zero")


def pow(input: Any, exponent: Any) -> Tensor:
    """input ** exponent."""
    if isinstance(exponent, (int, float)) and exponent == 2 and not isinstance(exponent, bool):
        return mul(input, input)  # much faster than a general power, forward and backward
    a, b = operands("pow", input, exponent)
    power = b.array if isinstance(b, Variable) else b
    if power.dtype.kind in "iu" and (power < 0).any():
        raise ArgumentError("pow: integers have no negative powers; convert with .float() first")
    return apply(Pow, a, b)


def maximum(input: Any, other: Any) -> Tensor:
    return apply(Maximum, *operands("maximum", input, other))


def minimum(input: Any, other: Any) -> Tensor:
    return apply(Minimum, *operands("minimum", input, other))


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """`input` where `condition` is true, `other` elsewhere; with one argument, the indices where it is true."""
    if input is None and other is None:
        from minires.ops.index import nonzero

        return nonzero(condition, as_tuple=True)
    if isinstance(condition, Variable) and condition.raw.dtype != np.bool_:
        raise DTypeError(f"where: condition must be a bool tensor, got {condition.raw.dtype}")
    a, b = operands("where", input, other)
    return apply(Where, condition if isinstance(condition, Variable) else np.asarray(condition, bool), a, b)


def clamp(input: Any, min: Any = None, max: Any = None) -> Tensor:
    """`input` limited to [min, max], either of which may be left out or be a tensor."""
    if min is None and max is None:
        raise ArgumentError("clamp: at least one of min and max must be given")
    if isinstance(min, Variable) or isinstance(max, Variable):
        if min is not None:
            input = maximum(input, min)
        return input if max is None else minimum(input, max)
    bounds = [b for b in (min, max) if b is not None]
    return apply(Clamp, to_dtype(input, result_type(input, *bounds)), min, max)
