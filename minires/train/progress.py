"""What a person sees while a net trains: a table that grows by one row an epoch and, on a terminal with rich, a live
bar under it.

Where the output is a file or a pipe, or rich is missing, the same table comes as plain lines, and an epoch that takes
long gives a sign of life every ten seconds. The loop only calls `start`, `step`, `epoch_end` and `finish`; it knows
nothing of terminals.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from minires.train.run_folder import StorageError

__all__ = ["Progress", "RichProgress", "format_duration", "make_progress"]

HEADER = (  # in the widths of format_row
    f"{'':8}{'train':>8}{'':9}{'validation':>12}{'':7}{'test':>7}",
    f"{'epoch':>7} {'loss':>8}{'acc':>9}{'loss':>9}{'acc':>9} {'acc':>8}{'lr':>10}{'images/s':>10}{'time':>8}",
)
SIGN_OF_LIFE = 10.0  # s between plain lines inside one epoch


@dataclass
class Step:
    """Where the loop stands: filled by it after every batch."""

    epoch: int  # from 1
    batch: int  # from 1
    batches: int  # in an epoch
    loss: float  # running mean over the epoch
    accuracy: float  # the same, in [0, 1]
    images: int  # so far in this epoch


class Progress:
    """Plain lines. `log` receives the same lines (for log.txt)."""

    def __init__(self, stream: TextIO, log: Callable[[str], None] | None = None) -> None:
        self.stream = stream
        self.log = log

    def line(self, text: str = "", style: str = "") -> None:
        """Show one line of text (and log it)."""
        if self.log is not None:
            self.log(text)
        self._show(text, style)

    def _show(self, text: str, style: str) -> None:
        try:
            print(text, file=self.stream, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StorageError(
                f"train: cannot write the progress to the output: {error.strerror}. The run's folder is whole; make room, "
                "then: minires train --resume RUN"
            ) from error

    def start(self, epochs: int, first_epoch: int) -> None:
        """Training begins."""
        self.epochs, self.first_epoch = epochs, first_epoch
        self.began = self.epoch_began = self.last_sign = time.perf_counter()
        for header in HEADER:
            self.line(header, "bold")

    def epoch_start(self, images: int = 0) -> None:
        """An epoch begins (or goes on after `images` images); its speed is measured from here."""
        self.epoch_began = self.last_sign = time.perf_counter()
        self.images_before = images

    def step(self, step: Step) -> None:
        """A batch is done."""
        now = time.perf_counter()
        if now - self.last_sign >= SIGN_OF_LIFE:
            self.last_sign = now
            self.line(
                f"{step.epoch:>4}/{self.epochs:<3}  batch {step.batch}/{step.batches}  loss {step.loss:.4f}"
                f"  acc {percent(step.accuracy)}  {self.speed(step, now):,.0f} images/s  {self.left(step, now)} left"
            )

    def looker(self, epoch: int, what: str) -> Callable[[int, int], None]:
        """What `evaluate` shall call while it looks at the validation or test images after an epoch."""
        return lambda done, total: self.looking(epoch, what, done, total)

    def looking(self, epoch: int, what: str, done: int, total: int) -> None:
        """`done` of `total` images have been looked at."""
        now = time.perf_counter()
        if now - self.last_sign >= SIGN_OF_LIFE:
            self.last_sign = now
            self.line(f"{epoch:>4}/{self.epochs:<3}  {what} images {done:,}/{total:,}")

    def speed(self, step: Step, now: float) -> float:
        """Images a second in this epoch."""
        return (step.images - self.images_before) / max(now - self.epoch_began, 1e-9)

    def left(self, step: Step, now: float) -> str:
        """Time to the end of the last epoch, if all goes on as since the start (evaluation included)."""
        done = step.epoch - self.first_epoch + step.batch / step.batches
        total = self.epochs - self.first_epoch + 1
        return format_duration((now - self.began) * (total - done) / max(done, 1e-9))

    def epoch_end(self, row: dict[str, Any], best: bool) -> None:
        """An epoch is over and measured: one row of the table, a star where validation is the best so far."""
        self.line(format_row(row, self.epochs, best), "green" if best else "")

    def finish(self) -> None:
        """Training is over, or broke off: leave the terminal in order."""


class RichProgress(Progress):
    """The table in colour with a live bar below it."""

    def __init__(self, stream: TextIO, log: Callable[[str], None] | None = None) -> None:
        super().__init__(stream, log)
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.console = Console(file=stream, highlight=False)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("[cyan]{task.fields[text]}"),
            console=self.console,
            expand=True,
            transient=True,  # the rows stay, the bar goes
        )
        self.task = self.bar.add_task("", total=1, text="", visible=False)

    def _show(self, text: str, style: str) -> None:
        from rich.text import Text

        self.console.print(Text(text, style=style), soft_wrap=True)  # Text: square brackets in a path are not markup

    def start(self, epochs: int, first_epoch: int) -> None:
        super().start(epochs, first_epoch)
        self.bar.start()

    def step(self, step: Step) -> None:
        now = time.perf_counter()
        self.bar.update(
            self.task,
            description=f"epoch {step.epoch}/{self.epochs}",
            completed=step.batch,
            total=step.batches,
            visible=True,
            text=f"loss {step.loss:.3f}  acc {percent(step.accuracy)}  {self.speed(step, now):,.0f} images/s"
            f"  {self.left(step, now)} left",
        )

    def looking(self, epoch: int, what: str, done: int, total: int) -> None:
        text = f"{what} images {done:,}/{total:,}"
        self.bar.update(
            self.task, description=f"epoch {epoch}/{self.epochs}", completed=done, total=total, visible=True, text=text
        )

    def finish(self) -> None:
        self.bar.stop()


def make_progress(stream: TextIO, log: Callable[[str], None] | None = None) -> Progress:
    """The live form where `stream` is a terminal and rich is installed, plain lines otherwise."""
    rich_there = importlib.util.find_spec("rich") is not None
    return RichProgress(stream, log) if rich_there and stream.isatty() else Progress(stream, log)


def format_row(row: dict[str, Any], epochs: int, best: bool) -> str:
    """One epoch in the columns of HEADER."""
    speed = row["images_per_second"]
    return (
        f"{row['epoch']:>4}/{epochs:<3}{number(row['train_loss']):>8}{percent(row['train_accuracy']):>9}"
        f"{number(row['val_loss']):>9}{percent(row['val_accuracy']):>9}{'*' if best else ' '}"
        f"{percent(row['test_accuracy']):>8}{row['lr']:>10.5f}{speed:>10,.0f}{format_duration(row['seconds']):>8}"
    )


def number(value: float | None) -> str:
    """A loss; a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def percent(value: float | None) -> str:
    """A share as a percentage; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.2f} %"


def format_duration(seconds: float) -> str:
    """1.3 s, 59 s, 4:07, 1:02:03."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
