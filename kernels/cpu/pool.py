"""Pooling on the blocked layout: the largest value or the mean of every window, and their backward passes.

Windows and adaptive regions differ in one table each way: which rows (columns) a window covers, and which windows cover a
row (a column) of x. Two tasks read them; see windows.py.

Which element of a window won is kept as the number of its tap, a byte a lane where the interface has a flat int64 position:
a tenth of the memory, and the backward pass compares 16 of them at once. `Taps` gives the positions to whoever asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from minires.kernels import reference
from minires.kernels.cpu.intrinsics import load_word
from minires.kernels.cpu.layout import BLOCK, Blocked, blocks
from minires.kernels.cpu.memory import give_back, pool
from minires.kernels.cpu.planes import PIECE, Cut, piece, pitch, place, planes_frame
from minires.kernels.cpu.tasks import Step, Task, run_steps, task
from minires.kernels.cpu.windows import MAXIMUM, MEAN, WIDE_MAXIMUM, WINDOW_WORDS, pool_row, unpool_row
from minires.kernels.geometry import AdaptivePool2dGeometry, Pool2dGeometry
from minires.kernels.private import PrivateArray, takes_plain
from minires.kernels.reference.pool import window_divisor

Geometry = Pool2dGeometry | AdaptivePool2dGeometry


class Taps(PrivateArray):
    """Which tap of each window won: max_pool2d's indices, (n, c, h_out, w_out).

    Attributes:
        g: the pooling.
        data: (n, blocks, h_out, w_out, 16) uint8, or int32 where a window has more than 256 taps: i * k_w + j.
    """

    dtype = np.dtype(np.int64)
    first = 0  # no halo

    def __init__(self, g: Pool2dGeometry) -> None:
        self.g, self.shape = g, g.y_shape
        self.kind = MAXIMUM if g.k_h * g.k_w <= 256 else WIDE_MAXIMUM
        dtype = np.dtype(np.uint8 if self.kind == MAXIMUM else np.int32)
        full = (g.n, blocks(g.c), g.h_out, g.w_out, BLOCK)
        self._key = ("taps", full, self.kind)
        self._buffer = pool.take(self._key, int(np.prod(full)), dtype)
        self.data = self._buffer.reshape(full)

    def __del__(self) -> None:
        give_back(self)

    @property
    def address(self) -> int:
        return self.data.ctypes.data

    @property
    def row_bytes(self) -> int:
        return self.g.w_out * BLOCK * self.data.itemsize

    @property
    def block_bytes(self) -> int:
        return self.g.h_out * self.row_bytes

    @property
    def image_bytes(self) -> int:
        return self.data.shape[1] * self.block_bytes

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def to_plain(self) -> np.ndarray:
        """Flat positions in the (h, w) plane, int64: the interface's indices."""
        g = self.g
        taps = (
            self.data.transpose(0, 1, 4, 2, 3)
            .reshape(g.n, blocks(g.c) * BLOCK, g.h_out, g.w_out)[:, : g.c]
            .astype(np.int64)
        )
        i, j = np.divmod(taps, g.k_w)
        rows = np.arange(g.h_out)[:, None] * g.stride_h - g.pad_top + i * g.dilation_h
        return rows * g.w + np.arange(g.w_out) * g.stride_w - g.pad_left + j * g.dilation_w

    def copy(self) -> Taps:
        other = Taps(self.g)
        other.data[...] = self.data
        return other


# ------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True, eq=False)
class Tables:
    """Windows of one dimension, both ways.

    Attributes:
        windows: (outputs, WINDOW_WORDS): first row inside x, how many taps are, number of the first.
        covering: (size, words): how many windows cover a row of x, and for each its number and that of its tap.
        dilation: rows from tap to tap.
    """

    windows: np.ndarray
    covering: np.ndarray
    dilation: int


def _tables(size: int, windows: list[tuple[int, int, int]], dilation: int, tap_step: int) -> Tables:
    """windows: (first row, taps, number of the first tap); tap_step: what a tap adds to the number in `covering`."""
    covering: list[list[int]] = [[] for _ in range(size)]
    for r, (first, count, tap) in enumerate(windows):
        for k in range(count):
            covering[first + k * dilation] += [r, (tap + k) * tap_step]
    width = max((len(pairs) for pairs in covering), default=0)
    table = np.zeros((size, 1 + width), np.int64)
    for row, pairs in zip(table, covering, strict=True):
        row[0], row[1 : 1 + len(pairs)] = len(pairs) // 2, pairs
    return Tables(np.array(windows, np.int64).reshape(-1, WINDOW_WORDS), table, dilation)


