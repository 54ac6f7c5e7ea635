"""NumPy's .npz: a zip of .npy files, one an array. What `numpy.savez` and `numpy.savez_compressed` write.

    arrays = load_npz("weights.npz")

`numpy.load` would do; this says what is wrong with a file in one kind of error, and takes no memory on a header's word:
shapes are compared with the bytes that are there, a compressed member cannot claim more than deflate can give, and what
it unpacks to is taken as it comes, a megabyte at a time. Pickles, which arrays of dtype object are, stay closed.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import tokenize
import warnings
import zipfile
import zlib
from typing import IO

import numpy as np

from minires.errors import CheckpointError
from minires.io.messages import shorten
from minires.io.zip_directory import open_zip

__all__ = ["is_npz", "load_npz", "read_elements", "read_npy_header"]

MAX_DEFLATE = 1032  # bytes that one byte of a deflated stream can stand for
MAX_HEADER = 10_000  # bytes; NumPy's own limit, which it looks at after it has read them
CHUNK = 1 << 20
_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def is_npz(members: list[str]) -> bool:
    """Whether a zip with these members looks like one."""
    return bool(members) and all(name.endswith(".npy") for name in members)


def load_npz(path: str | os.PathLike[str] | IO[bytes]) -> dict[str, np.ndarray]:
    """Read all arrays of a file.

    Args:
        path: a file name, or a readable and seekable binary file object.

    Returns:
        Name (without .npy) to array: writable, of its own memory, in the machine's byte order.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, forged or no .npz, or it holds something other than numbers and booleans.
    """
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else str(getattr(path, "name", "<file object>"))
    where = f"npz: {name}"
    try:
        with contextlib.ExitStack() as stack:
            is_name = isinstance(path, (str, os.PathLike))
            file: IO[bytes] = stack.enter_context(open(path, "rb")) if is_name else path  # type: ignore[arg-type, assignment]
            return _read(stack.enter_context(open_zip(file)), file.seek(0, os.SEEK_END), where)
    except FileNotFoundError:
        raise FileNotFoundError(f"npz: there is no file {name}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{where}: it is a folder, not a file") from None
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{where}: cut short, damaged or no zip ({shorten(str(error), 200)}); use another copy"
        ) from None
    except MemoryError:
        raise CheckpointError(f"{where}: there is not enough memory for its arrays") from None
    # What zipfile, zlib and NumPy's header reader raise for bytes that nobody wrote so.
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        EOFError,
        OverflowError,
        SyntaxError,
        tokenize.TokenError,
        zlib.error,
    ) as error:
        raise CheckpointError(f"{where}: damaged: {type(error).__name__}: {shorten(str(error))}") from None
    except RuntimeError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{where}: {shorten(str(error))}"
        ) from None  # zipfile's word for an encrypted member, or one of a later zip


def _read(archive: zipfile.ZipFile, size: int, where: str) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if not is_npz([member.filename for member in members]):
        raise CheckpointError(f"{where}: a zip, but not of .npy files alone")
    # So that neither a lie nor members that lie over one another can multiply the file.
    if sum(member.compress_size for member in members) > size:
        raise CheckpointError(f"{where}: damaged: its members claim more bytes than the file has")
    arrays: dict[str, np.ndarray] = {}
    for member in members:
        key = member.filename.removesuffix(".npy")
        shown = shorten(repr(key), 80)
        if key in arrays:
            raise CheckpointError(f"{where}: two members have the name {shown}")
        # No more than the file can hold: bounds the memory that its claims can ask for.
        ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: MAX_DEFLATE}.get(member.compress_type)
        if ratio is None:
            raise CheckpointError(f"{where}: {shown} is packed by another method than deflate")
        if member.file_size > member.compress_size * ratio:
            raise CheckpointError(f"{where}: damaged: {shown} claims more bytes than its place in the file can hold")
        arrays[key] = _read_array(archive, member, f"{where}: {shown}")
    return arrays


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> np.ndarray:
    with archive.open(member) as file:
        shape, fortran, dtype = read_npy_header(file)
        if dtype.hasobject:
            raise CheckpointError(
                f"{where} holds Python objects, which are a pickle: a program, and never opened; save plain arrays"
            )
        if dtype.kind not in "biufc":
            raise CheckpointError(f"{where} holds dtype {dtype}; only numbers and booleans are read")
        count = math.prod(shape) * dtype.itemsize
        left = member.file_size - file.tell()
        if count != left:
            raise CheckpointError(f"{where}: damaged: shape {shape} takes {count} bytes, {left} are there")
        flat = read_elements(file, count, dtype)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The header of an .npy file: (shape, whether in Fortran's order, dtype). `file` is left at the first element.

    Raises:
        ValueError, SyntaxError, TokenError, MemoryError and others of NumPy's and Python's parsers, for what is no header.
    """
    version = np.lib.format.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"version {version} of the .npy format, which is for names of fields")
    prefix = file.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header claims {length:,} bytes; at most {MAX_HEADER:,} are read")
    text = io.BytesIO(prefix + file.read(length))
    with warnings.catch_warnings():  # files that Python 2 wrote are read as well as others; junk warns of much else
        warnings.simplefilter("ignore")
        shape, fortran, dtype = _READ_HEADER[version](text)
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape} has a negative size")
    return shape, fortran, dtype


def read_elements(file: IO[bytes], count: int, dtype: np.dtype) -> np.ndarray:
    """The next `count` bytes of a member, as a flat, writable array; memory is taken only for what is there.

    Raises:
        EOFError: there are fewer.
        BadZipFile: `count` was all the rest, and its CRC does not fit.
    """
    content = bytearray()
    while len(content) < count:
        got = file.read(min(CHUNK, count - len(content)))
        if not got:
            raise EOFError(f"cut short: {len(content)} bytes are there of {count}")
        content += got
    if not count:
        file.read(1)  # nothing: but now zipfile has seen the end, and compared the CRC
    return np.frombuffer(content, dtype)
