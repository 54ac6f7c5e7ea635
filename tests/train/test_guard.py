"""What ends a run early."""

from __future__ import annotations

import math
import os
import signal
import threading

import pytest

from minires.train.guard import InterruptGuard, LossNotFiniteError, check_finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_check_finite_says_where_and_what_to_do(value: float) -> None:
    message = (
        rf"train: training loss is {value} at step 41 \(epoch 3, lr 0\.25\)\. "
        r"The last good weights are in runs/a/last\.ckpt\. .*try --lr 0\.03, or --clip-norm 1"
    )
    with pytest.raises(LossNotFiniteError, match=message):
        check_finite(value, "training loss", epoch=3, step=41, lr=0.25, kept="runs/a/last.ckpt")


def test_check_finite_lets_numbers_pass() -> None:
    for value in (0.0, -1.0, 1e300):
        check_finite(value, "loss", epoch=1, step=1, lr=1.0, kept="")


def test_interrupt_guard_notes_the_first_and_obeys_the_second() -> None:
    before = signal.getsignal(signal.SIGINT)
    with InterruptGuard() as guard:
        assert not guard.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert guard.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)  # the handler runs before this returns
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_guard_in_another_thread_leaves_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with InterruptGuard() as guard:
            seen.append(guard.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGINT) is before
