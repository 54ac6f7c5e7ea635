"""What convolution and pooling share: padded planes, and a view of all windows of a plane."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minires.kernels.interface import Array


def native(x: Array) -> Array:
    """x in C order and the machine's byte order; x itself, without a copy, where it is so already."""
    return np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))


def pad_planes(x: Array, top: int, bottom: int, left: int, right: int, value: float = 0.0) -> Array:
    """x with rows and columns of `value` added around its last two dimensions; a negative number cuts off instead.

    Args:
        x: (n, c, h, w).

    Returns:
        (n, c, top + h + bottom, left + w + right), in C order; x itself if nothing is added.
    """
    if not (top or bottom or left or right):
        return native(x)
    n, c, h, w = x.shape
    padded = np.full((n, c, top + h + bottom, left + w + right), value, dtype=x.dtype.newbyteorder("="))
    kept_rows = slice(max(-top, 0), h - max(-bottom, 0))
    kept_columns = slice(max(-left, 0), w - max(-right, 0))
    inside_rows = slice(max(top, 0), top + h - max(-bottom, 0))
    inside_columns = slice(max(left, 0), left + w - max(-right, 0))
    padded[:, :, inside_rows, inside_columns] = x[:, :, kept_rows, kept_columns]
    return padded


def window_view(
    padded: Array, taps: tuple[int, int], outputs: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Array:
    """All windows, as a view: [b, c, i, j, r, s] -> padded[b, c, r stride_h + i dilation_h, s stride_w + j dilation_w].

    Moving by one tap walks `dilation` rows, moving by one output walks `stride` rows: both are strides of the same
    memory.

    Args:
        padded: (n, c, h, w) in C order.
        taps: (k_h, k_w).
        outputs: (h_out, w_out).

    Returns:
        (n, c, k_h, k_w, h_out, w_out), read-only.
    """
    image, channel, row, column = padded.strides
    return as_strided(
        padded,
        shape=(*padded.shape[:2], *taps, *outputs),
        strides=(image, channel, row * dilation[0], column * dilation[1], row * stride[0], column * stride[1]),
        writeable=False,
    )
