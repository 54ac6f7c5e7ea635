"""Reductions: sums, means, variances, extremes, norms, and running sums.

A sum's derivative is a copy to every summand, so each backward begins by giving the gradient its reduced dimensions back
(`_spread`).
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minires.autograd import Op, apply
from minires.dtypes import as_dtype, get_default_dtype
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.ops.checks import check_floating, check_tensor, dimension, dimensions
from minires.ops.index import gather
from minires.ops.shape import expand, reshape, to_dtype

if TYPE_CHECKING:
    from minires.tensor import Tensor


class ValuesIndices(NamedTuple):
    """What max, min, sort and topk along a dimension return."""

    values: Any
    indices: Any


def _spread(grad: Any, shape: tuple[int, ...], dims: tuple[int, ...]) -> Any:
    """`grad` of a reduction over `dims`, as a tensor of `shape`."""
    kept = tuple(1 if i in dims else size for i, size in enumerate(shape))
    return expand(reshape(grad, kept), shape)


class Sum(Op):
    """y = sum x over some dimensions;  dL/dx = dL/dy at every summand."""

    name = "sum"

    @staticmethod
    def forward(ctx: Any, x: Any, dims: tuple[int, ...], keepdim: bool) -> Any:
        ctx.shape, ctx.dims = x.shape, dims
        return x.sum(axis=dims, keepdims=keepdim, dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return _spread(grad_y, ctx.shape, ctx.dims)


class Mean(Op):
    """y = (1/n) sum x over some dimensions;  dL/dx = dL/dy / n."""

    name = "mean"

    @staticmethod
    def forward(ctx: Any, x: Any, dims: tuple[int, ...], keepdim: bool) -> Any:
        ctx.shape, ctx.dims = x.shape, dims
        ctx.n = int(np.prod([x.shape[d] for d in dims], dtype=np.int64))
        return x.sum(axis=dims, keepdims=keepdim, dtype=x.dtype) / x.dtype.type(ctx.n)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return _spread(grad_y / ctx.n, ctx.shape, ctx.dims)


class Amax(Op):
    """The largest (or smallest) value over some dimensions; equal extremes share the gradient evenly. NaN propagates."""

    name = "amax"

    @staticmethod
    def forward(ctx: Any, x: Any, dims: tuple[int, ...], keepdim: bool, smallest: bool) -> Any:
        y = (x.min if smallest else x.max)(axis=dims, keepdims=keepdim)
        ctx.dims = dims
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        x, y = ctx.saved_tensors
        top = _spread(y, x.raw.shape, ctx.dims)
        mask = to_dtype((x == top) | (x.isnan() & top.isnan()), x.dtype)
        share = mask / _spread(mask.sum(ctx.dims, keepdim=True) if ctx.dims else mask, x.raw.shape, ctx.dims)
        return _spread(grad_y, x.raw.shape, ctx.dims) * share


class CumSum(Op):
    """y_i = x_0 + ... + x_i;  dL/dx_i = dL/dy_i + dL/dy_(i+1) + ...: a running sum from the other end."""

    name = "cumsum"

    @staticmethod
    def forward(ctx: Any, x: Any, dim: int) -> Any:
        ctx.dim = dim
        return x.cumsum(axis=dim, dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return grad_y.flip(ctx.dim).cumsum(ctx.dim).flip(ctx.dim)


class Arg(Op):
    """argmax, argmin, any, all: no gradient."""

    name = "arg"

    @staticmethod
    def forward(ctx: Any, x: Any, function: str, axis: Any, keepdim: bool) -> Any:
        return getattr(ctx.xp, function)(x, axis=axis, keepdims=keepdim)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return None


# --- public functions ------------------------------------------------------------------------------------------------


def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum over `dim` (all dimensions if None). Integers and bools add up as int64."""
    check_tensor("sum", "input", input)
    if dtype is not None:
        input = to_dtype(input, dtype)
    elif input.raw.dtype.kind in "biu":
        input = to_dtype(input, int)
    return apply(Sum, input, dimensions("sum", dim, input.raw.ndim), keepdim)


