"""The reference executor: a graph run by NumPy alone, in one block of memory.

Made once: every value is a view into the block, every step a function bound to its views, so that a run is a list of
calls that allocate next to nothing. `minires.kernels.steps` says what a step computes; here each is written so that it
fills the output's memory. Kinds that take no time worth saving call `steps.compute` and copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from minires.infer.memory import ALIGNMENT, plan_memory
from minires.kernels.geometry import Conv2dGeometry, Pool2dGeometry
from minires.kernels.graph import Graph, Step
from minires.kernels.interface import Array
from minires.kernels.reference.windows import window_view
from minires.kernels.steps import compute, sigmoid, slices


class ReferenceExecutor:
    """See minires.kernels.graph.Executor.

    Args:
        graph: of one batch size.
        kernels: the kernel set that serves the kinds which are not written here.

    Attributes:
        memory: the plan of the block (see minires.infer.memory).
        block: the memory, as bytes.
        calls: one function a step.
    """

    def __init__(self, graph: Graph, kernels: Any) -> None:
        self.graph = graph
        self.memory = plan_memory(graph, [_workspace(step, graph) for step in graph.steps])
        raw = np.zeros(self.memory.size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        self.block = raw[start : start + self.memory.size]
        self.buffer_bytes = self.memory.size
        self._values = {value: self._view(self.memory.offsets[value], graph.shapes[value]) for value in graph.shapes}
        self.calls = [self._bind(step, self.memory.workspace[i], kernels) for i, step in enumerate(graph.steps)]
        self.notes: Sequence[str] = [self._note(step) for step in graph.steps]

    def run(self, x: Array) -> Array:
        """The output for `x`; see Executor.run."""
        self._values[self.graph.input][...] = x
        with np.errstate(all="ignore"):
            for call in self.calls:
                call()
        return self._values[self.graph.output].copy()

    def profile(self, x: Array) -> list[float]:
        """Seconds of each step; see Executor.profile."""
        self._values[self.graph.input][...] = x
        seconds = []
        with np.errstate(all="ignore"):
            for call in self.calls:
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
        return seconds

    def _view(self, offset: int, shape: tuple[int, ...]) -> Array:
        size = prod(shape) * self.graph.dtype.itemsize
        return self.block[offset : offset + size].view(self.graph.dtype).reshape(shape)

    def _bind(self, step: Step, workspace: int, kernels: Any) -> Callable[[], Any]:
        """The step as a function of nothing: it finds its inputs, its output and its workspace where they always are."""
        inputs = [self._values[value] for value in step.inputs]
        y = self._values[step.output]
        match step.kind:
            case "conv2d":
                g = step.attributes["geometry"]
                padded, columns = _workspace_shapes(g)
                itemsize = self.graph.dtype.itemsize
                return _Conv2d(
                    step,
                    inputs,
                    y,
                    None if padded is None else self._view(workspace, padded),
                    None if columns is None else self._view(workspace + prod(padded or (0,)) * itemsize, columns),
                )
            case "max_pool2d" if isinstance(step.attributes["geometry"], Pool2dGeometry):
                padded = _padded_shape(step.attributes["geometry"])
                return _MaxPool2d(step, inputs[0], y, self._view(workspace, padded))
            case "reshape":
                return lambda: None
            case kind if kind in _SIMPLE:
                function = _SIMPLE[kind]
                return lambda: function(step, inputs, y)
            case _:
                return lambda: np.copyto(y, compute(kernels, step, inputs))

    def _note(self, step: Step) -> str:
        offsets = self.memory.offsets
        if step.kind == "reshape":
            return "view"
        if step.kind == "conv2d":
            return "matmul" if _workspace_shapes(step.attributes["geometry"])[1] is None else "im2col"
        return "in place" if offsets[step.output] in [offsets[value] for value in step.inputs] else ""


class _Conv2d:
    """y = relu(weight * x + bias + shortcut): a matrix product an image, whose result is finished while it is in the cache.

    Args:
        padded: (c_in, h + padding, w + padding), or None without padding.
        columns: (c_in, k_h, k_w, h_out, w_out), or None for 1x1 at stride 1: x is its own columns.
    """

    def __init__(self, step: Step, inputs: list[Array], y: Array, padded: Array | None, columns: Array | None) -> None:
        g: Conv2dGeometry = step.attributes["geometry"]
        self.g = g
        pixels = g.h_out * g.w_out
        depth = g.c_in // g.groups * g.k_h * g.k_w
        self.x = inputs[0]
        self.y = y.reshape(g.n, g.groups, g.c_out // g.groups, pixels)
        self.shortcut = inputs[1].reshape(self.y.shape) if len(inputs) == 2 else None
        self.weight = step.constants["weight"].reshape(g.groups, g.c_out // g.groups, depth)
        self.bias = step.constants["bias"].reshape(g.groups, -1, 1) if "bias" in step.constants else None
        self.relu = step.attributes["relu"]
        self.padded, self.columns = padded, columns
        if columns is None:
            self.matrices = list(self.x.reshape(g.n, g.groups, depth, pixels))
        else:
            self.matrices = [columns.reshape(g.groups, depth, pixels)] * g.n

    def __call__(self) -> None:
        g = self.g
        if self.padded is not None:
            self.padded[...] = 0
        for image in range(g.n):
            if self.columns is not None:
                source = self.x[image]
                if self.padded is not None:
                    self.padded[:, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w] = source
                    source = self.padded
                taps, outputs = (g.k_h, g.k_w), (g.h_out, g.w_out)
                steps, spread = (g.stride_h, g.stride_w), (g.dilation_h, g.dilation_w)
                self.columns[...] = window_view(source[None], taps, outputs, steps, spread)[0]
            y = self.y[image]
            np.matmul(self.weight, self.matrices[image], out=y)
            if self.bias is not None:
                y += self.bias
            if self.shortcut is not None:
                y += self.shortcut[image]
            if self.relu:
                np.maximum(y, 0, out=y)


class _MaxPool2d:
    """The largest of each window, one pass a tap; a NaN wins. `padded`: the images with -inf around them."""

    def __init__(self, step: Step, x: Array, y: Array, padded: Array) -> None:
        g: Pool2dGeometry = step.attributes["geometry"]
        self.x, self.y, self.padded, self.g = x, y, padded, g
        self.windows = window_view(
            padded, (g.k_h, g.k_w), (g.h_out, g.w_out), (g.stride_h, g.stride_w), (g.dilation_h, g.dilation_w)
        )

    def __call__(self) -> None:
        g = self.g
        self.padded[...] = -np.inf
        self.padded[:, :, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w] = self.x
        self.y[...] = self.windows[:, :, 0, 0]
        for i in range(g.k_h):
            for j in range(g.k_w):
                np.maximum(self.y, self.windows[:, :, i, j], out=self.y)


def _linear(step: Step, inputs: Sequence[Array], y: Array) -> None:
    np.matmul(inputs[0], step.constants["weight"].T, out=y)
    if "bias" in step.constants:
        y += step.constants["bias"]
    _finish(step, y)


def _scale_shift(step: Step, inputs: Sequence[Array], y: Array) -> None:
    column = (-1, *[1] * (y.ndim - 2))
    np.multiply(inputs[0], step.constants["scale"].reshape(column), out=y)
    y += step.constants["shift"].reshape(column)
    _finish(step, y)


def _add(step: Step, inputs: Sequence[Array], y: Array) -> None:
    np.add(inputs[0], inputs[1], out=y)
    _finish(step, y)


def _finish(step: Step, y: Array) -> None:
    if step.attributes["relu"]:
        np.maximum(y, 0, out=y)


_SIMPLE: dict[str, Callable[[Step, Sequence[Array], Array], Any]] = {
    "linear": _linear,
    "scale_shift": _scale_shift,
    "add": _add,
    "relu": lambda step, inputs, y: np.maximum(inputs[0], 0, out=y),
    "multiply": lambda step, inputs, y: np.multiply(inputs[0], inputs[1], out=y),
    "sigmoid": lambda step, inputs, y: sigmoid(inputs[0], out=y),
    "clamp": lambda step, inputs, y: np.clip(inputs[0], step.attributes["low"], step.attributes["high"], out=y),
    "slice": lambda step, inputs, y: np.copyto(y, inputs[0][slices(step.attributes["index"])]),
    "concat": lambda step, inputs, y: np.concatenate(inputs, axis=step.attributes["axis"], out=y),
}


def _workspace_shapes(g: Conv2dGeometry) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Of one image: the padded planes and the columns; None for what is not needed."""
    pads = (g.pad_top, g.pad_bottom, g.pad_left, g.pad_right)
    if (g.k_h, g.k_w, g.stride_h, g.stride_w, *pads) == (1, 1, 1, 1, 0, 0, 0, 0):
        return None, None
    columns = (g.c_in, g.k_h, g.k_w, g.h_out, g.w_out)
    if not any(pads):
        return None, columns
    return (g.c_in, g.pad_top + g.h + g.pad_bottom, g.pad_left + g.w + g.pad_right), columns


def _padded_shape(g: Pool2dGeometry) -> tuple[int, int, int, int]:
    """As far as the last window reaches, and at least the images."""
    return (g.n, g.c, g.h + g.pad_top + max(g.pad_bottom, 0), g.w + g.pad_left + max(g.pad_right, 0))


def _workspace(step: Step, graph: Graph) -> int:
    """Bytes that a step needs while it runs."""
    if step.kind == "conv2d":
        count = sum(prod(shape) for shape in _workspace_shapes(step.attributes["geometry"]) if shape is not None)
    elif step.kind == "max_pool2d" and isinstance(step.attributes["geometry"], Pool2dGeometry):
        count = prod(_padded_shape(step.attributes["geometry"]))
    else:
        count = 0
    return count * graph.dtype.itemsize
