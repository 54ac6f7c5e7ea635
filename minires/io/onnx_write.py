"""The messages of an ONNX file, written: the counterpart of `onnx_file`. NumPy alone.

    nodes = [node("Relu", ["x"], ["y"], "relu_0")]
    write_onnx("net.onnx", "net", nodes, {"w": array}, inputs=[("x", np.float32, ("batch", 3))], outputs=[...])

Weights lie inside the file as raw little-endian bytes. Fields stand in the order of their numbers, repeated integers one by
one, so the bytes are those that the onnx package writes for the same model.

Source: onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minires.errors import ArgumentError
from minires.io.files import write_atomically
from minires.io.protobuf import Writer

__all__ = ["MAX_BYTES", "Value", "node", "write_onnx"]

IR_VERSION = 8  # of the file's format; the first that goes with opset 17
OPSET = 17  # of the operations: of 2022, so that older runtimes read it
MAX_BYTES = 2**31 - 1  # protobuf's limit: readers refuse a larger message

Value = tuple[str, Any, Sequence[int | str]]  # name, dtype, sizes; a text names a size that is free

_FLOAT, _INT64, _DOUBLE = 1, 7, 11  # TensorProto.DataType
_DATA_TYPES = {"float32": _FLOAT, "int64": _INT64, "float64": _DOUBLE}
_ATTRIBUTE_INT, _ATTRIBUTE_INTS = 2, 7  # AttributeProto.AttributeType


def node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, attributes: Mapping[str, Any] | None = None
) -> Writer:
    """A NodeProto.

    Args:
        inputs: names of values or initializers; "" for an optional one that is left out.
        attributes: integers, or sequences of them, by name.
    """
    writer = Writer()
    for value in inputs:
        writer.string(1, value)
    for value in outputs:
        writer.string(2, value)
    writer.string(3, name).string(4, op)
    for key, value in sorted((attributes or {}).items()):
        attribute = Writer().string(1, key)
        if isinstance(value, int):
            attribute.varint(3, value).varint(20, _ATTRIBUTE_INT)
        else:
            for number in value:
                attribute.varint(8, number)
            attribute.varint(20, _ATTRIBUTE_INTS)
        writer.message(5, attribute)
    return writer


def write_onnx(
    path: str | os.PathLike[str],
    graph_name: str,
    nodes: Iterable[Writer],
    initializers: Mapping[str, np.ndarray],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    values: Sequence[Value] = (),
    *,
    producer: tuple[str, str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a ModelProto to a file, aside, flushed and renamed.

    Args:
        graph_name: for people.
        nodes: from `node`, each behind those whose outputs it reads.
        initializers: constants by name: float32, float64 or int64, of any memory layout.
        values: what is known of values between the nodes, for viewers.
        producer: name and version of the program that made the model.
        metadata: texts by name, which runtimes hand to the user.

    Raises:
        ArgumentError: the model is larger than MAX_BYTES.
        OSError: the file cannot be written.
    """
    graph = Writer()
    for one in nodes:
        graph.message(1, one)
    graph.string(2, graph_name)
    for name, array in initializers.items():
        graph.message(5, _tensor(name, array))
    for field, described in ((11, inputs), (12, outputs), (13, values)):
        for value in described:
            graph.message(field, _value_info(*value))
    model = Writer().varint(1, IR_VERSION).string(2, producer[0]).string(3, producer[1])
    model.message(7, graph).message(8, Writer().string(1, "").varint(2, OPSET))
    for key, text in (metadata or {}).items():
        model.message(14, Writer().string(1, key).string(2, text))
    if model.size > MAX_BYTES:
        raise ArgumentError(
            f"export_onnx: the model takes {model.size:,} bytes; an ONNX file holds {MAX_BYTES:,} (2 GiB) with its weights "
            "inside. A plan, plan.save(FILE), has no such limit"
        )
    with write_atomically(path) as file:
        model.write_to(file)


def _tensor(name: str, array: np.ndarray) -> Writer:
    """A TensorProto."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    writer = Writer()
    for size in array.shape:
        writer.varint(1, size)
    raw = little.reshape(-1).view(np.uint8).data if little.size else b""
    return writer.varint(2, _DATA_TYPES[array.dtype.name]).string(8, name).bytes(9, raw)


def _value_info(name: str, dtype: Any, shape: Sequence[int | str]) -> Writer:
    """A ValueInfoProto: a name, and the type of a tensor of these sizes."""
    dims = Writer()
    for size in shape:
        dims.message(1, Writer().string(2, size) if isinstance(size, str) else Writer().varint(1, size))
    tensor = Writer().varint(1, _DATA_TYPES[np.dtype(dtype).name]).message(2, dims)
    return Writer().string(1, name).message(2, Writer().message(1, tensor))
