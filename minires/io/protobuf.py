"""Protocol Buffers' wire format, read and written: the bytes of an ONNX file, without a schema. NumPy alone.

    writer = Writer().varint(1, 8).string(2, "minires").message(7, Writer().packed(1, [2, 3]))
    writer.to_bytes()                                      # or, large: writer.write_to(file)

    for field in Reader(data):                             # field.number, field.wire, field.value
        if field.number == 2:
            name = text(field)
        elif field.number == 7:
            for inner in field.message():                  # a Reader again
                sizes = integers(inner)

A message is a row of fields, each a tag and a value; tag = field number << 3 | wire type:

    0  varint             7 bits a byte, the lowest first; the high bit says that another byte follows; at most 10 bytes.
                          A negative int64 is its two's complement, hence 10 bytes long.
    1  fixed64            8 bytes, little-endian
    2  length-delimited   a varint length, then as many bytes: text, bytes, a message, or "packed" numbers in a row
    5  fixed32            4 bytes, little-endian

Types 3 and 4, groups, were given up long ago and are refused, as are 6 and 7, which are none. What a number means is the
schema's to say. A field may come again: the last value counts, or all do, where the schema says "repeated".

The reader takes nothing on trust: a length is compared with what is left before anything is cut out, values are views of
the given memory and no copies, messages nest at most MAX_DEPTH deep, and a document has at most MAX_FIELDS fields, since
two bytes can be a field that costs a hundred times as much in memory. Every fault is a WireError.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

import numpy as np

__all__ = [
    "FIXED32", "FIXED64", "LENGTH", "MAX_DEPTH", "MAX_FIELDS", "VARINT",
    "Field", "Reader", "WireError", "Writer", "floats", "integer", "integers", "number", "text",
]  # fmt: skip

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_WIRE_NAMES = {VARINT: "a varint", FIXED64: "a fixed64", LENGTH: "length-delimited", FIXED32: "a fixed32"}

MAX_NUMBER = 2**29 - 1  # of a field; a tag has 32 bits
MAX_DEPTH = 32  # an ONNX tensor type is 7 deep; protobuf's own limit is 100
MAX_FIELDS = 250_000  # ResNet-1202 as torch exports it, nothing folded, has 230,000
MAX_TEXT = 65_536  # bytes of a name
_CHUNK = 1 << 18  # packed bytes that are decoded at once


_Bytes = bytes  # two classes below have a method of this name
_Buffer = bytes | bytearray | memoryview


class WireError(ValueError):
    """Bytes that are no protobuf message, or a field of another type than expected."""


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: which field, 1 to 2^29 - 1.
        wire: VARINT, FIXED64, LENGTH or FIXED32.
        value: an unsigned integer, or the bytes of a LENGTH field as a view.
        reader: whose field it is.
    """

    number: int
    wire: int
    value: int | memoryview
    reader: Reader

    def bytes(self) -> memoryview:
        """The bytes of a LENGTH field, a view.

        Raises:
            WireError: it is of another type.
        """
        if not isinstance(self.value, memoryview):
            raise WireError(f"field {self.number} must be {_WIRE_NAMES[LENGTH]}, got {_WIRE_NAMES[self.wire]}")
        return self.value

    def message(self) -> Reader:
        """The fields of a message within this field.

        Raises:
            WireError: not length-delimited, or nested too deeply.
        """
        return Reader(self.bytes(), _parent=self.reader)


