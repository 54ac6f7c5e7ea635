"""Readers of the files that data sets come in: gzip, IDX, tar members and CIFAR's binary records. Bytes in, arrays out.

Every size is known or stated before it is read, so that a corrupt or hostile file costs no more memory than a good one,
and whatever is wrong with a file becomes a `DataError` that names it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minires.errors import DataError

Array = npt.NDArray[Any]

# The IDX type codes; every multi-byte number is big-endian.  Source: the MNIST page of LeCun, Cortes & Burges.
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CIFAR_PIXELS = 3 * 32 * 32


def read_bytes(path: Path, size: int, compressed: bool | None = None) -> bytes:
    """The contents of a file, decompressed if it is gzip: exactly `size` bytes.

    Args:
        compressed: None: where the name ends in .gz.

    Raises:
        DataError: not readable, not gzip, truncated, or another size.
    """
    if compressed is None:
        compressed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            content = file.read(size + 1)  # never more than is expected, whatever a compressed file expands to
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{path}: cannot be read ({error}); delete it and load again") from error
    if len(content) != size:
        got = f"more than {size}" if len(content) > size else str(len(content))
        raise DataError(f"{path}: needs {size} bytes of content, got {got}; delete it and load again")
    return content


def check_hash(content: bytes, sha256: str | None, where: object) -> None:
    """Compare a content's SHA-256 with the known one (None: not known, nothing is compared)."""
    got = hashlib.sha256(content).hexdigest()
    if sha256 is not None and got != sha256:
        raise DataError(
            f"{where}: the content has sha256 {got}, expected {sha256}: another data set's file, or a corrupt one; "
            "move it away and load again"
        )


def parse_idx(content: bytes, where: object = "IDX") -> Array:
    """An array from IDX bytes.

    Layout: two zero bytes, a type code, the number of axes; each axis's size as a big-endian uint32; the values, the
    last axis fastest. Nothing may follow.

    Returns:
        the array, in the machine's byte order, read-only.

    Raises:
        DataError: another magic number, an unknown type, or too few or too many bytes.
    """
    if len(content) < 4 or content[0] or content[1]:
        raise DataError(f"{where}: not an IDX file: it must begin with two zero bytes, got {content[:4].hex(' ')!r}")
    code, ndim = content[2], content[3]
    if code not in _IDX_TYPES:
        raise DataError(f"{where}: unknown IDX type code 0x{code:02x}")
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(f"{where}: the IDX header needs {header} bytes for {ndim} axes, got {len(content)}")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    dtype = np.dtype(_IDX_TYPES[code])
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - header != expected:
        raise DataError(
            f"{where}: an IDX array of shape {shape} needs {expected} bytes after its header, "
            f"got {len(content) - header}"
        )
    values = np.frombuffer(content, dtype, offset=header).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def read_tar_members(path: Path, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """The contents of the named members of a .tar.gz, each of exactly the size given. Nothing is extracted to disk.

    Extracting an archive means trusting the paths, links and modes inside; a few expected files are read as bytes
    instead, and everything else is skipped. Other members may not be larger together than the expected ones and 16 MiB.

    Args:
        sizes: member name (as in the archive) -> bytes.

    Raises:
        DataError: not such an archive, truncated, a member missing, not a plain file, or of another size.
    """
    found: dict[str, bytes] = {}
    budget = sum(sizes.values()) + 16 * 2**20
    try:
        with tarfile.open(path, "r:gz") as archive:
            while len(found) < len(sizes) and (member := archive.next()) is not None:
                budget -= member.size  # skipping a member still decompresses it
                if budget < 0 or member.size < 0:
                    raise DataError(f"{path}: holds more than expected; it is not the archive it should be")
                if member.name not in sizes:
                    continue
                if not member.isreg() or member.size != sizes[member.name]:
                    raise DataError(
                        f"{path}: {member.name} must be a plain file of {sizes[member.name]} bytes, got {member.size}"
                    )
                file = archive.extractfile(member)
                content = file.read() if file is not None else b""
                if len(content) != member.size:
                    raise DataError(f"{path}: {member.name} is truncated")
                found[member.name] = content
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it and load again") from error
    if missing := [name for name in sizes if name not in found]:
        raise DataError(f"{path}: lacks {', '.join(missing)}")
    return found


def parse_cifar(content: bytes, label_bytes: int, where: object = "CIFAR") -> tuple[Array, Array]:
    """Images and labels from CIFAR's binary records.

    A record is `label_bytes` labels (CIFAR-10: the class; CIFAR-100: coarse, then fine) and 3,072 bytes: the red plane,
    the green, the blue, each 32 rows of 32.

    Returns:
        images: (N, 3, 32, 32) uint8, a view.    labels: (N,) int64, the last label of each record.
    """
    record = label_bytes + CIFAR_PIXELS
    if not content or len(content) % record:
        raise DataError(f"{where}: the size must be a multiple of a record's {record} bytes, got {len(content)}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, label_bytes - 1].astype(np.int64)


def read_npz(content: bytes, where: object = "npz") -> dict[str, Array]:
    """The arrays of an .npz file, with pickle refused."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile and numpy raise a dozen types for a corrupt file
        raise DataError(f"{where}: cannot be read ({error})") from error
