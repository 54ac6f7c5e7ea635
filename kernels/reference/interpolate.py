"""Resizing in plain NumPy, one dimension after the other.

Loop nests: see interface.interpolate_nearest_forward and its neighbours. Both kinds are separable: which rows an output
row reads, and with which weights, does not depend on the column. So a table a dimension says it all, and the adjoint
sends back along the same table.
"""

from __future__ import annotations

import numpy as np

from minires.kernels.geometry import InterpolateGeometry
from minires.kernels.interface import Array
from minires.kernels.reference.windows import native


def interpolate_nearest_forward(x: Array, g: InterpolateGeometry) -> Array:
    """y[r, s] = x[floor(r scale_h), floor(s scale_w)]; see interface.interpolate_nearest_forward."""
    x = native(x)
    rows = _nearest(g.h, g.h_out, g.scale_h)
    columns = _nearest(g.w, g.w_out, g.scale_w)
    return x[:, :, rows[:, None], columns]


def interpolate_nearest_backward(grad_y: Array, g: InterpolateGeometry) -> Array:
    """The adjoint: see interface.interpolate_nearest_backward."""
    grad_y = native(grad_y)
    by_row = np.zeros((g.n, g.c, g.h, g.w_out), dtype=grad_y.dtype)
    for r, source in enumerate(_nearest(g.h, g.h_out, g.scale_h)):
        by_row[:, :, source] += grad_y[:, :, r]
    grad_x = np.zeros(g.x_shape, dtype=grad_y.dtype)
    for s, source in enumerate(_nearest(g.w, g.w_out, g.scale_w)):
        grad_x[:, :, :, source] += by_row[:, :, :, s]
    return grad_x


def interpolate_bilinear_forward(x: Array, g: InterpolateGeometry) -> Array:
    """Rows first, then columns; see interface.interpolate_bilinear_forward."""
    x = native(x)
    i0, i1, t = _linear(g.h, g.h_out, g.scale_h, g.align_corners, x.dtype)
    t = t[:, None]
    by_row = (1 - t) * x[:, :, i0] + t * x[:, :, i1]
    i0, i1, t = _linear(g.w, g.w_out, g.scale_w, g.align_corners, x.dtype)
    return (1 - t) * by_row[:, :, :, i0] + t * by_row[:, :, :, i1]


def interpolate_bilinear_backward(grad_y: Array, g: InterpolateGeometry) -> Array:
    """The adjoint, columns first; see interface.interpolate_bilinear_backward."""
    grad_y = native(grad_y)
    by_row = np.zeros((g.n, g.c, g.h_out, g.w), dtype=grad_y.dtype)
    for s, (i0, i1, t) in enumerate(zip(*_linear(g.w, g.w_out, g.scale_w, g.align_corners, grad_y.dtype), strict=True)):
        by_row[:, :, :, i0] += (1 - t) * grad_y[:, :, :, s]
        by_row[:, :, :, i1] += t * grad_y[:, :, :, s]
    grad_x = np.zeros(g.x_shape, dtype=grad_y.dtype)
    for r, (i0, i1, t) in enumerate(zip(*_linear(g.h, g.h_out, g.scale_h, g.align_corners, grad_y.dtype), strict=True)):
        grad_x[:, :, i0] += (1 - t) * by_row[:, :, r]
        grad_x[:, :, i1] += t * by_row[:, :, r]
    return grad_x


def _nearest(size: int, size_out: int, scale: float) -> Array:
    """The source position of each output position, in one dimension."""
    # In single precision whatever x is: PyTorch's arithmetic, and a rounding up to the next integer decides the pixel.
    position = np.arange(size_out).astype(np.float32) * np.float32(scale)
    return np.minimum(np.floor(position).astype(np.int64), size - 1)


def _linear(size: int, size_out: int, scale: float, align_corners: bool, dtype: np.dtype) -> tuple[Array, Array, Array]:
    """(i0, i1, t) of each output position: y[r] = (1 - t[r]) x[i0[r]] + t[r] x[i1[r]], in one dimension."""
    position = np.arange(size_out).astype(dtype)
    if align_corners:
        position *= dtype.type(scale)
    else:
        half = dtype.type(0.5)
        position = np.maximum((position + half) * dtype.type(scale) - half, 0)
    i0 = np.minimum(np.floor(position).astype(np.int64), size - 1)
    i1 = np.minimum(i0 + 1, size - 1)
    t = np.clip(position - i0.astype(dtype), 0, 1)
    return i0, i1, t
