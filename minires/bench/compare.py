"""The comparison itself: judge, open, check, then rounds in turn."""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from minires.bench.contenders import OURS, Contender
from minires.bench.process import WorkerError, WorkerProcess
from minires.bench.rounds import Timing, ratio, turn_order
from minires.bench.verify import LIMITS, error_of, error_of_training
from minires.bench.workload import Workload

__all__ = ["Field", "Result", "Say", "compare", "export", "failures", "judge", "measure"]

Say = Callable[..., None]  # say(text, fleeting=False): fleeting text is for a line that is overwritten
REFERENCE = {"MINIRES_KERNELS": "reference"}
TURN = 0.15  # s of one contender's turn, or one repetition if that is longer


@dataclass
class Result:
    """What became of one contender.

    Attributes:
        state: "timed", "not installed", "wrong", "failed".
        detail: why, where it was not timed; else what should be known about how it ran.
        error: relative to float64, see verify.py; `error_at`: the array in which it is largest.
        setup: seconds to import, load, build and compile, and for the first run. Never part of the timing.
        timing: seconds a repetition.
        ratio: its time over minires' time, the median round by round; above 1, minires is faster.
        memory: bytes that a training step adds to the process at its peak, or that a whole process holds at its peak where
            starts are measured; `memory_by`: how that was measured.
        imported: seconds that its imports took, the median of the rounds; installed: bytes on the disk. Of starts alone.
        stolen: CPU time that it used while others were measured, relative to their time.
    """

    name: str
    state: str
    detail: str = ""
    error: float = math.nan
    error_at: str = ""
    setup: float = math.nan
    timing: Timing | None = None
    ratio: float = math.nan
    memory: int = 0
    memory_by: str = ""
    stolen: float = 0.0
    imported: float = math.nan
    installed: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.__dict__, "timing": self.timing.as_dict() if self.timing else None}


def judge(workload: Workload, kind: str, folder: Path, say: Say) -> Workload:
    """Make weights, input and expected results in `folder`, in a process that ends before anything is timed.

    Args:
        workload: the largest batch that will be measured; smaller ones are its first images.
        kind: "infer", "train" or "start".

    Returns:
        The workload, which now knows its folder.

    Raises:
        WorkerError: the judge failed.
    """
    workload = replace(workload, folder=str(folder))
    say(f"{workload.model}: weights, input and expected results in float64")
    with WorkerProcess("judge", threads=workload.threads, folder=folder, environment=REFERENCE) as worker:
        worker.ask("open", module="minires.bench.judge", kind=kind, variant="", workload=workload.as_dict())
    return workload


def export(workload: Workload, kind: str, say: Say) -> str:
    """Have torch write a file that contenders read; "" if it did, else why not.

    Args:
        workload: for which `judge` has run.
        kind: "onnx" or "weights".
    """
    say(f"{workload.model}: torch writes {'its ONNX file' if kind == 'onnx' else 'a file of weights'}")
    with WorkerProcess("export", threads=workload.threads, folder=workload.folder) as worker:
        try:
            module = "minires.bench.peers.export"
            worker.ask("open", module=module, kind=kind, variant="", workload=workload.as_dict())
        except WorkerError as error:
            return f"torch could not write its file: {error}"
    return ""


