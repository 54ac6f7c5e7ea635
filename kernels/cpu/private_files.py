"""Small files of this user's own: written whole or not at all, and read only as they were written.

What lies in them is trusted (machine code is run as it is read), hence: their folder is private and ours, or it is not used; a
file begins with a checksum of the rest, and one that does not match is as good as absent; files appear by renaming.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
import time
from pathlib import Path

_MAGIC = b"minires kernel 1\n"
DAY = 24 * 3600  # seconds


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


def read_checked(path: Path) -> bytes | None:
    """What `write_checked` wrote; None where there is nothing, or something that is not whole."""
    try:
        with path.open("rb") as file:
            data = file.read()
            age = time.time() - os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    head, code = data[: len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
    if head != _MAGIC + hashlib.sha256(code).digest():
        return None
    if age > DAY:
        with contextlib.suppress(OSError):
            os.utime(path)  # it is in use
    return code


def write_checked(path: Path, code: bytes) -> bool:
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
