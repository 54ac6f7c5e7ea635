"""A plan as a table: what each step reads, what it gives, what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minires.infer import cost
from minires.kernels.geometry import Conv2dGeometry, Pool2dGeometry
from minires.kernels.graph import Graph, Step

if TYPE_CHECKING:
    from minires.infer.plan import Plan


def format_plan(plan: Plan) -> str:
    """One line a step: number, kind with what is fused into it, inputs, output's shape, MACs, bytes, time, how it runs.

    Inputs are named by the step that gives them; `in` is the plan's input. Bytes are those that the step must at least move.
    """
    graph, times = plan.graph, plan.times
    names = {graph.input: "in", **{step.output: str(position) for position, step in enumerate(graph.steps)}}
    rows = [["step", "kind", "reads", "gives", "MACs", "bytes", "ms", "runs as"]]
    for position, (step, note) in enumerate(zip(graph.steps, plan.notes, strict=True)):
        rows.append(
            [
                str(position),
                describe(step),
                " ".join(names[value] for value in step.inputs),
                "x".join(map(str, graph.shapes[step.output])),
                short(cost.macs(step, graph)),
                short(cost.moved_bytes(step, graph)),
                "" if times is None else f"{times[position] * 1e3:.3f}",
                note,
            ]
        )
    total = "" if times is None else f"{sum(times) * 1e3:.3f}"
    moved = sum(cost.moved_bytes(step, graph) for step in graph.steps)
    rows.append(["", "total", "", "", short(plan.macs), short(moved), total, ""])
    left = (False, True, False, True, False, False, False, True)
    widths = [max(len(row[column]) for row in rows) for column in range(len(left))]
    lines = [
        "  ".join(
            cell.ljust(width) if to_the_left else cell.rjust(width)
            for cell, width, to_the_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    ]
    timed = "" if times is None else f", times of a batch of {plan.times_batch}"
    head = (
        f"{_shape(graph, graph.input)} -> {_shape(graph, graph.output)} {graph.dtype}, {len(graph.steps)} steps, "
        f"weights {short(plan.weight_bytes) or 0}B, buffers {short(plan.buffer_bytes) or 0}B{timed}"
    )
    return "\n".join([head, *lines])


def describe(step: Step) -> str:
    """`conv2d 3x3/2 +shortcut +relu`: the kind, a window's size and stride, and what is fused."""
    words = [step.kind]
    g: Any = step.attributes.get("geometry")
    if isinstance(g, (Conv2dGeometry, Pool2dGeometry)):
        down, right = g.stride_h, g.stride_w
        stride = f"/{down}x{right}" if down != right else f"/{down}" if down > 1 else ""
        words.append(f"{g.k_h}x{g.k_w}{stride}")
    if isinstance(g, Conv2dGeometry) and g.groups > 1:
        words.append(f"groups {g.groups}")
    if "bias" in step.constants:
        words.append("+bias")
    if step.kind == "conv2d" and len(step.inputs) == 2:
        words.append("+shortcut")
    if step.attributes.get("relu"):
        words.append("+relu")
    return " ".join(words)


def short(count: int) -> str:
    """1.82 G, 25.6 M, 980: three digits and a thousand's letter; empty for 0."""
    if not count:
        return ""
    value = float(count)
    for letter in ("", " k", " M", " G", " T"):
        if value < 999.5 or letter == " T":
            break
        value /= 1000
    return f"{value:.0f}{letter}" if not letter else f"{value:.3g}{letter}"


def _shape(graph: Graph, value: int) -> str:
    return "x".join(map(str, graph.shapes[value]))
