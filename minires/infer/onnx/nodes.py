"""From the steps of a plan to ONNX nodes: one small function a kind, and the table that says which.

    conv2d                Conv [Add] [Relu]          max_pool2d            MaxPool, GlobalMaxPool
    linear                Gemm [Relu]                avg_pool2d            AveragePool [Mul]
    scale_shift           Mul, Add [Relu]            adaptive_avg_pool2d   GlobalAveragePool, AveragePool
    relu                  Relu                       reshape               Flatten, Reshape
    add                   Add [Relu]                 slice                 Slice
    multiply              Mul                        pad                   Pad
    sigmoid               Sigmoid                    concat                Concat
    clamp                 Clip                       softmax               Softmax

Adaptive pooling whose regions are of different sizes becomes Slice, ReduceMean (or ReduceMax) and Concat. Weights, nodes and
the values between them are named by layers, "layer1.0.conv1", where the plan knows them, else by kind and number.

The operations are those of opset 17; `rules` and its neighbours are the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minires.kernels.geometry import AdaptivePool2dGeometry, Pool2dGeometry
from minires.kernels.graph import Graph, Step
from minires.kernels.reference.pool import window_divisor

__all__ = ["BATCH", "RULES", "Nodes"]

BATCH = "batch"  # what the free size is called


class _Node(NamedTuple):
    op: str
    inputs: list[str]
    outputs: list[str]
    name: str
    attributes: dict[str, Any]


class Nodes:
    """The nodes that do what a graph says, made when the object is.

    Attributes:
        nodes: in the order in which they run.
        names: of the graph's values, by number.
        constants: initializers by name.
    """

    def __init__(self, graph: Graph, input_name: str, output_name: str) -> None:
        self.graph = graph
        self.nodes: list[_Node] = []
        self.names = {graph.input: input_name}
        self.constants: dict[str, np.ndarray] = {}
        self._taken = {input_name, output_name}
        self._base = ""
        for position, step in enumerate(graph.steps):
            self._base = step.name or f"{step.kind}_{position}"
            y = RULES[step.kind](self, step, [self.names[value] for value in step.inputs])
            if step.attributes.get("relu"):
                y = self.add("Relu", [y], "relu")
            self.names[step.output] = y
        self._call_output(output_name)

    def add(self, op: str, inputs: Sequence[str], part: str = "", **attributes: Any) -> str:
        """Append a node of the present step; `part` tells it from the step's others. Returns its output's name."""
        name = self._new_name(part)
        self.nodes.append(_Node(op, list(inputs), [name], name, attributes))
        return name

    def constant(self, part: str, value: Any, dtype: Any = None) -> str:
        """An initializer of the present step, by default of the graph's dtype; returns its name."""
        name = self._new_name(part)
        self.constants[name] = np.asarray(value, self.graph.dtype if dtype is None else dtype)
        return name

    def integers(self, part: str, values: Sequence[int]) -> str:
        return self.constant(part, values, np.int64)

    def value(self, number: int) -> tuple[str, Any, tuple[int | str, ...]]:
        """Name, dtype and shape of one of the graph's values."""
        return self.names[number], self.graph.dtype, (BATCH, *self.graph.shapes[number][1:])

    def _new_name(self, part: str) -> str:
        wanted = f"{self._base}.{part}" if part else self._base
        name, count = wanted, 1
        while name in self._taken:  # a layer that is called twice
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    def _call_output(self, name: str) -> None:
        """Give the graph's output its name, wherever it is read or written."""
        present = self.names[self.graph.output]
        if self.graph.output == self.graph.input:
            self.nodes.append(_Node("Identity", [present], [name], "identity", {}))
            return
        for one in self.nodes:
            for names in (one.inputs, one.outputs):
                names[:] = [name if value == present else value for value in names]


def _conv2d(nodes: Nodes, step: Step, inputs: list[str]) -> str:
    g = step.attributes["geometry"]
    given = [nodes.constant(name, step.constants[name]) for name in ("weight", "bias") if name in step.constants]
    y = nodes.add(
        "Conv",
        [inputs[0], *given],
        kernel_shape=[g.k_h, g.k_w],
        strides=[g.stride_h, g.stride_w],
        pads=[g.pad_top, g.pad_left, g.pad_bottom, g.pad_right],
        dilations=[g.dilation_h, g.dilation_w],
        group=g.groups,
    )
    return nodes.add("Add", [y, inputs[1]], "add") if len(inputs) == 2 else y


def _linear(nodes: Nodes, step: Step, inputs: list[str]) -> str:
    given = [nodes.constant(name, step.constants[name]) for name in ("weight", "bias") if name in step.constants]
    return nodes.add("Gemm", [inputs[0], *given], transB=1)


def _scale_shift(nodes: Nodes, step: Step, inputs: list[str]) -> str:
    """Not BatchNormalization: its variance and epsilon would be made up, and some runtimes raise a small epsilon."""
    column = (-1, *[1] * (len(nodes.graph.shapes[step.inputs[0]]) - 2))
    scale, shift = (nodes.constant(name, step.constants[name].reshape(column)) for name in ("scale", "shift"))
    return nodes.add("Add", [nodes.add("Mul", [inputs[0], scale], "mul"), shift])


def _same(op: str) -> Callable[[Nodes, Step, list[str]], str]:
    """One node with the same inputs."""
    return lambda nodes, step, inputs: nodes.add(op, inputs)


def _with_axis(op: str) -> Callable[[Nodes, Step, list[str]], str]:
    return lambda nodes, step, inputs: nodes.add(op, inputs, axis=step.attributes["axis"])


