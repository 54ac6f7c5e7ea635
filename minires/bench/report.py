"""Figures as people read them, and as one JSON document."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minires.bench.compare import Result
from minires.io.files import write_atomically

__all__ = ["columns", "format_bytes", "format_error", "format_ratio", "format_seconds", "result_row", "write_json"]


def columns(kind: str) -> list[str]:
    """Headings of a table of results."""
    rate = [] if kind == "start" else ["images/s"]
    memory = {"train": ["memory"], "start": ["import", "memory", "installed"]}.get(kind, [])
    return ["contender", "median", "quartiles", *rate, "times minires", "error", *memory, "setup", ""]


def result_row(result: Result, batch: int, kind: str) -> list[str]:
    """One contender's cells, under `columns`."""
    memory = [format_bytes(result.memory) if result.memory else ""] if kind in ("train", "start") else []
    if kind == "start":
        memory.insert(0, format_seconds(result.imported) if math.isfinite(result.imported) else "")
        memory.append(format_bytes(result.installed) if result.installed else "")
    setup = f"{result.setup:.1f} s" if math.isfinite(result.setup) else ""
    if result.timing is None:
        return [
            result.name,
            *[""] * (columns(kind).index("error") - 1),
            format_error(result.error),
            *memory,
            setup,
            result.detail,
        ]
    first, third = result.timing.quartiles
    notes = [result.detail] if result.detail else []
    if result.stolen > 0.02:
        notes.append(f"used {100 * result.stolen:.0f} % of a core while others ran")
    return [
        result.name,
        format_seconds(result.timing.median),
        f"{format_seconds(first)} - {format_seconds(third)}",
        *([] if kind == "start" else [f"{batch / result.timing.median:,.0f}"]),
        format_ratio(result.ratio),
        format_error(result.error),
        *memory,
        setup,
        "; ".join(notes),
    ]


def format_seconds(seconds: float) -> str:
    """Three digits in the unit that suits: 320 us, 9.94 ms, 1.36 s."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale or unit == "us":
            value = seconds / scale
            digits = 0 if value >= 100 else 1 if value >= 10 else 2
            return f"{value:.{digits}f} {unit}"
    raise AssertionError("unreachable")


def format_ratio(value: float) -> str:
    """1.64, or nothing where there is no ratio."""
    return f"{value:.2f}" if math.isfinite(value) else ""


def format_error(value: float) -> str:
    """3.1e-07; inf for a wrong shape or a NaN; nothing where nothing came out."""
    return "" if math.isnan(value) else f"{value:.1e}"


def format_bytes(count: int) -> str:
    """MB below ten thousand of them, then GB."""
    return f"{count / 1e6:,.0f} MB" if count < 1e10 else f"{count / 1e9:.1f} GB"


def write_json(path: str | Path, machine: dict[str, Any], rows: Sequence[dict[str, Any]], *, complete: bool) -> None:
    """Everything measured so far, written aside and renamed: a reader never sees half a file.

    Args:
        rows: one a table row or table, as the command made them.
        complete: False while more is to come; an interrupted run leaves its rows with that mark.
    """
    from minires.train.run_folder import json_safe

    document = {"format": "minires bench 1", "complete": complete, "machine": machine, "rows": list(rows)}
    with write_atomically(os.fspath(path), "w") as file:
        file.write(json.dumps(json_safe(document), indent=2, ensure_ascii=False) + "\n")
