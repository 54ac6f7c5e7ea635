"""The reference convolution kernels against PyTorch in float64, their own loop nest, and each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.reference import conv2d_backward_weight, conv2d_backward_x, conv2d_forward
from tests.kernels.memory import assert_same_in_every_form, poisoned_memory  # noqa: F401 (a fixture)
from tests.tolerances import tolerance
from tests.torch_oracle import torch


@st.composite
def geometries(draw):
    """Small convolutions of every kind whose window fits the padded input."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    k_h, k_w = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    dilation_h, dilation_w = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    top, bottom, left, right = (draw(st.integers(0, 5)) for _ in range(4))
    least_h = max(1, (k_h - 1) * dilation_h + 1 - top - bottom)
    least_w = max(1, (k_w - 1) * dilation_w + 1 - left - right)
    return Conv2dGeometry(
        n=draw(st.integers(0, 3)),
        c_in=groups * draw(st.integers(1, 3)),
        h=least_h + draw(st.integers(0, 6)),
        w=least_w + draw(st.integers(0, 6)),
        c_out=groups * draw(st.integers(1, 3)),
        k_h=k_h,
        k_w=k_w,
        stride_h=draw(st.integers(1, 3)),
        stride_w=draw(st.integers(1, 3)),
        pad_top=top,
        pad_bottom=bottom,
        pad_left=left,
        pad_right=right,
        dilation_h=dilation_h,
        dilation_w=dilation_w,
        groups=groups,
    )


def draw_arrays(g, dtype="float64", seed=0):
    """(x, weight, bias, grad_y) of the sizes of g."""
    random = np.random.default_rng(seed)
    return tuple(
        random.standard_normal(shape).astype(dtype) for shape in (g.x_shape, g.weight_shape, (g.c_out,), g.y_shape)
    )


def torch_conv2d(x, weight, bias, grad_y, g):
    """(y, grad_x, grad_weight) by PyTorch in float64; its F.pad makes the asymmetric padding."""
    x, weight, bias, grad_y = (torch.tensor(a, dtype=torch.float64) for a in (x, weight, bias, grad_y))
    x.requires_grad_()
    weight.requires_grad_()
    padded = torch.nn.functional.pad(x, (g.pad_left, g.pad_right, g.pad_top, g.pad_bottom))
    stride, dilation = (g.stride_h, g.stride_w), (g.dilation_h, g.dilation_w)
    y = torch.nn.functional.conv2d(padded, weight, bias, stride, 0, dilation, g.groups)
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), grad_y)
    return y.detach().numpy(), grad_x.numpy(), grad_weight.numpy()


