"""write_atomically: the old file or the new one, never a mixture."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minires.io import files
from minires.io.files import write_atomically
from minires.io.safetensors import load_file


def test_write_atomically_replaces_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old and longer")
    with write_atomically(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_write_atomically_keeps_the_old_file_when_writing_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), write_atomically(path) as file:
        file.write(b"half of the ne")
        file.flush()
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"], "a temporary file was left behind"


def test_write_atomically_keeps_the_old_file_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), write_atomically(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_write_atomically_shows_nothing_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with write_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.exists()


def test_write_atomically_syncs_the_bytes_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def note_replace(source: str, target: str) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", note_sync)
    monkeypatch.setattr(files.os, "replace", note_replace)
    with write_atomically(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert events == ["file", "rename", "folder"]


def test_write_atomically_follows_a_link_and_keeps_permissions(tmp_path: Path) -> None:
    path, link = tmp_path / "a.bin", tmp_path / "link.bin"
    path.write_bytes(b"old")
    path.chmod(0o600)
    link.symlink_to(path)
    with write_atomically(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_write_atomically_text_is_utf8_with_newlines_as_given(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "a.txt", "w") as file:
        file.write("é\r\nß\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\nß\n".encode()


def test_write_atomically_refuses_other_modes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"write_atomically: mode must be 'wb' or 'w', got 'ab'"):
        write_atomically(tmp_path / "a", "ab").__enter__()


WRITER = """
import resource, signal, sys
import numpy as np
from minires.io.safetensors import save_file
path, limit = sys.argv[1], int(sys.argv[2])
if limit:  # as a full disk: the write fails when so many bytes are there
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
print("ready", flush=True)
while True:
    save_file({"a": np.ones(500_000), "b": np.zeros(500_000)}, path)
    print("written", flush=True)
    if limit:
        break
"""


def writer(path: Path, limit: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).resolve().parents[2])},
    )


@pytest.mark.skipif(os.name != "posix", reason="limits of a process are POSIX's")
def test_save_file_keeps_the_older_file_where_no_more_bytes_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"older")
    out, errors = writer(path, 3_000_000).communicate()
    assert "written" not in out
    assert "OSError" in errors
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_save_file_leaves_a_whole_file_whenever_it_is_killed(tmp_path: Path) -> None:
    """Killed without a chance to clean up, at several moments of its writing: the file is the older one or a new one."""
    path = tmp_path / "a.safetensors"
    for number in range(6):
        path.write_bytes(b"older")
        process = writer(path, 0)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if number % 2:
            process.stdout.readline()  # one is written; it is killed while it writes the next
        time.sleep(0.002 * number)
        process.kill()
        process.communicate()
        if path.read_bytes() != b"older":
            back = load_file(path)
            assert back["a"].sum() == 500_000
            assert back["b"].shape == (500_000,)
