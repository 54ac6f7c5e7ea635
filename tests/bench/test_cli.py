"""The command itself: usage, a whole run, and what is left behind when it is stopped."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minires.cli.main import main
from tests.cli.conftest import environment

TINY = ["--model", "resnet8", "--image-size", "16", "--threads", "1", "--against", "minires-reference"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["infer", "--against", "pytorch"], "unknown contender 'pytorch'"),
        (["train", "--against", "openvino"], "bench train: openvino does not do this; choose from"),
        (["infer", "--model", "resnet19"], "unknown model 'resnet19': did you mean"),
        (["infer", "--batch", "1,x"], "bench: --batch must be whole numbers from 1, for example 1,8,32; got 1,x"),
        (["ops", "--batch", "1,2"], "bench: --batch must be one whole number from 1; got 1,2"),
        (["infer", "--rounds", "0"], "bench: --rounds must be at least 1, got 0"),
        (["infer", "--image-size", "0"], "bench: --image-size must be at least 1, got 0"),
        (["grow", "--vary", "depth"], "unknown quantity to vary 'depth'"),
        (["suite", "--only", "alexnet"], "unknown goal 'alexnet'"),
        (["infer", "--roundz", "3"], "unknown option --roundz: did you mean --rounds"),
    ],
)
def test_cli_usage_errors_exit_2_before_anything_runs(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *args]) == 2
    assert message in capsys.readouterr().err


def test_cli_infer_prints_and_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert main(["bench", "infer", *TINY, "--batch", "2", "--rounds", "2", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "resnet8, 3x16x16, batch 2: inference" in out
    assert "1 threads each" in out
    assert "\nnext:\n" in out
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["complete"] is True
    (row,) = document["rows"]
    assert row["workload"]["batch"] == 2
    assert [r["name"] for r in row["results"]] == ["minires", "minires-reference"]
    assert all(len(r["timing"]["rounds"]) == 2 and r["error"] < 1e-6 for r in row["results"])


def test_cli_start_runs_whole_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert main(["bench", "start", *TINY, "--rounds", "1", "--json", str(file)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("minires-reference"))
    assert "e-0" in line
    assert line.count(" MB") == 2
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    ours, reference = row["results"]
    for result in (ours, reference):
        assert 0 < result["imported"] < result["timing"]["median"]
        if sys.platform == "linux":  # NumPy alone takes more than 20 MB; a process that holds a gigabyte is another
            assert 20e6 < result["memory"] < 1e9
    assert 20e6 < reference["installed"] <= ours["installed"]
    with_numba = importlib.util.find_spec("numba") is not None
    assert (reference["installed"] < ours["installed"]) == with_numba  # numba and what compiles it


def test_cli_folder_that_is_missing_is_an_error_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert main(["bench", "infer", *TINY, "--json", str(tmp_path / "no" / "f.json")]) == 3
    assert time.monotonic() - began < 2
    assert "no" in capsys.readouterr().err


def children(pid: int) -> set[int]:
    """Processes that `pid` started and that are there now (Linux)."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            found.add(int(entry.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in Linux's /proc")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_cli_stopped_leaves_no_process_behind(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "minires", "bench", "infer", *TINY, "--rounds", "100000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment(TMPDIR=str(tmp_path)),
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "minires-reference gets ready" in line:
                break
        deadline = time.monotonic() + 30
        while len(started := children(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(started) == 2
        process.send_signal(sent)
        rest = process.stderr.read()
        assert process.wait(timeout=30) == code
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.stderr.close()
    deadline = time.monotonic() + 10
    while any(map(alive, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, started))
    if sent == signal.SIGINT:
        assert rest.endswith("minires: interrupted\n")
        assert list(tmp_path.glob("minires-bench-*")) == []
