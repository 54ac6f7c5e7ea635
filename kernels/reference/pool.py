"""Pooling and its adjoints in plain NumPy: one pass over the output a tap of the window.

Loop nests: see interface.max_pool2d_forward and its neighbours. A pass handles tap (i, j) of all windows at once; the
passes run in row-major order, which is what makes "the first of equal maxima" come out by itself.
"""

from __future__ import annotations

import numpy as np

from minires.kernels.geometry import AdaptivePool2dGeometry, Pool2dGeometry
from minires.kernels.interface import Array
from minires.kernels.reference.windows import native, pad_planes, window_view

# ------------------------------------------------------------------------------------------------------------ maximum


def max_pool2d_forward(x: Array, g: Pool2dGeometry) -> tuple[Array, Array]:
    """The largest value of each window and its flat position; see interface.max_pool2d_forward."""
    windows = _windows(x, g, -np.inf)
    rows = _positions(g.h_out, g.stride_h, g.pad_top)[:, None]
    columns = _positions(g.w_out, g.stride_w, g.pad_left)
    # A window of -inf keeps where it started: the first tap inside x.
    first = _first_inside(rows, g.dilation_h) * g.w + _first_inside(columns, g.dilation_w)
    y = np.full(g.y_shape, -np.inf, dtype=windows.dtype)
    indices = np.empty(g.y_shape, dtype=np.int64)
    indices[...] = first
    for i in range(g.k_h):
        for j in range(g.k_w):
            value = windows[:, :, i, j]
            # Strictly larger: a later equal value does not take over. NaN compares false, so it is asked for by name.
            wins = (value > y) | np.isnan(value)
            np.copyto(y, value, where=wins)
            np.copyto(indices, (rows + i * g.dilation_h) * g.w + columns + j * g.dilation_w, where=wins)
    return y, indices


def max_pool2d_backward(grad_y: Array, indices: Array, g: Pool2dGeometry | AdaptivePool2dGeometry) -> Array:
    """grad_x[indices] += grad_y; see interface.max_pool2d_backward."""
    grad_y = native(grad_y)
    grad_x = np.zeros(g.n * g.c * g.h * g.w, dtype=grad_y.dtype)
    # Windows may overlap: `grad_x[indices] += ...` would keep only one of several gradients of a pixel.
    np.add.at(grad_x, _flat_positions(indices, g), grad_y.reshape(-1))
    return grad_x.reshape(g.x_shape)


def max_pool2d_gather(x: Array, indices: Array, g: Pool2dGeometry | AdaptivePool2dGeometry) -> Array:
    """x[indices]; see interface.max_pool2d_gather."""
    return native(x).reshape(-1)[_flat_positions(indices, g)].reshape(indices.shape)


