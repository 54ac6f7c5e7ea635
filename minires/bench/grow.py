"""How time grows with the work: nothing should grow faster than its work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minires.bench.compare import Result, Say, measure
from minires.bench.contenders import Contender
from minires.bench.report import format_seconds
from minires.bench.rounds import slope
from minires.bench.workload import Workload
from minires.errors import ArgumentError

__all__ = ["VARY", "Point", "default_values", "growth_rows", "measure_growth", "overall_slope"]

VARY = ("batch", "image-size", "width", "threads")


@dataclass(frozen=True)
class Point:
    """One size of the series.

    Attributes:
        value: the batch, pixels a side, width or threads.
        work: multiply-accumulates of one repetition (of a training step: of its forward pass; backward has twice as many).
        results: one a contender.
    """

    value: int
    work: int
    results: list[Result]

    def seconds(self, name: str) -> float:
        """The median of one contender; NaN if it was not timed."""
        return next((r.timing.median for r in self.results if r.name == name and r.timing), math.nan)


def default_values(vary: str, workload: Workload, cores: int) -> list[int]:
    """The series for one quantity.

    Raises:
        ArgumentError: `vary` is "width" and the model has none.
    """
    if vary == "batch":
        return [1, 2, 4, 8, 16, 32, 64]
    if vary == "image-size":
        return [32, 64, 128, 224, 320, 448]
    if vary == "threads":
        return list(range(1, min(cores, 8) + 1))
    _at_width(workload, 16)
    return [8, 16, 32, 64, 128]


def at(workload: Workload, vary: str, value: int) -> Workload:
    """The workload with one quantity changed."""
    if vary == "batch":
        return replace(workload, batch=value)
    if vary == "image-size":
        # The network must stay the same: ImageNet's stem at every size, as at its own.
        return replace(workload, image_size=value, options={**_fixed_stem(workload), **workload.options})
    if vary == "threads":
        return replace(workload, threads=value)
    return _at_width(workload, value)


def _fixed_stem(workload: Workload) -> dict[str, bool]:
    from minires.models import model_options

    return {"small_input": False} if "small_input" in model_options(workload.model) else {}


def _at_width(workload: Workload, width: int) -> Workload:
    from minires.models import list_models, model_options

    known = model_options(workload.model)
    if "width" in known:
        options: dict[str, Any] = {"width": width}
    elif "widths" in known:
        options = {"widths": [width, 2 * width, 4 * width, 8 * width], "stem_width": width}
    else:
        able = [name for name in list_models(plain=False) if {"width", "widths"} & set(model_options(name))]
        raise ArgumentError(f"bench grow: {workload.model} has no width to vary; these have: {', '.join(able)}")
    return replace(workload, options={**workload.options, **options})


def measure_growth(
    kind: str,
    workload: Workload,
    vary: str,
    values: Sequence[int],
    contenders: Sequence[Contender],
    *,
    rounds: int,
    say: Say,
) -> Iterator[Point]:
    """Measure a series.

    Args:
        kind: "infer" or "train".
        vary: one of VARY.
        values: ascending.

    Yields:
        A point, as soon as it is there.
    """
    for value in values:
        present = at(workload, vary, value)
        say(f"{workload.model}, {vary} {value}")
        ((_, results),) = measure(kind, present, [present.batch], contenders, rounds=rounds, say=say)
        yield Point(value, multiply_accumulates(present), results)


def multiply_accumulates(workload: Workload) -> int:
    """Of one forward pass of the batch."""
    from minires.train.summary import summarize

    rows = summarize(workload.build(), (1, *workload.input_shape[1:]))
    return workload.batch * sum(row.macs for row in rows)


def growth_rows(points: Sequence[Point], name: str) -> list[list[str]]:
    """The table of one contender: value, GMACs, time, time a unit of work relative to the first row, and the exponent p
    of time ~ value^p since the row above.
    """
    rows: list[list[str]] = []
    first, before = points[0], None
    for point in points:
        seconds = point.seconds(name)
        relative = seconds / point.work / (first.seconds(name) / first.work)
        local = slope([before.value, point.value], [before.seconds(name), seconds]) if before else math.nan
        rows.append(
            [
                str(point.value),
                f"{point.work / 1e9:.3f}",
                "not timed" if math.isnan(seconds) else format_seconds(seconds),
                "" if math.isnan(relative) else f"{relative:.2f}",
                "" if math.isnan(local) else f"{local:.2f}",
            ]
        )
        before = point
    return rows


def overall_slope(points: Sequence[Point], name: str) -> tuple[float, float]:
    """(p of time ~ value^p, q of time ~ work^q) over the whole series; q is NaN where the work does not vary."""
    timed = [p for p in points if not math.isnan(p.seconds(name))]
    if len(timed) < 2:
        return math.nan, math.nan
    seconds = [p.seconds(name) for p in timed]
    return slope([p.value for p in timed], seconds), slope([p.work for p in timed], seconds)
