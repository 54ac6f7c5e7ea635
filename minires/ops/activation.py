"""Activation functions: each a formula and its derivative, on any shape. (Those with kinks, but ReLU: `piecewise`.)

Conventions, all torch's: at a kink the derivative is one of the two sides' (stated with each function); NaN comes out as
NaN; nothing overflows, because exp is only taken of numbers <= 0.

`inplace=True` writes the result into the input's memory; autograd keeps what backward needs, or says that it cannot.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply, apply_inplace
from minires.errors import ArgumentError
from minires.ops.arithmetic import where
from minires.ops.checks import check_tensor
from minires.ops.erf import erf, erf_array
from minires.ops.piecewise import activate, hardsigmoid, hardswish, hardtanh, leaky_relu, relu6
from minires.ops.unary import exp

if TYPE_CHECKING:
    from minires.tensor import Tensor

__all__ = [
    "elu",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "logsigmoid",
    "mish",
    "relu",
    "relu6",
    "relu_",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
]


class ReLU(Op):
    """y = max(x, 0);  dL/dx = dL/dy where y > 0, 0 elsewhere (also at 0).

    Saves: y. Source: V. Nair, G. Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", 2010.
    """

    name = "relu"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = ctx.kernels.relu_forward(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (y,) = ctx.saved_tensors
        return apply(ReLUBackward, grad_y, y)


class ReLUBackward(Op):
    """v = g where not (y <= 0), else 0. Linear in g, so it is its own adjoint; y moves v nowhere but at the kink."""

    name = "relu_backward"
    structured = True

    @staticmethod
    def forward(ctx: Any, grad_y: Any, y: Any) -> Any:
        ctx.save_for_backward(y)
        return ctx.kernels.relu_backward(grad_y, y)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (y,) = ctx.saved_tensors
        return apply(ReLUBackward, grad, y), None


class ELU(Op):
    """y = x where x > 0, else alpha (e^x - 1);  dL/dx = dL/dy where x > 0, else dL/dy alpha e^x (also at 0).

    Saves: x. Source: D. Clevert, T. Unterthiner, S. Hochreiter, 2015 (arXiv:1511.07289).
    """

    name = "elu"

    @staticmethod
    def forward(ctx: Any, x: Any, alpha: float) -> Any:
        ctx.save_for_backward(x)
        ctx.alpha = alpha
        return ctx.xp.where(x > 0, x, alpha * ctx.xp.expm1(ctx.xp.minimum(x, 0)))

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        positive = x > 0
        return where(positive, grad_y, grad_y * (ctx.alpha * exp(where(positive, 0.0, x))))


class Sigmoid(Op):
    """y = 1 / (1 + e^-x);  dL/dx = dL/dy y (1 - y). Saves: y."""

    name = "sigmoid"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = sigmoid_array(ctx.xp, x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (y,) = ctx.saved_tensors
        return grad_y * (y * (1 - y))


class Tanh(Op):
    """y = tanh x;  dL/dx = dL/dy (1 - y^2). Saves: y."""

    name = "tanh"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = ctx.xp.asarray(ctx.xp.tanh(x))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (y,) = ctx.saved_tensors
        return grad_y * (1 - y * y)


class SiLU(Op):
    """y = x s, s = sigmoid(x);  dL/dx = dL/dy s (1 + x (1 - s)).

    Saves: x. Source: P. Ramachandran, B. Zoph, Q. Le, "Searching for Activation Functions", 2017 (swish).
    """

    name = "silu"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * sigmoid_array(ctx.xp, x)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        s = sigmoid(x)
        return grad_y * (s * (1 + x * (1 - s)))


class GELU(Op):
    """y = x P(x), P the normal distribution function;  dL/dx = dL/dy (P(x) + x p(x)), p its density.

    Saves: x. Source: D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units", 2016.
    """

    name = "gelu"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * (0.5 + 0.5 * erf_array(ctx.xp, ctx.xp.asarray(x * math.sqrt(0.5))))

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        distribution = 0.5 + 0.5 * erf(x * math.sqrt(0.5))
        density = exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
        return grad_y * (distribution + x * density)


GELU_SCALE, GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


class GELUTanh(Op):
    """y = x (1 + t) / 2, t = tanh(u), u = sqrt(2 / pi) (x + 0.044715 x^3);
    dL/dx = dL/dy ((1 + t) / 2 + x (1 - t^2) u' / 2).

    Saves: x. Source: as GELU, section 2.
    """

    name = "gelu_tanh"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return 0.5 * x * (1 + ctx.xp.tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x)))

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        t = tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x))
        slope = GELU_SCALE * (1 + 3 * GELU_CUBE * x * x)
        return grad_y * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


class Softplus(Op):
    """y = log(1 + e^(beta x)) / beta, or x where beta x > threshold;
    dL/dx = dL/dy sigmoid(beta x), or dL/dy. Saves: x."""

    name = "softplus"

    @staticmethod
    def forward(ctx: Any, x: Any, beta: float, threshold: float) -> Any:
        ctx.save_for_backward(x)
        ctx.beta, ctx.threshold = beta, threshold
        return ctx.xp.where(x * beta > threshold, x, softplus_array(ctx.xp, x * beta) / beta)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        scaled = x * ctx.beta
        return where(scaled > ctx.threshold, grad_y, grad_y * sigmoid(scaled))


class LogSigmoid(Op):
    """y = log sigmoid(x) = -log(1 + e^-x);  dL/dx = dL/dy sigmoid(-x). Saves: x."""

    name = "logsigmoid"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return -softplus_array(ctx.xp, -x)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grad_y * sigmoid(-x)


class Mish(Op):
    """y = x t, t = tanh(log(1 + e^x));  dL/dx = dL/dy (t + x (1 - t^2) sigmoid(x)).

    Saves: x. Source: D. Misra, "Mish", 2019 (arXiv:1908.08681).
    """

    name = "mish"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * ctx.xp.tanh(softplus_array(ctx.xp, x))

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        t = tanh(softplus(x))
        return grad_y * (t + x * (1 - t * t) * sigmoid(x))


# --- arrays in, arrays out -------------------------------------------------------------------------------------------


def sigmoid_array(xp: Any, x: Any) -> Any:
    """1 / (1 + e^-x) as e^-|x| / (1 + e^-|x|) for negative x: exp never sees a positive number."""
    small = xp.exp(-xp.abs(x))
    return xp.asarray(xp.where(x >= 0, 1, small) / (1 + small))


def softplus_array(xp: Any, x: Any) -> Any:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


# --- public functions ------------------------------------------------------------------------------------------------


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); integers too. See `ReLU`."""
    check_tensor("relu", "input", input)
    return (apply_inplace if inplace else apply)(ReLU, input)


def relu_(input: Tensor) -> Tensor:
    """`relu` in the input's memory."""
    return relu(input, inplace=True)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha (e^x - 1). See `ELU`."""
    return activate(ELU, input, inplace, alpha)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e^-x). See `Sigmoid`."""
    return activate(Sigmoid, input, False)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent. See `Tanh`."""
    return activate(Tanh, input, False)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x). See `SiLU`."""
    return activate(SiLU, input, inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x, exactly ('none', `GELU`) or through tanh ('tanh', `GELUTanh`).

    Raises:
        ArgumentError: another `approximate`.
    """
    if approximate not in ("none", "tanh"):
        raise ArgumentError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return activate(GELU if approximate == "none" else GELUTanh, input, False)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^(beta x)) / beta; x itself where beta x > threshold. See `Softplus`."""
    return activate(Softplus, input, False, beta, threshold)


def logsigmoid(input: Tensor) -> Tensor:
    """log sigmoid(x). See `LogSigmoid`."""
    return activate(LogSigmoid, input, False)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(log(1 + e^x)). See `Mish`."""
    return activate(Mish, input, inplace)
