"""How far a job of many like items is: nothing for two seconds, then a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Counter"]

PATIENCE = 2.0  # s before anything is shown
SIGN_OF_LIFE = 10.0  # s between plain lines


class Counter:
    """`with Counter("predict", 2000, "images") as counter: ... counter.add(1)`; writes to standard error."""

    def __init__(self, name: str, total: int, unit: str, stream: TextIO | None = None) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.stream = stream or sys.stderr
        self.done = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Counter:
        self._began = time.monotonic()
        self._next_line = self._began + SIGN_OF_LIFE
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, count: int) -> None:
        """`count` more are done."""
        self.done += count
        now = time.monotonic()
        if now - self._began < PATIENCE:
            return
        if self._bar is None and self.stream.isatty() and importlib.util.find_spec("rich") is not None:
            self._start_bar()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, speed=f"{self._speed(now):,.1f} {self.unit}/s")
        elif now >= self._next_line:
            self._next_line = now + SIGN_OF_LIFE
            counts = f"{self.done:,} of {self.total:,} {self.unit}"
            print(f"{self.name}: {counts}, {self._speed(now):,.1f} {self.unit}/s", file=self.stream, flush=True)

    def _speed(self, now: float) -> float:
        return self.done / max(now - self._began, 1e-9)

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("[cyan]{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(file=self.stream, highlight=False),
            expand=True,
            transient=True,  # the table stays, the bar goes
        )
        self._task = self._bar.add_task(self.name, total=self.total, speed="")
        self._bar.start()
