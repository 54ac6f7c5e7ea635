"""npz: what NumPy writes comes back; pickles stay closed; nothing is believed that the bytes do not show."""

from __future__ import annotations

import io
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minires
from minires.errors import CheckpointError
from minires.io.npz import load_npz
from minires.tensor import Tensor
from tests.io.mutations import resized, zipped
from tests.strategies import in_memory_form, memory_forms, shapes

DTYPES = ["bool", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64", "complex64"]


def saved(arrays: dict[str, Any], compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def load_bytes(content: bytes) -> dict[str, np.ndarray]:
    return load_npz(io.BytesIO(content))


@given(st.sampled_from(DTYPES), shapes(), memory_forms(), st.booleans())
def test_load_npz_reads_what_numpy_writes(dtype: str, shape: tuple[int, ...], form: str, compressed: bool) -> None:
    array = np.asarray(np.arange(np.prod(shape)).reshape(shape) * 0.7).astype(dtype)
    given_form = in_memory_form(array, form)
    back = load_bytes(saved({"a.b": given_form, "z": np.zeros(())}, compressed))
    assert list(back) == ["a.b", "z"]
    assert back["a.b"].dtype == array.dtype  # in the machine's byte order
    assert back["a.b"].dtype.isnative
    assert back["a.b"].shape == shape
    np.testing.assert_array_equal(back["a.b"], array)
    assert back["a.b"].flags.writeable


def rebuilt(change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A good file with members changed by hand, and CRCs that are right again."""
    with zipfile.ZipFile(io.BytesIO(saved({"w": np.arange(100.0), "b": np.ones(3)}))) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as new:
        for name, content in members.items():
            new.writestr(name, content)
    return buffer.getvalue()


def npy(shape: tuple[int, ...], descr: Any = "<f8", data: bytes = bytes(800), fortran: bool = False) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return header.getvalue() + data


class Trap:
    """Fails the test when its pickle is run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("the pickle was executed",)


def trap() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def put(content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({"w.npy": content})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(trap()), "'w' holds Python objects, which are a pickle"),
        (put(npy((100,), "<U2")), "'w' holds dtype <U2; only numbers and booleans"),
        (put(npy((100,), [("x", "<f8")])), "'w' holds dtype .*; only numbers and booleans"),
        (put(npy((10**12,))), r"shape \(1000000000000,\) takes 8000000000000 bytes, 800 are there"),
        (put(npy((2**61 + 100,))), "takes 18446744073709552416 bytes, 800 are there"),
        (put(npy((-10, -10))), r"shape \(-10, -10\) has a negative size"),
        (put(npy((0, 2**62, 2**62), data=b"")), "damaged: ValueError"),
        (put(npy((100,))[:-1]), "takes 800 bytes, 799 are there"),
        (put(npy((100,)) + b"\0"), "takes 800 bytes, 801 are there"),
        (put(npy((100,))[:20]), "damaged: ValueError: EOF"),
        (put(b"no magic at all"), "damaged: ValueError"),
        (put(b""), "damaged: ValueError"),
        (put(b"\x93NUMPY\x03\x00" + bytes(100)), r"version \(3, 0\) of the .npy format"),
        (put(b"\x93NUMPY\x01\x00\x08\x00" + b"(((((((("), "damaged: "),
        (put(npy((100,))[:10] + b"}" + npy((100,))[11:]), "damaged: "),
        (lambda m: m.update({"notes.txt": b"x"}), "a zip, but not of .npy files alone"),
        (lambda m: m.clear(), "a zip, but not of .npy files alone"),
    ],
)
def test_load_npz_refuses_a_forged_file(change: Callable[[dict[str, bytes]], None], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"npz: <file object>: .*{message}"):
        load_bytes(rebuilt(change))


def test_load_npz_reads_fortran_order() -> None:
    array = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    content = saved({"a": array})
    assert b"'fortran_order': True" in content
    np.testing.assert_array_equal(load_bytes(content)["a"], array)


def test_load_npz_reads_a_header_of_python_2() -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100L,), }".ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + np.arange(100.0).tobytes()
    np.testing.assert_array_equal(load_bytes(rebuilt(put(content)))["w"], np.arange(100.0))


def test_load_npz_refuses_two_members_of_one_name() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("w.npy", npy((100,)))
        file.writestr("w.npy", npy((100,)))
    with pytest.raises(CheckpointError, match="two members have the name 'w'"):
        load_bytes(buffer.getvalue())


