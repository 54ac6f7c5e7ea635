"""From a trace to a graph, and whether two traces tell of the same network."""

from __future__ import annotations

import numpy as np

from minires.errors import UnsupportedError
from minires.infer.rules import RULES, Converter
from minires.infer.trace import EAGER, Trace
from minires.kernels.graph import Graph


def convert(trace: Trace) -> Graph:
    """The trace as a graph, step by step as the model wrote it.

    Raises:
        UnsupportedError: an operation that has no step, or not in this form.
    """
    converter = Converter(trace)
    for call in trace.calls:
        rule = RULES.get(call.op.__name__)
        if rule is None:
            raise converter.refuse(call)
        converter.layer = next(filter(None, (trace.layers.get(id(argument), "") for argument in call.args)), "")
        rule(converter, call)
    written = {0} | {step.output for step in converter.steps}
    for step in converter.steps:
        if any(value not in written for value in step.inputs):
            raise UnsupportedError(
                f"compile: {step.kind} reads an output that no step writes, as max_pool2d's indices; {EAGER}"
            )
    if trace.output not in written:
        raise UnsupportedError(
            f"compile: the model returns an output that no step writes, as max_pool2d's indices; {EAGER}"
        )
    return Graph(tuple(converter.steps), converter.shapes, 0, trace.output, trace.dtype)


def same(a: Graph, b: Graph) -> bool:
    """Whether two graphs, of batches of different sizes, are the same network to the last bit of every constant."""
    b = b.with_batch(a.batch)
    return (a.shapes, a.input, a.output, a.dtype, len(a.steps)) == (
        b.shapes,
        b.input,
        b.output,
        b.dtype,
        len(b.steps),
    ) and all(
        (p.kind, p.inputs, p.output, p.attributes) == (q.kind, q.inputs, q.output, q.attributes)
        and p.constants.keys() == q.constants.keys()
        and all(np.array_equal(p.constants[name], q.constants[name], equal_nan=True) for name in p.constants)
        for p, q in zip(a.steps, b.steps, strict=True)
    )
