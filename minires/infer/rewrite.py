"""A graph made shorter: each rewriting is a function from a graph to one that computes the same with fewer steps.

    drop_reshapes          a reshape to the same shape, a slice of everything, a padding by nothing: gone
    drop_unread            a step whose output nobody reads: gone
    fold_scale_shift       conv2d or linear, then scale_shift (batch norm): into weight and bias
    merge_scale_shifts     scale_shift, then scale_shift: one
    fuse_add               conv2d, then add: the other branch becomes the convolution's shortcut
    fuse_relu              conv2d, linear, scale_shift or add, then relu: its `relu` is set
    round_constants        the rest to the graph's dtype and to memory of its own, when all folding is done

A step is absorbed only by the one producer of its input, and only if nobody else reads that value. A scale_shift in
front of a convolution stays: behind zero padding it would have to change the padding as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from minires.kernels.graph import Graph, Step

HAS_RELU = ("conv2d", "linear", "scale_shift", "add")


def simplify(graph: Graph) -> Graph:
    """All rewritings, in the order in which each finds what the ones before it have made."""
    given = {id(constant) for step in graph.steps for constant in step.constants.values()}
    short = graph
    for rewriting in (drop_reshapes, drop_unread, merge_scale_shifts, fold_scale_shift, fuse_add, fuse_relu):
        short = rewriting(short)
    return round_constants(short, given)


def drop_reshapes(graph: Graph) -> Graph:
    """Remove the steps that change nothing; who read their output reads their input. Two reshapes in a row become one."""
    steps: list[Step] = []
    renamed: dict[int, int] = {}
    makers: dict[int, Step] = {}
    for step in graph.steps:
        step = replace(step, inputs=tuple(renamed.get(value, value) for value in step.inputs))
        if step.kind == "reshape" and step.inputs[0] in makers and makers[step.inputs[0]].kind == "reshape":
            step = replace(step, inputs=makers[step.inputs[0]].inputs)
        source = step.inputs[0]
        changes = graph.shapes[source] != graph.shapes[step.output]
        if step.kind in ("reshape", "slice", "pad") and not changes:
            renamed[step.output] = source
        else:
            steps.append(step)
            makers[step.output] = step
    return _tidy(replace(graph, steps=tuple(steps), output=renamed.get(graph.output, graph.output)))


def drop_unread(graph: Graph) -> Graph:
    """Remove the steps that the output does not need."""
    needed = {graph.output}
    kept = []
    for step in reversed(graph.steps):
        if step.output in needed:
            needed.update(step.inputs)
            kept.append(step)
    return _tidy(replace(graph, steps=tuple(reversed(kept))))


def merge_scale_shifts(graph: Graph) -> Graph:
    """s2 (s1 x + t1) + t2 = (s2 s1) x + (s2 t1 + t2)."""

    def merge(first: Step, second: Step) -> Step | None:
        if first.kind != "scale_shift" or second.kind != "scale_shift" or first.attributes["relu"]:
            return None
        return replace(
            first, constants=_scaled(first.constants, "scale", "shift", second), attributes=second.attributes
        )

    return _absorb(graph, merge)


def fold_scale_shift(graph: Graph) -> Graph:
    """s (weight * x + bias) + t = (s weight) * x + (s bias + t), s and t for each output channel; in float64."""

    def fold(layer: Step, norm: Step) -> Step | None:
        if layer.kind not in ("conv2d", "linear") or norm.kind != "scale_shift":
            return None
        if layer.attributes["relu"] or len(layer.inputs) > 1:
            return None
        return replace(
            layer,
            constants=_scaled(layer.constants, "weight", "bias", norm),
            attributes={**layer.attributes, "relu": norm.attributes["relu"]},
        )

    return _absorb(graph, fold)


def fuse_add(graph: Graph) -> Graph:
    """conv2d + b: b becomes the convolution's shortcut.

    The convolution moves to where the addition stood, where both are there. Of two that meet, the later one takes the
    other's output.
    """
    readers = graph.readers()
    makers: dict[int, int] = {}  # where in `steps` a value is written
    steps: list[Step | None] = []
    for step in graph.steps:
        if step.kind == "add" and step.inputs[0] != step.inputs[1]:
            for value in sorted(step.inputs, key=lambda value: -makers.get(value, -1)):
                layer = steps[makers[value]] if value in makers else None
                if layer is None or layer.kind != "conv2d" or len(layer.inputs) > 1 or layer.attributes["relu"]:
                    continue
                if len(readers[value]) > 1 or value == graph.output:
                    continue
                (shortcut,) = (other for other in step.inputs if other != value)
                steps[makers[value]] = None
                given = {**layer.attributes, "relu": step.attributes["relu"]}
                step = replace(layer, inputs=(*layer.inputs, shortcut), output=step.output, attributes=given)
                break
        makers[step.output] = len(steps)
        steps.append(step)
    return _tidy(replace(graph, steps=tuple(step for step in steps if step is not None)))


def fuse_relu(graph: Graph) -> Graph:
    """A ReLU behind a step that can end in one."""

    def fuse(first: Step, second: Step) -> Step | None:
        if first.kind not in HAS_RELU or second.kind != "relu":
            return None
        return replace(first, attributes={**first.attributes, "relu": True})

    return _absorb(graph, fuse)


def round_constants(graph: Graph, given: set[int]) -> Graph:
    """Constants of the graph's dtype, in C order, in memory of their own: the model may train on.

    Args:
        given: ids of the arrays that are the model's; those that a folding made are ours already.
    """

    def own(constant: np.ndarray) -> np.ndarray:
        return np.array(constant, graph.dtype, order="C", copy=True if id(constant) in given else None)

    steps = tuple(
        replace(step, constants={name: own(constant) for name, constant in step.constants.items()})
        for step in graph.steps
    )
    return replace(graph, steps=steps)


def _scaled(constants: dict[str, Any], factor: str, offset: str, norm: Step) -> dict[str, Any]:
    """The constants of y = factor x + offset, of which norm's scale y + shift is wanted. Channels are dimension 0."""
    scale, shift = (norm.constants[name].astype(np.float64) for name in ("scale", "shift"))
    factors = constants[factor]
    column = scale.reshape(-1, *[1] * (factors.ndim - 1))
    moved = shift + scale * constants[offset] if offset in constants else shift
    # Multiplied in float64 and rounded once, piece by piece: an array of float64 in between would take as long again.
    product = np.multiply(
        factors, column, out=np.empty(factors.shape, factors.dtype), dtype=np.float64, casting="same_kind"
    )
    return {factor: product, offset: moved}


def _absorb(graph: Graph, join: Callable[[Step, Step], Step | None]) -> Graph:
    """Replace a step and the only reader of its output by join(step, reader), wherever join does not return None.

    The joined step stands where the first one stood and writes what the second wrote.
    """
    steps: list[Step | None] = []
    places: dict[int, int] = {}  # of the step that writes a value, in `steps`
    readers = graph.readers()
    for step in graph.steps:
        source = step.inputs[0]
        place = places.get(source)
        if place is not None and len(step.inputs) == 1 and len(readers[source]) == 1 and source != graph.output:
            first = steps[place]
            joined = join(first, step) if first is not None else None
            if joined is not None:
                steps[place] = replace(joined, output=step.output)
                places[step.output] = place
                continue
        places[step.output] = len(steps)
        steps.append(step)
    return _tidy(replace(graph, steps=tuple(step for step in steps if step is not None)))


def _tidy(graph: Graph) -> Graph:
    """Forget the shapes of values that are gone."""
    kept = {graph.input, *(step.output for step in graph.steps)}
    return replace(graph, shapes={value: shape for value, shape in graph.shapes.items() if value in kept})
