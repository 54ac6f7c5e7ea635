"""The cache of compiled kernels: machine code that one process made is read by all that follow.

One folder a compiler and processor, and in it one small file a kernel,

    ~/.cache/minires/kernels-<hash of versions and processor>/<hash of the kernel and the sources it is made of>.o

so nothing in it is ever out of date: what changed has another name. Machine code is run as it is read, hence the precautions of
private_files.py; files appear by renaming, so any number of processes may start on an empty folder.

No failure here is an error. A folder that cannot be made, a full disk, a truncated file cost time: kernels are compiled
again, and kept in memory.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minires.kernels.cpu.machine import compiler_versions, machine
from minires.kernels.cpu.private_files import DAY, is_private, make_private, read_checked, user_cache, write_checked

_OLD = 30 * DAY  # seconds after which what nobody read goes
# What of Numba's own environment changes the code.
_NUMBA_SETTINGS = (
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "ENABLE_AVX",
    "BOUNDSCHECK",
    "DEBUGINFO",
    "FULL_TRACEBACKS",
)


def version() -> str:
    """The hash of what shapes every kernel's code beside its sources: compiler and processor."""
    here = machine()
    settings = [os.environ.get(f"NUMBA_{name}", "") for name in _NUMBA_SETTINGS]
    words = [sys.version, sys.platform, here.cpu, here.features, *compiler_versions(), *settings]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def source_digest(module: str) -> str:
    """The hash of a module's source and of those of this set that it imports: of all that a task in it is made of."""
    wanted, digest = {module.removeprefix(_PACKAGE), "machine_code"}, hashlib.sha256()
    seen: set[str] = set()
    while wanted - seen:
        name = min(wanted - seen)
        seen.add(name)
        wanted |= _imports(name)
    for name in sorted(seen):
        digest.update(_source(name))
    return digest.hexdigest()


_PACKAGE = __name__.rpartition(".")[0] + "."
# They decide where and when a task runs, not what it is; changing them keeps the compiled kernels.
_NOT_IN_CODE = {"ahead", "cache", "elf", "lazy", "machine", "memory", "private_files", "tasks", "threads"}
_IMPORT = re.compile(rb"^from minires\.kernels\.cpu(?:\.(\w+))? import ([\w, ]*)", re.MULTILINE)


@functools.cache
def _source(name: str) -> bytes:
    path = Path(__file__).with_name(f"{name}.py")
    return path.read_bytes() if path.exists() else b""


@functools.cache
def _imports(name: str) -> set[str]:
    found: set[str] = set()
    for module, names in _IMPORT.findall(_source(name)):
        found |= {module.decode()} if module else {word.strip() for word in names.decode().split(",")}
    return found - _NOT_IN_CODE


class Cache:
    """Compiled kernels by key, on disk where that works and in memory in any case.

    Args:
        folder: the folder, which is made; default: the user's, or a private one for temporary files where that fails.

    Attributes:
        folder: where files are read and written, or None: memory only.
        hits, misses, stored: how often a kernel was found, was not, was written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._wanted = folder
        self._found = False
        self._folder: Path | None = None
        self._memory: dict[str, bytes] = {}
        self.hits = self.misses = self.stored = 0

    @property
    def folder(self) -> Path | None:
        if not self._found:
            self._found = True
            self._folder = self._choose()
        return self._folder

    def _choose(self) -> Path | None:
        name = f"kernels-{version()}"
        candidates: list[Callable[[], Path]] = [lambda: user_cache() / "minires" / name]
        if self._wanted is not None:
            wanted = self._wanted
            candidates = [lambda: wanted / name]
        elif hasattr(os, "getuid"):
            candidates.append(lambda: Path(tempfile.gettempdir()) / f"minires-{os.getuid()}" / name)
        for candidate in candidates:
            try:
                folder = candidate()
            except (RuntimeError, OSError):
                continue
            if folder.parent.name.startswith("minires-") and not make_private(folder.parent):
                continue  # anybody may make folders among the temporary ones
            if make_private(folder) or (is_private(folder) and any(folder.glob("*.o"))):  # read-only, but filled
                return folder
        return None

    def load(self, key: str) -> bytes | None:
        """The machine code under `key`; None if there is none, or none that is whole."""
        code = self._memory.get(key)
        if code is None and self.folder is not None:
            code = read_checked(self.folder / f"{key}.o")
        if code is None:
            self.misses += 1
        else:
            self.hits += 1
        return code

    def store(self, key: str, code: bytes) -> None:
        """Keep `code` under `key`, on disk if that can be."""
        self._memory[key] = code
        if self.folder is None:
            return
        if self.stored == 0:
            remove_old(self.folder)
        if write_checked(self.folder / f"{key}.o", code):
            self.stored += 1

    @property
    def writable(self) -> bool:
        """Whether kernels can be put on disk."""
        return self.folder is not None and os.access(self.folder, os.W_OK | os.X_OK)

    def __len__(self) -> int:
        """How many kernels lie on disk."""
        return 0 if self.folder is None else sum(1 for _ in self.folder.glob("*.o"))

    def disk_bytes(self) -> int:
        """Bytes of the kernels on disk."""
        return 0 if self.folder is None else sum(file.stat().st_size for file in self.folder.glob("*.o"))


def remove_old(folder: Path, now: float | None = None) -> None:
    """Remove kernels that nobody read for 30 days, here and in the folders of other versions, and those folders."""
    now = time.time() if now is None else now
    for each in folder.parent.glob("kernels-*"):
        if not is_private(each):
            continue
        with contextlib.suppress(OSError):
            for file in [*each.glob("*.o"), *each.glob(".new-*")]:
                if now - file.stat().st_mtime > _OLD:
                    file.unlink(missing_ok=True)
            if each != folder:
                each.rmdir()  # fails unless it is empty


cache = Cache()
