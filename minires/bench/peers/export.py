"""Writes what other contenders read: a network's ONNX file, at a fixed batch size, and torch's own file of weights."""

from __future__ import annotations

import torch

from minires.bench.peers.torch_peer import loaded
from minires.bench.workload import Workload


def open_task(kind: str, variant: str, workload: Workload) -> None:
    """Write the file.

    Args:
        kind: "onnx": batchN.onnx, in evaluation mode, with batch norm folded by the exporter; "weights": weights.pt.
    """
    model = loaded(workload).eval()
    if kind == "weights":
        torch.save(model.state_dict(), workload.path("weights.pt"))
        return
    images = torch.from_numpy(workload.images())
    file = str(workload.path(f"batch{workload.batch}.onnx"))
    torch.onnx.export(model, (images,), file, input_names=["input"], output_names=["output"], external_data=False)
