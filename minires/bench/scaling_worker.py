"""One rank of `minires bench scaling`: training steps on its part of a batch; rank 0 prints what they took, as JSON.

mpiexec -n 2 python -m minires.bench.scaling_worker '{"model": "resnet20", ...}'
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

import minires
from minires import nn
from minires.bench.worker import claim_stdout
from minires.distributed import start, use_group
from minires.distributed.group import Array, Group, Pending
from minires.nn import functional as F
from minires.optim import SGD
from minires.tensor import Tensor
from minires.train.ranks import Ranks


class TimedGroup:
    """A group that counts the seconds spent in its calls; what travels while the rank computes is not among them."""

    def __init__(self, group: Group) -> None:
        self._group, self.seconds = group, 0.0
        self.rank, self.size = group.rank, group.size

    def _timed(self, call: Any, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.seconds += time.perf_counter() - began

    def sum(self, array: Array) -> None:
        self._timed(self._group.sum, array)

    def begin_sum(self, array: Array) -> Pending:
        return _TimedPending(self, self._timed(self._group.begin_sum, array))

    def gather(self, array: Array) -> Array:
        found: Array = self._timed(self._group.gather, array)
        return found

    def broadcast(self, array: Array, root: int = 0) -> None:
        self._timed(self._group.broadcast, array, root)

    def largest(self, number: int) -> int:
        return int(self._timed(self._group.largest, number))

    def barrier(self) -> None:
        self._group.barrier()

    def speaks_of_failure(self, patience: float) -> bool:
        return self._group.speaks_of_failure(patience)

    def abort(self, code: int) -> None:
        self._group.abort(code)


class _TimedPending:
    def __init__(self, group: TimedGroup, pending: Pending) -> None:
        self._group, self._pending = group, pending

    def test(self) -> bool:
        return bool(self._group._timed(self._pending.test))

    def wait(self) -> None:
        self._group._timed(self._pending.wait)


def measure(group: Group, work: dict[str, Any]) -> dict[str, Any]:
    """Train for about `seconds`.

    Args:
        group: who takes part.
        work: model, image_size, in_channels, batch (over all ranks), seconds, sync_bn, seed.

    Returns:
        step: median seconds of a step, of the slowest rank; communication: the same of the seconds in the group's calls;
        bytes: of gradients, a step; steps: how many were timed.
    """
    timed = TimedGroup(group)
    with use_group(timed):
        minires.manual_seed(work["seed"])
        size, channels, batch = work["image_size"], work["in_channels"], work["batch"]
        model = minires.models.build(work["model"], num_classes=10, in_channels=channels, image_size=size)
        if work["sync_bn"]:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        ranks = Ranks(model)
        optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        rng = np.random.default_rng(work["seed"])
        own = slice(batch * group.rank // group.size, batch * (group.rank + 1) // group.size)
        x = Tensor(rng.standard_normal((batch, channels, size, size)).astype(np.float32)[own])
        labels = Tensor(rng.integers(0, 10, batch)[own])

        def step() -> None:
            optimizer.zero_grad()
            ranks.begin_step(1)
            (F.cross_entropy(model(x), labels) * (len(x) / batch)).backward()
            ranks.add_up_gradients()
            optimizer.step()

        for _ in range(3):  # compile, fill the pools
            step()
        times: list[float] = []
        spent: list[float] = []
        end = time.perf_counter() + work["seconds"]
        while group.largest(int(time.perf_counter() < end or len(times) < 3)):
            timed.seconds = 0.0
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
            spent.append(timed.seconds)
        own_medians = np.array([np.median(times), np.median(spent)])
        slowest = group.gather(own_medians).max(axis=0)
        reducer = ranks.reducer
        return {
            "step": float(slowest[0]),
            "communication": float(slowest[1]),
            "bytes": 0 if reducer is None else reducer.bytes // (len(times) + 3),
            "steps": len(times),
        }


def main() -> None:
    """Measure; rank 0 answers."""
    work = json.loads(sys.argv[1])
    answers = claim_stdout()
    group = start("mpi")
    try:
        result = measure(group, work)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        group.abort(1)
        raise
    if group.rank == 0:
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
