"""write_atomically: the old file or the new one, never a mixture."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from minires.io import files
from minires.io.files import write_atomically


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
