"""Import, load and optimise, predict: onnxruntime."""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """See cold/__init__.py."""
    import numpy as np
    import onnxruntime

    folder = Path(sys.argv[1])
    images = np.load(folder / "input.npy")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    file = str(folder / f"batch{len(images)}.onnx")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: images})
    print(json.dumps(output.tolist()), flush=True)


if __name__ == "__main__":
    main()
