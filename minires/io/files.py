"""Writing files so that a crash, a full disk or a Ctrl-C never leaves half of one.

The new bytes go into a temporary file in the same folder; only when they are all on the disk does one rename put them
in place of the old file. A reader sees the old file or the new one, never a mixture.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["remove_leftovers", "write_atomically"]

_TEMPORARY = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success it takes the place of `path`, on any error nothing changes.

    Args:
        path: the file to write. Its folder must exist. A symbolic link is followed: what it points at is replaced.
        mode: "wb" for bytes, "w" for text (UTF-8, newlines as given).

    Yields:
        The open file. It can be read back and seeked, which zip archives need.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full. `path` is then as it was before.

    Example:
        >>> with write_atomically("runs/a/last.ckpt") as file:
        ...     file.write(data)
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"write_atomically: mode must be 'wb' or 'w', got {mode!r}")
    target = Path(os.path.realpath(path))
    # Same folder, hence the same file system: os.replace is atomic only there.
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, "x+b" if "b" in mode else "x+", **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())  # the bytes must be on the disk before the name points at them
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, target.stat().st_mode & 0o7777)  # an older file keeps its permissions
        os.replace(temporary, target)
    except BaseException:  # KeyboardInterrupt too: a Ctrl-C during a save must not leave litter
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def remove_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Remove the temporary files that killed processes left in a folder (SIGKILL lets nobody clean up).

    Only for a folder in which nobody else writes: another's temporary file looks the same.

    Returns:
        The names of the files that were being written.
    """
    found = []
    for entry in Path(folder).iterdir():
        match = _TEMPORARY.fullmatch(entry.name)
        if match:
            entry.unlink(missing_ok=True)
            found.append(match[1])
    return sorted(found)


def _sync_folder(folder: Path) -> None:
    """Ask the file system to remember the rename itself; where folders cannot be synced (Windows), do nothing."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
