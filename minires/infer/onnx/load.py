"""`plan = minires.load_onnx("resnet18.onnx")`: a network from an ONNX file, ready to run; the `onnx` package is not needed.

    read_onnx -> a rule for each node (rules) -> simplify -> check -> Plan

Nodes whose inputs are constants are computed while the file is read: weights that are prepared in the graph, and the
chains of Shape, Gather and Concat with which exporters write `x.view(x.size(0), -1)`. A free batch is given a number for
that; the whole is done for two numbers, and both must give the same network. A file with a fixed batch gives a plan for any
batch: every step works on each image alone, and what would mix them is refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from minires import backend
from minires.errors import ArgumentError, CheckpointError
from minires.infer.check import MAX_ELEMENTS
from minires.infer.convert import same
from minires.infer.onnx import constants, elementwise, layers, shapes  # noqa: F401  # they fill RULES
from minires.infer.onnx.rules import RULES, Builder, Node, Operand
from minires.infer.plan import Plan
from minires.infer.rewrite import simplify
from minires.infer.trace import Ref
from minires.io.onnx_file import OnnxModel, OnnxValue, read_onnx
from minires.io.onnx_node import OnnxNode
from minires.kernels.graph import Graph

OPSETS = range(7, 29)  # whose operations the rules know
_DTYPES = {"float32": "float32", "float64": "float64", "float16": "float32", "bfloat16": "float32", "": "float32"}
_MAX_INTEGERS = 1 << 20  # in a constant that is no float: sizes, axes, indices


def load_onnx(
    path: str | os.PathLike[str],
    input_shape: Sequence[int] | None = None,
    *,
    output: str | None = None,
    kernels: str | None = None,
) -> Plan:
    """Read a network from an ONNX file and make it ready to run. Nothing of the file is executed, and no other is opened.

    Args:
        path: the file, of opset 7 to 28, with its weights inside.
        input_shape: (N, C, H, W), or another shape with the batch in front. None takes what the file says; needed where
            the file leaves other sizes than the batch open. N is only the size that `print(plan)` speaks of.
        output: the name of one of several outputs.
        kernels: the kernel set by name ("reference", "cpu"); None takes the one in use.

    Returns:
        A Plan: plan(array) -> array. It computes in float32, also where the file computes in half precision, and in
        float64 where the file does.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged or forged, has an operation that no step of a plan can do (the message names
            the node), has several outputs, or sizes left open, and it was not said which.
        ArgumentError: input_shape is no shape or does not fit the file; there is no such output.
    """
    where = f"load_onnx: {os.fspath(path)}"
    model = read_onnx(path)
    graph = import_onnx(model, input_shape, output, where, os.path.getsize(path))
    chosen = backend.current_kernels() if kernels is None else backend.kernel_set(kernels)
    try:
        return Plan(graph, chosen)
    except ArgumentError as error:  # what the steps together break, each right in itself
        raise CheckpointError(f"{where}: {error}") from None


def import_onnx(
    model: OnnxModel, input_shape: Sequence[int] | None, output: str | None, where: str, file_bytes: int
) -> Graph:
    """The graph of a model that was read, simplified. Arguments and errors as for `load_onnx`."""
    if model.opset not in OPSETS:
        raise CheckpointError(
            f"{where}: it uses opset {model.opset}; this minires knows {OPSETS[0]} to {OPSETS[-1]}. "
            "onnx.version_converter changes a file's opset"
        )
    entry, chosen = _ends(model, output, where)
    if entry.dtype not in _DTYPES:
        raise CheckpointError(f"{where}: its input {entry.name!r} is of type {entry.dtype}; a plan takes floats")
    shape, free = _input_shape(entry, input_shape, where)
    reader = _Reader(model, entry.name, chosen, np.dtype(_DTYPES[entry.dtype]), where, file_bytes)
    if free:  # two sizes that no dimension of size 1 can be taken for
        graph, other = (reader.graph((n, *shape[1:])) for n in (2, 3))
        if not same(graph, other):
            raise CheckpointError(f"{where}: what the network does depends on the batch size, which a plan leaves free")
    else:
        assert isinstance(entry.shape, tuple) and isinstance(entry.shape[0], int)
        graph = reader.graph((entry.shape[0], *shape[1:]))
    return simplify(graph).with_batch(shape[0])


def _ends(model: OnnxModel, output: str | None, where: str) -> tuple[OnnxValue, str]:
    """The one input, and the name of the output."""
    if len(model.inputs) != 1:
        found = ", ".join(repr(value.name) for value in model.inputs[:8]) or "none"
        raise CheckpointError(f"{where}: a plan has one input, the graph has {len(model.inputs)}: {found}")
    names = [value.name for value in model.outputs]
    if output is None:
        if len(names) > 1:
            raise CheckpointError(
                f"{where}: it has {len(names)} outputs, {', '.join(map(repr, names[:8]))}; say output=NAME"
            )
        output = names[0]
    elif output not in names:
        raise ArgumentError(f"{where}: there is no output {output!r}; there is {', '.join(map(repr, names[:8]))}")
    return model.inputs[0], output


def _input_shape(entry: OnnxValue, given: Sequence[int] | None, where: str) -> tuple[tuple[int, ...], bool]:
    """(the shape to speak of, whether the file leaves the batch free)."""
    stated = entry.shape
    if given is None:
        sizes = "unknown" if stated is None else "(" + ", ".join(map(str, stated)) + ")"
        if not stated or not all(isinstance(size, int) for size in stated[1:]):
            raise CheckpointError(
                f"{where}: it leaves sizes of its input open, {sizes}; say input_shape=(1, 3, 224, 224), for instance"
            )
        shape = tuple(size if isinstance(size, int) else 1 for size in stated)
    else:
        shape = tuple(int(size) if isinstance(size, (int, np.integer)) else 0 for size in given)
        if not shape or min(shape) < 1:
            raise ArgumentError(f"{where}: input_shape must be (N, ...), positive integers, got {given!r}")
        if stated is not None and (
            len(stated) != len(shape)
            or any(a != b for a, b in zip(stated[1:], shape[1:], strict=True) if isinstance(a, int))
        ):
            sizes = ", ".join(map(str, stated))
            raise ArgumentError(f"{where}: its input has the shape ({sizes}), got input_shape = {shape}")
    if min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
        raise CheckpointError(f"{where}: its input has the shape {shape}, which no network has")
    return shape, not (stated and isinstance(stated[0], int))


class _Reader:
    """Makes the graph, for one batch size after the other; constants of the file are decoded once."""

    def __init__(
        self, model: OnnxModel, entry: str, output: str, dtype: np.dtype[Any], where: str, file_bytes: int
    ) -> None:
        self.model, self.entry, self.output, self.dtype = model, entry, output, dtype
        self.where, self.file_bytes = where, file_bytes
        self._decoded: dict[str, np.ndarray] = {}

    def graph(self, shape: tuple[int, ...]) -> Graph:
        """The graph for an input of that shape, not yet simplified.

        Raises:
            CheckpointError: what a node does has no step; names the node.
        """
        builder = Builder(shape, self.dtype, self.file_bytes)
        values: dict[str, Operand] = {self.entry: Ref(0)}
        for node in self.model.nodes:
            values.update(self._node(node, values, builder))
        found = values.get(self.output)
        if not isinstance(found, Ref):
            raise CheckpointError(f"{self.where}: its output {self.output!r} does not depend on its input")
        converter = builder.converter  # every step keeps the batch in front: so does the output
        return Graph(tuple(converter.steps), converter.shapes, 0, found.value, self.dtype)

    def _node(self, node: OnnxNode, values: dict[str, Operand], builder: Builder) -> dict[str, Operand]:
        """What a node writes, by name."""
        what = f"{self.where}: node {node.name or node.outputs[:1]!r} ({node.op}, opset {self.model.opset})"
        rule = RULES.get(node.op)
        if rule is None:
            raise CheckpointError(f"{what}: minires has no such operation; it knows {', '.join(sorted(RULES))}")
        shown: Node | None = None
        try:
            inputs = [self._operand(name, values) for name in node.inputs]
            shown = Node(node, inputs, self.model.opset, builder)
            if not rule.fewest <= len(inputs) <= rule.most:
                raise ValueError(f"it takes {rule.fewest} to {rule.most} inputs, got {len(inputs)}")
            unknown = sorted(set(shown.attribute_names()) - rule.attributes)
            if unknown:
                raise ValueError(f"its attribute {unknown[0]!r} is none that minires knows")
            with np.errstate(all="ignore"):
                made = rule.function(shown)
        except (ValueError, TypeError, ArithmeticError, CheckpointError) as error:
            inputs_text = f"; its inputs: {shown.describe()}" if shown is not None else ""
            raise CheckpointError(f"{what}: {error}{inputs_text}") from None
        outputs = made if isinstance(made, list) else [made]
        # Further outputs, such as a dropout's mask, are there in the file and seldom read; who reads them is refused.
        return {name: value for name, value in zip(node.outputs, outputs, strict=False) if name}

    def _operand(self, name: str, values: dict[str, Operand]) -> Operand | None:
        if not name:
            return None
        if name in values:
            return values[name]
        if name not in self.model.initializers:
            raise ValueError(f"it reads {name!r}, an output that minires does not compute")
        if name not in self._decoded:
            tensor = self.model.initializers[name]
            if "float" not in tensor.dtype and math.prod(tensor.shape) > _MAX_INTEGERS:
                raise ValueError(f"{tensor.what} and type {tensor.dtype}: more numbers than any list of sizes has")
            self._decoded[name] = tensor.array()
        return self._decoded[name]
