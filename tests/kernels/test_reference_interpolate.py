"""The reference interpolation kernels against PyTorch, and their adjoints."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.kernels.geometry import InterpolateGeometry
from minires.kernels.reference import (
    interpolate_bilinear_backward,
    interpolate_bilinear_forward,
    interpolate_nearest_backward,
    interpolate_nearest_forward,
)
from tests.kernels.memory import assert_same_in_every_form, poisoned_memory  # noqa: F401 (a fixture)
from tests.tolerances import tolerance
from tests.torch_oracle import torch

KERNELS = {
    "nearest": (interpolate_nearest_forward, interpolate_nearest_backward),
    "bilinear": (interpolate_bilinear_forward, interpolate_bilinear_backward),
}


def resize(n, c, h, w, h_out, w_out, align_corners=False):
    """The geometry of a resize to a size."""
    if align_corners:
        scale_h, scale_w = ((a - 1) / (b - 1) if b > 1 else 0.0 for a, b in ((h, h_out), (w, w_out)))
    else:
        scale_h, scale_w = h / h_out, w / w_out
    return InterpolateGeometry(n, c, h, w, h_out, w_out, scale_h, scale_w, align_corners)


sizes = st.integers(1, 12)


@pytest.mark.parametrize("mode", KERNELS)
@settings(max_examples=150, deadline=None)
@given(h=sizes, w=sizes, h_out=sizes, w_out=sizes, align=st.booleans(), dtype=st.sampled_from(["float32", "float64"]))
def test_interpolate_kernels_match_torch(mode, h, w, h_out, w_out, align, dtype):
    align = align and mode == "bilinear"
    forward, backward = KERNELS[mode]
    g = resize(2, 3, h, w, h_out, w_out, align)
    random = np.random.default_rng(0)
    x, grad_y = (random.standard_normal(shape).astype(dtype) for shape in (g.x_shape, g.y_shape))
    theirs = torch.tensor(x, requires_grad=True)
    y = torch.nn.functional.interpolate(theirs, (h_out, w_out), mode=mode, align_corners=align or None)
    (grad_x,) = torch.autograd.grad(y, theirs, torch.tensor(grad_y))
    got_y, got_grad_x = forward(x, g), backward(grad_y, g)
    assert got_y.dtype == got_grad_x.dtype == dtype
    if mode == "nearest":
        np.testing.assert_array_equal(got_y, y.detach().numpy())
    np.testing.assert_allclose(got_y, y.detach().numpy(), **tolerance(dtype, 4))
    np.testing.assert_allclose(got_grad_x, grad_x.numpy(), **tolerance(dtype, h_out * w_out))


@pytest.mark.parametrize("mode", KERNELS)
@settings(max_examples=50, deadline=None)
@given(h=sizes, w=sizes, h_out=sizes, w_out=sizes, align=st.booleans())
def test_interpolate_kernels_are_adjoint(mode, h, w, h_out, w_out, align):
    forward, backward = KERNELS[mode]
    g = resize(1, 2, h, w, h_out, w_out, align)
    random = np.random.default_rng(0)
    x, v = random.standard_normal(g.x_shape), random.standard_normal(g.y_shape)
    close = tolerance("float64", 4 * v.size)
    np.testing.assert_allclose(np.vdot(forward(x, g), v), np.vdot(x, backward(v, g)), **close)


def test_interpolate_bilinear_reproduces_a_plane():
    """A function linear in row and column is reproduced by linear interpolation, exactly where corners are aligned."""
    g = resize(1, 1, 4, 5, 7, 9, align_corners=True)
    rows, columns = np.linspace(0, 3, 7)[:, None], np.linspace(0, 4, 9)
    x = (2 * np.arange(4.0)[:, None] - 3 * np.arange(5.0))[None, None]
    np.testing.assert_allclose(
        interpolate_bilinear_forward(x, g)[0, 0], 2 * rows - 3 * columns, **tolerance("float64", 4)
    )


@pytest.mark.parametrize(("h", "h_out"), [(14, 46), (26, 22), (30, 22)])
def test_interpolate_nearest_rounds_as_torch_in_float64(h, h_out):
    """Sizes where r * h / h_out is an integer or just below it according to the precision, which decides the pixel."""
    x = np.arange(h, dtype=np.float64).reshape(1, 1, h, 1)
    theirs = torch.nn.functional.interpolate(torch.tensor(x), (h_out, 1), mode="nearest")
    np.testing.assert_array_equal(interpolate_nearest_forward(x, resize(1, 1, h, 1, h_out, 1)), theirs.numpy())


@pytest.mark.parametrize("mode", KERNELS)
def test_interpolate_kernels_take_every_memory_form(mode):
    forward, backward = KERNELS[mode]
    g = resize(2, 3, 4, 5, 7, 3)
    random = np.random.default_rng(0)
    assert_same_in_every_form(lambda x: forward(x, g), random.standard_normal(g.x_shape))
    assert_same_in_every_form(lambda v: backward(v, g), random.standard_normal(g.y_shape))


@pytest.mark.parametrize("mode", KERNELS)
def test_interpolate_to_the_same_size_is_a_copy(mode):
    forward, backward = KERNELS[mode]
    g = resize(2, 3, 4, 5, 4, 5)
    x = np.random.default_rng(0).standard_normal(g.x_shape)
    for result in (forward(x, g), backward(x, g)):
        np.testing.assert_array_equal(result, x)
        assert not np.shares_memory(result, x)


@pytest.mark.parametrize("mode", KERNELS)
def test_interpolate_kernels_take_an_empty_batch(mode):
    forward, backward = KERNELS[mode]
    g = resize(0, 3, 4, 5, 7, 3)
    assert forward(np.empty(g.x_shape), g).shape == g.y_shape
    assert backward(np.empty(g.y_shape), g).shape == g.x_shape


@pytest.mark.parametrize("mode", KERNELS)
def test_interpolate_kernels_write_every_element(mode, poisoned_memory):  # noqa: F811
    forward, backward = KERNELS[mode]
    g = resize(2, 3, 6, 5, 2, 9)
    random = np.random.default_rng(0)
    assert np.isfinite(forward(random.standard_normal(g.x_shape), g)).all()
    assert np.isfinite(backward(random.standard_normal(g.y_shape), g)).all()
