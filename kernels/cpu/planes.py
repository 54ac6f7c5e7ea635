"""Pieces of an image batch: how the walks of pixels.py are handed to all cores.

A piece is a channel block of a few images, or some rows of one large image: about PIECE pixels. Pieces depend on the shape
alone, so a sum that is added up piece by piece has the same bits on any number of workers.

A frame begins with the shape and the cut, then come four words an array, then what the task wants besides:

    0 blocks   1 n   2 h   3 w   4 images a piece   5 rows a piece   6 7 for the task
    8 + 4 k    address of pixel (0, 0), bytes from an image, a block, a row to the next
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from minires.kernels.cpu.intrinsics import load_word
from minires.kernels.cpu.layout import blocks
from minires.kernels.cpu.tasks import helper

PIECE = 4096  # pixels: 256 KB an array, half a second-level cache, and 30 us of work to 0.2 us of handing out
PATCH = 1024  # pixels added up in float32 before float64 takes over


@dataclass(frozen=True)
class Cut:
    """How (n, c, h, w) is cut: `images` images or, where one is larger than a piece, `rows` rows."""

    images: int
    rows: int
    chunks: int

    @classmethod
    def of(cls, shape: Sequence[int], pixels: int = PIECE) -> Cut:
        """The cut of `shape` into pieces of about `pixels` pixels."""
        n, _, h, w = shape
        if h * w > pixels:
            rows = max(1, pixels // w)
            return cls(1, rows, n * -(-h // rows))
        images = max(1, min(n, pixels // (h * w)))
        return cls(images, h, -(-n // images))


def planes_frame(shape: tuple[int, ...], arrays: Sequence[Any], *words: int, cut: Cut | None = None) -> np.ndarray:
    """A frame for pieces of `shape`, cut as `cut` or `Cut.of` says.

    Args:
        arrays: Blocked, or what has its attributes; None leaves a place empty.
        words: the task's own, the first two at 6 and 7, the others behind the arrays.
    """
    n, c, h, w = shape
    cut = cut or cut_of(shape)
    places: list[int] = []
    for a in arrays:
        if a is None:
            places += (0, 0, 0, 0)
        else:
            block = a.block_bytes
            places += (a.address + a.first, block * blocks(a.shape[1]), block, a.row_bytes)
    own = [*words, 0, 0]
    return np.array([blocks(c), n, h, w, cut.images, cut.rows, *own[:2], *places, *own[2:]], np.int64)


@lru_cache(1024)
def cut_of(shape: tuple[int, ...]) -> Cut:
    """Cut.of, remembered: kernels ask for the same shapes again and again."""
    return Cut.of(shape)


def pieces(shape: tuple[int, ...]) -> int:
    """How many pieces a step over all blocks has."""
    return blocks(shape[1]) * cut_of(shape).chunks


@helper
def piece(frame: int, index: int) -> tuple[int, int, int, int, int]:
    """(block, first image, image behind the last, first row, row behind the last); blocks vary fastest, as in memory."""
    n_blocks, n, h = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2)
    images, rows = load_word(frame, 4), load_word(frame, 5)
    block, chunk = index % n_blocks, index // n_blocks
    row_chunks = -(-h // rows)
    image, row = chunk // row_chunks * images, chunk % row_chunks * rows
    return block, image, min(image + images, n), row, min(row + rows, h)


@helper
def place(frame: int, array: int, image: int, block: int, row: int) -> int:
    """The address of the first pixel of a row of array number `array`."""
    at = 8 + 4 * array
    return (
        load_word(frame, at)
        + image * load_word(frame, at + 1)
        + block * load_word(frame, at + 2)
        + row * load_word(frame, at + 3)
    )


@helper
def pitch(frame: int, array: int) -> int:
    """Bytes from a row of array number `array` to the next."""
    return load_word(frame, 11 + 4 * array)