def test_load_npz_refuses_other_methods_of_packing() -> None:
    with pytest.raises(CheckpointError, match="'w' is packed by another method than deflate"):
        load_bytes(rebuilt(lambda members: None, zipfile.ZIP_BZIP2))


def test_load_npz_refuses_an_encrypted_member_and_a_later_zip() -> None:
    for place, value, message in ((6, 1, "password required"), (4, 99, "zip file version 9.9")):
        content = bytearray(saved({"w": np.ones(3)}))
        directory = content.index(b"PK\x01\x02")
        content[place] = content[directory + place + 2] = value
        with pytest.raises(CheckpointError, match=f"npz: <file object>: .*{message}"):
            load_bytes(bytes(content))


def test_load_npz_refuses_a_size_that_its_bytes_cannot_give() -> None:
    """The directory and the header agree on 8 GB; a thousand bytes are there."""
    content = bytearray(rebuilt(put(npy((10**9,), data=bytes(900_000))), zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as file:
        old = file.getinfo("w.npy").file_size
    for _ in range(2):  # the local header and the directory
        place = content.index(old.to_bytes(4, "little"))
        content[place : place + 4] = (4_000_000_000).to_bytes(4, "little")
    with pytest.raises(CheckpointError, match="'w' claims more bytes than its place in the file can hold"):
        load_bytes(bytes(content))


def test_load_npz_refuses_members_that_are_larger_than_the_file() -> None:
    """A stored member's sizes agree with each other and with its header; the file is a hundred times smaller."""
    content = zipped({"w.npy": npy((100_000,))})
    size = len(npy((100_000,), data=b"")) + 800_000
    with pytest.raises(CheckpointError, match="its members claim more bytes than the file has"):
        load_bytes(resized(content, "w.npy", size, size))


def test_load_npz_quotes_long_names_in_few_words() -> None:
    with pytest.raises(CheckpointError, match=r"'a{79}\.\.\. \(30,002 characters\) holds dtype") as caught:
        load_bytes(rebuilt(lambda members: members.update({"a" * 30_000 + ".npy": npy((100,), "<U2")})))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("compressed", [False, True])
def test_load_npz_on_every_flipped_byte_and_truncation_refuses_or_gives_the_values(compressed: bool) -> None:
    """A changed byte is found, or it stood where nothing depends on it: a date, a name; never a wrong value."""
    array = np.arange(40.0)
    content = saved({"w": array}, compressed)
    damaged = [content[:length] for length in range(0, len(content), 5)]
    for place in range(len(content)):
        copy = bytearray(content)
        copy[place] ^= 0x5A
        damaged.append(bytes(copy))
    refused = 0
    tracemalloc.start()
    start = time.perf_counter()
    for one in damaged:
        try:
            back = load_bytes(one)
        except CheckpointError:
            refused += 1
            continue
        assert len(back) == 1
        np.testing.assert_array_equal(next(iter(back.values())), array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    assert time.perf_counter() - start < len(damaged)  # a second each is what they may take together
    assert refused > 0.7 * len(damaged)


def test_load_npz_says_what_is_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"hello")
    with pytest.raises(CheckpointError, match=r"a\.npz: cut short, damaged or no zip"):
        load_npz(path)
    with pytest.raises(FileNotFoundError, match=r"npz: there is no file .*nowhere"):
        load_npz(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="it is a folder, not a file"):
        load_npz(tmp_path)


def test_minires_load_reads_npz_as_tensors(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.ones(3, np.float32), u=np.ones(2, np.uint16))
    back = minires.load(tmp_path / "a.npz")
    assert isinstance(back["w"], Tensor)
    np.testing.assert_array_equal(back["w"].numpy(), [1, 1, 1])
    assert isinstance(back["u"], np.ndarray)


def test_load_npz_quotes_a_header_that_is_not_the_directorys_in_few_words() -> None:
    """zipfile's own message has all that stands where the name should be."""
    content = bytearray(saved({"w": np.zeros(10_000)}))
    content[26:28] = (30_000).to_bytes(2, "little")  # the length of the name before the data
    with pytest.raises(CheckpointError, match="cut short, damaged or no zip") as caught:
        load_bytes(bytes(content))
    assert len(str(caught.value)) < 400
