"""Import, build, load weights, predict: torch, eager, which has no compiler to wait for."""

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any


def torch_models() -> Any:
    """minires/bench/torch_models.py, without importing minires."""
    file = Path(__file__).resolve().parents[1] / "torch_models.py"
    spec = importlib.util.spec_from_file_location("torch_models", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """See cold/__init__.py."""
    began = time.perf_counter()
    import numpy as np
    import torch

    imported = time.perf_counter() - began
    folder = Path(sys.argv[1])
    structure = json.loads((folder / "structure.json").read_text(encoding="utf-8"))
    with torch.device("meta"):  # weights come from the file: none are drawn
        model = torch_models().build(structure)
    weights = torch.load(folder / "weights.pt", weights_only=True, mmap=True)
    model.load_state_dict(weights, assign=True)
    model.eval()
    with torch.inference_mode():
        output = model(torch.from_numpy(np.load(folder / "input.npy")))
    print(json.dumps({"output": output.tolist(), "import": imported}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