class Field:
    """The contenders' processes, kept from one workload to the next (`bench ops` has dozens of layers)."""

    def __init__(self, contenders: Sequence[Contender], kind: str, threads: int, folder: Path, say: Say) -> None:
        self.contenders, self.kind, self.folder, self.say = contenders, kind, folder, say
        self.workers: dict[str, WorkerProcess] = {}
        self._stack = contextlib.ExitStack()
        self.threads = threads
        self.no_export = ""  # why there is no ONNX file

    def __enter__(self) -> Field:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def measure(
        self, workload: Workload, expected: dict[str, np.ndarray], rounds: int, warm_up: int = 1
    ) -> list[Result]:
        """Open, check, and time those that are right. One result a contender, in their order."""
        results = {c.name: self._enter(c, workload, expected) for c in self.contenders}
        able = [name for name, result in results.items() if result.state == "timed"]
        seconds: dict[str, list[float]] = {name: [] for name in able}
        stolen, spent = dict.fromkeys(able, 0.0), dict.fromkeys(able, 0.0)
        for number in range(-warm_up, rounds):
            for name in turn_order(able, number + warm_up):
                if results[name].state != "timed":
                    continue
                self.say(f"{workload.model}: round {max(0, number + 1)} of {rounds}, {name}", fleeting=True)
                try:
                    answer = self.workers[name].ask("turn", seconds=TURN)
                except WorkerError as error:
                    results[name].state, results[name].detail = "failed", str(error)
                    continue
                if answer["busy"]:
                    results[name].detail = "its threads kept spinning after its turns"
                if number >= 0:
                    seconds[name].append(statistics.fmean(answer["times"]))
                    stolen[name] += answer["stolen"]
                    spent[name] += sum(answer["times"])
        ours = results.get(OURS)
        for name in able:
            result = results[name]
            if result.state != "timed":
                continue
            result.timing = Timing(tuple(seconds[name]))
            others = sum(spent.values()) - spent[name]
            result.stolen = stolen[name] / others if others else 0.0
        for result in results.values():
            if result.timing and ours is not None and ours.timing:
                result.ratio = ratio(result.timing, ours.timing)
        return list(results.values())

    def _enter(self, contender: Contender, workload: Workload, expected: dict[str, np.ndarray]) -> Result:
        """Start the process where there is none yet, open the task and judge what comes out."""
        name = contender.name
        missing = contender.missing()
        if missing:
            return Result(name, "not installed", f"not installed (pip install {' '.join(missing)})")
        if contender.exports and not workload.path(f"batch{workload.batch}.onnx").exists():
            return Result(name, "failed", self.no_export or "there is no ONNX file")
        self.say(f"{workload.model}, batch {workload.batch}: {name} gets ready", fleeting=self.kind == "ops")
        result = Result(name, "timed")
        try:
            if name not in self.workers:
                self.workers[name] = self._stack.enter_context(
                    WorkerProcess(name, threads=self.threads, folder=self.folder, environment=contender.environment)
                )
            worker = self.workers[name]
            opened = worker.ask(
                "open",
                module=contender.module,
                kind=self.kind,
                variant=contender.variant,
                workload=workload.as_dict(),
            )
            outcome = self.folder / f"{name}.outcome.npz"
            checked = worker.ask("check", file=str(outcome))
        except WorkerError as error:
            if name in self.workers:
                self.workers.pop(name).close()
            return Result(name, "failed", str(error))
        result.setup = opened["seconds"] + checked["seconds"]
        result.detail, result.versions = opened["note"], opened["versions"]
        result.memory, result.memory_by = checked.get("memory", 0), checked.get("memory_by", "")
        with np.load(outcome) as file:
            got = dict(file)
        if self.kind == "train":
            result.error, result.error_at = error_of_training(got, expected, workload.weights())
        else:
            result.error, result.error_at = error_of(got, expected)
        outcome.unlink()
        if not result.error <= LIMITS[self.kind]:
            result.state = "wrong"
            result.detail = (
                f"wrong, not timed: {result.error_at} differs from float64 by {result.error:.1e} "
                f"(limit {LIMITS[self.kind]:.0e})"
            )
            self.workers.pop(name).close()
        return result


def compare(
    kind: str, workload: Workload, contenders: Sequence[Contender], *, rounds: int, say: Say, warm_up: int = 1
) -> list[Result]:
    """Measure one workload, for which `judge` has run, in new processes.

    Args:
        kind: "infer" or "train".
        contenders: as `contenders.select` gives them.
        rounds: of which each statistic is taken; `warm_up` more come before.
        say: told what goes on.

    Returns:
        One result a contender, in their order.
    """
    with Field(contenders, kind, workload.threads, Path(workload.folder), say) as field_:
        if any(c.exports and not c.missing() for c in contenders):
            field_.no_export = export(workload, "onnx", say)
        return field_.measure(workload, expected_results(workload, kind), rounds, warm_up)


def measure(
    kind: str, workload: Workload, batches: Sequence[int], contenders: Sequence[Contender], *, rounds: int, say: Say
) -> Iterator[tuple[Workload, list[Result]]]:
    """Judge and compare, batch size by batch size.

    Args:
        kind: "infer" or "train".
        workload: its batch is not looked at.

    Yields:
        A workload and its results, as soon as they are there.
    """
    with tempfile.TemporaryDirectory(prefix="minires-bench-") as folder:
        # In evaluation mode images do not touch one another, so the largest batch holds the results of all; a training
        # step's are its own.
        judged = judge(replace(workload, batch=max(batches)), kind, Path(folder), say)
        for batch in batches:
            if kind == "train" and batch != judged.batch:
                judged = judge(replace(workload, batch=batch), kind, Path(folder), say)
            current = replace(judged, batch=batch)
            yield current, compare(kind, current, contenders, rounds=rounds, say=say)


def expected_results(workload: Workload, kind: str) -> dict[str, np.ndarray]:
    """What the judge computed, cut to this batch."""
    with np.load(workload.path("reference.npz")) as file:
        arrays = dict(file)
    return arrays if kind == "train" else {"output": arrays["output"][: workload.batch]}


def failures(results: Sequence[Result]) -> Iterator[Result]:
    """Those that are installed and gave no figure."""
    return (r for r in results if r.state in ("wrong", "failed"))
