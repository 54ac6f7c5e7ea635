"""Comparisons, logic and bits: true or false for each element, so there is nothing to differentiate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.autograd.variable import Variable
from minires.errors import DTypeError
from minires.ops.operands import operands
from minires.ops.unary import predicate

if TYPE_CHECKING:
    from minires.tensor import Tensor


class _Compare(Op):
    """A comparison of two operands, with broadcasting."""

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return None, None


def _comparison(name: str) -> type[Op]:
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        return getattr(ctx.xp, name)(a, b)

    return type(name.title().replace("_", ""), (_Compare,), {"name": name, "forward": staticmethod(forward)})


_EQUAL, _NOT_EQUAL = _comparison("equal"), _comparison("not_equal")
_LESS, _LESS_EQUAL = _comparison("less"), _comparison("less_equal")
_GREATER, _GREATER_EQUAL = _comparison("greater"), _comparison("greater_equal")
_AND, _OR, _XOR = _comparison("logical_and"), _comparison("logical_or"), _comparison("logical_xor")


def eq(input: Any, other: Any) -> Tensor:
    return apply(_EQUAL, *operands("eq", input, other))


def ne(input: Any, other: Any) -> Tensor:
    return apply(_NOT_EQUAL, *operands("ne", input, other))


def lt(input: Any, other: Any) -> Tensor:
    return apply(_LESS, *operands("lt", input, other))


def le(input: Any, other: Any) -> Tensor:
    return apply(_LESS_EQUAL, *operands("le", input, other))


def gt(input: Any, other: Any) -> Tensor:
    return apply(_GREATER, *operands("gt", input, other))


def ge(input: Any, other: Any) -> Tensor:
    return apply(_GREATER_EQUAL, *operands("ge", input, other))


def logical_and(input: Any, other: Any) -> Tensor:
    return apply(_AND, *operands("logical_and", input, other))


def logical_or(input: Any, other: Any) -> Tensor:
    return apply(_OR, *operands("logical_or", input, other))


def logical_xor(input: Any, other: Any) -> Tensor:
    return apply(_XOR, *operands("logical_xor", input, other))


_BIT_AND, _BIT_OR, _BIT_XOR = _comparison("bitwise_and"), _comparison("bitwise_or"), _comparison("bitwise_xor")


def bitwise_and(input: Any, other: Any) -> Tensor:
    return apply(_BIT_AND, *_integers("bitwise_and", input, other))


def bitwise_or(input: Any, other: Any) -> Tensor:
    return apply(_BIT_OR, *_integers("bitwise_or", input, other))


def bitwise_xor(input: Any, other: Any) -> Tensor:
    return apply(_BIT_XOR, *_integers("bitwise_xor", input, other))


def _integers(op: str, a: Any, b: Any) -> tuple[Any, Any]:
    a, b = operands(op, a, b)
    if (a.array if isinstance(a, Variable) else a).dtype.kind == "f":
        raise DTypeError(
            f"{op}: operands must be bool or integer tensors, got floating ones; compare them first (a > 0)"
        )
    return a, b


def logical_not(input: Any) -> Tensor:
    return predicate(input, "logical_not")
