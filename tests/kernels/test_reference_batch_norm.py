"""The reference batch-norm kernels against PyTorch in float64, exact arithmetic, and each other."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.kernels.reference import (
    batch_norm_eval,
    batch_norm_eval_backward,
    batch_norm_train,
    batch_norm_train_backward,
)
from tests.kernels.memory import assert_same_in_every_form, poisoned_memory  # noqa: F401 (a fixture)
from tests.tolerances import tolerance
from tests.torch_oracle import torch

EPS = 1e-5
SHAPES = st.one_of(
    st.tuples(st.integers(2, 6), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(2, 4)),
)


def draw_arrays(shape, dtype="float64", seed=0):
    """(x, weight, bias, grad_y), the channels far from zero mean and unit spread."""
    random = np.random.default_rng(seed)
    c = shape[1]
    spread = random.uniform(0.5, 2, c).reshape(1, c, *[1] * (len(shape) - 2))
    x = random.standard_normal(shape) * spread + random.standard_normal(spread.shape)
    return tuple(
        a.astype(dtype)
        for a in (x, random.standard_normal(c), random.standard_normal(c), random.standard_normal(shape))
    )


def torch_batch_norm(x, weight, bias, grad_y, mean=None, var=None):
    """(y, grad_x, grad_weight, grad_bias) by PyTorch in float64; in training where no statistics are given."""
    x, weight, bias, grad_y = (torch.tensor(a, dtype=torch.float64) for a in (x, weight, bias, grad_y))
    leaves = [a.requires_grad_() for a in (x, weight, bias)]
    statistics = [None if s is None else torch.tensor(s, dtype=torch.float64) for s in (mean, var)]
    y = torch.nn.functional.batch_norm(x, *statistics, weight, bias, training=mean is None, eps=EPS)
    return tuple(a.detach().numpy() for a in (y, *torch.autograd.grad(y, leaves, grad_y)))


@given(shape=SHAPES, dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_batch_norm_train_equals_torch(shape, dtype, seed):
    x, weight, bias, grad_y = draw_arrays(shape, dtype, seed)
    y, mean, var = batch_norm_train(x, weight, bias, EPS)
    grads = batch_norm_train_backward(grad_y, x, weight, mean, var, EPS)
    axes = (0, *range(2, len(shape)))
    np.testing.assert_allclose(mean, x.mean(axes, dtype=np.float64), **tolerance(dtype))
    np.testing.assert_allclose(var, x.var(axes, dtype=np.float64), **tolerance(dtype))
    # two values per channel may lie close together: the derivative then grows as 1 / std
    n = x.size // shape[1] * max(1.0, 1 / np.sqrt(var.min() + EPS)) ** 2
    for got, wanted in zip((y, *grads), torch_batch_norm(x, weight, bias, grad_y), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, wanted, **tolerance(dtype, int(n)))


@given(shape=SHAPES, dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_batch_norm_eval_equals_torch(shape, dtype, seed):
    x, weight, bias, grad_y = draw_arrays(shape, dtype, seed)
    random = np.random.default_rng(seed + 1)
    mean, var = random.standard_normal(shape[1]).astype(dtype), random.uniform(0.5, 2, shape[1]).astype(dtype)
    y = batch_norm_eval(x, weight, bias, mean, var, EPS)
    grads = batch_norm_eval_backward(grad_y, x, weight, mean, var, EPS)
    for got, wanted in zip((y, *grads), torch_batch_norm(x, weight, bias, grad_y, mean, var), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, wanted, **tolerance(dtype, x.size))


def test_batch_norm_train_follows_its_loop_nest():
    x, weight, bias, _ = draw_arrays((2, 3, 2, 2))
    y, mean, var = batch_norm_train(x, weight, bias, EPS)
    for ch in range(3):
        values = [x[b, ch, i, j] for b in range(2) for i in range(2) for j in range(2)]
        m = sum(values) / 8
        v = sum((value - m) ** 2 for value in values) / 8
        np.testing.assert_allclose([mean[ch], var[ch]], [m, v], **tolerance("float64", 8))
        np.testing.assert_allclose(
            y[:, ch], (x[:, ch] - m) / (v + EPS) ** 0.5 * weight[ch] + bias[ch], **tolerance("float64", 8)
        )


def test_batch_norm_train_without_affine_is_weight_one_bias_zero():
    x, _, _, grad_y = draw_arrays((3, 4, 2))
    one, zero = np.ones(4), np.zeros(4)
    y, mean, var = batch_norm_train(x, None, None, EPS)
    np.testing.assert_array_equal(y, batch_norm_train(x, one, zero, EPS)[0])
    np.testing.assert_array_equal(
        batch_norm_eval(x, None, None, mean, var, EPS), batch_norm_eval(x, one, zero, mean, var, EPS)
    )
    for backward in (batch_norm_train_backward, batch_norm_eval_backward):
        for got, wanted in zip(
            backward(grad_y, x, None, mean, var, EPS), backward(grad_y, x, one, mean, var, EPS), strict=True
        ):
            np.testing.assert_array_equal(got, wanted)


def test_batch_norm_train_is_accurate_where_the_mean_dwarfs_the_spread():
    """Mean 10,000, deviation 0.01: E[x^2] - E[x]^2 in float32 has no correct digit (even its sign is luck)."""
    random = np.random.default_rng(0)
    x = (1e4 + 0.01 * random.standard_normal((64, 2, 8, 8))).astype(np.float32)
    y, mean, var = batch_norm_train(x, None, None, 1e-12)
    for ch in range(2):
        exact = [Fraction(float(value)) for value in x[:, ch].ravel()]
        m = sum(exact) / len(exact)
        v = sum((value - m) ** 2 for value in exact) / len(exact)
        np.testing.assert_allclose(mean[ch], float(m), rtol=1e-11)
        np.testing.assert_allclose(var[ch], float(v), **tolerance("float32"))
        x_hat = np.array([float(value - m) for value in exact]) / float(v) ** 0.5
        np.testing.assert_allclose(y[:, ch].ravel(), x_hat, **tolerance("float32", 4))


def test_batch_norm_train_backward_is_accurate_where_the_mean_dwarfs_the_spread():
    """grad_y lies mostly along x_hat, where all of it must be removed again; float64 is the judge."""
    random = np.random.default_rng(0)
    x = (1e4 + 0.01 * random.standard_normal((64, 2, 8, 8))).astype(np.float32)
    wide = x.astype(np.float64)
    _, mean, var = batch_norm_train(wide, None, None, 1e-12)
    # The 1 gives grad_y a sum, without which an error in the mean would not show in grad_weight.
    grad_y = (wide - mean.reshape(2, 1, 1)) * 100 + 1 + 0.1 * random.standard_normal(x.shape)
    for got, wanted in zip(
        batch_norm_train_backward(grad_y.astype(np.float32), x, None, mean, var, 1e-12),
        batch_norm_train_backward(grad_y, wide, None, mean, var, 1e-12),
        strict=True,
    ):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(got / scale, wanted / scale, **tolerance("float32", 100))


@pytest.mark.parametrize("shape", [(1, 1, 10**6), (10**5, 1, 2)])
def test_batch_norm_train_statistics_do_not_degrade_with_the_count(shape):
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    _, mean, var = batch_norm_train(x, None, None, EPS)
    np.testing.assert_allclose(mean, x.mean(dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(var, x.var(dtype=np.float64), **tolerance("float32"))


def test_batch_norm_train_constant_channel_gives_bias():
    x = np.full((3, 2, 4), 0.1, np.float32)
    y, _, var = batch_norm_train(x, np.array([2.0, 3.0], np.float32), np.array([5.0, -1.0], np.float32), EPS)
    assert (var >= 0).all() and (var < 1e-14).all()
    np.testing.assert_allclose(y[:, 0], 5.0, **tolerance("float32"))
    np.testing.assert_allclose(y[:, 1], -1.0, **tolerance("float32"))


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (0, 3, 4, 4), (2, 3, 0)])
def test_batch_norm_empty_batch(shape, poisoned_memory):  # noqa: F811
    x = np.zeros(shape, np.float32)
    y, mean, var = batch_norm_train(x, None, None, EPS)
    assert y.shape == shape and y.dtype == np.float32
    np.testing.assert_array_equal([mean, var], np.zeros((2, 3)))
    assert batch_norm_eval(x, None, None, mean, var, EPS).shape == shape
    for backward in (batch_norm_train_backward, batch_norm_eval_backward):
        grad_x, grad_weight, grad_bias = backward(x, x, None, mean, var, EPS)
        assert grad_x.shape == shape
        np.testing.assert_array_equal([grad_weight, grad_bias], np.zeros((2, 3)))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batch_norm_takes_every_memory_form(shape, dtype):
    x, weight, bias, grad_y = draw_arrays(shape, dtype)
    mean, var = weight * 0.5, bias**2 + 0.5
    assert_same_in_every_form(lambda *a: batch_norm_train(*a, EPS), x, weight, bias)
    assert_same_in_every_form(lambda *a: batch_norm_eval(*a, EPS), x, weight, bias, mean, var)
    assert_same_in_every_form(lambda *a: batch_norm_train_backward(*a, EPS), grad_y, x, weight, mean, var)
    assert_same_in_every_form(lambda *a: batch_norm_eval_backward(*a, EPS), grad_y, x, weight, mean, var)


def test_batch_norm_train_backward_is_orthogonal_to_what_normalisation_removes():
    """y does not change when a channel is shifted or (eps aside) scaled: grad_x has no part along 1 and along x_hat."""
    x, weight, _, grad_y = draw_arrays((4, 3, 5))
    _, mean, var = batch_norm_train(x, weight, None, 0.0)
    grad_x, _, _ = batch_norm_train_backward(grad_y, x, weight, mean, var, 0.0)
    np.testing.assert_allclose(grad_x.sum(axis=(0, 2)), 0, **tolerance("float64", 20))
    np.testing.assert_allclose((grad_x * (x - mean[:, None])).sum(axis=(0, 2)), 0, **tolerance("float64", 20))


def test_batch_norm_nan_stays_in_its_channel():
    x, _, _, _ = draw_arrays((3, 2, 4))
    x[1, 0, 2] = np.nan
    y, _, _ = batch_norm_train(x, None, None, EPS)
    assert np.isnan(y[:, 0]).all() and np.isfinite(y[:, 1]).all()
