"""Reading .pth files: equal to what torch itself saved and loads, in both forms, without torch."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.errors import CheckpointError
from minires.io.narrow_floats import FLOAT8
from minires.io.torch_file import read_torch_file
from tests.io.test_pickle_reader import Call
from tests.io.torch_files import (
    DTYPES,
    FORMS,
    LATE,
    WIDER,
    changed,
    content_of,
    members_of,
    read,
    same,
    saved,
    training_checkpoint,
)
from tests.torch_oracle import torch


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
        table = FLOAT8[name]()
        positive = table[:255] if name == "float8_e8m0fnu" else table[:128]
        positive = positive[np.isfinite(positive)]
        assert np.all(np.diff(positive) > 0)
        assert positive[-1] == largest


def test_read_torch_file_makes_bools_of_any_bytes() -> None:
    back = read(changed(saved(torch.tensor([True, False, True])), data_0=b"\x02\0\xff"))
    assert back.view(np.uint8).tolist() == [1, 0, 1]
