"""Elementwise functions of one tensor, each with its derivative. (Activations are in `activation.py`.)"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Op, apply
from minires.dtypes import get_default_dtype
from minires.errors import DTypeError
from minires.ops.checks import check_tensor
from minires.ops.shape import to_dtype

if TYPE_CHECKING:
    from minires.tensor import Tensor


class Neg(Op):
    """y = -x;  dL/dx = -dL/dy."""

    name = "neg"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return -x

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return -grad_y


class Abs(Op):
    """y = |x|;  dL/dx = dL/dy sign(x), 0 at 0."""

    name = "abs"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return ctx.xp.abs(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grad_y * sign(x)


class Exp(Op):
    """y = e^x;  dL/dx = dL/dy y."""

    name = "exp"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = ctx.xp.exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (y,) = ctx.saved_tensors
        return grad_y * y


class Expm1(Op):
    """y = e^x - 1, accurate near 0;  dL/dx = dL/dy (y + 1)."""

    name = "expm1"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = ctx.xp.expm1(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (y,) = ctx.saved_tensors
        return grad_y * (y + 1)


class Log(Op):
    """y = ln x;  dL/dx = dL/dy / x."""

    name = "log"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return ctx.xp.log(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grad_y / x


class Log1p(Op):
    """y = ln(1 + x), accurate near 0;  dL/dx = dL/dy / (1 + x)."""

    name = "log1p"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return ctx.xp.log1p(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grad_y / (1 + x)


class Sqrt(Op):
    """y = x^(1/2);  dL/dx = dL/dy / (2 y)."""

    name = "sqrt"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = ctx.xp.sqrt(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (y,) = ctx.saved_tensors
        return grad_y / (2 * y)


class Rsqrt(Op):
    """y = x^(-1/2);  dL/dx = -dL/dy y^3 / 2."""

    name = "rsqrt"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = 1 / ctx.xp.sqrt(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (y,) = ctx.saved_tensors
        return grad_y * (y * y * y) * -0.5


class Sin(Op):
    """y = sin x;  dL/dx = dL/dy cos x."""

    name = "sin"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return ctx.xp.sin(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grad_y * cos(x)


class Cos(Op):
    """y = cos x;  dL/dx = -dL/dy sin x."""

    name = "cos"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return ctx.xp.cos(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        return -grad_y * sin(x)


class Step(Op):
    """sign, floor, ceil, round or trunc: constant between its jumps, so its gradient is zero."""

    name = "step"

    @staticmethod
    def forward(ctx: Any, x: Any, function: str) -> Any:
        if function == "sign":  # 0 for NaN too, as in torch, where NumPy has NaN
            return (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype)
        return getattr(ctx.xp, function)(x).astype(x.dtype, copy=False)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return grad_y * 0.0


class Predicate(Op):
    """isnan, isinf, isfinite, logical_not: true or false for each element; no gradient."""

    name = "predicate"

    @staticmethod
    def forward(ctx: Any, x: Any, function: str) -> Any:
        return getattr(ctx.xp, function)(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return None


def _floating(op: str, input: Any) -> Any:
    """`input` as a floating tensor: integers become the default dtype, as in torch."""
    check_tensor(op, "input", input)
    return input if input.raw.dtype.kind == "f" else to_dtype(input, get_default_dtype())


def neg(input: Tensor) -> Tensor:
    check_tensor("neg", "input", input)
    if input.raw.dtype == np.bool_:
        raise DTypeError("neg: input must not be bool; use logical_not or ~")
    return apply(Neg, input)


def abs(input: Tensor) -> Tensor:
    check_tensor("abs", "input", input)
    return apply(Abs, input)


def exp(input: Tensor) -> Tensor:
    return apply(Exp, _floating("exp", input))


def expm1(input: Tensor) -> Tensor:
    return apply(Expm1, _floating("expm1", input))


def log(input: Tensor) -> Tensor:
    return apply(Log, _floating("log", input))


def log1p(input: Tensor) -> Tensor:
    return apply(Log1p, _floating("log1p", input))


def log2(input: Tensor) -> Tensor:
    return log(input) * (1 / float(np.log(2.0)))


def log10(input: Tensor) -> Tensor:
    return log(input) * (1 / float(np.log(10.0)))


def sqrt(input: Tensor) -> Tensor:
    return apply(Sqrt, _floating("sqrt", input))


def rsqrt(input: Tensor) -> Tensor:
    return apply(Rsqrt, _floating("rsqrt", input))


def sin(input: Tensor) -> Tensor:
    return apply(Sin, _floating("sin", input))


def cos(input: Tensor) -> Tensor:
    return apply(Cos, _floating("cos", input))


def square(input: Tensor) -> Tensor:
    check_tensor("square", "input", input)
    return input * input


def reciprocal(input: Tensor) -> Tensor:
    return 1 / _floating("reciprocal", input)


def sign(input: Tensor) -> Tensor:
    check_tensor("sign", "input", input)
    return apply(Step, input, "sign")


def floor(input: Tensor) -> Tensor:
    check_tensor("floor", "input", input)
    return apply(Step, input, "floor")


def ceil(input: Tensor) -> Tensor:
    check_tensor("ceil", "input", input)
    return apply(Step, input, "ceil")


def trunc(input: Tensor) -> Tensor:
    check_tensor("trunc", "input", input)
    return apply(Step, input, "trunc")


def round(input: Tensor) -> Tensor:
    """To the nearest integer, halves to the even one."""
    check_tensor("round", "input", input)
    return apply(Step, input, "round")


def predicate(input: Tensor, function: str) -> Tensor:
    """A bool tensor: NumPy's `function` of each element."""
    check_tensor(function, "input", input)
    return apply(Predicate, input, function)


def isnan(input: Tensor) -> Tensor:
    return predicate(input, "isnan")


def isinf(input: Tensor) -> Tensor:
    return predicate(input, "isinf")


def isfinite(input: Tensor) -> Tensor:
    return predicate(input, "isfinite")


def bitwise_not(input: Tensor) -> Tensor:
    check_tensor("bitwise_not", "input", input)
    if input.raw.dtype.kind == "f":
        raise DTypeError("bitwise_not: input must be a bool or integer tensor, got a floating one")
    return predicate(input, "bitwise_not")