class Reader:
    """The fields of one message, in the order of the bytes; iterate once.

    Args:
        data: the whole message. Kept, not copied: it must not change while fields are read.

    Raises (while it is iterated):
        WireError: cut short, a length beyond the end, a wire type or field number that is none, too many fields.
    """

    def __init__(self, data: _Buffer, *, _parent: Reader | None = None) -> None:
        self._data = memoryview(data).cast("B") if _parent is None else memoryview(data)
        self._depth: int = 0 if _parent is None else _parent._depth + 1
        self._left: list[int] = [MAX_FIELDS] if _parent is None else _parent._left  # of the document: shared by all
        if self._depth > MAX_DEPTH:
            raise WireError(f"messages are nested more than {MAX_DEPTH} deep")

    def __iter__(self) -> Iterator[Field]:
        data, position, end, left = self._data, 0, len(self._data), self._left
        while position < end:
            tag = data[position]
            if tag < 0x80:  # nearly always: this saves a call
                position += 1
            else:
                tag, position = _varint(data, position)
            number, wire = tag >> 3, tag & 7
            if not 1 <= number <= MAX_NUMBER:
                raise WireError(f"a field number that is none, {number}, at byte {position}")
            left[0] -= 1
            if left[0] < 0:
                raise WireError(f"more than {MAX_FIELDS:,} fields")
            value: int | memoryview
            if wire == LENGTH:
                length, position = _varint(data, position)
                if length > end - position:
                    raise WireError(f"field {number} claims {length:,} bytes, {end - position:,} are left: cut short?")
                value = data[position : position + length]
                position += length
            elif wire == VARINT:
                value, position = _varint(data, position)
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
                if length > end - position:
                    raise WireError(f"field {number} needs {length} bytes, {end - position} are left: cut short?")
                value = int.from_bytes(data[position : position + length], "little")
                position += length
            else:
                what = "a group, a form given up long ago" if wire in (3, 4) else "no wire type"
                raise WireError(f"field {number} has wire type {wire}: {what}")
            yield Field(number, wire, value, self)


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """(the unsigned 64-bit value at `position`, where it ends)."""
    if position < len(data) and data[position] < 0x80:
        return data[position], position + 1
    value = shift = 0
    for i in range(position, min(position + 10, len(data))):
        byte = data[i]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, i + 1
        shift += 7
    else:
        if position + 10 > len(data):
            raise WireError("cut short inside a varint")
    raise WireError(f"a varint of more than 64 bits at byte {position}")


