"""`report.html`: all that a run has to say, on one page that opens offline.

It is made from the run's own folder (settings, metrics, checkpoint) and, for the confusion matrix and the pictures, one
look at the test set. So it can be made again at any time: `minires report RUN`.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import minires
from minires.data import ArrayDataset
from minires.io.files import write_atomically
from minires.nn import Module
from minires.train.config import TrainConfig, build_config
from minires.train.evaluate import FLIP_TTA, Evaluation
from minires.train.metrics import per_class_accuracy, worst_confusions
from minires.train.progress import format_duration
from minires.train.report.charts import COLOURS, Line, chart
from minires.train.report.mistakes import Worst, as_png, worst_mistakes
from minires.train.report.page import Html, bar, cards, code, details, page, png, section, table, text

__all__ = ["REPORT", "report_available", "write_report"]

REPORT = "report.html"
PICTURES = 24  # mistakes shown
CLASSES = 25  # a confusion matrix of more classes is no longer read but counted
STAGE = "grad_norm/"  # columns of metrics.jsonl: the mean norm of a stage's gradients


def report_available() -> str:
    """What is missing to make a page: "" if nothing."""
    missing = [package for package, module in (("matplotlib", "matplotlib"), ("pillow", "PIL")) if not _there(module)]
    return "" if not missing else f"no {REPORT}: {' and '.join(missing)} missing (pip install {' '.join(missing)})"


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def write_report(
    folder: Path,
    rows: list[dict[str, Any]],
    config: TrainConfig,
    model: Module | None,
    test: ArrayDataset | None,
    evaluation: Evaluation | None = None,
) -> Path:
    """Write `folder/report.html`.

    Args:
        folder: the run's.
        rows: those of metrics.jsonl.
        config: its settings.
        model: the one to look at the test set with, after the last epoch; None leaves that part out, and says so.
        test: the test set, with the training set's normalisation.
        evaluation: of that test set, if there is one already; its figures are shown.

    Returns:
        The page's path.
    """
    worst = None if model is None or test is None else worst_mistakes(model, test, PICTURES)
    name = f"{config.model} on {config.data}"
    parts: list[Any] = [
        Html(f"<header><h1>{text(name)}</h1><p>{text(_subtitle(folder, rows, config))}</p></header>"),
        cards(_figures(rows, config, model)),
        section("Curves", _curves(rows, config.label_smoothing > 0), note=_CURVES_NOTE),
    ]
    if worst is not None and test is not None:
        matrix = worst.matrix if evaluation is None else evaluation.matrix
        parts += [_confusions(matrix, test.classes), _mistakes(worst, test)]
    else:
        parts.append(section("Confusions and mistakes", note="Left out: the test set was not at hand."))
    parts += [_settings(folder, config), _environment(_read_json(folder / "env.json"))]
    parts.append(Html(f"<footer>Made by minires {text(minires.__version__)}.</footer>"))
    path = folder / REPORT
    with write_atomically(path, "w") as file:
        file.write(page(name, parts))
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def percent(share: float | None, digits: int = 2) -> str:
    """`0.9912` as "99.12 %"; "-" for None and NaN."""
    return "-" if share is None or share != share else f"{100 * share:.{digits}f} %"


def best_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The epoch with the best validation accuracy, among equals the one with the least loss; None without validation."""
    measured = [row for row in rows if row.get("val_accuracy") is not None]
    return min(measured, key=lambda row: (-row["val_accuracy"], row["val_loss"], row["epoch"]), default=None)


def _subtitle(folder: Path, rows: list[dict[str, Any]], config: TrainConfig) -> str:
    state = "finished" if len(rows) >= config.epochs else f"{len(rows)} of {config.epochs} epochs"
    return f"{folder} · {state} · seed {config.seed}"


def _figures(rows: list[dict[str, Any]], config: TrainConfig, model: Module | None) -> list[tuple[str, str, str]]:
    """The cards. No figure is chosen by the test set: the last epoch's, and the one that validation chose."""
    last = rows[-1] if rows else {}
    how = f"; {FLIP_TTA}" if config.flip_tta else ""
    about = f"after epoch {last.get('epoch', 0)}, the last{how}"
    figures = [("test accuracy", percent(last.get("test_accuracy")), about)]
    best = best_row(rows)
    if best is not None:
        seen = percent(best.get("test_accuracy"))
        figures.append(("chosen by validation", percent(best["val_accuracy"]), f"epoch {best['epoch']}; test {seen}"))
    figures.append(("training loss", f"{last['train_loss']:.4f}" if last else "-", "mean of the last epoch"))
    seconds = sum(row.get("seconds") or 0.0 for row in rows)
    speed = [row["images_per_second"] for row in rows if row.get("images_per_second")]
    about = f"{np.median(speed):,.0f} images/s in training" if speed else ""
    figures.append(("time", format_duration(seconds), about))
    if model is not None:
        parameters = sum(parameter.array.size for parameter in model.parameters())
        figures.append(("parameters", f"{parameters:,}", config.model))
    return figures


_CURVES_NOTE = (
    "The star marks the epoch that validation chose. The test set is only looked at: nothing is chosen by it. Gradient norms "
    "are means over an epoch's steps, stage by stage from the input to the classifier."
)


def shown(value: Any) -> str:
    """A setting's value in a table."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value)


def series(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(epoch, value) where there is one."""
    return [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]


