"""The fused reference kernels against the separate ones, to the last bit, and against PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.kernels import reference
from minires.kernels.reference import (
    batch_norm_relu_eval,
    batch_norm_relu_eval_backward,
    batch_norm_relu_train,
    batch_norm_relu_train_backward,
)
from tests.kernels.memory import assert_same_in_every_form, poisoned_memory  # noqa: F401 (a fixture)
from tests.kernels.test_reference_batch_norm import EPS, SHAPES, draw_arrays
from tests.tolerances import tolerance
from tests.torch_oracle import torch

DTYPES = ["float32", "float64"]


def draw(shape, dtype="float64", seed=0):
    """(x, weight, bias, grad_y, shortcut, mean, var)."""
    random = np.random.default_rng(seed + 1000)
    c = shape[1]
    more = (random.standard_normal(shape), random.standard_normal(c), random.uniform(0.5, 2, c))
    return *draw_arrays(shape, dtype, seed), *(a.astype(dtype) for a in more)


def assert_equal(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), affine=st.booleans(), joined=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_batch_norm_relu_train_equals_its_parts(shape, dtype, affine, joined, seed):
    x, weight, bias, grad_y, shortcut, _, _ = draw(shape, dtype, seed)
    if not affine:
        weight = bias = None
    z, *statistics = reference.batch_norm_train(x, weight, bias, EPS)
    wanted = reference.residual_relu_forward(z, shortcut) if joined else reference.relu_forward(z)
    y, *got = batch_norm_relu_train(x, weight, bias, EPS, shortcut if joined else None)
    assert_equal((y, *got), (wanted, *statistics))
    masked = reference.relu_backward(grad_y, y)
    parts = reference.batch_norm_train_backward(masked, x, weight, *statistics, EPS)
    grads = batch_norm_relu_train_backward(grad_y, y, x, weight, *statistics, EPS, joined)
    assert_equal(grads, (*parts, masked if joined else None))


@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), affine=st.booleans(), joined=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_batch_norm_relu_eval_equals_its_parts(shape, dtype, affine, joined, seed):
    x, weight, bias, grad_y, shortcut, mean, var = draw(shape, dtype, seed)
    if not affine:
        weight = bias = None
    z = reference.batch_norm_eval(x, weight, bias, mean, var, EPS)
    wanted = reference.residual_relu_forward(z, shortcut) if joined else reference.relu_forward(z)
    y = batch_norm_relu_eval(x, weight, bias, mean, var, EPS, shortcut if joined else None)
    assert_equal((y,), (wanted,))
    masked = reference.relu_backward(grad_y, y)
    parts = reference.batch_norm_eval_backward(masked, x, weight, mean, var, EPS)
    grads = batch_norm_relu_eval_backward(grad_y, y, x, weight, mean, var, EPS, joined)
    assert_equal(grads, (*parts, masked if joined else None))


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_relu_equals_torch(dtype, training, joined):
    """The judge computes in float64, from the same numbers."""
    x, weight, bias, grad_y, shortcut, mean, var = draw((3, 4, 5, 6), dtype)
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, weight, bias, shortcut)]
    statistics = [None if training else torch.tensor(s, dtype=torch.float64) for s in (mean, var)]
    z = torch.nn.functional.batch_norm(leaves[0], *statistics, *leaves[1:3], training=training, eps=EPS)
    wanted = torch.relu(z + leaves[3] if joined else z)
    grads = torch.autograd.grad(wanted, leaves[: 3 + joined], torch.tensor(grad_y, dtype=torch.float64))

    given_shortcut = shortcut if joined else None
    if training:
        y, mean, var = batch_norm_relu_train(x, weight, bias, EPS, given_shortcut)
        got = batch_norm_relu_train_backward(grad_y, y, x, weight, mean, var, EPS, joined)
    else:
        y = batch_norm_relu_eval(x, weight, bias, mean, var, EPS, given_shortcut)
        got = batch_norm_relu_eval_backward(grad_y, y, x, weight, mean, var, EPS, joined)
    for a, b in zip((y, *got[: 3 + joined]), (wanted, *grads), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b.detach().numpy(), **tolerance(dtype, x.size))


def test_batch_norm_relu_follows_its_loop_nest():
    x, weight, bias, _, shortcut, _, _ = draw((2, 3, 4))
    y, mean, var = batch_norm_relu_train(x, weight, bias, EPS, shortcut)
    wanted = np.empty_like(x)
    for b in range(2):
        for ch in range(3):
            for i in range(4):
                z = (x[b, ch, i] - mean[ch]) / (var[ch] + EPS) ** 0.5 * weight[ch] + bias[ch]
                wanted[b, ch, i] = max(z + shortcut[b, ch, i], 0)
    assert (wanted == 0).any() and (wanted > 0).any()
    np.testing.assert_allclose(y, wanted, **tolerance("float64", 8))


@pytest.mark.parametrize("has_shortcut", [True, False])
@pytest.mark.parametrize("backward", [batch_norm_relu_train_backward, batch_norm_relu_eval_backward])
def test_batch_norm_relu_backward_takes_its_mask_from_y(backward, has_shortcut):
    """At 0 the gradient is 0, were it infinite; a NaN in y lets it through."""
    x, weight, _, grad_y, _, mean, var = draw((3, 2, 2))
    y = np.array([[[0.0, -0.0], [1, 2]], [[np.nan, 0], [0, 0]], [[1e-320, 1], [0, 3]]])
    grad_y[0, 0] = np.inf, -np.inf
    grad_x, grad_weight, grad_bias, grad_shortcut = backward(grad_y, y, x, weight, mean, var, EPS, has_shortcut)
    masked = np.where(y <= 0, 0, grad_y)
    assert np.isfinite(grad_x).all() and np.isfinite(grad_weight).all()
    np.testing.assert_allclose(grad_bias, masked.sum(axis=(0, 2)), **tolerance("float64"))
    if has_shortcut:
        np.testing.assert_array_equal(grad_shortcut, masked)
    else:
        assert grad_shortcut is None


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (0, 3, 4, 4), (2, 3, 0)])
def test_batch_norm_relu_empty_batch(shape, poisoned_memory):  # noqa: F811
    x = np.zeros(shape, np.float32)
    y, mean, var = batch_norm_relu_train(x, None, None, EPS, x)
    assert y.shape == shape and y.dtype == np.float32
    np.testing.assert_array_equal([mean, var], np.zeros((2, 3)))
    assert batch_norm_relu_eval(x, None, None, mean, var, EPS, x).shape == shape
    for backward in (batch_norm_relu_train_backward, batch_norm_relu_eval_backward):
        grad_x, grad_weight, grad_bias, grad_shortcut = backward(x, x, x, None, mean, var, EPS, True)
        assert grad_x.shape == grad_shortcut.shape == shape
        np.testing.assert_array_equal([grad_weight, grad_bias], np.zeros((2, 3)))


def test_batch_norm_relu_leaves_no_element_unwritten(poisoned_memory):  # noqa: F811
    x, weight, bias, grad_y, shortcut, mean, var = draw((2, 3, 5, 7))
    y, *statistics = batch_norm_relu_train(x, weight, bias, EPS, shortcut)
    z = batch_norm_relu_eval(x, weight, bias, mean, var, EPS, shortcut)
    grads = batch_norm_relu_train_backward(grad_y, y, x, weight, *statistics, EPS, True)
    more = batch_norm_relu_eval_backward(grad_y, z, x, weight, mean, var, EPS, True)
    assert all(np.isfinite(a).all() for a in (y, z, *statistics, *grads, *more))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_relu_takes_every_memory_form(shape, dtype):
    x, weight, bias, grad_y, shortcut, mean, var = draw(shape, dtype)
    y = np.maximum(shortcut, 0)
    assert_same_in_every_form(lambda x, w, b, s: batch_norm_relu_train(x, w, b, EPS, s), x, weight, bias, shortcut)
    assert_same_in_every_form(lambda x, w, b: batch_norm_relu_train(x, w, b, EPS), x, weight, bias)
    assert_same_in_every_form(
        lambda x, w, b, m, v, s: batch_norm_relu_eval(x, w, b, m, v, EPS, s), x, weight, bias, mean, var, shortcut
    )
    for backward in (batch_norm_relu_train_backward, batch_norm_relu_eval_backward):
        assert_same_in_every_form(
            lambda *a, kernel=backward: kernel(*a, EPS, True), grad_y, y, x, weight, mean.astype("f8"), var.astype("f8")
        )


def test_batch_norm_relu_nan_and_infinity_stay_in_their_channel():
    x, _, _, _, shortcut, _, _ = draw((3, 2, 4))
    x[1, 0, 2] = np.nan
    y, _, _ = batch_norm_relu_train(x, None, None, EPS)
    assert np.isnan(y[:, 0]).all() and np.isfinite(y[:, 1]).all()
    x[1, 0, 2] = 0
    shortcut[0, 1, 1], shortcut[0, 1, 2] = np.nan, np.inf
    y, _, _ = batch_norm_relu_train(x, None, None, EPS, shortcut)
    assert np.isnan(y[0, 1, 1]) and y[0, 1, 2] == np.inf and np.isfinite(y).sum() == y.size - 2
