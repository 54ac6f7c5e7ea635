"""The reference layer-norm and group-norm kernels against PyTorch in float64."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.kernels.reference import (
    group_norm_backward,
    group_norm_forward,
    layer_norm_backward,
    layer_norm_forward,
)
from tests.kernels.memory import assert_same_in_every_form
from tests.tolerances import tolerance
from tests.torch_oracle import torch

# A row of two near-equal values would make the derivative, and its rounding, as large as 1 / sqrt(eps).
EPS = 1e-2


def oracle(function, x, weight, bias, grad_y):
    """(y, grad_x, grad_weight, grad_bias) by PyTorch in float64."""
    x, weight, bias, grad_y = (torch.tensor(a, dtype=torch.float64) for a in (x, weight, bias, grad_y))
    leaves = [a.requires_grad_() for a in (x, weight, bias)]
    y = function(*leaves)
    return tuple(a.detach().numpy() for a in (y, *torch.autograd.grad(y, leaves, grad_y)))


@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    normalized_ndim=st.integers(1, 4),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_layer_norm_equals_torch(shape, normalized_ndim, dtype, seed):
    normalized_ndim = min(normalized_ndim, len(shape))
    normalized = tuple(shape[len(shape) - normalized_ndim :])
    random = np.random.default_rng(seed)
    x, weight, bias, grad_y = (random.standard_normal(s).astype(dtype) for s in (shape, normalized, normalized, shape))
    y, mean, var = layer_norm_forward(x, normalized_ndim, weight, bias, EPS)
    grads = layer_norm_backward(grad_y, x, normalized_ndim, weight, mean, var, EPS)
    wanted = oracle(
        lambda *a: torch.nn.functional.layer_norm(a[0], normalized, a[1], a[2], EPS), x, weight, bias, grad_y
    )
    for got, want in zip((y, *grads), wanted, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, **tolerance(dtype, 100 * max(math.prod(shape), 1)))


@given(
    n=st.integers(0, 3),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    rest=st.lists(st.integers(1, 3), max_size=2),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_group_norm_equals_torch(n, groups, per_group, rest, dtype, seed):
    c = groups * per_group
    shape = (n, c, *rest, 2)  # torch refuses a single value per group
    random = np.random.default_rng(seed)
    x, weight, bias, grad_y = (random.standard_normal(s).astype(dtype) for s in (shape, c, c, shape))
    y, mean, var = group_norm_forward(x, groups, weight, bias, EPS)
    grads = group_norm_backward(grad_y, x, groups, weight, mean, var, EPS)
    wanted = oracle(lambda *a: torch.nn.functional.group_norm(a[0], groups, a[1], a[2], EPS), x, weight, bias, grad_y)
    for got, want in zip((y, *grads), wanted, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, **tolerance(dtype, 100 * max(math.prod(shape), 1)))


def test_norms_without_affine_are_weight_one_bias_zero():
    random = np.random.default_rng(0)
    x, grad_y = random.standard_normal((2, 4, 3)), random.standard_normal((2, 4, 3))
    for forward, backward, size, shape in (
        (layer_norm_forward, layer_norm_backward, 2, (4, 3)),
        (group_norm_forward, group_norm_backward, 2, (4,)),
    ):
        one, zero = np.ones(shape), np.zeros(shape)
        y, mean, var = forward(x, size, None, None, EPS)
        np.testing.assert_array_equal(y, forward(x, size, one, zero, EPS)[0])
        for got, wanted in zip(
            backward(grad_y, x, size, None, mean, var, EPS), backward(grad_y, x, size, one, mean, var, EPS), strict=True
        ):
            np.testing.assert_array_equal(got, wanted)


def test_layer_norm_is_accurate_where_the_mean_dwarfs_the_spread():
    x = (1e4 + 0.01 * np.random.default_rng(0).standard_normal((3, 1000))).astype(np.float32)
    y, mean, var = layer_norm_forward(x, 1, None, None, 1e-12)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=1), rtol=1e-10)
    np.testing.assert_allclose(var, wide.var(axis=1), **tolerance("float32", 4))
    x_hat = (wide - wide.mean(axis=1, keepdims=True)) / wide.std(axis=1, keepdims=True)
    np.testing.assert_allclose(y, x_hat, **tolerance("float32", 16))
    # grad_y lies mostly along x_hat, where all of it must be removed again; float64 on the same numbers is the judge
    grad_y = x_hat + 0.1 * np.random.default_rng(1).standard_normal(x.shape)
    grad_x, _, _ = layer_norm_backward(grad_y.astype(np.float32), x, 1, None, mean, var, 1e-12)
    wanted, _, _ = layer_norm_backward(grad_y, wide, 1, None, mean, var, 1e-12)
    np.testing.assert_allclose(grad_x / 100, wanted / 100, **tolerance("float32", 100))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norms_take_every_memory_form(dtype):
    random = np.random.default_rng(0)
    x, grad_y = (random.standard_normal((2, 4, 3)).astype(dtype) for _ in range(2))
    for forward, backward, shape, rows in (
        (layer_norm_forward, layer_norm_backward, (4, 3), 2),
        (group_norm_forward, group_norm_backward, (4,), 4),
    ):
        weight, bias = (random.standard_normal(shape).astype(dtype) for _ in range(2))
        mean, var = random.standard_normal(rows), random.uniform(0.5, 2, rows)
        assert_same_in_every_form(lambda a, w, b, f=forward: f(a, 2, w, b, EPS), x, weight, bias)
        assert_same_in_every_form(
            lambda g, a, w, m, v, f=backward: f(g, a, 2, w, m, v, EPS), grad_y, x, weight, mean, var
        )