def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean over `dim` (all dimensions if None); NaN over nothing."""
    check_tensor("mean", "input", input)
    if dtype is not None:
        input = to_dtype(input, dtype)
    check_floating("mean", "input", input)
    return apply(Mean, input, dimensions("mean", dim, input.raw.ndim), keepdim)


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> Tensor:
    """The variance sum (x - mean)^2 / (n - correction); correction is 1 unless unbiased=False or it is given."""
    check_tensor("var", "input", input)
    check_floating("var", "input", input)
    if isinstance(dim, bool):  # torch: x.var(False)
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise ArgumentError("var: give either unbiased or correction, not both")
    minus = correction if correction is not None else int(unbiased is not False)
    dims = dimensions("var", dim, input.raw.ndim)
    n = int(np.prod([input.raw.shape[d] for d in dims], dtype=np.int64))
    centred = input - mean(input, dims, keepdim=True) if dims else input - input
    total = apply(Sum, centred * centred, dims, keepdim)
    freedom = builtins.max(n - minus, 0)
    return total / freedom if freedom else total * float("nan")


def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> Tensor:
    """The square root of `var`."""
    return var(input, dim, unbiased, keepdim, correction=correction).sqrt()


def var_mean(
    input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    return var(input, dim, unbiased, keepdim), mean(input, dim, keepdim)


def prod(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The product over one dimension or all. Its gradient is right where factors are zero."""
    check_tensor("prod", "input", input)
    if input.raw.dtype.kind in "biu":
        input = to_dtype(input, int)
    if dim is None:
        return prod(input.reshape(-1), 0)
    d = dimension("prod", dim, input.raw.ndim)
    # A chain of multiplications: its derivative never divides by a factor that may be zero.
    result = None
    for factor in input.unbind(d):
        result = factor if result is None else result * factor
    if result is None:
        shape = [s for i, s in enumerate(input.raw.shape) if i != d]
        result = type(input)(np.ones(shape, input.raw.dtype))
    return result.unsqueeze(d) if keepdim else result


def _require_elements(op: str, input: Tensor, dims: tuple[int, ...]) -> None:
    if builtins.any(input.raw.shape[d] == 0 for d in dims):
        raise ShapeError(f"{op}: nothing to choose from along dimension {dims}, got input.shape = {input.raw.shape}")


