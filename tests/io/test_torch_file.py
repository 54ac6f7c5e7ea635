"""Reading .pth files: equal to what torch itself saved and loads, in both forms, without torch; forgeries are refused."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import subprocess
import sys
import tarfile
import textwrap
import time
import tracemalloc
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
from minires.io import torch_tensors
from minires.io.torch_file import MAGIC, Placeholder, read_torch_file
from tests.io.test_pickle_reader import Call, attacks
from tests.torch_oracle import torch

FORMS = ["zip", "legacy"]
WIDER = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
WIDER += (torch.float8_e8m0fnu,)  # NumPy lacks these: they come as float32
LATE = (
    torch.uint16,
    torch.uint32,
    torch.uint64,
    *WIDER[1:],
)  # torch writes these in the legacy form, but cannot read them
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
]
DTYPES += [torch.uint8, torch.bool, torch.complex64, torch.complex128, *LATE]


def saved(obj: Any, form: str = "zip", **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=form == "zip", **options)
    return buffer.getvalue()


def read(content: bytes, **options: Any) -> Any:
    return read_torch_file(io.BytesIO(content), **options)


def same(ours: Any, theirs: Any) -> None:
    """Assert that a tree of ours is torch's tree, in structure, dtype, strides and bits."""
    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach()
        values = (theirs.float() if theirs.dtype in WIDER else theirs).resolve_conj().resolve_neg().numpy()
        assert type(ours) is np.ndarray
        assert (ours.dtype, ours.shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(ours, values)
        if ours.dtype.kind == "f":  # -0 is not 0
            np.testing.assert_array_equal(np.signbit(ours), np.signbit(values))
        assert ours.flags.writeable
        return
    if isinstance(theirs, torch.Size):
        theirs = tuple(theirs)
    if isinstance(theirs, (dict, list, tuple)):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for a, b in zip(
            ours.items() if isinstance(ours, dict) else ours,
            theirs.items() if isinstance(theirs, dict) else theirs,
            strict=True,
        ):
            same(a, b)
    elif isinstance(theirs, argparse.Namespace):
        assert (ours.module, ours.name) == ("argparse", "Namespace")
        same(ours.state, vars(theirs))
    elif isinstance(theirs, (torch.dtype, torch.device, np.generic, np.ndarray)):
        assert type(ours) is Placeholder
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs or theirs != theirs


def content_of(dtype: Any, count: int) -> Any:
    """`count` elements of any dtype, from all its bit patterns."""
    width = torch.empty(0, dtype=dtype).element_size()
    raw = np.random.default_rng(count).integers(0, 256, count * width, dtype=np.uint8)
    if dtype == torch.bool:
        raw &= 1
    return torch.frombuffer(bytearray(raw.tobytes()), dtype=dtype) if count else torch.empty(0, dtype=dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (7,), (0,), (2, 0, 3), (2, 3, 4)])
def test_read_torch_file_reads_every_dtype(dtype: Any, shape: tuple[int, ...], form: str) -> None:
    tensor = content_of(dtype, int(np.prod(shape))).reshape(shape)
    content = saved({"t": tensor}, form)
    same(read(content), {"t": tensor})
    if form == "zip" or dtype not in LATE:
        same(read(content), torch.load(io.BytesIO(content)))


@pytest.mark.parametrize("dtype", WIDER, ids=str)
def test_read_torch_file_widens_every_bit_pattern(dtype: Any) -> None:
    bits = np.arange(65536, dtype=np.uint16) if dtype == torch.bfloat16 else np.arange(256, dtype=np.uint8)
    tensor = torch.from_numpy(bits).view(dtype)
    same(read(saved(tensor)), tensor)


