"""Reductions beside torch: values, gradients, ties, NaN, empty tensors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, ShapeError
from tests.strategies import in_memory_form, memory_forms, shapes, values
from tests.torch_oracle import compare, torch

DIMS = [None, 0, -1, (0, 2), (1,)]


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin"])
@pytest.mark.parametrize("dim", DIMS)
@given(form=memory_forms(), keepdim=st.booleans(), dtype=st.sampled_from(["float64", "float32"]))
def test_reductions_are_torchs(name, dim, form, keepdim, dtype) -> None:
    x = in_memory_form(values((2, 3, 4)).astype(dtype), form)
    options = {} if dim is None else {"dim": dim, "keepdim": keepdim}
    compare(lambda t: getattr(t, name)(**options), lambda t: getattr(t, name)(**options), x, dtype=dtype, n=24)


@pytest.mark.parametrize("name", ["var", "std"])
@pytest.mark.parametrize(
    "options", [{}, {"dim": 1}, {"dim": (0, 2), "keepdim": True}, {"dim": 0, "unbiased": False}, {"correction": 0}]
)
def test_variance(name, options) -> None:
    compare(lambda t: getattr(t, name)(**options), lambda t: getattr(t, name)(**options), values((2, 3, 4)), n=24)


def test_variance_of_one_value_is_nan() -> None:
    assert minires.ones(1).var().isnan().item()
    compare(lambda t: minires.var_mean(t, 1), lambda t: torch.var_mean(t, 1), values((2, 3)))
    compare(lambda t: t.var(False), lambda t: t.var(False), values((5,)))


@pytest.mark.parametrize("name", ["max", "min"])
@given(shape=shapes(1, 3, 1, 4), keepdim=st.booleans(), seed=st.integers(0, 50))
def test_extremes_along_a_dimension_take_the_first_of_equals(name, shape, keepdim, seed) -> None:
    x = np.round(values(shape, seed))
    dim = seed % len(shape)
    compare(lambda t: getattr(t, name)(dim, keepdim), lambda t: getattr(t, name)(dim, keepdim), x)
    compare(lambda t: getattr(t, name)(), lambda t: getattr(t, name)(), x)
    for arg in ("argmax", "argmin"):
        compare(lambda t: getattr(t, arg)(dim, keepdim), lambda t: getattr(t, arg)(dim, keepdim), x)
        compare(lambda t: getattr(t, arg)(), lambda t: getattr(t, arg)(), x)


@pytest.mark.parametrize("name", ["max", "min"])
def test_extremes_propagate_nan(name) -> None:
    x = np.array([[1.0, np.nan, 3.0], [2.0, 5.0, np.nan]])
    compare(lambda t: getattr(t, name)(1), lambda t: getattr(t, name)(1), x)
    compare(lambda t: getattr(t, name)(), lambda t: getattr(t, name)(), x, second=False)
    assert getattr(minires.tensor(x), name)(1).indices.tolist() == [1, 2]


def test_max_of_two_tensors_and_named_results() -> None:
    compare(lambda a, b: a.max(b), lambda a, b: a.max(b), values((3,)), values((3,), 1))
    result = minires.tensor([[1.0, 2.0]]).max(1)
    assert (result.values.tolist(), result.indices.tolist()) == ([2.0], [1])
    zero = minires.tensor(3.0).max(0)
    assert (zero.values.item(), zero.indices.item()) == (3.0, 0)


@pytest.mark.parametrize("dim", [None, 0, 1])
def test_prod_is_right_at_zero(dim) -> None:
    for zeros in (0, 1, 2):
        x = values((3, 4), 0, 0.5, 2.0)
        x.ravel()[:zeros] = 0
        options = {} if dim is None else {"dim": dim}
        compare(lambda t: t.prod(**options), lambda t: t.prod(**options), x, n=12, second=zeros == 0)


def test_integers_add_up_as_int64() -> None:
    for dtype in ("bool", "uint8", "int32", "int64"):
        x = np.array([1, 0, 1]).astype(dtype)
        for name in ("sum", "prod"):
            compare(lambda t: getattr(t, name)(), lambda t: getattr(t, name)(), x)
        compare(lambda t: t.cumsum(0), lambda t: t.cumsum(0), x)


@pytest.mark.parametrize("name", ["any", "all"])
def test_any_and_all(name) -> None:
    x = np.array([[True, False], [True, True]])
    compare(lambda t: getattr(t, name)(), lambda t: getattr(t, name)(), x)
    compare(lambda t: getattr(t, name)(1), lambda t: getattr(t, name)(1), x)


@pytest.mark.parametrize("dim", [0, -1])
def test_cumsum(dim) -> None:
    compare(lambda t: t.cumsum(dim), lambda t: t.cumsum(dim), values((3, 4)), n=4)


@pytest.mark.parametrize("p", ["fro", 1, 2, 3, 0.5, float("inf"), float("-inf"), 0])
@pytest.mark.parametrize("dim", [None, 1])
def test_norms(p, dim) -> None:
    options = {} if dim is None else {"dim": dim}
    compare(lambda t: minires.norm(t, p, **options), lambda t: torch.norm(t, p, **options), values((3, 4)), n=12)


def test_the_gradient_of_a_norm_at_zero_is_zero() -> None:
    x = minires.zeros(3, requires_grad=True)
    x.norm().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("keepdim", [False, True])
def test_logsumexp_does_not_overflow(keepdim) -> None:
    compare(lambda t: t.logsumexp(1, keepdim), lambda t: t.logsumexp(1, keepdim), values((3, 4)), n=4)
    x = np.array([[1000.0, 1000.0], [-np.inf, -np.inf], [np.inf, 0.0], [-np.inf, 1.0]])
    compare(lambda t: t.logsumexp(1), lambda t: t.logsumexp(1), x, gradients=False)


def test_nan_to_num() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1.0])
    compare(lambda t: t.nan_to_num(), lambda t: t.nan_to_num(), x, second=False)
    compare(lambda t: t.nan_to_num(1, 2, 3), lambda t: t.nan_to_num(1, 2, 3), x, second=False)


def test_reductions_of_nothing() -> None:
    x = np.zeros((0, 3))
    for name in ("sum", "mean"):
        compare(lambda t: getattr(t, name)(), lambda t: getattr(t, name)(), x, second=False)
        compare(lambda t: getattr(t, name)(0), lambda t: getattr(t, name)(0), x, second=False)
    compare(lambda t: t.prod(0), lambda t: t.prod(0), x, gradients=False)


def test_bincount() -> None:
    compare(lambda t: t.bincount(), lambda t: t.bincount(), np.array([0, 3, 1, 3]))


@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "amax", "prod", "norm"])
def test_gradients_by_finite_differences(name) -> None:
    x = minires.tensor(values((2, 3), 0, 0.5, 2.0), requires_grad=True)
    for options in ({}, {"dim": 1}):
        assert gradcheck(lambda t: getattr(t, name)(**options), x)
        assert gradgradcheck(lambda t: getattr(t, name)(**options), x)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: minires.tensor([1, 2]).mean(),
            DTypeError,
            r"mean: input needs a floating dtype, got int64; convert with .float\(\)",
        ),
        (lambda: minires.zeros(0).max(), ShapeError, r"amax: nothing to choose from"),
        (lambda: minires.zeros(2, 0).max(1), ShapeError, r"argmax: nothing to choose from along dimension \(1,\)"),
        (lambda: minires.zeros(2).norm("nuc"), ArgumentError, r"norm: p must be a number or 'fro', got 'nuc'"),
        (
            lambda: minires.zeros(2).var(unbiased=True, correction=1),
            ArgumentError,
            r"var: give either unbiased or correction",
        ),
        (lambda: minires.tensor([-1]).bincount(), DTypeError, r"bincount: input must be a vector of integers >= 0"),
    ],
)
def test_errors(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()
