"""What ends a run early."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from minires.train.guard import InterruptGuard, LossNotFiniteError, StopRequested, check_finite


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_guard_obeys_either_signal_and_knows_its_exit_code(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in InterruptGuard.SIGNALS]
    with InterruptGuard() as guard:
        guard.check()
        os.kill(os.getpid(), number)
        assert (guard.requested, guard.exit_code) == (True, 128 + number)
        with pytest.raises(StopRequested):
            guard.check()
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 1)
        assert number == signal.SIGINT or caught.value.code == 143
    assert [signal.getsignal(each) for each in InterruptGuard.SIGNALS] == before


def test_interrupt_guard_lets_an_ignored_signal_be_ignored() -> None:
    """As `nohup` and a shell's background jobs ask for."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with InterruptGuard() as guard:
            os.kill(os.getpid(), signal.SIGINT)
            assert not guard.requested
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_third_signal_ends_a_process_that_cannot_unwind() -> None:
    """The second one's exception is swallowed, as by a destructor or a library that catches everything."""
    script = """
import os, signal, time
from minires.train.guard import InterruptGuard
with InterruptGuard() as guard:
    for _ in range(3):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        except BaseException:
            pass
    time.sleep(60)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, timeout=30)
    assert done.returncode == 143, done.stderr
    assert b"stopping after this step and saving; a second signal leaves at once" in done.stderr


def test_check_finite_says_where_it_began() -> None:
    with pytest.raises(LossNotFiniteError, match=r"\(epoch 1, lr 1\)\. It began in conv1\. The last good"):
        check_finite(math.nan, "loss", epoch=1, step=1, lr=1.0, kept="", find=lambda: "in conv1")
    check_finite(1.0, "loss", epoch=1, step=1, lr=1.0, kept="", find=lambda: pytest.fail("nothing was wrong"))
