"""A graph as C runs it: one image, channels last, every value at its place in one block of memory.

A value of shape (1, c, h, w) lies as (h, w, c), any other in C order. A reshape keeps the numbers in the order of their
logical shape, so that it costs nothing only where both orders in memory say the same; where they do not it becomes a step of
a kind of its own, "reorder", which the memory plan does not take for a view.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from minires.errors import ArgumentError
from minires.infer.memory import MemoryPlan, plan_memory
from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.graph import Graph, Step
from minires.kernels.interface import Array

BLOCK_BYTES = 64  # output channels of a block of a convolution, in bytes: LANES in kernels.c
# The code model that compilers for x86-64 take by default has all static data below 2 GiB; some room is left for the rest.
MAX_STATIC = 2**31 - 2**26


@dataclass(frozen=True)
class Program:
    """Attributes:
    graph: of one image; its steps are of the kinds of kernels/graph.py, and "reorder" (one input, nothing else).
    offsets: where each value lies, in numbers from the start of the block.
    workspace: where each step's padded image lies.
    size: of the block, in numbers.
    """

    graph: Graph
    offsets: dict[int, int]
    workspace: list[int]
    size: int


def prepare(graph: Graph) -> Program:
    """The graph for one image, with its reshapes told apart, and where its values lie.

    Raises:
        ArgumentError: the block would be too large for static data.
    """
    graph = graph.with_batch(1)
    steps = tuple(
        Step("reorder", step.inputs, step.output)
        if step.kind == "reshape"
        and channels_last(graph.shapes[step.inputs[0]]) != channels_last(graph.shapes[step.output])
        else step
        for step in graph.steps
    )
    graph = replace(graph, steps=steps)
    itemsize = graph.dtype.itemsize
    memory: MemoryPlan = plan_memory(graph, [_workspace(step) * itemsize for step in graph.steps])
    if memory.size > MAX_STATIC:
        raise ArgumentError(
            f"export_c: the values need {memory.size:,} bytes of static memory, and compilers give at most {MAX_STATIC:,}; "
            "compile the model for a smaller input_shape"
        )
    return Program(
        graph,
        {value: offset // itemsize for value, offset in memory.offsets.items()},
        [offset // itemsize for offset in memory.workspace],
        memory.size // itemsize,
    )


def channels_last(shape: tuple[int, ...]) -> tuple[int, int]:
    """(pixels, channels) of a value's order in memory; C order is that of one channel."""
    if len(shape) == 4 and shape[1] > 1 and shape[2] * shape[3] > 1:
        return shape[2] * shape[3], shape[1]
    return prod(shape), 1


def in_memory(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Something a dimension behind the batch, (c, h, w) or other, in the order of memory: (h, w, c) or as it is."""
    return (sizes[1], sizes[2], sizes[0]) if len(sizes) == 3 else sizes


def padding(g: Conv2dGeometry) -> tuple[int, int, int, int]:
    return g.pad_top, g.pad_bottom, g.pad_left, g.pad_right


def padded_row(g: Conv2dGeometry) -> int:
    """Numbers in a row of the padded image."""
    return (g.pad_left + g.w + g.pad_right) * g.c_in


def is_depthwise(g: Conv2dGeometry) -> bool:
    return g.groups > 1 and g.groups == g.c_in == g.c_out


def joins_taps(g: Conv2dGeometry) -> bool:
    """Whether the taps of a row of the window lie side by side in an image, as one run."""
    return g.groups == 1 and g.dilation_w == 1


def lanes(c_out: int, dtype: np.dtype[Any]) -> int:
    """Output channels of a block: half as many as fit where a group has no more."""
    full = BLOCK_BYTES // dtype.itemsize
    return full // 2 if c_out <= full // 2 else full


def pack_weight(weight: Array, groups: int = 1) -> Array:
    """(c_out, c_in / groups, k_h, k_w) -> [group][block][k_h][k_w][c_in / groups][lane], zeros behind the last channel."""
    c_out, c_in, k_h, k_w = weight.shape
    mine = c_out // groups
    lane = lanes(mine, weight.dtype)
    blocks = -(-mine // lane)
    packed = np.zeros((groups, blocks * lane, c_in, k_h, k_w), weight.dtype)
    packed[:, :mine] = weight.reshape(groups, mine, c_in, k_h, k_w)
    return np.ascontiguousarray(packed.reshape(groups, blocks, lane, c_in, k_h, k_w).transpose(0, 1, 4, 5, 3, 2))


def _workspace(step: Step) -> int:
    """Numbers of the padded image that a convolution reads; none without padding."""
    g = step.attributes.get("geometry")
    if step.kind != "conv2d" or not isinstance(g, Conv2dGeometry) or not any(padding(g)):
        return 0
    return (g.pad_top + g.h + g.pad_bottom) * padded_row(g)