@settings(max_examples=150, deadline=None)
@given(geometries(), st.sampled_from(["float32", "float64"]))
def test_conv2d_kernels_match_torch(g, dtype):
    x, weight, bias, grad_y = draw_arrays(g, dtype)
    y, grad_x, grad_weight = torch_conv2d(x, weight, bias, grad_y, g)
    taps = g.k_h * g.k_w
    got = conv2d_forward(x, weight, bias, g)
    np.testing.assert_allclose(got, y, **tolerance(dtype, taps * g.c_in // g.groups))
    assert got.dtype == dtype and got.shape == g.y_shape
    got = conv2d_backward_x(grad_y, weight, g)
    np.testing.assert_allclose(got, grad_x, **tolerance(dtype, taps * g.c_out // g.groups))
    assert got.dtype == dtype and got.shape == g.x_shape
    got = conv2d_backward_weight(grad_y, x, g)
    np.testing.assert_allclose(got, grad_weight, **tolerance(dtype, g.n * g.h_out * g.w_out))
    assert got.dtype == dtype and got.shape == g.weight_shape


@settings(max_examples=50, deadline=None)
@given(geometries())
def test_conv2d_kernels_are_adjoint(g):
    """<conv(x, w), v> = <x, conv^T(v, w)> = <w, grad_w(v, x)>: needs no oracle."""
    x, weight, _, v = draw_arrays(g)
    forward = np.vdot(conv2d_forward(x, weight, None, g), v)
    close = tolerance("float64", v.size * g.k_h * g.k_w * g.c_in)
    np.testing.assert_allclose(np.vdot(x, conv2d_backward_x(v, weight, g)), forward, **close)
    np.testing.assert_allclose(np.vdot(weight, conv2d_backward_weight(v, x, g)), forward, **close)


def test_conv2d_forward_is_its_loop_nest():
    """The nest of interface.conv2d_forward, written out."""
    g = Conv2dGeometry(2, 4, 5, 6, 6, 3, 2, 2, 1, 1, 2, 0, 1, 1, 2, 2)
    x, weight, bias, _ = draw_arrays(g)
    y = np.zeros(g.y_shape)
    for b, o, r, s in np.ndindex(y.shape):
        q = o // (g.c_out // g.groups)
        y[b, o, r, s] = bias[o]
        for c, i, j in np.ndindex(weight.shape[1:]):
            row = r * g.stride_h - g.pad_top + i * g.dilation_h
            column = s * g.stride_w - g.pad_left + j * g.dilation_w
            if 0 <= row < g.h and 0 <= column < g.w:
                y[b, o, r, s] += weight[o, c, i, j] * x[b, q * g.c_in // g.groups + c, row, column]
    np.testing.assert_allclose(conv2d_forward(x, weight, bias, g), y, **tolerance("float64", weight[0].size))


def test_conv2d_backward_x_is_zero_where_no_window_reads():
    g = Conv2dGeometry(
        1, 1, 8, 8, 1, 3, 3, 3, 3
    )  # windows at 0 and 3: rows and columns 6, 7 are the stride's remainder
    _, weight, _, grad_y = draw_arrays(g)
    grad_x = conv2d_backward_x(grad_y, weight, g)
    assert (grad_x[..., 6:, :] == 0).all() and (grad_x[..., 6:] == 0).all()
    assert (grad_x[..., :6, :6] != 0).all()


FORMS = {
    "plain": Conv2dGeometry(2, 4, 5, 6, 6, 3, 3, 1, 1, 1, 1, 1, 1),
    "strided groups": Conv2dGeometry(2, 4, 7, 6, 6, 3, 2, 2, 3, 1, 1, 1, 1, 2, 1, 2),
    "1x1": Conv2dGeometry(2, 4, 5, 6, 6, 1, 1),
    "1x1 on 1x1": Conv2dGeometry(2, 4, 1, 1, 3, 1, 1),
    "depthwise": Conv2dGeometry(2, 4, 5, 6, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4),
    "wide padding": Conv2dGeometry(2, 2, 3, 3, 3, 2, 2, 1, 1, 3, 4, 2, 5),
}


@pytest.mark.parametrize("g", FORMS.values(), ids=FORMS)
def test_conv2d_kernels_take_every_memory_form(g):
    x, weight, bias, grad_y = draw_arrays(g)
    assert_same_in_every_form(lambda *a: conv2d_forward(*a, g), x, weight, bias)
    assert_same_in_every_form(lambda *a: conv2d_backward_x(*a, g), grad_y, weight)
    assert_same_in_every_form(lambda *a: conv2d_backward_weight(*a, g), grad_y, x)


@pytest.mark.parametrize("g", FORMS.values(), ids=FORMS)
def test_conv2d_kernels_write_every_element(g, poisoned_memory):  # noqa: F811
    x, weight, bias, grad_y = draw_arrays(g)
    for got, wanted in zip(
        (
            conv2d_forward(x, weight, bias, g),
            conv2d_backward_x(grad_y, weight, g),
            conv2d_backward_weight(grad_y, x, g),
        ),
        torch_conv2d(x, weight, bias, grad_y, g),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, **tolerance("float64", weight[0].size * g.n * g.h * g.w))


def test_conv2d_kernels_take_an_empty_batch():
    g = Conv2dGeometry(0, 4, 5, 6, 6, 3, 3)
    x, weight, bias, grad_y = draw_arrays(g)
    assert conv2d_forward(x, weight, bias, g).shape == (0, 6, 3, 4)
    assert conv2d_backward_x(grad_y, weight, g).shape == (0, 4, 5, 6)
    np.testing.assert_array_equal(conv2d_backward_weight(grad_y, x, g), np.zeros((6, 4, 3, 3)))
