"""Direct convolution on the blocked layout: any kernel, stride, dilation and grouping.

Forward, a pixel of y is a product over taps (window position, channel block of x). Backward in x the roles turn: a pixel of
grad_x is a product over those window positions that meet it. With stride s only every s-th does, and which ones depends on
the pixel's row and column modulo s alone; so the pixels fall into s_h * s_w parity classes, each a dense product with its
own taps, and no structural zero is multiplied. (Dumoulin and Visin 2016, section 4.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from minires.kernels.cpu.intrinsics import load_f32, load_word, store_f32
from minires.kernels.cpu.layout import BLOCK, PIXEL, Blocked, blocks
from minires.kernels.cpu.machine import Tile, tile_for
from minires.kernels.cpu.memory import aligned
from minires.kernels.cpu.product import Place, Tables, product_step, tiled, zero_step
from minires.kernels.cpu.tasks import Step, run, run_steps, task
from minires.kernels.geometry import Conv2dGeometry


def pitch(width: int, halo: int) -> int:
    """Bytes of a row of the blocked layout."""
    return (width + 2 * halo) * PIXEL


# ------------------------------------------------------------------------------------------------------------- groups


@lru_cache(None)
def block_ranges(c_in: int, c_out: int, groups: int, vectors: int) -> tuple[tuple[int, ...], int]:
    """For every panel of output channels, the first block of input channels it reads, and how many each reads.

    Groups smaller than a block share blocks: their panel then reads a few channels that are none of its own, with
    weights of zero.
    """
    per_in, per_out = c_in // groups, c_out // groups
    starts, ends = [], []
    for panel in range(-(-blocks(c_out) // vectors)):
        lowest, highest = panel * vectors * BLOCK, min((panel + 1) * vectors * BLOCK, c_out) - 1
        starts.append(lowest // per_out * per_in // BLOCK)
        ends.append(-(-(highest // per_out + 1) * per_in // BLOCK))
    count = max(end - start for start, end in zip(starts, ends, strict=True))
    return tuple(min(start, blocks(c_in) - count) for start in starts), count


def pack(weight: np.ndarray, groups: int, tile: Tile, taps: list[tuple[int, int]]) -> np.ndarray:
    """Weights in the order the micro-kernel reads them: (panel, channel block, tap, 16 channels, 16 * vectors outputs).

    Args:
        weight: (c_out, c_in / groups, k_h, k_w), any strides.
        taps: the window positions wanted.
    """
    c_out, per_group = weight.shape[:2]
    firsts, count = block_ranges(per_group * groups, c_out, groups, tile.vectors)
    width = tile.vectors * BLOCK
    packed = aligned(len(firsts) * count * len(taps) * BLOCK * width)
    packed = packed.reshape(len(firsts), count, len(taps), BLOCK, width)
    strides = weight.strides
    first_blocks = np.array(firsts, np.int64)
    offsets = np.array([i * strides[2] + j * strides[3] for i, j in taps], np.int64)
    frame = np.array(
        [
            packed.ctypes.data, weight.ctypes.data, strides[0], strides[1], offsets.ctypes.data, len(taps),
            c_out, per_group, c_out // groups, width, count, first_blocks.ctypes.data,
        ],
        np.int64,
    )  # fmt: skip
    run(_pack, len(firsts), frame)
    return packed


@task
def _pack(index: int, worker: int, frame: int) -> None:
    packed, weight, o_bytes, c_bytes = (
        load_word(frame, 0),
        load_word(frame, 1),
        load_word(frame, 2),
        load_word(frame, 3),
    )
    offsets, taps, c_out, per_in = load_word(frame, 4), load_word(frame, 5), load_word(frame, 6), load_word(frame, 7)
    per_out, width, count, firsts = load_word(frame, 8), load_word(frame, 9), load_word(frame, 10), load_word(frame, 11)
    for block in range(count):
        target = packed + 4 * (index * count + block) * taps * 16 * width
        for lane in range(min(width, c_out - index * width)):
            output = index * width + lane
            # Channel c of the block is channel `start + c` of the output's own group, if it is in the group at all.
            start = (load_word(firsts, index) + block) * 16 - output // per_out * per_in
            source = weight + output * o_bytes + start * c_bytes
            for c in range(max(0, -start), min(16, per_in - start)):
                for t in range(taps):
                    number = load_f32(source + c * c_bytes + load_word(offsets, t), 0)
                    store_f32(target, (t * 16 + c) * width + lane, number)


def pack_bias(bias: np.ndarray | None, c_out: int, tile: Tile) -> np.ndarray:
    packed = aligned(-(-blocks(c_out) // tile.vectors) * tile.vectors * BLOCK)
    if bias is not None:
        packed[:c_out] = bias
    return packed


# ------------------------------------------------------------------------------------------------------------- tables


@lru_cache(4096)
def forward_tables(g: Conv2dGeometry, tile: Tile, x_halo: int, y_halo: int) -> Tables:
    """y[r, s] reads x[r * stride - pad + i * dilation, ...]."""
    row, y_row = pitch(g.w, x_halo), pitch(g.w_out, y_halo)
    block = (g.h + 2 * x_halo) * row
    r, s = np.divmod(np.arange(g.h_out * g.w_out), g.w_out)
    firsts, count = block_ranges(g.c_in, g.c_out, g.groups, tile.vectors)
    taps = [
        b * block + (i * g.dilation_h - g.pad_top) * row + (j * g.dilation_w - g.pad_left) * PIXEL
        for b in range(count)
        for i in range(g.k_h)
        for j in range(g.k_w)
    ]
    return Tables(
        tiled(r * g.stride_h * row + s * g.stride_w * PIXEL, tile),
        tiled(r * y_row + s * PIXEL, tile),
        np.array(taps, np.int64),
        np.array(firsts, np.int64) * block,
    )


@lru_cache(4096)
def backward_tables(
    g: Conv2dGeometry, tile: Tile, grad_y_halo: int, grad_x_halo: int
) -> list[tuple[Tables, list[tuple[int, int]]]]:
    """One product a parity class: its tables and its window positions; none where no window meets the class.

    grad_x[i] of the class i = a + stride * q reads grad_y[q + (a + pad - k * dilation) / stride] through tap k, if that
    is a whole number.
    """
    row, x_row = pitch(g.w_out, grad_y_halo), pitch(g.w, grad_x_halo)
    block = (g.h_out + 2 * grad_y_halo) * row
    firsts, count = block_ranges(g.c_out, g.c_in, g.groups, tile.vectors)
    classes: list[tuple[Tables, list[tuple[int, int]]]] = []
    for a in range(min(g.stride_h, g.h)):
        for b in range(min(g.stride_w, g.w)):
            vertical = _meeting(a, g.k_h, g.stride_h, g.pad_top, g.dilation_h)
            horizontal = _meeting(b, g.k_w, g.stride_w, g.pad_left, g.dilation_w)
            taps = [(i, j) for i, _ in vertical for j, _ in horizontal]
            h, w = -(-(g.h - a) // g.stride_h), -(-(g.w - b) // g.stride_w)
            q, p = np.divmod(np.arange(h * w), w)
            offsets = [
                c * block + di * row + dj * PIXEL for c in range(count) for _, di in vertical for _, dj in horizontal
            ]
            classes.append(
                (
                    Tables(
                        tiled(q * row + p * PIXEL, tile),
                        tiled((a + q * g.stride_h) * x_row + (b + p * g.stride_w) * PIXEL, tile),
                        np.array(offsets, np.int64),
                        np.array(firsts, np.int64) * block,
                    ),
                    taps,
                )
            )
    return classes


def _meeting(a: int, k: int, stride: int, pad: int, dilation: int) -> list[tuple[int, int]]:
    """(tap, offset in grad_y) of the taps that meet the rows a, a + stride, ..."""
    return [(i, (a + pad - i * dilation) // stride) for i in range(k) if (a + pad - i * dilation) % stride == 0]


# ------------------------------------------------------------------------------------------------------------ running


def needed_halo(g: Conv2dGeometry) -> int:
    """The halo of x that no window steps over."""
    bottom = (g.h_out - 1) * g.stride_h + g.span_h - g.h - g.pad_top
    right = (g.w_out - 1) * g.stride_w + g.span_w - g.w - g.pad_left
    return max(g.pad_top, g.pad_left, bottom, right, 0)


def needed_backward_halo(g: Conv2dGeometry) -> int:
    """The halo of grad_y that the backward pass in x does not step over."""
    before = max(_ceil(g.span_h - 1 - g.pad_top, g.stride_h), _ceil(g.span_w - 1 - g.pad_left, g.stride_w))
    below = (g.h - 1 + g.pad_top) // g.stride_h - (g.h_out - 1)
    right = (g.w - 1 + g.pad_left) // g.stride_w - (g.w_out - 1)
    return max(before, below, right, 0)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def positions(g: Conv2dGeometry) -> list[tuple[int, int]]:
    """All positions of the window, row by row."""
    return [(i, j) for i in range(g.k_h) for j in range(g.k_w)]


def step_forward(
    x: Blocked,
    packed: np.ndarray,
    bias: np.ndarray,
    y: Blocked,
    g: Conv2dGeometry,
    residual: Blocked | None = None,
    relu: bool = False,
) -> Step:
    """The step y = packed * x + bias [+ residual], [relu], for weights packed once. x.halo >= needed_halo(g)."""
    tile = tile_for(g.c_out)
    tables = forward_tables(g, tile, x.halo, y.halo)
    shortcut = None if residual is None else Place.of(residual)
    start = x.address + x.first
    return product_step(
        start, x.image_bytes, x.shape[0], BLOCK, packed, bias, Place.of(y), tile, tables, shortcut, relu
    )


def forward(
    x: Blocked,
    weight: np.ndarray,
    bias: np.ndarray | None,
    g: Conv2dGeometry,
    residual: Blocked | None = None,
    relu: bool = False,
) -> Blocked:
    """y = weight * x + bias [+ residual], [relu]. See interface.conv2d_forward."""
    tile = tile_for(g.c_out)
    y = Blocked(g.y_shape)
    if g.n:
        packed, shift = pack(weight, g.groups, tile, positions(g)), pack_bias(bias, g.c_out, tile)
        run_steps(step_forward(x.with_halo(needed_halo(g)), packed, shift, y, g, residual, relu))
    return y


def backward_x(grad_y: Blocked, weight: np.ndarray, g: Conv2dGeometry) -> Blocked:
    """See interface.conv2d_backward_x."""
    grad_x = Blocked(g.x_shape)
    if g.n == 0:
        return grad_x
    tile = tile_for(g.c_in)
    grad_y = grad_y.with_halo(needed_backward_halo(g))
    per_out, per_in = g.c_out // g.groups, g.c_in // g.groups
    turned = weight.reshape(g.groups, per_out, per_in, g.k_h, g.k_w).swapaxes(1, 2)
    turned = turned.reshape(g.c_in, per_out, g.k_h, g.k_w)  # of one group: a view
    shift = pack_bias(None, g.c_in, tile)
    start = grad_y.address + grad_y.first
    todo = []
    for tables, taps in backward_tables(g, tile, grad_y.halo, grad_x.halo):
        if taps:
            packed = pack(turned, g.groups, tile, taps)
            todo.append(
                product_step(start, grad_y.image_bytes, g.n, BLOCK, packed, shift, Place.of(grad_x), tile, tables)
            )
        else:
            todo.append(zero_step(grad_x, tables.y_rows))
    run_steps(*todo)
    return grad_x