def amax(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The largest value over `dim`; equal ones share the gradient."""
    check_tensor("amax", "input", input)
    dims = dimensions("amax", dim, input.raw.ndim)
    _require_elements("amax", input, dims)
    return apply(Amax, input, dims, keepdim, False)


def amin(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The smallest value over `dim`; equal ones share the gradient."""
    check_tensor("amin", "input", input)
    dims = dimensions("amin", dim, input.raw.ndim)
    _require_elements("amin", input, dims)
    return apply(Amax, input, dims, keepdim, True)


def _extreme(op: str, input: Tensor, dim: Any, keepdim: bool, argument: Any) -> ValuesIndices:
    d = dimension(op, dim, input.raw.ndim)
    if input.raw.ndim == 0:
        return ValuesIndices(input, argument(input))
    indices = argument(input, d, keepdim=True)
    values = gather(input, d, indices)
    return ValuesIndices(values, indices) if keepdim else ValuesIndices(values.squeeze(d), indices.squeeze(d))


def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Without dim, the largest value. With a dim, (values, indices) along it: the first of equal ones, which takes the
    gradient. With a tensor, `maximum`."""
    check_tensor("max", "input", input)
    if hasattr(dim, "array"):
        return input.maximum(dim)
    return amax(input) if dim is None else _extreme("max", input, dim, keepdim, argmax)


def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Without dim, the smallest value. With a dim, (values, indices) along it. With a tensor, `minimum`."""
    check_tensor("min", "input", input)
    if hasattr(dim, "array"):
        return input.minimum(dim)
    return amin(input) if dim is None else _extreme("min", input, dim, keepdim, argmin)


def _arg(op: str, input: Tensor, dim: Any, keepdim: bool) -> Tensor:
    check_tensor(op, "input", input)
    axis = None if dim is None or input.raw.ndim == 0 else dimension(op, dim, input.raw.ndim)
    _require_elements(op, input, tuple(range(input.raw.ndim)) if axis is None else (axis,))
    return apply(Arg, input, op, axis, keepdim)


def argmax(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The index of the (first) largest value along `dim`, or in the flattened tensor."""
    return _arg("argmax", input, dim, keepdim)


def argmin(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The index of the (first) smallest value along `dim`, or in the flattened tensor."""
    return _arg("argmin", input, dim, keepdim)


def any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    check_tensor("any", "input", input)
    return apply(Arg, input, "any", dimensions("any", dim, input.raw.ndim), keepdim)


def all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    check_tensor("all", "input", input)
    return apply(Arg, input, "all", dimensions("all", dim, input.raw.ndim), keepdim)


def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """The running sum along `dim`."""
    check_tensor("cumsum", "input", input)
    if dtype is not None:
        input = to_dtype(input, dtype)
    elif input.raw.dtype.kind in "biu":
        input = to_dtype(input, int)
    return apply(CumSum, input, dimension("cumsum", dim, input.raw.ndim)) if input.raw.ndim else input.clone()


def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """ln sum e^x over `dim`, computed as m + ln sum e^(x - m) with the maximum m, which cannot overflow."""
    check_tensor("logsumexp", "input", input)
    top = amax(input, dim, keepdim=True).detach()
    shift = top.isfinite().to(top.dtype) * top.nan_to_num()  # an infinite maximum must not make inf - inf
    total = (input - shift).exp().sum(dim, keepdim=True).log() + shift
    return total if keepdim else total.squeeze(dim)


def norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False) -> Tensor:
    """(sum |x|^p)^(1/p) over `dim`; 'fro' is p = 2; inf and -inf are the extremes of |x|. The gradient at 0 is 0."""
    check_tensor("norm", "input", input)
    check_floating("norm", "input", input)
    order = 2.0 if p in ("fro", None) else p
    if isinstance(order, str):
        raise ArgumentError(f"norm: p must be a number or 'fro', got {p!r}")
    if order == float("inf"):
        return amax(input.abs(), dim, keepdim)
    if order == float("-inf"):
        return amin(input.abs(), dim, keepdim)
    if order == 0:
        return input.sign().abs().sum(dim, keepdim)  # how many are not zero
    if order == 1:
        return input.abs().sum(dim, keepdim)
    if order == 2:
        return apply(Norm2, input, dimensions("norm", dim, input.raw.ndim), keepdim)
    return (input.abs() ** order).sum(dim, keepdim) ** (1 / order)


class Norm2(Op):
    """y = sqrt(sum x^2);  dL/dx = dL/dy x / y, and 0 where y = 0 (the subgradient torch takes)."""

    name = "norm"

    @staticmethod
    def forward(ctx: Any, x: Any, dims: tuple[int, ...], keepdim: bool) -> Any:
        y = ctx.xp.sqrt((x * x).sum(axis=dims, keepdims=keepdim, dtype=x.dtype))
        ctx.dims = dims
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        x, y = ctx.saved_tensors
        length = _spread(y, x.raw.shape, ctx.dims)
        zero = length == 0
        ratio = (x / length.masked_fill(zero, 1.0)).masked_fill(zero, 0.0)
        return _spread(grad_y, x.raw.shape, ctx.dims) * ratio


def nan_to_num(input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """NaN and infinities replaced by numbers (the largest finite ones unless given)."""
    check_tensor("nan_to_num", "input", input)
    check_floating("nan_to_num", "input", input)
    limits = np.finfo(input.raw.dtype)
    result = input.masked_fill(input.isnan(), nan)
    result = result.masked_fill(input == float("inf"), float(limits.max) if posinf is None else posinf)
    return result.masked_fill(input == float("-inf"), float(limits.min) if neginf is None else neginf)


def bincount(input: Tensor, weights: Any = None, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, 2, ... occurs in a vector of integers."""
    check_tensor("bincount", "input", input)
    if input.raw.dtype.kind not in "iu" or input.raw.ndim != 1 or (input.array < 0).any():
        raise DTypeError("bincount: input must be a vector of integers >= 0")
    counts = np.bincount(input.array, None if weights is None else weights.array, minlength)
    return type(input)(counts if weights is None else counts.astype(as_dtype(get_default_dtype()).numpy))
