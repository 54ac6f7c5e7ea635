"""The project's goals as data, and what a run says of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minires.bench.compare import Result, Say, measure
from minires.bench.contenders import OURS, default_peers, select
from minires.bench.report import format_bytes, format_seconds
from minires.bench.start import measure_start
from minires.bench.workload import Workload

__all__ = ["GOALS", "Goal", "Verdict", "judge_goal", "run_suite"]


@dataclass(frozen=True)
class Goal:
    """One line of the table.

    Attributes:
        kind: "infer", "train" or "start".
        model, image_size, in_channels, batch: the work.
        at_least, aim: how many times faster than the fastest peer; for memory, the fraction of torch's at most.
        measure: "speed" or "memory".
    """

    kind: str
    model: str
    image_size: int
    in_channels: int
    batch: int
    at_least: float
    aim: float
    measure: str = "speed"

    @property
    def work(self) -> tuple[str, str, int, int, int]:
        """What must be run for it; goals that share it share one run."""
        return (self.kind, self.model, self.image_size, self.in_channels, self.batch)

    def __str__(self) -> str:
        what = {"infer": "inference", "train": "training step", "start": "cold start"}[self.kind]
        memory = ", memory" if self.measure == "memory" else ""
        return f"{self.model} {self.image_size}, batch {self.batch}, {what}{memory}"


GOALS = [
    Goal("infer", "resnet18", 224, 3, 1, 1.15, 1.4),
    Goal("infer", "resnet18", 224, 3, 8, 1.4, 1.8),
    Goal("infer", "resnet18", 224, 3, 32, 1.6, 2.0),
    Goal("infer", "resnet50", 224, 3, 1, 1.0, 1.2),
    Goal("infer", "resnet50", 224, 3, 32, 1.1, 1.4),
    Goal("infer", "resnet20", 32, 3, 1, 1.0, 2.0),
    Goal("infer", "resnet20", 32, 3, 128, 1.3, 2.0),
    Goal("train", "resnet18", 224, 3, 32, 1.8, 2.5),
    Goal("train", "resnet50", 224, 3, 16, 1.3, 1.8),
    Goal("train", "resnet20", 28, 1, 128, 2.0, 3.5),
    Goal("train", "wrn_16_4", 32, 3, 128, 1.5, 2.2),
    Goal("start", "resnet18", 224, 3, 1, 3.0, 6.0),
    Goal("train", "resnet18", 224, 3, 32, 0.8, 0.5, "memory"),
    Goal("train", "resnet50", 224, 3, 16, 0.8, 0.5, "memory"),
    Goal("train", "resnet20", 28, 1, 128, 0.8, 0.5, "memory"),
    Goal("train", "wrn_16_4", 32, 3, 128, 0.8, 0.5, "memory"),
]


@dataclass(frozen=True)
class Verdict:
    """What a run says of a goal.

    Attributes:
        word: "aim reached", "reached", "not reached", "no peer" or "not measured".
        figure: times faster, or fraction of memory; NaN without one.
        ours, theirs: the two quantities, to be shown; `peer` is who theirs is.
    """

    goal: Goal
    word: str
    figure: float = math.nan
    ours: str = ""
    theirs: str = ""
    peer: str = ""

    def cells(self) -> list[str]:
        """A row of the table: work, ours, theirs, peer, figure, at least, aim, verdict."""
        sign = "<= " if self.goal.measure == "memory" else ""
        figure = "" if math.isnan(self.figure) else f"{self.figure:.2f}"
        goals = [f"{sign}{self.goal.at_least:g}", f"{sign}{self.goal.aim:g}"]
        return [str(self.goal), self.ours, self.theirs, self.peer, figure, *goals, self.word]


def judge_goal(goal: Goal, results: Sequence[Result]) -> Verdict:
    """Compare minires with the best peer of this run.

    Speed: the peer that took least, whichever it is; for memory and cold starts the issue names torch, so the best of its
    eager forms.
    """
    ours = next((r for r in results if r.name == OURS and r.timing), None)
    peers = [r for r in results if not r.name.startswith(OURS) and r.timing]
    if goal.measure == "memory" or goal.kind == "start":
        peers = [r for r in peers if r.name in ("torch", "torch-channels-last")]
    if ours is None:
        return Verdict(goal, "not measured")
    if goal.measure == "memory":
        peers = [r for r in peers if r.memory]
        if not peers or not ours.memory:
            return Verdict(goal, "no peer" if ours.memory else "not measured")
        best = min(peers, key=lambda r: r.memory)
        figure = ours.memory / best.memory
        word = _word(figure <= goal.at_least, figure <= goal.aim)
        return Verdict(goal, word, figure, format_bytes(ours.memory), format_bytes(best.memory), best.name)
    assert ours.timing is not None
    if not peers:
        return Verdict(goal, "no peer", ours=format_seconds(ours.timing.median))
    best = min(peers, key=lambda r: r.ratio)
    assert best.timing is not None
    word = _word(best.ratio >= goal.at_least, best.ratio >= goal.aim)
    times = (format_seconds(ours.timing.median), format_seconds(best.timing.median))
    return Verdict(goal, word, best.ratio, *times, best.name)


def _word(at_least: bool, aim: bool) -> str:
    return "aim reached" if aim else "reached" if at_least else "not reached"


def run_suite(
    *, threads: int, rounds: int, seed: int, say: Say, goals: Sequence[Goal] = tuple(GOALS)
) -> Iterator[tuple[Goal, Workload, list[Result]]]:
    """Measure what the goals need, each work once, against every peer that is there.

    Yields:
        A goal and the results that decide it, in the goals' order of first need.
    """
    done: dict[tuple[str, str, int, int, int], tuple[Workload, list[Result]]] = {}
    for goal in goals:
        if goal.work not in done:
            say(str(goal))
            workload = Workload(goal.model, goal.batch, goal.image_size, goal.in_channels, seed=seed, threads=threads)
            contenders = select(default_peers(goal.kind), goal.kind)
            if goal.kind == "start":
                done[goal.work] = workload, measure_start(workload, contenders, rounds=max(5, rounds), say=say)
            else:
                ((found, results),) = measure(goal.kind, workload, [goal.batch], contenders, rounds=rounds, say=say)
                done[goal.work] = found, results
        yield goal, *done[goal.work]
