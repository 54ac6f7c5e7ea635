"""Running the real command in a process of its own, and one trained run that many tests look at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**changes: str) -> dict[str, str]:
    """The present environment, with this checkout importable from any folder and no terminal width of our own."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "MINIRES_DEBUG", "MINIRES_DATA")}
    return {**kept, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **changes}


@pytest.fixture(scope="session")
def minires() -> Run:
    """`minires("train", "--epochs", "1", cwd=folder)` -> the finished process with its stdout and stderr."""

    def run(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "minires", *args],
            cwd=cwd,
            env=environment(**env),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def trained(minires: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small, quick run lies: runs/digits-resnet8 (two epochs on 300 digits)."""
    folder = tmp_path_factory.mktemp("trained")
    done = minires("train", "--epochs", "2", "--limit", "300", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder
