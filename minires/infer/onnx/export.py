"""A model or a plan as an ONNX file, for onnxruntime, OpenVINO and others; the `onnx` package is not needed.

    minires.export_onnx(model, "resnet18.onnx", (1, 3, 224, 224))
    minires.export_onnx(plan, "resnet18.onnx")

What is written is the plan: batch norm is folded into the convolutions, and each step becomes one ONNX node or a few (see
`nodes`). `minires.load_onnx` reads the file back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import minires
from minires.errors import ArgumentError
from minires.infer.onnx.nodes import BATCH, Nodes
from minires.infer.plan import Plan, compile
from minires.io.onnx_write import node, write_onnx
from minires.nn import Module

__all__ = ["export_onnx"]


def export_onnx(
    model: Module | Plan,
    path: str | os.PathLike[str],
    input_shape: Sequence[int] | None = None,
    *,
    input_name: str = "input",
    output_name: str = "output",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an ONNX file (opset 17) that takes any number of images: its batch is a free size, "batch".

    Args:
        model: a module, which is compiled; or a plan.
        path: the file. It is written aside, flushed and renamed.
        input_shape: (N, C, H, W), needed with a module; sizes behind the batch are fixed in the file.
        input_name, output_name: what the two ends are called.
        metadata: texts by name, kept in the file (`InferenceSession.get_modelmeta()` of onnxruntime shows them).

    Raises:
        ArgumentError: input_shape is missing, or differs from the plan's; two names are the same; more than 2 GiB.
        UnsupportedError: the model does something that no plan can repeat.
        OSError: the file cannot be written.

    Example:
        >>> minires.export_onnx(model, "resnet18.onnx", (1, 3, 224, 224))
        >>> onnxruntime.InferenceSession("resnet18.onnx").run(None, {"input": images})[0]
    """
    if isinstance(model, Plan):
        plan = model
        if input_shape is not None and tuple(input_shape)[1:] != plan.input_shape[1:]:
            raise ArgumentError(f"export_onnx: the plan has input_shape {plan.input_shape}, got {tuple(input_shape)}")
    elif not isinstance(model, Module):
        raise ArgumentError(f"export_onnx: model must be a Module or a Plan, got {type(model).__name__}")
    elif input_shape is None:
        raise ArgumentError("export_onnx: a module needs input_shape, for example (1, 3, 224, 224)")
    else:
        plan = compile(model, input_shape)
    if input_name == output_name or not (input_name and output_name):
        raise ArgumentError(f"export_onnx: two different names are needed, got {input_name!r} and {output_name!r}")
    graph = plan.graph
    made = Nodes(graph, input_name, output_name)
    write_onnx(
        path,
        "minires",
        [node(*one) for one in made.nodes],
        made.constants,
        [made.value(graph.input)],
        [(output_name, graph.dtype, (BATCH, *graph.shapes[graph.output][1:]))],
        [made.value(step.output) for step in graph.steps if step.output != graph.output],
        producer=("minires", minires.__version__),
        metadata=metadata,
    )
