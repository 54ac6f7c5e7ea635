"""The cache of compiled kernels: machine code that one process made is read by all that follow.

One folder a compiler and processor, and in it one small file a kernel,

    ~/.cache/minires/kernels-<hash of versions and processor>/<hash of the kernel and the sources it is made of>.o

so nothing in it is ever out of date: what changed has another name. Machine code is run as it is read, hence three
precautions: the folder is private (mode 0700) and ours, or it is not used; a file begins with a checksum of the rest, and
one that does not match is as good as absent; files appear by renaming, whole or not at all, so any number of processes may
start on an empty folder.

No failure here is an error. A folder that cannot be made, a full disk, a truncated file cost time: kernels are compiled
again, and kept in memory.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from minires.kernels.cpu.machine import machine

_MAGIC = b"minires kernel 1\n"
_DAY = 24 * 3600
_OLD = 30 * _DAY  # seconds after which what nobody read goes
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
    words = [sys.version, sys.platform, here.cpu, here.features, *_compiler_versions(), *settings]
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
_NOT_IN_CODE = {"ahead", "cache", "lazy", "machine", "memory", "tasks", "threads"}
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


def _compiler_versions() -> Iterator[str]:
    """Numba's and llvmlite's version files, read and not imported: the import costs more than loading all kernels."""
    for name in ("numba", "llvmlite"):
        found = importlib.util.find_spec(name)
        for folder in found.submodule_search_locations or () if found else ():
            with contextlib.suppress(OSError):
                yield (Path(folder) / "_version.py").read_text()


def user_cache() -> Path:
    """Where this system keeps a user's caches.

    Raises:
        RuntimeError: the user has no home.
    """
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given) if os.path.isabs(given) else Path.home() / ".cache"


def make_private(folder: Path) -> bool:
    """Make `folder`, or find it; whether it is ours alone and can be written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return is_private(folder) and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def is_private(folder: Path) -> bool:
    """Whether `folder` is a real folder that belongs to this user and that nobody else may write to."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        return False
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)


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
            code = _read(self.folder / f"{key}.o")
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
        if _write(self.folder / f"{key}.o", code):
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


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read()
            age = time.time() - os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    head, code = data[: len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
    if head != _MAGIC + hashlib.sha256(code).digest():
        return None
    if age > _DAY:
        with contextlib.suppress(OSError):
            os.utime(path)  # it is in use
    return code


def _write(path: Path, code: bytes) -> bool:
    """Write a file that is there whole or not at all; False where that cannot be."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    except OSError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(code).digest() + code)
        os.replace(temporary, path)
        return True
    except OSError:  # the disk is full, or (Windows) another process reads the file, which is the same one
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        return False


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
