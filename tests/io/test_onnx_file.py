"""ONNX files as plain data: what is read, in which forms; what is refused, and with which words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minires.errors import CheckpointError
from minires.io import onnx_file, protobuf
from minires.io.onnx_file import OnnxValue, parse_onnx, read_onnx
from minires.io.onnx_tensor import OnnxTensor
from minires.io.protobuf import Writer
from minires.io.sniff import describe_file, is_onnx
from minires.io.torch_tensors import STORAGE_DTYPES
from tests.io.onnx_files import CODES, frugally, graph, model, node, small, tensor, value


def constant(content: Writer) -> np.ndarray:
    """A tensor, once through a file."""
    return parse_onnx(model([node("Relu", "x")], {"c": content})).initializers["c"].array()


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(small())
    read = read_onnx(path)
    assert (read.opset, read.producer) == (17, "by hand")
    assert read.inputs == [OnnxValue("x", "float32", ("n", 2, 5, 5))]
    assert read.outputs == [OnnxValue("y", "float32", None)]
    assert [one.op for one in read.nodes][:3] == ["Conv", "BatchNormalization", "Relu"]
    conv, norm, *_, softmax = read.nodes
    assert (conv.name, conv.inputs, conv.outputs) == ("the Conv", ("x", "w", "b"), ("c",))
    assert conv.attributes == {"pads": [1, 1, 1, 1], "group": 1}
    assert norm.attributes == {"epsilon": pytest.approx(0.01)}
    assert softmax.attributes == {"axis": 1}
    assert read.initializers["w"].shape == (3, 2, 3, 3)
    assert read.initializers["b"].array().shape == (3,)
    assert read.initializers["rest"].array().tolist() == [-1]


# The typed field of each dtype, and values that it can hold.
FORMS: dict[str, tuple[int, Any]] = {
    "float32": (4, [1.5, -2.0, np.inf]),
    "float64": (10, [1.5, -2.0, 1e300]),
    "int64": (7, [1, -(2**63), 2**63 - 1]),
    "uint64": (11, [0, 1, 2**64 - 1]),
    "uint32": (11, [0, 1, 2**32 - 1]),
    "int32": (5, [-(2**31), 7, 2**31 - 1]),
    "int16": (5, [-(2**15), 7, 2**15 - 1]),
    "uint16": (5, [0, 7, 2**16 - 1]),
    "int8": (5, [-128, 7, 127]),
    "uint8": (5, [0, 7, 255]),
    "bool": (5, [False, True, True]),
    "float16": (5, [1.5, -2.0, 65504.0]),
}


def typed(dtype: str, values: Any, packed: bool = True, dims: Any = (3,)) -> Writer:
    """A tensor in its typed field."""
    field = FORMS[dtype][0]
    writer = Writer().packed(1, dims).varint(2, CODES[dtype]).string(8, "c")
    array = np.array(values, dtype)
    if dtype == "float16":
        array = array.view(np.uint16)
    if dtype == "float32":
        if packed:
            return writer.packed_floats(4, array)
        for number in array:
            writer.float32(4, number)
    elif dtype == "float64":
        if packed:
            return writer.bytes(10, array.tobytes())
        for number in array:
            writer.float64(10, number)
    elif packed:
        return writer.packed(field, array)
    else:
        for number in array:
            writer.varint(field, int(number))
    return writer


@pytest.mark.parametrize("dtype", FORMS)
def test_constants_of_every_dtype_in_both_forms(dtype: str) -> None:
    expected = np.array(FORMS[dtype][1], dtype)
    for content in (typed(dtype, expected), typed(dtype, expected, packed=False), tensor(expected, "c")):
        found = constant(content)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert not found.flags.writeable


def test_bfloat16_is_read_as_float32() -> None:
    assert "bfloat16" in STORAGE_DTYPES.values()  # as minires reads torch's files
    bits = np.array([0x3FC0, 0xC000, 0x7F80, 0x0001], np.uint16)
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    raw = tensor(bits, "c", code=CODES["bfloat16"])
    packed = Writer().varint(1, 4).varint(2, CODES["bfloat16"]).packed(5, bits).string(8, "c")
    for content in (raw, packed):
        np.testing.assert_array_equal(constant(content), expected)


def test_constants_of_special_shapes() -> None:
    assert constant(tensor(np.float32(3), "c")).shape == ()
    assert constant(tensor(np.zeros((2, 0, 3), np.float32), "c")).shape == (2, 0, 3)
    assert constant(Writer().varint(1, 0).varint(2, 7).string(8, "c")).tolist() == []  # nothing, in no field
    pieces = Writer().varint(1, 4).varint(2, 7).packed(7, [1, 2]).packed(7, [3]).varint(7, 4).string(8, "c")
    assert constant(pieces).tolist() == [1, 2, 3, 4]


def test_large_constants_are_views_of_the_file() -> None:
    weight = np.ones(2_000_000, np.float32)
    content = model([node("Relu", "x")], {"c": weight})
    found = frugally(lambda: parse_onnx(content).initializers["c"].array(), 100_000)
    np.testing.assert_array_equal(found, weight)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tensor(np.zeros(3, np.float32), "c", dims=[4]), r"of shape \(4,\) and type float32 needs 16 bytes, its raw_data has 12"),
        (tensor(np.zeros(3, np.float32), "c", dims=[2**20, 2**20]), "needs 4,398,046,511,104 bytes, its raw_data has 12"),
        (tensor(np.zeros(3, np.float32), "c", dims=[-3]), r"shape \(-3,\): a size that is none"),
        (tensor(np.zeros(3, np.float32), "c", dims=[2**60]), "a size that is none"),
        (tensor(np.zeros(0, np.float32), "c", dims=[0, 2**40, 2**40]), r"tensor 'c' of shape \(0, 1099511627776, 1099"),
        (tensor(np.zeros(1, np.float32), "c", dims=[1] * 33), "a tensor of more than 32 dimensions"),
        (tensor(np.zeros(3, np.float32), "c", code=0), "tensor 'c' has data type 0, which is none"),
        (tensor(np.zeros(3, np.float32), "c", code=99), "tensor 'c' has data type 99"),
        (tensor(np.zeros(3, np.uint8), "c", code=17), "constants of type float8e4m3fn are not read; known are float32"),
        (tensor(np.zeros(3, np.uint8), "c", code=8), "constants of type string are not read"),
        (tensor(np.array([0, 2, 1], np.uint8), "c", code=9), "type bool holds a byte that is neither 0 nor 1"),
        (typed("int64", [1, 2, 3], dims=[4]), r"needs 4 numbers, it has 3"),
        (typed("float32", [1, 2, 3], dims=[4]), r"needs 4 numbers, it has 3"),
        (typed("int64", [1, 2, 3], dims=[2]), "field 7 has 3 numbers; at most 2 are read"),
        (typed("float32", [1, 2, 3], dims=[2]), "needs 2 numbers, it has 3"),
        (Writer().varint(1, 1).varint(2, CODES["int8"]).packed(5, [200]).string(8, "c"), "a number that int8 cannot hold"),
        (Writer().varint(1, 1).varint(2, CODES["bool"]).packed(5, [2]).string(8, "c"), "a number that bool cannot hold"),
        (Writer().varint(1, 1).varint(2, CODES["float16"]).packed(5, [-1]).string(8, "c"), "a number that float16 cannot"),
        (typed("int64", [1, 2, 3]).varint(2, 1), "is of type float32, but its numbers are in int64_data"),
        (tensor(np.zeros(3, np.float32), "c").packed_floats(4, [1, 2, 3]), "has its numbers in two forms"),
        (Writer().bytes(3, b"").string(8, "c"), "is a segment"),
        (tensor(np.zeros(3, np.float32), "c").varint(40, 1), "a tensor has a field 40 that is none"),
    ],
)  # fmt: skip
def test_constants_that_lie_are_refused(content: Writer, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        frugally(lambda: constant(content), 1e6)
    assert str(caught.value).startswith("onnx: ")


def test_external_data_is_refused_and_no_other_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    opened = []
    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda file, *rest, **more: opened.append(str(file)) or real(file, *rest, **more)
    )
    path = tmp_path / "model.onnx"
    for location in ("weights.bin", "../weights.bin", "/etc/passwd", "C:\\weights", "model.onnx", ""):
        entry = Writer().string(1, "location").string(2, location)
        for content in (
            tensor(np.zeros(3, np.float32), "c").message(13, entry).varint(14, 1),
            Writer().varint(1, 3).varint(2, 1).string(8, "c").message(13, entry),  # without saying so
            Writer().varint(1, 3).varint(2, 1).string(8, "c").varint(14, 1),  # without saying where
        ):
            path.write_bytes(model([node("Relu", "x")], {"c": content}))
            with pytest.raises(
                CheckpointError, match=r"tensor 'c' of shape .*numbers lie in another file.*external_data=False"
            ):
                read_onnx(path)
            inside = model([node("Constant", "", "c", value=content), node("Add", "x c")])
            path.write_bytes(inside)
            with pytest.raises(CheckpointError, match="its numbers lie in another file"):
                read_onnx(path)
    assert set(opened) == {str(path)}


def refer(number: int, inner: Writer) -> Writer:
    """A node with an attribute whose value is field `number`."""
    return node("If", "x").message(5, Writer().string(1, "then_branch").message(number, inner))


TWICE = Writer().string(1, "axis").varint(3, 1).varint(20, 2)
GRAPH = graph([node("Relu", "x")])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Writer().varint(1, 8).varint(5, 0), "there is no graph in it"),
        (Writer().varint(1, 8).message(7, GRAPH).message(7, GRAPH), "it has two graphs"),
        (Writer().varint(1, 8).message(7, GRAPH), "does not say which version"),
        (Writer().varint(1, 8).message(7, GRAPH).message(8, Writer().varint(2, 0)), "operations is 0, which is none"),
        (Writer().varint(1, 8).message(7, GRAPH).message(8, Writer().string(1, "com.x").varint(2, 1)), "does not say which"),
        (
            Writer().varint(1, 8).message(7, GRAPH).message(8, Writer().varint(2, 9)).message(8, Writer().varint(2, 9)),
            "it names two versions",
        ),
        (Writer().varint(1, 8).message(25, Writer().string(1, "Gelu")), "it defines the function 'Gelu'"),
        (graph([node("Relu", "x").string(7, "com.microsoft")]), r"node 'the Relu' \(Relu\) is an operation of the domain 'com.m"),
        (graph([refer(6, GRAPH)]), r"node 'the If' \(If\): attribute 'then_branch' is a subgraph"),
        (graph([refer(11, GRAPH)]), "is subgraphs"),
        (graph([refer(22, Writer())]), "is a sparse tensor"),
        (graph([node("Relu", "x").message(5, Writer().string(1, "a").string(21, "b"))]), "refers to one of a function's"),
        (graph([node("Relu", "x").message(5, Writer().varint(3, 1))]), "an attribute without a name"),
        (graph([node("Relu", "x").message(5, Writer().string(1, "a"))]), "attribute 'a' has no value"),
        (graph([node("Relu", "x").message(5, Writer().string(1, "a").varint(3, 1).float32(2, 1))]), "'a' has no value, or several"),
        (graph([node("Relu", "x").message(5, Writer().string(1, "a").varint(3, 1).varint(20, 1))]), "or one of another type"),
        (graph([node("Relu", "x").message(5, TWICE).message(5, TWICE)]), "has two attributes 'axis'"),
        (graph([node("Relu", "x").message(5, Writer().string(1, "a").packed(8, range(5000)))]), "at most 4,096 are read"),
        (
            graph([node("Relu", "x").message(5, Writer().string(1, "a").packed_floats(7, range(5000)))]),
            ": an attribute of more than 4,096 numbers",
        ),
        (
            graph([node("Relu", "x").message(5, Writer().string(1, "a").packed(8, range(3000)).packed(8, range(3000)))]),
            r"\(Relu\) has an attribute of more than 4,096 numbers",
        ),
        (graph([node("Relu", "x")]).message(15, Writer()), "it has sparse initializers"),
        (graph([node("Relu", "x")], {"c": tensor(np.zeros(1))}), "an initializer without a name"),
        (graph([node("Relu", "x")], {"c": np.zeros(1), "d": tensor(np.zeros(1), "c")}), "two initializers of the name 'c'"),
        (graph([node("Relu", "x")]).message(11, value("x", None)), "two inputs of the name 'x'"),
        (graph([node("Relu", "x")]).message(11, value("", None)), "an input or output of the graph without a name"),
        (graph([node("Relu", "x", "a"), node("Relu", "x", "a")]), r"node 'the Relu' \(Relu\) writes 'a', which is there already"),
        (graph([node("Relu", "x", "x")]), "writes 'x', which is there already"),
        (graph([node("Relu", "nowhere")]), "reads 'nowhere', which nothing before it writes"),
        (graph([node("Add", "x b", "a"), node("Relu", "a", "b")]), "reads 'b', which nothing before it writes"),  # a cycle
        (graph([node("Add", "x y")]), "reads 'y', which nothing before it writes"),
        (graph([node("Relu", "x", "z")]), "output 'y' is written by no node"),
        (graph([node("Relu", "x")], outputs=()), "the graph has no output"),
        (graph([node("Relu", "x")], shape=(1,) * 33), "a value of more than 32 dimensions"),
        (graph([node("Relu", "x")], shape=(1, 2**41)), "a size that is none, 2199023255552"),
        (graph([node("Relu", "x")]).message(11, value("z", None, code=77)), "data type 77 is none"),
        (
            graph([node("Relu", "x")]).message(11, Writer().string(1, "z").message(2, Writer().message(4, Writer()))),
            "value 'z' is no tensor",
        ),
        (graph([node("Relu", "x" * 5000)]), "field 1 is a text of 5,000 bytes; at most 4,096"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_name(content: Writer, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = content.to_bytes()
    path.write_bytes(whole if whole.startswith(b"\x08\x08") else model(content))
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_onnx(path)
    assert str(caught.value).startswith(f"onnx: {path}: ")


def test_zeros_that_third_version_writers_leave_out() -> None:
    """With protobuf 3, a value that is zero has no field: the type alone says that there is one."""
    bare = node("Relu", "x")
    for name, code in (("f", 1), ("i", 2), ("s", 3), ("floats", 6), ("ints", 7)):
        bare.message(5, Writer().string(1, name).varint(20, code))
    (read,) = parse_onnx(model([bare])).nodes
    assert read.attributes == {"f": 0.0, "i": 0, "s": b"", "floats": [], "ints": []}


def test_attributes_of_every_kind() -> None:
    one = node("Relu", "x", f=1.5, i=-3, s="text", t=tensor(np.ones(2, np.float32)), ints=[1, -2])
    one.message(5, Writer().string(1, "floats").packed_floats(7, [1, 2]).float32(7, 3).varint(20, 6))
    one.message(5, Writer().string(1, "strings").bytes(9, b"a").bytes(9, b"b").varint(20, 8))
    one.message(5, Writer().string(1, "untyped").varint(3, 5))  # as the oldest files have it
    (read,) = parse_onnx(model([one])).nodes
    found = dict(read.attributes)
    held = found.pop("t")
    assert isinstance(held, OnnxTensor)
    assert held.array().tolist() == [1, 1]
    assert found == {
        "f": 1.5, "i": -3, "s": b"text", "ints": [1, -2], "floats": [1, 2, 3], "strings": [b"a", b"b"], "untyped": 5,
    }  # fmt: skip


def test_old_files_list_initializers_among_the_inputs() -> None:
    content = graph([node("Add", "x c")], {"c": np.ones(1, np.float32)}).message(11, value("c", [1]))
    assert [one.name for one in parse_onnx(model(content)).inputs] == ["x"]


def test_free_sizes() -> None:
    shapes = {(0, 3): ("?", 3), (-1, 3): ("?", 3), ("batch", "h"): ("batch", "h")}
    for written, read in shapes.items():
        assert parse_onnx(model([node("Relu", "x")], shape=written)).inputs[0].shape == read
    assert parse_onnx(model([node("Relu", "x")], shape=None)).inputs[0].shape is None


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for content, reason in {
        b"": "empty file",
        b"PK\x03\x04": "a zip",
        b"<html>": "a web page",
        b"version https://git-lfs": "a Git LFS pointer",
        b"nothing": "does not begin as an ONNX model does",
    }.items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=reason):
            read_onnx(path)
    with pytest.raises(CheckpointError, match="it is no file, but a folder"):
        read_onnx(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(f"onnx: there is no file {tmp_path / 'nowhere'}")):
        read_onnx(tmp_path / "nowhere")


def test_a_file_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(small())
    monkeypatch.setattr(onnx_file, "MAX_FILE", 100)
    with pytest.raises(CheckpointError, match=r"bytes; an ONNX file has at most 100"):
        read_onnx(path)


def test_nodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_NODES", 9)  # it has ten
    with pytest.raises(CheckpointError, match="more than 9 nodes, initializers, inputs or outputs"):
        parse_onnx(small())


def test_is_onnx() -> None:
    assert is_onnx(small())
    assert "minires.load_onnx" in describe_file(small()[:512], 1000)
    for other in (
        b"",
        b"\x08",
        b"\x08\x08",
        b"PK\x03\x04",
        b"\x80\x02",
        b"\x89PNG",
        b"\x08\x00\x00\x00\x00\x00\x00\x00{}",
    ):
        assert not is_onnx(other)


def test_a_flood_of_small_parts_is_refused_cheaply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes each in the file, a hundred times as much in memory."""
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 25_000)  # a tenth: tracing memory is slow
    monkeypatch.setattr(onnx_file, "MAX_NODES", 2_000)
    floods = {
        "nodes": (b"\x0a\x00" * 40_000, "more than 2,000 nodes, initializers"),
        "names": (Writer().bytes(1, b"\x0a\x00" * 40_000).to_bytes(), "more than 4,096 inputs, outputs"),
        "outputs": (b"\x62\x04\x0a\x02ab" * 20_000, "more than 2,000 nodes, initializers"),
        "notes": (b"\x6a\x00" * 30_000, "more than 25,000 fields"),
        "sizes": (Writer().message(11, value("z", [])).bytes(5, b"\x08\x01" * 40_000).to_bytes(), "dimensions"),
    }
    for content, reason in floods.values():
        file = Writer().varint(1, 8).bytes(7, content).message(8, Writer().varint(2, 17)).to_bytes()
        with pytest.raises(CheckpointError, match=reason):
            frugally(lambda file=file: parse_onnx(file), 5e6)


def test_official_package_agrees() -> None:
    """A model made by the onnx package, with every field that is read."""
    onnx = pytest.importorskip("onnx", reason="needs the onnx package, the oracle of the format")
    from onnx import helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    made = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Gemm", ["x", "w"], ["y"], "fc", alpha=0.5, transB=1),
                helper.make_node("Pad", ["y"], ["z"], pads=[0, 1], mode="edge"),
            ],
            "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3])],
            [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(weight, "w"), helper.make_tensor("h", onnx.TensorProto.FLOAT16, [2], [1.5, -2.0])],
        ),
        opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 1)],
    )  # fmt: skip
    read = parse_onnx(made.SerializeToString())
    assert read.opset == 13
    assert read.inputs == [OnnxValue("x", "float32", ("batch", 3))]
    assert read.nodes[0].attributes == {"alpha": 0.5, "transB": 1}
    assert read.nodes[1].attributes == {"pads": [0, 1], "mode": b"edge"}
    np.testing.assert_array_equal(read.initializers["w"].array(), weight)
    np.testing.assert_array_equal(read.initializers["h"].array(), np.array([1.5, -2.0], np.float16))
