"""OpenVINO on the CPU: one stream with all threads, in float32 (on machines with bfloat16 it would choose that)."""

from __future__ import annotations

import numpy as np
import openvino

from minires.bench.workload import Workload


def open_task(kind: str, variant: str, workload: Workload) -> Inference:
    """Only inference."""
    return Inference(workload)


class Inference:
    """One batch through the network."""

    def __init__(self, workload: Workload) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": workload.threads,
            # One request at a time, as fast as it goes, at every batch size; THROUGHPUT would split the threads among
            # requests that nobody sends.
            "PERFORMANCE_HINT": "LATENCY",
        }
        file = str(workload.path(f"batch{workload.batch}.onnx"))
        compiled = openvino.Core().compile_model(file, "CPU", settings)
        self.request = compiled.create_infer_request()
        self.images = workload.images()
        self.note = ""
        self.versions = {"openvino": openvino.__version__.partition("-")[0]}

    def run(self) -> None:
        """One repetition."""
        self.output = self.request.infer([self.images], share_inputs=True)[0]

    def outcome(self) -> dict[str, np.ndarray]:
        return {"output": np.array(self.output)}
