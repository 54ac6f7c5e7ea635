"""safetensors: a JSON header that says where each tensor lies, then the tensors. NumPy alone.

    save_file({"w": array}, "model.safetensors", metadata={"format": "np"})
    arrays = load_file("model.safetensors")
    with SafetensorsFile("model.safetensors") as file:        # one tensor at a time
        weight = file["conv1.weight"]

A file:

    8 bytes     N, an unsigned little-endian integer, at most 100,000,000
    N bytes     {"__metadata__": {"format": "np"}, "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
                UTF-8, padded with spaces so that the tensors begin at a multiple of 8
    the rest    the tensors in C order, little-endian, one behind the other: no holes, no overlaps, nothing behind the last

Everything that a header claims is compared with the file's length before memory is taken, and every fault is one
CheckpointError with its reason. Memory: for the header at most some forty times its length; then each tensor once
(bfloat16 and float8, which become float32, also their bytes while they are converted).

Source: https://github.com/huggingface/safetensors, README.md, section "Format", and safetensors/src/tensor.rs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np

from minires.errors import ArgumentError, CheckpointError, DTypeError
from minires.io.files import write_atomically
from minires.io.json_text import no_constants, no_duplicates, without_strings
from minires.io.messages import shorten
from minires.io.narrow_floats import FLOAT8, widen_bfloat16
from minires.tensor import Tensor

__all__ = ["SafetensorsFile", "TensorInfo", "is_safetensors", "load_file", "save_file"]

MAX_HEADER = 100_000_000
METADATA = "__metadata__"

# Names of the format and what NumPy calls them, in the order in which the official writer sorts its tensors (last first).
_NUMPY = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_NAME = {numpy_name: name for name, numpy_name in _NUMPY.items()}
_RANK = {name: position for position, name in enumerate(_NUMPY)}
# What NumPy lacks: float8 by torch's names. Bits are read, and become float32.
_FLOAT8 = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_DECODED = {"BF16": "uint16", **dict.fromkeys(_FLOAT8, "uint8")}
_DTYPES = {name: np.dtype(kind).newbyteorder("<") for name, kind in {**_NUMPY, **_DECODED}.items()}

# Of a header without its strings and spaces: what no true header has. Lists or objects inside lists; a third level of
# objects; a shape of more than 64 dimensions, which is what NumPy has.
_TOO_DEEP = re.compile(rb"(?<!:)[\[{]|\{[^{}]*\{|\[(?:[^\[\],]*,){64}")


class TensorInfo(NamedTuple):
    """What the header says of one tensor. `start` and `stop` count bytes from the first tensor's."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with `head` (9 bytes are enough) looks like one: a length, then a brace."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


