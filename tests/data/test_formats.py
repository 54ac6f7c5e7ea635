"""IDX, gzip, tar and CIFAR readers: exact on good bytes, one kind of error on bad ones."""

import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minires.data.formats import (
    check_hash,
    parse_cifar,
    parse_idx,
    read_bytes,
    read_npz,
    read_tar_members,
)
from minires.errors import DataError
from tests.data.files import idx_bytes, tar_bytes


@pytest.mark.parametrize(("code", "dtype"), [(8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_parse_idx_every_type(code, dtype):
    array = np.arange(-6, 6).astype(dtype).reshape(2, 3, 2)
    out = parse_idx(idx_bytes(array, code))
    assert np.array_equal(out, array) and out.dtype.isnative and out.dtype == array.dtype.newbyteorder("=")


@given(st.lists(st.integers(0, 4), max_size=4))
def test_parse_idx_every_shape(shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert np.array_equal(parse_idx(idx_bytes(array)), array)


@given(st.integers(7, 15), st.integers(0, 3), st.lists(st.integers(0, 3), max_size=3), st.binary(max_size=24))
def test_parse_idx_of_nearly_right_bytes_is_an_array_or_a_data_error(code, ndim, shape, values):
    content = bytes([0, 0, code, ndim]) + b"".join(struct.pack(">I", n) for n in shape) + values
    try:
        out = parse_idx(content)
    except DataError:
        return
    assert out.ndim == ndim and 4 + 4 * ndim + out.nbytes == len(content)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "x: not an IDX file: it must begin with two zero bytes, got ''"),
        (b"\x1f\x8b\x08\x00", "got '1f 8b 08 00'"),
        (b"\0\1\x08\x01\0\0\0\0", "got '00 01 08 01'"),
        (b"\0\0\x07\x01\0\0\0\0", "unknown IDX type code 0x07"),
        (b"\0\0\x08\x03\0\0\0\x01", "the IDX header needs 16 bytes for 3 axes, got 8"),
        (b"\0\0\x08\x01\0\0\0\x03ab", r"an IDX array of shape \(3,\) needs 3 bytes after its header, got 2"),
        (b"\0\0\x08\x01\0\0\0\x01ab", "needs 1 bytes after its header, got 2"),
        (b"\0\0\x0e\x02" + struct.pack(">2I", 2**32 - 1, 2**32 - 1), "needs 147573952520956936200 bytes"),
    ],
)
def test_parse_idx_errors(content, text):
    with pytest.raises(DataError, match=text):
        parse_idx(content, "x")


def test_read_bytes_plain_and_gzip(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"hello"))
    assert read_bytes(tmp_path / "a", 5) == read_bytes(tmp_path / "a.gz", 5) == b"hello"
    (tmp_path / "b.part").write_bytes(gzip.compress(b"hello"))
    assert read_bytes(tmp_path / "b.part", 5, compressed=True) == b"hello"


def test_read_bytes_errors(tmp_path):
    good = gzip.compress(bytes(1000))
    for name, content, text in [
        ("no.gz", b"plain text", "cannot be read .*Not a gzipped file"),
        ("cut.gz", good[:-10], "cannot be read"),
        ("crc.gz", good[:-8] + b"\0\0\0\0" + good[-4:], "cannot be read .*CRC"),
        ("body.gz", good[:12] + b"\xff\xff" + good[14:], "cannot be read"),
        ("short.gz", gzip.compress(bytes(999)), "needs 1000 bytes of content, got 999"),
        ("bomb.gz", gzip.compress(bytes(10**7)), "needs 1000 bytes of content, got more than 1000"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=text) as caught:
            read_bytes(tmp_path / name, 1000)
        assert name in str(caught.value) and "delete it and load again" in str(caught.value)
    with pytest.raises(DataError, match="absent"):
        read_bytes(tmp_path / "absent", 1)


def test_check_hash():
    check_hash(b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "f")
    check_hash(b"abc", None, "f")
    with pytest.raises(DataError, match=r"f: the content has sha256 ba7816bf.*, expected 00: another data set's file"):
        check_hash(b"abc", "00", "f")


def test_read_tar_members_reads_what_is_expected_and_skips_the_rest(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tar_bytes({"d": None, "../evil": b"x", "d/readme": b"text", "d/one": b"1111", "d/two": b"22"}))
    assert read_tar_members(path, {"d/two": 2, "d/one": 4}) == {"d/one": b"1111", "d/two": b"22"}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.gz"]  # nothing was extracted


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"d/one": b"1111"}, "lacks d/two"),
        ({"d/one": b"111"}, "d/one must be a plain file of 4 bytes, got 3"),
        ({"d/one": "/etc/passwd"}, "d/one must be a plain file of 4 bytes"),
        ({"d/one": None}, "d/one must be a plain file"),
        ({"big": bytes(17 * 2**20), "d/one": b"1111"}, "holds more than expected"),
    ],
)
def test_read_tar_members_errors(tmp_path, members, text):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tar_bytes(members))
    with pytest.raises(DataError, match=text):
        read_tar_members(path, {"d/one": 4, "d/two": 2})


def test_read_tar_members_refuses_a_link_of_the_right_size(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tar_bytes({"d/two": b"22", "d/one": "two"}))  # a link has size 0
    with pytest.raises(DataError, match="d/one must be a plain file of 0 bytes"):
        read_tar_members(path, {"d/one": 0})


def test_read_tar_members_corrupt_archives(tmp_path):
    good, path = tar_bytes({"d/one": np.random.default_rng(0).bytes(50_000)}), tmp_path / "a.tar.gz"
    for content in (b"", b"no archive", good[: len(good) // 2], gzip.compress(b"no tar" * 200)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.tar\.gz: (cannot be read|d/one is truncated|lacks)"):
            read_tar_members(path, {"d/one": 50_000})
    buffer = io.BytesIO()  # an uncompressed tar is not what the name says
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="cannot be read"):
        read_tar_members(path, {"d/one": 50_000})


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_parse_cifar_records(label_bytes):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (3, 3, 32, 32), np.uint8), np.array([7, 0, 9], np.uint8)
    coarse = np.full((3, label_bytes - 1), 99, np.uint8)
    content = np.concatenate([coarse, labels[:, None], images.reshape(3, -1)], axis=1).tobytes()
    out_images, out_labels = parse_cifar(content, label_bytes)
    assert np.array_equal(out_images, images) and out_labels.tolist() == [7, 0, 9]


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_parse_cifar_errors(size):
    with pytest.raises(DataError, match=f"f: the size must be a multiple of a record's 3073 bytes, got {size}"):
        parse_cifar(bytes(size), 1, "f")


def test_read_npz_refuses_pickles_and_garbage():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{"a": 1}], dtype=object))
    for content in (buffer.getvalue(), b"garbage", buffer.getvalue()[:-30]):
        with pytest.raises(DataError, match="n: cannot be read"):
            read_npz(content, "n")
    good = io.BytesIO()
    np.savez(good, a=np.arange(3))
    assert read_npz(good.getvalue())["a"].tolist() == [0, 1, 2]
