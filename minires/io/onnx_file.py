"""ONNX files as plain data: nodes, constants, inputs and outputs. NumPy alone; the `onnx` package is not needed.

    model = read_onnx("resnet18.onnx")
    model.nodes[0]                        # OnnxNode(op="Conv", inputs=("x", "conv1.weight"), ...)
    model.initializers["fc.bias"].array()

A file is one protobuf message (see `protobuf`), ModelProto: its graph has nodes, each an operation that reads and writes
values by name; initializers, the constants by name; and the names, types and shapes of what comes in and goes out.

What is read is what a plain network needs. Refused by name are functions, subgraphs (If, Loop), sparse tensors, operations
of other domains than ONNX's own, and numbers that lie in other files. Nothing of the file is run, looked up or opened, and
all that a damaged or forged file can cause is one CheckpointError with the reason.

Memory: the file's bytes once. Arrays are made when they are asked for (see `onnx_tensor`).

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and docs/IR.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from minires.errors import CheckpointError
from minires.io.onnx_node import DOMAINS, OnnxNode, read_node
from minires.io.onnx_tensor import DTYPE_NAMES, MAX_NAME, MAX_RANK, MAX_SIZE, OnnxTensor, read_tensor
from minires.io.protobuf import Field, Reader, WireError, integer, text
from minires.io.sniff import describe_file, is_onnx

__all__ = ["OnnxModel", "OnnxNode", "OnnxValue", "parse_onnx", "read_onnx"]

MAX_FILE = 2**31  # bytes; protobuf's own limit for a message
MAX_NODES = 20_000  # and initializers, inputs, outputs; ResNet-1202 as torch exports it, nothing folded, has 11,000


@dataclass(frozen=True, slots=True)
class OnnxValue:
    """What a graph says of an input or output.

    Attributes:
        name: of the value.
        dtype: of its elements, a name of DTYPE_NAMES; "" where it is not said.
        shape: sizes; a name or "?" for one that is free. None where nothing is said.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(slots=True)
class OnnxModel:
    """A file's content.

    Attributes:
        opset: version of ONNX's own operations.
        producer: who wrote the file, for messages.
        nodes: in the order of the file, which is one in which they can run.
        initializers: constants by name.
        inputs: without the initializers, which old files list among them.
        outputs: at least one.
    """

    opset: int = 0
    producer: str = ""
    nodes: list[OnnxNode] = field(default_factory=list)
    initializers: dict[str, OnnxTensor] = field(default_factory=dict)
    inputs: list[OnnxValue] = field(default_factory=list)
    outputs: list[OnnxValue] = field(default_factory=list)


def read_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """Read an ONNX file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, forged, no ONNX file, or holds what is not read; the message says which and why.
    """
    where = f"onnx: {os.fspath(path)}"
    if not os.path.exists(path):
        raise FileNotFoundError(f"onnx: there is no file {os.fspath(path)}")
    if not os.path.isfile(path):
        raise CheckpointError(f"{where}: it is no file, but a folder or a device")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(512)
        if not is_onnx(head):
            raise CheckpointError(
                f"{where}: it does not begin as an ONNX model does; it is {describe_file(head, size)}"
            )
        if size > MAX_FILE:
            raise CheckpointError(f"{where}: {size:,} bytes; an ONNX file has at most {MAX_FILE:,}")
        file.seek(0)
        data = file.read()
    return parse_onnx(data, where)


def parse_onnx(data: bytes | memoryview, where: str = "onnx") -> OnnxModel:
    """The same of bytes in memory, which must not change while the model is in use.

    Args:
        where: the beginning of messages.
    """
    model, graph = OnnxModel(), None
    try:
        for part in Reader(data):
            match part.number:
                case 2:
                    model.producer = text(part, MAX_NAME)
                case 7 if graph is not None:
                    raise WireError("it has two graphs")
                case 7:
                    graph = part
                case 8:
                    _read_opset(part, model)
                case 25:
                    raise WireError(
                        f"it defines the function {_name_of(part)!r}; functions must be inlined first{_AGAIN}"
                    )
        if graph is None:
            raise WireError("there is no graph in it: it is cut short, or no ONNX model")
        if not model.opset:
            raise WireError("it does not say which version (opset) of ONNX's operations it uses")
        _read_graph(graph, model)
        _check_names(model)
    except WireError as error:
        raise CheckpointError(f"{where}: {error}") from None
    return model


_AGAIN = ": onnx.inliner does that, and so does exporting with a current torch"


