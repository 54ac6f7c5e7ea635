"""The first convolution of a network: few input channels, in a plain array.

Three channels would fill three of sixteen lanes of a block. So the image is copied to rows of pixels with their channels
side by side, (n, h + padding, w + padding, c), where the k_w * c numbers that a window reads in one row are neighbours: one
tap of the gathered product is a row of the window, `inner = k_w * c` numbers long. Only x's layout differs from
conv_direct and conv_weight; the tasks are theirs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from minires.kernels.cpu.conv_direct import pack_bias, pitch, tile_for
from minires.kernels.cpu.conv_weight import weight_step
from minires.kernels.cpu.intrinsics import load_f32, load_word, store_f32
from minires.kernels.cpu.layout import BLOCK, PIXEL, Blocked, blocks
from minires.kernels.cpu.memory import aligned, pool
from minires.kernels.cpu.product import Place, Tables, Tile, product_step, tiled
from minires.kernels.cpu.tasks import Step, run_steps, task
from minires.kernels.geometry import Conv2dGeometry

MOST_CHANNELS = 8  # from 9 on more than half of a block is used


def suits(g: Conv2dGeometry) -> bool:
    """Whether this layout serves the convolution."""
    return g.c_in <= MOST_CHANNELS and g.groups == 1 and g.dilation_w == 1


class Rows:
    """x as (n, h + padding, w + padding, c), zeros in the padding. The buffer returns to the pool with the object."""

    def __init__(self, g: Conv2dGeometry) -> None:
        self.g = g
        height = max(g.pad_top + g.h, (g.h_out - 1) * g.stride_h + g.span_h)
        width = max(g.pad_left + g.w, (g.w_out - 1) * g.stride_w + g.span_w)
        self.row_bytes = 4 * width * g.c_in
        self.image_bytes = height * self.row_bytes
        self._key = ("rows", g.x_shape, height, width, g.pad_top, g.pad_left)
        self._data = pool.take(self._key, g.n * height * width * g.c_in, np.float32)
        self.address = self._data.ctypes.data

    @classmethod
    def of(cls, x: np.ndarray, g: Conv2dGeometry) -> Rows:
        """x in this layout."""
        rows = cls(g)
        x = np.ascontiguousarray(x, np.float32)
        run_steps(rows.step_fill(x.ctypes.data))
        return rows

    def step_fill(self, x: int) -> Step:
        """The step that copies images in from the plain float32 array at address `x`, which is the frame's first word."""
        g = self.g
        start = self.address + g.pad_top * self.row_bytes + 4 * g.pad_left * g.c_in
        frame = np.array([x, start, self.image_bytes, self.row_bytes, g.c_in, g.h, g.w], np.int64)
        return Step(_to_rows, g.n, frame, (self,))

    def __del__(self) -> None:
        if hasattr(self, "_data") and pool is not None:  # None: the interpreter is closing
            pool.give(self._key, self._data)


@task
def _to_rows(index: int, worker: int, frame: int) -> None:
    x, start, image, row = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2), load_word(frame, 3)
    channels, h, w = load_word(frame, 4), load_word(frame, 5), load_word(frame, 6)
    for i in range(h):
        target = start + index * image + i * row
        for c in range(channels):
            source = x + 4 * ((index * channels + c) * h + i) * w
            for j in range(w):
                store_f32(target, j * channels + c, load_f32(source, j))


@lru_cache(256)
def stem_tables(g: Conv2dGeometry, tile: Tile, row: int, y_halo: int) -> Tables:
    """As conv_direct.forward_tables, for rows of `row` bytes."""
    r, s = np.divmod(np.arange(g.h_out * g.w_out), g.w_out)
    return Tables(
        tiled(r * g.stride_h * row + s * g.stride_w * 4 * g.c_in, tile),
        tiled(r * pitch(g.w_out, y_halo) + s * PIXEL, tile),
        np.arange(g.k_h, dtype=np.int64) * g.dilation_h * row,
        np.zeros(-(-blocks(g.c_out) // tile.vectors), np.int64),
    )


def pack_stem(weight: np.ndarray, tile: Tile) -> np.ndarray:
    """(c_out, c, k_h, k_w) -> (panel, k_h, k_w * c, 16 * vectors)."""
    c_out, c, k_h, k_w = weight.shape
    width = tile.vectors * BLOCK
    panels = -(-c_out // width)
    packed = aligned(panels * k_h * k_w * c * width).reshape(panels, k_h, k_w, c, width)
    for panel in range(panels):
        part = weight[panel * width : (panel + 1) * width]
        packed[panel, ..., : len(part)] = part.transpose(2, 3, 1, 0)
    return packed.reshape(panels, k_h, k_w * c, width)


def step_forward(
    rows: Rows,
    packed: np.ndarray,
    bias: np.ndarray,
    y: Blocked,
    g: Conv2dGeometry,
    residual: Blocked | None = None,
    relu: bool = False,
) -> Step:
    """As conv_direct.step_forward."""
    tile = tile_for(g.c_out)
    tables = stem_tables(g, tile, rows.row_bytes, y.halo)
    inner = g.k_w * g.c_in
    shortcut = None if residual is None else Place.of(residual)
    return product_step(
        rows.address, rows.image_bytes, g.n, inner, packed, bias, Place.of(y), tile, tables, shortcut, relu
    )


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, g: Conv2dGeometry) -> Blocked:
    """See interface.conv2d_forward."""
    y = Blocked(g.y_shape)
    if g.n:
        tile = tile_for(g.c_out)
        run_steps(step_forward(Rows.of(x, g), pack_stem(weight, tile), pack_bias(bias, g.c_out, tile), y, g))
    return y


@lru_cache(256)
def stem_weight_tables(g: Conv2dGeometry, pixels: int, row: int) -> tuple[np.ndarray, ...]:
    """As conv_weight.weight_tables, for rows of `row` bytes."""
    offsets = [
        i * g.dilation_h * row + 4 * (j * g.c_in + c) for i in range(g.k_h) for j in range(g.k_w) for c in range(g.c_in)
    ]
    tile = Tile(pixels, 1)
    return (
        tiled(np.array(offsets, np.int64), tile),
        tiled(PIXEL * np.arange(len(offsets)), tile),
        np.arange(g.h_out, dtype=np.int64) * g.stride_h * row,
        np.zeros(blocks(g.c_out), np.int64),
    )


def backward_weight(grad_y: Blocked, x: np.ndarray, g: Conv2dGeometry) -> np.ndarray:
    """See interface.conv2d_backward_weight."""
    if g.n == 0:
        return np.zeros(g.weight_shape, np.float32)
    rows = Rows.of(x, g)
    step = 4 * g.stride_w * g.c_in
    total = weight_step(
        rows.address, rows.image_bytes, step, grad_y, g, lambda pixels: stem_weight_tables(g, pixels, rows.row_bytes)
    )
    total = total.reshape(blocks(g.c_out), -1, BLOCK)[:, : g.k_h * g.k_w * g.c_in]
    by_output = total.transpose(0, 2, 1).reshape(-1, g.k_h, g.k_w, g.c_in)[: g.c_out]
    return np.ascontiguousarray(by_output.transpose(0, 3, 1, 2))
