"""The gradient of a 3x3 convolution's weights by Winograd's algorithm.

Forward, a tile is y = A^T [ (G g G^T) * (B^T d B) ] A, linear in the filter g. Its adjoint in g, summed over tiles, is

    grad_g = G^T [ sum over tiles of (A grad_y A^T) * (B^T d B) ] G

so for every point and pair of channels there is one product a tile, (m + 2)^2 where the direct sum has 9 m^2, and the
transform G^T . G is taken once at the end. The sum over tiles is again a matrix product, by the micro-kernel: its rows are
input channels (4 bytes apart), what it runs along are tiles (64 bytes apart), its panel of weights are 16 output channels.

    v[point][block of c_in][t][16]      patches of x              s[point][block of c_out][c_in][16]   the sums
    d[point][block of c_out][t][16]     tiles of grad_y

Two forms, as in conv_winograd.py. Where s is small, *slots*, a number that the sizes alone decide, have sums of their own
and take their share of the tiles run by run, v and d staying in the second-level cache. Where it is large, all workers
transform some runs together and then share the points. Neither's bits depend on the number of workers.

Source: Lavin and Gray 2015, section 4.2 (the gradient as F(3x3, m x m)); the adjoint's form here keeps one set of matrices.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from minires.kernels.cpu.conv_direct import tile_for
from minires.kernels.cpu.conv_winograd import ZEROS_ROW, Scratch, tiles_of
from minires.kernels.cpu.emit import Vector, emitted
from minires.kernels.cpu.intrinsics import load_f32, load_word, store_f32, store_zero
from minires.kernels.cpu.layout import BLOCK, PIXEL, Blocked, blocks
from minires.kernels.cpu.lazy import types
from minires.kernels.cpu.microkernel import ADD_RESIDUAL, multiply_tile
from minires.kernels.cpu.product import Tile, tiled
from minires.kernels.cpu.rehearsal import at_batch
from minires.kernels.cpu.tasks import Step, Task, helper, run_steps, task, workers
from minires.kernels.cpu.winograd_tasks import (
    COUNT,
    FIRST,
    PANELS,
    PANELS_PER_PIECE,
    PER_PIECE,
    PER_WORKER,
    PLACES,
    Q_BLOCK,
    Q_POINT,
    ROW_TILES,
    ROWS,
    RUN_TILES,
    TAPS,
    TILES_PER_IMAGE,
    TILES_WIDE,
    U_PANEL,
    U_POINT,
    V_POINT,
    Y_BLOCK,
    Y_BLOCKS,
    Y_H,
    Y_IMAGE,
    Y_ROW,
    Y_W,
    ZEROS,
    M,
    Q,
    U,
    V,
    Y,
    frame_of,
    patches_in,
)
from minires.kernels.cpu.winograd_transforms import OUTPUT_ADJOINT, WEIGHT_ADJOINT, transform
from minires.kernels.geometry import Conv2dGeometry

RUN = 96  # tiles at once: a block of v and one of d lie in the first-level cache, and sums are fetched seldom
# v and d of the second form's runs at once: the fewer times all workers wait for the last the better, but with 16 MB it is
# a third slower at 64 channels of 56 x 56 (1 and 4 MB: the same).
SHARED_BYTES = 4 << 20
# The first form pays where sums are small and runs many. Times the direct form's speed, one worker, first and second form:
# 16 channels, 128 images of 28 x 28: 1.27 and 1.05; 32 channels, 5 runs in all: 1.4 and 2.0; 64 of 56 x 56: the same.
SLOTS = 8
SLOT_BYTES = 160 << 10  # of sums, at most
SLOT_RUNS = 2  # at least, of each slot


@helper
def tiles_in(frame: int, first: int, count: int, d: int) -> None:
    """d = A grad_y A^T for tiles first, first + 1, ... and all channel blocks."""
    m, wide, per_image = load_word(frame, M), load_word(frame, TILES_WIDE), load_word(frame, TILES_PER_IMAGE)
    y_block, row, zeros = load_word(frame, Y_BLOCK), load_word(frame, Y_ROW), load_word(frame, ZEROS)
    point, block = load_word(frame, Q_POINT), load_word(frame, Q_BLOCK)
    for t in range(count):
        image, place = (first + t) // per_image, (first + t) % per_image
        i, j = place // wide * m, place % wide * m
        source = load_word(frame, Y) + image * load_word(frame, Y_IMAGE) + i * row + j * PIXEL
        bottom, right, target = load_word(frame, Y_H) - i, load_word(frame, Y_W) - j, d + t * PIXEL
        for _ in range(load_word(frame, Y_BLOCKS)):
            if m == 4:
                transform(
                    OUTPUT_ADJOINT, 4, 32, source, row, PIXEL, 0, bottom, 0, right, zeros, target, 6 * point, point
                )
            else:
                transform(
                    OUTPUT_ADJOINT, 2, 32, source, row, PIXEL, 0, bottom, 0, right, zeros, target, 4 * point, point
                )
            source += y_block
            target += block


@emitted
def add_vector(typing_context: Any, target: Any, source: Any) -> Any:
    """16 numbers at `target` += 16 numbers at `source`."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        v = Vector(b)
        v.store(v.add(v.load(arguments[0]), v.load(arguments[1])), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@task
def run_task(index: int, worker: int, frame: int) -> None:
    """The second form's first step: v and d of PER_PIECE tiles."""
    start, step = index * load_word(frame, PER_PIECE), load_word(frame, PER_PIECE)
    count = min(step, load_word(frame, COUNT) - start)
    first = load_word(frame, FIRST) + start
    patches_in(frame, first, count, load_word(frame, V) + start * PIXEL)
    tiles_in(frame, first, count, load_word(frame, Q) + start * PIXEL)


class SumTasks(NamedTuple):
    """Of a micro-kernel tile of so many channels.

    Attributes:
        slots: the first form; a piece is a slot.
        products: the second form's second step; a piece is a point and PANELS_PER_PIECE output blocks.
    """

    slots: Task
    products: Task


@cache
def sum_tasks(channels: int) -> SumTasks:
    @task
    def slots(index: int, worker: int, frame: int) -> None:
        n_slots, total, step = load_word(frame, PANELS_PER_PIECE), load_word(frame, COUNT), load_word(frame, PER_PIECE)
        v = load_word(frame, V) + worker * load_word(frame, PER_WORKER)
        d = load_word(frame, Q) + worker * load_word(frame, PER_WORKER)
        points, panels = (load_word(frame, M) + 2) * (load_word(frame, M) + 2), load_word(frame, PANELS)
        rows, places, taps = load_word(frame, ROWS), load_word(frame, PLACES), load_word(frame, TAPS)
        sums = load_word(frame, U) + index * points * load_word(frame, U_POINT)
        for vector in range(points * load_word(frame, U_POINT) // PIXEL):
            store_zero(sums + vector * PIXEL)
        last = (index + 1) * total // n_slots
        for first in range(index * total // n_slots, last, step):
            count = min(step, last - first)
            patches_in(frame, first, count, v)
            tiles_in(frame, first, count, d)
            for point in range(points):
                x = v + point * load_word(frame, V_POINT)
                for panel in range(panels):
                    w = d + point * load_word(frame, Q_POINT) + panel * load_word(frame, Q_BLOCK)
                    target = sums + point * load_word(frame, U_POINT) + panel * load_word(frame, U_PANEL)
                    for r in range(load_word(frame, ROW_TILES)):
                        at = 8 * channels * r
                        multiply_tile(
                            channels, 1, 1, PIXEL, ADD_RESIDUAL,
                            x, rows + at, w, taps, 1, count, 0, target, places + at, 0, 0, target, 0,
                        )  # fmt: skip

    @task
    def products(index: int, worker: int, frame: int) -> None:
        panels, step = load_word(frame, PANELS), load_word(frame, PANELS_PER_PIECE)
        pieces, run, total = -(-panels // step), load_word(frame, RUN_TILES), load_word(frame, COUNT)
        point, first = index // pieces, index % pieces * step
        rows, places, taps = load_word(frame, ROWS), load_word(frame, PLACES), load_word(frame, TAPS)
        x = load_word(frame, V) + point * load_word(frame, V_POINT)
        for panel in range(first, min(first + step, panels)):
            w = load_word(frame, Q) + point * load_word(frame, Q_POINT) + panel * load_word(frame, Q_BLOCK)
            target = load_word(frame, U) + point * load_word(frame, U_POINT) + panel * load_word(frame, U_PANEL)
            if load_word(frame, FIRST) == 0:
                for vector in range(load_word(frame, U_PANEL) // PIXEL):
                    store_zero(target + vector * PIXEL)
            for start in range(0, total, run):
                count = min(run, total - start)
                for r in range(load_word(frame, ROW_TILES)):
                    at = 8 * channels * r
                    multiply_tile(
                        channels, 1, 1, PIXEL, ADD_RESIDUAL,
                        x + start * PIXEL, rows + at, w + start * PIXEL, taps, 1, count, 0,
                        target, places + at, 0, 0, target, 0,
                    )  # fmt: skip

    return SumTasks(slots, products)


@task
def weight_out(index: int, worker: int, frame: int) -> None:
    """grad_weight = G^T s G for 16 output and 16 input channels, all slots' sums added first."""
    m, sums, point, panel = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2), load_word(frame, 3)
    n_slots, c_in, c_out = load_word(frame, 4), load_word(frame, 5), load_word(frame, 6)
    weight, scratch = load_word(frame, 7), load_word(frame, 8) + worker * 9 * PIXEL
    n_blocks, points = -(-c_in // 16), (m + 2) * (m + 2)
    out, first = index // n_blocks, index % n_blocks * 16
    for c in range(first, min(first + 16, c_in)):
        source = sums + out * panel + c * PIXEL
        for slot in range(1, n_slots):
            for p in range(points):
                add_vector(source + p * point, source + (slot * points + p) * point)
        if m == 4:
            transform(WEIGHT_ADJOINT, 4, 32, source, 6 * point, point, 0, 6, 0, 6, source, scratch, 3 * PIXEL, PIXEL)
        else:
            transform(WEIGHT_ADJOINT, 2, 32, source, 4 * point, point, 0, 4, 0, 4, source, scratch, 3 * PIXEL, PIXEL)
        for lane in range(min(16, c_out - 16 * out)):
            target = ((16 * out + lane) * c_in + c) * 9
            for tap in range(9):
                store_f32(weight, target + tap, load_f32(scratch, 16 * tap + lane))


@lru_cache(1024)
def _tables(n_blocks: int, v_block: int, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where input channels lie in v and in the sums; the one tap there is."""
    c, tile = np.arange(n_blocks * BLOCK), Tile(channels, 1)
    return tiled(c // BLOCK * v_block + c % BLOCK * 4, tile), tiled(c * PIXEL, tile), np.zeros(1, np.int64)


def slots_of(g: Conv2dGeometry, m: int) -> int:
    """How many slots have sums of their own; 0 for the second form."""
    high, wide = tiles_of(g, m)
    small = 4 * (m + 2) ** 2 * BLOCK * BLOCK * blocks(g.c_in) * blocks(g.c_out) <= SLOT_BYTES
    return SLOTS if small and g.n * high * wide >= SLOTS * SLOT_RUNS * RUN else 0


def backward_weight(grad_y: Blocked, x: Blocked, g: Conv2dGeometry, m: int = 4) -> np.ndarray:
    """The gradient in the weights, (c_out, c_in, 3, 3) float32.

    Args:
        grad_y: (n, c_out, h_out, w_out), x: (n, c_in, h, w); any halo.
        m: 2 or 4, the width of a tile.
    """
    g = at_batch(g)  # only sizes follow from the number of images
    high, wide = tiles_of(g, m)
    total, points = g.n * high * wide, (m + 2) ** 2
    if total == 0:
        return np.zeros(g.weight_shape, np.float32)
    n_in, n_out, channels = blocks(g.c_in), blocks(g.c_out), tile_for(BLOCK).pixels
    n_slots = slots_of(g, m)
    at_once = min(total, RUN if n_slots else max(1, SHARED_BYTES // (points * (n_in + n_out) * PIXEL * RUN)) * RUN)
    block = (at_once + 1) * PIXEL  # one more than needed, see conv_winograd.Layout
    v_point, d_point = n_in * block + PIXEL, n_out * block + PIXEL
    per_worker = points * (v_point + d_point)
    panel = n_in * BLOCK * PIXEL
    s_point = n_out * panel + PIXEL
    rows, places, tap = _tables(n_in, block, channels)
    weight = np.empty(g.weight_shape, np.float32)
    run_bytes = per_worker * (workers() if n_slots else 1)
    with (
        Scratch(run_bytes + workers() * 9 * PIXEL) as scratch,
        Scratch(max(n_slots, 1) * points * s_point) as sums,
    ):
        frame = frame_of(
            m=m, pad_top=g.pad_top, pad_left=g.pad_left, tiles_wide=wide, tiles_per_image=high * wide,
            count=total, per_piece=RUN, zeros=ZEROS_ROW.ctypes.data,
            x=x.address + x.first, x_image=x.image_bytes, x_block=x.block_bytes, x_row=x.row_bytes, x_blocks=n_in,
            x_low=-x.halo, x_bottom=g.h + x.halo, x_right=g.w + x.halo,
            y=grad_y.address + grad_y.first, y_image=grad_y.image_bytes, y_block=grad_y.block_bytes,
            y_row=grad_y.row_bytes, y_blocks=n_out, y_h=g.h_out, y_w=g.w_out,
            v=scratch.ctypes.data, v_point=v_point, v_block=block,
            q=scratch.ctypes.data + points * v_point, q_point=d_point, q_block=block, per_worker=per_worker,
            u=sums.ctypes.data, u_point=s_point, u_panel=panel, panels=n_out, panels_per_piece=n_slots,
            rows=rows.ctypes.data, places=places.ctypes.data, taps=tap.ctypes.data, row_tiles=len(rows) // channels, run_tiles=RUN,
        )  # fmt: skip
        tasks = sum_tasks(channels)
        steps = [Step(tasks.slots, n_slots, frame, ())]
        if not n_slots:
            steps = []
            for first in range(0, total, at_once):
                steps += _shared(frame, tasks.products, first, min(at_once, total - first), points, n_out)
        out = np.array(
            [
                m, sums.ctypes.data, s_point, panel, n_slots, g.c_in, g.c_out, weight.ctypes.data,
                scratch.ctypes.data + run_bytes,
            ],
            np.int64,
        )  # fmt: skip
        run_steps(*steps, Step(weight_out, n_out * n_in, out, ()))
    return weight


def _shared(shared: np.ndarray, products: Task, first: int, count: int, points: int, panels: int) -> list[Step]:
    """The second form's steps for tiles first, ..., first + count - 1."""
    frame = shared.copy()
    per_piece = max(1, count // (8 * workers()))
    per_product = max(1, min(panels, points * panels // (8 * workers())))
    frame[[FIRST, COUNT, PER_PIECE, PANELS_PER_PIECE]] = first, count, per_piece, per_product
    return [
        Step(run_task, -(-count // per_piece), frame, ()),
        Step(products, points * -(-panels // per_product), frame, ()),
    ]
