"""torch's methods and operators of a tensor. The formulas are in `minires.ops`; here stands which of them are methods.

An op `exp(input)` becomes the method `x.exp()`: Python passes `x` as the first argument. Its in-place form `x.exp_()` runs
it through `run_inplace`, which keeps gradients right or says why it cannot.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from minires import random
from minires.autograd import run_inplace
from minires.autograd.variable import Variable
from minires.errors import ArgumentError
from minires.ops import (
    activation,
    arithmetic,
    comparison,
    erf,
    index,
    join,
    linear,
    reduce,
    selection,
    shape,
    softmax,
    unary,
)

if TYPE_CHECKING:
    from minires.tensor import Tensor

# Which functions of which file are methods of the same name.
METHODS: dict[Any, str] = {
    arithmetic: "add sub mul div floor_divide remainder pow maximum minimum clamp",
    comparison: """eq ne lt le gt ge logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor""",
    unary: """neg abs exp expm1 log log1p log2 log10 sqrt rsqrt sin cos square reciprocal sign floor ceil trunc round isnan
              isinf isfinite bitwise_not""",
    activation: "relu sigmoid tanh",
    erf: "erf",
    softmax: "softmax log_softmax",
    linear: "matmul mm bmm",
    reduce: """sum mean var std prod amax amin max min argmax argmin any all cumsum logsumexp norm nan_to_num bincount""",
    shape: """clone contiguous reshape view flatten unflatten squeeze unsqueeze permute transpose t movedim expand
              broadcast_to sum_to_shape""",
    join: "repeat flip roll",
    index: "gather scatter scatter_add index_select masked_fill masked_select nonzero",
    selection: "select narrow unbind split chunk tril triu argsort sort topk take unique",
}
ALIASES = {
    "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "clip": "clamp", "negative": "neg",
    "absolute": "abs", "swapaxes": "transpose", "greater": "gt", "less": "lt", "tile": "repeat",
}  # fmt: skip
# Methods that also have an in-place form.
IN_PLACE = """add sub mul div floor_divide remainder pow clamp neg abs exp expm1 log log1p sqrt rsqrt sin cos square
              reciprocal sign floor ceil trunc round relu sigmoid tanh masked_fill scatter scatter_add cumsum nan_to_num tril triu
              subtract multiply divide clip"""


def _in_place(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Tensors among the keyword arguments are seen by the op itself; only positional ones decide about recording here.
        return run_inplace(name, lambda old, *rest: function(old, *rest, **kwargs), self, *args)

    method.__name__ = f"{name}_"
    method.__doc__ = f"In-place form of `{name}`."
    return method


def _is_operand(value: Any) -> bool:
    return isinstance(value, (Variable, int, float, np.ndarray, np.generic))


def _operator(function: Callable[..., Any], reflected: bool = False) -> Callable[[Any, Any], Any]:
    """A binary operator; an operand that is no number is left to its own class."""

    def method(self: Any, other: Any) -> Any:
        if not _is_operand(other):
            return NotImplemented
        return function(other, self) if reflected else function(self, other)

    method.__name__ = function.__name__
    return method


def _in_place_operator(name: str, function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        return run_inplace(name, function, self, other) if _is_operand(other) else NotImplemented

    return method


class TensorMethods(Variable):
    """What a `Tensor` can do; `Tensor` itself says what it is."""

    def where(self, condition: Any, other: Any) -> Tensor:
        return arithmetic.where(condition, self, other)

    def dot(self, other: Any) -> Tensor:
        return linear.matmul(self, other)  # type: ignore[arg-type]  # every TensorMethods is a Tensor

    def mv(self, vec: Any) -> Tensor:
        return linear.matmul(self, vec)  # type: ignore[arg-type]  # as above

    def ravel(self) -> Tensor:
        return shape.flatten(self)  # type: ignore[arg-type]  # as above

    def count_nonzero(self, dim: Any = None) -> Tensor:
        return reduce.sum(comparison.ne(self, 0), dim)

    def expand_as(self, other: Tensor) -> Tensor:
        return shape.expand(self, *other.raw.shape)  # type: ignore[arg-type]  # as above

    def view_as(self, other: Tensor) -> Tensor:
        return shape.view(self, *other.raw.shape)  # type: ignore[arg-type]  # as above

    def reshape_as(self, other: Tensor) -> Tensor:
        return shape.reshape(self, *other.raw.shape)  # type: ignore[arg-type]  # as above

    def sum_to_size(self, *size: Any) -> Tensor:
        return shape.sum_to_shape(self, shape.as_sizes("sum_to_size", size))  # type: ignore[arg-type]  # as above

    # --- operators ---------------------------------------------------------------------------------------------------

    __add__ = _operator(arithmetic.add)
    __radd__ = _operator(arithmetic.add, reflected=True)
    __sub__ = _operator(arithmetic.sub)
    __rsub__ = _operator(arithmetic.sub, reflected=True)
    __mul__ = _operator(arithmetic.mul)
    __rmul__ = _operator(arithmetic.mul, reflected=True)
    __truediv__ = _operator(arithmetic.div)
    __rtruediv__ = _operator(arithmetic.div, reflected=True)
    __floordiv__ = _operator(arithmetic.floor_divide)
    __rfloordiv__ = _operator(arithmetic.floor_divide, reflected=True)
    __mod__ = _operator(arithmetic.remainder)
    __rmod__ = _operator(arithmetic.remainder, reflected=True)
    __pow__ = _operator(arithmetic.pow)
    __rpow__ = _operator(arithmetic.pow, reflected=True)
    __matmul__ = _operator(linear.matmul)
    __rmatmul__ = _operator(linear.matmul, reflected=True)
    __and__ = __rand__ = _operator(comparison.bitwise_and)
    __or__ = __ror__ = _operator(comparison.bitwise_or)
    __xor__ = __rxor__ = _operator(comparison.bitwise_xor)
    __lt__ = _operator(comparison.lt)
    __le__ = _operator(comparison.le)
    __gt__ = _operator(comparison.gt)
    __ge__ = _operator(comparison.ge)
    __iadd__ = _in_place_operator("add", arithmetic.add)
    __isub__ = _in_place_operator("sub", arithmetic.sub)
    __imul__ = _in_place_operator("mul", arithmetic.mul)
    __itruediv__ = _in_place_operator("div", arithmetic.div)
    __ifloordiv__ = _in_place_operator("floor_divide", arithmetic.floor_divide)
    __imod__ = _in_place_operator("remainder", arithmetic.remainder)
    __ipow__ = _in_place_operator("pow", arithmetic.pow)
    __iand__ = _in_place_operator("bitwise_and", comparison.bitwise_and)
    __ior__ = _in_place_operator("bitwise_or", comparison.bitwise_or)
    __ixor__ = _in_place_operator("bitwise_xor", comparison.bitwise_xor)

    def __neg__(self) -> Tensor:
        return unary.neg(self)  # type: ignore[arg-type]  # as above

    def __pos__(self) -> Tensor:
        return self  # type: ignore[return-value]  # as above

    def __abs__(self) -> Tensor:
        return unary.abs(self)  # type: ignore[arg-type]  # as above

    def __invert__(self) -> Tensor:
        return unary.bitwise_not(self)  # type: ignore[arg-type]  # as above

    def __eq__(self, other: Any) -> Any:
        return comparison.eq(self, other) if _is_operand(other) else NotImplemented

    def __ne__(self, other: Any) -> Any:
        return comparison.ne(self, other) if _is_operand(other) else NotImplemented

    __hash__ = object.__hash__  # a tensor is a key by identity: its values change

    def __getitem__(self, key: Any) -> Tensor:
        return index.getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        index.assign(self, key, value)  # type: ignore[arg-type]  # as above

    # --- filling in place --------------------------------------------------------------------------------------------

    def zero_(self) -> Any:
        return self.fill_(0)

    def fill_(self, value: Any) -> Any:
        """Every element becomes `value`."""
        index.assign(self, Ellipsis, value)  # type: ignore[arg-type]  # as above
        return self

    def copy_(self, src: Any, non_blocking: bool = False) -> Any:
        """The values of `src`, broadcast and cast to this tensor's shape and dtype."""
        index.assign(self, Ellipsis, src)  # type: ignore[arg-type]  # as above
        return self

    def normal_(self, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Any:
        return self.fill_(random.generator(generator).normal(mean, std, self.raw.shape).astype(self.raw.dtype))

    def uniform_(self, a: float = 0.0, b: float = 1.0, *, generator: Any = None) -> Any:
        if a > b:
            raise ArgumentError(f"uniform_: expected a <= b, got a = {a} and b = {b}")
        return self.fill_(random.generator(generator).uniform(a, b, self.raw.shape).astype(self.raw.dtype))

    def bernoulli_(self, p: float = 0.5, *, generator: Any = None) -> Any:
        if not 0 <= p <= 1:
            raise ArgumentError(f"bernoulli_: p must be a probability, got {p}")
        return self.fill_((random.generator(generator).random(self.raw.shape) < p).astype(self.raw.dtype))

    def addcmul_(self, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
        """self + value tensor1 tensor2."""
        return run_inplace("addcmul", lambda x, a, b: x + a * b * value, self, tensor1, tensor2)

    def addcdiv_(self, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
        """self + value tensor1 / tensor2."""
        return run_inplace("addcdiv", lambda x, a, b: x + a / b * value, self, tensor1, tensor2)

    def lerp_(self, end: Any, weight: Any) -> Any:
        """self + weight (end - self)."""
        return run_inplace("lerp", lambda x, y: x + weight * (y - x), self, end)

    def lerp(self, end: Any, weight: Any) -> Any:
        return self + weight * (end - self)

    def addmm(self, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
        """beta self + alpha mat1 mat2."""
        return self * beta + linear.mm(mat1, mat2) * alpha

    # --- sizes -------------------------------------------------------------------------------------------------------

    def dim(self) -> int:
        return self.raw.ndim

    def numel(self) -> int:
        return math.prod(self.raw.shape)

    ndimension, nelement = dim, numel


def _install() -> None:
    for module, names in METHODS.items():
        for name in names.split():
            setattr(TensorMethods, name, getattr(module, name))
    for alias, name in ALIASES.items():
        setattr(TensorMethods, alias, getattr(TensorMethods, name))
    for name in IN_PLACE.split():
        setattr(TensorMethods, f"{name}_", _in_place(name, getattr(TensorMethods, name)))


_install()
