"""torch's functions of tensors at the top level: `minires.exp(x)`, `minires.cat([a, b])`, `minires.where(c, a, b)`.

Every op is defined once, in `minires.ops`; this page says which of them are also functions of the package, as in torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.ops.activation import relu, sigmoid, tanh
from minires.ops.arithmetic import (
    add,
    clamp,
    div,
    floor_divide,
    maximum,
    minimum,
    mul,
    pow,
    remainder,
    sub,
    where,
)
from minires.ops.comparison import (
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    eq,
    ge,
    gt,
    le,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    lt,
    ne,
)
from minires.ops.erf import erf
from minires.ops.index import gather, index_select, masked_fill, masked_select, nonzero, scatter, scatter_add
from minires.ops.join import cat, flip, hstack, roll, stack, vstack
from minires.ops.linear import bmm, matmul, mm
from minires.ops.reduce import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    bincount,
    cumsum,
    logsumexp,
    max,
    mean,
    min,
    nan_to_num,
    norm,
    prod,
    std,
    sum,
    var,
    var_mean,
)
from minires.ops.selection import argsort, chunk, narrow, select, sort, split, take, topk, tril, triu, unbind, unique
from minires.ops.shape import (
    broadcast_to,
    clone,
    flatten,
    movedim,
    permute,
    reshape,
    squeeze,
    t,
    transpose,
    unflatten,
    unsqueeze,
)
from minires.ops.softmax import log_softmax, softmax
from minires.ops.unary import (
    abs,
    bitwise_not,
    ceil,
    cos,
    exp,
    expm1,
    floor,
    isfinite,
    isinf,
    isnan,
    log,
    log1p,
    log2,
    log10,
    neg,
    reciprocal,
    round,
    rsqrt,
    sign,
    sin,
    sqrt,
    square,
    trunc,
)
from minires.tensor import Tensor

concat = concatenate = cat
clip = clamp
swapaxes = transpose
multiply, divide, subtract = mul, div, sub
true_divide = div


def is_tensor(obj: Any) -> bool:
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    return input.is_floating_point()


def numel(input: Tensor) -> int:
    return input.numel()


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether shapes and all values agree."""
    return bool(np.array_equal(input.array, other.array))


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """|input - other| <= atol + rtol |other|, element by element."""
    return Tensor(np.asarray(np.isclose(input.array, other.array, rtol, atol, equal_nan)))


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    return bool(isclose(input, other, rtol, atol, equal_nan).array.all())


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """y_ij = a_i b_j."""
    return input.unsqueeze(1) * vec2.unsqueeze(0)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    return matmul(input, tensor)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """y_i = sum_j A_ij v_j."""
    return matmul(input, vec)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta input + alpha mat1 mat2."""
    return input.addmm(mat1, mat2, beta=beta, alpha=alpha)


def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """input + weight (end - input)."""
    return input.lerp(end, weight)


def ravel(input: Tensor) -> Tensor:
    """All elements in one row."""
    return flatten(input)


def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """How many elements are not 0, in all or along `dim`; int64."""
    return sum(ne(input, 0), dim)


__all__ = [
    "abs",
    "add",
    "addmm",
    "all",
    "allclose",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "argsort",
    "bincount",
    "bitwise_and",
    "bitwise_not",
    "bitwise_or",
    "bitwise_xor",
    "bmm",
    "broadcast_to",
    "cat",
    "ceil",
    "chunk",
    "clamp",
    "clip",
    "clone",
    "concat",
    "concatenate",
    "cos",
    "count_nonzero",
    "cumsum",
    "div",
    "divide",
    "dot",
    "eq",
    "equal",
    "erf",
    "exp",
    "expm1",
    "flatten",
    "flip",
    "floor",
    "floor_divide",
    "gather",
    "ge",
    "gt",
    "hstack",
    "index_select",
    "is_floating_point",
    "is_tensor",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "lerp",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_softmax",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logsumexp",
    "lt",
    "masked_fill",
    "masked_select",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mm",
    "movedim",
    "mul",
    "multiply",
    "mv",
    "nan_to_num",
    "narrow",
    "ne",
    "neg",
    "nonzero",
    "norm",
    "numel",
    "outer",
    "permute",
    "pow",
    "prod",
    "ravel",
    "reciprocal",
    "relu",
    "remainder",
    "reshape",
    "roll",
    "round",
    "rsqrt",
    "scatter",
    "scatter_add",
    "select",
    "sigmoid",
    "sign",
    "sin",
    "softmax",
    "sort",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "sub",
    "subtract",
    "sum",
    "swapaxes",
    "t",
    "take",
    "tanh",
    "topk",
    "transpose",
    "tril",
    "triu",
    "true_divide",
    "trunc",
    "unbind",
    "unflatten",
    "unique",
    "unsqueeze",
    "var",
    "var_mean",
    "vstack",
    "where",
]  # fmt: skip
