"""Runs side by side: what differs in their settings, what came out, and their curves in one picture each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minires.errors import CheckpointError
from minires.io.files import write_atomically
from minires.train.config import TrainConfig, build_config, read_toml
from minires.train.metrics import Spread
from minires.train.progress import format_duration
from minires.train.report.charts import COLOURS, Line, chart
from minires.train.report.page import Html, page, section, table, text
from minires.train.report.run_report import best_row, percent, series, shown
from minires.train.run_folder import read_metrics

__all__ = ["Comparison", "Run", "compare_runs", "write_comparison"]

# Settings that say where and under which name a run lies, and not what it does.
PLACES = ("name", "run_dir", "data_dir")


@dataclass(frozen=True)
class Run:
    """One run as its folder tells it."""

    path: Path
    name: str
    config: TrainConfig
    rows: list[dict[str, Any]]

    @property
    def figures(self) -> dict[str, Any]:
        """epochs, test_accuracy of the last epoch, the epoch that validation chose with its figures, seconds, images_per_second."""
        last: dict[str, Any] = self.rows[-1] if self.rows else {}
        best = best_row(self.rows) or {}
        speed = [row["images_per_second"] for row in self.rows if row.get("images_per_second")]
        return {
            "epochs": len(self.rows),
            "test_accuracy": last.get("test_accuracy"),
            "best_epoch": best.get("epoch"),
            "best_val_accuracy": best.get("val_accuracy"),
            "best_test_accuracy": best.get("test_accuracy"),
            "train_loss": last.get("train_loss"),
            "seconds": sum(row.get("seconds") or 0.0 for row in self.rows),
            "images_per_second": float(np.median(speed)) if speed else None,
        }


@dataclass(frozen=True)
class Comparison:
    """Several runs, and the settings in which they differ.

    Attributes:
        runs: in the order in which they were named.
        differing: setting -> its value in each run, only for settings that differ.
    """

    runs: list[Run]
    differing: dict[str, list[Any]]


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Read the folders.

    Raises:
        CheckpointError: one is no run's folder.
    """
    runs = [_read(Path(path)) for path in paths]
    names = [run.path.name for run in runs]
    if len(set(names)) < len(names):  # runs/a and old/a: the name alone does not tell them apart
        names = [str(run.path) for run in runs]
    runs = [Run(run.path, name, run.config, run.rows) for run, name in zip(runs, names, strict=True)]
    settings = [asdict(run.config) for run in runs]
    differing = {
        key: [given[key] for given in settings]
        for key in settings[0]
        if key not in PLACES and any(given[key] != settings[0][key] for given in settings)
    }
    return Comparison(runs, differing)


def _read(path: Path) -> Run:
    if not (path / "config.toml").is_file():
        inside = sorted(str(p.parent) for p in path.glob("*/config.toml")) if path.is_dir() else []
        hint = f"; it holds the runs {', '.join(inside)}" if inside else ""
        raise CheckpointError(f"compare: {path} is no run's folder (it has no config.toml){hint}")
    return Run(path, path.name, build_config(read_toml(path / "config.toml")), read_metrics(path))


def same_but_seed(comparison: Comparison) -> bool:
    """Whether the runs repeat one another with other random numbers."""
    return len(comparison.runs) > 1 and set(comparison.differing) == {"seed"}


def spread(comparison: Comparison) -> Spread | None:
    """Of the last epochs' test accuracy; None if a run has none or there is but one."""
    found = [run.figures["test_accuracy"] for run in comparison.runs]
    return None if len(found) < 2 or any(value is None for value in found) else Spread(found)


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write the page that lays the runs side by side."""
    runs = comparison.runs
    colours = {run.path: COLOURS[i % len(COLOURS)] for i, run in enumerate(runs)}

    def lines(key: str) -> list[Line]:
        return [Line(run.name, series(run.rows, key), colours[run.path]) for run in runs]

    charts = [
        chart("validation accuracy", lines("val_accuracy"), percent=True),
        chart("test accuracy", lines("test_accuracy"), percent=True),
        chart("training loss", lines("train_loss"), log=True),
        chart("validation loss", lines("val_loss"), log=True),
        chart("learning rate, at an epoch's end", lines("lr"), from_zero=True),
        chart("images/s", lines("images_per_second"), from_zero=True),
    ]
    figures = []
    for run in runs:
        f = run.figures
        name = Html(f'<span class="key" style="background:{colours[run.path]}"></span>{text(run.name)}')
        chosen = f"{percent(f['best_val_accuracy'])} (epoch {f['best_epoch']})" if f["best_epoch"] else "-"
        figures.append(
            [
                name,
                percent(f["test_accuracy"]),
                chosen,
                percent(f["best_test_accuracy"]),
                f["epochs"],
                format_duration(f["seconds"]),
            ]
        )
    columns = ["run", "test, last epoch", "best validation", "test, that epoch", "epochs", "time"]
    found = spread(comparison) if same_but_seed(comparison) else None
    note = f"Over {len(runs)} seeds, mean and standard deviation: {found}" if found else ""
    parts: list[Any] = [
        Html(f"<header><h1>{len(runs)} runs</h1><p>side by side</p></header>"),
        section("What came out", table(columns, figures), note=note),
        section("Curves", Html(f'<div class="charts">{"".join(charts)}</div>')),
    ]
    if comparison.differing:
        rows = [[key, *map(shown, values)] for key, values in comparison.differing.items()]
        heads = ["setting", *(run.name for run in runs)]
        parts.append(section("What differs", table(heads, rows, left=tuple(range(len(heads))))))
    else:
        parts.append(section("What differs", note="No setting differs: the runs are repetitions of one another."))
    with write_atomically(path, "w") as file:
        file.write(page(f"{len(runs)} runs", parts))
    return path
