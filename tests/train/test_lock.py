"""One process at a time in a run's folder, with flock and without it; real processes hold it in tests/cli/test_faults.py."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from minires.train import lock as module
from minires.train.lock import NAME, RunBusyError, RunLock

WAYS = ["flock", "no flock", "no fcntl"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test on a file system with flock, on one without, and on a system that has no such call."""
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    if request.param == "flock":
        pytest.importorskip("fcntl", reason="this system has no flock")
    elif request.param == "no flock":
        pytest.importorskip("fcntl", reason="this system has no flock")

        def refuse(*args: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(module.fcntl, "flock", refuse)
    else:
        monkeypatch.setattr(module, "fcntl", None)
    return request.param


def words(folder: Path) -> dict[str, Any]:
    return json.loads((folder / NAME).read_text())


def leave(folder: Path, **changes: Any) -> None:
    """The lock as a process left it that was killed; by default one of this host that is no more."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = {"pid": gone.pid, "host": socket.gethostname(), "start": "then", "since": "2026-01-02", **changes}
    (folder / NAME).write_text(json.dumps(left))


def test_lock_says_who_holds_it_and_lets_nobody_else_in(way: str, tmp_path: Path) -> None:
    with RunLock(tmp_path) as held:
        assert held.stale is None
        assert (words(tmp_path)["pid"], words(tmp_path)["host"]) == (os.getpid(), socket.gethostname())
        message = rf"belongs to process {os.getpid()} on {socket.gethostname()}, .*: wait for it, or end it$"
        for _ in range(2):
            with pytest.raises(RunBusyError, match=message):
                RunLock(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with RunLock(tmp_path) as again:
        assert again.stale is None
    again.release()  # twice is as good as once


def test_lock_of_a_process_that_was_killed_is_taken_over(way: str, tmp_path: Path) -> None:
    leave(tmp_path)
    before = words(tmp_path)
    with RunLock(tmp_path) as held:
        assert held.stale == before
        assert words(tmp_path)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_number_that_another_process_has_by_now_is_taken_over(way: str, tmp_path: Path) -> None:
    if module._start_time(os.getpid()) is None:
        pytest.skip("this system does not say when a process began")
    leave(tmp_path, pid=os.getpid(), start="another boot/77")
    with RunLock(tmp_path) as held:
        assert held.stale is not None


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_lock_that_names_nobody_is_taken_over(way: str, tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with RunLock(tmp_path) as held:
        assert held.stale is None
        assert words(tmp_path)["pid"] == os.getpid()


def test_lock_of_another_host_is_left_alone_where_only_its_file_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "fcntl", None)
    leave(tmp_path, host="elsewhere", pid=7)
    message = r"belongs to process 7 on elsewhere, which trains in it since 2026-01-02: .*has gone, remove .*run\.lock"
    with pytest.raises(RunBusyError, match=message):
        RunLock(tmp_path)
    assert words(tmp_path)["host"] == "elsewhere"


def test_lock_that_another_took_over_in_the_meantime_is_put_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two find the same stale lock; the slower one must not throw out the faster one's new lock."""
    monkeypatch.setattr(module, "fcntl", None)
    leave(tmp_path)
    rename = os.rename

    def slower(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        leave(tmp_path, pid=os.getppid(), start=module._start_time(os.getppid()))  # the faster one's
        rename(source, target)

    monkeypatch.setattr(os, "rename", slower)
    with pytest.raises(RunBusyError, match=f"belongs to process {os.getppid()}"):
        RunLock(tmp_path)
    assert words(tmp_path)["pid"] == os.getppid()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_lock_goes_to_one_of_many_who_ask_at_once(way: str, tmp_path: Path) -> None:
    start, got, refused = threading.Barrier(8), [], []

    def ask() -> None:
        start.wait()
        try:
            got.append(RunLock(tmp_path))
        except RunBusyError as error:
            refused.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    got[0].release()


def test_lock_in_a_folder_that_turned_read_only_names_nobody_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("fcntl", reason="this system has no flock")
    held = RunLock(tmp_path)

    def refuse(self: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        held.release()
    assert (tmp_path / NAME).read_bytes() == b""
    with RunLock(tmp_path) as again:
        assert again.stale is None
