"""Forged, damaged and hostile .pth files: each is one CheckpointError, or read rightly; cheaply, and nothing runs."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.errors import CheckpointError
from minires.io.torch_file import MAGIC, read_torch_file
from tests.io.test_pickle_reader import Call, attacks
from tests.io.torch_files import (
    FORMS,
    WIDER,
    changed,
    cheaply,
    members_of,
    read,
    same,
    saved,
    zipped,
)
from tests.torch_oracle import torch


def test_read_torch_file_refuses_what_is_no_file_of_torch(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"read_torch_file: there is no file .*nowhere"):
        read_torch_file(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is a folder, not a checkpoint file"):
        read_torch_file(tmp_path)
    with pytest.raises(CheckpointError, match="text mode; open it with mode 'rb'"):
        read_torch_file(io.StringIO("text"))  # type: ignore[arg-type]
    path = tmp_path / "a.pth"
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "pickle")
    for content, message in [
        (path.read_bytes(), "a tar archive, the form of torch 0.1"),
        (b"", "empty file"),
        (b"<html>", "a web page"),
        (pickle.dumps({"w": [1.0]}, 2), r"a pickle, but not of torch\.save"),
        (saved([1], "legacy").replace(MAGIC, MAGIC[:-2] + b"\x51."), r"a pickle, but not of torch\.save"),
        (saved([1], "legacy").replace(b"M\xe9\x03.", b"M\xe8\x03.", 1), "its version is not 1001"),
        (zipped({"a.npy": b""}), "a zip with 0 members FOLDER/data.pkl; torch.save writes one"),
        (zipped({"a/b/data.pkl": b""}), "a zip with 0 members"),
        (zipped({"a/data.pkl": b"", "b/data.pkl": b""}), "a zip with 2 members"),
        (zipped({"a/data.pkl": b"", "a/constants.pkl": b""}), "a TorchScript program"),
        (b"PK\x03\x04" + b"\0" * 100, "a zip that is cut short or damaged"),
    ]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            read_torch_file(path)
        assert str(caught.value).startswith(f"read_torch_file: {path}: ")


def local_name(content: bytes) -> bytes:
    """Another name in the header before data/0 than in the directory."""
    return content.replace(b"archive/data/0", b"archive/data/1", 1)


def flagged(content: bytes) -> bytes:
    """The bit "encrypted" in the directory's entry of the first member."""
    place = content.index(b"PK\x01\x02") + 8
    return content[:place] + b"\x01" + content[place + 1 :]


def locally_flagged(content: bytes) -> bytes:
    """The bit "encrypted" in the header before the pickle alone."""
    assert content[30:].startswith(b"archive/data.pkl")
    return content[:6] + bytes([content[6] | 1]) + content[7:]


def over_the_end(content: bytes) -> bytes:
    """data/0 claims, in the directory and in the pickle, to go on through the directory and one byte further."""
    members = members_of(content)
    pkl = members["archive/data.pkl"].replace(b"FloatStorage", b"ByteStorage")
    for _ in range(2):  # the first round shows how long the directory is
        file = zipped({"archive/data.pkl": pkl, "archive/data/0": b"\0" * 40})
        size = 40 + len(file) - file.index(b"PK\x01\x02") + 1
        pkl = pkl.replace(b"K\nt", b"M" + size.to_bytes(2, "little") + b"t")
    place = file.rindex(b"archive/data/0") - 46 + 20
    return file[:place] + 2 * size.to_bytes(4, "little") + file[place + 8 :]


def far_away(content: bytes) -> bytes:
    """The directory says that data/0 begins behind the end of the file's data."""
    place = content.rindex(b"archive/data/0") - 4
    return content[:place] + len(content).to_bytes(4, "little") + content[place + 4 :]


def overlapping(content: bytes) -> bytes:
    """Members lie over one another: each directory entry claims all of the file."""
    size = (len(content) - 10).to_bytes(4, "little")
    return re.sub(rb"(PK\x01\x02.{16}).{8}", lambda match: match[1] + size + size, content, flags=re.DOTALL)


def duplicate(content: bytes) -> bytes:
    members = members_of(content)
    members["archive/data/1"] = members["archive/data/0"]
    return zipped(members).replace(b"archive/data/1", b"archive/data/0")


FORGERIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "deflated": (lambda c: zipped(members_of(c), zipfile.ZIP_DEFLATED), "is compressed; torch stores its records"),
    "bomb": (lambda c: zipped(members_of(c) | {"archive/x": b"\0" * 10**7}, zipfile.ZIP_DEFLATED), "is compressed"),
    "duplicate": (duplicate, "two members have the name 'archive/data/0'"),
    "encrypted": (flagged, "is encrypted"),
    "encrypted locally": (locally_flagged, "is not that of the directory"),
    "over the end": (over_the_end, "archive/data/0 reaches over the end of the file"),
    "parent": (lambda c: zipped(members_of(c) | {"archive/../x": b""}), "is not a plain name"),
    "absolute": (lambda c: zipped(members_of(c) | {"/etc/x": b""}), "is not a plain name"),
    "backslash": (lambda c: zipped(members_of(c) | {"archive\\x": b""}), "is not a plain name"),
    "drive": (lambda c: zipped(members_of(c) | {"C:x": b""}), "is not a plain name"),
    "nul": (lambda c: zipped(members_of(c) | {"archive/y_z": b""}).replace(b"y_z", b"y\0z"), "is not a plain name"),
    "other header": (local_name, "the header before its data is not that of the directory"),
    "far away": (far_away, "a member begins outside of the file"),
    "overlapping": (overlapping, "its members claim more bytes than the file has"),
    "storage missing": (lambda c: changed(c, data_0=None), "there is no member archive/data/0"),
    "storage short": (lambda c: changed(c, data_0=b"\0" * 8), "archive/data/0 has 8 bytes, the pickle says 40"),
    "storage long": (lambda c: changed(c, data_0=b"\0" * 48), "archive/data/0 has 48 bytes, the pickle says 40"),
    "byteorder": (lambda c: changed(c, byteorder=b"middle"), "byteorder is b'middle'; it must be little or big"),
    "byteorder long": (lambda c: changed(c, byteorder=b"x" * 99), "has 99 bytes, more than the 16 that belong there"),
    "behind the pickle": (lambda c: changed(c, **{"data.pkl": b"\x80\x02N.N."}), "data.pkl goes on after its end"),
    "empty pickle": (lambda c: changed(c, **{"data.pkl": b""}), "cut short"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_read_torch_file_refuses_forged_zips(name: str) -> None:
    forge, message = FORGERIES[name]
    content = forge(saved(torch.arange(10.0)))
    with pytest.raises(CheckpointError, match=message):
        read(content)


KEYS = re.compile(rb"(\]q\0)(X.{4}\d+q\x01)(a\.)", re.DOTALL)  # the list of the one storage's key
LEGACY_FORGERIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "short": (lambda c: c[:-1], "cut short: storage '.*' has 40 bytes, 39 are left"),
    "no count": (lambda c: c[:-44], "cut short: storage '.*' has 40 bytes, 0 are left"),
    "count": (lambda c: c[:-48] + (11).to_bytes(8, "little") + c[-40:], "has 11 elements, the pickle says 10"),
    "negative": (lambda c: c[:-48] + b"\xff" * 8 + c[-40:], "has -1 elements, the pickle says 10"),
    "huge": (lambda c: c.replace(b"K\nNt", b"J\0\0\0\x7fNt"), "has 8522825728 bytes, 40 are left"),
    "no keys": (lambda c: KEYS.sub(lambda found: b"]q\0.", c), "does not have the keys"),
    "not keys": (lambda c: KEYS.sub(lambda found: b"N.", c), "does not have the keys"),
    "twice": (lambda c: KEYS.sub(lambda found: b"](" + 2 * found[2] + b"e.", c), "has a key twice"),
}


@pytest.mark.parametrize("name", LEGACY_FORGERIES)
def test_read_torch_file_refuses_forged_streams(name: str) -> None:
    forge, message = LEGACY_FORGERIES[name]
    content = saved(torch.arange(10.0), "legacy")
    assert forge(content) != content
    with pytest.raises(CheckpointError, match=message):
        read(forge(content))


# --- lies about tensors -----------------------------------------------------------------------------------------------

STORAGE = torch.arange(10.0)._typed_storage()
RAW = torch.arange(10.0).untyped_storage()


def lie(offset: Any = 0, size: Any = (10,), stride: Any = (1,), *rest: Any, storage: Any = STORAGE) -> Any:
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict(), *rest)


def lie_v3(dtype: Any, size: Any = (1,), storage: Any = RAW) -> Any:
    return Call(torch._utils._rebuild_tensor_v3, storage, 0, size, (1,), False, OrderedDict(), dtype)


