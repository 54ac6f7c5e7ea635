"""What load_onnx refuses: operations and forms without a step, each by name; damaged and hostile files, cheaply."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires.errors import ArgumentError, CheckpointError
from minires.io.onnx_file import parse_onnx
from minires.io.protobuf import Writer
from tests.io.onnx_files import attribute, frugally, graph, model, node, small, tensor, value

IMAGE = ("n", 2, 5, 5)
ONE = np.ones((), np.float32)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def load(content: bytes, folder: Path, *arguments: Any, **options: Any) -> minires.infer.Plan:
    path = folder / "model.onnx"
    path.write_bytes(content)
    return minires.load_onnx(path, *arguments, kernels="reference", **options)


W = {"w": ones(3, 2, 3, 3)}
NORM = {name: ones(2) for name in "stmv"}
RELU = node("Relu", "x", "r")
POOL = {"kernel_shape": [2, 2]}

# nodes, constants, what the message says
REFUSED: list[tuple[list[Writer], dict[str, Any], str]] = [
    (
        [node("LeakyRelu", "x")],
        {},
        r"node 'the LeakyRelu' \(LeakyRelu, opset 17\): minires has no such operation; it knows Abs, Add",
    ),
    (
        [node("Relu", "x x")],
        {},
        r"\(Relu, opset 17\): it takes 1 to 1 inputs, got 2; its inputs: value \(2, 2, 5, 5\), value",
    ),
    ([node("Relu", "x", alpha=0.5)], {}, "its attribute 'alpha' is none that minires knows"),
    ([node("Relu", "c")], {"c": ones(3)}, r"input 0 is a constant of shape \(3,\), for which there is no step"),
    ([node("Dropout", "x", "d m"), node("Mul", "x m")], {}, "it reads 'm', an output that minires does not compute"),
    ([node("Conv", "x x")], {}, "input 1 depends on the network's input; a plan needs a constant there"),
    ([node("Conv", "x w")], {"w": ints(1)}, "input 1 must be floats, got int64"),
    ([node("Conv", "x w")], {"w": ones(3, 2, 3)}, r"its weight must have 4 dimensions, got shape \(3, 2, 3\)"),
    ([node("Conv", "x w")], {"w": ones(3, 4, 3, 3)}, r"needs weight of shape \(3, 2, 3, 3\), got \(3, 4, 3, 3\)"),
    ([node("Conv", "x w", group=0)], W, "group must be at least 1, got 0"),
    ([node("Conv", "x w", group=2)], W, "2 and 3 channels do not divide into 2 groups"),
    ([node("Conv", "x w b")], {**W, "b": ones(4)}, r"input 2 must have shape \(3,\), got \(4,\)"),
    ([node("Conv", "x w", kernel_shape=[3, 2])], W, r"kernel_shape is \(3, 2\), its weight says \(3, 3\)"),
    ([node("Conv", "x w", strides=[2])], W, "strides and dilations need 2 numbers, pads 4"),
    ([node("Conv", "x w", strides=[0, 1])], W, r"a window that is none: \(3, 3\), strides \[0, 1\]"),
    ([node("Conv", "x w", pads=[0, -1, 0, 0])], W, r"a window that is none: .*pads \[0, -1, 0, 0\]"),
    ([node("Conv", "x w", dilations=[9, 1])], W, "the window does not fit into the padded image"),
    ([node("Conv", "x w", pads=[2**40] * 4)], W, "a window that is none"),
    ([node("Conv", "x w", auto_pad="SAME")], W, "auto_pad 'SAME' is none"),
    ([node("Conv", "x w", pads=1)], W, "attribute 'pads' must be list, got int"),
    ([node("Conv", "x w", group=[1])], W, "attribute 'group' must be int, got list"),
    ([node("Flatten", "x", "f"), node("Conv", "f w")], W, r"only images, \(N, C, H, W\), have a step in a plan"),
    (
        [node("BatchNormalization", "x s t m v", training_mode=1)],
        NORM,
        "in training mode; export the model in evaluation mode",
    ),
    ([node("BatchNormalization", "x s t m v", is_test=0)], NORM, "its attribute .is_test. is none that minires knows"),
    ([node("Add", "x c", broadcast=1, axis=1)], {"c": ones(2)}, "its attribute .axis. is none that minires knows"),
    ([node("BatchNormalization", "x s t m v", spatial=0)], NORM, "spatial=0, statistics for each pixel, has no step"),
    ([node("BatchNormalization", "x s t m v")], {**NORM, "v": ones(1)}, r"input 4 must have shape \(2,\), got \(1,\)"),
    ([node("Gemm", "x w")], {"w": ones(50, 3)}, r"only a product of \(N, features\) by a matrix"),
    (
        [node("Flatten", "x", "f"), node("Gemm", "f w", transA=1)],
        {"w": ones(50, 3)},
        "transA turns the batch into features",
    ),
    (
        [node("Flatten", "x", "f"), node("Gemm", "f w")],
        {"w": ones(49, 3)},
        r"weight of shape \(3, 49\) does not fit an input",
    ),
    (
        [node("Flatten", "x", "f"), node("Gemm", "f w b")],
        {"w": ones(50, 3), "b": ones(2, 3)},
        "one number or one for each of 3",
    ),
    (
        [node("Flatten", "x", "f"), node("Gemm", "f w", "a"), node("Gemm", "f w a", beta=2.0)],
        {"w": ones(50, 3)},
        "beta must be 1",
    ),
    ([node("MatMul", "x w")], {"w": ones(5, 3)}, r"only a product of \(N, features\) by a matrix"),
    ([node("MatMul", "w x")], {"w": ones(5, 5)}, r"input 0 is a constant of shape \(5, 5\)"),
    ([node("MatMul", "a a", "w"), node("Add", "x w")], {"a": ones(2, 2, 2)}, "only products of matrices are computed"),
    ([node("MaxPool", "x")], {}, "attribute 'kernel_shape' is missing"),
    ([node("MaxPool", "x", kernel_shape=[3, 3], pads=[3, 0, 0, 0])], {}, "some window may lie in the padding alone"),
    ([node("MaxPool", "x", kernel_shape=[2, 2], pads=[0, 0, 3, 3])], {}, "some window may lie in the padding alone"),
    ([node("MaxPool", "x", auto_pad="SAME_UPPER", strides=[3, 3], **POOL)], {}, "a window smaller than its stride"),
    ([node("AveragePool", "x", dilations=[2, 2], **POOL)], {}, "dilations of an average have no step"),
    ([node("AveragePool", "x", pads=[0, 0, 1, 1], **POOL)], {}, "this padding of an average has no step"),
    ([node("ReduceMean", "x", axes=[1, 3])], {}, r"over dimensions \[1, 3\]: only neighbours behind the batch"),
    ([node("ReduceMean", "x", axes=[0])], {}, r"over dimensions \[0\]: only neighbours behind the batch"),
    ([node("ReduceMean", "x")], {}, r"over dimensions \[0, 1, 2, 3\]"),
    ([node("ReduceMean", "x", axes=[4])], {}, "axis 4 does not exist in 4 dimensions"),
    ([node("Softmax", "x", axis=0)], {}, "over the batch it has no step"),
    ([node("Dropout", "x r t")], {"r": ONE, "t": np.array(True)}, "it is in training mode"),
    (
        [RELU, node("GlobalAveragePool", "r", "g"), node("Add", "x g")],
        {},
        r"of one shape, got \(2, 2, 5, 5\) and \(2, 2, 1, 1\)",
    ),
    ([RELU, node("Div", "x r")], {}, "division by a value has no step"),
    ([node("Div", "c x")], {"c": ONE}, "division of a constant by a value has no step"),
    (
        [node("Add", "x c")],
        {"c": np.arange(50, dtype=np.float32).reshape(2, 5, 5)},
        "not one number, nor one for each of 2 channels",
    ),
    ([node("Add", "x c")], {"c": ones(3, 1, 1, 1, 1)}, "would make the value larger"),
    ([node("Add", "x c")], {"c": ints(1)}, "a constant that meets a value must be floats, got int64"),
    ([node("Add", "x c")], {"c": ones(7, 1, 1)}, "shape mismatch|would make"),
    (
        [node("ReduceMean", "x", "m", axes=[1, 2, 3], keepdims=0), node("Add", "m c")],
        {"c": ONE},
        "a value without channels cannot be",
    ),
    ([RELU, node("ReduceMean", "x", "m", axes=[1]), node("Mul", "r m")], {}, "or a gate a channel"),
    (
        [node("Add", "a b", "c"), node("Add", "x c")],
        {"a": ONE, "b": ints(1)},
        "constants must be numbers of one dtype, got float32",
    ),
    ([node("Div", "a b", "c"), node("Reshape", "x c")], {"a": ints(1), "b": ints(0)}, "division of integers by zero"),
    ([node("Clip", "x c")], {"c": np.array(np.nan, np.float32)}, "input 1 must be one number|a limit is not a number"),
    ([node("Clip", "x c")], {"c": np.arange(2, dtype=np.float32)}, r"input 1 must be one number, got shape \(2,\)"),
    ([node("Clip", "x c")], {"c": ones(0)}, r"input 1 must be one number, got shape \(0,\)"),
    ([RELU, node("Max", "x r")], {}, "of several values it has no step"),
    ([node("Flatten", "x", axis=2)], {}, r"cannot give \(2, 2, 5, 5\) the shape \(4, 25\).*keep the batch in front"),
    ([node("Flatten", "x", axis=7)], {}, "axis 7 does not exist in 4 dimensions"),
    ([node("Reshape", "x s")], {"s": ints(-1, -1)}, r"to \[-1, -1\], which is no shape"),
    ([node("Reshape", "x s")], {"s": ints(-2, 5)}, r"to \[-2, 5\], which is no shape"),
    ([node("Reshape", "x s")], {"s": ints(0, -1, 7)}, r"\(2, 2, 5, 5\) cannot have the shape \[2, -1, 7\]"),
    ([node("Reshape", "x s")], {"s": ints(2, 2, 5, 5, 0)}, "a 0 keeps a size, and"),
    ([node("Reshape", "x s")], {"s": ints(0, 49)}, r"cannot give \(2, 2, 5, 5\) the shape \(2, 49\)"),
    ([node("Reshape", "x s")], {"s": ints(100)}, "cannot give|batch"),
    ([node("Reshape", "x s")], {"s": ints(0, *[1] * 40, 50)}, "more than 32 dimensions"),
    ([node("Reshape", "x s", allowzero=1)], {"s": ints(0, 50)}, r"cannot give \(2, 2, 5, 5\) the shape \(0, 50\)"),
    ([node("Reshape", "x s")], {"s": ones(2)}, "input 1 must be a list of integers, got float32"),
    ([node("Squeeze", "x s")], {"s": ints(1)}, r"dimensions \[1\] of \(2, 2, 5, 5\) are not all of size 1"),
    ([node("Unsqueeze", "x s")], {"s": ints(1, 1)}, "name a dimension twice"),
    (
        [node("Transpose", "x", perm=[0, 2, 3, 1])],
        {},
        r"changes the order of elements; export the model with images as \(N, C, H, W\)",
    ),
    ([node("Transpose", "x")], {}, "changes the order of elements"),
    ([node("Transpose", "x", perm=[0, 1, 2, 2])], {}, r"perm \[0, 1, 2, 2\] is no order of 4 dimensions"),
    ([node("Expand", "x s")], {"s": ints(3, 1, 2, 5, 5)}, r"a value cannot be repeated to \(3, 2, 2, 5, 5\)"),
    ([node("Expand", "c s", "e"), node("Add", "x e")], {"c": ONE, "s": ints(-1)}, r"to \(-1,\), which is no shape"),
    ([node("Slice", "x a b")], {"a": ints(0), "b": ints(1)}, "a part of the batch has no step"),
    ([node("Slice", "x a b c")], {"a": ints(3), "b": ints(3), "c": ints(2)}, "is empty or runs backwards"),
    (
        [node("Slice", "x a b c d")],
        {"a": ints(3), "b": ints(0), "c": ints(2), "d": ints(-1)},
        "is empty or runs backwards",
    ),
    ([node("Slice", "x a b c d")], {"a": ints(0), "b": ints(3), "c": ints(2), "d": ints(0)}, "do not go together"),
    ([node("Slice", "x a b c")], {"a": ints(0), "b": ints(1, 2), "c": ints(2)}, "do not go together"),
    ([node("Split", "x s", "y b", axis=1)], {"s": ints(1, 2)}, r"\[1, 2\] are no 2 parts of 2"),
    ([node("Gather", "x i", axis=1)], {"i": ints(2)}, r"an index outside dimension 1 of \(2, 2, 5, 5\)"),
    ([node("Gather", "x i", axis=1)], {"i": ints(0, 1)}, r"only one index has a step, got indices of shape \(2,\)"),
    ([node("Gather", "x i", axis=1)], {"i": ONE}, "its indices must be integers, got float32"),
    ([node("Gather", "x i")], {"i": ints(0)}, "a part of the batch has no step"),
    ([node("Pad", "x p", mode="reflect")], {"p": ints(*[0] * 8)}, "mode 'reflect' has no step; only constant"),
    ([node("Pad", "x p")], {"p": ints(1, 0, 0, 0, 0, 0, 0, 0)}, "padding of the batch has no step"),
    ([node("Pad", "x p")], {"p": ints(1, 2)}, r"pads \[1, 2\] and axes \[0, 1, 2, 3\] do not go together"),
    ([node("Pad", "x p")], {"p": ints(0, 0, 0, 2**41, 0, 0, 0, 0)}, "amounts must be integers|value of shape"),
    ([RELU, node("Concat", "x r", axis=0)], {}, "joining batches has no step"),
    ([RELU, node("Concat", "x c r", axis=1)], {"c": ones(2, 2, 5, 5)}, "a constant between values has no step"),
    (
        [node("Concat", "x c", axis=1)],
        {"c": np.arange(100, dtype=np.float32).reshape(2, 2, 5, 5)},
        "elements are not all one number",
    ),
    ([node("Concat", "x c", axis=1)], {"c": ones(2, 2, 5, 4)}, "differ in other dimensions than the one along which"),
    (
        [node("Concat", "a b", "c", axis=0), node("Add", "x c")],
        {"a": ints(1), "b": ones(1)},
        "constants of several dtypes",
    ),
    ([node("Cast", "x", to=7)], {}, "a value cannot become int64 in a plan"),
    ([node("Cast", "c", "i", to=8), node("Add", "x i")], {"c": ONE}, "a constant cannot become string"),
    (
        [node("Constant", "", "c", value_string="a"), node("Add", "x c")],
        {},
        "a constant of the form value_string is not read",
    ),
    (
        [node("ConstantOfShape", "s", "c", value=tensor(ones(2))), node("Add", "x c")],
        {"s": ints(1)},
        "must be one number, got shape",
    ),
    ([node("ConstantOfShape", "s", "c"), node("Add", "x c")], {"s": ints(-1)}, r"\[-1\] is no shape"),
    ([node("Sqrt", "c", "d"), node("Add", "x d")], {"c": ints(1)}, "of floats only, got int64"),
    ([node("Not", "c", "d"), node("Add", "x d")], {"c": ints(1)}, "of bools only, got int64"),
    ([node("Where", "c c c", "d"), node("Add", "x d")], {"c": ints(1)}, "needs bools and two of one dtype, got int64"),
    ([node("Range", "c c c", "d"), node("Add", "x d")], {"c": ONE}, "of single integers only"),
    ([node("Relu", "x", "r"), node("Neg", "c")], {"c": ONE}, "its output 'y' does not depend on its input"),
    (
        [node("Shape", "x", "s"), node("Cast", "s", "f", to=1), node("Slice", "f a b", "n"), node("Mul", "x n")],
        {"a": ints(0), "b": ints(1)},
        "depends on the batch size, which a plan leaves free",
    ),
]


@pytest.mark.parametrize(("nodes", "constants", "reason"), REFUSED)
def test_what_has_no_step_is_refused_by_name(nodes, constants, reason, tmp_path: Path) -> None:
    content = model(nodes, constants)
    with pytest.raises(CheckpointError, match=reason) as caught:
        frugally(lambda: load(content, tmp_path))
    assert str(caught.value).startswith(f"load_onnx: {tmp_path / 'model.onnx'}: ")


def test_fixed_batches_do_not_lose_their_batch(tmp_path: Path) -> None:
    """With a batch of 1, removing the dimensions of size 1 would remove the batch."""
    for nodes, constants in (
        ([node("Squeeze", "x")], {}),
        ([node("Reshape", "x s")], {"s": ints(50)}),
        ([node("Transpose", "x", perm=[1, 0, 2, 3])], {}),
    ):
        with pytest.raises(CheckpointError, match=r"batch in front|order of elements"):
            load(model(nodes, constants, shape=(1, 2, 5, 5)), tmp_path)


def test_arguments_are_checked(tmp_path: Path) -> None:
    content = model([node("Relu", "x")])
    with pytest.raises(
        ArgumentError, match=r"its input has the shape \(n, 2, 5, 5\), got input_shape = \(1, 2, 5, 6\)"
    ):
        load(content, tmp_path, (1, 2, 5, 6))
    with pytest.raises(ArgumentError, match=r"its input has the shape \(n, 2, 5, 5\), got input_shape = \(1, 2\)"):
        load(content, tmp_path, (1, 2))
    for bad in ((), (0, 2, 5, 5), (1, 2, 5.0, 5)):
        with pytest.raises(ArgumentError, match=r"input_shape must be \(N, ...\), positive integers"):
            load(content, tmp_path, bad)
    with pytest.raises(ArgumentError, match="there is no output 'z'; there is 'y'"):
        load(content, tmp_path, output="z")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        minires.load_onnx(tmp_path / "nowhere.onnx")


def test_graphs_that_no_plan_can_be_are_refused(tmp_path: Path) -> None:
    relu = [node("Relu", "x")]
    two = [node("Relu", "x", "a"), node("Relu", "a", "b")]
    for content, reason in [
        (model(relu, shape=("n", 2, "h", "w")), r"it leaves sizes of its input open, \(n, 2, h, w\); say input_shape="),
        (model(relu, shape=None), "it leaves sizes of its input open, unknown"),
        (model(relu, shape=()), r"it leaves sizes of its input open, \(\)"),
        (model(relu, shape=("n", 2**30, 2**30, 5)), "which no network has"),
        (model(two, outputs=("a", "b")), "it has 2 outputs, 'a', 'b'; say output=NAME"),
        (model(graph(relu).message(11, value("z", [1]))), "a plan has one input, the graph has 2: 'x', 'z'"),
        (model(relu, opset=6), "it uses opset 6; this minires knows 7 to 28"),
        (model(relu, opset=29), "it uses opset 29"),
        (model(graph([]).message(12, value("x", None)), opset=17), "output 'y' is written by no node"),
        (
            model(Writer().message(1, relu[0]).message(11, value("x", IMAGE, code=7)).message(12, value("y", None))),
            "is of type int64",
        ),
        (
            model([node("ReduceMean", "x", "m", axes=[1, 2, 3]), node("Identity", "c")], {"c": ONE}),
            "does not depend on its input",
        ),
    ]:
        with pytest.raises(CheckpointError, match=reason):
            load(content, tmp_path)


def doubled(times: int) -> list[Writer]:
    """A constant that becomes twice as long with each node."""
    return [node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(times)] + [node("Add", f"x c{times}")]


HUGE = ints(2**20, 2**19)
BOMBS: dict[str, tuple[list[Writer], dict[str, Any]]] = {
    "doubling": (doubled(60), {"c0": ones(1024)}),
    "reshape of a huge constant": (
        [node("ConstantOfShape", "s", "h"), node("Reshape", "h flat", "f"), node("Add", "x f")],
        {"s": HUGE, "flat": ints(-1)},
    ),
    "sum of huge constants": (
        [node("Expand", "c s", "h"), node("Add", "h h", "t"), node("Add", "x t")],
        {"c": ONE, "s": HUGE},
    ),
    "outer sum": ([node("Add", "a b", "t"), node("Add", "x t")], {"a": ones(50_000, 1), "b": ones(1, 50_000)}),
    "outer product": ([node("MatMul", "a b", "t"), node("Add", "x t")], {"a": ones(50_000, 1), "b": ones(1, 50_000)}),
    "huge gather": (
        [node("Gather", "a i", "t", axis=0), node("Add", "x t")],
        {"a": ones(1, 10_000), "i": np.zeros(10_000, np.int64)},
    ),
    "huge range": (
        [node("Range", "a b c", "t"), node("Add", "x t")],
        {"a": np.array(0), "b": np.array(2**62), "c": np.array(1)},
    ),
    "where": (
        [node("Expand", "c s", "h"), node("Where", "t h h", "r"), node("Add", "x r")],
        {"c": ONE, "s": HUGE, "t": np.array(True)},
    ),
    "equal": ([node("Expand", "c s", "h"), node("Equal", "h h", "r"), node("Add", "x r")], {"c": ONE, "s": HUGE}),
    "not": ([node("Expand", "c s", "h"), node("Not", "h", "r"), node("Add", "x r")], {"c": np.array(True), "s": HUGE}),
    "mean": (
        [node("Expand", "c s", "h"), node("ReduceMean", "h", "r", axes=[0]), node("Add", "x r")],
        {"c": ONE, "s": HUGE},
    ),
    "product": (
        [node("Expand", "c s", "h"), node("ReduceProd", "h", "r", axes=[0]), node("Add", "x r")],
        {"c": ONE, "s": HUGE},
    ),
    "maximum": ([node("Expand", "c s", "h"), node("Max", "h h", "r"), node("Add", "x r")], {"c": ONE, "s": HUGE}),
    "cast and join": (
        [
            node("Expand", "c s", "h"),
            node("Cast", "h", "d", to=11),
            node("Concat", "d d", "r", axis=0),
            node("Add", "x r"),
        ],
        {"c": ONE, "s": HUGE},
    ),
    "expanded weight": ([node("Expand", "c s", "w"), node("Conv", "x w")], {"c": ONE, "s": ints(2**24, 2, 5, 5)}),
    "expanded matrix": (
        [node("Flatten", "x", "f"), node("Expand", "c s", "w"), node("Gemm", "f w", alpha=2.0)],
        {"c": ONE, "s": ints(50, 2**24)},
    ),
    "expanded bias": (
        [node("Flatten", "x", "f"), node("Expand", "c s", "w"), node("Gemm", "f w b")],
        {"c": ONE, "s": ints(50, 2**26), "b": ones(1)},
    ),
    "many casts": (
        [node("Cast", "c", f"d{i}", to=11) for i in range(40)] + [node("Add", "x d0")],
        {"c": ones(100_000)},
    ),
    "a constant larger than a shape": (
        [node("Expand", "c s", "h"), node("Add", "x h")],
        {"c": ONE, "s": ints(2**40, 2**40)},
    ),
    "many integers": (
        [node("Reshape", "x s")],
        {"s": Writer().varint(1, 2_000_000).varint(2, 7).bytes(7, bytes(2_000_000)).string(8, "s")},
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_constants_cannot_grow_without_bounds(name: str, tmp_path: Path) -> None:
    nodes, constants = BOMBS[name]
    with pytest.raises(
        CheckpointError, match=r"far beyond the file's own size|more numbers than any list|too big|too large|array is"
    ):
        frugally(lambda: load(model(nodes, constants), tmp_path))


def test_dilated_poolings_cannot_take_forever(tmp_path: Path) -> None:
    """Their windows are looked at one by one; the sizes cost nothing to claim."""
    pools = [node("MaxPool", f"v{i}", f"v{i + 1}", kernel_shape=[3, 1], dilations=[2, 1]) for i in range(50)]
    content = model([node("Relu", "x", "v0"), *pools, node("Relu", "v50")], shape=("n", 1, 100_000, 1))
    with pytest.raises(CheckpointError, match="windows of its dilated poolings are too many"):
        load(content, tmp_path)


def outcome(content: bytes, folder: Path) -> bool:
    """Whether a file loads; all that may happen otherwise is a CheckpointError with the file's name."""
    try:
        frugally(lambda: load(content, folder))
    except CheckpointError as error:
        assert str(folder / "model.onnx") in str(error)
        return False
    return True


