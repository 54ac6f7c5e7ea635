"""Import, build, load weights, compile, predict: minires."""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """See cold/__init__.py."""
    began = time.perf_counter()
    import numpy as np

    import minires
    from minires.io.safetensors import load_file

    imported = time.perf_counter() - began
    folder = Path(sys.argv[1])
    network = json.loads((folder / "network.json").read_text(encoding="utf-8"))
    with minires.nn.init.skipped():  # weights come from the file: none are drawn
        model = minires.models.build(
            network["model"],
            network["num_classes"],
            network["in_channels"],
            image_size=network["image_size"],
            **network["options"],
        )
    weights = load_file(folder / "weights.safetensors")
    model.load_state_dict({name: minires.from_numpy(array) for name, array in weights.items()})
    model.eval()
    images = np.load(folder / "input.npy")
    compiler = None if "reference" in sys.argv[2:] else getattr(minires, "compile", None)
    if compiler is not None:
        output = np.asarray(compiler(model, images.shape)(images))
    else:
        with minires.inference_mode():
            output = model(minires.from_numpy(images)).numpy()
    print(json.dumps({"output": output.tolist(), "import": imported}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
