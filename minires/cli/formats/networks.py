"""`minires export --format onnx` and `--format plan`: whole networks."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.cli.formats.job import Job, Written

if TYPE_CHECKING:
    from minires.cli.model_source import ModelSource

__all__ = ["write_onnx", "write_plan"]


def write_onnx(job: Job) -> Written:
    import minires
    from minires.io.onnx_file import read_onnx
    from minires.io.onnx_write import IR_VERSION, OPSET

    plan = job.plan()
    minires.export_onnx(plan, job.target, metadata=_metadata(job.source))
    model = read_onnx(job.target)
    counts = Counter(node.op for node in model.nodes)
    weights: Counter[str] = Counter()
    for node in model.nodes:
        weights[node.op] += sum(
            int(np.prod(model.initializers[name].shape)) for name in node.inputs if name in model.initializers
        )
    sizes = ", ".join(map(str, job.source.shape))
    call = (
        f"import numpy, onnxruntime; s = onnxruntime.InferenceSession({job.target.name!r}); "
        f"print(s.run(None, {{'input': numpy.zeros((1, {sizes}), '{plan.graph.dtype}')}})[0])"
    )
    return Written(
        [job.target],
        [
            ("format", f"ONNX opset {OPSET}, IR version {IR_VERSION}; batch norm folded, the batch free"),
            ("input", f"input (batch, {sizes}) {plan.graph.dtype}"),
            ("output", f"output (batch, {', '.join(map(str, plan.output_shape[1:]))}) {plan.graph.dtype}"),
        ],
        ("operation", "nodes", "numbers"),
        [[op, f"{count:,}", f"{weights[op]:,}" if weights[op] else ""] for op, count in counts.most_common()],
        minires.load_onnx(job.target, kernels="reference")(job.x),
        "minires.load_onnx",
        [(f'python -c "{call}"', "run it in onnxruntime"), (f"minires import {job.target.name}", "what is in it")],
    )


def write_plan(job: Job) -> Written:
    import minires
    from minires.infer import cost
    from minires.infer.table import short

    plan = job.plan()
    plan.save(job.target)
    kinds = Counter(step.kind for step in plan.graph.steps)
    macs: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for step in plan.graph.steps:
        macs[step.kind] += cost.macs(step, plan.graph)
        numbers[step.kind] += sum(constant.size for constant in step.constants.values())
    sizes = ", ".join(map(str, job.source.shape))
    call = f"import minires; print(minires.load_plan({job.target.name!r}))"
    return Written(
        [job.target],
        [("format", f"a plan of {len(plan.graph.steps)} steps for images (n, {sizes}) {plan.graph.dtype}")],
        ("step", "steps", "MACs", "numbers"),
        [
            [kind, f"{count:,}", short(macs[kind]), f"{numbers[kind]:,}" if numbers[kind] else ""]
            for kind, count in kinds.most_common()
        ],
        minires.load_plan(job.target, kernels="reference")(job.x),
        "minires.load_plan",
        [(f'python -c "{call}"', "load it and print it, step by step")],
    )


def _metadata(source: ModelSource) -> dict[str, str]:
    """What an ONNX file says of its classes and images, as JSON by name."""
    found: dict[str, Any] = {}
    if source.architecture is not None:
        found["architecture"] = source.architecture
    if source.class_names is not None:
        found["classes"] = json.dumps(list(source.class_names), ensure_ascii=False)
    if source.transform is not None:
        found |= {name: json.dumps(getattr(source.transform, name)) for name in ("mean", "std")}
        found["preprocessing"] = str(source.transform)
    return found
