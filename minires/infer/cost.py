"""What a step costs: multiplications with addition (MACs), and the bytes that it must at least move."""

from __future__ import annotations

from math import prod

from minires.kernels.graph import Graph, Step


def macs(step: Step, graph: Graph) -> int:
    """Multiply-accumulates of convolutions and linear layers, as papers count them; other steps count none."""
    if step.kind == "conv2d":
        g = step.attributes["geometry"]
        return prod(g.y_shape) * (g.c_in // g.groups) * g.k_h * g.k_w
    if step.kind == "linear":
        return prod(graph.shapes[step.output]) * graph.shapes[step.inputs[0]][1]
    return 0


def constant_bytes(step: Step) -> int:
    """Weights and the like."""
    return sum(constant.nbytes for constant in step.constants.values())


def moved_bytes(step: Step, graph: Graph) -> int:
    """Inputs and constants read once, the output written once; a reshape moves nothing."""
    if step.kind == "reshape":
        return 0
    elements = sum(prod(graph.shapes[value]) for value in (*step.inputs, step.output))
    return elements * graph.dtype.itemsize + constant_bytes(step)