class SafetensorsFile(Mapping[str, np.ndarray]):
    """An open file: a mapping from names, in the order of the header, to arrays that are read when they are asked for.

    Args:
        path: a file name, or a readable and seekable binary file object, read from its beginning and not closed.

    Attributes:
        metadata: the header's `__metadata__`, strings to strings; empty where there is none.
        info: name to TensorInfo.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file breaks the format's rules; the message says which file and which rule.
    """

    def __init__(self, path: str | os.PathLike[str] | IO[bytes]) -> None:
        self._owned = isinstance(path, (str, os.PathLike))
        self._file: IO[bytes]
        if isinstance(path, (str, os.PathLike)):
            self._name = os.fspath(path)
            if os.path.isdir(path):
                raise self._bad("it is a folder, not a file")
            try:
                self._file = open(path, "rb")  # noqa: SIM115  # stays open: close() is for that
            except FileNotFoundError:
                raise FileNotFoundError(f"safetensors: there is no file {self._name}") from None
        else:
            self._file, self._name = path, str(getattr(path, "name", "<file object>"))
        try:
            self.metadata, self.info, self._begin = self._read_header()
        except BaseException:
            self.close()
            raise

    def _bad(self, what: str) -> CheckpointError:
        return CheckpointError(f"safetensors: {self._name}: {shorten(what)}")

    def _read_header(self) -> tuple[dict[str, str], dict[str, TensorInfo], int]:
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        if size < 8:
            raise self._bad(f"{size} bytes, too short for the header's length (8 bytes)")
        length = int.from_bytes(self._file.read(8), "little")
        if length > MAX_HEADER:
            raise self._bad(f"its header claims {length:,} bytes; the format allows {MAX_HEADER:,}")
        if length > size - 8:
            raise self._bad(f"cut short: its header claims {length:,} bytes, {size - 8:,} follow")
        header = self._file.read(length)
        try:
            tree = _parse(header)
            metadata = _check_metadata(tree.pop(METADATA, {}))
            info = {name: _check_info(name, entry) for name, entry in tree.items()}
            _check_layout(info, size - 8 - length)
        except RecursionError:
            raise self._bad("its header is nested too deeply") from None
        except ValueError as error:  # json's errors and those of UTF-8 are of this kind
            raise self._bad(str(error)) from None
        return metadata, info, 8 + length

    def __getitem__(self, name: str) -> np.ndarray:
        """One tensor, read into memory of its own: writable, C order, the machine's byte order."""
        info = self.info[name]
        stored = _DTYPES[info.dtype]
        try:
            array = np.empty(info.shape, stored)
        except ValueError as error:  # of shapes such as (0, 2 ** 62), whose tensor is empty all the same
            raise self._bad(f"tensor {name!r}: {error}") from None
        self._file.seek(self._begin + info.start)
        if array.nbytes:
            view, done = array.reshape(-1).view(np.uint8).data, 0
            while done < array.nbytes:
                got = self._file.readinto(view[done:])  # type: ignore[attr-defined]
                if not got:
                    raise self._bad(f"cut short while tensor {name!r} was read")
                done += got
        if info.dtype in _DECODED:
            return widen_bfloat16(array) if info.dtype == "BF16" else FLOAT8[_FLOAT8[info.dtype]]()[array]
        if info.dtype == "BOOL" and array.nbytes and array.view(np.uint8).max() > 1:
            raise self._bad(f"tensor {name!r} of dtype BOOL holds a byte that is neither 0 nor 1")
        return array if stored.isnative else array.astype(stored.newbyteorder("="))

    def __contains__(self, name: object) -> bool:
        return name in self.info  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.info)

    def __len__(self) -> int:
        return len(self.info)

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._owned:
            self._file.close()

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_file(path: str | os.PathLike[str] | IO[bytes]) -> dict[str, np.ndarray]:
    """Read all tensors of a file. See `SafetensorsFile` for arguments and errors; bfloat16 and float8 become float32."""
    with SafetensorsFile(path) as file:
        return dict(file)


