"""A network as a flat list of steps: what `minires.infer` hands to a kernel set to run.

Plain data: no tensors, no autograd, nothing of minires above the kernels. `minires.infer` traces a model and rewrites the
list until only the kinds below are left; a kernel set turns it into buffers, packed weights and calls.

Values are numbered; `Graph.shapes` has the shape of each, (n, ...), the batch first. Every value has `Graph.dtype`, is
written by one step (the input by none), and every step stands behind those that write its inputs.

    kind                 inputs            constants                 attributes
    conv2d               x [, shortcut]    weight, [bias]            geometry: Conv2dGeometry, relu
    linear               x (n, in)         weight (out, in), [bias]  relu                        y = x weight^T + bias
    scale_shift          x                 scale (c,), shift (c,)    relu          y = scale[c] x + shift[c], c: dimension 1
    relu                 x
    add                  a, b              (of one shape)            relu
    multiply             a, b                                        b has a's shape, or (n, c, 1, 1): a gate a channel
    sigmoid              x
    clamp                x                                           low, high: float
    softmax              x                                           axis: int, 1 or more
    max_pool2d           x                                           geometry: Pool2dGeometry or AdaptivePool2dGeometry
    avg_pool2d           x                                           geometry: Pool2dGeometry
    adaptive_avg_pool2d  x                                           geometry: AdaptivePool2dGeometry; 1 x 1 is the mean
    reshape              x                                           shape: sizes behind the batch; C order, as NumPy's
    slice                x                                           index: (start, stop, step) of each dimension behind
                                                                     the batch, 0 <= start < stop <= size, step >= 1
    pad                  x                                           amounts: (before, after) of each dimension behind the
                                                                     batch, >= 0; value: float
    concat               a, b, ...                                   axis: int, 1 or more

y = relu(conv2d(x) + bias + shortcut), y = relu(a + b) and so on: `shortcut`, where there is one, has y's shape and is added
before the ReLU; `relu` is a bool, always there where the table has it. The constants of conv2d, linear and scale_shift
have Graph.dtype and are C-contiguous; treat them as read-only.

No step mixes images: the batch is dimension 0 of every value, and `with_batch(n)` gives the same network for n images.

The seam. A kernel set may offer

    lower(graph: Graph, previous: Executor | None = None) -> Executor | None

which prepares all that is needed to run `graph`, whose batch size is fixed; `previous` is what the set made of the same
graph at another batch size, whose packed weights may be shared. A set without `lower`, or one that returns None for this
graph, is served by the reference executor (minires/infer/executor.py). `steps.compute(kernels, step, inputs)` says what
each kind computes, and serves as a lowering's fallback for kinds that need no speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from minires.kernels.interface import Array

KINDS = (
    "conv2d",
    "linear",
    "scale_shift",
    "relu",
    "add",
    "multiply",
    "sigmoid",
    "clamp",
    "softmax",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "reshape",
    "slice",
    "pad",
    "concat",
)


@dataclass(frozen=True, eq=False)
class Step:
    """One call: which values it reads and writes, and what is fixed about it. See the table at the top of this file.

    `name` is for people: the layer whose weights it has ("layer1.0.conv1"), or "". Nothing depends on it.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """Steps in the order in which they run.

    Attributes:
        steps: each behind those whose outputs it reads.
        shapes: of every value, by its number; dimension 0 is the batch.
        input, output: the numbers of the two values that the outside sees.
        dtype: float32 or float64, of every value and constant.
    """

    steps: tuple[Step, ...]
    shapes: dict[int, tuple[int, ...]]
    input: int
    output: int
    dtype: np.dtype[Any]

    @property
    def batch(self) -> int:
        return self.shapes[self.input][0]

    def with_batch(self, n: int) -> Graph:
        """The same network, with the same constants, for n images."""
        steps = tuple(
            replace(step, attributes={**step.attributes, "geometry": replace(step.attributes["geometry"], n=n)})
            if "geometry" in step.attributes
            else step
            for step in self.steps
        )
        return replace(self, steps=steps, shapes={value: (n, *shape[1:]) for value, shape in self.shapes.items()})

    def readers(self) -> dict[int, list[int]]:
        """For each value, the positions in `steps` that read it, once for each time; [] where none does."""
        readers: dict[int, list[int]] = {value: [] for value in self.shapes}
        for position, step in enumerate(self.steps):
            for value in step.inputs:
                readers[value].append(position)
        return readers


class Executor(Protocol):
    """What `lower` returns: a graph ready to run at one batch size. One thread at a time calls it (the plan sees to it).

    Attributes:
        notes: one string for each of graph.steps: how it runs ("winograd 4x4", "view"); "" where there is nothing to say.
        buffer_bytes: memory for values and workspace that it holds between runs, without the constants.
    """

    notes: Sequence[str]
    buffer_bytes: int

    def run(self, x: Array) -> Array:
        """The output for `x`, which has graph.shapes[graph.input] and graph.dtype, is C-contiguous and is not written to.

        Returns: an array of its own, never memory that a later run writes to.
        """
        ...

    def profile(self, x: Array) -> list[float]:
        """Run once and say how long each of graph.steps took, in seconds.

        What belongs to no step (changing a layout) counts with the step it serves.
        """
        ...