BASE = torch.arange(120.0).reshape(2, 3, 4, 5)
VIEWS = {
    "transposed": BASE.transpose(1, 3),
    "channels_last": BASE.to(memory_format=torch.channels_last),
    "slice": BASE[1:, 1:, 2:, 3:],
    "steps": BASE[:, ::2, 1::2, ::3],
    "column": BASE[:, 2, 1],
    "scalar": BASE[1, 2, 3, 4],
    "empty": BASE[:, 3:],
    "one": BASE[:1, :, :1],
    "expanded": BASE[:, :1].expand(2, 3, 4, 5),
    "expanded scalar": torch.tensor(3.0).expand(4, 2),
    "overlapping": torch.arange(10.0).unfold(0, 4, 1),
    "diagonal": BASE[0, 0].diagonal(),
    "conjugate": torch.arange(6).to(torch.complex64).mul(1 + 2j).reshape(2, 3).T.conj(),
    "negated": torch.arange(6).to(torch.complex64).mul(1 + 2j).conj().imag,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", VIEWS)
def test_read_torch_file_reads_views(name: str, form: str) -> None:
    tensor = VIEWS[name]
    back = read(saved(tensor, form))
    same(back, tensor)
    if name not in ("expanded", "expanded scalar", "overlapping", "negated", "conjugate", "empty"):
        assert [n // back.itemsize for n in back.strides] == list(tensor.stride())


def test_read_torch_file_copies_what_overlaps_itself() -> None:
    """Writing one element changes one element, which NumPy would not promise for stride 0."""
    back = read(saved(torch.tensor(3.0).expand(4, 2)))
    back[0, 0] = 7
    assert back.sum() == 7 + 7 * 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint16], ids=str)
def test_read_torch_file_keeps_ties(dtype: Any, form: str) -> None:
    weight = torch.arange(12).to(dtype).reshape(3, 4)
    tree = {
        "a": weight,
        "b": weight.view(3, 4),
        "t": weight.T,
        "p": torch.nn.Parameter(weight, False),
        "c": weight.clone(),
    }
    back = read(saved(tree, form))
    assert back["a"] is back["b"]
    assert back["a"] is back["p"]
    back["a"][0, 1] = 99
    assert back["t"][1, 0] == 99
    assert back["c"][0, 1] == 1


