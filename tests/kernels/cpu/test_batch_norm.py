"""kernels/cpu/batch_norm.py against the reference in float64, and where rounding would hurt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")

from minires.kernels import reference
from minires.kernels.cpu import batch_norm as kernels
from minires.kernels.cpu.layout import Blocked
from tests.kernels.cpu.blocked import Unchanged, assert_blocked, blocked, draw_shape, numbers
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("workers", "poisoned_pool")
EPS = 1e-5
any_shape = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

# Beside what hypothesis draws: many pieces of many images, pieces of rows, several patches a piece, one pixel a plane.
LARGE = [(70, 20, 8, 8), (2, 17, 70, 61), (9, 16, 30, 40), (5000, 3, 1, 1)]


def wide(*arrays):
    return [None if a is None else np.asarray(a, np.float64) for a in arrays]


def check_forward(shape, affine=True, with_shortcut=True, halo=1):
    x, shortcut = numbers(shape, 1), numbers(shape, 2)
    weight, bias = (numbers(shape[1], 3), numbers(shape[1], 4)) if affine else (None, None)
    x_blocked, s_blocked = blocked(x, halo), blocked(shortcut)
    with Unchanged(x_blocked, s_blocked):
        y, mean, var = kernels.batch_norm_train(x_blocked, weight, bias, EPS)
        joined = kernels.batch_norm_relu_train(x_blocked, weight, bias, EPS, s_blocked if with_shortcut else None)
        given_y = kernels.batch_norm_eval(x_blocked, weight, bias, mean, var, EPS)
        given_joined = kernels.batch_norm_relu_eval(
            x_blocked, weight, bias, mean, var, EPS, s_blocked if with_shortcut else None
        )
    expected, *statistics = reference.batch_norm_train(*wide(x, weight, bias), EPS)
    for actual, wanted in zip((mean, var), statistics, strict=True):
        assert actual.dtype == np.float64
        assert_close(actual, wanted, "float32")
    assert_blocked(y, expected, what="batch_norm_train")
    assert_blocked(given_y, expected, what="batch_norm_eval")
    expected = np.maximum(expected + shortcut if with_shortcut else expected, 0)
    assert_blocked(joined[0], expected, what="batch_norm_relu_train")
    assert_blocked(given_joined, expected, what="batch_norm_relu_eval")
    np.testing.assert_array_equal(joined[1:], (mean, var))


def check_backward(shape, affine=True, has_shortcut=True, halo=1):
    x, grad_y, y = numbers(shape, 1), numbers(shape, 2), np.maximum(numbers(shape, 5), 0)
    weight = numbers(shape[1], 3) if affine else None
    count = shape[0] * shape[2] * shape[3]
    # statistics are the kernel's business; well away from a variance of 0, where every rounding is divided by eps
    mean, var = x.mean((0, 2, 3), dtype=np.float64), x.var((0, 2, 3), dtype=np.float64) + 0.5
    inputs = blocked(grad_y), blocked(y), blocked(x, halo)
    with Unchanged(*inputs):
        for name in ("train", "eval"):
            plain = getattr(kernels, f"batch_norm_{name}_backward")(*inputs[::2], weight, mean, var, EPS)
            masked = getattr(kernels, f"batch_norm_relu_{name}_backward")(*inputs, weight, mean, var, EPS, has_shortcut)
            expected = getattr(reference, f"batch_norm_{name}_backward")(*wide(grad_y, x, weight), mean, var, EPS)
            check_gradients(plain, expected, count, f"batch_norm_{name}_backward")
            expected = getattr(reference, f"batch_norm_relu_{name}_backward")(
                *wide(grad_y, y, x, weight), mean, var, EPS, True
            )
            check_gradients(masked[:3], expected[:3], count, f"batch_norm_relu_{name}_backward")
            if has_shortcut:
                assert_blocked(masked[3], expected[3], what="grad_shortcut")
            else:
                assert masked[3] is None


def check_gradients(actual, expected, count, what):
    assert_blocked(actual[0], expected[0], what=f"{what}: grad_x")
    for name, a, e in zip(("grad_weight", "grad_bias"), actual[1:], expected[1:], strict=True):
        assert a.dtype == np.float32
        assert_close(a, e, "float32", n=count, what=f"{what}: {name}")


@any_shape
@given(draw_shape(), st.booleans(), st.booleans(), st.sampled_from([0, 1, 3]))
def test_batch_norm_forward_any_shape(shape, affine, with_shortcut, halo):
    check_forward(shape, affine, with_shortcut, halo)


@any_shape
@given(draw_shape(), st.booleans(), st.booleans(), st.sampled_from([0, 1, 3]))
def test_batch_norm_backward_any_shape(shape, affine, has_shortcut, halo):
    check_backward(shape, affine, has_shortcut, halo)


@pytest.mark.parametrize("shape", LARGE)
def test_batch_norm_many_pieces(shape):
    check_forward(shape)
    check_backward(shape)
    check_backward(shape, has_shortcut=False)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("mean", [1e3, -3e4])
def test_statistics_mean_far_above_the_spread(shape, mean):
    x = numbers(shape) + np.float32(mean)
    actual_mean, actual_var = kernels.statistics(blocked(x))
    assert_close(actual_mean / mean, x.mean((0, 2, 3), dtype=np.float64) / mean, "float64")
    assert_close(actual_var, x.var((0, 2, 3), dtype=np.float64), "float32")


def test_batch_norm_mean_far_above_the_spread():
    """Neither pass may add and subtract numbers of the mean's size; float32 resolves 2e-3 there, x itself is exact."""
    noise = numbers((9, 16, 10, 10), 1)
    x, grad_y = noise + np.float32(30000.1), 3 * noise  # grad_y along x: its second sum is large
    weight, bias = numbers(16, 3), numbers(16, 4)
    y, mean, var = kernels.batch_norm_train(blocked(x), weight, bias, EPS)
    expected, *statistics = reference.batch_norm_train(*wide(x, weight, bias), EPS)
    assert_blocked(y, expected)
    gradients = kernels.batch_norm_train_backward(blocked(grad_y), blocked(x), weight, mean, var, EPS)
    expected = reference.batch_norm_train_backward(*wide(grad_y, x, weight), *statistics, EPS)
    check_gradients(gradients, expected, 900, "backward")


