"""Errors relative to float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minires.bench.verify import LIMITS, error_of, relative_error


def test_relative_error_is_a_ratio_of_root_mean_squares() -> None:
    expected = np.array([3.0, -3.0, 3.0, -3.0])
    assert relative_error(expected.astype(np.float32), expected) == 0
    assert relative_error(expected + np.array([0.06, 0, 0, 0]), expected) == pytest.approx(0.01)


def test_relative_error_of_what_cannot_be_compared_is_infinite() -> None:
    expected = np.ones((2, 3))
    for got in (np.ones((3, 2)), np.ones((1, 3)), np.full((2, 3), np.nan), np.full((2, 3), np.inf)):
        assert relative_error(got, expected) == math.inf
    assert relative_error(np.full(2, 1e-9), np.zeros(2)) == math.inf  # zeros have no size to be relative to
    assert relative_error(np.zeros(2), np.zeros(2)) == 0


def test_error_of_names_the_worst_array() -> None:
    expected = {"a": np.ones(4), "b": np.ones(4)}
    assert error_of({"a": np.ones(4), "b": np.full(4, 1.5)}, expected) == (0.5, "b")
    assert error_of({"a": np.ones(4)}, expected) == (math.inf, "b")
    assert error_of({**expected, "c": np.ones(4)}, expected) == (math.inf, "c")


def test_error_of_measures_a_vanishing_gradient_against_all_gradients() -> None:
    expected = {"gradient/big": np.ones(4), "gradient/nothing": np.full(4, 1e-12)}
    error, where = error_of({"gradient/big": np.ones(4), "gradient/nothing": np.full(4, 1e-8)}, expected)
    assert where == "gradient/nothing"
    assert error == pytest.approx(1e-8 / (1e-3 * 0.5**0.5), rel=1e-3)
    lost = {"gradient/big": np.ones(4), "gradient/nothing": np.ones(4)}
    assert error_of(lost, expected)[0] > LIMITS["train"]


def test_one_wrong_logit_in_a_large_batch_is_above_the_limit() -> None:
    expected = np.random.default_rng(0).standard_normal((128, 1000))
    got = expected.copy()
    got[77, 500] += 1.0
    assert relative_error(got, expected) > LIMITS["infer"]
