"""kernels/cpu/pool.py against the reference, over windows that overlap, leave gaps, stand in the padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")

from minires.kernels import reference
from minires.kernels.cpu import pool as kernels
from minires.kernels.geometry import AdaptivePool2dGeometry, Pool2dGeometry
from tests.kernels.cpu.blocked import Unchanged, assert_blocked, blocked, numbers
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("workers", "poisoned_pool")
any_geometry = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

USUAL = [
    Pool2dGeometry(n=5, c=20, h=56, w=56, k_h=3, k_w=3, stride_h=2, stride_w=2, pad_top=1, pad_left=1),
    Pool2dGeometry(n=3, c=33, h=28, w=27, k_h=2, k_w=2, stride_h=2, stride_w=2),
    Pool2dGeometry(n=2, c=4, h=120, w=90, k_h=2, k_w=3, stride_h=1, stride_w=2, pad_left=1, ceil_mode=True),
]


@st.composite
def pools(draw, average=False):
    k_h, k_w = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    g = Pool2dGeometry(
        n=draw(st.integers(1, 3)),
        c=draw(st.integers(1, 35)),
        h=draw(st.integers(1, 9)),
        w=draw(st.integers(1, 9)),
        k_h=k_h,
        k_w=k_w,
        stride_h=draw(st.integers(1, 4)),
        stride_w=draw(st.integers(1, 4)),
        pad_top=draw(st.integers(0, k_h // 2)),
        pad_left=draw(st.integers(0, k_w // 2)),
        dilation_h=1 if average else draw(st.integers(1, 2)),
        dilation_w=1 if average else draw(st.integers(1, 2)),
        ceil_mode=draw(st.booleans()),
        count_include_pad=draw(st.booleans()),
        divisor_override=draw(st.sampled_from([0, 0, 3])) if average else 0,
    )
    assume(g.h + 2 * g.pad_top >= g.span_h and g.w + 2 * g.pad_left >= g.span_w and g.every_window_meets_x)
    return g


def few_values(shape, seed=0):
    """Small whole numbers: many maxima are equal, and sums of them exact."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def check_maximum(g, x, halo=1):
    x_blocked, grad_y = blocked(x, halo), few_values(g.y_shape, 1)
    with Unchanged(x_blocked):
        y, taps = kernels.max_pool2d_forward(x_blocked, g)
    expected, indices = reference.max_pool2d_forward(x, g)
    assert_blocked(y, expected)
    assert taps.shape == g.y_shape and taps.dtype == np.int64
    np.testing.assert_array_equal(taps.to_plain(), indices)
    grad_blocked = blocked(grad_y, halo)
    with Unchanged(grad_blocked):
        grad_x = kernels.max_pool2d_backward(grad_blocked, taps, g)
    assert_blocked(grad_x, reference.max_pool2d_backward(grad_y, indices, g))
    gathered = kernels.max_pool2d_gather(x_blocked, taps, g)
    np.testing.assert_array_equal(gathered, reference.max_pool2d_gather(x, indices, g))


def check_average(g, name, halo=1):
    x, grad_y = numbers(g.x_shape), numbers(g.y_shape, 1)
    x_blocked, grad_blocked = blocked(x, halo), blocked(grad_y, halo)
    forward, backward = f"{name}_forward", f"{name}_backward"
    with Unchanged(x_blocked, grad_blocked):
        y = getattr(kernels, forward)(x_blocked, g)
        grad_x = getattr(kernels, backward)(grad_blocked, g)
    expected = getattr(reference, forward)(x.astype(np.float64), g)
    if isinstance(y, np.ndarray):
        assert y.dtype == np.float32
        assert_close(y, expected, "float32")
        again = getattr(kernels, backward)(grad_y, g)
        np.testing.assert_array_equal(again.data, grad_x.data)
    else:
        assert_blocked(y, expected)
    assert_blocked(grad_x, getattr(reference, backward)(grad_y.astype(np.float64), g))