def test_statistics_images_of_different_brightness():
    """A piece's guess is the mean of its first image: here it is far from that of the others."""
    x = numbers((64, 16, 12, 12)) + np.where(np.arange(64) % 28 == 0, 100, -100).astype(np.float32)[:, None, None, None]
    mean, var = kernels.statistics(blocked(x))
    assert_close(mean, x.mean((0, 2, 3), dtype=np.float64), "float32")
    assert_close(var, x.var((0, 2, 3), dtype=np.float64), "float32")


def test_statistics_constant_channel_has_no_variance():
    x = np.full((3, 17, 5, 6), 0.1, np.float32)
    mean, var = kernels.statistics(blocked(x))
    np.testing.assert_array_equal(mean, np.full(17, np.float32(0.1), np.float64))
    np.testing.assert_array_equal(var, np.zeros(17))


def test_batch_norm_same_bits_for_any_number_of_workers(monkeypatch):
    x, grad_y = blocked(numbers((40, 33, 11, 13), 1)), blocked(numbers((40, 33, 11, 13), 2))
    weight = numbers(33, 3)
    results = []
    for count in (1, 2):
        monkeypatch.setattr("minires.kernels.cpu.tasks._workers", count)
        y, mean, var = kernels.batch_norm_relu_train(x, weight, weight, EPS, grad_y)
        results.append(
            [y, mean, var, *kernels.batch_norm_relu_train_backward(grad_y, y, x, weight, mean, var, EPS, True)]
        )
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(*(a.data if isinstance(a, Blocked) else a for a in (one, two)))


def test_batch_norm_relu_keeps_nan():
    x = numbers((2, 16, 3, 3))
    x[1, 4, 1, 2] = np.nan
    y, mean, _ = kernels.batch_norm_relu_train(blocked(x), None, None, EPS)
    plain = y.to_plain()
    assert np.isnan(plain[:, 4]).all() and np.isnan(mean[4])
    assert np.isfinite(np.delete(plain, 4, 1)).all()


def test_batch_norm_relu_backward_nan_in_y_lets_the_gradient_through():
    y, grad_y, x = np.zeros((1, 16, 2, 3), np.float32), numbers((1, 16, 2, 3), 1), numbers((1, 16, 2, 3), 2)
    y[0, 3, 1, 1] = np.nan
    grads = kernels.batch_norm_relu_eval_backward(
        blocked(grad_y), blocked(y), blocked(x), None, np.zeros(16), np.ones(16), 0.0, True
    )
    expected = np.zeros_like(grad_y)
    expected[0, 3, 1, 1] = grad_y[0, 3, 1, 1]
    np.testing.assert_array_equal(grads[3].to_plain(), expected)
    np.testing.assert_array_equal(grads[0].to_plain(), expected)


@pytest.mark.parametrize("shape", [(0, 20, 4, 5), (3, 20, 0, 5)])
def test_batch_norm_empty_batch(shape):
    x = Blocked(shape)
    y, mean, var = kernels.batch_norm_relu_train(x, numbers(20), None, EPS, x)
    assert y.shape == shape
    np.testing.assert_array_equal([mean, var], np.zeros((2, 20)))
    grad_x, grad_weight, grad_bias, grad_shortcut = kernels.batch_norm_relu_train_backward(
        x, x, x, None, mean, var, EPS, True
    )
    assert grad_x.shape == grad_shortcut.shape == shape
    np.testing.assert_array_equal([grad_weight, grad_bias], np.zeros((2, 20)))
