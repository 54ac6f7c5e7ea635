"""Two things that end a run early: a loss or gradient that is no number, and a signal (Ctrl-C, `kill`)."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from minires.distributed.group import Group, SingleProcess
from minires.errors import MiniresError

__all__ = ["InterruptGuard", "LossNotFiniteError", "StopRequested", "check_finite"]


class LossNotFiniteError(MiniresError, ArithmeticError):
    """The loss became NaN or infinite. Every later step would only spread it, so training stops."""


def check_finite(
    value: float,
    what: str,
    *,
    epoch: int,
    step: int,
    lr: float,
    kept: str,
    find: Callable[[], str] | None = None,
) -> None:
    """Stop at the first value that is no number.

    Args:
        value: the loss of this step, of a validation, or a sum over gradients.
        what: "training loss" or the like.
        epoch, step: where, both counted from 1; step within the whole run.
        lr: the learning rate that led here.
        kept: the checkpoint that is still good.
        find: looks for the layer where it began (see `diagnose`); called only when something is wrong.

    Raises:
        LossNotFiniteError: it is NaN or infinite.
    """
    if math.isfinite(value):
        return
    began = f" It began {find()}." if find is not None else ""
    raise LossNotFiniteError(
        f"train: {what} is {value} at step {step} (epoch {epoch}, lr {lr:.6g}).{began} "
        f"The last good weights are in {kept}. "
        f"Most often the learning rate is too high: try --lr {_lower(lr)}, or --clip-norm 1"
    )


def _lower(lr: float) -> str:
    return f"{lr / 10:.1g}"


class StopRequested(Exception):
    """Raised in the middle of an evaluation after a signal: what it has done so far is worth nothing, so it ends."""


class InterruptGuard:
    """Inside `with InterruptGuard() as guard`, the first SIGINT (Ctrl-C) or SIGTERM only sets `guard.requested`.

    The loop looks at `requested` between two steps, where the weights are whole, saves and leaves. The second signal
    leaves at once, with what the last save kept: SIGINT as KeyboardInterrupt, SIGTERM as SystemExit(143). A third one,
    should even that take too long, ends the process on the spot.

    Of several processes that train together one may hear a signal earlier than the others, or alone. None may leave while
    another waits for it: `requested` is then what they have agreed on, at the last `agree`.

    Args:
        group: the processes that train together.

    Attributes:
        number: the signal that asked for the end; 0: none.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, group: Group | None = None) -> None:
        self._group = SingleProcess() if group is None else group
        self._heard = 0
        self.number = 0
        self._previous: dict[int, Any] = {}
        # Python delivers signals to the main thread only, and lets only it install a handler.
        self._in_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> InterruptGuard:
        if self._in_main_thread:
            for number in self.SIGNALS:
                # Who started us may have asked to ignore a signal (nohup, a shell's background job): that stays.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._first)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

    @property
    def requested(self) -> bool:
        """Whether the run is to end."""
        return bool(self.number)

    def agree(self) -> bool:
        """Make a signal that any process has heard known to all; collective. Returns `requested`."""
        self.number = self._group.largest(self._heard)
        return self.requested

    def check(self) -> None:
        """Raise StopRequested if a signal has come."""
        if self.requested:
            raise StopRequested

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells count: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number

    def _first(self, number: int, frame: FrameType | None) -> None:
        self._heard = number
        if self._group.size == 1:
            self.number = number
        again = "Ctrl-C again" if number == signal.SIGINT else "a second signal"
        # os.write, not print: a handler may run in the middle of another print.
        _tell(f"\nstopping after this step and saving; {again} leaves at once\n")
        for each in self._previous:
            signal.signal(each, self._second)

    def _second(self, number: int, frame: FrameType | None) -> NoReturn:
        for each in self._previous:
            signal.signal(each, _third)
        # Raised wherever the signal strikes: what is open is closed, a half-written file is removed.
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def _third(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads standard error any more
        os.write(2, text.encode())
