"""The wire format against numbers from its specification, against itself, and against the official package's messages."""

from __future__ import annotations

import io
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minires.io import protobuf
from minires.io.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Reader,
    WireError,
    Writer,
    floats,
    integer,
    integers,
    text,
)
from minires.io.protobuf import number as real

int64s = st.integers(-(2**63), 2**63 - 1)
numbers = st.sampled_from([1, 15, 16, 2047, protobuf.MAX_NUMBER])


def read(data: bytes) -> list[tuple[int, int, Any]]:
    return [(f.number, f.wire, bytes(f.value) if isinstance(f.value, memoryview) else f.value) for f in Reader(data)]


def test_writer_gives_the_specifications_bytes() -> None:
    # https://protobuf.dev/programming-guides/encoding/: "Test1", "Test2", "Test3", a packed field, and -2.
    assert Writer().varint(1, 150).to_bytes() == bytes.fromhex("089601")
    assert Writer().string(2, "testing").to_bytes() == bytes.fromhex("120774657374696e67")
    assert Writer().message(3, Writer().varint(1, 150)).to_bytes() == bytes.fromhex("1a03089601")
    assert Writer().packed(6, [3, 270, 86942]).to_bytes() == bytes.fromhex("3206038e029ea705")
    assert Writer().varint(1, -2).to_bytes() == bytes.fromhex("08feffffffffffffffff01")
    assert Writer().float32(1, 1.5).to_bytes() == b"\x0d" + struct.pack("<f", 1.5)
    assert Writer().float64(1, 1.5).to_bytes() == b"\x09" + struct.pack("<d", 1.5)
    assert Writer().packed_floats(4, [1.5, -2]).to_bytes() == b"\x22\x08" + struct.pack("<ff", 1.5, -2)


def test_reader_reads_the_specifications_bytes() -> None:
    assert read(bytes.fromhex("089601120774657374696e67")) == [(1, VARINT, 150), (2, LENGTH, b"testing")]
    assert read(b"\x0d\x01\x00\x00\x00\x09\x02" + bytes(7)) == [(1, FIXED32, 1), (1, FIXED64, 2)]
    assert read(b"") == []
    assert read(b"\x08\x80\x80\x00") == [(1, VARINT, 0)]  # longer than needed, and allowed


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("varint"), numbers, int64s),
            st.tuples(st.just("bytes"), numbers, st.binary(max_size=300)),
            st.tuples(st.just("string"), numbers, st.text(max_size=50)),
            st.tuples(st.just("packed"), numbers, st.lists(int64s, max_size=30)),
            st.tuples(st.just("float32"), numbers, st.floats(width=32, allow_nan=False)),
            st.tuples(st.just("float64"), numbers, st.floats(allow_nan=False)),
            st.tuples(st.just("packed_floats"), numbers, st.lists(st.floats(width=32, allow_nan=False), max_size=9)),
        ),
        max_size=12,
    )
)
def test_what_is_written_is_read_at_any_depth(fields: list[tuple[str, int, Any]]) -> None:
    inner = Writer()
    for kind, number, value in fields:
        getattr(inner, kind)(number, value)
    outer = Writer().varint(1, 7).message(2, Writer().message(3, inner))
    first, second = Reader(outer.to_bytes())
    assert integer(first) == 7
    (third,) = second.message()
    got = list(third.message())
    assert [field.number for field in got] == [number for _, number, _ in fields]
    decode = {
        "varint": integer,
        "bytes": lambda field: bytes(field.bytes()),
        "string": text,
        "packed": lambda field: integers(field).tolist(),
        "float32": real,
        "float64": real,
        "packed_floats": lambda field: floats(field).tolist(),
    }
    assert [decode[kind](field) for (kind, _, _), field in zip(fields, got, strict=True)] == [v for *_, v in fields]