def _clamp(nodes: Nodes, step: Step, inputs: list[str]) -> str:
    low, high = step.attributes["low"], step.attributes["high"]
    given = ["" if low == -np.inf else nodes.constant("min", low)]
    if high != np.inf:
        given.append(nodes.constant("max", high))
    return nodes.add("Clip", [*inputs, *given] if any(given) else inputs)


def _pool(nodes: Nodes, step: Step, inputs: list[str]) -> str:
    g = step.attributes["geometry"]
    if isinstance(g, AdaptivePool2dGeometry):
        return _adaptive_pool(nodes, g, inputs[0], "Max" if step.kind == "max_pool2d" else "Average")
    return (_max_pool if step.kind == "max_pool2d" else _avg_pool)(nodes, g, inputs[0])


def _pads(g: Pool2dGeometry) -> list[int]:
    """Padding with which the windows are counted without ceil_mode, of which versions of ONNX say different things.

    With ceil_mode the last window reaches pad_bottom rows beyond x; where rows are left over, that is negative.
    """
    if not g.ceil_mode:
        return [g.pad_top, g.pad_left, g.pad_top, g.pad_left]
    return [g.pad_top, g.pad_left, max(g.pad_bottom, 0), max(g.pad_right, 0)]


def _max_pool(nodes: Nodes, g: Pool2dGeometry, x: str) -> str:
    pads = _pads(g)
    if max(pads[0], pads[2]) >= g.k_h or max(pads[1], pads[3]) >= g.k_w:  # ONNX has no such MaxPool
        top, left, bottom, right = pads
        amounts = nodes.integers("pads", [0, 0, top, left, 0, 0, bottom, right])
        x = nodes.add("Pad", [x, amounts, nodes.constant("outside", -np.inf)], "pad")
        pads = [0, 0, 0, 0]
    return nodes.add(
        "MaxPool",
        [x],
        kernel_shape=[g.k_h, g.k_w],
        strides=[g.stride_h, g.stride_w],
        pads=pads,
        dilations=[g.dilation_h, g.dilation_w],
    )


def _avg_pool(nodes: Nodes, g: Pool2dGeometry, x: str) -> str:
    """Where ONNX divides by another number than torch does, the mean with padding is scaled by what makes up for it."""
    counted = window_divisor(g)
    whole = g.k_h * g.k_w
    inside = window_divisor(
        Pool2dGeometry(**{**vars(g), "count_include_pad": False, "divisor_override": 0})
    )  # elements of x in each window
    include = not np.array_equal(counted, inside)
    y = nodes.add(
        "AveragePool",
        [x],
        kernel_shape=[g.k_h, g.k_w],
        strides=[g.stride_h, g.stride_w],
        pads=_pads(g),
        count_include_pad=int(include),
    )
    if not include or (counted == whole).all():
        return y
    return nodes.add("Mul", [y, nodes.constant("correction", whole / counted)], "mul")


def _adaptive_pool(nodes: Nodes, g: AdaptivePool2dGeometry, x: str, kind: str) -> str:
    if (g.h_out, g.w_out) == (1, 1):
        return nodes.add(f"Global{kind}Pool", [x])
    if g.h % g.h_out == 0 and g.w % g.w_out == 0:
        window = [g.h // g.h_out, g.w // g.w_out]
        return nodes.add(f"{kind}Pool", [x], kernel_shape=window, strides=window)
    # Regions of different sizes: rows first, then columns. The mean of a region's rows is that of equally many pixels.
    reduce = "ReduceMean" if kind == "Average" else "ReduceMax"
    for axis, count, region in ((2, g.h_out, g.rows), (3, g.w_out, g.columns)):
        axes = nodes.integers("axes", [axis])
        parts = []
        for r in range(count):
            bounds = region(r)
            ends = nodes.integers("starts", [bounds.start]), nodes.integers("ends", [bounds.stop])
            cut = nodes.add("Slice", [x, *ends, axes], "slice")
            parts.append(nodes.add(reduce, [cut], "reduce", axes=[axis], keepdims=1))
        x = nodes.add("Concat", parts, axis=axis)
    return x


def _reshape(nodes: Nodes, step: Step, inputs: list[str]) -> str:
    shape = step.attributes["shape"]
    if len(shape) == 1:
        return nodes.add("Flatten", inputs, axis=1)
    return nodes.add("Reshape", [*inputs, nodes.integers("shape", [0, *shape])])  # 0: the batch, as it is


def _slice(nodes: Nodes, step: Step, inputs: list[str]) -> str:
    sizes = nodes.graph.shapes[step.inputs[0]][1:]
    cuts = [
        (start, stop, axis, by)
        for axis, ((start, stop, by), size) in enumerate(zip(step.attributes["index"], sizes, strict=True), 1)
        if (start, stop, by) != (0, size, 1)
    ]
    if not cuts:
        return nodes.add("Identity", inputs)
    parts = zip(("starts", "ends", "axes", "steps"), zip(*cuts, strict=True), strict=True)
    return nodes.add("Slice", [*inputs, *(nodes.integers(part, values) for part, values in parts)])


def _pad(nodes: Nodes, step: Step, inputs: list[str]) -> str:
    before, after = zip(*step.attributes["amounts"], strict=True)
    amounts = nodes.integers("pads", [0, *before, 0, *after])
    return nodes.add("Pad", [*inputs, amounts, nodes.constant("value", step.attributes["value"])])


RULES: dict[str, Callable[[Nodes, Step, list[str]], str]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "scale_shift": _scale_shift,
    "relu": _same("Relu"),
    "add": _same("Add"),
    "multiply": _same("Mul"),
    "sigmoid": _same("Sigmoid"),
    "clamp": _clamp,
    "softmax": _with_axis("Softmax"),
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "adaptive_avg_pool2d": _pool,
    "reshape": _reshape,
    "slice": _slice,
    "pad": _pad,
    "concat": _with_axis("Concat"),
}
