"""A rehearsed training step, replayed at any batch size, operation by operation.

The samples of `minires.train.rehearsal` say what happens, and in which order; here every number of bytes is continued along
its line to the batch that is meant, the pooled buffers are played again with those sizes, and the plain arrays are put on a
heap. What comes out are the moments of the step: how much memory there is at each operation, and what it consists of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from minires.errors import ArgumentError
from minires.nn import Module
from minires.train.rehearsal import END, Kept, Loss, Mark, Sample, rehearse_step

__all__ = ["HEAP_SPARE", "Moment", "StepForecast"]

# The C library's heap takes arrays below this size (glibc: the largest that its moving border reaches); it gives larger ones
# back to the system when they die. Of the heap only the upper end can go back, and gradients come to lie there: it never shrinks
# within a step, like a pool. What lies between arrays and fits nobody: 5 to 25 % were measured over its live bytes, mostly 10,
# once 36 (reference set, ResNets of 20 to 50 layers at 28 to 224 pixels).
HEAP_BELOW = 32 << 20
HEAP_SPARE = 0.15


@dataclass(frozen=True)
class Moment:
    """The memory of one operation's time, for the batch that is meant.

    Attributes:
        mark: its bytes, continued to the batch.
        saved: bytes that the graph keeps for backward.
        large: of the plain arrays that are there at most, the bytes of those that no heap keeps.
        pooled: what the pool holds at most meanwhile, and other memory of the kernel set.
        scratch: of all this, what came and went meanwhile.
    """

    mark: Mark
    saved: int
    large: int
    pooled: int
    scratch: int

    @property
    def small(self) -> int:
        """Bytes of plain arrays on the heap, at most."""
        return self.mark.plain_peak - self.large


class StepForecast:
    """A rehearsed step, to be replayed at any batch size.

    Args:
        model, image_shape, batch, loss, frozen: as of rehearse_step. `batch` is the one whose algorithms are chosen.

    Raises:
        ArgumentError: the model does other things with two images than with three.
    """

    def __init__(
        self,
        model: Module,
        image_shape: Sequence[int],
        batch: int,
        loss: Loss | None = None,
        frozen: Sequence[Module] = (),
    ) -> None:
        self.batch = batch
        self.samples = rehearse_step(model, image_shape, batch, loss=loss, frozen=frozen)
        self.rows = self.samples[-1].rows
        if len({_pattern(sample) for sample in self.samples}) > 1:
            sizes = " and ".join(str(sample.images) for sample in self.samples)
            raise ArgumentError(
                f"memory: the model runs other operations with {sizes} images, so no line can be drawn to batch {batch}; "
                "measure a step instead (minires.bench.memory.growth)"
            )

    def _line(self, values: Sequence[int], batch: int) -> int:
        """The value for `batch` images of what was `values` in the samples."""
        if len(values) == 1:
            return values[0]
        images = [sample.images for sample in self.samples]
        slope = (values[1] - values[0]) / (images[1] - images[0])
        return max(0, round(values[0] + slope * (batch - images[0])))

    def saved(self, batch: int | None = None) -> list[int]:
        """By row, bytes that the layer is the first to keep for backward."""
        total = [0] * len(self.rows)
        for kept in self._kept(batch or self.batch):
            total[kept.row] += kept.size
        return total

    def workspace(self, batch: int | None = None) -> list[int]:
        """By row, the most scratch memory that one of its operations, forward or backward, needs besides what it returns."""
        most = [0] * len(self.rows)
        for moment in self.moments(batch):
            if moment.mark.row != END:
                most[moment.mark.row] = max(most[moment.mark.row], moment.scratch)
        return most

    def moments(self, batch: int | None = None) -> list[Moment]:
        """The second of two steps, operation by operation."""
        batch = batch or self.batch
        marks = [self._mark(marks, batch) for marks in zip(*(s.marks for s in self.samples), strict=True)]
        events = [self._event(events, batch) for events in zip(*(s.events for s in self.samples), strict=True)]
        kept = self._kept(batch)
        saved = _alive(kept, len(marks))
        large = _alive([k for k in kept if k.plain and k.size >= HEAP_BELOW], len(marks))
        replay = _Replay(events, self.samples[0].new_pool)
        for _ in range(2):
            moments, before, begin = [], 0, 0
            for k, mark in enumerate(marks):
                pooled, scratch = replay.run(begin, mark.events)
                scratch += max(0, mark.plain_peak - max(before, mark.plain))
                # What an operation makes and does not keep is about as large as its layer's output.
                passing = 0
                if mark.row != END and self._output_bytes(mark.row, batch) >= HEAP_BELOW:
                    passing = max(0, mark.plain_peak - saved[k] - mark.gradients)
                moments.append(Moment(mark, saved[k], min(mark.plain_peak, large[k] + passing), pooled, scratch))
                before, begin = mark.plain, mark.events
        return moments

    def _kept(self, batch: int) -> list[Kept]:
        columns = zip(*(sample.kept for sample in self.samples), strict=True)
        return [replace(column[0], size=self._line([kept.size for kept in column], batch)) for column in columns]

    def _output_bytes(self, row: int, batch: int) -> int:
        return self._line([4 * math.prod(sample.rows[row].output_shape) for sample in self.samples], batch)

    def _mark(self, marks: Sequence[Mark], batch: int) -> Mark:
        line: dict[str, Any] = {
            name: self._line([getattr(mark, name) for mark in marks], batch)
            for name in ("plain", "plain_peak", "gradients")
        }
        return replace(marks[0], **line)

    def _event(self, events: Sequence[tuple[int, Any, int]], batch: int) -> tuple[int, Any, int]:
        """Buffers that share a key in all samples share one at any batch."""
        number, key, _ = events[0]
        return number, None if key is None else tuple(e[1] for e in events), self._line([e[2] for e in events], batch)


def _pattern(sample: Sample) -> Any:
    """What must be the same in all samples."""
    return (
        tuple((mark.row, mark.phase, mark.events) for mark in sample.marks),
        tuple((number, key is None, size == 0) for number, key, size in sample.events),
        tuple((kept.row, kept.begin, kept.end) for kept in sample.kept),
    )


def _alive(kept: Sequence[Kept], marks: int) -> list[int]:
    """Bytes of `kept` at each mark."""
    change = [0] * (marks + 1)
    for one in kept:
        change[one.begin] += one.size
        change[one.end] -= one.size
    return list(accumulate(change))[:marks]


class _Replay:
    """Events of pooled buffers, played again with other sizes."""

    def __init__(self, events: Sequence[tuple[int, Any, int]], new_pool: Any) -> None:
        self.events = events
        self.pool: Any = None if new_pool is None else new_pool()
        self.mapped = 0  # bytes of memory that no pool keeps
        self.out: dict[int, Any] = {}
        self.largest: dict[Any, int] = {}  # pages that one user of a buffer touches stay for the next
        for _, key, size in events:
            if key is not None:
                self.largest[key] = max(self.largest.get(key, 0), size)

    def run(self, begin: int, end: int) -> tuple[int, int]:
        """Events begin, ..., end - 1. Returns the most bytes meanwhile, and the most that came and went in between."""
        most, brief, largest = self._held(), 0, 0
        ends = {number for number, _, size in self.events[begin:end] if not size}
        begins = {number for number, _, size in self.events[begin:end] if size}
        for number, key, size in self.events[begin:end]:
            if size:
                self._come(number, key, size)
                brief += size * (number in ends)
            else:
                brief -= self._go(number, key) * (number in begins)
            largest = max(largest, brief)
            most = max(most, self._held())
        return most, largest

    def _come(self, number: int, key: Any, size: int) -> None:
        if key is None:
            self.mapped += size
            self.out[number] = size
        else:
            self.out[number] = self.pool.take(key, self.largest[key], np.uint8)

    def _go(self, number: int, key: Any) -> int:
        buffer = self.out.pop(number, None)
        if buffer is None:
            return 0
        if key is None:
            self.mapped -= buffer
            return int(buffer)
        self.pool.give(key, buffer)
        return int(buffer.nbytes)

    def _held(self) -> int:
        return self.mapped + (0 if self.pool is None else self.pool.used_bytes + self.pool.free_bytes)
