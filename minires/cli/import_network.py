"""`minires import` of an ONNX file, or of a plan: what is in it; with --output, as a plan."""

from __future__ import annotations

import argparse
import os
import shlex
from collections import Counter
from pathlib import Path

from minires.cli.output import print_json, print_next

__all__ = ["import_network"]


def import_network(args: argparse.Namespace, path: Path, kind: str) -> int:
    """Tell, and write a plan if asked. `kind` is "onnx" or "plan"."""
    import numpy as np

    import minires
    from minires.cli.export import staging
    from minires.cli.formats.job import size_text
    from minires.cli.import_ import tell
    from minires.cli.model_source import parse_shape
    from minires.infer.table import short
    from minires.io.onnx_file import read_onnx

    shape = (1, *parse_shape("import", args.input)) if args.input else None
    facts = []
    if kind == "onnx":
        model = read_onnx(path)
        plan = minires.load_onnx(path, shape, kernels="reference")
        by = f", written by {model.producer}" if model.producer else ""
        facts.append(("format", f"ONNX opset {model.opset}{by}, {size_text(path.stat().st_size)}"))
        counts = Counter(node.op for node in model.nodes)
        facts.append(("nodes", ", ".join(f"{count} {op}" for op, count in counts.most_common())))
    else:
        plan = minires.load_plan(path, kernels="reference")
        facts.append(("format", f"a plan of minires, {size_text(path.stat().st_size)}"))
    graph = plan.graph
    steps = Counter(step.kind for step in graph.steps)
    numbers = sum(constant.size for step in graph.steps for constant in step.constants.values())
    macs = plan.macs // plan.input_shape[0]
    facts += [
        ("takes", f"(n, {', '.join(map(str, plan.input_shape[1:]))}) {graph.dtype}"),
        ("gives", f"(n, {', '.join(map(str, plan.output_shape[1:]))}) {graph.dtype}".replace(", )", ")")),
        ("network", f"{len(graph.steps)} steps, {numbers:,} numbers, {short(macs) or 0} MACs an image"),
    ]
    verified = None
    if args.output is not None:
        x = np.random.default_rng(0).standard_normal((2, *plan.input_shape[1:])).astype(graph.dtype)
        with staging(Path(args.output)) as folder:
            made = Path(folder, Path(args.output).name)
            plan.save(made)
            if not np.array_equal(minires.load_plan(made, kernels="reference")(x), plan(x), equal_nan=True):
                raise RuntimeError(f"the plan that was written gives other numbers than {path}; it was not kept")
            os.replace(made, args.output)
        verified = "read back: the outputs for 2 random inputs equal bit for bit"
        facts.append(("written", f"{args.output} ({size_text(Path(args.output).stat().st_size)}), a plan"))
        facts.append(("verified", verified))
    if args.json:
        print_json(
            {
                "source": str(path),
                "format": kind,
                "bytes": path.stat().st_size,
                "input": list(plan.input_shape[1:]),
                "output": list(plan.output_shape[1:]),
                "steps": dict(steps),
                "numbers": numbers,
                "macs": macs,
                "written": args.output,
                "verified": verified,
            }
        )
        return 0
    held: Counter[str] = Counter()
    for step in graph.steps:
        held[step.kind] += sum(constant.size for constant in step.constants.values())
    rows = [[kind, f"{count:,}", f"{held[kind]:,}" if held[kind] else ""] for kind, count in steps.most_common()]
    tell(str(path), facts, (("step", "steps", "numbers"), rows), [])
    shown = shlex.quote(args.output or str(path))
    commands = [(f"minires export {shown} --format c", "as C")]
    if args.output is None and kind == "onnx":
        commands.insert(0, (f"minires import {shown} --output {shlex.quote(path.stem)}.plan.safetensors", "as a plan"))
    print_next(*commands)
    return 0
