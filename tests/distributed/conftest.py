"""Running several ranks: `mpiexec -n N`, with one thread each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minires.bench.scaling import ScalingError, find_mpiexec
from tests.cli.conftest import environment

CHECKS = Path(__file__).resolve().parent / "checks.py"


def mpiexec() -> str:
    """The launcher that `minires bench scaling` takes too."""
    try:
        return find_mpiexec()
    except ScalingError:
        pytest.skip("mpiexec is not installed (pip install mpi4py mpich)")


def launch(ranks: int, *words: str, cwd: Path, **more: Any) -> subprocess.Popen[str]:
    """`mpiexec -n ranks python WORDS`, in a process group of its own."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    env = environment(**{"MINIRES_THREADS": "1", "OMP_NUM_THREADS": "1", **more})
    return subprocess.Popen(
        [mpiexec(), "-n", str(ranks), sys.executable, *words],
        cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str, str]:
    """Exit code, standard output and error; whoever takes longer is killed, ranks included, and the test fails."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        pytest.fail(f"still running after {seconds} s\n{out}\n{err}")
    return process.returncode, out, err


Check = Callable[..., None]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """`check("name", ranks=2)`: a function of checks.py on so many ranks; what it raises on any of them fails the test."""

    def run(name: str, ranks: int, **env: str) -> None:
        code, out, err = ended(launch(ranks, str(CHECKS), name, cwd=tmp_path, **env))
        assert code == 0, f"{out}\n{err}"
        assert out.count(f"{name} passed") == ranks

    return run
