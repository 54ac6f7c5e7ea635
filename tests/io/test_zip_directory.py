"""Zips are opened only if their table of members is one that a checkpoint can have."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile

import pytest

from minires.io.zip_directory import MAX_DIRECTORY, open_zip


def table(count: int, name: bytes = b"a", claimed: int | None = None) -> bytes:
    """The directory of a zip without members' data: each of its entries points at the beginning of the file."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0)
    size = count * len(entry + name) if claimed is None else claimed
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, size, 0, 0)
    return (entry + name) * count + end


def test_open_zip_opens_what_zipfile_wrote_and_leaves_the_file_open() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr("a", b"x" * (MAX_DIRECTORY + 1))
    with open_zip(file) as archive:
        assert archive.read("a") == b"x" * (MAX_DIRECTORY + 1)
    assert not file.closed


def test_open_zip_reads_no_table_larger_than_its_limit() -> None:
    honest = 30_000
    assert len(open_zip(io.BytesIO(table(honest))).infolist()) == honest
    content = table(80_000)
    tracemalloc.start()
    try:
        with pytest.raises(zipfile.BadZipFile, match="its table of members claims 3,760,000 bytes"):
            open_zip(io.BytesIO(content))
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_open_zip_allows_more_in_a_large_file() -> None:
    content = b"\0" * 10_000_000 + table(1)
    assert len(open_zip(io.BytesIO(content)).infolist()) == 1


def test_open_zip_refuses_members_outside_of_the_file() -> None:
    content = bytearray(b"\0" * 30 + table(1))
    content[-22 + 16 :][:4] = b""
    end = len(content) - 22
    content[end + 16 : end + 20] = (60).to_bytes(4, "little")  # where the table is said to begin: 30 bytes too far
    with pytest.raises(zipfile.BadZipFile, match="begins outside of the file"):
        open_zip(io.BytesIO(bytes(content)))


def test_open_zip_refuses_what_is_no_zip() -> None:
    with pytest.raises(zipfile.BadZipFile):
        open_zip(io.BytesIO(b"no zip at all" * 10))
