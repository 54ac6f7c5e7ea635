"""The reference pooling kernels against PyTorch in float64, and the rules for ties, NaN, infinities and padding."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minires.kernels.geometry import AdaptivePool2dGeometry, Pool2dGeometry
from minires.kernels.reference import (
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool2d_forward,
    adaptive_max_pool2d_forward,
    avg_pool2d_backward,
    avg_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
    max_pool2d_gather,
)
from tests.kernels.memory import assert_same_in_every_form, poisoned_memory  # noqa: F401 (a fixture)
from tests.tolerances import tolerance
from tests.torch_oracle import torch

nan, inf = np.nan, np.inf


@st.composite
def geometries(draw, dilated):
    """Small poolings of every kind: overlapping and gapped windows, remainders, ceil_mode; dilation for maxima only."""
    k_h, k_w = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    dilation_h, dilation_w = (draw(st.integers(1, 3)) if dilated else 1 for _ in range(2))
    pad_top, pad_left = draw(st.integers(0, k_h // 2)), draw(st.integers(0, k_w // 2))
    least_h = max(1, (k_h - 1) * dilation_h + 1 - 2 * pad_top)
    least_w = max(1, (k_w - 1) * dilation_w + 1 - 2 * pad_left)
    g = Pool2dGeometry(
        n=draw(st.integers(0, 2)),
        c=draw(st.integers(1, 3)),
        h=least_h + draw(st.integers(0, 7)),
        w=least_w + draw(st.integers(0, 7)),
        k_h=k_h,
        k_w=k_w,
        stride_h=draw(st.integers(1, 4)),
        stride_w=draw(st.integers(1, 4)),
        pad_top=pad_top,
        pad_left=pad_left,
        dilation_h=dilation_h,
        dilation_w=dilation_w,
        ceil_mode=draw(st.booleans()),
        count_include_pad=draw(st.booleans()),
        divisor_override=0 if dilated else draw(st.sampled_from([0, 0, 1, 7])),
    )
    assume(g.every_window_meets_x)  # the op refuses the others: PyTorch's index of such a window lies outside x
    return g


def torch_max_pool2d(x, g):
    return torch.nn.functional.max_pool2d(
        x,
        (g.k_h, g.k_w),
        (g.stride_h, g.stride_w),
        (g.pad_top, g.pad_left),
        (g.dilation_h, g.dilation_w),
        ceil_mode=g.ceil_mode,
        return_indices=True,
    )


def torch_avg_pool2d(x, g):
    return torch.nn.functional.avg_pool2d(
        x,
        (g.k_h, g.k_w),
        (g.stride_h, g.stride_w),
        (g.pad_top, g.pad_left),
        g.ceil_mode,
        g.count_include_pad,
        g.divisor_override or None,
    )


def with_gradient(pool, x, seed=1):
    """(outputs, grad_y, grad_x) of PyTorch's `pool` at x, as arrays; grad_y is drawn."""
    x = torch.tensor(x, requires_grad=True)
    outputs = pool(x)
    y = outputs[0] if isinstance(outputs, tuple) else outputs
    grad_y = np.random.default_rng(seed).standard_normal(y.shape).astype(y.detach().numpy().dtype)
    (grad_x,) = torch.autograd.grad(y, x, torch.tensor(grad_y))
    outputs = tuple(o.detach().numpy() for o in outputs) if isinstance(outputs, tuple) else y.detach().numpy()
    return outputs, grad_y, grad_x.numpy()


def coarse(g, seed):
    """Whole numbers from -2 to 2, so that most windows have ties; some NaN and infinities."""
    random = np.random.default_rng(seed)
    x = random.integers(-2, 3, g.x_shape).astype(np.float64)
    for value in (nan, inf, -inf):
        x[random.random(g.x_shape) < 0.05] = value
    return x


@settings(max_examples=200, deadline=None)
@given(geometries(dilated=True), st.integers(0, 100))
def test_max_pool2d_kernels_match_torch(g, seed):
    x = coarse(g, seed)
    (y, indices), grad_y, grad_x = with_gradient(lambda t: torch_max_pool2d(t, g), x)
    got, got_indices = max_pool2d_forward(x, g)
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(got_indices, indices)
    assert got_indices.dtype == np.int64
    np.testing.assert_allclose(max_pool2d_backward(grad_y, indices, g), grad_x, **tolerance("float64", g.k_h * g.k_w))
    np.testing.assert_array_equal(max_pool2d_gather(x, got_indices, g), y)


@settings(max_examples=200, deadline=None)
@given(geometries(dilated=False), st.sampled_from(["float32", "float64"]))
def test_avg_pool2d_kernels_match_torch(g, dtype):
    x = np.random.default_rng(0).standard_normal(g.x_shape)
    y, grad_y, grad_x = with_gradient(lambda t: torch_avg_pool2d(t, g), x)
    close = tolerance(dtype, g.k_h * g.k_w)
    got = avg_pool2d_forward(x.astype(dtype), g)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, y, **close)
    np.testing.assert_allclose(avg_pool2d_backward(grad_y.astype(dtype), g), grad_x, **close)


