"""The folder of one run: everything that says how it went and how to do it again.

runs/digits-resnet8/
    config.toml         every setting (minires train --config FILE repeats the run)
    env.json            versions, machine, command; and those of every time it was resumed
    metrics.jsonl       one JSON object an epoch, written as it ends
    results.csv         the same as a table
    best.safetensors    weights of the epoch with the best validation accuracy (older runs: best.ckpt)
    last.ckpt           everything: training goes on from here
    before.ckpt         the one before, for a moment (see `saver`)
    curves.png          loss, accuracy and learning rate over the epochs
    result.json         the final figures
    log.txt             what the terminal showed, without the bars
    run.lock            while a process trains in here: which one

A run that was killed and resumed ends with the same files as one that never stopped, byte for byte, but for what a
clock measured (the columns `CLOCK`, `seconds` in result.json and last.ckpt) and the diaries env.json and log.txt.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import importlib.util
import io
import json
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import minires
from minires.backend import current_kernels
from minires.distributed.group import current
from minires.errors import CheckpointError, ConfigError, MiniresError
from minires.io.files import remove_leftovers, write_atomically
from minires.train.config import TrainConfig, to_toml
from minires.train.lock import RunLock

__all__ = [
    "BEST",
    "CLOCK",
    "LAST",
    "Onlooker",
    "RunFolder",
    "StorageError",
    "busy_advice",
    "environment",
    "find_checkpoint",
    "folder_name",
    "runtime_facts",
]

BEST, LAST = "best.safetensors", "last.ckpt"
CLOCK = ("seconds", "images_per_second")  # columns of metrics.jsonl and results.csv that no two runs have in common
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


class StorageError(MiniresError, OSError):
    """The run's folder cannot be written to: the disk is full, or it is read-only."""


