"""The README is true: its code runs, its links and files exist, its commands are those of the program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from minires.cli import main as cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_run_and_learn() -> None:
    (code,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", README, re.S)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout.split()[-1]) < 1.5


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_named_files_exist() -> None:
    named = set(re.findall(r"`((?:minires|kernels|tests|examples|autograd|ops)/[\w./]+\.py)`", README))
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "minires" / name).exists(), name


def test_the_map_names_rooms_that_are_there() -> None:
    block = README.split("## The map of the house")[1].split("```")[1]
    for room in re.findall(r"^ {2}([\w/ ]+?)/ ", block, re.M):
        for name in room.split("/ "):
            assert (ROOT / "minires" / name.strip()).exists() or (ROOT / "kernels" / name.strip()).exists(), name


def test_commands_are_verbs_of_the_program() -> None:
    verbs = {name for verb in cli.VERBS for name in verb.NAMES}
    used = set(re.findall(r"^minires ([\w-]+)", README, re.M)) | set(re.findall(r"bin/minires ([\w-]+)", README))
    assert used
    assert used <= verbs


def test_the_two_commands_of_ci_are_marked() -> None:
    for name in ("train", "test"):
        assert re.search(rf"<!-- command: {name} -->\n```sh\npython3 -m venv ", README)
