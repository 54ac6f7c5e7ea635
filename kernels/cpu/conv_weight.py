"""The gradient of a convolution's weights, on the blocked layout.

    grad_weight[o, c, i, j] = sum over images and pixels p of grad_y[p, o] * x[p + tap(i, j), c]

is again a gathered product, with the parts exchanged: a "row" of the micro-kernel's tile is one input channel at one window
position, and what is summed over are the pixels, row of the image by row. So the table of rows holds taps and channels, the
table of taps holds image rows, and the panel of "weights" is grad_y itself.

The sum over all pixels cannot stay in registers, so x and grad_y are taken in bands of a few image rows that fit the
first-level cache together; all tiles add one band's part before the next band is fetched. Images are dealt to a fixed number
of slots, each with sums of its own, added up at the end: the bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np

from minires.kernels.cpu.conv_direct import block_ranges, needed_halo, pitch, positions, tile_for
from minires.kernels.cpu.intrinsics import load_f32, load_word, store_f32
from minires.kernels.cpu.layout import BLOCK, PIXEL, Blocked
from minires.kernels.cpu.memory import aligned
from minires.kernels.cpu.microkernel import ADD_RESIDUAL, multiply_tile
from minires.kernels.cpu.product import Tile, tiled
from minires.kernels.cpu.rehearsal import at_batch
from minires.kernels.cpu.tasks import Task, run, task
from minires.kernels.geometry import Conv2dGeometry

BAND_BYTES = 24 << 10  # of x and grad_y together
TILES = 24  # of a piece: 144 rows of a tile of 6, nine taps of a channel block
PANELS = 8  # of a piece
PIECES = 16  # at least, by dealing images to slots


@cache
def weight_task(pixels: int, step: int) -> Task:
    """The task for a tile of `pixels` rows and a distance of `step` bytes between neighbouring pixels of x."""

    @task
    def product(index: int, worker: int, frame: int) -> None:
        x, x_image = load_word(frame, 0), load_word(frame, 1)
        g, g_image, g_block, g_row = load_word(frame, 2), load_word(frame, 3), load_word(frame, 4), load_word(frame, 5)
        sums, slot_bytes, panel_bytes = load_word(frame, 6), load_word(frame, 7), load_word(frame, 8)
        rows, places, lines, firsts = (
            load_word(frame, 9),
            load_word(frame, 10),
            load_word(frame, 11),
            load_word(frame, 12),
        )
        n_tiles, n_lines, width, n_images = (
            load_word(frame, 13),
            load_word(frame, 14),
            load_word(frame, 15),
            load_word(frame, 16),
        )
        n_panels, n_slots, tile_step = load_word(frame, 17), load_word(frame, 18), load_word(frame, 19)
        panel_step, band = load_word(frame, 20), load_word(frame, 21)
        tile_pieces, panel_pieces = -(-n_tiles // tile_step), -(-n_panels // panel_step)
        first_tile = index % tile_pieces * tile_step
        first_panel = index // tile_pieces % panel_pieces * panel_step
        slot = index // tile_pieces // panel_pieces
        last_panel = min(first_panel + panel_step, n_panels)
        for image in range(slot * n_images // n_slots, (slot + 1) * n_images // n_slots):
            for line in range(0, n_lines, band):
                for panel in range(first_panel, last_panel):
                    source = x + image * x_image + load_word(firsts, panel)
                    weights = g + image * g_image + panel * g_block + line * g_row
                    target = sums + slot * slot_bytes + panel * panel_bytes
                    for t in range(first_tile, min(first_tile + tile_step, n_tiles)):
                        at = 8 * pixels * t
                        multiply_tile(
                            pixels, 1, 1, step, ADD_RESIDUAL,
                            source, rows + at, weights, lines + 8 * line, min(band, n_lines - line), width,
                            g_row - 64 * width, target, places + at, 0, 0, target, 0,
                        )  # fmt: skip

    return product


@lru_cache(4096)
def weight_tables(g: Conv2dGeometry, pixels: int, x_halo: int) -> tuple[np.ndarray, ...]:
    """Tile rows (channel block, tap, channel) of x and of the sums, image rows of x, first channel block of each panel."""
    row = pitch(g.w, x_halo)
    block = (g.h + 2 * x_halo) * row
    firsts, count = block_ranges(g.c_in, g.c_out, g.groups, 1)
    rows = [
        b * block + (i * g.dilation_h - g.pad_top) * row + (j * g.dilation_w - g.pad_left) * PIXEL + 4 * c
        for b in range(count)
        for i, j in positions(g)
        for c in range(BLOCK)
    ]
    tile = Tile(pixels, 1)
    return (
        tiled(np.array(rows, np.int64), tile),
        tiled(PIXEL * np.arange(len(rows)), tile),
        np.arange(g.h_out, dtype=np.int64) * g.stride_h * row,
        np.array(firsts, np.int64) * block,
    )


def weight_step(
    x: int,
    x_image: int,
    step: int,
    grad_y: Blocked,
    g: Conv2dGeometry,
    tables_for: Callable[[int], tuple[np.ndarray, ...]],
) -> np.ndarray:
    """The sums of all tile rows: (panels, rows, 16).

    Args:
        x: address of the first image's pixel (0, 0); x_image: bytes from image to image.
        step: bytes from a pixel to the one that the window next to it reads.
        tables_for: the tables of weight_tables for a number of tile rows.
    """
    pixels = tile_for(BLOCK).pixels
    rows, places, lines, firsts = tables_for(pixels)
    n_tiles, n_panels = len(rows) // pixels, len(firsts)
    tile_step, panel_step = min(TILES, n_tiles), min(PANELS, n_panels)
    parts = -(-n_tiles // tile_step) * -(-n_panels // panel_step)
    n_slots = min(at_batch(g).n, -(-PIECES // parts))
    n_rows = int(places[-1]) // PIXEL + 1
    sums = aligned(n_slots * n_panels * n_rows * BLOCK).reshape(n_slots, n_panels, n_rows, BLOCK)
    band = max(1, BAND_BYTES // (g.w_out * (PIXEL + g.stride_h * max(step, PIXEL))))
    frame = np.array(
        [
            x, x_image,
            grad_y.address + grad_y.first, grad_y.image_bytes, grad_y.block_bytes, grad_y.row_bytes,
            sums.ctypes.data, sums.strides[0], sums.strides[1],
            rows.ctypes.data, places.ctypes.data, lines.ctypes.data, firsts.ctypes.data,
            n_tiles, g.h_out, g.w_out, g.n, n_panels, n_slots, tile_step, panel_step, band,
        ],
        np.int64,
    )  # fmt: skip
    run(weight_task(pixels, step), parts * n_slots, frame)
    return sums[0] if n_slots == 1 else sums.sum(0)


def backward_weight(grad_y: Blocked, x: Blocked, g: Conv2dGeometry) -> np.ndarray:
    """See interface.conv2d_backward_weight."""
    if g.n == 0:
        return np.zeros(g.weight_shape, np.float32)
    x = x.with_halo(needed_halo(g))
    start, step = x.address + x.first, g.stride_w * PIXEL
    sums = weight_step(start, x.image_bytes, step, grad_y, g, lambda pixels: weight_tables(g, pixels, x.halo))
    return unpack(sums.reshape(len(sums), -1, g.k_h * g.k_w, BLOCK, BLOCK), g)


def unpack(packed: np.ndarray, g: Conv2dGeometry) -> np.ndarray:
    """(panel, channel block, tap, 16 channels, 16 outputs) -> (c_out, c_in / groups, k_h, k_w)."""
    taps = g.k_h * g.k_w
    weight = np.empty(g.weight_shape, np.float32)
    if g.groups == 1:
        frame = np.array([packed.ctypes.data, weight.ctypes.data, g.c_in, g.c_out, taps], np.int64)
        run(_unpack, packed.shape[0], frame)
        return weight
    firsts, count = block_ranges(g.c_in, g.c_out, g.groups, 1)
    per_in, per_out = g.c_in // g.groups, g.c_out // g.groups
    by_output = packed.transpose(0, 4, 1, 3, 2).reshape(packed.shape[0], BLOCK, count * BLOCK, taps)
    for output in range(g.c_out):
        panel, lane = divmod(output, BLOCK)
        start = output // per_out * per_in - firsts[panel] * BLOCK
        weight[output] = by_output[panel, lane, start : start + per_in].reshape(per_in, g.k_h, g.k_w)
    return weight


@task
def _unpack(index: int, worker: int, frame: int) -> None:
    packed, weight, c_in = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2)
    c_out, taps = load_word(frame, 3), load_word(frame, 4)
    n_blocks = -(-c_in // 16)
    for block in range(n_blocks):
        source = packed + (index * n_blocks + block) * taps * 1024
        for lane in range(min(16, c_out - 16 * index)):
            target = weight + 4 * ((16 * index + lane) * c_in + 16 * block) * taps
            for c in range(min(16, c_in - 16 * block)):
                for t in range(taps):
                    store_f32(target, c * taps + t, load_f32(source, (t * 16 + c) * 16 + lane))