def training_checkpoint() -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 2)
    )
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 10)
    model(torch.randn(2, 3, 4, 4)).square().sum().backward()
    for step in (sgd, adam, schedule):
        step.step()
    return {
        "state_dict": OrderedDict(("module." + k, v) for k, v in model.state_dict().items()),
        "model": model.state_dict(),
        "sgd": sgd.state_dict(),
        "adam": adam.state_dict(),
        "schedule": schedule.state_dict(),
        "args": argparse.Namespace(lr=0.1, milestones=[30, 60], name=None, data="/data"),
        "best": np.float64(93.5),
        "history": np.arange(5.0),
        "epoch": 17,
        "big": 2**80,
        "device": torch.device("cuda:0"),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "rng": torch.get_rng_state(),
        "flags": (True, None, "é\ud800", b"\x00\xff", {1: "a", (2, 3): "b"}, float("nan")),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", FORMS)
def test_read_torch_file_reads_training_checkpoints(form: str, protocol: int) -> None:
    content = saved(training_checkpoint(), form, pickle_protocol=protocol)
    back = read(content)
    same(back, torch.load(io.BytesIO(content), weights_only=False))
    assert back["model"]._metadata[""] == {"version": 1}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_read_torch_file_reads_whole_modules_as_placeholders(form: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    back = read(saved({"model": model, "sparse": torch.eye(2).to_sparse(), "class": torch.nn.Linear}, form))
    layer = back["model"].state["_modules"]["0"]
    assert (layer.module, layer.name) == ("torch.nn.modules.linear", "Linear")
    same(layer.state["_parameters"], dict(model[0].named_parameters()))
    same(back["model"].state["_modules"]["1"].state["_buffers"], dict(model[1].named_buffers()))
    assert back["sparse"].name == "_rebuild_sparse_tensor"
    assert back["class"].args is None


def test_read_torch_file_reads_tensors_with_attributes_and_of_subclasses() -> None:
    tensor, parameter = torch.arange(3.0), torch.nn.Parameter(torch.arange(4.0))
    tensor.note = parameter.note = "kept by torch, dropped here"
    buffer = torch.nn.Buffer(torch.arange(5.0))
    same(read(saved([tensor, parameter, buffer])), [tensor, parameter, buffer])


def test_read_torch_file_reads_what_older_versions_wrote() -> None:
    """`_rebuild_tensor` without a suffix, a storage of torch.cuda, and storages that are views of others."""
    storage = torch.arange(12.0)._typed_storage()
    old = Call(torch._utils._rebuild_tensor, storage, 2, (2, 3), (3, 1))
    for form in FORMS:
        np.testing.assert_array_equal(read(saved(old, form)), [[2, 3, 4], [5, 6, 7]])
    content = saved(torch.arange(12.0), "legacy").replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")
    np.testing.assert_array_equal(read(content), np.arange(12))
    content = saved(torch.arange(12.0)[:3], "legacy")
    view = content.replace(b"K\x0cNtq", b"K\x0c(X\x01\0\0\0vK\x04K\x05ttq")
    assert view != content
    np.testing.assert_array_equal(read(view), [4, 5, 6])
    with pytest.raises(CheckpointError, match=r"a view of bytes 32 to 52 of storage '.*', which has 48"):
        read(content.replace(b"K\x0cNtq", b"K\x0c(X\x01\0\0\0vK\x08K\x05ttq"))
    with pytest.raises(CheckpointError, match="has a malformed view"):
        read(content.replace(b"K\x0cNtq", b"K\x0cK\x01tq"))
    with pytest.raises(CheckpointError, match="reaches to element 2 of a storage of 2"):
        read(content.replace(b"K\x0cNtq", b"K\x0c(X\x01\0\0\0vK\x04K\x02ttq"))


# --- zips, taken apart and put together again -------------------------------------------------------------------------


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def changed(content: bytes, **changes: bytes | None) -> bytes:
    """A zip with members replaced or, by None, left out; CRCs are right: the forger's way. `_` stands for `/`."""
    members = members_of(content)
    for name, new in changes.items():
        members[f"archive/{name.replace('_', '/')}"] = new  # type: ignore[assignment]
    return zipped({name: new for name, new in members.items() if new is not None})


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d not in LATE], ids=str)
def test_read_torch_file_reads_big_endian_files(dtype: Any) -> None:
    tensor = content_of(dtype, 6)
    width = tensor.element_size() // (2 if dtype.is_complex else 1)
    raw = np.frombuffer(members_of(saved(tensor))["archive/data/0"], np.uint8).reshape(-1, width)[:, ::-1].tobytes()
    content = changed(saved(tensor), byteorder=b"big", data_0=raw)
    same(read(content), tensor)
    same(read(content), torch.load(io.BytesIO(content)))


def test_read_torch_file_takes_files_without_byteorder_or_version() -> None:
    content = saved(torch.arange(5))
    same(read(changed(content, byteorder=None, version=None)), torch.arange(5))


def test_read_torch_file_reads_files_without_crc_and_refuses_a_wrong_one() -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        content = saved(torch.arange(300))
    finally:
        torch.serialization.set_crc32_options(before)
    same(read(content), torch.arange(300))
    content = saved(torch.arange(300))
    place = content.index((7).to_bytes(8, "little"))
    with pytest.raises(CheckpointError, match=r"archive/data/0 is damaged: its CRC-32 does not fit\. Use another copy"):
        read(content[:place] + b"\x08" + content[place + 1 :])


def test_read_torch_file_counts_memory_against_max_bytes() -> None:
    for form in FORMS:
        content = saved(torch.zeros(1000), form)
        same(read(content, max_bytes=6000), torch.zeros(1000))
        with pytest.raises(CheckpointError, match="its tensors need more than max_bytes = 3,000"):
            read(content, max_bytes=3000)


