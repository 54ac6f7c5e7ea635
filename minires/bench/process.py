"""A contender's process, seen from the command that measures: started with its threads pinned, asked, ended without fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from minires.errors import MiniresError

__all__ = ["WorkerError", "WorkerProcess", "end_group", "pinned_environment"]

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "MINIRES_THREADS",
)
ROOT = Path(__file__).resolve().parents[2]  # what holds the package: a checkout, or site-packages


class WorkerError(MiniresError, RuntimeError):
    """A contender's process failed or ended; the text is its own last word."""


def pinned_environment(threads: int, **more: str) -> dict[str, str]:
    """This process' environment, with every library that reads a number of threads told the same one."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {
        **os.environ,
        **dict.fromkeys(_THREADS, str(threads)),
        "PYTHONPATH": path,
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # compile in the process itself, not in a pool that stays behind
        **more,
    }


class WorkerProcess:
    """`with WorkerProcess("torch", threads=2, folder=folder) as worker: worker.ask("turn", seconds=0.2)`

    Args:
        name: for messages and the name of its log file in `folder`.
        threads: pinned in its environment.
        folder: an existing folder, for its log.
        environment: further variables.
    """

    def __init__(
        self, name: str, *, threads: int, folder: str | Path, environment: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = Path(folder) / f"{name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "minires.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=pinned_environment(threads, **(environment or {})),
                encoding="utf-8",
                # A group of its own: a terminal's Ctrl-C reaches the parent alone, which then ends the whole group,
                # compilers that the contender started included.
                start_new_session=True,
            )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send one command of worker.py and wait for its answer.

        Raises:
            WorkerError: the command failed, or the process ended.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            cause = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise WorkerError(f"its process {cause}{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def close(self) -> None:
        """End the process and all that it started. Twice is no harm."""
        end_group(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def end_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process that was started with `start_new_session=True`, and what it started, and wait until it is gone."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
