"""ONNX files written field by field, so that they can say anything; the onnx package is not needed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minires.io.onnx_tensor import DTYPE_NAMES
from minires.io.protobuf import Writer

CODES = {name: code for code, name in DTYPE_NAMES.items()}


def tensor(array: Any, name: str = "", **changes: Any) -> Writer:
    """A TensorProto with raw_data; `dims`, `code` and `raw` may say something else than the array."""
    array = np.asarray(array)
    writer = Writer()
    for size in changes.get("dims", array.shape):
        writer.varint(1, size)
    writer.varint(2, changes.get("code", CODES[str(array.dtype)]))
    writer.bytes(9, changes.get("raw", array.tobytes()))
    return writer.string(8, name) if name else writer


def attribute(name: str, value: Any) -> Writer:
    """An AttributeProto."""
    writer = Writer().string(1, name)
    match value:
        case Writer():
            return writer.message(5, value).varint(20, 4)
        case float():
            return writer.float32(2, value).varint(20, 1)
        case int():
            return writer.varint(3, value).varint(20, 2)
        case str():
            return writer.string(4, value).varint(20, 3)
    for number in value:
        writer.varint(8, number)
    return writer.varint(20, 7)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> Writer:
    """A NodeProto; names are separated by spaces."""
    writer = Writer()
    for name in inputs.split():
        writer.string(1, name)
    for name in outputs.split():
        writer.string(2, name)
    writer.string(3, f"the {op}").string(4, op)
    for name, value in attributes.items():
        writer.message(5, attribute(name, value))
    return writer


def value(name: str, shape: Sequence[int | str] | None, code: int = 1) -> Writer:
    """A ValueInfoProto."""
    kind = Writer().varint(1, code)
    if shape is not None:
        sizes = Writer()
        for size in shape:
            sizes.message(1, Writer().varint(1, size) if isinstance(size, int) else Writer().string(2, size))
        kind.message(2, sizes)
    return Writer().string(1, name).message(2, Writer().message(1, kind))


def graph(
    nodes: Sequence[Writer],
    constants: Mapping[str, Any] | None = None,
    shape: Sequence[int | str] | None = ("n", 2, 5, 5),
    outputs: Sequence[str] = ("y",),
) -> Writer:
    """A GraphProto from x to the outputs. Constants are arrays, or tensors in full."""
    writer = Writer()
    for one in nodes:
        writer.message(1, one)
    for name, array in (constants or {}).items():
        writer.message(5, array if isinstance(array, Writer) else tensor(array, name))
    writer.message(11, value("x", shape))
    for name in outputs:
        writer.message(12, value(name, None))
    return writer


def model(*arguments: Any, opset: int = 17, **options: Any) -> bytes:
    """A file. Arguments as for `graph`, or a graph."""
    made = arguments[0] if isinstance(arguments[0], Writer) else graph(*arguments, **options)
    head = Writer().varint(1, 8).string(2, "by hand").message(7, made)
    return head.message(8, Writer().string(1, "").varint(2, opset)).to_bytes()


def small() -> bytes:
    """A small network with every part that a file has: constants in both forms, attributes of several types."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    typed = Writer().varint(1, 3).varint(2, 1).packed_floats(4, rng.standard_normal(3)).string(8, "b")
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1], group=1),
        node("BatchNormalization", "c s t m v", "n", epsilon=0.01),
        node("Relu", "n", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID"),
        node("Shape", "p", "shape"),
        node("Gather", "shape first", "batch", axis=0),
        node("Concat", "batch rest", "to", axis=0),
        node("Reshape", "p to", "f"),
        node("Gemm", "f fc", "l", transB=1, alpha=0.5),
        node("Softmax", "l", axis=1),
    ]
    ones = {name: rng.uniform(0.5, 1.5, 3).astype(np.float32) for name in ("s", "t", "m", "v")}
    sizes = {"first": np.array([0]), "rest": np.array([-1])}
    constants = {"w": weight, "b": typed, **ones, **sizes, "fc": rng.standard_normal((4, 12)).astype(np.float32)}
    return model(nodes, constants)


def frugally(call: Callable[[], Any], limit: float = 50e6) -> Any:
    """Runs `call` with less than `limit` bytes."""
    tracemalloc.start()
    try:
        return call()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit, f"{peak:,} bytes"
