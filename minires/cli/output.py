"""How the verbs print: tables (rich on a terminal, aligned text elsewhere), next steps, JSON."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

__all__ = ["FirstLineHelp", "bold", "print_json", "print_next", "print_table", "require_package"]


class FirstLineHelp(argparse.RawDescriptionHelpFormatter):
    """argparse's help with room for the option names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)
        self._action_max_length = 14  # argparse forgets that verbs are indented, and breaks the line of the longest


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    title: str = "",
    left: Sequence[int] = (0,),
    footer: Sequence[Any] | None = None,
    stream: TextIO | None = None,
) -> None:
    """A table: in colour on a terminal where rich is installed, aligned text in a file or a pipe.

    Args:
        columns: the headings.
        rows: one sequence of cells a row; cells are shown with str().
        title: a line above.
        left: numbers of the columns that are set flush left (text); the others, numbers, are set flush right.
        footer: a last row, set apart (totals).
        stream: where to; default: standard output.
    """
    stream = stream or sys.stdout
    cells = [[str(cell) for cell in row] for row in rows]
    foot = [str(cell) for cell in footer] if footer is not None else None
    if stream.isatty() and importlib.util.find_spec("rich") is not None:
        _print_rich(columns, cells, title, left, foot, stream)
        return
    widths = [
        max(len(line[i]) for line in [list(columns), *cells, *([foot] if foot else [])]) for i in range(len(columns))
    ]

    def show(line: Sequence[str]) -> None:
        aligned = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        print("  ".join(aligned).rstrip(), file=stream)

    rule = ["-" * width for width in widths]
    if title:
        print(title, file=stream)
    for line in [list(columns), rule, *cells, *([rule, foot] if foot else [])]:
        show(line)


def _print_rich(
    columns: Sequence[str],
    cells: list[list[str]],
    title: str,
    left: Sequence[int],
    foot: list[str] | None,
    stream: TextIO,
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_footer=foot is not None,
    )
    for i, name in enumerate(columns):
        table.add_column(
            name,
            footer=foot[i] if foot else "",
            justify="left" if i in left else "right",
            overflow="fold",
            header_style="bold",
        )
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))  # Text: square brackets in a name are not markup
    Console(file=stream, highlight=False).print(table)


def print_next(*commands: tuple[str, str], stream: TextIO | None = None) -> None:
    """The commands that come next, each with what it does."""
    stream = stream or sys.stdout
    width = max(len(command) for command, _ in commands)
    print("\nnext:", file=stream)
    long = any(width + len(what) > 90 for _, what in commands)  # then the explanations take lines of their own
    for command, what in commands:
        if long:
            print(f"  {command}\n      {what}", file=stream)
        else:
            print(f"  {command:<{width}}   {what}", file=stream)


def bold(text: str) -> str:
    """The text in bold on a terminal, as it is elsewhere (and where NO_COLOR asks for it)."""
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def print_json(document: Any) -> None:
    """One JSON document on standard output. NaN, which JSON does not know, becomes null."""
    from minires.train.run_folder import json_safe

    print(json.dumps(json_safe(document), indent=2, ensure_ascii=False))


def require_package(package: str, module: str, why: str) -> None:
    """Say how to install an optional package before it is needed.

    Raises:
        ConfigError: it is missing.
    """
    if importlib.util.find_spec(module) is None:
        from minires.errors import ConfigError

        raise ConfigError(f"{why} needs {package}, which is not installed: pip install {package}")
