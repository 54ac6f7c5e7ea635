"""What runs in a contender's process: reads commands from its standard input, one JSON object a line, and answers.

    {"do": "open", "module": ..., "kind": ..., "variant": ..., "workload": {...}}   import, build, compile
    {"do": "check", "file": "outcome.npz"}                                         run once; write what came out
    {"do": "turn", "seconds": 0.15}                                                run for a moment, timed

Between commands it sleeps in a read of the pipe. A turn is only over when the process is quiet: thread pools spin for a
while after their work (OpenBLAS, libgomp and onnxruntime for milliseconds), and on a machine with few cores that time
would be stolen from whoever is measured next.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from minires.bench.memory import growth
from minires.bench.workload import Workload

QUIET = (
    0.01  # s of sleep; three in a row with less than a twentieth of a core's time each, and the process counts as quiet
)
PATIENCE = 1.0  # s after which a process that stays busy is reported
BRIEF = 0.05  # s; shorter repetitions get one untimed before a turn, which brings weights and code back into the caches


class Worker:
    """Serves one contender."""

    def __init__(self) -> None:
        self.task: Any = None
        self.kind = ""
        self.asleep_since = time.process_time()

    def serve(self, command: dict[str, Any]) -> dict[str, Any]:
        """Obey one command; returns the answer."""
        handlers: dict[str, Callable[..., dict[str, Any]]] = {"open": self.open, "check": self.check, "turn": self.turn}
        name = command.pop("do")
        return handlers[name](**command)

    def open(self, module: str, kind: str, variant: str, workload: dict[str, Any]) -> dict[str, Any]:
        """Build the task: everything that a user waits for once."""
        self.task, self.kind = None, kind
        gc.collect()
        began = time.perf_counter()
        self.task = importlib.import_module(module).open_task(kind, variant, Workload(**workload))
        return {
            "seconds": time.perf_counter() - began,
            "note": getattr(self.task, "note", ""),
            "versions": getattr(self.task, "versions", {}),
        }

    def check(self, file: str) -> dict[str, Any]:
        """Run once and write what came out; of a training step also a second one, with an eye on memory."""
        answer: dict[str, Any] = {}
        results: dict[str, np.ndarray] = {}
        began = time.perf_counter()
        if self.kind == "train":
            # Momentum is there from the first step on; the second is the first that holds it beside activations.
            answer["memory"], answer["memory_by"] = growth(
                self.task.run, self.task.run, between=lambda: self._keep(results, "")
            )
            self._keep(results, "second/")
        else:
            self.task.run()
            self._keep(results, "")
        answer["seconds"] = time.perf_counter() - began
        everything: dict[str, Any] = results
        np.savez(file, **everything)
        quiet()
        self.asleep_since = time.process_time()
        return answer

    def _keep(self, results: dict[str, np.ndarray], prefix: str) -> None:
        """Copy what the last run computed: arrays of parameters change in place."""
        results.update({prefix + name: np.array(array) for name, array in self.task.outcome().items()})

    def turn(self, seconds: float) -> dict[str, Any]:
        """Repeat for about `seconds`, at least once.

        Returns:
            times: seconds of each repetition.
            stolen: CPU seconds that this process used since its last turn, while others were measured.
            busy: it was still burning CPU time `PATIENCE` seconds after the turn.
        """
        stolen = time.process_time() - self.asleep_since
        run = self.task.run
        began = time.perf_counter()
        run()
        times = []
        if time.perf_counter() - began > BRIEF:
            times.append(time.perf_counter() - began)
        end = time.perf_counter() + seconds - sum(times)
        while not times or time.perf_counter() < end:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        busy = not quiet()
        self.asleep_since = time.process_time()
        return {"times": times, "stolen": stolen, "busy": busy}


def quiet() -> bool:
    """Wait until this process uses no CPU time; False if it does not calm down."""
    end = time.perf_counter() + PATIENCE
    in_a_row = 0  # on a busy machine a spinning thread may not get a core for one of them
    while in_a_row < 3 and time.perf_counter() < end:
        before = time.process_time()
        time.sleep(QUIET)
        in_a_row = in_a_row + 1 if time.process_time() - before < 0.05 * QUIET else 0
    return in_a_row == 3


def die_with_parent() -> None:
    """Linux: have the kernel end this process when the one that started it is gone, however it went."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # 1: PR_SET_PDEATHSIG


def claim_stdout() -> IO[str]:
    """Standard output for answers alone: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Serve until the pipe closes."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business: it ends its children
    answers = claim_stdout()
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = worker.serve(json.loads(line))
        except Exception as error:  # whatever a library raises is this contender's result
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
