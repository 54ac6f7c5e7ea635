"""The steps of a Winograd convolution, compiled: weights in, patches in, products, tiles out.

What lies between the transforms, for a run of tiles t (the n x n positions of a patch are called *points*):

    v[point][block of c_in][t][16]                     transformed patches
    u[point][panel][c_in][16 * vectors]                transformed weights
    q[point][block of c_out][t][16]                    products: for each point one matrix product (t, c_in) x (c_in, c_out)

The product is the micro-kernel's: its rows are tiles, 64 bytes apart, its taps are channel blocks. Two forms use the steps:

    fused       for each run of tiles: patches in, products, tiles out, with v and q in the second-level cache
    in phases   patches of all tiles in; then products; then tiles out, so that u is read from memory once

A run is filled up to whole micro-kernel tiles with rows of whatever lies in the scratch: rows do not mix, and no one reads
what comes of them.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from minires.kernels.cpu.intrinsics import load_f32, load_word, store_f32
from minires.kernels.cpu.layout import PIXEL
from minires.kernels.cpu.microkernel import ADD_RESIDUAL, multiply_tile
from minires.kernels.cpu.tasks import Task, helper, task
from minires.kernels.cpu.winograd_transforms import (
    INPUT,
    WEIGHT,
    transform,
    transform_output,
)

# Channel blocks that are summed in registers before they join the sum, for the rounding errors of long sums grow: with 512
# channels F(4x4)'s rms error is 8e-7 of the output's deviation with sums of four blocks, 20e-7 with a single sum. With sums of
# one block every layer but those of 16 and 32 channels is within 3 times PyTorch's error; the additions in memory cost nothing
# that could be measured on ResNet-18.
SUMMED = 1

# A frame's words, by number. Distances are in bytes; X and Y are the addresses of pixel (0, 0) of image 0.
(
    M, PAD_TOP, PAD_LEFT, TILES_WIDE, TILES_PER_IMAGE, FIRST, COUNT, PER_PIECE,  # the tiles of this step
    X, X_IMAGE, X_BLOCK, X_ROW, X_BLOCKS, X_LOW, X_BOTTOM, X_RIGHT,  # readable rows: X_LOW <= i < X_BOTTOM
    Y, Y_IMAGE, Y_BLOCK, Y_ROW, Y_BLOCKS, Y_H, Y_W,
    RESIDUAL, RESIDUAL_IMAGE, RESIDUAL_BLOCK, RESIDUAL_ROW, RESIDUAL_PIXEL,
    BIAS, FLOOR, ZEROS,
    U, U_POINT, U_PANEL, PANELS, PANELS_PER_PIECE,
    V, V_POINT, V_BLOCK, Q, Q_POINT, Q_BLOCK, PER_WORKER,
    ROWS, TAPS, PLACES, ROW_TILES, RUN_TILES,  # the last three: of the gradient of the weights alone
    WORDS,
) = range(49)  # fmt: skip


def frame_of(**words: int) -> np.ndarray:
    """A frame from the names above in lower case; the others are 0."""
    frame = np.zeros(WORDS, np.int64)
    for name, value in words.items():
        frame[globals()[name.upper()]] = value
    return frame


@helper
def patches_in(frame: int, first: int, count: int, v: int) -> None:
    """v = B^T d B for tiles first, first + 1, ... and all channel blocks."""
    m, pad_top, pad_left = load_word(frame, M), load_word(frame, PAD_TOP), load_word(frame, PAD_LEFT)
    wide, per_image = load_word(frame, TILES_WIDE), load_word(frame, TILES_PER_IMAGE)
    x, x_image, x_block, row = (
        load_word(frame, X),
        load_word(frame, X_IMAGE),
        load_word(frame, X_BLOCK),
        load_word(frame, X_ROW),
    )
    low, lowest, rightmost = load_word(frame, X_LOW), load_word(frame, X_BOTTOM), load_word(frame, X_RIGHT)
    v_point, v_block, zeros = load_word(frame, V_POINT), load_word(frame, V_BLOCK), load_word(frame, ZEROS)
    for t in range(count):
        image, place = (first + t) // per_image, (first + t) % per_image
        i, j = place // wide * m - pad_top, place % wide * m - pad_left
        source, target = x + image * x_image + i * row + j * PIXEL, v + t * PIXEL
        top, bottom, left, right = low - i, lowest - i, low - j, rightmost - j
        for _ in range(load_word(frame, X_BLOCKS)):
            if m == 4:
                transform(
                    INPUT, 4, 32, source, row, PIXEL, top, bottom, left, right, zeros, target, 6 * v_point, v_point
                )
            else:
                transform(
                    INPUT, 2, 32, source, row, PIXEL, top, bottom, left, right, zeros, target, 4 * v_point, v_point
                )
            source += x_block
            target += v_block


@helper
def tiles_out(frame: int, first: int, count: int, q: int) -> None:
    """y = max(A^T q A + bias + residual, floor) for tiles first, first + 1, ... and all channel blocks."""
    m, wide, per_image = load_word(frame, M), load_word(frame, TILES_WIDE), load_word(frame, TILES_PER_IMAGE)
    y_block, row = load_word(frame, Y_BLOCK), load_word(frame, Y_ROW)
    other_block, other_row, other_pixel = (
        load_word(frame, RESIDUAL_BLOCK),
        load_word(frame, RESIDUAL_ROW),
        load_word(frame, RESIDUAL_PIXEL),
    )
    q_point, q_block, floor = load_word(frame, Q_POINT), load_word(frame, Q_BLOCK), load_word(frame, FLOOR)
    for t in range(count):
        image, place = (first + t) // per_image, (first + t) % per_image
        i, j = place // wide * m, place % wide * m
        height, width = min(m, load_word(frame, Y_H) - i), min(m, load_word(frame, Y_W) - j)
        y = load_word(frame, Y) + image * load_word(frame, Y_IMAGE) + i * row + j * PIXEL
        residual = load_word(frame, RESIDUAL) + image * load_word(frame, RESIDUAL_IMAGE)
        residual += i * other_row + j * other_pixel
        source, bias = q + t * PIXEL, load_word(frame, BIAS)
        for _ in range(load_word(frame, Y_BLOCKS)):
            if m == 4:
                transform_output(
                    4, source, q_point, y, row, height, width, bias, residual, other_row, other_pixel, floor
                )
            else:
                transform_output(
                    2, source, q_point, y, row, height, width, bias, residual, other_row, other_pixel, floor
                )
            source += q_block
            y += y_block
            residual += other_block
            bias += PIXEL


@task
def patches_task(index: int, worker: int, frame: int) -> None:
    """The first phase: PER_PIECE tiles."""
    start, step = index * load_word(frame, PER_PIECE), load_word(frame, PER_PIECE)
    count = min(step, load_word(frame, COUNT) - start)
    patches_in(frame, load_word(frame, FIRST) + start, count, load_word(frame, V) + start * PIXEL)


@task
def tiles_task(index: int, worker: int, frame: int) -> None:
    """The third phase: PER_PIECE tiles."""
    start, step = index * load_word(frame, PER_PIECE), load_word(frame, PER_PIECE)
    count = min(step, load_word(frame, COUNT) - start)
    tiles_out(frame, load_word(frame, FIRST) + start, count, load_word(frame, Q) + start * PIXEL)


class ForwardTasks(NamedTuple):
    """Of one micro-kernel tile.

    Attributes:
        products: the second phase; a piece is a point and PANELS_PER_PIECE panels.
        fused: all three for PER_PIECE tiles, in the worker's scratch.
    """

    products: Task
    fused: Task


@cache
def forward_tasks(pixels: int, vectors: int) -> ForwardTasks:
    @helper
    def product(frame: int, point: int, panel: int, v: int, q: int, count: int) -> None:
        """q[panel's blocks] = v u for one point and all tiles, summed over SUMMED channel blocks at a time."""
        q_block, rows, taps = load_word(frame, Q_BLOCK), load_word(frame, ROWS), load_word(frame, TAPS)
        u = load_word(frame, U) + point * load_word(frame, U_POINT) + panel * load_word(frame, U_PANEL)
        source = v + point * load_word(frame, V_POINT)
        target = q + point * load_word(frame, Q_POINT) + panel * vectors * q_block
        n_blocks = load_word(frame, X_BLOCKS)
        for t in range(0, count, pixels):
            multiply_tile(
                pixels, vectors, 16, 4, 0,
                source + t * PIXEL, rows, u, taps, min(SUMMED, n_blocks), 1, 0,
                target + t * PIXEL, rows, q_block, 0, 0, 0,
            )  # fmt: skip
        for block in range(SUMMED, n_blocks, SUMMED):
            u += SUMMED * 16 * vectors * PIXEL
            for t in range(0, count, pixels):
                multiply_tile(
                    pixels, vectors, 16, 4, ADD_RESIDUAL,
                    source + t * PIXEL, rows, u, taps + 8 * block, min(SUMMED, n_blocks - block), 1, 0,
                    target + t * PIXEL, rows, q_block, 0, target + t * PIXEL, 0,
                )  # fmt: skip

    @task
    def products(index: int, worker: int, frame: int) -> None:
        panels, step = load_word(frame, PANELS), load_word(frame, PANELS_PER_PIECE)
        pieces = -(-panels // step)
        first = index % pieces * step
        for panel in range(first, min(first + step, panels)):
            product(frame, index // pieces, panel, load_word(frame, V), load_word(frame, Q), load_word(frame, COUNT))

    @task
    def fused(index: int, worker: int, frame: int) -> None:
        step = load_word(frame, PER_PIECE)
        first = index * step
        count = min(step, load_word(frame, COUNT) - first)
        v = load_word(frame, V) + worker * load_word(frame, PER_WORKER)
        q = load_word(frame, Q) + worker * load_word(frame, PER_WORKER)
        patches_in(frame, first, count, v)
        for point in range((load_word(frame, M) + 2) * (load_word(frame, M) + 2)):
            for panel in range(load_word(frame, PANELS)):
                product(frame, point, panel, v, q, count)
        tiles_out(frame, first, count, q)

    return ForwardTasks(products, fused)


# ------------------------------------------------------------------------------------------------------------ weights


(
    W_M, W_IN, W_OUT, W_BLOCKS_IN, W_VECTORS, W_SOURCE, W_OUT_STEP, W_IN_STEP, W_TAP_STEP,
    W_U, W_U_POINT, W_U_PANEL, W_SCRATCH, W_WORDS,
) = range(14)  # fmt: skip


@task
def weights_task(index: int, worker: int, frame: int) -> None:
    """u = G g G^T for 16 output channels (one vector) and 16 input channels; absent channels become zeros.

    Steps W_OUT_STEP, W_IN_STEP, W_TAP_STEP (in numbers) walk through the plain weights: backwards through the taps and
    with the channels' roles exchanged, this is the rotated filter of the backward pass.
    """
    c_in, c_out = load_word(frame, W_IN), load_word(frame, W_OUT)
    n_blocks, vectors = load_word(frame, W_BLOCKS_IN), load_word(frame, W_VECTORS)
    source, out_step = load_word(frame, W_SOURCE), load_word(frame, W_OUT_STEP)
    in_step, tap_step = load_word(frame, W_IN_STEP), load_word(frame, W_TAP_STEP)
    point = load_word(frame, W_U_POINT)
    first_out, first_in = index // n_blocks * 16, index % n_blocks * 16
    gathered = load_word(frame, W_SCRATCH) + worker * 16 * 9 * PIXEL
    for lane in range(16):
        for c in range(16):
            from_here = (first_out + lane) * out_step + (first_in + c) * in_step
            inside = first_out + lane < c_out and first_in + c < c_in
            for tap in range(9):
                number = load_f32(source, from_here + tap * tap_step) if inside else np.float32(0)
                store_f32(gathered, (c * 9 + tap) * 16 + lane, number)
    panel, vector = index // n_blocks // vectors, index // n_blocks % vectors
    target = load_word(frame, W_U) + panel * load_word(frame, W_U_PANEL) + (first_in * vectors + vector) * PIXEL
    for c in range(16):
        place = gathered + c * 9 * PIXEL
        if load_word(frame, W_M) == 4:
            transform(WEIGHT, 4, 64, place, 3 * PIXEL, PIXEL, 0, 3, 0, 3, place, target, 6 * point, point)
        else:
            transform(WEIGHT, 2, 64, place, 3 * PIXEL, PIXEL, 0, 3, 0, 3, place, target, 4 * point, point)
        target += vectors * PIXEL
