"""The folder of one run: everything that says how it went and how to do it again.

runs/digits-resnet8/
    config.toml      every setting (minires train --config FILE repeats the run)
    env.json         versions, machine, command
    metrics.jsonl    one JSON object an epoch, written as it ends
    results.csv      the same as a table
    best.ckpt        the epoch with the best validation accuracy
    last.ckpt        the last epoch
    curves.png       loss, accuracy and learning rate over the epochs
    result.json      the final figures
    log.txt          what the terminal showed, without the bars
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import minires
from minires.errors import CheckpointError, ConfigError
from minires.io.files import write_atomically
from minires.train.config import TrainConfig, to_toml

__all__ = ["RunFolder", "busy_advice", "environment", "find_checkpoint"]


class RunFolder:
    """Writes the files of one run. Each is whole at every moment, also if the machine stops between two lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = read_metrics(path)

    @classmethod
    def create(cls, config: TrainConfig) -> RunFolder:
        """Make a new folder `run_dir/name`; where the name is taken, `name-2`, `name-3`, ... An older run is never
        touched.
        """
        name = config.name or re.sub(r"[^A-Za-z0-9._-]+", "-", f"{config.data}-{config.model}")
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
            raise ConfigError(f"run_dir: cannot make a folder in {parent}: {error.strerror}") from error
        folder = cls(path)
        folder.write_text("config.toml", to_toml(config))
        folder.write_text("env.json", json.dumps(environment(), indent=2) + "\n")
        return folder

    def write_text(self, name: str, text: str) -> None:
        """Write one whole file of the folder."""
        with write_atomically(self.path / name, "w") as file:
            file.write(text)

    def add_epoch(self, row: dict[str, Any]) -> None:
        """Append one epoch to metrics.jsonl and rewrite results.csv (small, and whole at every moment)."""
        self.rows.append(row)
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(json_safe(row)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._write_table()

    def keep_rows(self, count: int) -> None:
        """Forget what was written after the first `count` epochs (a resumed run does those epochs again)."""
        self.rows = self.rows[:count]
        self.write_text("metrics.jsonl", "".join(json.dumps(json_safe(row)) + "\n" for row in self.rows))
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
        with open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")


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
    """The checkpoint meant by a run folder (best.ckpt, else last.ckpt) or by a file's own name.

    Raises:
        CheckpointError: nothing there; the message lists the runs beside it.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("best.ckpt", "last.ckpt"):
            if (path / name).is_file():
                return path / name
        inside = sorted(p.parent.name for p in path.glob("*/*.ckpt"))
        hint = f"; it holds the runs {', '.join(dict.fromkeys(inside))}: name one of them" if inside else ""
        raise CheckpointError(f"checkpoint: {path} has no best.ckpt or last.ckpt{hint}")
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
        "cores": available_cores(),
        "threads": {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS") or k.startswith("MINIRES_")},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


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
