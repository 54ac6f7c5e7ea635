"""Where each value of a graph lies: one block of memory, planned by lifetime before anything runs.

A value lives from the step that writes it to the last step that reads it. Two values may lie in the same bytes if they do
not live at the same time. Three kinds of value need no bytes of their own: a reshape is a view of its input, an elementwise
step may write over an input that nobody reads later, and what a step needs only while it runs (workspace) lives for one
step.

Source for the placement, largest first at the lowest free offset: Pisarchyk and Lee, Efficient memory management for deep
neural net inference, 2020 (arXiv:2001.03288), "greedy by size".
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from minires.kernels.graph import Graph

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

# Steps that compute each element from the same element of their inputs, so that it may take an input's place.
ELEMENTWISE = ("relu", "add", "multiply", "sigmoid", "clamp", "scale_shift")


@dataclass(frozen=True)
class Block:
    """Bytes that are needed from step `first` to step `last`, both included; -1 is the time before the first step."""

    first: int
    last: int
    size: int


@dataclass(frozen=True)
class MemoryPlan:
    """Attributes:
    offsets: of each value, in bytes.
    workspace: offset of each step's workspace.
    lifetimes: of each value's block: (first step, last step).
    size: of the whole, in bytes.
    """

    offsets: dict[int, int]
    workspace: list[int]
    lifetimes: dict[int, tuple[int, int]]
    size: int


def plan_memory(graph: Graph, workspace: Sequence[int]) -> MemoryPlan:
    """Place every value of `graph`.

    Args:
        workspace: bytes that each step needs beside its values.
    """
    owner = share(graph)
    blocks: dict[int, Block] = {}
    ends = last_uses(graph)
    for position, value in enumerate([graph.input, *(step.output for step in graph.steps)], start=-1):
        size = prod(graph.shapes[value]) * graph.dtype.itemsize
        known = blocks.get(owner[value], Block(position, position, size))
        blocks[owner[value]] = Block(known.first, max(known.last, ends[value]), known.size)
    scratch = [Block(position, position, size) for position, size in enumerate(workspace)]
    offsets, size = place([*blocks.values(), *scratch])
    of_owner = dict(zip(blocks, offsets, strict=False))
    return MemoryPlan(
        offsets={value: of_owner[owner[value]] for value in owner},
        workspace=offsets[len(blocks) :],
        lifetimes={value: (blocks[owner[value]].first, blocks[owner[value]].last) for value in owner},
        size=size,
    )


def last_uses(graph: Graph) -> dict[int, int]:
    """The last step that reads each value, through reshapes too; the output is read after the last step."""
    uses = {value: readers[-1] if readers else -1 for value, readers in graph.readers().items()}
    uses[graph.output] = len(graph.steps)
    for position in reversed(range(len(graph.steps))):
        step = graph.steps[position]
        uses[step.output] = max(uses[step.output], position)
        if step.kind == "reshape":
            uses[step.inputs[0]] = max(uses[step.inputs[0]], uses[step.output])
    return uses


def share(graph: Graph) -> dict[int, int]:
    """For each value, the value in whose bytes it lies: itself, the source of a reshape, or an input that dies here."""
    uses = last_uses(graph)
    owner = {graph.input: graph.input}
    end = {graph.input: uses[graph.input]}  # of an owner: the last read of what lies in it now
    for position, step in enumerate(graph.steps):
        owner[step.output] = step.output
        if step.kind == "reshape":
            owner[step.output] = owner[step.inputs[0]]
        elif step.kind in ELEMENTWISE:
            # multiply's second input may be a gate, which is smaller than the output; add's inputs are alike.
            for value in step.inputs:
                if graph.shapes[value] == graph.shapes[step.output] and end[owner[value]] <= position:
                    owner[step.output] = owner[value]
                    break
        home = owner[step.output]
        end[home] = uses[step.output] if step.kind != "reshape" else max(end[home], uses[step.output])
    return owner


def place(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """An offset for each block, so that no two that live at the same time overlap; and the size of the whole."""
    offsets = [0] * len(blocks)
    placed: list[int] = []  # by offset
    for index in sorted(range(len(blocks)), key=lambda i: (-blocks[i].size, blocks[i].first)):
        block = blocks[index]
        offset = 0
        for other in placed:
            neighbour = blocks[other]
            if neighbour.last < block.first or block.last < neighbour.first:
                continue
            if offset + block.size <= offsets[other]:
                break
            offset = max(offset, _aligned(offsets[other] + neighbour.size))
        offsets[index] = offset
        if block.size:
            insort(placed, index, key=offsets.__getitem__)
    return offsets, _aligned(max((o + b.size for o, b in zip(offsets, blocks, strict=True)), default=0))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