def _signed(value: int) -> int:
    """Two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value


def integer(field: Field) -> int:
    """The value of an int32, int64, bool or enum field, signed.

    Raises:
        WireError: it is no varint.
    """
    if field.wire != VARINT or not isinstance(field.value, int):
        raise WireError(f"field {field.number} must be {_WIRE_NAMES[VARINT]}, got {_WIRE_NAMES[field.wire]}")
    return _signed(field.value)


def number(field: Field) -> float:
    """The value of a float (fixed32) or double (fixed64) field.

    Raises:
        WireError: it is neither.
    """
    if field.wire not in (FIXED32, FIXED64) or not isinstance(field.value, int):
        raise WireError(f"field {field.number} must be {_WIRE_NAMES[FIXED32]}, got {_WIRE_NAMES[field.wire]}")
    form, size = ("<f", 4) if field.wire == FIXED32 else ("<d", 8)
    value: float = struct.unpack(form, field.value.to_bytes(size, "little"))[0]
    return value


def text(field: Field, limit: int = MAX_TEXT) -> str:
    """A string field.

    Raises:
        WireError: not length-delimited, longer than `limit` bytes, or not UTF-8.
    """
    view = field.bytes()
    if len(view) > limit:
        raise WireError(f"field {field.number} is a text of {len(view):,} bytes; at most {limit:,} are read")
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"field {field.number} is not UTF-8: {error.reason} at byte {error.start}") from None


def integers(field: Field, limit: int | None = None) -> np.ndarray:
    """The values of a repeated integer field: one of a varint, all of packed ones.

    Args:
        limit: at most so many; what is packed is counted before memory is taken.

    Returns:
        (count,) int64.

    Raises:
        WireError: another wire type, a packed varint that is cut short or too long, or too many.
    """
    if field.wire == VARINT:
        return np.array([integer(field)], np.int64)
    data = np.frombuffer(field.bytes(), np.uint8)
    count = int(np.count_nonzero(data < 0x80))
    if limit is not None and count > limit:
        raise WireError(f"field {field.number} has {count:,} numbers; at most {limit:,} are read")
    if len(data) and data[-1] >= 0x80:
        raise WireError("cut short inside a varint")
    out = np.empty(count, np.int64)
    position = done = 0
    while position < len(data):  # piece by piece, each ending where a varint ends
        piece = data[position : position + _CHUNK]
        last = np.flatnonzero(piece[-10:] < 0x80)
        if not len(last):
            raise WireError(f"a varint of more than 64 bits in field {field.number}")
        piece = piece[: len(piece) - min(10, len(piece)) + int(last[-1]) + 1]
        values = _varints(piece, field.number)
        out[done : done + len(values)] = values
        position, done = position + len(piece), done + len(values)
    return out


def _varints(data: np.ndarray, number: int) -> np.ndarray:
    """Whole varints in a row, (bytes,) uint8 -> (count,) int64: the j-th bytes of all of them at once."""
    ends = np.flatnonzero(data < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > 10 or (longest == 10 and int(data[ends[lengths == 10]].max()) > 1):
        raise WireError(f"a varint of more than 64 bits in field {number}")
    values = np.zeros(len(ends), np.uint64)
    for j in range(longest):
        there = lengths > j
        values[there] |= (data[starts[there] + j] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * j)
    return values.view(np.int64)


def floats(field: Field, double: bool = False) -> np.ndarray:
    """The values of a repeated float (or double) field: one of a fixed32 (fixed64), all of packed ones.

    Returns:
        (count,) float32 or float64, little-endian; of packed ones a view, read-only where the data are.

    Raises:
        WireError: another wire type, or packed bytes that are no whole number of values.
    """
    size, form = (8, "<f8") if double else (4, "<f4")
    if field.wire == (FIXED64 if double else FIXED32):
        return np.array([number(field)], form)
    view = field.bytes()
    if len(view) % size:
        raise WireError(f"field {field.number} has {len(view):,} bytes, no whole number of {size}-byte values")
    return np.frombuffer(view, form)


class Writer:
    """A message in the making: each call appends a field and returns the writer.

    Large bytes are kept as they were given, not copied, until `write_to` or `to_bytes`: they must not change before.

    Attributes:
        size: bytes so far.
    """

    def __init__(self) -> None:
        self._parts: list[_Buffer] = [bytearray()]
        self.size = 0

    def _append(self, data: _Buffer) -> None:
        self.size += len(data)
        last = self._parts[-1]
        if len(data) < 4096 and isinstance(last, bytearray):
            last += data
        else:
            self._parts += [data, bytearray()]

    def _tag(self, field: int, wire: int) -> None:
        if not 1 <= field <= MAX_NUMBER:
            raise ValueError(f"protobuf: a field number must be from 1 to {MAX_NUMBER}, got {field}")
        self._append(_encode(field << 3 | wire))

    def varint(self, field: int, value: int) -> Writer:
        """An int32, int64, uint64, bool or enum field."""
        self._tag(field, VARINT)
        self._append(_encode(value))
        return self

    def bytes(self, field: int, value: _Buffer) -> Writer:
        """A bytes field; of an array give `memoryview(np.ascontiguousarray(array)).cast("B")`, or `array.tobytes()`."""
        self._tag(field, LENGTH)
        view = value if isinstance(value, bytes) else memoryview(value).cast("B")
        self._append(_encode(len(view)))
        self._append(view)
        return self

    def string(self, field: int, value: str) -> Writer:
        """A string field, UTF-8."""
        return self.bytes(field, value.encode("utf-8"))

    def message(self, field: int, value: Writer) -> Writer:
        """A message within this one, as it is now."""
        self._tag(field, LENGTH)
        self._append(_encode(value.size))
        for part in value._parts:
            self._append(bytes(part) if isinstance(part, bytearray) else part)
        return self

    def packed(self, field: int, values: Iterable[int]) -> Writer:
        """Repeated integers in one field ("packed": int32, int64, uint64, bool)."""
        return self.bytes(field, b"".join(_encode(int(value)) for value in values))

    def float32(self, field: int, value: float) -> Writer:
        """A float field. Raises OverflowError where float32 cannot hold a finite value."""
        self._tag(field, FIXED32)
        self._append(struct.pack("<f", value))
        return self

    def float64(self, field: int, value: float) -> Writer:
        """A double field."""
        self._tag(field, FIXED64)
        self._append(struct.pack("<d", value))
        return self

    def packed_floats(self, field: int, values: Iterable[float]) -> Writer:
        """Repeated floats in one field."""
        return self.bytes(field, np.array(list(values), "<f4").tobytes())

    def to_bytes(self) -> _Bytes:
        """The message."""
        return b"".join(self._parts)

    def write_to(self, file: IO[_Bytes]) -> None:
        """Write the message to an open binary file, part by part."""
        for part in self._parts:
            file.write(part)


def _encode(value: int) -> bytes:
    """A varint; negative values as two's complement of 64 bits."""
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"protobuf: a varint has 64 bits, got {value}")
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
