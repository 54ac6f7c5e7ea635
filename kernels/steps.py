"""What each step of a graph computes, by a kernel set's whole operations: the textbook of `graph.py`'s table.

A lowering may call `compute` for the kinds that need no speed, and tests judge executors by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minires.kernels.geometry import Pool2dGeometry
from minires.kernels.graph import Graph, Step
from minires.kernels.interface import Array


def compute(kernels: Any, step: Step, inputs: Sequence[Array]) -> Array:
    """The output of `step`.

    Args:
        kernels: a kernel set, e.g. minires.kernels.reference.
        inputs: the values that step.inputs names, plain arrays.

    Returns:
        A plain array; a view of inputs[0] for reshape and slice.
    """
    x, given, constants = inputs[0], step.attributes, step.constants
    match step.kind:
        case "conv2d":
            y = kernels.conv2d_forward(x, constants["weight"], constants.get("bias"), given["geometry"])
            if len(inputs) == 2:
                y = y + inputs[1]
        case "linear":
            y = x @ constants["weight"].T
            if "bias" in constants:
                y = y + constants["bias"]
        case "scale_shift":
            column = (-1, *[1] * (x.ndim - 2))
            y = x * constants["scale"].reshape(column) + constants["shift"].reshape(column)
        case "relu":
            y = kernels.relu_forward(x)
        case "add":
            y = x + inputs[1]
        case "multiply":
            y = x * inputs[1]
        case "sigmoid":
            y = sigmoid(x)
        case "clamp":
            y = np.clip(x, given["low"], given["high"])
        case "softmax":
            y = kernels.softmax_forward(x, given["axis"])
        case "max_pool2d" if isinstance(given["geometry"], Pool2dGeometry):
            y, _ = kernels.max_pool2d_forward(x, given["geometry"])
        case "max_pool2d":
            y, _ = kernels.adaptive_max_pool2d_forward(x, given["geometry"])
        case "avg_pool2d":
            y = kernels.avg_pool2d_forward(x, given["geometry"])
        case "adaptive_avg_pool2d":
            y = kernels.adaptive_avg_pool2d_forward(x, given["geometry"])
        case "reshape":
            y = x.reshape(x.shape[0], *given["shape"])
        case "slice":
            y = x[slices(given["index"])]
        case "pad":
            y = np.pad(x, ((0, 0), *given["amounts"]), constant_values=given["value"])
        case "concat":
            y = np.concatenate(inputs, axis=given["axis"])
        case kind:
            raise NotImplementedError(f"compute: there is no step of kind {kind!r}; see the table in kernels/graph.py")
    return kernels.relu_forward(y) if given.get("relu") else y


def compute_graph(kernels: Any, graph: Graph, x: Array) -> Array:
    """The output of all steps for `x`, every value kept to the end: slow, simple, right."""
    values = {graph.input: x}
    for step in graph.steps:
        values[step.output] = compute(kernels, step, [values[value] for value in step.inputs])
    return values[graph.output]


def slices(index: Sequence[Sequence[int]]) -> tuple[slice, ...]:
    """A slice step's index as NumPy takes it, the batch whole."""
    return (slice(None), *(slice(start, stop, step) for start, stop, step in index))


def sigmoid(x: Array, out: Array | None = None) -> Array:
    """1 / (1 + e^-x); where e^-x overflows, 1 / inf = 0 is right."""
    with np.errstate(over="ignore"):
        y = np.negative(x, out=out)
        np.exp(y, out=y)
        y += 1
        return np.reciprocal(y, out=y)
