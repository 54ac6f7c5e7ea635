"""Gradients added up over all ranks, in buckets, while the backward pass still computes.

Backward reaches the last layers first. A bucket holds the gradients of neighbouring parameters, some 4 MB; as soon as the
last of them is there, its sum is begun, and travels while the layers below compute. At the end only the sums of the first
layers are left to wait for.

    backward      fc  layer4      layer3      layer2    layer1 conv1
    sums              |--bucket 0--| |--bucket 1--| |-- bucket 2 --| wait

One message a parameter would pay the network's latency some sixty times a step; one message for all could not begin before the
end. Buckets are begun in one fixed order on every rank, as all collectives must be.

Source: Li et al. 2020 (arXiv 2006.15704), PyTorch Distributed, sections 3.2.2 and 3.2.3.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from minires.distributed.group import Group, Pending
from minires.errors import ArgumentError, GradError
from minires.tensor import Tensor

__all__ = ["GradientReducer"]

BUCKET_BYTES = 4 << 20


class _Bucket:
    """Gradients of some parameters, end to end, and behind them how many ranks had each: a zero says nobody had one."""

    def __init__(self, parameters: list[Any]) -> None:
        self.parameters = parameters
        self.missing = 0  # gradients that have yet to arrive before the sum can begin
        self.pending: Pending | None = None
        ends = np.cumsum([0, *(p.raw.size for p in parameters)])
        self.slices = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        self.numbers = np.zeros(int(ends[-1]) + len(parameters), parameters[0].raw.dtype)

    def begin(self, group: Group) -> None:
        """Copy the gradients and send the sum on its way."""
        for place, (parameter, where) in enumerate(zip(self.parameters, self.slices, strict=True)):
            gradient = parameter.grad
            self.numbers[where] = 0 if gradient is None else gradient.array.reshape(-1)
            self.numbers[place - len(self.parameters)] = gradient is not None
        self.pending = group.begin_sum(self.numbers)

    def end(self) -> None:
        """Wait for the sum and put it where the gradients were."""
        assert self.pending is not None  # begun by the reducer
        self.pending.wait()
        self.pending = None
        for place, (parameter, where) in enumerate(zip(self.parameters, self.slices, strict=True)):
            if self.numbers[place - len(self.parameters)]:
                total = self.numbers[where].reshape(parameter.raw.shape)
                if parameter.grad is None:  # another rank had one
                    parameter.grad = Tensor(total.copy())
                else:
                    parameter.grad.array[...] = total
                    parameter.grad._bump_version()


class GradientReducer:
    """Adds up gradients over the ranks of a group.

        reducer = GradientReducer(model.parameters(), group)
        for images, labels in loader:                       # this rank's part of the batch
            optimizer.zero_grad()
            reducer.begin()
            (loss(model(images), labels) * share).backward()   # share: of the batch that this part is
            reducer.finish()                                # now every rank has the gradient of the whole batch
            optimizer.step()

    Args:
        parameters: of the model, in the order of its layers; those that require no gradient are left out.
        group: who takes part.
        bucket_bytes: about how many bytes go in one message.

    Attributes:
        seconds: spent in copying, sending and waiting since the object was made; what is hidden behind the computation costs
            nothing and is not in it.
        waited: the part of `seconds` in which this rank did nothing but wait, at the end of a step.
        bytes: summed so far.
    """

    def __init__(self, parameters: Iterable[Any], group: Group, bucket_bytes: int = BUCKET_BYTES) -> None:
        if bucket_bytes < 1:
            raise ArgumentError(f"GradientReducer: bucket_bytes must be at least 1, got {bucket_bytes}")
        self.group = group
        self.seconds = self.waited = 0.0
        self.bytes = 0
        self._buckets = _buckets([p for p in parameters if p.requires_grad], bucket_bytes)
        self._of = {id(p): bucket for bucket in self._buckets for p in bucket.parameters}
        self._next = 0  # the bucket to begin next
        self._open = False  # between `begin` and `finish`
        self._handles = [
            p.register_post_accumulate_grad_hook(self._arrived) for bucket in self._buckets for p in bucket.parameters
        ]

    def begin(self, passes: int = 1) -> None:
        """Before the backward passes of a step.

        Args:
            passes: backward passes whose gradients add up before they are summed over the ranks.
        """
        self._next, self._open = 0, True
        for bucket in self._buckets:
            bucket.missing = passes * len(bucket.parameters)

    def finish(self) -> None:
        """After them: wait until `.grad` of every parameter is the sum over all ranks."""
        began = time.perf_counter()
        while self._next < len(self._buckets):  # a parameter without a gradient held its bucket back
            self._begin_next()
        for bucket in self._buckets:
            bucket.end()
        self._open = False
        self.waited += time.perf_counter() - began
        self.seconds += time.perf_counter() - began

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _arrived(self, parameter: Any) -> None:
        """A gradient was added to: begin what is complete, and let what travels move on."""
        if not self._open:
            return  # a backward pass outside of begin and finish is the caller's own
        bucket = self._of[id(parameter)]
        bucket.missing -= 1
        if bucket.missing < 0:
            raise GradError("GradientReducer: more backward passes than begin(passes=...) was told of")
        began = time.perf_counter()
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._begin_next()
        for each in self._buckets[: self._next]:
            if each.pending is not None:
                each.pending.test()
        self.seconds += time.perf_counter() - began

    def _begin_next(self) -> None:
        bucket = self._buckets[self._next]
        bucket.begin(self.group)
        self.bytes += bucket.numbers.nbytes
        self._next += 1


def _buckets(parameters: list[Any], size: int) -> list[_Bucket]:
    """Neighbours together, the last layers first; a bucket holds one dtype and, unless one parameter alone is larger, no more than
    `size` bytes."""
    buckets: list[_Bucket] = []
    held: list[Any] = []
    for parameter in reversed(parameters):
        full = sum(p.raw.nbytes for p in held) + parameter.raw.nbytes > size
        if held and (full or held[0].raw.dtype != parameter.raw.dtype):
            buckets.append(_Bucket(held))
            held = []
        held.append(parameter)
    return [*buckets, _Bucket(held)] if held else buckets
