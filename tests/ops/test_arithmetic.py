"""Arithmetic with broadcasting, dtype promotion and comparisons, beside torch."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, ShapeError
from tests.strategies import broadcastable, in_memory_form, memory_forms, values
from tests.torch_oracle import compare, torch

BINARY = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "remainder": operator.mod,
    "floor_divide": operator.floordiv,
}


@pytest.mark.parametrize("name", BINARY)
@given(
    shapes=broadcastable(),
    forms=st.tuples(memory_forms(), memory_forms()),
    dtype=st.sampled_from(["float64", "float32"]),
)
def test_binary_operators_broadcast_as_in_torch(name, shapes, forms, dtype) -> None:
    a = in_memory_form(values(shapes[0], 1).astype(dtype), forms[0])
    b = in_memory_form(values(shapes[1], 2, 0.5, 2.0).astype(dtype), forms[1])
    # torch has no derivative of floor division; here it is zero.
    compare(BINARY[name], BINARY[name], a, b, dtype=dtype, n=64, gradients=name != "floor_divide")


@pytest.mark.parametrize("name", ["maximum", "minimum"])
@given(shapes=broadcastable())
def test_extremes_share_the_gradient_of_ties(name, shapes) -> None:
    a, b = np.round(values(shapes[0], 1)), np.round(values(shapes[1], 2))  # rounding makes ties
    compare(getattr(minires, name), getattr(torch, name), a, b, n=64)


@given(shapes=broadcastable())
def test_pow_broadcasts(shapes) -> None:
    a, b = values(shapes[0], 1, 0.5, 2.0), values(shapes[1], 2, -2.0, 2.0)
    compare(minires.pow, torch.pow, a, b, n=64)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 0.5, -1, -2.5, 2.0])
def test_pow_by_a_number(exponent) -> None:
    base = values((5,), 0, 0.1, 2.0)
    compare(lambda x: x**exponent, lambda x: x**exponent, base)
    if exponent in (0, 1, 2, 3):
        compare(lambda x: x**exponent, lambda x: x**exponent, np.array([0.0, -1.0, 2.0]))


def test_pow_at_zero() -> None:
    compare(lambda a, b: a**b, lambda a, b: a**b, np.array([0.0, 0.0, 2.0]), np.array([0.0, 2.0, 0.0]), second=False)
    compare(lambda x: 2.0**x, lambda x: 2.0**x, values((4,)))
    compare(lambda x: 0**x, lambda x: 0**x, np.array([1.0, 2.0]), second=False)


@pytest.mark.parametrize("other", [2, -1.5, True, np.float64(0.3), np.float32(2.5)])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_numbers_on_either_side(name, other) -> None:
    op = BINARY[name]
    number = other.item() if isinstance(other, np.generic) else other
    if name == "sub" and other is True:
        return  # torch refuses to subtract a bool; here True is 1, as in Python
    x = values((3,), 0, 0.5, 2.0)
    compare(lambda t: op(t, other), lambda t: op(t, number), x, dtype="float32")
    compare(lambda t: op(other, t), lambda t: op(number, t), x, dtype="float32")


@pytest.mark.parametrize("alpha", [2, -0.5])
def test_alpha(alpha) -> None:
    for name in ("add", "sub"):
        compare(lambda a, b: getattr(minires, name)(a, b, alpha=alpha), lambda a, b: getattr(torch, name)(a, b, alpha=alpha),
                values((3,)), values((2, 3), 1))  # fmt: skip


DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("left", DTYPES)
@pytest.mark.parametrize("right", [*DTYPES, True, 3, 2.5])
@pytest.mark.parametrize("shapes", [((2,), (2,)), ((2,), ()), ((), (2,)), ((), ())])
def test_promotion_is_torchs(left, right, shapes) -> None:
    def make(what, shape):
        return np.ones(shape, what) if isinstance(what, str) else what

    a, b = make(left, shapes[0]), make(right, shapes[1])
    ours = minires.tensor(a) * (minires.tensor(b) if isinstance(right, str) else b)
    theirs = torch.from_numpy(np.asarray(a)) * (torch.from_numpy(np.asarray(b)) if isinstance(right, str) else b)
    assert ours.dtype.name == str(theirs.dtype).removeprefix("torch.")
    assert ours.tolist() == theirs.tolist()


def test_integers_divide_as_floats() -> None:
    compare(lambda a, b: a / b, lambda a, b: a / b, np.array([1, 7, -7]), np.array([2, 2, 2]))
    for mode in ("floor", "trunc"):
        compare(lambda a, b: minires.div(a, b, rounding_mode=mode), lambda a, b: torch.div(a, b, rounding_mode=mode),
                np.array([1, 7, -7]), np.array([2, 2, 2]))  # fmt: skip
    compare(operator.mod, operator.mod, np.array([7, -7, 7]), np.array([3, 3, -3]))


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
@given(shapes=broadcastable())
def test_comparisons(name, shapes) -> None:
    a, b = np.round(values(shapes[0], 1)), np.round(values(shapes[1], 2))
    compare(getattr(operator, name), getattr(operator, name), a, b)
    compare(getattr(minires, name), getattr(torch, name), a, b)


def test_comparisons_with_nan() -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0])
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        compare(lambda a: getattr(operator, name)(a, a), lambda a: getattr(operator, name)(a, a), special)


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
def test_logic(name) -> None:
    a, b = np.array([0.0, 1.0, 0.0, 2.0]), np.array([0.0, 0.0, 3.0, 1.0])
    compare(getattr(minires, name), getattr(torch, name), a, b)
    compare(lambda a: minires.logical_not(a), lambda a: torch.logical_not(a), a)


def test_bits() -> None:
    a, b = np.array([1, 6, 5]), np.array([3, 3, 4])
    for op in (operator.and_, operator.or_, operator.xor):
        compare(op, op, a, b)
        compare(op, op, a > 2, b > 3)
    compare(operator.invert, operator.invert, a)
    compare(operator.invert, operator.invert, a > 2)


@given(shapes=broadcastable())
def test_where(shapes) -> None:
    condition = values(shapes[0], 3) > 0
    a, b = values(shapes[0], 1), values(shapes[1], 2)
    compare(lambda c, x, y: minires.where(c, x, y), lambda c, x, y: torch.where(c, x, y), condition, a, b, n=64)


def test_where_stops_nan_on_the_side_not_taken() -> None:
    x = minires.tensor([0.0, 1.0], requires_grad=True)
    minires.where(x > 0, x.log(), 0.0).sum()
    minires.where(x > 0, x * 2, 0.0).sum().backward()
    assert x.grad.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("limits", [(-0.5, 0.5), (None, 0.5), (-0.5, None), (0.5, -0.5)])
def test_clamp(limits) -> None:
    x = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, np.inf, -np.inf])
    compare(lambda t: minires.clamp(t, *limits), lambda t: torch.clamp(t, *limits), x)
    compare(
        lambda t: minires.clamp(t, *limits), lambda t: torch.clamp(t, *limits), np.array([np.nan, 1.0]), second=False
    )


def test_clamp_by_tensors() -> None:
    x, low = values((4,)), values((4,), 1)
    compare(lambda t, m: minires.clamp(t, min=m), lambda t, m: torch.clamp(t, min=m), x, low)


@pytest.mark.parametrize("name", [*BINARY, "maximum", "minimum", "pow"])
def test_gradients_by_finite_differences(name) -> None:
    function = BINARY.get(name) or getattr(minires, name)
    a = minires.tensor(values((2, 3), 1, 0.6, 0.95), requires_grad=True)
    b = minires.tensor(values((3,), 2, 1.05, 1.4), requires_grad=True)
    assert gradcheck(function, (a, b))
    assert gradgradcheck(function, (a, b))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: x + minires.ones(4), ShapeError, r"add: the shapes \(2, 3\) and \(4,\) do not broadcast: 3 and 4"),
        (lambda x: minires.mul(x, "a"), DTypeError, r"mul: operand 1 must be a Tensor or a number, got str"),
        (lambda x: (x > 0) - (x > 0), DTypeError, r"sub: subtraction is not defined for bool"),
        (lambda x: -(x > 0), DTypeError, r"neg: input must not be bool"),
        (lambda x: x & x, DTypeError, r"bitwise_and: operands must be bool or integer"),
        (lambda x: ~x, DTypeError, r"bitwise_not: input must be a bool or integer"),
        (lambda x: minires.clamp(x), ArgumentError, r"clamp: at least one of min and max"),
        (lambda x: minires.where(x, x, x), DTypeError, r"where: condition must be a bool tensor, got float32"),
        (
            lambda x: minires.div(x, x, rounding_mode="up"),
            ArgumentError,
            r"div: rounding_mode must be None, 'floor' or 'trunc'",
        ),
        (lambda x: minires.tensor([1]) // 0, ArgumentError, r"floor_divide: integer division by zero"),
        (lambda x: minires.tensor([1]) % 0, ArgumentError, r"remainder: integer division by zero"),
        (lambda x: minires.tensor([2]) ** -1, ArgumentError, r"pow: integers have no negative powers"),
    ],
)
def test_errors(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call(minires.ones(2, 3))


def test_an_unknown_operand_is_left_to_its_own_class() -> None:
    class Other:
        def __radd__(self, other):
            return "mine"

    assert minires.ones(1) + Other() == "mine"
    with pytest.raises(TypeError):
        minires.ones(1) + object()
    assert (minires.ones(1) == "text") is False
