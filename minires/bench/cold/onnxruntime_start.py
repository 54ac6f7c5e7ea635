"""Import, load and optimise, predict: onnxruntime."""

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """See cold/__init__.py."""
    began = time.perf_counter()
    import numpy as np
    import onnxruntime

    imported = time.perf_counter() - began
    folder = Path(sys.argv[1])
    images = np.load(folder / "input.npy")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    file = str(folder / f"batch{len(images)}.onnx")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: images})
    print(json.dumps({"output": output.tolist(), "import": imported}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