def save_file(
    tensors: Mapping[str, Any], path: str | os.PathLike[str] | IO[bytes], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors, atomically: an older file at `path` survives any failure.

    The bytes are those the official writer gives: sorted by dtype, widest first, then by name.

    Args:
        tensors: name to array or Tensor, of any memory layout and byte order; strides are not kept, values are.
        path: a file name, or a writable binary file object.
        metadata: strings to strings, such as {"format": "pt"}, which transformers expects.

    Raises:
        ArgumentError: a name or an entry of the metadata that the format cannot hold.
        DTypeError: an array of a dtype that the format does not have.
    """
    arrays = {name: _check_array(name, value) for name, value in tensors.items()}
    header = _header(arrays, metadata)
    ordered = sorted(arrays, key=lambda name: _sort_key(name, arrays[name]))
    # Before the file is touched: what cannot be written must not cost anything.
    target = write_atomically(path) if isinstance(path, (str, os.PathLike)) else contextlib.nullcontext(path)
    with target as file:
        file.write(header)
        for name in ordered:
            array = arrays[name]
            if array.nbytes:  # one tensor's copy at a time, and none where it lies in order already
                flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
                file.write(flat.view(np.uint8).data)


def _parse(header: bytes) -> dict[str, Any]:
    """The header's JSON, held to what the format needs before Python's parser builds anything of it."""
    if not header.startswith(b"{"):
        raise ValueError("its header does not begin with '{'")
    text = header.rstrip(b" ")
    if not text.endswith(b"}"):
        raise ValueError("its header does not end with '}' and spaces")
    bare = without_strings(text)
    deep = _TOO_DEEP.search(bare, 1)
    # Two lists a tensor, at most two objects without (the whole and the metadata): bounds what junk could cost.
    lists, objects = bare.count(b"["), bare.count(b"{")
    if deep or lists not in (2 * (objects - 1), 2 * (objects - 2)):
        raise ValueError("its header has another form than {name: {dtype, shape, data_offsets}, ...}")
    tree = json.loads(text.decode("utf-8"), object_pairs_hook=no_duplicates, parse_constant=no_constants)
    assert isinstance(tree, dict)  # it begins with a brace
    return tree


def _check_metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{METADATA} must be strings by name")
    return metadata


def _check_info(name: str, entry: Any) -> TensorInfo:
    """One tensor's entry, its bytes counted: product of the shape times the dtype's width = stop - start."""
    short = name if len(name) < 80 else f"{name[:80]}..."
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name {short!r} has a lone surrogate") from None
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {short!r} needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        shown = repr(dtype)[:80]
        raise ValueError(f"tensor {short!r} has dtype {shown}; minires reads {', '.join(_DTYPES)}")
    if not _are_sizes(shape):
        raise ValueError(f"tensor {short!r}: shape must be integers from 0 to 2^63 - 1")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {short!r}: data_offsets must be two integers from 0 to 2^63 - 1")
    count = math.prod(shape) * _DTYPES[dtype].itemsize  # Python's integers do not overflow
    if offsets[1] - offsets[0] != count:
        raise ValueError(
            f"tensor {short!r}: {dtype} {tuple(shape)} takes {count} bytes, data_offsets {offsets} give it "
            f"{offsets[1] - offsets[0]}"
        )
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_layout(info: Mapping[str, TensorInfo], length: int) -> None:
    """The tensors fill the data from the first byte to the last, each byte once."""
    place = 0
    for name, one in sorted(info.items(), key=lambda item: item[1][2:]):
        if one.start != place:
            fault = "overlaps the one before it" if one.start < place else "leaves a hole before it"
            raise ValueError(f"tensor {name[:80]!r} begins at {one.start}, expected {place}: it {fault}")
        place = one.stop
    if place != length:
        fault = "cut short" if place > length else "bytes that belong to no tensor"
        raise ValueError(f"{fault}: the header describes {place:,} bytes of tensors, the file has {length:,}")


def _check_array(name: Any, value: Any) -> np.ndarray:
    array = np.asarray(value.detach().cpu().array) if isinstance(value, Tensor) else value
    if not isinstance(name, str) or name == METADATA:
        raise ArgumentError(f"save_file: the name of a tensor must be a string other than {METADATA}, got {name!r}")
    if not isinstance(array, (np.ndarray, np.generic)):
        raise ArgumentError(f"save_file: {name} must be an array or a Tensor, got {type(value).__name__}")
    array = np.asarray(array)
    if array.dtype.name not in _NAME:
        raise DTypeError(f"save_file: {name} has dtype {array.dtype}; safetensors holds {', '.join(_NAME)}")
    return array


def _sort_key(name: str, array: np.ndarray) -> tuple[int, bytes]:
    return -_RANK[_NAME[array.dtype.name]], name.encode()


def _header(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None) -> bytes:
    tree: dict[str, Any] = {}
    if metadata is not None:
        if not all(isinstance(key, str) and isinstance(value, str) for key, value in metadata.items()):
            raise ArgumentError("save_file: metadata must be strings by name; write other values as JSON text")
        tree[METADATA] = dict(sorted(metadata.items()))
    place = 0
    try:
        for name in sorted(arrays, key=lambda name: _sort_key(name, arrays[name])):
            array = arrays[name]
            offsets = [place, place + array.nbytes]
            tree[name] = {"dtype": _NAME[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
            place += array.nbytes
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"save_file: a name or the metadata cannot be written in UTF-8: {error}") from None
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ArgumentError(f"save_file: the header would take {len(text):,} bytes; the format allows {MAX_HEADER:,}")
    return len(text).to_bytes(8, "little") + text
