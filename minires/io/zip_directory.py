"""Zip files that others made: opened only if their table of members is one that a checkpoint can have.

`zipfile` reads the whole table, at the end of the file, before anything can be looked at, and makes some 430 bytes of
every 50.
"""

from __future__ import annotations

import os
import zipfile
from typing import IO, Any

__all__ = ["open_zip"]

MAX_DIRECTORY = 3_000_000  # bytes: 40,000 members as torch names them, and 25 MB of memory


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """A ZipFile over an open file, which stays open when the ZipFile is closed.

    Args:
        file: readable and seekable.

    Raises:
        BadZipFile: it is no zip, a damaged one, one whose table of members is larger than 3 MB and a thousandth of the file,
            or one with members outside of the file, where reading ends in an OSError.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    limited = _Limited(file, MAX_DIRECTORY + size // 1000)
    archive = zipfile.ZipFile(limited)
    for member in archive.infolist():
        if not 0 <= member.header_offset < size:
            raise zipfile.BadZipFile("a member begins outside of the file")
    limited.limit = None  # members may be as large as they are
    return archive


class _Limited:
    """A file for zipfile, which refuses to read much at once until its limit is taken off."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file = file
        self.limit: int | None = limit

    def read(self, count: int = -1) -> bytes:
        if self.limit is not None and count > self.limit:
            raise zipfile.BadZipFile(f"its table of members claims {count:,} bytes")
        return self._file.read(count)

    def __getattr__(self, name: str) -> Any:  # seek, tell, seekable
        return getattr(self._file, name)
