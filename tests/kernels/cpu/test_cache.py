"""The cache of compiled kernels: what it survives, and what it refuses."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minires.kernels.cpu import cache as module
from minires.kernels.cpu.cache import Cache

ROOT = Path(__file__).resolve().parents[3]
# Runs two kernels and says what it compiled.
SCRIPT = """
import sys
import numpy as np
from minires.kernels.cpu import tasks, ahead
from minires.kernels.cpu.layout import Blocked
ahead._started = True
x = np.arange(2 * 20 * 3 * 5, dtype=np.float32).reshape(2, 20, 3, 5)
assert (Blocked.from_plain(x).to_plain() == x).all()
print(tasks.cache.stored, tasks.cache.misses, "numba" in sys.modules)
"""


def start(cache_home: Path, **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache_home), "PYTHONPATH": str(ROOT), **more}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(cache_home: Path, **more: str) -> tuple[list[str], str]:
    process = start(cache_home, **more)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.split(), err


def test_what_is_stored_is_loaded_by_another(tmp_path):
    first = Cache(tmp_path)
    assert first.load("k") is None
    first.store("k", b"code")
    second = Cache(tmp_path)
    assert second.load("k") == b"code"
    assert (first.misses, first.stored, second.hits, len(second)) == (1, 1, 1, 1)
    assert second.disk_bytes() > 4
    assert second.folder is not None and second.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["empty", "truncated", "one bit", "longer", "another file"])
def test_a_damaged_file_is_a_miss_and_is_replaced(damage, tmp_path):
    cache = Cache(tmp_path)
    cache.store("k", b"code" * 100)
    assert cache.folder is not None
    file = cache.folder / "k.o"
    whole = file.read_bytes()
    flipped = whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]
    file.write_bytes(
        {
            "empty": b"",
            "truncated": whole[:-1],
            "one bit": flipped,
            "longer": whole + b"x",
            "another file": b"\x7fELF" + whole,
        }[damage]
    )
    again = Cache(tmp_path)
    assert again.load("k") is None
    again.store("k", b"code" * 100)
    assert Cache(tmp_path).load("k") == b"code" * 100


def test_a_full_disk_leaves_the_kernels_in_memory(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    assert cache.folder is not None

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.store("k", b"code")
    assert cache.load("k") == b"code" and cache.stored == 0
    assert list(cache.folder.iterdir()) == []  # and no remains


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path):
    good = Cache(tmp_path)
    good.store("k", b"code")
    assert good.folder is not None
    good.folder.chmod(0o777)
    assert Cache(tmp_path).folder is None
    good.folder.chmod(0o700)
    real = good.folder.rename(tmp_path / "elsewhere")
    good.folder.symlink_to(real)  # nor one that is another's by a link
    assert Cache(tmp_path).folder is None


def test_without_a_home_a_private_temporary_folder_serves(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = Cache().folder
    assert folder is not None and folder.parent == tmp_path / f"minires-{os.getuid()}"
    folder.parent.chmod(0o777)  # somebody else could have made it, and could exchange what is in it
    assert Cache().folder is None


def test_without_any_folder_memory_serves(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = Cache(blocked)
    cache.store("k", b"code")
    assert cache.folder is None and cache.load("k") == b"code"
    assert (len(cache), cache.disk_bytes(), cache.writable) == (0, 0, False)


def test_a_relative_cache_home_is_ignored(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert module.user_cache() == Path.home() / ".cache"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert module.user_cache() == Path.home() / "Library" / "Caches"


def test_what_nobody_read_for_a_month_is_removed(tmp_path):
    cache = Cache(tmp_path)
    for key in ("old", "new"):
        cache.store(key, b"code")
    assert cache.folder is not None
    other = tmp_path / "kernels-of-another-version"
    other.mkdir(mode=0o700)
    (other / "k.o").write_bytes(b"")
    mine = tmp_path / "kernels-with-notes"
    mine.mkdir(mode=0o700)
    (mine / "notes.txt").write_text("mine")
    month = time.time() - 31 * 24 * 3600
    for file in (cache.folder / "old.o", other / "k.o", mine / "notes.txt"):
        os.utime(file, (month, month))
    module.remove_old(cache.folder)
    assert not other.exists() and (mine / "notes.txt").exists()
    assert [file.name for file in cache.folder.iterdir()] == ["new.o"]


def test_reading_keeps_a_kernel_from_growing_old(tmp_path):
    cache = Cache(tmp_path)
    cache.store("k", b"code")
    assert cache.folder is not None
    long_ago = time.time() - 29 * 24 * 3600
    os.utime(cache.folder / "k.o", (long_ago, long_ago))
    assert Cache(tmp_path).load("k") == b"code"
    assert time.time() - (cache.folder / "k.o").stat().st_mtime < 3600


def test_the_version_follows_the_processor(monkeypatch):
    before = module.version()
    assert module.version() == before
    here = module.machine()
    monkeypatch.setattr(module, "machine", lambda: type(here)("other", here.features, "sse", 1, 1))
    assert module.version() != before


def test_a_tasks_digest_covers_the_modules_it_is_made_of(monkeypatch):
    source = module._source
    before = {name: module.source_digest(f"minires.kernels.cpu.{name}") for name in ("product", "pixels")}
    changed = lambda name: source(name) + (b"#" if name == "microkernel" else b"")  # noqa: E731
    monkeypatch.setattr(module, "_source", changed)
    assert module.source_digest("minires.kernels.cpu.product") != before["product"]
    assert module.source_digest("minires.kernels.cpu.pixels") == before["pixels"]


def test_a_second_process_loads_and_never_imports_numba(tmp_path):
    (stored, misses, numba), said = run(tmp_path)
    assert (stored, misses, numba) == ("3", "3", "True") and "compiling CPU kernels" in said
    assert said.count("\n") == 1  # one line, however many kernels
    (stored, misses, numba), said = run(tmp_path)
    assert (stored, misses, numba, said) == ("0", "0", "False", "")


@pytest.mark.slow
def test_eight_processes_may_start_on_an_empty_folder(tmp_path):
    processes = [start(tmp_path) for _ in range(8)]
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert run(tmp_path)[0] == ["0", "0", "False"]
    assert not list(tmp_path.glob("minires/kernels-*/.new-*"))