def folder_name(text: str) -> str:
    """`text` as the name of a folder: "folder:my photos" becomes "folder-my-photos"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


class RunFolder:
    """Writes the files of one run. Each is whole at every moment, also if the machine stops between two lines.

    Whoever trains makes it with `create` or `claim`; the folder then belongs to this process until `close`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock: RunLock | None = None
        self.rows: list[dict[str, Any]] = read_metrics(path)
        self.watchers: list[Callable[[dict[str, Any]], None]] = []  # called with each epoch's row

    @classmethod
    def create(cls, config: TrainConfig) -> RunFolder:
        """Make a new folder `run_dir/name`; where the name is taken, `name-2`, `name-3`, ... An older run is never
        touched.
        """
        name = config.name or folder_name(f"{config.data}-{config.model}")
        parent = Path(config.run_dir)
        number = 1
        try:
            parent.mkdir(parents=True, exist_ok=True)
            while True:
                path = parent / (name if number == 1 else f"{name}-{number}")
                try:
                    path.mkdir()  # check and claim in one step: two runs started together cannot get one folder
                    break
                except FileExistsError:
                    number += 1
        except OSError as error:
            what = f"run_dir: cannot make a folder in {parent}: {error.strerror}"
            if error.errno in _NO_ROOM + _NO_RIGHT:
                raise StorageError(
                    f"{what}. Make room or rights there, or name another place: --run-dir DIR"
                ) from error
            raise ConfigError(what) from error
        folder = cls.claim(path)
        try:
            folder.write_text("config.toml", to_toml(config))
            folder.write_text("env.json", json.dumps(environment(), indent=2) + "\n")
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def claim(cls, path: Path) -> RunFolder:
        """The folder of a run that is there, for this process alone.

        Raises:
            RunBusyError: another process trains in it.
            StorageError: it cannot be written to.
        """
        folder = cls(path)
        with folder.writing(""):
            folder.lock = RunLock(path)
        try:
            with folder.writing(""):
                remove_leftovers(path)
            folder.rows = read_metrics(path)  # as whoever had the lock left them
        except BaseException:
            folder.close()
            raise
        return folder

    def close(self) -> None:
        """Let others in. Safe to call twice."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def go_on(self, rows: list[dict[str, Any]] | None, epoch: int) -> None:
        """Put the folder where the checkpoint stands from which the run goes on.

        Args:
            rows: the checkpoint's rows of metrics.jsonl; None for an older one, which has none: then those that are
                there.
            epoch: how many epochs it has finished.
        """
        self.rows = list(rows) if rows is not None else self.rows[:epoch]
        # Whatever a kill left: half a line, no line, or the line of an epoch that is done again.
        self.write_text("metrics.jsonl", "".join(_line(row) for row in self.rows))
        if self.rows:
            self._write_table()
        with self.writing("log.txt"), open(self.path / "log.txt", "a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        env = self._read_json("env.json")
        env["resumed"] = [*env.get("resumed", []), environment()]
        self.write_text("env.json", json.dumps(env, indent=2) + "\n")

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def reported(self) -> bool:
        """Whether the run's end was written down: nothing of it is left to do."""
        return self._read_json("result.json").get("interrupted") is False

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Inside, a file of the folder is written; a failure says which, what is still good, and what to do.

        Raises:
            StorageError: in place of any OSError.
        """
        try:
            yield
        except MiniresError:  # has said already what is wrong
            raise
        except OSError as error:
            why = error.strerror or str(error)
            remedy = "see what is wrong with that place"
            if error.errno in _NO_ROOM:
                remedy = "make room on that disk (or raise the quota or limit)"
            elif error.errno in _NO_RIGHT:
                remedy = "give this user the right to write there"
            kept = ""
            if (self.path / LAST).exists():
                kept = f" {self.path / LAST} is whole, as it was saved last."
                remedy += f", then: minires train --resume {shlex.quote(str(self.path))}"
            raise StorageError(f"train: cannot write {self.path / name}: {why}.{kept} The way out: {remedy}") from error

    def write_text(self, name: str, text: str) -> None:
        """Write one whole file of the folder."""
        with self.writing(name), write_atomically(self.path / name, "w") as file:
            file.write(text)

    def add_epoch(self, row: dict[str, Any]) -> None:
        """Append one epoch to metrics.jsonl and rewrite results.csv (small, and whole at every moment)."""
        self.rows.append(row)
        for watch in self.watchers:
            watch(row)
        with self.writing("metrics.jsonl"), open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        self._write_table()

    def _write_table(self) -> None:
        table = io.StringIO()
        columns = list(dict.fromkeys(key for r in self.rows for key in r))
        writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in r.items()} for r in self.rows)
        self.write_text("results.csv", table.getvalue())

    def log(self, line: str) -> None:
        """Append a line to log.txt."""
        with self.writing("log.txt"), open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")


class Onlooker(RunFolder):
    """The folder of a run as the ranks see it that write nothing: they know the rows, and that is all."""

    def write_text(self, name: str, text: str) -> None:
        """Rank 0 writes it."""

    def log(self, line: str) -> None:
        """Rank 0 writes it."""

    def add_epoch(self, row: dict[str, Any]) -> None:
        """Remember the row; rank 0 writes it."""
        self.rows.append(row)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(json_safe(row)) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl so far; a last line that a crash cut short is left out."""
    rows = []
    try:
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint meant by a run folder (best.safetensors, an older run's best.ckpt, last.ckpt) or by a file's name.

    Raises:
        CheckpointError: nothing there; the message lists the runs beside it.
    """
    path = Path(path)
    if path.is_dir():
        for name in (BEST, "best.ckpt", LAST):
            if (path / name).is_file():
                return path / name
        inside = sorted(p.parent.name for p in path.glob("*/*.ckpt"))
        hint = f"; it holds the runs {', '.join(dict.fromkeys(inside))}: name one of them" if inside else ""
        raise CheckpointError(f"checkpoint: {path} has no {BEST} or {LAST}{hint}")
    if path.is_file():
        return path
    beside = sorted({str(p.parent) for p in Path("runs").glob("*/*.ckpt")})
    hint = f". Runs here: {', '.join(beside)}" if beside else ". `minires train` makes one"
    raise CheckpointError(f"checkpoint: there is no file or folder {path}{hint}")


def environment() -> dict[str, Any]:
    """What a figure depends on beside the settings: versions, machine, command."""
    return {
        "minires": minires.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        **{
            name: value
            for name, value in runtime_facts().items()
            if name in ("kernels", "workers", "ranks", "linear_algebra")
        },
        "threads": {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS") or k.startswith("MINIRES_")},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def runtime_facts() -> dict[str, Any]:
    """What the last bits of a run depend on beside its settings: who computes, on how many threads, on what."""
    kernels = current_kernels()
    report = getattr(kernels, "report", None)
    return {
        "kernels": kernels.__name__.rpartition(".")[2],
        "workers": report()["threads"] if report is not None else 1,
        "linear_algebra": linear_algebra_threads(),
        "ranks": current().size,
        "cpu": cpu_name(),
        "numpy": np.__version__,
    }


def linear_algebra_threads() -> int | None:
    """Threads of the library under NumPy's matrix products; None where nothing here can tell."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    import threadpoolctl

    return max(
        (pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"), default=None
    )


def cpu_name() -> str:
    """The processor, as its maker calls it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores that this process may use: a container or taskset can give fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_advice() -> str:
    """What to do if other programs keep the cores busy; empty if they do not.

    Threads of the linear algebra wait for one another by spinning. Where they get no core of their own, a step takes many
    times longer than with one thread: 25 s against 1.3 s, measured with ResNet-20 at a load of 4 on two cores.
    """
    limited = any(os.environ.get(name) for name in ("MINIRES_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"))
    if limited or not hasattr(os, "getloadavg"):
        return ""
    load, cores = os.getloadavg()[0], available_cores()
    if cores == 1 or load < 0.75 * cores:
        return ""
    return f"other programs keep this machine busy (load {load:.1f} on {cores} cores); MINIRES_THREADS=1 is then much faster"


def json_safe(value: Any) -> Any:
    """NaN and infinities become null: JSON has no word for them, and other programs refuse Python's."""
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.ndarray):
        return json_safe(value.tolist())
    return value
