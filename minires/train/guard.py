"""Two things that end a run early: a loss that is no number, and Ctrl-C."""

from __future__ import annotations

import math
import os
import signal
import threading
from types import FrameType
from typing import Any

from minires.errors import MiniresError

__all__ = ["InterruptGuard", "LossNotFiniteError", "check_finite"]


class LossNotFiniteError(MiniresError, ArithmeticError):
    """The loss became NaN or infinite. Every later step would only spread it, so training stops."""


def check_finite(loss: float, what: str, *, epoch: int, step: int, lr: float, kept: str) -> None:
    """Stop at the first loss that is no number.

    Args:
        loss: the value of this step, or of a validation.
        what: "training loss" or the like.
        epoch, step: where, both counted from 1; step within the whole run.
        lr: the learning rate that led here.
        kept: the checkpoint that is still good.

    Raises:
        LossNotFiniteError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise LossNotFiniteError(
            f"train: {what} is {loss} at step {step} (epoch {epoch}, lr {lr:.6g}). "
            f"The last good weights are in {kept}. "
            f"Most often the learning rate is too high: try --lr {_lower(lr)}, or --clip-norm 1"
        )


def _lower(lr: float) -> str:
    return f"{lr / 10:.1g}"


class InterruptGuard:
    """Inside `with InterruptGuard() as guard`, the first Ctrl-C only sets `guard.requested`; the second acts as always.

    The loop looks at `requested` between two steps, where the weights are whole, saves and leaves. Who does not want
    to wait presses again and is out at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None
        # Python delivers signals to the main thread only, and lets only it install a handler.
        self._in_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> InterruptGuard:
        if self._in_main_thread:
            self._previous = signal.signal(signal.SIGINT, self._first)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._in_main_thread:
            signal.signal(signal.SIGINT, self._previous or signal.SIG_DFL)

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        # os.write, not print: a handler may run in the middle of another print.
        os.write(2, b"\nstopping after this step and saving; Ctrl-C again leaves at once\n")
        # The second one raises KeyboardInterrupt wherever it strikes.
        signal.signal(signal.SIGINT, signal.default_int_handler)
