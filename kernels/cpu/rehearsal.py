"""A rehearsal: this set's kernels choose, take and give back memory as ever, and compute nothing.

How much memory a training step will take can be asked before it is spent. The step runs with a few images; every kernel
goes its whole way in Python, so that whatever decides about memory (which algorithm, which halo, what is kept for how
long) is the code that decides in earnest, and no second account of it can grow wrong. Only the compiled tasks do not run:
the numbers are whatever lay in the buffers, nothing is compiled, and pages that nobody touches cost nothing.

What depends on the batch size by more than a factor, the choice of algorithm and the size of scratch memory, is asked
through `at_batch`: the answer is that for the batch that is rehearsed, not for the few images.

A thread rehearses alone; the kernels of other threads compute.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minires.kernels.geometry import Conv2dGeometry


@dataclass
class Event:
    """A buffer comes or goes.

    Attributes:
        buffer: its number; a buffer that comes back from the pool has a new one.
        key: under which the pool keeps it; None for memory that goes back to the system.
        size: bytes that will be touched; 0: the buffer goes.
    """

    buffer: int
    key: Any
    size: int


@dataclass
class Size:
    """A buffer that is nothing but its size."""

    nbytes: int


class Rehearsal:
    """The record of one.

    Attributes:
        events: what came and went, in order.
    """

    def __init__(self, images: int, batch: int) -> None:
        self.images, self.batch = images, batch
        self.thread = threading.get_ident()
        self.events: list[Event] = []
        self._out: dict[int, Event] = {}  # by the id of the array, or of the memory's owner

    def mapped(self, owner: np.ndarray, size: int) -> None:
        """`aligned` made memory; it lives as long as `owner`."""
        if threading.get_ident() == self.thread:
            self._come(id(owner), None, size)
            weakref.finalize(owner, self.gone, id(owner)).atexit = False

    def took(self, key: Any, buffer: np.ndarray) -> None:
        """The pool gave a buffer out."""
        if threading.get_ident() == self.thread:
            fresh = self._out.pop(id(buffer.base), None)
            if fresh is None:
                self._come(id(buffer), key, buffer.nbytes)
            else:  # `aligned` made it for the pool: one buffer, the pool's
                fresh.key = key
                self._out[id(buffer)] = fresh

    def gone(self, identity: int) -> None:
        """A buffer died, or went back to the pool."""
        event = self._out.pop(identity, None)
        if event is not None:
            self.events.append(Event(event.buffer, event.key, 0))

    @staticmethod
    def new_pool() -> Any:
        """An empty pool with the rules of ours, whose buffers are sizes and no memory: to replay events at another size."""
        from minires.kernels.cpu.memory import Pool

        return Pool(make=lambda count, dtype: Size(count))

    def _come(self, identity: int, key: Any, size: int) -> None:
        event = Event(len(self.events), key, size)
        self.events.append(event)
        self._out[identity] = event


current: Rehearsal | None = None


def rehearsing() -> bool:
    """Whether this thread rehearses."""
    return current is not None and current.thread == threading.get_ident()


def will_touch(buffer: np.ndarray, size: int) -> None:
    """Of a buffer that the pool just gave, only the first `size` bytes will be touched: the rest costs no memory."""
    if rehearsing():
        current._out[id(buffer)].size = size  # type: ignore[union-attr]  # rehearsing() looked


def at_batch(g: Conv2dGeometry) -> Conv2dGeometry:
    """`g` itself, or in a rehearsal `g` with as many images as are rehearsed."""
    if current is None or current.thread != threading.get_ident():
        return g
    return replace(g, n=-(-g.n * current.batch // current.images))


@contextmanager
def rehearse(images: int, batch: int) -> Iterator[Rehearsal]:
    """Inside, this thread's kernels compute nothing, and what they do with memory is written down.

    Args:
        images: how many are in the batch that runs.
        batch: how many are in the batch that is meant.
    """
    from minires.kernels.cpu.memory import pool

    global current
    if current is not None:
        raise RuntimeError("rehearse: a rehearsal is going on already")
    current = Rehearsal(images, batch)
    try:
        yield current
    finally:
        current = None
        pool.clear()  # of sizes that nobody will ask for
