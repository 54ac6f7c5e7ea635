"""Running code in a process of its own: under minires with nothing but NumPy installed, or under the real torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).resolve().parent / "scripts"

# Nothing is installed but NumPy and minires; Python's own library and the scripts' folder are there.
BLOCKER = """
import importlib.machinery, os, sys
class OnlyNumPy(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        first = name.partition('.')[0]
        known = first in sys.stdlib_module_names or first in ('numpy', 'minires')
        if known or os.path.exists(os.path.join(sys.path[0], first + '.py')):
            return super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = OnlyNumPy
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, '__module__', '').startswith('__editable__')]
"""
RUN = "from minires.compat.run_torch import run\nsys.exit(run(sys.argv[1], sys.argv[2:]))\n"
# One process for all scripts: importing torch takes longer than running them.
UNDER_TORCH = """
import contextlib, io, json, runpy, sys, warnings
import torch
torch.set_num_threads(1)
warnings.simplefilter('ignore')  # torch's own about its older names
sys.path.insert(0, sys.argv[1])
outputs = {}
for script in sys.argv[2:]:
    torch.set_default_dtype(torch.float32)
    sys.argv = [script]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        runpy.run_path(script, run_name='__main__')
    outputs[script] = text.getvalue()
print(json.dumps(outputs))
"""


def environment(**changes: str) -> dict[str, str]:
    """The present one, with this checkout importable from any folder and one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", **changes}


def python(code: str, *args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -c code args`."""
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=cwd or ROOT,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=120,
    )


def without_torch(code: str, cwd: Path | None = None) -> str:
    """What `code` prints where nothing but NumPy is installed; it must succeed."""
    done = python(BLOCKER + code, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_script(script: Path | str, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A script under `minires.compat.run_torch`, where nothing but NumPy is installed."""
    path = SCRIPTS / script
    return python(BLOCKER + f"sys.path.insert(0, {str(path.parent)!r})\n" + RUN, str(path), *args, cwd=cwd)


def under_torch(scripts: list[str], cwd: Path) -> dict[str, str]:
    """What each script prints under the real torch."""
    paths = [str(SCRIPTS / name) for name in scripts]
    done = python(UNDER_TORCH, str(SCRIPTS), *paths, cwd=cwd, PYTHONWARNINGS="default")
    assert done.returncode == 0, done.stderr
    return {Path(path).name: text for path, text in json.loads(done.stdout.splitlines()[-1]).items()}