@pytest.mark.parametrize("form", FORMS)
def test_read_torch_file_takes_paths_and_every_kind_of_file(tmp_path: Path, form: str) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self.content = content

        def read(self, size: int = -1) -> bytes:
            assert size == -1
            return self.content

    path = tmp_path / "a.pth"
    torch.save(torch.arange(5), path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    behind = io.BytesIO(b"before" + content)
    behind.seek(6)
    with open(path, "rb") as buffered, open(path, "rb", buffering=0) as bare:
        for source in (path, str(path), buffered, bare, io.BytesIO(content), behind, Pipe(content)):
            same(read_torch_file(source), torch.arange(5))  # type: ignore[arg-type]


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
    "far away": (far_away, "is not that of the directory"),
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


def test_read_torch_file_makes_bools_of_any_bytes() -> None:
    back = read(changed(saved(torch.tensor([True, False, True])), data_0=b"\x02\0\xff"))
    assert back.view(np.uint8).tolist() == [1, 0, 1]


def test_read_torch_file_refuses_one_storage_in_ever_more_dtypes() -> None:
    storage = torch.zeros(1 << 20, dtype=torch.uint8).untyped_storage()
    tree = [lie_v3(dtype, storage=storage) for dtype in WIDER[1:]]
    with pytest.raises(CheckpointError, match="in more dtypes than the tensors of a checkpoint have"):
        cheaply(lambda: read(saved(tree)))


# --- whatever the bytes are -------------------------------------------------------------------------------------------


def cheaply(call: Callable[[], Any]) -> Any:
    """Runs `call`: in under a second (of this process, with the tracing that slows it), with less than 50 MB."""
    tracemalloc.start()
    start = time.process_time()
    try:
        return call()
    finally:
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds < 1
        assert peak < 50e6


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


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
shapes = st.lists(st.integers(0, 4), max_size=4)
tensors = st.builds(
    lambda dtype, shape, order: (
        content_of(dtype, int(np.prod(shape))).reshape(shape).permute(order.permutation(len(shape)).tolist())
    ),
    st.sampled_from([dtype for dtype in DTYPES if dtype not in LATE]),
    shapes,
    st.integers(0, 99).map(np.random.default_rng),
)
trees = st.recursive(
    scalars | tensors | tensors.map(lambda t: t[..., 1:] if t.ndim else t),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(-9, 9), inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4).map(OrderedDict)
        | st.lists(inner, min_size=1, max_size=2).map(lambda items: [items[0], items[0], items])
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(tree=trees, protocol=st.integers(2, 5))
@pytest.mark.parametrize("form", FORMS)
def test_read_torch_file_gives_what_was_saved(form: str, tree: Any, protocol: int) -> None:
    same(read(saved(tree, form, pickle_protocol=protocol)), tree)


def test_read_torch_file_needs_numpy_alone(tmp_path: Path) -> None:
    """In a process of its own, where whatever is neither Python's, NumPy's nor ours cannot be imported."""
    for form in FORMS:
        (tmp_path / f"{form}.pth").write_bytes(saved(training_checkpoint(), form))
    program = """
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] not in sys.stdlib_module_names | {"numpy", "minires"}:
                    raise ImportError(name + " is blocked")
        sys.meta_path.insert(0, Block())
        import numpy, minires
        from minires.io.torch_file import read_torch_file
        for path in sys.argv[1:]:
            tree = read_torch_file(path)
            print(tree["epoch"], tree["model"]["0.weight"].shape, tree["args"].state["lr"], type(minires.load(path)["rng"]))
        assert "torch" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stderr == ""
    assert done.stdout == "17 (4, 3, 3, 3) 0.1 <class 'minires.tensor.Tensor'>\n" * 2


def test_float8_tables_are_strictly_ordered() -> None:
    """Without torch as the judge: positive values grow with their bits up to the largest finite one, as published."""
    for name, largest in (
        ("float8_e4m3fn", 448.0),
        ("float8_e5m2", 57344.0),
        ("float8_e4m3fnuz", 240.0),
        ("float8_e5m2fnuz", 57344.0),
        ("float8_e8m0fnu", 2.0**127),
    ):
        table = torch_tensors._FLOAT8[name]()
        positive = table[:255] if name == "float8_e8m0fnu" else table[:128]
        positive = positive[np.isfinite(positive)]
        assert np.all(np.diff(positive) > 0)
        assert positive[-1] == largest
