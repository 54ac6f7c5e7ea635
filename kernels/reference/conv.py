"""Convolution and its two adjoints in plain NumPy: one matrix product an image.

Loop nests: see interface.conv2d_forward, conv2d_backward_x, conv2d_backward_weight.

With the windows of one image unrolled as columns ("im2col", Chellapilla et al. 2006), of shape (c_in / groups * k_h *
k_w, h_out * w_out) a group, convolution is a matrix product and so are its adjoints:

    y = W @ columns        grad_W = grad_y @ columns^T        grad_columns = W^T @ grad_y
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.interface import Array
from minires.kernels.reference.windows import native, pad_planes, window_view

# Measured, float32, batch 128, two x86-64 cores, NumPy 2.4 (OpenBLAS), the three layer widths of ResNet-20 (16 x 28 x
# 28, 32 x 14 x 14, 64 x 7 x 7; ms a call):
#   forward: one image's columns 10.4 / 8.3 / 7.9, the batch's at once 15.8 / 8.7 / 8.0, a product a tap 21 / 13 / 11
#   weight:  one image's columns 10.4 / 8.5 / 8.8, the batch's at once 46 / 22 / 12, a product a tap 18.4 / 9.0 / 5.2
#   x:       mirrored convolution 12.7 / 10.8 / 12.3, a product a tap 24.4 / 16.0 / 14.9, columns sent back 26 / 21 / 19
# One image's columns stay in the cache between the copy that makes them and the product that reads them. With stride 2
# the mirrored convolution multiplies mostly zeros (24 ms against 9.5 for the product a tap, 16 -> 32 channels).


def conv2d_forward(x: Array, weight: Array, bias: Array | None, g: Conv2dGeometry) -> Array:
    """y = weight * x + bias; see interface.conv2d_forward."""
    windows = _windows(x, g)
    rows = _grouped(weight, g)  # (groups, c_out / groups, c_in / groups * k_h * k_w)
    y = np.empty((g.n, g.groups, g.c_out // g.groups, g.h_out * g.w_out), dtype=rows.dtype)
    column = None if bias is None else native(bias).reshape(g.groups, -1, 1)
    for image in range(g.n):
        np.matmul(rows, _columns(windows[image], g), out=y[image])
        if column is not None:
            y[image] += column
    return y.reshape(g.y_shape)


def conv2d_backward_x(grad_y: Array, weight: Array, g: Conv2dGeometry) -> Array:
    """grad_x = weight^T * grad_y; see interface.conv2d_backward_x."""
    if g.stride_h == g.stride_w == 1:
        return _backward_x_mirrored(grad_y, weight, g)
    return _backward_x_by_tap(grad_y, weight, g)


def conv2d_backward_weight(grad_y: Array, x: Array, g: Conv2dGeometry) -> Array:
    """grad_weight = sum over images of grad_y @ columns(x)^T; see interface.conv2d_backward_weight."""
    windows = _windows(x, g)
    grad_y = native(grad_y).reshape(g.n, g.groups, g.c_out // g.groups, g.h_out * g.w_out)
    grad_weight = np.zeros((g.groups, g.c_out // g.groups, g.c_in // g.groups * g.k_h * g.k_w), dtype=grad_y.dtype)
    for image in range(g.n):
        grad_weight += grad_y[image] @ _columns(windows[image], g).swapaxes(1, 2)
    return grad_weight.reshape(g.weight_shape)


def _windows(x: Array, g: Conv2dGeometry) -> Array:
    """(n, c_in, k_h, k_w, h_out, w_out): every window of every padded image, as a view."""
    padded = pad_planes(x, g.pad_top, g.pad_bottom, g.pad_left, g.pad_right)
    return window_view(
        padded, (g.k_h, g.k_w), (g.h_out, g.w_out), (g.stride_h, g.stride_w), (g.dilation_h, g.dilation_w)
    )


def _columns(windows: Array, g: Conv2dGeometry) -> Array:
    """The windows of one image as the columns of a matrix a group: this reshape is where im2col copies."""
    return windows.reshape(g.groups, g.c_in // g.groups * g.k_h * g.k_w, g.h_out * g.w_out)


def _grouped(weight: Array, g: Conv2dGeometry) -> Array:
    """(groups, c_out / groups, c_in / groups * k_h * k_w): each group's weight as a matrix."""
    return native(weight).reshape(g.groups, g.c_out // g.groups, -1)


def _backward_x_mirrored(grad_y: Array, weight: Array, g: Conv2dGeometry) -> Array:
    """Stride 1: the adjoint is itself a convolution, of grad_y with the window mirrored and the channels exchanged.

    x[p] met tap i in output r = p + pad_top - i dilation. With i = k_h - 1 - i' that is
    r = p - (span - 1 - pad_top) + i' dilation: the position rule of a convolution whose padding is span - 1 - pad.
    (Where pad > span - 1 it is negative: those rows of grad_y saw padding only, and are cut off.)
    """
    mirrored = (
        weight.reshape(g.groups, g.c_out // g.groups, g.c_in // g.groups, g.k_h, g.k_w)
        .swapaxes(1, 2)[..., ::-1, ::-1]
        .reshape(g.c_in, g.c_out // g.groups, g.k_h, g.k_w)
    )
    exchanged = replace(
        g,
        c_in=g.c_out,
        h=g.h_out,
        w=g.w_out,
        c_out=g.c_in,
        pad_top=g.span_h - 1 - g.pad_top,
        pad_bottom=g.span_h - 1 - g.pad_bottom,
        pad_left=g.span_w - 1 - g.pad_left,
        pad_right=g.span_w - 1 - g.pad_right,
    )
    return conv2d_forward(grad_y, mirrored, None, exchanged)


def _backward_x_by_tap(grad_y: Array, weight: Array, g: Conv2dGeometry) -> Array:
    """Any stride: tap (i, j) sends weight[:, :, i, j]^T @ grad_y to the pixels it read, `stride` apart."""
    per_group = native(weight).reshape(g.groups, g.c_out // g.groups, g.c_in // g.groups, g.k_h, g.k_w)
    grad_y = native(grad_y).reshape(g.n, g.groups, g.c_out // g.groups, g.h_out * g.w_out)
    padded = np.zeros((g.n, g.c_in, g.h + g.pad_top + g.pad_bottom, g.w + g.pad_left + g.pad_right), dtype=grad_y.dtype)
    for i in range(g.k_h):
        for j in range(g.k_w):
            # Contiguous, or NumPy would leave BLAS for its own loops.
            tap = np.ascontiguousarray(per_group[..., i, j].swapaxes(1, 2))  # (groups, c_in / groups, c_out / groups)
            sent = (tap @ grad_y).reshape(g.n, g.c_in, g.h_out, g.w_out)
            top, left = i * g.dilation_h, j * g.dilation_w
            rows = slice(top, top + g.h_out * g.stride_h, g.stride_h)
            columns = slice(left, left + g.w_out * g.stride_w, g.stride_w)
            padded[:, :, rows, columns] += sent
    return np.ascontiguousarray(padded[:, :, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w])
