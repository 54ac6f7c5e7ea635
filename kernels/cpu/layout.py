"""The private array type: images in blocks of 16 channels, with a halo of zeros.

    data[n, c // 16, 1 + i, 1 + j, c % 16]       of shape (n, ceil(c / 16), h + 2, w + 2, 16)

A vector holds 16 channels of one pixel, so no kernel depends on the width of an image or of a register, and neighbours of a
pixel lie at fixed distances. The halo is the padding of a 3x3 window: written once, left alone by every kernel, so nobody
pads. Lanes behind the last channel are zero too. Both invariants are the producer's to keep.

Source: oneDNN calls the layout nChw16c; the halo is ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.kernels.cpu.intrinsics import copy_vector, load_f32, load_word, store_f32
from minires.kernels.cpu.memory import give_back, pool
from minires.kernels.cpu.tasks import Step, run_steps, task
from minires.kernels.private import PrivateArray

BLOCK = 16
PIXEL = 4 * BLOCK  # bytes of one pixel of one block


def blocks(channels: int) -> int:
    """How many blocks hold `channels` channels."""
    return -(-channels // BLOCK)


class Blocked(PrivateArray):
    """Images (n, c, h, w) float32 in the blocked layout.

    Attributes:
        shape: the logical (n, c, h, w).
        halo: rows and columns of zeros around each image.
        data: (n, blocks, h + 2 halo, w + 2 halo, 16), 64-byte aligned.
        address: of `data`; `first`: bytes from there to pixel (0, 0), past the halo.
        row_bytes, block_bytes, image_bytes: from a pixel to the one below it, from a channel block or an image to the next.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], halo: int = 1) -> None:
        n, c, h, w = shape
        full = (n, blocks(c), h + 2 * halo, w + 2 * halo, BLOCK)
        self.shape, self.halo = shape, halo
        self._key = ("blocked", shape, halo)
        count = full[0] * full[1] * full[2] * full[3] * BLOCK
        self._buffer = pool.take(self._key, count, np.float32)
        self.data = self._buffer.reshape(full)
        # Kept as numbers: asking an array for its address takes longer than some kernels' set-up may.
        self.address = self.data.ctypes.data
        self.row_bytes = full[3] * PIXEL
        self.block_bytes = full[2] * self.row_bytes
        self.image_bytes = full[1] * self.block_bytes
        self.first = halo * (self.row_bytes + PIXEL)

    def __del__(self) -> None:
        give_back(self)

    @property
    def nbytes(self) -> int:
        """Bytes of memory: with the halo and the lanes behind the last channel."""
        return self.image_bytes * self.shape[0]

    def to_plain(self) -> np.ndarray:
        """The same numbers as a plain array (n, c, h, w)."""
        plain = np.empty(self.shape, np.float32)
        run_steps(step_unblock(self, plain))
        return plain

    @classmethod
    def from_plain(cls, plain: np.ndarray, halo: int = 1) -> Blocked:
        """A blocked copy of (n, c, h, w)."""
        plain = np.ascontiguousarray(plain, np.float32)
        n, c, h, w = plain.shape
        blocked = cls((n, c, h, w), halo)
        run_steps(step_block(blocked, plain.ctypes.data))
        return blocked

    def with_halo(self, halo: int) -> Blocked:
        """self if its halo is at least `halo`, else a copy with that halo."""
        if self.halo >= halo:
            return self
        wider = Blocked(self.shape, halo)
        run_steps(self.step_copy(wider))
        return wider

    def step_copy(self, target: Blocked) -> Step:
        """The step that copies the numbers to an array of the same shape."""
        _, _, h, w = self.shape
        frame = np.array(
            [
                self.address + self.first, self.block_bytes, self.row_bytes,
                target.address + target.first, target.block_bytes, target.row_bytes, h, w,
            ],
            np.int64,
        )  # fmt: skip
        return Step(_copy, self.shape[0] * self.data.shape[1], frame, (self, target))

    def add(self, other: Any) -> Blocked:
        """self + other."""
        from minires.kernels.cpu.elementwise import add  # which imports this file

        return add(self, other)

    def iadd(self, other: Any) -> None:
        """self += other."""
        from minires.kernels.cpu.elementwise import iadd

        iadd(self, other)

    def copy(self) -> Blocked:
        """The same numbers in a buffer of their own."""
        from minires.kernels.cpu.elementwise import copy

        return copy(self)


def as_blocked(array: Any) -> Blocked:
    """`array` itself if it is blocked, else a blocked copy."""
    return array if isinstance(array, Blocked) else Blocked.from_plain(np.asarray(array))


def step_block(target: Blocked, plain: int) -> Step:
    """The step that fills `target` from the plain float32 array at address `plain`, which is the frame's first word."""
    return Step(_block, target.shape[0] * blocks(target.shape[1]), _frame(target, plain), (target,))


def step_unblock(source: Blocked, plain: np.ndarray) -> Step:
    """The step that copies `source` to a plain C-contiguous array."""
    frame = _frame(source, plain.ctypes.data)
    return Step(_unblock, source.shape[0] * blocks(source.shape[1]), frame, (source, plain))


def _frame(blocked: Blocked, plain: int) -> np.ndarray:
    _, c, h, w = blocked.shape
    start = blocked.address + blocked.first
    return np.array([plain, start, blocked.block_bytes, blocked.row_bytes, blocks(c), c, h, w], np.int64)


@task
def _block(index: int, worker: int, frame: int) -> None:
    plain, start, block_bytes = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2)
    row_bytes, n_blocks, c = load_word(frame, 3), load_word(frame, 4), load_word(frame, 5)
    h, w = load_word(frame, 6), load_word(frame, 7)
    image, block = index // n_blocks, index % n_blocks
    lanes = min(16, c - 16 * block)
    source = plain + 4 * (image * c + 16 * block) * h * w
    for i in range(h):
        target = start + index * block_bytes + i * row_bytes
        for j in range(w):
            for lane in range(lanes):
                store_f32(target, 16 * j + lane, load_f32(source, (lane * h + i) * w + j))


@task
def _unblock(index: int, worker: int, frame: int) -> None:
    plain, start, block_bytes = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2)
    row_bytes, n_blocks, c = load_word(frame, 3), load_word(frame, 4), load_word(frame, 5)
    h, w = load_word(frame, 6), load_word(frame, 7)
    image, block = index // n_blocks, index % n_blocks
    lanes = min(16, c - 16 * block)
    target = plain + 4 * (image * c + 16 * block) * h * w
    for i in range(h):
        source = start + index * block_bytes + i * row_bytes
        for lane in range(lanes):
            for j in range(w):
                store_f32(target, (lane * h + i) * w + j, load_f32(source, 16 * j + lane))


@task
def _copy(index: int, worker: int, frame: int) -> None:
    source, source_block, source_row = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2)
    target, target_block, target_row = load_word(frame, 3), load_word(frame, 4), load_word(frame, 5)
    h, w = load_word(frame, 6), load_word(frame, 7)
    for i in range(h):
        for j in range(w):
            copy_vector(
                target + index * target_block + i * target_row + 64 * j,
                source + index * source_block + i * source_row + 64 * j,
            )
