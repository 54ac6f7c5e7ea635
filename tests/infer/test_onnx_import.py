"""Each operation of ONNX that a plan can do, in the forms of the opsets, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minires
from minires.errors import CheckpointError
from minires.infer.onnx.rules import RULES
from tests.infer.onnx_graphs import FLOAT, agree, kinds, load, model, node, numpy_helper, onnx, runtime
from tests.tolerances import assert_close

ReferenceEvaluator = pytest.importorskip(
    "onnx.reference", reason="onnx, the judge of this test, is not installed"
).ReferenceEvaluator

RNG = np.random.default_rng(0)


def w(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f(value: float) -> np.ndarray:
    return np.array(value, np.float32)


IMAGE = ("n", 4, 7, 9)
W3 = w(6, 4, 3, 3)
BN = {"scale": w(4), "shift": w(4), "mean": w(4), "var": np.abs(w(4)) + np.float32(0.5)}
TO_FLAT = [node("Relu", "x", "r"), node("Flatten", "r", "flat")]

# name: opsets, nodes, constants, and the input's shape where it is not IMAGE
CASES: dict[str, tuple[Any, ...]] = {
    "conv": ((7, 11, 17, 22), [node("Conv", "x w")], {"w": W3}),
    "conv bias pads strides": (
        (7, 17),
        [node("Conv", "x w b", pads=[1, 1, 1, 1], strides=[2, 1])],
        {"w": W3, "b": w(6)},
    ),
    "conv asymmetric": ((17,), [node("Conv", "x w", pads=[0, 1, 2, 3], kernel_shape=[3, 3])], {"w": W3}),
    "conv dilated": ((17,), [node("Conv", "x w", pads=[2, 1, 2, 1], dilations=[2, 3])], {"w": W3}),
    "conv groups": ((17,), [node("Conv", "x w", group=2)], {"w": w(6, 2, 3, 2)}),
    "conv depthwise": ((17,), [node("Conv", "x w", group=4, pads=[1, 1, 1, 1])], {"w": w(8, 1, 3, 3)}),
    "conv same upper": ((17,), [node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2])], {"w": w(6, 4, 2, 4)}),
    "conv same lower": ((17,), [node("Conv", "x w", auto_pad="SAME_LOWER", strides=[2, 2])], {"w": w(6, 4, 2, 4)}),
    "conv same beyond its window": (
        (17,),
        [node("Conv", "x w", auto_pad="SAME_UPPER", strides=[3, 2])],
        {"w": w(6, 4, 1, 1)},
        ("n", 4, 8, 8),
    ),
    "conv valid": ((17,), [node("Conv", "x w", auto_pad="VALID", strides=[2, 2])], {"w": W3}),
    "pad, conv": (
        (11, 17),
        [node("Pad", "x pads", "p"), node("Conv", "p w", pads=[1, 0, 0, 1])],
        {"w": W3, "pads": ints(0, 0, 1, 2, 0, 0, 0, 1)},
    ),
    "pad of channels, conv": (
        (17,),
        [node("Pad", "x pads", "p"), node("Conv", "p w")],
        {"w": w(6, 5, 3, 3), "pads": ints(0, 1, 0, 0, 0, 0, 0, 0)},
    ),
    "pad of ones, conv": (
        (17,),
        [node("Pad", "x pads one", "p"), node("Conv", "p w")],
        {"w": W3, "pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "one": f(1)},
    ),
    "batch norm": ((7, 9, 14, 15), [node("BatchNormalization", "x scale shift mean var", epsilon=0.01)], BN),
    "batch norm of features": ((17,), [node("BatchNormalization", "x scale shift mean var")], BN, ("n", 4)),
    "conv, batch norm, relu": (
        (17,),
        [node("Conv", "x w", "c"), node("BatchNormalization", "c s t m v", "b"), node("Relu", "b")],
        {"w": W3, "s": w(6), "t": w(6), "m": w(6), "v": np.abs(w(6)) + f(0.5)},
    ),
    "relu": ((7, 13, 14), [node("Relu", "x")], {}),
    "sigmoid": ((7, 13), [node("Sigmoid", "x")], {}),
    "hard sigmoid": ((7, 22), [node("HardSigmoid", "x", alpha=0.3, beta=0.4)], {}),
    "hard sigmoid defaults": ((7,), [node("HardSigmoid", "x")], {}),
    "hard swish": ((14, 22), [node("HardSwish", "x")], {}),
    "add twice": ((7, 17), [node("Relu", "x", "r"), node("Add", "x r")], {}),
    "add a constant a channel": ((7, 17), [node("Add", "x c")], {"c": w(4, 1, 1)}),
    "add an image of one number": ((17,), [node("Add", "x c")], {"c": np.full((4, 7, 9), 0.3, np.float32)}),
    "add a number": ((7, 17), [node("Add", "c x")], {"c": f(0.3)}),
    "sub": ((17,), [node("Relu", "x", "r"), node("Sub", "x r")], {}),
    "sub a constant": ((17,), [node("Sub", "x c")], {"c": w(1, 4, 1, 1)}),
    "from a constant": ((17,), [node("Sub", "c x")], {"c": w(1, 4, 1, 1)}),
    "mul a constant": ((17,), [node("Mul", "x c")], {"c": w(1, 4, 1, 1)}),
    "div by a constant": ((17,), [node("Div", "x c")], {"c": np.abs(w(4, 1, 1)) + f(0.5)}),
    "neg": ((17,), [node("Neg", "x")], {}),
    "mul, swish": ((17,), [node("Sigmoid", "x", "s"), node("Mul", "x s")], {}),
    "gate": ((7, 17), [node("GlobalAveragePool", "x", "g"), node("Sigmoid", "g", "s"), node("Mul", "x s")], {}),
    "gate in front": ((17,), [node("GlobalAveragePool", "x", "g"), node("Mul", "g x")], {}),
    "sum of three": ((7, 13), [node("Relu", "x", "r"), node("Sigmoid", "x", "s"), node("Sum", "x r s")], {}),
    "sum of one": ((13,), [node("Sum", "x", "s"), node("Relu", "s")], {}),
    "sum with a constant": ((13,), [node("Sum", "x c x")], {"c": w(4, 1, 1)}),
    "clip attributes": ((7, 10), [node("Clip", "x", min=-0.5, max=0.7)], {}),
    "clip one attribute": ((7,), [node("Clip", "x", max=0.7)], {}),
    "clip inputs": ((11, 13), [node("Clip", "x low high")], {"low": f(-0.5), "high": f(0.7)}),
    "clip without min": ((13,), [node("Clip", "x - high")], {"high": f(0.7)}),
    "clip at nothing": ((13,), [node("Clip", "x", "c"), node("Relu", "c")], {}),
    "max and min": ((8, 13), [node("Max", "x low", "m"), node("Min", "m high")], {"low": f(-0.5), "high": f(0.7)}),
    "max pool": ((7, 8, 12), [node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "max pool ceil": ((10, 17), [node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}),
    "max pool ceil pads": (
        (17,),
        [node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)],
        {},
    ),
    "max pool dilated": ((10, 17), [node("MaxPool", "x", kernel_shape=[2, 3], dilations=[3, 2])], {}),
    "max pool asymmetric": ((17,), [node("MaxPool", "x", kernel_shape=[3, 3], pads=[0, 2, 2, 0])], {}),
    "max pool end": ((17,), [node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])], {}),
    "max pool wide pads": ((17,), [node("MaxPool", "x", kernel_shape=[3, 3], pads=[2, 1, 2, 1])], {}),
    "max pool wider pads": ((17,), [node("MaxPool", "x", kernel_shape=[3, 3], pads=[1, 2, 1, 2])], {}),
    "max pool same": ((17,), [node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER")], {}),
    "max pool same lower": ((17,), [node("MaxPool", "x", kernel_shape=[2, 4], auto_pad="SAME_LOWER")], {}),
    "average pool": ((7, 19), [node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "average pool with pads": (
        (7, 19),
        [node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)],
        {},
    ),
    "average pool ceil": ((10, 19), [node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}),
    "average pool ceil pads": (
        (19,),
        [node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1, count_include_pad=1)],
        {},
    ),
    "average pool asymmetric": (
        (19,),
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[0, 1, 2, 1], count_include_pad=1)],
        {},
    ),
    "average pool same": (
        (19,),
        [node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")],
        {},
    ),
    "global average pool": ((7, 17), [node("GlobalAveragePool", "x")], {}),
    "global average pool of rows": ((17,), [node("GlobalAveragePool", "x")], {}, ("n", 4, 7)),
    "global max pool": ((7, 17), [node("GlobalMaxPool", "x")], {}),
    "reduce mean attribute": ((7, 13), [node("ReduceMean", "x", axes=[2, 3], keepdims=0)], {}),
    "reduce mean negative axes": ((13,), [node("ReduceMean", "x", axes=[-1, -2])], {}),
    "reduce mean input": ((18,), [node("ReduceMean", "x axes", keepdims=0)], {"axes": ints(2, 3)}),
    "reduce mean of nothing": (
        (18,),
        [node("ReduceMean", "x axes", "r", noop_with_empty_axes=1), node("Relu", "r")],
        {"axes": ints()},
    ),
    "reduce mean channels": ((13,), [node("ReduceMean", "x", axes=[1])], {}),
    "reduce mean rows": ((13,), [node("ReduceMean", "x", axes=[2], keepdims=0)], {}),
    "reduce mean all": ((13,), [node("ReduceMean", "x", axes=[1, 2, 3])], {}),
    "reduce max": ((13,), [node("ReduceMax", "x", axes=[2, 3])], {}),
    "flatten": ((7, 17), [node("Flatten", "x")], {}),
    "flatten negative": ((13,), [node("Flatten", "x", axis=-3)], {}),
    "reshape": ((7, 17), [node("Reshape", "x shape")], {"shape": ints(0, 4, -1)}),
    "reshape to rows": ((17,), [node("Reshape", "x shape")], {"shape": ints(-1, 252)}),
    "reshape allowzero": ((14,), [node("Reshape", "x shape", allowzero=1)], {"shape": ints(-1, 2, 126)}),
    "view(x.size(0), -1)": (
        (7, 12),
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n", "n1", axes=[0]),
            node("Concat", "n1 rest", "shape", axis=0),
            node("Reshape", "x shape"),
        ],
        {"zero": np.array(0, np.int64), "rest": ints(-1)},
    ),
    "view of computed sizes": (
        (17,),
        [
            node("Shape", "x", "s"),
            node("Slice", "s one three", "ch"),
            node("ReduceProd", "ch", "c", keepdims=1),
            node("Cast", "c", "c32", to=onnx.TensorProto.INT32),
            node("Cast", "c32", "c64", to=onnx.TensorProto.INT64),
            node("Shape", "x", "n", end=1),
            node("Div", "c64 two", "half"),
            node("Mul", "half two", "whole"),
            node("Sub", "whole two", "less"),
            node("Add", "less two", "again"),
            node("Concat", "n again minus", "shape", axis=0),
            node("Reshape", "x shape"),
        ],
        {"one": ints(1), "three": ints(3), "two": ints(2), "minus": ints(-1)},
    ),
    "sizes from the middle": (
        (15, 21),
        [
            node("Shape", "x", "s", start=-2, end=4),
            node("Concat", "front s", "shape", axis=0),
            node("Reshape", "x shape"),
        ],
        {"front": ints(-1, 2, 2)},
    ),
    "squeeze, unsqueeze attributes": (
        (7, 12),
        [node("GlobalAveragePool", "x", "g"), node("Squeeze", "g", "s", axes=[2, 3]), node("Unsqueeze", "s", axes=[1])],
        {},
    ),
    "squeeze, unsqueeze inputs": (
        (13, 21),
        [node("GlobalAveragePool", "x", "g"), node("Squeeze", "g axes", "s"), node("Unsqueeze", "s end")],
        {"axes": ints(2, -1), "end": ints(-1)},
    ),
    "gemm": ((7, 13), [*TO_FLAT, node("Gemm", "flat w b", transB=1)], {"w": w(5, 252), "b": w(5)}),
    "gemm alpha beta": (
        (13,),
        [*TO_FLAT, node("Gemm", "flat w b", alpha=0.5, beta=2.0)],
        {"w": w(252, 5), "b": w(1, 5)},
    ),
    "gemm without bias": ((11, 13), [*TO_FLAT, node("Gemm", "flat w")], {"w": w(252, 5)}),
    "gemm with a number": ((13,), [*TO_FLAT, node("Gemm", "flat w b")], {"w": w(252, 5), "b": w(1)}),
    "gemm of two": (
        (13,),
        [*TO_FLAT, node("Gemm", "flat w", "a"), node("Gemm", "flat v a")],
        {"w": w(252, 5), "v": w(252, 5)},
    ),
    "matmul, add": (
        (7, 13),
        [*TO_FLAT, node("MatMul", "flat w", "m"), node("Add", "m b")],
        {"w": w(252, 5), "b": w(5)},
    ),
    "matmul transposed": (
        (13,),
        [*TO_FLAT, node("Transpose", "w", "wt", perm=[1, 0]), node("MatMul", "flat wt")],
        {"w": w(5, 252)},
    ),
    "matmul of three": ((13,), [node("MatMul", "x w")], {"w": w(9, 5)}, ("n", 1, 9)),
    "softmax": ((7, 11, 13), [*TO_FLAT, node("Softmax", "flat", axis=1)], {}),
    "softmax default": ((7, 13), [*TO_FLAT, node("Softmax", "flat")], {}),
    "softmax of images": ((7, 11, 13), [node("Softmax", "x", axis=1)], {}),
    "softmax default of images": ((11, 13), [node("Softmax", "x")], {}),
    "softmax of rows": ((11, 13), [node("Softmax", "x", axis=2)], {}),
    "pad attributes": ((7, 10), [node("Pad", "x", pads=[0, 1, 0, 2, 0, 0, 3, 1], value=0.5)], {}),
    "pad inputs": ((11, 17), [node("Pad", "x pads value")], {"pads": ints(0, 1, 0, 2, 0, 0, 3, 1), "value": f(0.5)}),
    "pad axes": ((18, 21), [node("Pad", "x pads - axes")], {"pads": ints(1, 2, 0, 3), "axes": ints(-1, 2)}),
    "pad cuts": ((17,), [node("Pad", "x pads")], {"pads": ints(0, 0, -1, 2, 0, 0, -2, -1)}),
    "concat": ((7, 13), [node("Relu", "x", "r"), node("Concat", "x r x", axis=1)], {}),
    "concat rows": ((13,), [node("Relu", "x", "r"), node("Concat", "x r", axis=-2)], {}),
    "slice attributes": ((7, 9), [node("Slice", "x", starts=[1, 0], ends=[-1, 100], axes=[2, 1])], {}),
    "slice inputs": (
        (10, 17),
        [node("Slice", "x starts ends axes steps")],
        {"starts": ints(1, -3), "ends": ints(100, 2**63 - 1), "axes": ints(2, -1), "steps": ints(2, 1)},
    ),
    "slice without axes": ((17,), [node("Slice", "x s e")], {"s": ints(0, 1), "e": ints(2**31, 3)}),
    "gather one": ((13,), [node("Gather", "x i", axis=1)], {"i": np.array(-1, np.int64)}),
    "gather a list of one": ((13,), [node("Gather", "x i", axis=2)], {"i": ints(3)}),
    "split, old": ((7, 11), [node("Split", "x", "a b", axis=1, split=[1, 3]), node("Concat", "b a", axis=1)], {}),
    "split": (
        (13, 17),
        [node("Split", "x sizes", "a b", axis=1), node("Concat", "b a", axis=1)],
        {"sizes": ints(1, 3)},
    ),
    "split equally": ((18,), [node("Split", "x", "a b", axis=3, num_outputs=2), node("Concat", "b a", axis=3)], {}),
    "identity, dropout": ((7, 12), [node("Identity", "x", "i"), node("Dropout", "i", "d"), node("Relu", "d")], {}),
    "dropout inputs": (
        (13,),
        [node("Dropout", "x ratio off", "d"), node("Relu", "d")],
        {"ratio": f(0.3), "off": np.array(False)},
    ),
    "cast": ((13,), [node("Cast", "x", "c", to=FLOAT), node("Relu", "c")], {}),
    "transpose of ones": ((13,), [node("Transpose", "x", perm=[0, 2, 1, 3])], {}, ("n", 4, 1, 9)),
    "expand to itself": ((13,), [node("Expand", "x shape", "e"), node("Relu", "e")], {"shape": ints(1, 4, 1, 1)}),
    "zeros beside": (
        (13, 20),
        [
            node("Shape", "x", "s"),
            node("Gather", "s first", "n", axis=0),
            node("Concat", "n rest", "shape", axis=0),
            node("ConstantOfShape", "shape", "z"),
            node("Concat", "z x z z", axis=1),
        ],
        {"first": ints(0), "rest": ints(2, 7, 9)},
    ),
    "constants in front": (
        (13,),
        [node("Concat", "a b x", axis=1)],
        {"a": np.full((2, 1, 7, 9), 0.5, np.float32), "b": np.full((2, 2, 7, 9), -1, np.float32)},
        (2, 4, 7, 9),
    ),
    "expand of zeros": (
        (13,),
        [
            node("Shape", "x", "s"),
            node("ConstantOfShape", "four", "ones", value=numpy_helper.from_array(ints(1))),
            node("Equal", "s four1", "same"),
            node("Where", "same ones s", "shape"),
            node("Expand", "c shape", "e"),
            node("Concat", "x e", axis=1),
        ],
        {"four": ints(4), "four1": ints(-1, -1, -1, -1), "c": w(1, 1, 1, 1)},
    ),
    "weights prepared": (
        (13,),
        [
            node("ReduceMean", "w", "m", axes=[1, 2, 3]),
            node("Sub", "w m", "d"),
            node("Mul", "d d", "d2"),
            node("ReduceMean", "d2", "v", axes=[1, 2, 3]),
            node("Add", "v eps", "ve"),
            node("Sqrt", "ve", "std"),
            node("Div", "d std", "n"),
            node("Conv", "x n"),
        ],
        {"w": W3, "eps": f(1e-5)},
    ),
    "constants": (
        (13,),
        [
            node("Constant", "", "a", value_float=0.5),
            node("Constant", "", "b", value_floats=[0.1, 0.2, 0.3, 0.4]),
            node("Constant", "", "i", value_ints=[1, 4, 1, 1]),
            node("Constant", "", "t", value=numpy_helper.from_array(w(4, 1, 1))),
            node("Reshape", "b i", "c"),
            node("Add", "x a", "xa"),
            node("Mul", "xa c", "xac"),
            node("Sub", "xac t"),
        ],
        {},
    ),
}


@pytest.mark.parametrize(("name", "opset"), [(name, opset) for name, case in CASES.items() for opset in case[0]])
def test_operations_agree_with_onnxruntime(name: str, opset: int, tmp_path) -> None:
    _, nodes, constants, *shape = CASES[name]
    shape = shape[0] if shape else IMAGE
    batches = (1, 3) if isinstance(shape[0], str) else (shape[0],)
    agree(model(nodes, shape, opset, constants), tmp_path, *shape[1:], length=256, batches=batches)


@pytest.mark.parametrize("name", ["conv asymmetric", "view(x.size(0), -1)", "gemm", "batch norm", "reduce mean all"])
def test_a_fixed_batch_is_made_free(name: str, tmp_path) -> None:
    opsets, nodes, constants = CASES[name][:3]
    fixed = model(nodes, (2, *IMAGE[1:]), opsets[0], constants)
    plan = agree(fixed, tmp_path, *IMAGE[1:], length=256, batches=(2,))
    assert plan.input_shape == (2, *IMAGE[1:])
    x = np.random.default_rng(5).standard_normal((3, *IMAGE[1:])).astype(np.float32)
    free = model(nodes, IMAGE, opsets[0], constants)
    assert_close(plan(x), runtime(free, x), "float32", 256)


def test_every_operation_is_in_the_table() -> None:
    """In those CASES, or in those of the operations that give constants."""
    nodes = [n for table in (CASES, CONSTANTS) for case in table.values() for n in case[1]]
    assert {n.op_type for n in nodes} == set(RULES)


# Operations whose results are read as constants: the shape of a reshape, or what is added to the image.
CONSTANTS: dict[str, tuple[Any, ...]] = {
    "unary": (
        (13,),
        [
            node("Abs", "c", "c1"),
            node("Sqrt", "c1", "c2"),
            node("Exp", "c2", "c3"),
            node("Log", "c3", "c4"),
            node("Reciprocal", "c4", "c5"),
            node("Neg", "c5", "c6"),
            node("Add", "x c6"),
        ],
        {"c": w(4, 1, 1)},
    ),
    "floor, ceil": (
        (13,),
        [node("Floor", "c", "a"), node("Ceil", "c", "b"), node("Add", "a b", "s"), node("Mul", "x s")],
        {"c": w(4, 1, 1)},
    ),
    "compare": (
        (13,),
        [
            node("Less", "c zero", "l"),
            node("Not", "l", "n"),
            node("Greater", "c one", "g"),
            node("Where", "n c zero", "a"),
            node("Where", "g one a", "b"),
            node("Add", "x b"),
        ],
        {"c": w(4, 1, 1), "zero": f(0), "one": f(0.5)},
    ),
    "max and min of constants": (
        (13,),
        [node("Max", "c zero", "m"), node("Min", "m one", "l"), node("Add", "x l")],
        {"c": w(4, 1, 1), "zero": f(0), "one": f(0.5)},
    ),
    "matmul of constants": (
        (13,),
        [node("MatMul", "a b", "w"), node("Reshape", "w s", "w4"), node("Conv", "x w4")],
        {"a": w(6, 2), "b": w(2, 4), "s": ints(6, 4, 1, 1)},
    ),
    "reduce sum": (
        (13,),
        [node("ReduceSum", "c axes", "s", keepdims=1), node("Mul", "x s")],
        {"c": w(4, 3, 3), "axes": ints(1, 2)},
    ),
    "reduce max of constants": (
        (13,),
        [node("ReduceMax", "c", "s", axes=[0], keepdims=0), node("Add", "x s")],
        {"c": w(5, 4, 1, 1)},
    ),
    "range, size, gather": (
        (13,),
        [
            node("Size", "x", "size"),
            node("Shape", "x", "shape"),
            node("Range", "zero four two", "even"),
            node("Gather", "shape even", "some", axis=0),
            node("Concat", "some minus", "to", axis=0),
            node("Div", "size all", "n"),
            node("Unsqueeze", "n zeroth", "n1"),
            node("Slice", "to one three", "rest"),
            node("Concat", "n1 rest", "whole", axis=0),
            node("Reshape", "x whole"),
        ],
        {
            "zero": np.array(0, np.int64),
            "four": np.array(4, np.int64),
            "two": np.array(2, np.int64),
            "minus": ints(-1),
            "all": np.array(252, np.int64),
            "zeroth": ints(0),
            "one": ints(1),
            "three": ints(3),
        },
    ),
    "division towards zero": (
        (13,),
        [
            node("Div", "a b", "q"),
            node("Neg", "q", "p"),
            node("Cast", "p", "c", to=FLOAT),
            node("Reshape", "c s", "c4"),
            node("Add", "x c4"),
        ],
        {"a": ints(7, -7, 7, -7), "b": ints(2, 2, -2, -2), "s": ints(4, 1, 1)},
    ),
    "slice backwards": (
        (13,),
        [node("Slice", "c s e a t", "r"), node("Add", "x r")],
        {"c": w(4, 1, 1), "s": ints(3), "e": ints(-9), "a": ints(0), "t": ints(-1)},
    ),
    "split, squeeze, transpose": (
        (13,),
        [
            node("Split", "c", "a b", axis=0),
            node("Squeeze", "a z", "s"),
            node("Transpose", "s", "t", perm=[2, 0, 1]),
            node("Mul", "x t"),
        ],
        {"c": w(2, 1, 1, 4), "z": ints(0)},
    ),
}


@pytest.mark.parametrize(("name", "opset"), [(name, opset) for name, case in CONSTANTS.items() for opset in case[0]])
def test_constants_are_computed(name: str, opset: int, tmp_path) -> None:
    _, nodes, constants = CONSTANTS[name]
    agree(model(nodes, IMAGE, opset, constants), tmp_path, *IMAGE[1:], length=256)


def test_steps_are_fused(tmp_path) -> None:
    """What is found in the file is simplified as `compile` does: one step each."""
    for name, kept in {
        "conv, batch norm, relu": ["conv2d"],
        "pad, conv": ["conv2d"],
        "matmul, add": ["relu", "reshape", "linear"],
        "add a constant a channel": ["scale_shift"],
        "max and min": ["clamp", "clamp"],
        "view(x.size(0), -1)": ["reshape"],
        "max pool end": ["max_pool2d"],
        "max pool asymmetric": ["pad", "max_pool2d"],
        "weights prepared": ["conv2d"],
        "clip at nothing": ["relu"],
    }.items():
        opsets, nodes, constants = CASES[name]
        plan = load(model(nodes, IMAGE, opsets[-1], constants), tmp_path)
        assert kinds(plan) == kept, name
    relu6 = model([node("Clip", "x low")], IMAGE, 13, {"low": f(0)})
    assert kinds(load(relu6, tmp_path)) == ["relu"]


def windows(rng: np.random.Generator, dilations: bool) -> dict[str, Any]:
    """Attributes of a window, any that could be meant."""
    k = rng.integers(1, 5, 2).tolist()
    given: dict[str, Any] = {"kernel_shape": k, "strides": rng.integers(1, 4, 2).tolist()}
    if rng.random() < 0.3:
        given["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        return given
    given["pads"] = [int(rng.integers(0, size)) for size in k + k]
    if dilations and rng.random() < 0.4:
        given["dilations"] = rng.integers(1, 3, 2).tolist()
    return given


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
def test_any_window_agrees_with_onnxruntime_or_is_refused(op: str, tmp_path) -> None:
    rng = np.random.default_rng(0)
    agreed = 0
    for _ in range(120):
        given = windows(rng, op != "AveragePool")
        h, width = rng.integers(1, 12, 2).tolist()
        constants = (
            {"w": rng.standard_normal((3, 2, *given["kernel_shape"])).astype(np.float32)} if op == "Conv" else {}
        )
        if op != "Conv" and rng.random() < 0.5:
            given["ceil_mode"] = 1
        if op == "AveragePool" and rng.random() < 0.5:
            given["count_include_pad"] = 1
        content = model([node(op, "x w" if op == "Conv" else "x", **given)], ("n", 2, h, width), 19, constants)
        try:
            plan = load(content, tmp_path)
        except CheckpointError:
            continue
        x = rng.standard_normal((2, 2, h, width)).astype(np.float32)
        assert_close(plan(x), runtime(content, x), "float32", 32, f"{given}, {h} x {width}")
        agreed += 1
    assert agreed > 70


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_precisions(dtype: str, tmp_path) -> None:
    """float64 stays; half precision is computed in float32, so it is nearer to the truth than to the runtime."""
    kind = {"float64": onnx.TensorProto.DOUBLE, "float16": onnx.TensorProto.FLOAT16}[dtype]
    nodes = [node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("Cast", "r", to=kind)]
    constants = {"w": W3.astype(dtype), "b": w(6).astype(dtype)}
    plan = load(model(nodes, IMAGE, 13, constants, dtype=kind), tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 4, 7, 9)).astype(dtype)
    assert plan.graph.dtype == ("float64" if dtype == "float64" else "float32")
    wide = {name: array.astype(np.float64) for name, array in constants.items()}
    nodes[-1] = node("Identity", "r")
    # onnxruntime has no convolution in float64; onnx's own reference does.
    judge = ReferenceEvaluator(onnx.load_from_string(model(nodes, IMAGE, 13, wide, dtype=onnx.TensorProto.DOUBLE)))
    (exact,) = judge.run(None, {"x": x.astype(np.float64)})
    assert_close(plan(x.astype(plan.graph.dtype)), exact, str(plan.graph.dtype), 36)


def test_input_shape_fills_what_the_file_leaves_open(tmp_path) -> None:
    nodes = [node("Conv", "x w", "c"), node("GlobalAveragePool", "c")]
    for shape in [("n", 4, "h", "w"), (None, 4, None, None), (2, 4, "h", 9)]:
        content = model(nodes, shape, 13, {"w": W3})
        plan = load(content, tmp_path, (5, 4, 7, 9))
        assert plan.input_shape == (5, 4, 7, 9)
        x = np.random.default_rng(0).standard_normal((2, 4, 7, 9)).astype(np.float32)
        assert_close(plan(x), runtime(content, x), "float32", 64)
    fixed = model(nodes, (1, 4, 7, 9), 13, {"w": W3})
    assert load(fixed, tmp_path, (6, 4, 7, 9)).input_shape == (6, 4, 7, 9)
    assert load(model(nodes, ("n", 4, 7, 9), 13, {"w": W3}), tmp_path).input_shape == (1, 4, 7, 9)


def test_one_of_several_outputs(tmp_path) -> None:
    content = model([node("Relu", "x", "a"), node("Sigmoid", "a", "b")], IMAGE, 13, outputs=("a", "b"))
    x = np.random.default_rng(0).standard_normal((2, 4, 7, 9)).astype(np.float32)
    for output, kept in (("a", ["relu"]), ("b", ["relu", "sigmoid"])):
        plan = load(content, tmp_path, output=output)
        assert kinds(plan) == kept
        assert_close(plan(x), runtime(content, x, output), "float32")


def test_a_plan_is_saved_and_load_plan_reads_both_forms(tmp_path) -> None:
    content = model([node("Conv", "x w", "c"), node("Relu", "c")], IMAGE, 13, {"w": W3})
    plan = load(content, tmp_path)
    plan.save(tmp_path / "plan.safetensors")
    x = np.random.default_rng(0).standard_normal((2, 4, 7, 9)).astype(np.float32)
    for name in ("plan.safetensors", "model.onnx"):
        np.testing.assert_array_equal(minires.load_plan(tmp_path / name, kernels="reference")(x), plan(x))


def test_names_with_nothing_to_do_are_left_out(tmp_path) -> None:
    """A network that gives its input back; nodes that nobody reads, constants that nobody decodes."""
    content = model(
        [node("Conv", "x w", "unread"), node("Identity", "x")], IMAGE, 13, {"w": W3, "text": np.array(["a"], object)}
    )
    plan = load(content, tmp_path)
    assert kinds(plan) == []
    x = np.random.default_rng(0).standard_normal((2, 4, 7, 9)).astype(np.float32)
    np.testing.assert_array_equal(plan(x), x)