def _windows(size: int, outputs: int, k: int, stride: int, pad: int, dilation: int) -> list[tuple[int, int, int]]:
    """Every window meets x: of maxima the operation asks for it, and an average's padding is at most half its window."""
    found = []
    for r in range(outputs):
        start = r * stride - pad
        inside = [i for i in range(k) if 0 <= start + i * dilation < size]
        found.append((start + inside[0] * dilation, len(inside), inside[0]))
    return found


def _regions(size: int, outputs: int) -> list[tuple[int, int, int]]:
    edges = [(r * size // outputs, -(-(r + 1) * size // outputs)) for r in range(outputs)]
    return [(start, stop - start, 0) for start, stop in edges]


@lru_cache(256)
def _rows_and_columns(g: Geometry) -> tuple[Tables, Tables, int]:
    """The tables of both dimensions, and taps in a row of a window."""
    if isinstance(g, AdaptivePool2dGeometry):
        return _tables(g.h, _regions(g.h, g.h_out), 1, 0), _tables(g.w, _regions(g.w, g.w_out), 1, 0), 0
    rows = _windows(g.h, g.h_out, g.k_h, g.stride_h, g.pad_top, g.dilation_h)
    columns = _windows(g.w, g.w_out, g.k_w, g.stride_w, g.pad_left, g.dilation_w)
    return _tables(g.h, rows, g.dilation_h, g.k_w), _tables(g.w, columns, g.dilation_w, 1), g.k_w


@lru_cache(256)
def _scales(g: Geometry) -> np.ndarray:
    """(h_out, w_out) float32: 1 / what each window's sum is divided by."""
    if isinstance(g, AdaptivePool2dGeometry):
        rows, columns, _ = _rows_and_columns(g)
        divisor = rows.windows[:, 1:2] * columns.windows[:, 1]
    else:
        divisor = window_divisor(g)
    return np.ascontiguousarray(1.0 / divisor, np.float32)


# -------------------------------------------------------------------------------------------------------------- tasks


@cache
def _pool_task(kind: int) -> Task:
    """Arrays: x, y, taps. Words: 6, 7 tables of rows and columns; 20 dilations (rows, columns), taps in a row, scales."""

    @task
    def pool_piece(index: int, worker: int, frame: int) -> None:
        block, image, last_image, row, last_row = piece(frame, index)
        rows, columns, width = load_word(frame, 6), load_word(frame, 7), load_word(frame, 3)
        dilation_h, dilation_w = load_word(frame, 20), load_word(frame, 21)
        tap_row, scales = load_word(frame, 22), load_word(frame, 23)
        for i in range(image, last_image):
            for r in range(row, last_row):
                pool_row(
                    kind, width, columns,
                    place(frame, 0, i, block, load_word(rows, 3 * r)), pitch(frame, 0) * dilation_h, 64 * dilation_w,
                    load_word(rows, 3 * r + 1), load_word(rows, 3 * r + 2) * tap_row, tap_row,
                    place(frame, 1, i, block, r), place(frame, 2, i, block, r), scales + 4 * width * r,
                )  # fmt: skip

    return pool_piece


@cache
def _unpool_task(kind: int) -> Task:
    """Arrays: grad_y, grad_x, taps. Words: 6, 7 tables of rows and columns; 20 their widths, scales and their row's bytes."""

    @task
    def unpool_piece(index: int, worker: int, frame: int) -> None:
        block, image, last_image, row, last_row = piece(frame, index)
        rows, columns, width = load_word(frame, 6), load_word(frame, 7), load_word(frame, 3)
        row_words, column_words = load_word(frame, 20), load_word(frame, 21)
        scales, scales_row = load_word(frame, 22), load_word(frame, 23)
        for i in range(image, last_image):
            for r in range(row, last_row):
                unpool_row(
                    kind, width, columns, column_words, rows + 8 * row_words * r,
                    place(frame, 0, i, block, 0), pitch(frame, 0),
                    place(frame, 2, i, block, 0), pitch(frame, 2), scales, scales_row,
                    place(frame, 1, i, block, r),
                )  # fmt: skip

    return unpool_piece


def _pool_step(kind: int, x: Blocked, y: Blocked, taps: Taps | None, g: Geometry) -> Step:
    rows, columns, tap_row = _rows_and_columns(g)
    scales = _scales(g) if kind == MEAN else np.zeros(0, np.float32)
    # Pieces of y that read about as many pixels of x as other kernels' pieces do.
    cut = Cut.of(g.y_shape, max(1, PIECE * g.h_out * g.w_out // max(g.h * g.w, g.h_out * g.w_out)))
    frame = planes_frame(
        g.y_shape, [x, y, taps], rows.windows.ctypes.data, columns.windows.ctypes.data,
        rows.dilation, columns.dilation, tap_row, scales.ctypes.data, cut=cut,
    )  # fmt: skip
    return Step(_pool_task(kind), blocks(g.c) * cut.chunks, frame, (x, y, taps, rows, columns, scales))


def pool_steps(kind: str, x: Blocked, y: Blocked, g: Geometry) -> list[Step]:
    """The steps of a pooling by its name in kernels/graph.py, for a Program; nobody asks which element won."""
    if isinstance(g, Pool2dGeometry) and kind == "max_pool2d":
        taps = Taps(g)
        return [_pool_step(taps.kind, x, y, taps, g)]
    return [_pool_step(MEAN, x, y, None, g)]


def _pool(kind: int, x: Blocked, y: Blocked, taps: Taps | None, g: Geometry) -> None:
    if y.data.size:
        run_steps(_pool_step(kind, x, y, taps, g))


def _unpool(kind: int, grad_y: Blocked, grad_x: Blocked, taps: Taps | None, g: Geometry) -> None:
    if not grad_x.data.size:
        return
    rows, columns, _ = _rows_and_columns(g)
    scales = _scales(g) if kind == MEAN else np.zeros(0, np.float32)
    cut = Cut.of(g.x_shape)
    frame = planes_frame(
        g.x_shape, [grad_y, grad_x, taps], rows.covering.ctypes.data, columns.covering.ctypes.data,
        rows.covering.shape[1], columns.covering.shape[1], scales.ctypes.data, 4 * g.w_out, cut=cut,
    )  # fmt: skip
    run_steps(Step(_unpool_task(kind), blocks(g.c) * cut.chunks, frame, (grad_y, grad_x, taps, rows, columns, scales)))


# ------------------------------------------------------------------------------------------------------------ kernels


def max_pool2d_forward(x: Blocked, g: Pool2dGeometry) -> tuple[Blocked, Taps]:
    """See interface.max_pool2d_forward; the indices are Taps."""
    y, taps = Blocked(g.y_shape), Taps(g)
    _pool(taps.kind, x, y, taps, g)
    return y, taps


def max_pool2d_backward(grad_y: Blocked, indices: Taps, g: Pool2dGeometry) -> Blocked:
    """See interface.max_pool2d_backward."""
    grad_x = Blocked(g.x_shape)
    _unpool(indices.kind, grad_y, grad_x, indices, g)
    return grad_x


max_pool2d_gather = takes_plain(reference.max_pool2d_gather)  # second derivatives alone ask for it


def avg_pool2d_forward(x: Blocked, g: Pool2dGeometry) -> Blocked:
    """See interface.avg_pool2d_forward."""
    y = Blocked(g.y_shape)
    _pool(MEAN, x, y, None, g)
    return y


def avg_pool2d_backward(grad_y: Blocked, g: Pool2dGeometry) -> Blocked:
    """See interface.avg_pool2d_backward."""
    grad_x = Blocked(g.x_shape)
    _unpool(MEAN, grad_y, grad_x, None, g)
    return grad_x


def adaptive_avg_pool2d_forward(x: Blocked, g: AdaptivePool2dGeometry) -> Blocked | np.ndarray:
    """See interface.adaptive_avg_pool2d_forward. One mean a channel, what the classifier reads next, comes plain."""
    one = g.h_out == g.w_out == 1
    y = Blocked(g.y_shape, halo=0 if one else 1)
    _pool(MEAN, x, y, None, g)
    return y.data.reshape(g.n, blocks(g.c) * BLOCK)[:, : g.c].copy().reshape(g.y_shape) if one else y


def adaptive_avg_pool2d_backward(grad_y: Blocked | np.ndarray, g: AdaptivePool2dGeometry) -> Blocked:
    """See interface.adaptive_avg_pool2d_backward."""
    grad_x = Blocked(g.x_shape)
    if not isinstance(grad_y, Blocked):
        grad_y = Blocked.from_plain(grad_y, 0)
    _unpool(MEAN, grad_y, grad_x, None, g)
    return grad_x
