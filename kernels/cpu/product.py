"""The gathered product: `y[p] = sum over taps t of x[p + t] W[t]`, for a table of pixels and a table of taps.

A convolution of any kernel, stride, dilation and grouping is one such product, its backward pass in x one for every parity
class of the stride; conv_direct.py builds the tables. Here the work is cut into pieces and handed to the micro-kernel.

Which loop runs outside is a question of caches. A panel of weights (one tile's output channels) is `taps * 16 * 16` numbers:
it should stay in the second-level cache while pixels stream past it. Where all panels fit there together, a piece takes some
pixels of one image through all of them, and x is read from memory once; else a piece takes a few panels and many pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from minires.kernels.cpu.intrinsics import load_word, store_zero
from minires.kernels.cpu.layout import PIXEL, Blocked
from minires.kernels.cpu.machine import Tile
from minires.kernels.cpu.microkernel import ADD_RESIDUAL, FLOOR, START_BIAS, multiply_tile
from minires.kernels.cpu.tasks import Step, Task, task, workers

CACHE_BYTES = 256 << 10  # weights that may lie in the second-level cache beside the pixels: 96 KB cost ResNet-50 3 %


@dataclass(frozen=True, eq=False)
class Tables:
    """Where the numbers of a product lie, as byte offsets (int64), each relative to pixel (0, 0) of an image.

    Attributes:
        rows: of x, for every pixel; filled up to whole tiles with the last pixel.
        y_rows: of y, likewise.
        taps: relative to a pixel's row, in the order of the weights.
        firsts: for every panel, the first channel block it reads (groups differ in it).
    """

    rows: np.ndarray
    y_rows: np.ndarray
    taps: np.ndarray
    firsts: np.ndarray


def tiled(offsets: np.ndarray, tile: Tile) -> np.ndarray:
    """Offsets, repeated at the end to fill whole tiles."""
    missing = -len(offsets) % tile.pixels
    return np.ascontiguousarray(np.concatenate([offsets, np.repeat(offsets[-1:], missing)]), np.int64)


@cache
def product_task(pixels: int, vectors: int) -> Task:
    """The task for one shape of tile.

    Long sums are taken in chunks of taps: the first starts from the bias and adds the residual, each later one starts from 0
    and is added to what is in y, the last applies the floor. So the weights of a chunk stay in the first-level cache while
    all pixels of the piece pass, and rounding errors grow with the chunk's length, not the sum's.
    """
    panel_bytes = vectors * PIXEL
    alone, joined = START_BIAS | FLOOR, START_BIAS | ADD_RESIDUAL | FLOOR

    @task
    def product(index: int, worker: int, frame: int) -> None:
        x, x_image = load_word(frame, 0), load_word(frame, 1)
        y, y_image, y_block = load_word(frame, 2), load_word(frame, 3), load_word(frame, 4)
        w, w_panel, bias = load_word(frame, 5), load_word(frame, 6), load_word(frame, 7)
        shortcut, floor, no_floor = load_word(frame, 8), load_word(frame, 9), load_word(frame, 10)
        zeros, chunk = load_word(frame, 11), load_word(frame, 12)
        rows, y_rows, taps, firsts = (
            load_word(frame, 13),
            load_word(frame, 14),
            load_word(frame, 15),
            load_word(frame, 16),
        )
        n_taps, inner, n_tiles = load_word(frame, 17), load_word(frame, 18), load_word(frame, 19)
        n_images, n_panels = load_word(frame, 20), load_word(frame, 21)
        tile_step, image_step, panel_step = load_word(frame, 22), load_word(frame, 23), load_word(frame, 24)
        tile_pieces, image_pieces = -(-n_tiles // tile_step), -(-n_images // image_step)
        first_tile = index % tile_pieces * tile_step
        first_image = index // tile_pieces % image_pieces * image_step
        first_panel = index // tile_pieces // image_pieces * panel_step
        for image in range(first_image, min(first_image + image_step, n_images)):
            for tap in range(0, n_taps, chunk):
                count = min(chunk, n_taps - tap)
                least = floor if tap + count == n_taps else no_floor
                for panel in range(first_panel, min(first_panel + panel_step, n_panels)):
                    source = x + image * x_image + load_word(firsts, panel)
                    place = image * y_image + panel * vectors * y_block
                    weights = w + panel * w_panel + tap * inner * panel_bytes
                    start = bias + panel * panel_bytes if tap == 0 else zeros
                    added = shortcut + place if tap == 0 else y + place
                    for t in range(first_tile, min(first_tile + tile_step, n_tiles)):
                        at = 8 * pixels * t
                        if tap == 0 and shortcut == 0:
                            multiply_tile(
                                pixels, vectors, 1, 4, alone,
                                source, rows + at, weights, taps, count, inner, 0,
                                y + place, y_rows + at, y_block, start, 0, least,
                            )  # fmt: skip
                        else:
                            multiply_tile(
                                pixels, vectors, 1, 4, joined,
                                source, rows + at, weights, taps + 8 * tap, count, inner, 0,
                                y + place, y_rows + at, y_block, start, added, least,
                            )  # fmt: skip

    return product


def cut(tile: Tile, n_tiles: int, n_panels: int, n_images: int, panel_bytes: int) -> tuple[int, int, int]:
    """How many tiles, images and panels a piece takes."""
    panels = max(1, min(n_panels, CACHE_BYTES // panel_bytes))
    groups = -(-n_panels // panels)
    enough = 4 * workers()  # pieces, so that the last to finish is not waited for long
    if groups == 1:
        return max(1, min(n_tiles, 16)), 1, panels
    if groups * n_images >= enough:
        wanted = -(-512 // (n_tiles * tile.pixels))  # small images: some at a time, for each panel is fetched anew
        return n_tiles, max(1, min(n_images, groups * n_images // enough, wanted)), panels
    return max(1, n_tiles * groups * n_images // enough), 1, panels


CHUNK = 384  # terms of a sum at most: 24 KB of weights for a vector of outputs

_ZERO, _NO_FLOOR = np.zeros(1, np.float32), np.full(1, -np.inf, np.float32)
_ZEROS = np.zeros(8 * PIXEL // 4, np.float32)


class Place(NamedTuple):
    """Where an array of blocked images lies: addresses and distances in bytes, and what keeps the memory alive."""

    address: int
    image: int
    block: int
    owner: object

    @classmethod
    def of(cls, array: Blocked) -> Place:
        return cls(array.address + array.first, array.image_bytes, array.block_bytes, array)


def product_step(
    x: int,
    x_image: int,
    n_images: int,
    inner: int,
    packed: np.ndarray,
    bias: np.ndarray,
    y: Place,
    tile: Tile,
    tables: Tables,
    residual: Place | None = None,
    relu: bool = False,
) -> Step:
    """The step that computes y.

    Args:
        x: address of pixel (0, 0) of the first image; x_image: bytes from image to image.
        inner: numbers of x read one after another at each tap: 16, the channels of a block.
        packed: weights, (panels, taps, inner, 16 * tile.vectors).
        bias: one number an output channel, filled up to whole panels.
        residual: laid out as y; added before the ReLU.
    """
    n_tiles, n_panels = len(tables.rows) // tile.pixels, len(tables.firsts)
    panel_bytes = packed.strides[0]
    tiles, images, panels = cut(tile, n_tiles, n_panels, n_images, panel_bytes)
    floor = _ZERO if relu else _NO_FLOOR
    n_taps = len(tables.taps)
    chunk = -(-n_taps // -(-n_taps * inner // CHUNK))  # chunks of equal length
    frame = np.array(
        [
            x, x_image, y.address, y.image, y.block,
            packed.ctypes.data, panel_bytes, bias.ctypes.data,
            0 if residual is None else residual.address, floor.ctypes.data, _NO_FLOOR.ctypes.data,
            _ZEROS.ctypes.data, chunk,
            tables.rows.ctypes.data, tables.y_rows.ctypes.data, tables.taps.ctypes.data, tables.firsts.ctypes.data,
            n_taps, inner, n_tiles, n_images, n_panels, tiles, images, panels,
        ],
        np.int64,
    )  # fmt: skip
    pieces = -(-n_tiles // tiles) * -(-n_images // images) * -(-n_panels // panels)
    work = product_task(tile.pixels, tile.vectors)
    return Step(work, pieces, frame, (packed, bias, y, tables, residual, floor))


@task
def _zero(index: int, worker: int, frame: int) -> None:
    y, y_block, rows, count = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2), load_word(frame, 3)
    for i in range(count):
        store_zero(y + index * y_block + load_word(rows, i))


def zero_step(y: Blocked, y_rows: np.ndarray) -> Step:
    """The step that writes 0 into the pixels of a table, of all images and blocks."""
    frame = np.array([y.address + y.first, y.block_bytes, y_rows.ctypes.data, len(y_rows)], np.int64)
    return Step(_zero, y.shape[0] * y.data.shape[1], frame, (y, y_rows))
