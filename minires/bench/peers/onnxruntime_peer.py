"""onnxruntime on the CPU, with its defaults: every optimisation, threads that spin inside a turn."""

from __future__ import annotations

import numpy as np
import onnxruntime

from minires.bench.workload import Workload


def open_task(kind: str, variant: str, workload: Workload) -> Inference:
    """Only inference."""
    return Inference(workload)


class Inference:
    """One batch through the network."""

    def __init__(self, workload: Workload) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = workload.threads
        options.inter_op_num_threads = 1
        file = str(workload.path(f"batch{workload.batch}.onnx"))
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.feed = {self.session.get_inputs()[0].name: workload.images()}
        self.note = ""
        self.versions = {"onnxruntime": onnxruntime.__version__}

    def run(self) -> None:
        """One repetition."""
        (self.output,) = self.session.run(None, self.feed)

    def outcome(self) -> dict[str, np.ndarray]:
        return {"output": self.output}