def test_files_cut_short_are_refused(tmp_path: Path) -> None:
    content = small()
    assert outcome(content, tmp_path)
    assert len(content) > 64 * 10
    for length in range(0, len(content), 64):
        assert not outcome(content[:length], tmp_path), length
    for length in range(len(content) - 64, len(content)):
        assert not outcome(content[:length], tmp_path), length


def test_flipped_bytes_give_one_error_or_a_network(tmp_path: Path) -> None:
    content = small()
    loaded = 0
    for place in range(300):
        changed = bytearray(content)
        changed[place] ^= 0xFF if place % 2 else 0x01
        loaded += outcome(bytes(changed), tmp_path)
    assert 30 < loaded < 270  # what only changes names or weights still loads


def test_random_damage_gives_one_error_or_a_network(tmp_path: Path) -> None:
    content = small()
    rng = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(content)
        for _ in range(int(rng.integers(1, 5))):
            place = int(rng.integers(len(changed)))
            match int(rng.integers(3)):
                case 0:
                    changed[place] = int(rng.integers(256))
                case 1:
                    del changed[place : place + int(rng.integers(1, 9))]
                case _:
                    changed[place:place] = rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8).tobytes()
        outcome(bytes(changed), tmp_path)


def test_reading_a_damaged_file_takes_no_longer_than_reading_a_good_one() -> None:
    """Measured in the reading of the whole file, on the same clock: a busy neighbour slows both."""
    content = small()

    def seconds(data: bytes) -> float:
        start = time.thread_time()
        for _ in range(20):
            with contextlib.suppress(CheckpointError):
                parse_onnx(data)
        return time.thread_time() - start

    honest = max(seconds(content) for _ in range(3))
    claims = Writer().varint(1, 8).bytes(7, b"\x0a\xff\xff\xff\xff\x07").to_bytes()  # a node of 2 GB
    assert min(seconds(claims) for _ in range(3)) < 5 * honest


def test_nothing_but_numpy_is_needed(tmp_path: Path) -> None:
    """Every other import is blocked; the file is read and the network runs."""
    from tests.test_packaging import BLOCKER

    path = tmp_path / "small.onnx"
    path.write_bytes(small())
    code = BLOCKER + (
        "import numpy as np, minires\n"
        f"plan = minires.load_onnx({str(path)!r}, kernels='reference')\n"
        "print(plan(np.ones((3, 2, 5, 5), np.float32)).sum())"
    )
    root = Path(minires.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(3)  # a softmax for each of three images


def test_attributes_in_two_forms_are_told_apart(tmp_path: Path) -> None:
    """`axes` as an attribute, as an input, and as the wrong thing."""
    for one in (node("ReduceMean", "x", axes=[2, 3]), node("ReduceMean", "x a")):
        plan = load(model([one], {"a": ints(2, 3)}), tmp_path)
        assert plan.output_shape == (1, 2, 1, 1)
    wrong = node("ReduceMean", "x").message(5, attribute("axes", "text"))
    with pytest.raises(CheckpointError, match="attribute 'axes' must be list, got memoryview"):
        load(model([wrong]), tmp_path)