@st.composite
def adaptive_geometries(draw):
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return AdaptivePool2dGeometry(
        draw(st.integers(0, 2)), draw(st.integers(1, 3)), h, w, draw(st.integers(1, 10)), draw(st.integers(1, 10))
    )


@settings(max_examples=100, deadline=None)
@given(adaptive_geometries(), st.sampled_from(["float32", "float64"]))
def test_adaptive_avg_pool2d_kernels_match_torch(g, dtype):
    assume(g.n > 0)  # torch refuses some empty batches here; ours is tested below
    x = np.random.default_rng(0).standard_normal(g.x_shape)
    y, grad_y, grad_x = with_gradient(lambda t: torch.nn.functional.adaptive_avg_pool2d(t, (g.h_out, g.w_out)), x)
    close = tolerance(dtype, g.h * g.w)
    np.testing.assert_allclose(adaptive_avg_pool2d_forward(x.astype(dtype), g), y, **close)
    got = adaptive_avg_pool2d_backward(grad_y.astype(dtype), g)
    np.testing.assert_allclose(got, grad_x, **close)
    assert got.dtype == dtype


@settings(max_examples=100, deadline=None)
@given(adaptive_geometries(), st.integers(0, 100))
def test_adaptive_max_pool2d_kernel_matches_torch(g, seed):
    assume(g.n > 0)
    x = coarse(g, seed)
    (y, indices), grad_y, grad_x = with_gradient(
        lambda t: torch.nn.functional.adaptive_max_pool2d(t, (g.h_out, g.w_out), return_indices=True), x
    )
    got, got_indices = adaptive_max_pool2d_forward(x, g)
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(got_indices, indices)
    np.testing.assert_allclose(max_pool2d_backward(grad_y, indices, g), grad_x, **tolerance("float64", g.h * g.w))


def one_window(*values):
    """The 2 x 2 window of `values`, pooled: (y, index)."""
    y, index = max_pool2d_forward(np.array(values).reshape(1, 1, 2, 2), Pool2dGeometry(1, 1, 2, 2, 2, 2, 2, 2))
    return y.item(), index.item()


def test_max_pool2d_first_of_equal_maxima_wins():
    assert one_window(1.0, 3.0, 3.0, 3.0) == (3.0, 1)
    assert one_window(0.0, -0.0, 0.0, -0.0)[1] == 0


def test_max_pool2d_nan_wins_wherever_it_stands():
    for place in range(4):
        values = [1.0, 2.0, 3.0, inf]
        values[place] = nan
        y, index = one_window(*values)
        assert np.isnan(y) and index == place


def test_max_pool2d_window_of_minus_infinity_points_at_its_first_element_inside():
    g = Pool2dGeometry(1, 1, 4, 4, 3, 3, 2, 2, 1, 1)
    y, indices = max_pool2d_forward(np.full((1, 1, 4, 4), -inf), g)
    assert (y == -inf).all()
    np.testing.assert_array_equal(indices[0, 0], [[0, 1], [4, 5]])
    # Dilated: the window at -1 has taps -1, 1, 3, so the first inside is 1.
    g = Pool2dGeometry(1, 1, 4, 4, 3, 3, 1, 1, 1, 1, 2, 2)
    _, indices = max_pool2d_forward(np.full((1, 1, 4, 4), -inf), g)
    np.testing.assert_array_equal(indices[0, 0], [[5, 4], [1, 0]])


def test_max_pool2d_padding_is_not_zero():
    """Zero padding would win over negative values: right behind a ReLU, and wrong elsewhere."""
    x = np.full((1, 1, 3, 3), -5.0)
    y, _ = max_pool2d_forward(x, Pool2dGeometry(1, 1, 3, 3, 3, 3, 2, 2, 1, 1))
    assert (y == -5).all()


def test_max_pool2d_overlapping_windows_add_up():
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 1.0  # the maximum of all four 2 x 2 windows
    g = Pool2dGeometry(1, 1, 3, 3, 2, 2, 1, 1)
    _, indices = max_pool2d_forward(x, g)
    grad_x = max_pool2d_backward(np.ones(g.y_shape), indices, g)
    np.testing.assert_array_equal(grad_x[0, 0], [[0, 0, 0], [0, 4, 0], [0, 0, 0]])


def test_pool_ceil_mode_drops_a_window_that_starts_in_the_right_padding():
    # Windows of 2, 3 apart, from -1: at -1, and ceil adds one at 2; from h = 2 on there is only padding, so it goes.
    dropped = Pool2dGeometry(1, 1, 2, 2, 2, 2, 3, 3, 1, 1, ceil_mode=True)
    kept = Pool2dGeometry(1, 1, 5, 5, 2, 2, 2, 2, ceil_mode=True)
    for g, h_out in ((dropped, 1), (kept, 3)):
        theirs, _ = torch_max_pool2d(torch.zeros(g.x_shape), g)
        assert g.h_out == g.w_out == theirs.shape[2] == h_out


