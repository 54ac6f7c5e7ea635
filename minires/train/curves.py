"""The curves of a run as one picture: loss, accuracy and learning rate over the epochs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from minires.io.files import write_atomically

__all__ = ["HOW_TO_INSTALL", "curves_available", "draw_curves"]

HOW_TO_INSTALL = "no curves.png: matplotlib is missing (pip install matplotlib)"
# Okabe and Ito's colours: told apart with every kind of colour vision, and in grey print by their lines.
SPLITS = (
    ("train", "training", "#0072B2", "-"),
    ("val", "validation", "#D55E00", "-"),
    ("test", "test", "#009E73", "--"),
)
INK, FAINT = "#333333", "#DDDDDD"


def curves_available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curves(
    rows: list[dict[str, Any]],
    path: str | Path,
    title: str,
    best_epoch: int | None = None,
    smoothed: bool = False,
) -> None:
    """Draw the rows of metrics.jsonl into a PNG.

    Args:
        rows: one dict an epoch, with epoch, train_loss, train_accuracy, val_loss, val_accuracy, test_loss,
            test_accuracy, lr; a value may be None where it was not measured.
        path: the PNG to write.
        title: above the picture.
        best_epoch: the epoch of best.ckpt, marked on the accuracy curve.
        smoothed: the training loss was that of smoothed labels, which cannot reach zero; the legend says so.
    """
    # A figure of one's own instead of pyplot: no display is asked for, and nothing global changes. The cache folder of
    # matplotlib may be read-only in a container; it then uses a temporary one by itself.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, MaxNLocator, PercentFormatter

    figure = Figure(figsize=(12, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, color=INK, x=0.01, ha="left")
    loss, accuracy, rate = figure.subplots(1, 3, gridspec_kw={"width_ratios": [3, 3, 2]})
    epochs = [row["epoch"] for row in rows]
    for axis, key in ((loss, "loss"), (accuracy, "accuracy")):
        for split, name, colour, dash in SPLITS:
            points = [(row["epoch"], row[f"{split}_{key}"]) for row in rows if row.get(f"{split}_{key}") is not None]
            if points:
                if smoothed and (split, key) == ("train", "loss"):
                    name = "training (smoothed labels)"
                axis.plot(*zip(*points, strict=True), dash, color=colour, lw=1.8, label=name, **_dots(points))
        axis.set_title(key, fontsize=11, color=INK, loc="left")
    accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    for row in rows:
        if row["epoch"] == best_epoch and row.get("val_accuracy") is not None:
            label = f"best.ckpt: epoch {best_epoch}, {100 * row['val_accuracy']:.2f} %"
            style = {
                "marker": "*",
                "ms": 14,
                "ls": "none",
                "color": SPLITS[1][2],
                "mec": "white",
                "mew": 0.8,
                "zorder": 5,
            }
            accuracy.plot([best_epoch], [row["val_accuracy"]], label=label, **style)
    loss.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right")
    accuracy.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    if all(row["train_loss"] and row["train_loss"] > 0 for row in rows) and _spread(rows) > 30:
        loss.set_yscale("log")
        loss.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    rate.plot(epochs, [row["lr"] for row in rows], color=INK, lw=1.8, **_dots(epochs))
    rate.set_title("learning rate (end of epoch)", fontsize=11, color=INK, loc="left")
    rate.set_ylim(bottom=0)
    for axis in (loss, accuracy, rate):
        axis.set_xlabel("epoch", fontsize=9, color=INK)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axis.grid(True, color=FAINT, lw=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(which="both", labelsize=9, colors=INK, length=0)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.spines["bottom"].set_color(FAINT)
    with write_atomically(os.fspath(path)) as file:
        figure.savefig(file, format="png", facecolor="white")


def _dots(points: Any) -> dict[str, Any]:
    """Few points are shown as such; one point alone would be no line at all."""
    return {"marker": "o", "ms": 3.5} if len(points) <= 40 else {}


def _spread(rows: list[dict[str, Any]]) -> float:
    losses = [row["train_loss"] for row in rows]
    return float(max(losses) / max(min(losses), 1e-12))
