"""Line charts as SVG, by matplotlib, to be put inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minires.train.curves import FAINT, INK
from minires.train.report.page import Html

__all__ = ["COLOURS", "Line", "chart", "scatter"]

# Okabe and Ito's colours, which are told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: in the legend.
        points: (epoch, value); epochs without a value are left out.
        colour, dash: how it is drawn.
        mark: an epoch to mark with a star, or None.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dash: str = "-"
    mark: int | None = None


def chart(
    title: str, lines: Sequence[Line], *, percent: bool = False, log: bool = False, from_zero: bool = False
) -> Html:
    """A chart over epochs.

    Args:
        title: above it.
        lines: those without points are left out.
        percent: values are shares, shown as percentages.
        log: a logarithmic axis, where the values are positive and spread over more than a factor of 30.
        from_zero: the axis begins at 0.

    Returns:
        An <svg> element with the text as text.
    """
    from matplotlib.ticker import FormatStrFormatter, MaxNLocator, PercentFormatter

    drawn = [line for line in lines if line.points]
    figure, axis = _axis(title)
    for line in drawn:
        x, y = zip(*line.points, strict=True)
        dots: dict[str, Any] = {"marker": "o", "ms": 3} if len(x) <= 40 else {}
        axis.plot(x, y, line.dash, color=line.colour, lw=1.6, label=line.name, **dots)
        for epoch, value in line.points:
            if epoch == line.mark:
                axis.plot([epoch], [value], marker="*", ms=12, color=line.colour, mec="white", mew=0.8, zorder=5)
    axis.set_xlabel("epoch", fontsize=9, color=INK)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    values = [value for line in drawn for _, value in line.points]
    if log and values and min(values) > 0 and max(values) > 30 * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    elif percent:
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if from_zero:
        axis.set_ylim(bottom=0)
    if len(drawn) > 1:
        axis.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2 if len(drawn) > 5 else 1)
    return _svg(figure, title)


def scatter(title: str, points: Sequence[tuple[Any, float]], *, log: bool = False) -> Html:
    """Shares (as percentages) against a number or against words.

    Args:
        points: (x, share); an x that is no number gets a place of its own.
        log: a logarithmic x.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, PercentFormatter

    figure, axis = _axis(title)
    numbers = all(type(x) in (int, float) for x, _ in points)
    places = [x if numbers else str(x) for x, _ in points]
    axis.plot(places, [y for _, y in points], "o", color=COLOURS[0], ms=5, alpha=0.6, mec="none")
    if log and numbers:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    return _svg(figure, title)


def _axis(title: str) -> tuple[Any, Any]:
    """A figure and its one axis, in our style."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.1), layout="constrained")
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    axis.set_title(title, fontsize=10.5, color=INK, loc="left", fontweight="bold")
    axis.grid(True, color=FAINT, lw=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", labelsize=8.5, colors=INK, length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(FAINT)
    return figure, axis


def _svg(figure: Any, title: str) -> Html:
    """The figure as an <svg> element, the same bytes each time."""
    import matplotlib

    file = io.StringIO()
    # Text stays text, in the reader's font; the salt makes the same run give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    return Html(re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL))