def test_pool_geometry_knows_a_window_that_meets_only_padding():
    assert not Pool2dGeometry(
        1, 1, 3, 1, 1, 2, 1, 1, 0, 1, 1, 2
    ).every_window_meets_x  # taps at -1 and 1 around one column
    assert Pool2dGeometry(1, 1, 3, 2, 1, 2, 1, 1, 0, 1, 1, 2).every_window_meets_x


@settings(max_examples=50, deadline=None)
@given(geometries(dilated=False))
def test_avg_pool2d_kernels_are_adjoint(g):
    random = np.random.default_rng(0)
    x, v = random.standard_normal(g.x_shape), random.standard_normal(g.y_shape)
    np.testing.assert_allclose(
        np.vdot(avg_pool2d_forward(x, g), v),
        np.vdot(x, avg_pool2d_backward(v, g)),
        **tolerance("float64", v.size * g.k_h * g.k_w),
    )


@settings(max_examples=50, deadline=None)
@given(geometries(dilated=True))
def test_max_pool2d_gather_and_scatter_are_adjoint(g):
    random = np.random.default_rng(0)
    x, v = random.standard_normal(g.x_shape), random.standard_normal(g.y_shape)
    _, indices = max_pool2d_forward(x, g)
    np.testing.assert_allclose(
        np.vdot(max_pool2d_gather(x, indices, g), v),
        np.vdot(x, max_pool2d_backward(v, indices, g)),
        **tolerance("float64", v.size),
    )


CEILED = Pool2dGeometry(2, 3, 6, 7, 3, 3, 2, 2, 1, 1, ceil_mode=True)
ADAPTIVE = AdaptivePool2dGeometry(2, 3, 6, 7, 4, 3)


def run_all(x, grad_y, grad_adaptive):
    """Every pooling kernel, once."""
    y, indices = max_pool2d_forward(x, CEILED)
    regions, region_indices = adaptive_max_pool2d_forward(x, ADAPTIVE)
    return (
        y,
        indices,
        max_pool2d_backward(grad_y, indices, CEILED),
        max_pool2d_gather(x, indices, CEILED),
        avg_pool2d_forward(x, CEILED),
        avg_pool2d_backward(grad_y, CEILED),
        adaptive_avg_pool2d_forward(x, ADAPTIVE),
        adaptive_avg_pool2d_backward(grad_adaptive, ADAPTIVE),
        regions,
        region_indices,
        max_pool2d_backward(grad_adaptive, region_indices, ADAPTIVE),
    )


def draw_arrays():
    random = np.random.default_rng(0)
    return tuple(random.standard_normal(shape) for shape in (CEILED.x_shape, CEILED.y_shape, ADAPTIVE.y_shape))


def test_pool_kernels_take_every_memory_form():
    assert_same_in_every_form(run_all, *draw_arrays())


def test_pool_kernels_write_every_element(poisoned_memory):  # noqa: F811
    arrays = draw_arrays()
    for result in run_all(*arrays):
        assert np.isfinite(result).all() and (result > -(10**9)).all()


def test_pool_kernels_take_an_empty_batch():
    g = Pool2dGeometry(0, 3, 6, 7, 3, 3, 2, 2, 1, 1)
    y, indices = max_pool2d_forward(np.empty(g.x_shape), g)
    assert y.shape == indices.shape == avg_pool2d_forward(np.empty(g.x_shape), g).shape == (0, 3, 3, 4)
    assert max_pool2d_backward(y, indices, g).shape == avg_pool2d_backward(y, g).shape == g.x_shape
    g = AdaptivePool2dGeometry(0, 3, 6, 7, 1, 1)
    assert adaptive_avg_pool2d_forward(np.empty(g.x_shape), g).shape == (0, 3, 1, 1)
    assert adaptive_avg_pool2d_backward(np.empty(g.y_shape), g).shape == g.x_shape
    assert adaptive_max_pool2d_forward(np.empty(g.x_shape), g)[0].shape == (0, 3, 1, 1)


def test_pool_kernels_take_float32():
    for result in run_all(*(a.astype(np.float32) for a in draw_arrays())):
        assert result.dtype in (np.float32, np.int64)


@pytest.mark.parametrize("h_out", [1, 2, 3, 5, 7, 10])
def test_adaptive_regions_cover_the_input(h_out):
    g = AdaptivePool2dGeometry(1, 1, 7, 7, h_out, 1)
    covered = set().union(*(range(*g.rows(r).indices(7)) for r in range(h_out)))
    assert covered == set(range(7)) and g.columns(0) == slice(0, 7)
