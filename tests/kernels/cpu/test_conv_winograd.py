"""Winograd's convolutions against the float64 reference, and their rounding errors beside torch's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

numba = pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")

from minires.kernels.cpu import conv_direct, conv_winograd, tasks, winograd_weight  # noqa: E402  (numba first)
from minires.kernels.cpu.layout import Blocked  # noqa: E402
from minires.kernels.cpu.winograd_transforms import cook_toom  # noqa: E402
from minires.kernels.geometry import Conv2dGeometry  # noqa: E402
from minires.kernels.reference import conv as reference  # noqa: E402
from tests.kernels.cpu.blocked import Unchanged, assert_sound  # noqa: E402
from tests.tolerances import tolerance  # noqa: E402

# The transforms' rounding grows with the points' powers: how much larger the error of m x m tiles may be than a direct sum's.
GROWTH = {2: 3.0, 4: 12.0}
BOUND = 3.0  # F(4x4)'s rms error, in those of torch's own


def geometry(n=2, c_in=16, h=8, w=8, c_out=16, pads=(1, 1, 1, 1)):
    return Conv2dGeometry(n, c_in, h, w, c_out, 3, 3, 1, 1, *pads)


@st.composite
def geometries(draw):
    h, w = draw(st.integers(3, 14)), draw(st.integers(3, 14))
    pads = draw(st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (0, 2, 1, 0)]))
    channels = st.sampled_from([1, 3, 16, 20, 32, 50, 72])  # the last: more than are summed at once
    return geometry(draw(st.integers(1, 3)), draw(channels), h, w, draw(channels), pads)


def assert_near(actual, expected, c, m, what):
    """Within the table's tolerance for a sum of 9 c terms, scaled by the largest value and the algorithm's growth."""
    limit = tolerance("float32", 9 * c)["atol"] * GROWTH[m] * max(1.0, np.abs(expected).max()) / 3
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all(), what
    assert np.abs(actual - expected).max() <= limit, what


@pytest.mark.parametrize("m", [2, 4])
def test_cook_toom_computes_a_sliding_filter(m):
    """A^T [(G g) * (B^T d)] is the correlation of d with g, in float64."""
    a_t, g, b_t = cook_toom(m)
    rng = np.random.default_rng(m)
    taps, inputs = rng.standard_normal(3), rng.standard_normal(m + 2)
    expected = np.correlate(inputs, taps, "valid")
    np.testing.assert_allclose(a_t @ ((g @ taps) * (b_t @ inputs)), expected, **tolerance("float64", m + 2))


@pytest.mark.parametrize("m", [2, 4])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    g=geometries(),
    halo=st.integers(0, 2),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_forward_matches_the_reference(m, workers, poisoned_pool, g, halo, with_bias, with_residual, relu, seed):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal(g.x_shape, np.float32), rng.standard_normal(g.weight_shape, np.float32)
    bias = rng.standard_normal(g.c_out, np.float32) if with_bias else None
    residual = rng.standard_normal(g.y_shape, np.float32) if with_residual else None
    expected = reference.conv2d_forward(
        x.astype(np.float64), weight.astype(np.float64), None if bias is None else bias.astype(np.float64), g
    )
    expected = expected + (0 if residual is None else residual)
    blocked, before = Blocked.from_plain(x, halo), weight.copy()
    shortcut = None if residual is None else Blocked.from_plain(residual, 2)
    with Unchanged(blocked, shortcut):
        y = conv_winograd.forward(blocked, weight, bias, g, shortcut, relu, m)
    assert_near(y.to_plain(), np.maximum(expected, 0) if relu else expected, g.c_in, m, g)
    assert_sound(y)
    assert np.array_equal(weight, before), "the weights were changed"


@pytest.mark.parametrize("m", [2, 4])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(g=geometries(), halo=st.integers(0, 2), seed=st.integers(0, 99))
def test_backward_x_matches_the_reference(m, workers, poisoned_pool, g, halo, seed):
    rng = np.random.default_rng(seed)
    grad_y, weight = rng.standard_normal(g.y_shape, np.float32), rng.standard_normal(g.weight_shape, np.float32)
    expected = reference.conv2d_backward_x(grad_y.astype(np.float64), weight.astype(np.float64), g)
    grad_x = conv_winograd.backward_x(Blocked.from_plain(grad_y, halo), weight, g, m)
    assert_near(grad_x.to_plain(), expected, g.c_out, m, g)
    assert_sound(grad_x)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("m", [2, 4])
def test_both_forms_give_the_same_bits(m, fused, monkeypatch):
    """However tiles are grouped, phased or fused, by one worker or two: each output's sum has one order."""
    g = geometry(3, 32, 9, 13, 48)
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(g.x_shape, np.float32), rng.standard_normal(g.weight_shape, np.float32)
    monkeypatch.setattr(tasks, "_workers", 1)
    expected = conv_winograd.forward(Blocked.from_plain(x), weight, None, g, m=m).to_plain()
    monkeypatch.setattr(tasks, "_workers", 2)
    monkeypatch.setattr(conv_winograd, "is_fused", lambda g, m: fused)
    monkeypatch.setattr(conv_winograd, "PHASE_SCRATCH", 100_000)  # several rounds of phases
    steps = conv_winograd.steps_forward(
        Blocked.from_plain(x), conv_winograd.transform_weights(weight, m), conv_direct.pack_bias(None, 48,
        conv_direct.tile_for(48)), Blocked(g.y_shape), None, False, g, m,
    )  # fmt: skip
    assert len(steps) == 1 if fused else len(steps) > 3
    assert np.array_equal(conv_winograd.forward(Blocked.from_plain(x), weight, None, g, m=m).to_plain(), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("m", [2, 4])
def test_a_bad_pixel_spoils_its_neighbourhood_only(m, value):
    """NaN at the right edge of a row must not reach the left edge of the next row, nor the next image or channel block."""
    g = geometry(2, 16, 9, 9, 16)
    x = np.random.default_rng(0).standard_normal(g.x_shape, np.float32)
    weight = np.ones(g.weight_shape, np.float32)
    x[0, 3, 4, 8] = value
    y = conv_winograd.forward(Blocked.from_plain(x), weight, None, g, m=m).to_plain()
    bad = ~np.isfinite(y)
    assert bad[0, :, 3:6, 7:9].all(), "the outputs that read the pixel"
    assert not bad[1].any() and not bad[0, :, :, : 8 - m - 2].any()


def test_no_images_give_no_images():
    g = geometry(0)
    weight = np.ones(g.weight_shape, np.float32)
    empty = Blocked.from_plain(np.zeros(g.x_shape, np.float32))
    assert conv_winograd.forward(empty, weight, None, g).shape == g.y_shape
    assert conv_winograd.backward_x(empty, weight, g).shape == g.x_shape


def test_nan_survives_the_relu():
    g = geometry(1)
    x = np.full(g.x_shape, np.nan, np.float32)
    y = conv_winograd.forward(Blocked.from_plain(x), np.ones(g.weight_shape, np.float32), None, g, relu=True)
    assert np.isnan(y.to_plain()).all()


@pytest.mark.parametrize("run", [7, winograd_weight.RUN])
@pytest.mark.parametrize("m", [2, 4])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(g=geometries(), halo=st.integers(0, 2), seed=st.integers(0, 99))
def test_backward_weight_matches_the_reference(m, run, workers, poisoned_pool, monkeypatch, g, halo, seed):
    """Runs of seven tiles: several of them, slots, and a last one that is not full."""
    monkeypatch.setattr(winograd_weight, "RUN", run)
    monkeypatch.setattr(winograd_weight, "SHARED_BYTES", 200_000)
    rng = np.random.default_rng(seed)
    grad_y, x = rng.standard_normal(g.y_shape, np.float32), rng.standard_normal(g.x_shape, np.float32)
    expected = reference.conv2d_backward_weight(grad_y.astype(np.float64), x.astype(np.float64), g)
    inputs = Blocked.from_plain(grad_y, halo), Blocked.from_plain(x, halo)
    with Unchanged(*inputs):
        grad_weight = winograd_weight.backward_weight(*inputs, g, m)
    assert_near(grad_weight, expected, -(-g.n * g.h_out * g.w_out // 9), m, g)


@pytest.mark.parametrize("channels", [16, 64])
def test_backward_weight_gives_the_same_bits_for_any_workers(channels, monkeypatch):
    monkeypatch.setattr(winograd_weight, "RUN", 12)
    g = geometry(6, channels, 24, 21, channels)
    assert winograd_weight.slots_of(g, 4) == (winograd_weight.SLOTS if channels == 16 else 0), "both forms are tested"
    rng = np.random.default_rng(0)
    grad_y = Blocked.from_plain(rng.standard_normal(g.y_shape, np.float32))
    x = Blocked.from_plain(rng.standard_normal(g.x_shape, np.float32))
    results = []
    for count in (1, 2, 3):
        monkeypatch.setattr(tasks, "_workers", count)
        results.append(winograd_weight.backward_weight(grad_y, x, g))
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_no_images_give_no_gradient_in_the_weights():
    g = geometry(0)
    empty = Blocked.from_plain(np.zeros(g.x_shape, np.float32))
    assert not winograd_weight.backward_weight(empty, empty, g).any()


@pytest.mark.parametrize("shape", [(16, 32), (64, 14), (256, 7)], ids=str)
def test_errors_stay_near_those_of_torch(shape):
    """F(4x4)'s rms errors against float64 are at most 3 times torch's; 4e-7 to 8e-7 of the output's deviation."""
    torch = pytest.importorskip("torch", reason="the peer whose errors are the yardstick is not installed")
    channels, size = shape
    g = geometry(4, channels, size, size, channels)
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal(g.x_shape, np.float32), 0)
    weight, grad_y = rng.standard_normal(g.weight_shape, np.float32), rng.standard_normal(g.y_shape, np.float32)

    def rms(actual, exact):
        return float(np.sqrt(((actual - exact) ** 2).mean()) / exact.std())

    wide = [array.astype(np.float64) for array in (x, weight, grad_y)]
    blocked_x, blocked_grad = Blocked.from_plain(x), Blocked.from_plain(grad_y)
    t_x, t_weight, t_grad = (torch.from_numpy(array) for array in (x, weight, grad_y))
    cases = {
        "forward": (
            conv_winograd.forward(blocked_x, weight, None, g).to_plain(),
            torch.nn.functional.conv2d(t_x, t_weight, padding=1),
            reference.conv2d_forward(wide[0], wide[1], None, g),
        ),
        "backward_x": (
            conv_winograd.backward_x(blocked_grad, weight, g).to_plain(),
            torch.nn.grad.conv2d_input(g.x_shape, t_weight, t_grad, padding=1),
            reference.conv2d_backward_x(wide[2], wide[1], g),
        ),
        "backward_weight": (
            winograd_weight.backward_weight(blocked_grad, blocked_x, g),
            torch.nn.grad.conv2d_weight(t_x, g.weight_shape, t_grad, padding=1),
            reference.conv2d_backward_weight(wide[2], wide[0], g),
        ),
    }
    for name, (ours, theirs, exact) in cases.items():
        ours_rms, theirs_rms = rms(ours, exact), rms(theirs.numpy(), exact)
        assert ours_rms <= BOUND * theirs_rms, f"{name}: {ours_rms:.2e}, torch {theirs_rms:.2e}"