def _read_opset(part: Field, model: OnnxModel) -> None:
    """OperatorSetIdProto. Other domains may be listed, as long as no node is of them."""
    domain, version = "", 0
    for entry in part.message():
        if entry.number == 1:
            domain = text(entry, MAX_NAME)
        elif entry.number == 2:
            version = integer(entry)
    if domain in DOMAINS:
        if model.opset:
            raise WireError("it names two versions (opsets) of ONNX's operations")
        if version < 1:
            raise WireError(f"its version (opset) of ONNX's operations is {version}, which is none")
        model.opset = version


def _name_of(part: Field) -> str:
    """Field 1 of a message, a name for an error; "" where there is none."""
    return next((text(entry, MAX_NAME) for entry in part.message() if entry.number == 1), "")


def _read_graph(graph: Field, model: OnnxModel) -> None:
    """GraphProto. value_info, doc_string and metadata are notes for others, and skipped."""
    for part in graph.message():
        if max(len(model.nodes), len(model.initializers), len(model.inputs), len(model.outputs)) > MAX_NODES:
            raise WireError(f"more than {MAX_NODES:,} nodes, initializers, inputs or outputs")
        match part.number:
            case 1:
                model.nodes.append(read_node(part))
            case 5:
                tensor = read_tensor(part.message())
                if not tensor.name:
                    raise WireError("an initializer without a name")
                if tensor.name in model.initializers:
                    raise WireError(f"two initializers of the name {tensor.name!r}")
                model.initializers[tensor.name] = tensor
            case 11:
                model.inputs.append(_read_value(part))
            case 12:
                model.outputs.append(_read_value(part))
            case 15:
                raise WireError("it has sparse initializers, which minires does not read")
    model.inputs = [value for value in model.inputs if value.name not in model.initializers]


def _read_value(part: Field) -> OnnxValue:
    """ValueInfoProto: a name and a type, which must be a tensor's."""
    name, dtype, shape = "", "", None
    for entry in part.message():
        if entry.number == 1:
            name = text(entry, MAX_NAME)
        elif entry.number == 2:
            for kind in entry.message():  # TypeProto
                if kind.number == 1:
                    dtype, shape = _read_tensor_type(kind)
                elif kind.number != 6:
                    raise WireError(f"value {name!r} is no tensor, but a sequence, a map or the like")
    if not name:
        raise WireError("an input or output of the graph without a name")
    return OnnxValue(name, dtype, shape)


def _read_tensor_type(part: Field) -> tuple[str, tuple[int | str, ...] | None]:
    dtype: str = ""
    shape: list[int | str] | None = None
    for entry in part.message():
        if entry.number == 1:
            data_type = integer(entry)
            if data_type not in DTYPE_NAMES:
                raise WireError(f"data type {data_type} is none of ONNX's")
            dtype = DTYPE_NAMES[data_type]
        elif entry.number == 2:
            shape = [_read_dimension(dimension) for dimension in entry.message() if dimension.number == 1]
            if len(shape) > MAX_RANK:
                raise WireError(f"a value of more than {MAX_RANK} dimensions")
    return dtype, None if shape is None else tuple(shape)


def _read_dimension(part: Field) -> int | str:
    size: int | str = "?"
    for entry in part.message():
        if entry.number == 1:
            size = integer(entry)
            if not -1 <= size <= MAX_SIZE:
                raise WireError(f"a size that is none, {size}")
            size = "?" if size < 1 else size  # how some writers say that it is free
        elif entry.number == 2:
            size = text(entry, MAX_NAME) or "?"
    return size


def _check_names(model: OnnxModel) -> None:
    """Every value is written once, before it is read; so there are no cycles."""
    known = set(model.initializers)
    for value in model.inputs:
        if value.name in known:
            raise WireError(f"two inputs of the name {value.name!r}")
        known.add(value.name)
    for node in model.nodes:
        what = f"node {node.name!r} ({node.op})"
        missing = next((name for name in node.inputs if name and name not in known), None)
        if missing is not None:
            raise WireError(f"{what} reads {missing!r}, which nothing before it writes")
        for name in filter(None, node.outputs):
            if name in known:
                raise WireError(f"{what} writes {name!r}, which is there already")
            known.add(name)
    if not model.outputs:
        raise WireError("the graph has no output")
    for value in model.outputs:
        if value.name not in known:
            raise WireError(f"the graph's output {value.name!r} is written by no node")