LIES = {
    "size": (lie(size=(11,)), "reaches to element 10 of a storage of 10"),
    "offset": (lie(offset=1), "reaches to element 10 of a storage of 10"),
    "stride": (lie(size=(5,), stride=(3,)), "reaches to element 12 of a storage of 10"),
    "negative offset": (lie(offset=-1), "must be integers from 0"),
    "negative stride": (lie(offset=9, stride=(-1,)), "must be integers from 0"),
    "negative size": (lie(size=(-1,)), "must be integers from 0"),
    "huge": (lie(size=(2**62,)), "reaches to element"),
    "overflow": (lie(size=(2**32, 2**32), stride=(2**33, 2**33)), "reaches to element"),
    "beyond 64 bits": (lie(size=(2**80,)), "must be integers from 0"),
    "wraps to empty": (lie(size=(2**62, 0, 2**62), stride=(1, 1, 1)), "ValueError"),
    "terabytes of nothing": (lie(size=(10**9, 1000), stride=(0, 0)), "repeats its elements up to 4000000000000 bytes"),
    "one step": (lie(size=(10**7, 2), stride=(0, 1)), "repeats its elements up to 80000000 bytes"),
    "too often": ([lie(size=(n, 1000), stride=(0, 0)) for n in range(200, 206)], "repeats its elements"),
    "ranks": (lie(size=(2, 5)), "two tuples of one length"),
    "many dimensions": (lie(size=(1,) * 33, stride=(1,) * 33), "two tuples of one length, at most 32"),
    "list": (lie(size=[10]), "two tuples of one length"),
    "bool": (lie(offset=False), "must be integers from 0"),
    "float": (lie(size=(10.0,)), "must be integers from 0"),
    "no storage": (lie(storage="0"), "a tensor whose storage is not one"),
    "tensor as storage": (lie(storage=torch.arange(10.0)[:5]), "a tensor whose storage is not one"),
    "metadata": (lie(0, (10,), (1,), {"neg": 1}), "malformed metadata"),
    "metadata kind": (lie(0, (10,), (1,), ["neg"]), "malformed metadata"),
    "too few": (Call(torch._utils._rebuild_tensor_v2, STORAGE), "not enough values to unpack"),
    "none": (Call(torch._utils._rebuild_parameter), "IndexError"),
    "parameter": (Call(torch._utils._rebuild_parameter, 3, True, None), "a parameter whose data is not a tensor"),
    "Size": (Call(torch.Size, ("a",)), "torch.Size is made from something that is not a list of integers"),
    "from type": (Call(torch._tensor._rebuild_from_type_v2, 1), "not enough values to unpack"),
    "dtype": (lie_v3(torch.float32, (11,)), "reaches to element 10 of a storage of 10"),
    "no dtype": (lie_v3("float32"), "whose storage or dtype is not one"),
    "unknown dtype": (lie_v3(torch.float4_e2m1fn_x2), "tensors of dtype float4_e2m1fn_x2 are not read"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LIES)
def test_read_torch_file_refuses_lies_about_tensors(name: str, form: str) -> None:
    content, message = saved({"w": LIES[name][0]}, form), LIES[name][1]
    with pytest.raises(CheckpointError, match=message):
        cheaply(lambda: read(content))


def test_read_torch_file_reads_true_calls_like_those() -> None:
    """The lies fail for what they say, not for how they are made."""
    tree = [lie(), lie(2, (2, 3), (3, 1)), lie_v3(torch.float32), lie(0, (2,), (1,), {"neg": True})]
    whole, part, raw, negated = read(saved(tree))
    np.testing.assert_array_equal(whole, np.arange(10))
    np.testing.assert_array_equal(part, [[2, 3, 4], [5, 6, 7]])
    np.testing.assert_array_equal(raw, [0])
    np.testing.assert_array_equal(negated, [0, -1])


def test_read_torch_file_refuses_lies_about_storages() -> None:
    content = members_of(saved(torch.arange(10.0)))["archive/data.pkl"]
    for old, new, message in [
        (b"K\nt", b"K\x0bt", "archive/data/0 has 40 bytes, the pickle says 44"),
        (b"K\nt", b"J\xff\xff\xff\xfft", "has a size that is not a count"),
        (b"K\nt", b"\x88t", "has a size that is not a count"),
        (b"FloatStorage", b"DoubleStorage", "archive/data/0 has 40 bytes, the pickle says 80"),
        (b"FloatStorage", b"QUInt4x2Storage", "a storage of kind QUInt4x2Storage is not read"),
        (b"ctorch\nFloatStorage", b"cevil\nFloatStorage", "whose class is not one of torch's"),
        (b"ctorch\nFloatStorage\n", b"N", "whose class is not one of torch's"),
        (b"X\x07\0\0\0storage", b"X\x07\0\0\0storagf", "not that of a storage"),
        (b"X\x01\0\0\0000", b"X\x06\0\0\0../../", r"there is no member archive/data/\.\./\.\./"),
        (b"X\x01\0\0\0000", b"K\0", "whose key is not a short text"),
    ]:
        assert content.count(old) == 1
        with pytest.raises(CheckpointError, match=message):
            read(changed(saved(torch.arange(10.0)), **{"data.pkl": content.replace(old, new)}))


def test_read_torch_file_refuses_one_storage_in_two_sizes() -> None:
    content = saved([torch.arange(10.0), torch.arange(3.0)])
    pkl = members_of(content)["archive/data.pkl"].replace(b"X\1\0\0\0001", b"X\1\0\0\0000")
    with pytest.raises(CheckpointError, match="storage '0' has 40 bytes, the pickle says 12"):
        read(changed(content, **{"data.pkl": pkl}))


def test_read_torch_file_refuses_one_storage_in_ever_more_dtypes() -> None:
    storage = torch.zeros(1 << 20, dtype=torch.uint8).untyped_storage()
    tree = [lie_v3(dtype, storage=storage) for dtype in WIDER[1:]]
    with pytest.raises(CheckpointError, match="in more dtypes than the tensors of a checkpoint have"):
        cheaply(lambda: read(saved(tree)))


# --- whatever the bytes are -------------------------------------------------------------------------------------------


def small_checkpoint() -> dict[str, Any]:
    weight = torch.arange(6.0).reshape(2, 3)
    return {"model": OrderedDict(w=weight, t=weight.T, h=weight.half()), "args": argparse.Namespace(lr=0.1), "epoch": 3}


def tree_or_error(content: bytes) -> Any:
    try:
        return cheaply(lambda: read(content))
    except CheckpointError as error:
        assert str(error).startswith("read_torch_file: <file object>: ")
        return None


@pytest.mark.parametrize("form", FORMS)
def test_read_torch_file_refuses_every_truncation(form: str) -> None:
    content = saved(small_checkpoint(), form)
    for length in [*range(0, len(content), 64), *range(len(content) - 60, len(content))]:
        with pytest.raises(CheckpointError):
            cheaply(lambda: read(content[:length]))


def test_read_torch_file_finds_or_survives_every_flipped_byte_of_a_zip() -> None:
    """Checksums cover what matters; a change elsewhere (dates, padding) changes nothing."""
    tree = small_checkpoint()
    content = saved(tree)
    found = 0
    for place in range(0, len(content), 2):
        damaged = bytearray(content)
        damaged[place] ^= 0x5A
        back = tree_or_error(bytes(damaged))
        if back is None:
            found += 1
        else:
            same(back, tree)
    assert found > 0.3 * len(content) / 2


def test_read_torch_file_survives_every_flipped_byte_of_the_pickle() -> None:
    """With the checksum made right again, or in the legacy form, which has none: a tree or one error, and cheaply."""
    content = saved(small_checkpoint())
    inner = members_of(content)["archive/data.pkl"]
    stream = saved(small_checkpoint(), "legacy")
    refused = 0
    for place in range(len(inner)):
        damaged = bytearray(inner)
        damaged[place] ^= (0x01, 0x5A, 0x80, 0xFF)[place % 4]
        refused += tree_or_error(changed(content, **{"data.pkl": bytes(damaged)})) is None
    for place in range(len(stream)):
        damaged = bytearray(stream)
        damaged[place] ^= (0xFF, 0x80, 0x5A, 0x01)[place % 4]
        refused += tree_or_error(bytes(damaged)) is None
    assert refused > 0.3 * (len(inner) + len(stream))


@settings(deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=6), st.integers(0, 6)), min_size=1, max_size=3)
)
@pytest.mark.parametrize("form", FORMS)
def test_read_torch_file_survives_any_edits(form: str, edits: list[tuple[int, bytes, int]]) -> None:
    content = saved(small_checkpoint(), form)
    inner = members_of(content)["archive/data.pkl"] if form == "zip" else content
    for place, new, cut in edits:
        place %= len(inner)
        inner = inner[:place] + new + inner[place + cut :]
    tree_or_error(changed(content, **{"data.pkl": inner}) if form == "zip" else inner)


@pytest.mark.parametrize("name", sorted(attacks(Path("x"))))
def test_read_torch_file_runs_nothing(tmp_path: Path, name: str) -> None:
    attack = attacks(tmp_path / "canary")[name]
    benign = saved({"w": torch.arange(10.0)}, "legacy")
    inert = pickle.dumps(attack, 2)
    contents = [saved({"w": torch.arange(3.0), "x": attack}, form) for form in FORMS]
    contents += [
        benign.replace(MAGIC, inert[2:]),
        inert + benign,
        re.sub(rb"}q\0\(X\x10.*?u\.", lambda _: inert[2:], benign),
    ]
    contents += [zipped({"archive/data.pkl": inert})]
    for content in contents:
        try:
            back = cheaply(lambda: read(content))
        except CheckpointError:
            continue
        if isinstance(back, dict) and "x" in back:
            np.testing.assert_array_equal(back["w"], [0, 1, 2])  # the weights come out all the same
    assert list(tmp_path.iterdir()) == []
