"""What the examples share and no example is about: arguments, tables on the screen, pictures on the disk."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which differ for every kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
INK, GREY, FAINT = "#333333", "#8A8A8A", "#DDDDDD"


def parser(doc: str) -> argparse.ArgumentParser:
    """The arguments of every example: --tiny and --out."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--tiny", action="store_true", help="a small run, under a minute")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the pictures")
    return result


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under a header: numbers to the right, words and the first column to the left."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    words = [i == 0 or not any(row[i][:1] in set("0123456789-+") for row in cells[1:]) for i in range(len(header))]
    for number, row in enumerate(cells):
        aligned = (cell.ljust(w) if left else cell.rjust(w) for cell, w, left in zip(row, widths, words, strict=True))
        print("  " + "   ".join(aligned).rstrip())
        if number == 0:
            print("  " + "   ".join("-" * w for w in widths))


def closing(saw: str, next_: str) -> None:
    """The last lines of every example."""
    print(f"\nwhat you saw: {saw}\nnext: {next_}")


def picture(path: Path, size: tuple[float, float], draw: Callable[[Any], None]) -> None:
    """Call draw(figure) and save the figure as a small PNG; without matplotlib, say how to get it.

    Args:
        path: the PNG to write.
        size: width and height in inches, at 110 dots an inch.
        draw: puts axes and curves on an empty figure.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from PIL import Image
    except ImportError:
        print(f"\nno picture: matplotlib is missing (pip install matplotlib, then run again for {path.name})")
        return
    look = {
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.edgecolor": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor"), INK),
    }
    with matplotlib.rc_context(look):
        figure = Figure(figsize=size, dpi=110, layout="constrained")  # no pyplot: no display, no global state
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", facecolor="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    # 128 colours are plenty for curves, and a third of the bytes.
    Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"\npicture: {path}")
