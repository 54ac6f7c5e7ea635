"""minires' container: what comes back, and what is refused."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minires
from minires.errors import CheckpointError, UnsupportedError
from minires.io import archive
from minires.nn import Parameter
from minires.tensor import Tensor


def round_trip(obj: Any) -> Any:
    buffer = io.BytesIO()
    archive.save(obj, buffer)
    buffer.seek(0)
    return archive.load(buffer)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4).map(OrderedDict)
    ),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, all the way down (== alone takes 1 for True and 1.0 for 1)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True)) and len(a) == len(b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return bool(a == b)


@given(tree=trees)
def test_archive_gives_back_nested_values_with_their_types(tree: Any) -> None:
    assert same(round_trip(tree), tree)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 2**200, "\ud800", "[bold]", ""])
def test_archive_keeps_values_that_json_does_not_know(value: Any) -> None:
    back = round_trip([value])[0]
    assert type(back) is type(value)
    assert back == value or (value != value and back != back)


DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    ">f4",
    "complex64",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
def test_archive_keeps_arrays_bit_for_bit(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.arange(math.prod(shape)).reshape(shape) * 0.7).astype(dtype)
    back = round_trip({"a": array})["a"]
    assert back.dtype == array.dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


@pytest.mark.parametrize("form", ["transposed", "sliced", "negative", "fortran", "readonly"])
def test_archive_keeps_arrays_of_every_memory_form(form: str) -> None:
    base = np.arange(24.0).reshape(4, 6)
    array = {
        "transposed": base.T,
        "sliced": base[::2, 1::2],
        "negative": base[::-1, ::-1],
        "fortran": np.asfortranarray(base),
        "readonly": np.broadcast_to(base[0], (3, 6)),
    }[form]
    back = round_trip(array)
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


def test_archive_keeps_tensors_and_parameters() -> None:
    tensor = Tensor(np.arange(3.0), requires_grad=True)
    back = round_trip({"t": tensor, "p": Parameter(Tensor(np.ones((2, 2), np.float32))), "d": tensor.detach()})
    assert type(back["t"]) is Tensor
    assert back["t"].requires_grad
    assert isinstance(back["p"], Parameter)
    assert not back["d"].requires_grad
    np.testing.assert_array_equal(back["t"].detach().numpy(), [0, 1, 2])


def test_archive_keeps_ties() -> None:
    """One object twice comes back as one; two tensors over one memory share it again; its bytes are saved once."""
    weight = np.zeros(1000, np.float32)
    one = Tensor(weight)
    buffer = io.BytesIO()
    archive.save({"a": one, "again": one, "tied": Tensor(weight[:]), "apart": Tensor(weight.copy())}, buffer)
    assert len(buffer.getvalue()) < 2.5 * weight.nbytes
    buffer.seek(0)
    back = archive.load(buffer)
    assert back["a"] is back["again"]
    back["a"].array[0] = 7
    assert back["tied"].array[0] == 7
    assert back["apart"].array[0] == 0


def test_archive_keeps_a_state_dict() -> None:
    model = minires.nn.Sequential(minires.nn.Linear(3, 2), minires.nn.BatchNorm1d(2))
    state = round_trip(model.state_dict())
    assert isinstance(state, OrderedDict)
    other = minires.nn.Sequential(minires.nn.Linear(3, 2), minires.nn.BatchNorm1d(2))
    other.load_state_dict(state)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name].numpy(), value.numpy())


def test_archive_gives_the_same_bytes_for_the_same_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        archive.save({"x": Tensor(np.arange(5.0)), "n": 3}, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_archive_can_be_opened_by_other_tools(tmp_path: Path) -> None:
    archive.save({"x": Tensor(np.arange(5.0))}, tmp_path / "a.ckpt")
    with np.load(tmp_path / "a.ckpt", allow_pickle=False) as content:
        np.testing.assert_array_equal(content["arrays/0"], np.arange(5.0))


class Other:
    """An object that an archive cannot hold."""

    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (
            {"a": [1, Other()]},
            r"save: obj\['a'\]\[1\] is a Other, which an archive cannot hold; save its \.state_dict\(\)",
        ),
        ({"f": len}, r"save: obj\['f'\] is a builtin_function_or_method"),
        ({"s": {1, 2}}, r"save: obj\['s'\] is a set, .* save numbers, strings, lists"),
        ({"o": np.array([None])}, r"save: obj\['o'\] is an array of dtype object"),
    ],
)
def test_archive_save_names_what_it_cannot_hold(tmp_path: Path, obj: Any, message: str) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"older")
    with pytest.raises(UnsupportedError, match=message):
        archive.save(obj, path)
    assert path.read_bytes() == b"older"


def test_archive_save_refuses_a_cycle() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(UnsupportedError, match=r"nested deeper than 200 levels \(a cycle\?\)"):
        archive.save(cycle, io.BytesIO())


def good() -> bytes:
    buffer = io.BytesIO()
    archive.save({"w": Tensor(np.arange(100.0)), "epoch": 3}, buffer)
    return buffer.getvalue()


def load_bytes(content: bytes) -> Any:
    return archive.load(io.BytesIO(content))


def test_archive_load_refuses_every_truncation() -> None:
    content = good()
    for length in range(0, len(content), 7):
        with pytest.raises(CheckpointError):
            load_bytes(content[:length])


def test_archive_load_refuses_or_survives_every_flipped_byte() -> None:
    """A changed byte is found, or it stood where nothing depends on it (a date in the zip); never a wrong value."""
    content = good()
    found = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x5A
        try:
            back = load_bytes(bytes(damaged))
        except CheckpointError:
            found += 1
            continue
        assert back["epoch"] == 3
        np.testing.assert_array_equal(back["w"].numpy(), np.arange(100.0))
    assert found > 0.8 * len(content)


def rebuilt(change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The good file with members changed by hand, and CRCs that are right again: the attacker's way."""
    with zipfile.ZipFile(io.BytesIO(good())) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as new:
        for name, content in members.items():
            new.writestr(name, content)
    return buffer.getvalue()


