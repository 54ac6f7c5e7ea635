"""Softmax and its logarithm along one dimension.

log_softmax is its own function, not log of softmax: a probability below 1e-38 is 0 in float32, and its logarithm lost.

Source: C. Bishop, "Pattern Recognition and Machine Learning", 2006, equations 4.104 to 4.106.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.ops.checks import check_floating, check_tensor, dimension
from minires.ops.reduce import sum as sum_over
from minires.ops.shape import reshape, to_dtype
from minires.ops.unary import exp

if TYPE_CHECKING:
    from minires.tensor import Tensor


class Softmax(Op):
    """y = e^x / sum e^x;  dL/dx = y (g - <g, y>),  g = dL/dy. Saves: y."""

    name = "softmax"

    @staticmethod
    def forward(ctx: Any, x: Any, axis: int) -> Any:
        y = ctx.kernels.softmax_forward(x, axis)
        ctx.save_for_backward(y)
        ctx.axis = axis
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (y,) = ctx.saved_tensors
        return apply(SoftmaxBackward, grad_y, y, ctx.axis)


class SoftmaxBackward(Op):
    """v = y (g - <g, y>). For what comes back (u): to g, y (u - <u, y>), the same; to y, u (g - <g, y>) - g <u, y>."""

    name = "softmax_backward"

    @staticmethod
    def forward(ctx: Any, grad_y: Any, y: Any, axis: int) -> Any:
        ctx.save_for_backward(grad_y, y)
        ctx.axis = axis
        return ctx.kernels.softmax_backward(grad_y, y, axis)

    @staticmethod
    def backward(ctx: Any, u: Any) -> Any:
        g, y = ctx.saved_tensors
        inner_g, inner_u = (sum_over(a * y, ctx.axis, keepdim=True) for a in (g, u))
        return apply(SoftmaxBackward, u, y, ctx.axis), u * (g - inner_g) - g * inner_u


class LogSoftmax(Op):
    """y = x - log sum e^x;  dL/dx = g - e^y sum g,  g = dL/dy. Saves: y."""

    name = "log_softmax"

    @staticmethod
    def forward(ctx: Any, x: Any, axis: int) -> Any:
        y = ctx.kernels.log_softmax_forward(x, axis)
        ctx.save_for_backward(y)
        ctx.axis = axis
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (y,) = ctx.saved_tensors
        return apply(LogSoftmaxBackward, grad_y, y, ctx.axis)


class LogSoftmaxBackward(Op):
    """v = g - e^y sum g. For what comes back (u): to g, u - <u, e^y>; to y, -u e^y sum g."""

    name = "log_softmax_backward"

    @staticmethod
    def forward(ctx: Any, grad_y: Any, y: Any, axis: int) -> Any:
        ctx.save_for_backward(grad_y, y)
        ctx.axis = axis
        return ctx.kernels.log_softmax_backward(grad_y, y, axis)

    @staticmethod
    def backward(ctx: Any, u: Any) -> Any:
        g, y = ctx.saved_tensors
        weighted = u * exp(y)
        return u - sum_over(weighted, ctx.axis, keepdim=True), -weighted * sum_over(g, ctx.axis, keepdim=True)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """exp(x) / sum of exp(x) along `dim`: positive numbers that add up to 1.

    Args:
        input: any shape, floating.
        dim: the dimension of the classes. None picks one as torch does, with a warning: say which you mean.
        dtype: convert to it first.

    Returns:
        input's shape.

    Raises:
        DTypeError: not floating.
        LabelError: no such dimension.
    """
    return _along("softmax", Softmax, input, dim, dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """x - log of the sum of exp(x) along `dim`; arguments as for `softmax`."""
    return _along("log_softmax", LogSoftmax, input, dim, dtype)


def _along(name: str, op: type[Op], input: Any, dim: int | None, dtype: Any) -> Any:
    check_tensor(name, "input", input)
    if dtype is not None:
        input = to_dtype(input, dtype)
    check_floating(name, "input", input)
    if dim is None:
        dim = 0 if input.ndim in (0, 1, 3) else 1
        warnings.warn(
            f"{name}: dim was not given, so dim={dim} is taken, as torch does for {input.ndim} dimensions; give dim",
            stacklevel=3,
        )
    axis = dimension(name, dim, input.ndim)
    if input.ndim == 0:
        return reshape(apply(op, reshape(input, (1,)), 0), ())
    return apply(op, input, axis)
