"""Does a second process pay? The time of a training step of one batch, over the number of ranks that share it.

Each rank has one thread. With t(k) the time of a step on k ranks:

    speed-up   t(1) / t(k)            efficiency   t(1) / (k t(k))

What is lost is of three kinds: communication (measured in each rank's calls, waiting for slower ranks included), smaller parts
that the kernels digest less well, and cores that share caches and memory. Beside the ranks stands one process with as many
threads, which shares everything and communicates nothing.

Source: Amdahl 1967; strong scaling, for the batch stays the same.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minires.bench.process import end_group, pinned_environment
from minires.errors import MiniresError

__all__ = ["Point", "find_mpiexec", "measure_scaling", "scaling_rows"]


class ScalingError(MiniresError, RuntimeError):
    """The ranks could not be started, or one of them failed."""


@dataclass
class Point:
    """One way of sharing the work, and what each round measured."""

    ranks: int
    threads: int
    steps: list[float] = field(default_factory=list)
    communication: list[float] = field(default_factory=list)
    bytes: int = 0

    @property
    def step(self) -> float:
        """Seconds: the median of the rounds' medians."""
        return statistics.median(self.steps)

    @property
    def share(self) -> float:
        """Communication's part of a step."""
        return statistics.median(c / s for c, s in zip(self.communication, self.steps, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "step": self.step, "share": self.share}


def find_mpiexec() -> str:
    """The launcher of MPI programs beside this Python, or on the path.

    Raises:
        ScalingError: there is none.
    """
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise ScalingError("bench scaling: mpiexec is not installed: pip install 'minires[mpi]' mpich")
    return found


def measure_scaling(
    work: dict[str, Any], ranks: Sequence[int], *, rounds: int, say: Callable[..., None]
) -> Iterator[list[Point]]:
    """Measure in turn: each number of ranks once a round, and one process with as many threads.

    Args:
        work: see scaling_worker.measure.
        ranks: numbers of ranks; 1 is added.
        rounds: launches of each.
        say: is told what goes on.

    Yields:
        All points, after every round.
    """
    launcher = find_mpiexec()
    counts = sorted({1, *ranks})
    points = [Point(k, 1) for k in counts] + [Point(1, k) for k in counts if k > 1]
    for number in range(rounds):
        for point in points if number % 2 == 0 else reversed(points):
            say(f"round {number + 1} of {rounds}: {point.ranks} ranks, {point.threads} threads", fleeting=True)
            _run(launcher, point, work)
        yield points


def _run(launcher: str, point: Point, work: dict[str, Any]) -> None:
    command = [launcher, "-n", str(point.ranks), sys.executable, "-P", "-m", "minires.bench.scaling_worker"]
    process = subprocess.Popen(
        [*command, json.dumps(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=pinned_environment(point.threads),
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        out, err = process.communicate()
    finally:
        end_group(process)
    if process.returncode or not out.strip():
        last = err.strip().splitlines()
        raise ScalingError(f"bench scaling: {point.ranks} ranks: {last[0] if last else process.returncode}")
    answer = json.loads(out.strip().splitlines()[-1])
    point.steps.append(answer["step"])
    point.communication.append(answer["communication"])
    point.bytes = answer["bytes"]


def scaling_rows(points: Sequence[Point], batch: int) -> list[list[str]]:
    """Cells: ranks, threads, step, images/s, speed-up, efficiency, communication, gradient bytes."""
    from minires.bench.report import format_bytes, format_seconds

    alone = next(p for p in points if p.ranks == p.threads == 1)
    rows = []
    for point in points:
        speed_up = statistics.median(a / b for a, b in zip(alone.steps, point.steps, strict=True))
        workers = point.ranks * point.threads
        rows.append(
            [
                str(point.ranks),
                str(point.threads),
                format_seconds(point.step),
                f"{batch / point.step:,.0f}",
                f"{speed_up:.2f}",
                f"{100 * speed_up / workers:.0f} %",
                f"{100 * point.share:.1f} %" if point.ranks > 1 else "",
                format_bytes(point.bytes) if point.bytes else "",
            ]
        )
    return rows