def tree(members: dict[str, bytes], edit: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(members["tree.json"])
    edit(document)
    members["tree.json"] = json.dumps(document).encode()


def huge(members: dict[str, bytes]) -> None:
    """A header that claims 8 TB over 800 bytes of data."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    members["arrays/0.npy"] = header.getvalue() + b"\0" * 800
    tree(members, lambda document: document["arrays"][0].update(shape=[10**12]))


def objects(members: dict[str, bytes]) -> None:
    """An .npy of dtype object, whose content is a pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Other], dtype=object), allow_pickle=True)
    members["arrays/0.npy"] = buffer.getvalue()


def set_tree(value: Any) -> Callable[[dict[str, bytes]], None]:
    return lambda members: tree(members, lambda document: document.update(tree=value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (huge, "too few or too many"),
        (objects, "holds dtype object; only numbers and booleans are read"),
        (lambda m: m.pop("arrays/0.npy"), "damaged: KeyError"),
        (lambda m: m.update({"arrays/0.npy": m["arrays/0.npy"][:-8]}), "too few or too many"),
        (lambda m: m.update({"arrays/0.npy": b"\x93NUMPY\x01\x00\x08\x00(((((((("}), "damaged: TokenError"),
        (lambda m: m.update({"tree.json": b"{"}), "damaged: JSONDecodeError"),
        (lambda m: m.update({"tree.json": b"[" * 100_000}), "nested too deeply"),
        (lambda m: m.update({"tree.json": b'{"a": 1, "a": 2}'}), "a JSON object has a key twice"),
        (lambda m: m.update({"tree.json": b'{"a": NaN}'}), "NaN is not JSON"),
        (lambda m: m.update({"tree.json": b"[]"}), "does not say it is a minires-archive"),
        (lambda m: tree(m, lambda d: d.update(version=99)), "format version 99; this minires reads version 1"),
        (lambda m: tree(m, lambda d: d["arrays"][0].update(dtype="<f4")), r"is <f8 \(100,\), tree.json says <f4"),
        (set_tree({"tensor": -1}), "-1 is not the number of an array"),
        (set_tree({"tensor": 5}), "damaged: IndexError"),
        (set_tree({"dict": [[{"dict": []}, 1]]}), "damaged: TypeError"),
        (set_tree({"evil": 1}), "an unknown kind of value, 'evil'"),
        (set_tree({"tuple": 1, "dict": []}), "damaged: ValueError"),
        (lambda m: m.update({"tree.jsn": m.pop("tree.json")}), "a zip, but not one that minires wrote"),
    ],
)
def test_archive_load_refuses_a_forged_file(change: Callable[[dict[str, bytes]], None], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_bytes(rebuilt(change))


def test_archive_load_refuses_a_zip_bomb() -> None:
    def fill(members: dict[str, bytes]) -> None:
        members["arrays/1.npy"] = b"\0" * 10_000_000

    with pytest.raises(CheckpointError, match="claims more bytes than the file has"):
        load_bytes(rebuilt(fill, zipfile.ZIP_DEFLATED))


def test_archive_load_never_unpickles() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("the pickle was executed",)

    for protocol in (2, 4, 5):
        with pytest.raises(CheckpointError, match=r"a pickle, but not of torch\.save; minires reads no others"):
            load_bytes(pickle.dumps(Trap(), protocol))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Trap(), 2))
    assert repr(load_bytes(buffer.getvalue())) == "<Placeholder _pytest.outcomes._Fail()(...)>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"empty file \(0 bytes\)"),
        (b"PK\x03\x04 and no more", "cut short or damaged"),
        (b"\x89PNG\r\n\x1a\n", "an image, not a checkpoint"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08", "gzip-compressed"),
        (b"\x93NUMPY\x01\x00", "a single NumPy array"),
        ((2).to_bytes(8, "little") + b"{}  ", "safetensors: .*bytes that belong to no tensor"),
        (b"\0" * 257 + b"ustar" + b"\0" * 250, "a tar archive"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"hello", "not a checkpoint of minires"),
    ],
)
def test_archive_load_says_what_a_foreign_file_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        archive.load(path)
    assert str(path) in str(caught.value)