@any_geometry
@given(pools(), st.sampled_from([0, 1, 3]))
def test_max_pool2d_any_window(g, halo):
    check_maximum(g, few_values(g.x_shape), halo)


@pytest.mark.parametrize("g", USUAL, ids=str)
def test_max_pool2d_usual_windows(g):
    check_maximum(g, numbers(g.x_shape))


def test_max_pool2d_nan_wins_and_the_last_of_several():
    g = Pool2dGeometry(n=1, c=3, h=4, w=6, k_h=2, k_w=3, stride_h=2, stride_w=3)
    x = few_values(g.x_shape)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = np.nan  # the window goes on behind both
    x[0, 1, 0:2, 3:6] = -np.inf
    y, taps = kernels.max_pool2d_forward(blocked(x), g)
    expected, indices = reference.max_pool2d_forward(x, g)
    assert np.isnan(expected[0, 0, 0, 0])
    np.testing.assert_array_equal(y.to_plain(), expected)
    np.testing.assert_array_equal(taps.to_plain(), indices)


def test_max_pool2d_more_taps_than_a_byte_counts():
    g = Pool2dGeometry(n=2, c=5, h=40, w=40, k_h=17, k_w=19, stride_h=5, stride_w=4, pad_top=3)
    check_maximum(g, numbers(g.x_shape))


def test_max_pool2d_infinite_gradient_stays_where_it_belongs():
    g = Pool2dGeometry(n=1, c=2, h=4, w=4, k_h=3, k_w=3, stride_h=1, stride_w=1)
    x, grad_y = numbers(g.x_shape), np.full(g.y_shape, np.inf, np.float32)
    _, taps = kernels.max_pool2d_forward(blocked(x), g)
    grad_x = kernels.max_pool2d_backward(blocked(grad_y), taps, g).to_plain()
    assert np.isin(grad_x, (0, np.inf)).all() and np.isinf(grad_x).any()


def test_taps_copy_has_memory_of_its_own():
    g = USUAL[1]
    _, taps = kernels.max_pool2d_forward(blocked(numbers(g.x_shape)), g)
    copy, before = taps.copy(), taps.to_plain()
    taps.data[...] = 0
    np.testing.assert_array_equal(copy.to_plain(), before)


@any_geometry
@given(pools(average=True), st.sampled_from([0, 1, 3]))
def test_avg_pool2d_any_window(g, halo):
    check_average(g, "avg_pool2d", halo)


@pytest.mark.parametrize("g", USUAL, ids=str)
def test_avg_pool2d_usual_windows(g):
    check_average(g, "avg_pool2d")


@any_geometry
@given(*[st.integers(1, size) for size in (3, 35, 9, 9, 5, 5)], st.sampled_from([0, 1, 3]))
def test_adaptive_avg_pool2d_any_size(n, c, h, w, h_out, w_out, halo):
    check_average(AdaptivePool2dGeometry(n, c, h, w, h_out, w_out), "adaptive_avg_pool2d", halo)


@pytest.mark.parametrize("shape", [(130, 40, 7, 7), (3, 16, 80, 70)])
def test_adaptive_avg_pool2d_one_mean_a_channel(shape):
    check_average(AdaptivePool2dGeometry(*shape, 1, 1), "adaptive_avg_pool2d")


def test_pooling_empty_batch():
    g, one = Pool2dGeometry(0, 20, 8, 8, 2, 2, 2, 2), AdaptivePool2dGeometry(0, 20, 8, 8, 1, 1)
    x = kernels.Blocked(g.x_shape)
    y, taps = kernels.max_pool2d_forward(x, g)
    assert y.shape == taps.to_plain().shape == (0, 20, 4, 4)
    assert kernels.max_pool2d_backward(y, taps, g).shape == g.x_shape
    assert kernels.avg_pool2d_backward(kernels.avg_pool2d_forward(x, g), g).shape == g.x_shape
    assert kernels.adaptive_avg_pool2d_backward(kernels.adaptive_avg_pool2d_forward(x, one), one).shape == g.x_shape