def adaptive_max_pool2d_forward(x: Array, g: AdaptivePool2dGeometry) -> tuple[Array, Array]:
    """The largest value of each region and its flat position; see interface.adaptive_max_pool2d_forward."""
    x = native(x)
    y = np.empty(g.y_shape, dtype=x.dtype)
    indices = np.empty(g.y_shape, dtype=np.int64)
    for r in range(g.h_out):
        for s in range(g.w_out):
            rows, columns = g.rows(r), g.columns(s)
            region = x[:, :, rows, columns]
            height, width = region.shape[2:]
            region = region.reshape(g.n, g.c, height * width)
            missing = np.isnan(region)
            last_nan = height * width - 1 - missing[:, :, ::-1].argmax(axis=2)
            best = np.where(missing.any(axis=2), last_nan, region.argmax(axis=2))  # argmax: the first of equals
            y[:, :, r, s] = np.take_along_axis(region, best[..., None], axis=2)[..., 0]
            indices[:, :, r, s] = (rows.start + best // width) * g.w + columns.start + best % width
    return y, indices


def _positions(outputs: int, stride: int, pad: int) -> Array:
    """Where each window of one dimension starts in x; negative inside the padding."""
    return np.arange(outputs, dtype=np.int64) * stride - pad


def _first_inside(start: Array, dilation: int) -> Array:
    """The position of the first tap that is not in the left padding: the smallest start + i dilation >= 0."""
    return np.where(start < 0, start % dilation, start)


def _flat_positions(indices: Array, g: Pool2dGeometry | AdaptivePool2dGeometry) -> Array:
    """Positions in the flat plane of each channel as positions in the whole flat batch."""
    planes = np.arange(g.n * g.c, dtype=np.int64).reshape(g.n, g.c, 1, 1) * (g.h * g.w)
    return (indices + planes).reshape(-1)


# ------------------------------------------------------------------------------------------------------------ average


def avg_pool2d_forward(x: Array, g: Pool2dGeometry) -> Array:
    """The mean of each window; see interface.avg_pool2d_forward."""
    windows = _windows(x, g, 0.0)
    y = np.zeros(g.y_shape, dtype=windows.dtype)
    for i in range(g.k_h):
        for j in range(g.k_w):
            y += windows[:, :, i, j]
    y /= window_divisor(g).astype(y.dtype)
    return y


def avg_pool2d_backward(grad_y: Array, g: Pool2dGeometry) -> Array:
    """Each pixel of a window gets grad_y / divisor; see interface.avg_pool2d_backward."""
    share = native(grad_y) / window_divisor(g).astype(grad_y.dtype)
    h_padded = max(g.h + g.pad_top, (g.h_out - 1) * g.stride_h + g.span_h)
    w_padded = max(g.w + g.pad_left, (g.w_out - 1) * g.stride_w + g.span_w)
    padded = np.zeros((g.n, g.c, h_padded, w_padded), dtype=share.dtype)
    for i in range(g.k_h):
        for j in range(g.k_w):
            rows = slice(i, i + g.h_out * g.stride_h, g.stride_h)
            columns = slice(j, j + g.w_out * g.stride_w, g.stride_w)
            padded[:, :, rows, columns] += share
    return np.ascontiguousarray(padded[:, :, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w])


def window_divisor(g: Pool2dGeometry) -> Array:
    """(h_out, w_out): what the sum of each window is divided by."""
    if g.divisor_override:
        return np.full((g.h_out, g.w_out), g.divisor_override, dtype=np.int64)
    rows = _counted(g.h, g.k_h, _positions(g.h_out, g.stride_h, g.pad_top), g.pad_top, g.count_include_pad)
    columns = _counted(g.w, g.k_w, _positions(g.w_out, g.stride_w, g.pad_left), g.pad_left, g.count_include_pad)
    return rows[:, None] * columns


def _counted(size: int, k: int, start: Array, pad: int, count_include_pad: bool) -> Array:
    """How many elements of each window count, in one dimension. What lies beyond the padding (ceil_mode) never does."""
    end = np.minimum(start + k, size + pad)
    if not count_include_pad:
        start, end = np.maximum(start, 0), np.minimum(end, size)
    return end - start


def _windows(x: Array, g: Pool2dGeometry, padding: float) -> Array:
    """(n, c, k_h, k_w, h_out, w_out): every window of x padded with `padding`, as a view."""
    # Only as far as the last window reaches: a negative pad_bottom (rows left over) needs no cutting.
    padded = pad_planes(x, g.pad_top, max(g.pad_bottom, 0), g.pad_left, max(g.pad_right, 0), padding)
    return window_view(
        padded, (g.k_h, g.k_w), (g.h_out, g.w_out), (g.stride_h, g.stride_w), (g.dilation_h, g.dilation_w)
    )


def adaptive_avg_pool2d_forward(x: Array, g: AdaptivePool2dGeometry) -> Array:
    """The mean of each region; see interface.adaptive_avg_pool2d_forward."""
    x = native(x)
    y = np.empty(g.y_shape, dtype=x.dtype)
    for r in range(g.h_out):
        for s in range(g.w_out):
            y[:, :, r, s] = x[:, :, g.rows(r), g.columns(s)].mean(axis=(2, 3))
    return y


def adaptive_avg_pool2d_backward(grad_y: Array, g: AdaptivePool2dGeometry) -> Array:
    """Each pixel of a region gets grad_y / size of the region; see interface.adaptive_avg_pool2d_backward."""
    grad_y = native(grad_y)
    grad_x = np.zeros(g.x_shape, dtype=grad_y.dtype)
    for r in range(g.h_out):
        for s in range(g.w_out):
            region = grad_x[:, :, g.rows(r), g.columns(s)]
            region += grad_y[:, :, r : r + 1, s : s + 1] / (region.shape[2] * region.shape[3])
    return grad_x
