"""Import, load and compile, predict: OpenVINO."""

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """See cold/__init__.py."""
    began = time.perf_counter()
    import numpy as np
    import openvino

    imported = time.perf_counter() - began
    folder = Path(sys.argv[1])
    images = np.load(folder / "input.npy")
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"]),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(folder / f"batch{len(images)}.onnx"), "CPU", settings)
    output = np.array(compiled.create_infer_request().infer([images])[0])
    print(json.dumps({"output": output.tolist(), "import": imported}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
