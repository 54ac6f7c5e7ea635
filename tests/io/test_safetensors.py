"""safetensors: byte for byte what the official package writes, the values it reads, and no file that breaks the rules."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minires
from minires.errors import ArgumentError, CheckpointError, DTypeError
from minires.io.safetensors import SafetensorsFile, is_safetensors, load_file, save_file
from minires.tensor import Tensor
from tests.strategies import in_memory_form, memory_forms, shapes

DTYPES = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
]
FLOAT8 = ["e5m2", "e8m0fnu", "e4m3fnuz", "e5m2fnuz"]
SECONDS, MEGABYTES = 1.0, 50  # what a hostile file may cost


@pytest.fixture(scope="module")
def official() -> Any:
    return pytest.importorskip("safetensors.numpy", reason="the official package, the judge, is not installed")


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random bits that are values of the dtype; NaN and infinities too."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape).astype(bool))
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(rng.bytes(count), dtype).reshape(shape)


def saved(tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    save_file(tensors, buffer, metadata)
    return buffer.getvalue()


def load_bytes(content: bytes) -> dict[str, np.ndarray]:
    return load_file(io.BytesIO(content))


@given(
    st.lists(st.tuples(st.text(max_size=5), st.sampled_from(DTYPES), shapes(), memory_forms()), max_size=4),
    st.none() | st.tuples(st.text(max_size=5), st.text(max_size=5)),
)
def test_save_file_gives_the_official_bytes(official: Any, drawn: list[Any], pair: tuple[str, str] | None) -> None:
    """From every memory form; the official writer gets contiguous copies, since 0.8.0 writes others wrongly."""
    arrays = {name: numbers(dtype, shape) for name, dtype, shape, _ in drawn if name != "__metadata__"}
    forms = {name: in_memory_form(arrays[name], form) for name, _, _, form in drawn if name in arrays}
    metadata = dict([pair]) if pair else None
    expected = official.save({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}, metadata)
    assert saved(forms, metadata) == expected


@given(st.lists(st.tuples(st.text(max_size=5), st.sampled_from(DTYPES), shapes()), max_size=4))
def test_load_file_reads_what_the_official_package_writes(official: Any, drawn: list[Any]) -> None:
    arrays = {name: numbers(dtype, shape) for name, dtype, shape in drawn if name != "__metadata__"}
    back = load_bytes(official.save(arrays, {"format": "np"}))
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
        assert back[name].flags.writeable
        assert back[name].flags.c_contiguous


def test_save_file_writes_every_memory_form_as_its_values() -> None:
    base = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    forms = {
        "channels_last": np.ascontiguousarray(base.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "fortran": np.asfortranarray(base),
        "negative": base[::-1, :, ::-1],
        "step": base[:, ::2, 1::3],
        "broadcast": np.broadcast_to(base[0, 0, 0], (3, 5)),
        "big_endian": base.astype(">f4"),
        "scalar": np.float32(3),
        "tensor": Tensor(base.T),
    }
    back = load_bytes(saved(forms))
    for name, array in forms.items():
        expected = array.array if isinstance(array, Tensor) else array
        np.testing.assert_array_equal(back[name], expected)
        assert back[name].shape == np.shape(expected)


def test_load_file_decodes_what_numpy_lacks_as_torch_does(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch knows bfloat16 and float8")
    save = pytest.importorskip("safetensors.torch", reason="the official package writes the file").save_file
    tensors = {
        "bf16": torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16),
        "e4m3": torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn).reshape(16, 16),
        **{name: torch.arange(256).to(torch.uint8).view(getattr(torch, f"float8_{name}")) for name in FLOAT8},
        "scalar": torch.tensor(1.5, dtype=torch.bfloat16),
    }
    save(tensors, tmp_path / "a.safetensors")
    back = load_file(tmp_path / "a.safetensors")
    for name, tensor in tensors.items():
        expected = tensor.float().numpy()
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], expected)  # NaN equals NaN
        assert (np.signbit(back[name]) == np.signbit(expected))[~np.isnan(expected)].all()


def test_safetensors_file_reads_one_tensor_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({f"t{i}": np.full(250_000, i, np.float32) for i in range(20)}, path, {"format": "np"})  # 20 x 1 MB
    tracemalloc.start()
    with SafetensorsFile(path) as file:
        assert len(file) == 20
        assert "t3" in file
        assert "t99" not in file
        assert file.info["t3"].shape == (250_000,)
        assert file.metadata == {"format": "np"}
        for name in file:
            assert file[name][-1] == int(name[1:])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


def test_safetensors_file_closes_what_it_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": np.zeros(2)}, path)
    with SafetensorsFile(path) as file:
        pass
    with pytest.raises(ValueError, match="closed file"):
        file["a"]
    mine = io.BytesIO(path.read_bytes())
    with SafetensorsFile(mine) as file:
        pass
    assert not mine.closed


def test_save_file_keeps_the_older_file_when_it_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"older")
    for bad, error, message in [
        (
            {"a": np.zeros(2), "o": np.array([None])},
            DTypeError,
            "save_file: o has dtype object; safetensors holds bool, uint8",
        ),
        ({"a": np.zeros(2, np.complex128)}, DTypeError, "a has dtype complex128"),
        ({"a": [1, 2]}, ArgumentError, "save_file: a must be an array or a Tensor, got list"),
        ({"__metadata__": np.zeros(2)}, ArgumentError, "must be a string other than __metadata__"),
        ({3: np.zeros(2)}, ArgumentError, "must be a string other than __metadata__, got 3"),
        ({"\ud800": np.zeros(2)}, ArgumentError, "cannot be written in UTF-8"),
    ]:
        with pytest.raises(error, match=message):
            save_file(bad, path)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="metadata must be strings by name"):
        save_file({}, path, {"epoch": 3})  # type: ignore[dict-item]
    assert path.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def good() -> bytes:
    tensors = {"w": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "b": np.arange(4), "e": np.zeros((0, 2))}
    return saved(tensors, {"format": "np"})


def forged(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = bytes(8)
FORGED = {
    "empty": (b"", "0 bytes, too short"),
    "short": (b"\0" * 7, "7 bytes, too short"),
    "huge header": ((2**63).to_bytes(8, "little") + b"{}", "the format allows 100,000,000"),
    "one over the cap": ((100_000_001).to_bytes(8, "little") + b"{}", "claims 100,000,001 bytes"),
    "header cut": ((100).to_bytes(8, "little") + b"{}", "cut short: its header claims 100 bytes, 2 follow"),
    "no header": (forged(b""), "does not begin with '{'"),
    "leading space": (forged(b" {}"), "does not begin with '{'"),
    "byte order mark": (forged(b"\xef\xbb\xbf{}"), "does not begin with '{'"),
    "trailing newline": (forged(b"{}\n"), "does not end with '}' and spaces"),
    "two objects": (forged(b"{}{}"), "another form"),
    "not utf-8": (forged(b'{"\xff":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "can't decode byte 0xff"),
    "lone surrogate": (forged({"\ud800": entry()}, EIGHT), "lone surrogate"),
    "not json": (forged(b"{a}"), "Expecting property name"),
    "nan": (forged(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', EIGHT), "NaN is not JSON"),
    "infinity": (
        forged(b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}', EIGHT),
        "Infinity is not JSON",
    ),
    "duplicate": (
        forged(
            b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
        ),
        "a key twice",
    ),
    "duplicate inside": (
        forged(b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        "a key twice",
    ),
    "metadata twice": (forged(b'{"__metadata__":{},"__metadata__":{}}'), "another form|a key twice"),
    "metadata not strings": (forged({"__metadata__": {"a": 1}}), "__metadata__ must be strings by name"),
    "metadata nested": (forged({"__metadata__": {"a": {"b": "c"}}}), "another form"),
    "metadata a string": (forged({"__metadata__": "a"}), "another form|must be strings by name"),
    "entry a number": (forged({"a": 1}), "another form|needs dtype, shape and data_offsets"),
    "entry too much": (forged({"a": {**entry(), "more": 1}}, EIGHT), "and nothing else"),
    "entry with a list more": (forged({"a": {**entry(), "more": []}}, EIGHT), "another form"),
    "entry too little": (forged(b'{"a":{"dtype":"F32","shape":[2],"offsets":[0,8]}}', EIGHT), "needs dtype, shape"),
    "dtype unknown": (forged({"a": entry("F4")}, EIGHT), "has dtype 'F4'; minires reads BOOL, U8"),
    "dtype a number": (forged({"a": entry(3)}, EIGHT), "has dtype 3"),
    "shape negative": (forged({"a": entry(shape=[-2])}, EIGHT), "shape must be integers from 0"),
    "shape a float": (forged({"a": entry(shape=[2.0])}, EIGHT), "shape must be integers from 0"),
    "shape true": (forged({"a": entry("U8", [True], [0, 1])}, b"\0"), "shape must be integers from 0"),
    "shape overflow": (forged({"a": entry(shape=[2**62, 4])}, EIGHT), "takes 73786976294838206464 bytes"),
    "shape wraps to fit": (forged({"a": entry(shape=[2**62 + 2])}, EIGHT), "takes 18446744073709551624 bytes"),
    "shape long number": (
        forged(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}'),
        "digits",
    ),
    "shape too long": (forged({"a": entry(shape=[1] * 65, offsets=[0, 4])}, bytes(4)), "another form"),
    "shape empty and vast": (forged({"a": entry(shape=[0, 2**62, 2**62], offsets=[0, 0])}), "tensor 'a'"),
    "shape nested": (forged({"a": entry(shape=[[2]])}, EIGHT), "another form"),
    "offsets beyond": (forged({"a": entry(shape=[3], offsets=[0, 12])}, EIGHT), "cut short: the header describes 12"),
    "offsets negative": (forged({"a": entry(offsets=[-8, 0])}, EIGHT), "data_offsets must be two integers from 0"),
    "offsets backwards": (forged({"a": entry(offsets=[8, 0])}, EIGHT), "give it -8"),
    "offsets three": (forged({"a": entry(offsets=[0, 8, 8])}, EIGHT), "data_offsets must be two integers"),
    "offsets wrong size": (forged({"a": entry(shape=[1])}, EIGHT), r"F32 \(1,\) takes 4 bytes, .* give it 8"),
    "hole at the start": (
        forged({"a": entry(offsets=[4, 12])}, bytes(12)),
        "begins at 4, expected 0: it leaves a hole",
    ),
    "hole": (
        forged({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)),
        "'b' begins at 12, expected 8: it leaves a hole",
    ),
    "overlap": (
        forged({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
        "'b' begins at 4, expected 8: it overlaps",
    ),
    "same bytes twice": (forged({"a": entry(), "b": entry()}, EIGHT), "overlaps"),
    "bytes left": (forged({"a": entry()}, bytes(9)), "bytes that belong to no tensor: .* 8 bytes .* has 9"),
    "bool of 2": (forged({"a": entry("BOOL", [1], [0, 1])}, b"\x02"), "neither 0 nor 1"),
}


@pytest.mark.parametrize("name", FORGED)
def test_load_file_refuses_a_forged_file(name: str) -> None:
    content, message = FORGED[name]
    with pytest.raises(CheckpointError, match=rf"safetensors: <file object>: .*({message})"):
        load_bytes(content)


BOMBS = {
    "lists in lists": b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
    "lists as values": b"{" + b":[" * 400_000 + b"}",
    "objects in objects": b'{"a":' * 150_000 + b"1" + b"}" * 150_000,
    "many empty lists": b'{"a":[' + b"[]," * 300_000 + b"[]]}",
    "a long shape": b'{"a":{"dtype":"U8","shape":[' + b"1," * 400_000 + b'1],"data_offsets":[0,1]}}',
    "an open string": b'{"' + b'\\"' * 400_000 + b"}",
    "backslashes": b'{"' + b"\\" * 799_999 + b'"}',
    "a long number": b'{"a":' + b"1" * 800_000 + b"}",
    "many keys": b"{" + b",".join(b'"%d":0' % i for i in range(80_000)) + b"}",
}


def cheaply(load: Callable[[], Any]) -> Any:
    """What `load` gives or raises, and that it took neither time nor memory."""
    tracemalloc.start()
    start = time.thread_time()
    try:
        return load()
    except CheckpointError as error:
        return error
    finally:
        spent, peak = time.thread_time() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert spent < SECONDS
        assert peak < MEGABYTES * 1e6


@pytest.mark.parametrize("name", BOMBS)
def test_load_file_refuses_a_bomb_cheaply(name: str) -> None:
    assert isinstance(cheaply(lambda: load_bytes(forged(BOMBS[name]))), CheckpointError)


def check_against(official: Any, content: bytes) -> bool:
    """The file is refused; or the official package reads it too, and the same."""
    back = cheaply(lambda: load_bytes(content))
    if isinstance(back, CheckpointError):
        return True
    expected = official.load(content)
    assert set(back) == set(expected)
    for name, array in expected.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
    return False


def test_load_file_refuses_every_truncation() -> None:
    content = good()
    for length in {*range(0, len(content), 64), *range(len(content) - 64, len(content)), *range(16)}:
        assert isinstance(cheaply(lambda: load_bytes(content[:length])), CheckpointError)


def test_load_file_on_every_flipped_header_byte_refuses_or_agrees_with_the_official_package(official: Any) -> None:
    content = good()
    length = 8 + int.from_bytes(content[:8], "little")
    refused = 0
    for place in range(length):
        for flip in (0x01, 0x20, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= flip
            refused += check_against(official, bytes(damaged))
    assert refused > 0.6 * 4 * length  # in names and the metadata a letter may become another


@given(st.data())
def test_load_file_on_lies_refuses_or_agrees_with_the_official_package(official: Any, data: st.DataObject) -> None:
    """One to three claims of a good header are exchanged for others."""
    content = good()
    length = int.from_bytes(content[:8], "little")
    tree = json.loads(content[8 : 8 + length])
    for _ in range(data.draw(st.integers(1, 3))):
        one = tree[data.draw(st.sampled_from(["w", "b", "e"]))]
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        size = st.sampled_from([0, 1, 2, 3, 4, 8, 24, 32, 96, 128, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -1])
        lies: dict[str, st.SearchStrategy[Any]] = {
            "dtype": st.sampled_from(["F64", "I8", "BOOL", "U64", "F4", "f32", ""]),
            "shape": st.lists(size, max_size=4),
            "data_offsets": st.lists(size, min_size=2, max_size=2),
        }
        one[field] = data.draw(lies[field])
    check_against(official, forged(tree, content[8 + length :]))


def test_load_file_names_the_file_the_folder_and_the_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(good()[:-1])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cut short: .* 128 bytes of tensors, .* has 127"):
        load_file(path)
    with pytest.raises(FileNotFoundError, match=r"safetensors: there is no file .*nowhere"):
        load_file(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="it is a folder, not a file"):
        load_file(tmp_path)


def test_minires_load_reads_safetensors_as_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": np.ones((2, 2), np.float32), "u": np.ones(2, np.uint16)}, path)
    assert is_safetensors(path.read_bytes()[:16])
    back = minires.load(path)
    assert isinstance(back["w"], Tensor)
    np.testing.assert_array_equal(back["w"].numpy(), np.ones((2, 2)))
    assert isinstance(back["u"], np.ndarray)  # a dtype that tensors do not have
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"safetensors: .*cut short"):
        minires.load(path)
