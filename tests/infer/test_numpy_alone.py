"""With NumPy and the standard library alone: a checkpoint of another library becomes an answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import minires
from minires.io.safetensors import save_file
from tests.test_packaging import BLOCKER, ROOT
from tests.tolerances import assert_close

PROGRAM = """
import sys
import numpy as np
import minires

folder = sys.argv[1]
model = minires.load_model(folder)
transform = minires.data.preprocess.transform_for(model)
plan = minires.compile(model, (1, *transform.shape))
logits = plan(transform(np.load(folder + "/image.npy"))[None])
np.save(folder + "/logits.npy", logits)
plan.save(folder + "/plan.safetensors")
again = minires.load_plan(folder + "/plan.safetensors")
assert np.array_equal(again(transform.batch([np.load(folder + "/image.npy")])), logits)
print(transform.class_names[int(logits.argmax())])
loaded = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(sorted(name for name in loaded if not name.startswith("_")))
"""


def test_numpy_alone_loads_weights_and_classifies_an_array(tmp_path: Path) -> None:
    """Every other import is blocked: safetensors in, resize, crop, plan, class name out, as in this process."""
    model = minires.models.build("resnet18", num_classes=3)
    model.eval()
    save_file({name: value.numpy() for name, value in model.state_dict().items()}, tmp_path / "model.safetensors")
    said = {
        "input_size": [3, 64, 64],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "label_names": ["cat", "dog", "owl"],
    }
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": said}))
    image = np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)
    np.save(tmp_path / "image.npy", image)

    command = [sys.executable, "-c", BLOCKER + PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    name, modules = done.stdout.splitlines()
    assert modules == "['minires', 'numpy']"

    transform = minires.data.preprocess.from_timm(said, "here")
    with minires.no_grad():
        expected = model(minires.tensor(transform(image)[None])).numpy()
    logits = np.load(tmp_path / "logits.npy")
    assert_close(logits, expected, "float32", n=512 * 9)
    assert name == said["label_names"][int(expected.argmax())]  # type: ignore[index]


def test_numpy_alone_the_blocker_blocks() -> None:
    """The test above would see an import of anything else."""
    done = subprocess.run([sys.executable, "-c", BLOCKER + "import PIL"], capture_output=True, text=True, cwd=ROOT)
    assert "PIL is blocked: only NumPy and the standard library are there" in done.stderr


def test_numpy_alone_predict_command_classifies_an_array(tmp_path: Path) -> None:
    model = minires.models.build("resnet8", num_classes=3)
    save_file({name: value.numpy() for name, value in model.state_dict().items()}, tmp_path / "net.safetensors")
    np.save(tmp_path / "image.npy", np.zeros((40, 30, 3), np.uint8))
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    words = [
        "predict", "image.npy", "--weights", "net.safetensors", "--model", "resnet8", "--image-size", "32", "--mean", "0.5",
        "--std", "0.25", "--labels", "names.txt", "--json",
    ]  # fmt: skip
    code = (
        BLOCKER
        + f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom minires.cli.main import main\nsys.exit(main({words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert sorted(row["class"] for row in prediction["top"]) == ["cat", "dog", "owl"]