def test_writer_keeps_large_bytes_without_a_copy_and_writes_them_in_order() -> None:
    large = np.arange(250_000, dtype="<f4")
    tracemalloc.start()
    inner = Writer().bytes(9, memoryview(large).cast("B")).varint(1, 5)
    writer = Writer().string(1, "x").message(2, Writer().message(3, inner)).varint(4, 6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    file = io.BytesIO()
    writer.write_to(file)
    assert file.getvalue() == writer.to_bytes()
    assert writer.size == len(file.getvalue())
    assert file.getvalue().count(large.tobytes()) == 1
    assert [field.number for field in Reader(file.getvalue())] == [1, 2, 4]


def test_writer_refuses_what_has_no_bytes() -> None:
    with pytest.raises(ValueError, match=r"a field number must be from 1 to 536870911, got 0"):
        Writer().varint(0, 1)
    with pytest.raises(ValueError, match=r"a varint has 64 bits, got 18446744073709551616"):
        Writer().varint(1, 2**64)
    with pytest.raises(OverflowError):
        Writer().float32(1, 1e300)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x08", "cut short inside a varint"),
        (b"\x08\x80\x80", "cut short inside a varint"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "a varint of more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "a varint of more than 64 bits"),
        (b"\x12\x05abc", "field 2 claims 5 bytes, 3 are left: cut short"),
        (b"\x12" + b"\xff" * 9 + b"\x01", "field 2 claims 18,446,744,073,709,551,615 bytes, 0 are left"),
        (b"\x0d\x00\x00", "field 1 needs 4 bytes, 2 are left"),
        (b"\x09\x00\x00", "field 1 needs 8 bytes, 2 are left"),
        (b"\x0b\x0c", "field 1 has wire type 3: a group"),
        (b"\x0c", "field 1 has wire type 4: a group"),
        (b"\x0e\x00", "field 1 has wire type 6: no wire type"),
        (b"\x0f\x00", "field 1 has wire type 7: no wire type"),
        (b"\x00\x00", "a field number that is none, 0"),
        (b"\xff\xff\xff\xff\xff\x01\x00", "a field number that is none, 8589934591"),
    ],
)
def test_reader_says_what_is_wrong(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        read(data)


def test_reader_refuses_deep_nesting_and_a_flood_of_fields() -> None:
    data = b""
    for _ in range(protobuf.MAX_DEPTH):
        data = Writer().bytes(1, data).to_bytes()

    def depth(reader: Reader) -> int:
        return 1 + max((depth(field.message()) for field in reader), default=0)

    assert depth(Reader(data)) == protobuf.MAX_DEPTH + 1  # as deep as is read
    with pytest.raises(WireError, match=f"nested more than {protobuf.MAX_DEPTH} deep"):
        depth(Reader(Writer().bytes(1, data).to_bytes()))
    half = b"\x08\x00" * (protobuf.MAX_FIELDS // 2)
    flood = Writer().bytes(1, half).bytes(2, half).to_bytes()
    with pytest.raises(WireError, match="more than 250,000 fields"):  # of all messages together
        for field in Reader(flood):
            for _ in field.message():
                pass


@pytest.mark.parametrize(
    ("data", "decode", "reason"),
    [
        (Writer().string(1, "a"), integer, "field 1 must be a varint, got length-delimited"),
        (Writer().varint(3, 1), text, "field 3 must be length-delimited, got a varint"),
        (Writer().varint(3, 1), lambda field: field.message(), "field 3 must be length-delimited, got a varint"),
        (Writer().varint(1, 1), real, "field 1 must be a fixed32, got a varint"),
        (Writer().varint(1, 1), floats, "field 1 must be length-delimited, got a varint"),
        (Writer().float64(1, 1), floats, "field 1 must be length-delimited, got a fixed64"),
        (Writer().bytes(1, b"12345"), floats, "field 1 has 5 bytes, no whole number of 4-byte values"),
        (Writer().bytes(1, b"\xff\xfe"), text, "field 1 is not UTF-8: invalid start byte at byte 0"),
        (Writer().bytes(1, b"a" * 65_537), text, "field 1 is a text of 65,537 bytes; at most 65,536 are read"),
        (Writer().bytes(1, b"\x01\x80"), integers, "cut short inside a varint"),
        (Writer().bytes(1, b"\xff" * 11 + b"\x00"), integers, "a varint of more than 64 bits in field 1"),
        (Writer().bytes(1, b"\xff" * 9 + b"\x02"), integers, "a varint of more than 64 bits in field 1"),
        (Writer().bytes(1, b"\xff" * 300_000 + b"\x00"), integers, "a varint of more than 64 bits in field 1"),
        (Writer().packed(1, range(9)), lambda field: integers(field, 8), "field 1 has 9 numbers; at most 8 are read"),
    ],
)
def test_fields_of_another_type_are_refused(data: Writer, decode: Any, reason: str) -> None:
    (field,) = Reader(data.to_bytes())
    with pytest.raises(WireError, match=reason):
        decode(field)


def test_packed_integers_are_decoded_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = (rng.integers(-(2**63), 2**63 - 1, 500) >> rng.integers(0, 63, 500)).tolist()
    (field,) = Reader(Writer().packed(1, values).to_bytes())
    for chunk in (10, 11, 64, 100_000):
        monkeypatch.setattr(protobuf, "_CHUNK", chunk)
        assert integers(field).tolist() == values
    (one,) = Reader(Writer().varint(1, -5).to_bytes())
    assert integers(one).tolist() == [-5]
    (none,) = Reader(Writer().bytes(1, b"").to_bytes())
    assert integers(none).tolist() == []


def test_values_are_views_of_the_data() -> None:
    data = Writer().packed_floats(1, np.zeros(100_000)).to_bytes()
    tracemalloc.start()
    (field,) = Reader(data)
    values = floats(field)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(values) == 100_000
    assert peak < 50_000
    assert np.shares_memory(values, np.frombuffer(data, np.uint8))


def test_official_package_agrees() -> None:
    onnx = pytest.importorskip("onnx", reason="needs the onnx package, the oracle of the wire format")
    attribute = onnx.AttributeProto(name="é", i=-(2**63), f=1.25, ints=[1, -1, 2**40], type=onnx.AttributeProto.INTS)
    fields = list(Reader(attribute.SerializeToString()))
    assert {field.number for field in fields} == {1, 2, 3, 8, 20}
    assert [text(field) for field in fields if field.number == 1] == ["é"]
    assert [real(field) for field in fields if field.number == 2] == [1.25]
    assert [integer(field) for field in fields if field.number == 3] == [-(2**63)]
    assert [int(v) for field in fields if field.number == 8 for v in integers(field)] == [1, -1, 2**40]
    writer = Writer().string(1, "é").float32(2, 1.25).varint(3, -(2**63)).varint(20, 7)
    for value in (1, -1, 2**40):
        writer.varint(8, value)
    assert onnx.AttributeProto.FromString(writer.to_bytes()) == attribute
    tensor = onnx.TensorProto.FromString(Writer().packed(7, [1, -1, 2**40]).packed(1, [3]).to_bytes())
    assert list(tensor.int64_data) == [1, -1, 2**40]
