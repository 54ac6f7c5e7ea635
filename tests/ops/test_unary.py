"""Elementwise functions of one tensor, beside torch and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import DTypeError
from tests.strategies import in_memory_form, memory_forms, shapes, values
from tests.torch_oracle import compare, torch

SMOOTH = [
    "neg",
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "square",
    "reciprocal",
    "abs",
]
STEPS = ["sign", "floor", "ceil", "trunc", "round"]
PREDICATES = ["isnan", "isinf", "isfinite"]


@pytest.mark.parametrize("name", SMOOTH + STEPS)
@given(shape=shapes(max_rank=3, max_size=4), form=memory_forms(), dtype=st.sampled_from(["float64", "float32"]))
def test_functions_are_torchs(name, shape, form, dtype) -> None:
    x = in_memory_form(values(shape, 0, 0.1, 3.0).astype(dtype), form)
    compare(getattr(minires, name), getattr(torch, name), x, dtype=dtype, n=9)


@pytest.mark.parametrize("name", SMOOTH + STEPS)
def test_functions_at_special_values(name) -> None:
    x = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 2.5, -2.5, 0.5])
    compare(getattr(minires, name), getattr(torch, name), x, second=False)


@pytest.mark.parametrize("name", PREDICATES)
def test_predicates(name) -> None:
    x = np.array([0.0, np.inf, -np.inf, np.nan, 1.0])
    compare(getattr(minires, name), getattr(torch, name), x)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_by_finite_differences(name) -> None:
    x = minires.tensor(values((3, 2), 0, 0.3, 2.0), requires_grad=True)
    assert gradcheck(getattr(minires, name), x)
    assert gradgradcheck(getattr(minires, name), x)


def test_integers_become_floats() -> None:
    for name in ("exp", "sqrt", "log", "reciprocal"):
        compare(getattr(minires, name), getattr(torch, name), np.array([1, 2, 3]))


def test_methods_and_in_place_forms() -> None:
    x = values((4,), 0, 0.5, 2.0)
    for name in SMOOTH + STEPS:
        if name in ("log2", "log10"):
            continue
        t = minires.tensor(x)
        out = getattr(t, f"{name}_")()
        assert out is t
        np.testing.assert_array_equal(t.array, getattr(minires.tensor(x), name)().array)


def test_arrays_are_refused_with_the_way_out() -> None:
    with pytest.raises(DTypeError, match=r"exp: input must be a Tensor, got ndarray; wrap it with minires.from_numpy"):
        minires.exp(np.ones(2))
