"""ONNX graphs made by hand, and the judge of what a plan makes of them: onnxruntime.

A test module that imports from here is skipped, with the reason, where onnx or onnxruntime is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires.infer import Plan
from tests.tolerances import assert_close

onnx = pytest.importorskip("onnx", reason="onnx, which makes this test's files, is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime, the judge of this test, is not installed")
from onnx import helper, numpy_helper  # noqa: E402

FLOAT = onnx.TensorProto.FLOAT


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    """A node; names are separated by spaces, "-" is an input that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), **attributes)


def model(
    nodes: Sequence[Any],
    shape: Sequence[int | str | None],
    opset: int = 17,
    constants: Mapping[str, Any] | None = None,
    *,
    dtype: int = FLOAT,
    outputs: Sequence[str] = ("y",),
) -> bytes:
    """A file with the input x of `shape` and the output y."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    # IR 8 is read by every runtime, whatever the opset; initializers need not be inputs since IR 4.
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    content: bytes = made.SerializeToString()
    return content


def load(content: bytes, folder: Path, *arguments: Any, **options: Any) -> Plan:
    path = folder / "model.onnx"
    path.write_bytes(content)
    return minires.load_onnx(path, *arguments, kernels="reference", **options)


def runtime(content: bytes, x: np.ndarray, output: str = "y") -> np.ndarray:
    """What onnxruntime computes, without its own rewriting of the graph."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (y,) = session.run([output], {session.get_inputs()[0].name: x})
    found: np.ndarray = y
    return found


def agree(content: bytes, folder: Path, *shape: int, length: int = 1, batches: Sequence[int] = (1, 3)) -> Plan:
    """The plan of a file, after it gave what onnxruntime gives, for images of `shape` in several batches.

    Args:
        length: of the longest sum, for the tolerance.
        batches: of a file with a fixed batch, only that one can be judged.
    """
    plan = load(content, folder)
    for n in batches:
        x = np.random.default_rng(n).standard_normal((n, *shape)).astype(plan.graph.dtype)
        assert_close(plan(x), runtime(content, x), str(plan.graph.dtype), length, f"batch of {n}")
    return plan


def kinds(plan: Plan) -> list[str]:
    return [step.kind for step in plan.graph.steps]