def test_archive_load_missing_file_folder_and_text_mode(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"load: there is no file .*nowhere"):
        archive.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is a folder, not a checkpoint file"):
        archive.load(tmp_path)
    with pytest.raises(CheckpointError, match="text mode; open it with mode 'rb'"):
        archive.load(io.StringIO("text"))  # type: ignore[arg-type]


@pytest.mark.parametrize("where", [None, "cpu", lambda storage, location: storage, {"cuda:0": "cpu"}])
def test_archive_load_takes_torchs_ways_to_say_cpu(where: Any) -> None:
    back = archive.load(io.BytesIO(good()), map_location=where, weights_only=False)
    np.testing.assert_array_equal(back["w"].numpy(), np.arange(100.0))


def test_archive_load_reads_what_torch_saved(tmp_path: Path) -> None:
    """Both forms, as tensors, ready for load_state_dict; tied tensors stay tied."""
    torch = pytest.importorskip("torch", reason="torch writes the file")
    weight = torch.arange(6.0).reshape(2, 3).T
    odd = torch.zeros(2, dtype=torch.complex64)  # minires has no complex tensors
    content = {"model": OrderedDict(a=weight, b=weight.detach(), p=torch.nn.Parameter(weight)), "n": 3, "odd": odd}
    for new in (True, False):
        path = tmp_path / "t.pt"
        torch.save((content, torch.nn.Linear(2, 2)), path, _use_new_zipfile_serialization=new)
        back, layer = minires.load(path)
        assert all(type(value) is Tensor and not value.requires_grad for value in back["model"].values())
        np.testing.assert_array_equal(back["model"]["a"].numpy(), weight.numpy())
        back["model"]["a"].array[0, 0] = 9
        assert back["model"]["b"].array[0, 0] == back["model"]["p"].array[0, 0] == 9
        assert back["n"] == 3
        assert isinstance(back["odd"], np.ndarray)
        assert type(layer.state["_parameters"]["weight"]) is Tensor