def _curves(rows: list[dict[str, Any]], smoothed: bool) -> Html:
    best = best_row(rows)
    mark = best["epoch"] if best is not None else None
    splits = (("train", "training", "-"), ("val", "validation", "-"), ("test", "test", "--"))

    def lines(key: str) -> list[Line]:
        return [
            Line(
                "training (smoothed labels)" if smoothed and (split, key) == ("train", "loss") else name,
                series(rows, f"{split}_{key}"),
                COLOURS[i],
                dash,
                mark if split == "val" else None,
            )
            for i, (split, name, dash) in enumerate(splits)
        ]

    stages = list(dict.fromkeys(key for row in rows for key in row if key.startswith(STAGE)))
    charts = [
        chart("loss", lines("loss"), log=True),
        chart("accuracy", lines("accuracy"), percent=True),
        chart("learning rate, at an epoch's end", [Line("lr", series(rows, "lr"), "#333333")], from_zero=True),
        chart("images/s", [Line("images/s", series(rows, "images_per_second"), "#333333")], from_zero=True),
    ]
    if stages:
        norms = [
            Line(key.removeprefix(STAGE), series(rows, key), COLOURS[i % len(COLOURS)]) for i, key in enumerate(stages)
        ]
        charts.append(chart("gradient norm", norms, log=True))
    return Html(f'<div class="charts">{"".join(charts)}</div>')


def _confusions(matrix: np.ndarray, classes: Sequence[str]) -> Html:
    """The matrix where it can be read, class by class, and the pairs that are mixed up most."""
    parts: list[Any] = []
    rows: list[list[Any]] = []
    if len(classes) <= CLASSES:
        for i, name in enumerate(classes):
            total = max(int(matrix[i].sum()), 1)
            cells = [_cell(int(matrix[i, j]), matrix[i, j] / total, i == j) for j in range(len(classes))]
            rows.append([Html(f"<b>{text(name)}</b>"), *cells])
        parts.append(table(["is \\ taken for", *classes], rows, kind="matrix"))
    shares = per_class_accuracy(matrix)
    order = np.argsort(shares, kind="stable")
    if len(classes) > CLASSES:
        order = order[:CLASSES]
    rows = []
    for i in order:
        wrong = worst_confusions(matrix * (np.arange(len(matrix)) == i)[:, None], 1)
        taken = f"{classes[wrong[0][1]]} ({wrong[0][2]} times)" if wrong else ""
        predicted = int(matrix[:, i].sum())
        precision = matrix[i, i] / predicted if predicted else float("nan")
        share = float(np.nan_to_num(shares[i]))
        rows.append(
            [
                classes[i],
                percent(float(shares[i]), 1),
                bar(share),
                percent(float(precision), 1),
                int(matrix[i].sum()),
                taken,
            ]
        )
    which = (
        "Class by class, the worst first"
        if len(classes) <= CLASSES
        else f"The {CLASSES} classes with the lowest recall"
    )
    parts.append(Html(f"<h2>{which}</h2>"))
    columns = ["class", "recall", "", "precision", "images", "most often taken for"]
    parts.append(table(columns, rows, left=(0, 2, 5)))
    note = "Rows are what an image shows, columns what it was taken for; shading is the share of the row."
    return section("Confusions on the test set", *parts, note=note if len(classes) <= CLASSES else "")


def _cell(count: int, share: float, right: bool) -> Html:
    if count == 0:
        return Html("")
    colour = "0,114,178" if right else "213,94,0"
    strength = 0.12 + 0.55 * share if right else min(0.15 + 4 * share, 0.85)
    return Html(f'<span style="background:rgba({colour},{strength:.2f})">{count}</span>')


def _mistakes(worst: Worst, test: ArrayDataset) -> Html:
    highest = int(test.images.max(initial=1))
    figures = []
    for mistake in worst.mistakes:
        is_, said = test.classes[mistake.label], test.classes[mistake.prediction]
        picture = png(
            as_png(test.images[mistake.index], highest), f"test image {mistake.index}: {is_}, taken for {said}"
        )
        caption = (
            f'is <b>{text(is_)}</b> ({percent(mistake.label_probability, 1)})<br>taken for <span class="wrong">{text(said)}</span> '
            f"({percent(mistake.confidence, 1)})<br>image {mistake.index}"
        )
        figures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    if not figures:
        return section("Most confident mistakes", note="None: every test image was recognised.")
    note = "The test images that the model was surest about, and wrong. Look here first for mislabelled pictures."
    return section("Most confident mistakes", Html(f'<div class="pictures">{"".join(figures)}</div>'), note=note)


def _settings(folder: Path, config: TrainConfig) -> Html:
    usual = asdict(build_config({"data": config.data}))
    given = asdict(config)
    changed = [[key, shown(value), shown(usual[key])] for key, value in given.items() if value != usual[key]]
    again = f"minires train --config {shlex.quote(str(folder / 'config.toml'))}"
    parts: list[Any] = [code(again)]
    if changed:
        parts.append(Html("<h2>What differs from the recipe</h2>"))
        parts.append(table(["setting", "here", "recipe"], changed, left=(0, 1, 2)))
    parts.append(
        details("all settings", table(["setting", "value"], [[k, shown(v)] for k, v in given.items()], left=(0, 1)))
    )
    return section(
        "Do it again", *parts, note="The same settings, seed and threads on the same machine give the same weights."
    )


def _environment(env: dict[str, Any]) -> Html:
    rows = []
    for key, value in env.items():
        if isinstance(value, list):
            value = shlex.join(map(str, value))
        elif isinstance(value, dict):
            value = ", ".join(f"{k}={v}" for k, v in value.items()) or "-"
        rows.append([key, value])
    return section(
        "Where it ran", table(["", ""], rows, left=(0, 1)) if rows else "", note="" if rows else "not recorded"
    )
