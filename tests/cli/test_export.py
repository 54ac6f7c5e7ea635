"""minires export: every format from every kind of source, judged by those who read it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires as package
from minires import models
from minires.cli import export
from minires.cli.formats import FORMATS
from minires.cli.main import main
from minires.io.safetensors import SafetensorsFile, load_file
from tests.cli.conftest import Run
from tests.infer.nets import eager, images, randomize, small
from tests.tolerances import assert_close

RUN = "runs/digits-resnet8"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; kernels that need no compiling."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIRES_KERNELS", "reference")
    return tmp_path


@pytest.fixture
def weights(here: Path) -> package.nn.Module:
    """A small CIFAR network, and its weights in net.ckpt."""
    net = randomize(models.build("resnet8", num_classes=4)).eval()
    package.save(net.state_dict(), here / "net.ckpt")
    return net


def run(*args: str) -> int:
    """A command in this process; argparse's own way out counts too."""
    try:
        return main(["export", *args])
    except SystemExit as error:
        return int(error.code or 0)


def document(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert run(*args, "--json") == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


# --- each format, read by others ---


def test_export_onnx_gives_onnxruntime_the_models_logits(
    weights: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime, the judge, is not installed")
    made = document(capsys, "net.ckpt", "--model", "resnet8", "--output", "net.onnx", "--input", "3,16,16")
    assert made["files"] == [{"path": "net.onnx", "bytes": (here / "net.onnx").stat().st_size}]
    assert made["verified"]["images"] == 2
    assert made["verified"]["how"].startswith("read back by minires.load_onnx: the logits of 2 random images")
    x = images(3, 3, 16, 16, dtype="float32")
    session = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    assert_close(session.run(None, {"input": x})[0], eager(weights, x), "float32", n=256)
    assert session.get_modelmeta().custom_metadata_map == {"architecture": "resnet8"}


def test_export_safetensors_fills_the_same_network_in_torch(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a training dictionary with Hugging Face's names, by torchvision's names, into torch."""
    from tests.io.checkpoints import huggingface_name, named, twin
    from tests.torch_oracle import torch

    judge = twin([1, 1, 1, 1], [16, 24, 32, 40], stem_width=16)
    torch.save({"model": named(judge, huggingface_name), "epoch": 3}, "theirs.pth")
    made = document(capsys, "theirs.pth", "--format", "safetensors", "--output", "ours.safetensors")
    assert "Guessed from their names and shapes" in made["notes"][0]
    assert made["architecture"] is None
    from safetensors import safe_open
    from safetensors.torch import load_file as load_with_torch

    with safe_open("ours.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # a guess is not written down as a fact
    other = twin([1, 1, 1, 1], [16, 24, 32, 40], seed=1, stem_width=16)
    other.load_state_dict(load_with_torch("ours.safetensors"), strict=True)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(other(x), judge(x))


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "resnet50d", "seresnet18"])
def test_export_safetensors_is_loaded_by_timm(name: str, here: Path) -> None:
    from tests.io import judges

    timm = judges.timm()
    from safetensors.torch import load_file as load_with_torch

    from tests.torch_oracle import torch

    net = randomize(models.build(name, num_classes=3))
    package.save(net.state_dict(), "net.ckpt")
    assert run("net.ckpt", "--model", name, "--output", "net.safetensors") == 0
    judge = timm.create_model(name, pretrained=False, num_classes=3)
    judge.load_state_dict(load_with_torch("net.safetensors"), strict=True)
    x = images(2, 3, 64, 64, dtype="float32")
    with torch.no_grad():
        y = judge.eval()(torch.tensor(x)).numpy()
    assert_close(eager(net, x), y, "float32", n=512)


def test_export_safetensors_says_its_network_where_that_is_known(weights: Any, here: Path) -> None:
    assert run("net.ckpt", "--model", "resnet8", "--output", "net.safetensors") == 0
    with SafetensorsFile("net.safetensors") as file:
        assert file.metadata == {"format": "pt", "architecture": "resnet8"}
    x = images(1, 3, 16, 16, dtype="float32")
    np.testing.assert_array_equal(eager(package.load_model("net.safetensors"), x), eager(weights, x))


def test_export_safetensors_does_not_say_a_name_that_would_not_load(here: Path, capsys: Any) -> None:
    """A network of the name resnet20 but twice as wide is not what load_model builds by that name."""
    net = randomize(models.build("resnet8", num_classes=4, width=32))
    package.save(net.state_dict(), "wide.ckpt")
    assert run("wide.ckpt", "--output", "wide.safetensors") == 0
    with SafetensorsFile("wide.safetensors") as file:
        assert file.metadata == {"format": "pt"}
    assert "the file does not say which network it is of" in capsys.readouterr().err


def test_export_tells_of_a_stride_that_weights_do_not_show(here: Path, capsys: Any) -> None:
    from minires.io.huggingface import save_huggingface

    save_huggingface(small("resnet50", stride_on_1x1=True), here / "first")
    assert run("first", "--input", "3,32,32", "--format", "safetensors") == 0
    assert "load it with stride_on_1x1=True" in capsys.readouterr().err
    x = images(1, 3, 32, 32, dtype="float32")
    back = package.load_model("first.safetensors", model=small("resnet50", stride_on_1x1=True))
    np.testing.assert_array_equal(eager(back, x), eager(package.load_model("first"), x))


def test_export_npz_is_read_by_numpy(weights: Any, here: Path) -> None:
    assert run("net.ckpt", "--model", "resnet8", "--output", "net.npz") == 0
    with np.load("net.npz") as arrays:
        assert list(arrays) == list(weights.state_dict())
        for name, value in weights.state_dict().items():
            np.testing.assert_array_equal(arrays[name], value.array)


def test_export_plan_is_the_compiled_model(weights: Any, here: Path) -> None:
    assert run("net.ckpt", "--model", "resnet8", "--format", "plan", "--input", "3,16,16") == 0
    x = images(3, 3, 16, 16, dtype="float32")
    plan = package.compile(weights, (1, 3, 16, 16), kernels="reference")
    np.testing.assert_array_equal(package.load_plan("net.plan.safetensors", kernels="reference")(x), plan(x))


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("place", ["inside", "beside"])
def test_export_c_is_compiled_and_run(place: str, weights: Any, here: Path, capsys: Any) -> None:
    made = document(
        capsys, "net.ckpt", "--model", "resnet8", "--output", "net.c", "--weights", place, "--input", "3,8,8"
    )
    assert [file["path"] for file in made["files"]] == ["net.c", "net.h", *(["net.bin"] if place == "beside" else [])]
    assert made["verified"]["how"].startswith("cc compiled and ran it: the logits of 2 random images")
    assert 0 <= made["verified"]["largest_difference"] < 1e-4


def test_export_c_without_a_compiler_says_so(
    weights: Any, here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert run("net.ckpt", "--model", "resnet8", "--output", "net.c", "--input", "3,8,8") == 0
    assert "  unverified  not run: there is no C compiler here\n" in capsys.readouterr().out


def test_export_hf_is_opened_by_transformers(here: Path, capsys: Any, transformers: Any) -> None:
    """From timm's layout to theirs: weights, class names and how images are prepared."""
    from tests.io.checkpoints import folder, twin
    from tests.torch_oracle import torch

    judge = twin([1, 1, 1, 1], [16, 24, 32, 40], stem_width=16)
    config = {"architecture": "resnet10", "num_classes": 7, "label_names": list("abcdefg")}
    cfg = {
        "input_size": [3, 64, 64],
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    folder(here / "theirs", judge.state_dict(), {**config, "pretrained_cfg": cfg})
    # Narrow widths are not resnet10's; the shapes say so, hence the configuration must not name it.
    assert run("theirs", "--format", "hf", "--output", "out") == 3
    assert "the weights are of another network" in capsys.readouterr().err

    judge = twin([1, 1, 1, 1])
    folder(here / "theirs", judge.state_dict(), {**config, "pretrained_cfg": cfg})
    made = document(capsys, "theirs", "--format", "hf", "--output", "out")
    assert made["classes"] == list("abcdefg")
    assert sorted(file.name for file in (here / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    theirs = transformers.AutoModelForImageClassification.from_pretrained("out").eval()
    assert theirs.config.id2label == dict(enumerate("abcdefg"))
    x = torch.tensor(images(2, 3, 64, 64, dtype="float32"))
    with torch.no_grad():
        assert_close(theirs(x).logits.numpy(), judge(x).numpy(), "float32", n=512)


# --- each kind of source ---


def test_export_takes_a_run_with_its_size_and_classes(minires: Run, trained: Path, tmp_path: Path) -> None:
    done = minires("export", RUN, "--output", str(tmp_path / "digits.onnx"), cwd=trained)
    assert done.returncode == 0, done.stderr
    assert f"resnet8 trained on digits, {RUN}/best.safetensors -> ONNX\n" in done.stdout
    assert "  input       input (batch, 1, 8, 8) float32\n" in done.stdout
    assert "  classes     10: 0, 1, 2, 3, 4, ...\n" in done.stdout
    assert "  verified    read back by minires.load_onnx: the logits of 2 random images differ" in done.stdout
    assert f"\nnext:\n  cd {tmp_path}" in done.stdout
    from minires.train.checkpoint import load_checkpoint, load_model

    net = load_model(load_checkpoint(trained / RUN))
    x = images(2, 1, 8, 8, dtype="float32")
    assert_close(package.load_onnx(tmp_path / "digits.onnx", kernels="reference")(x), eager(net, x), "float32", n=64)


def test_export_of_a_run_as_safetensors_is_good_for_eval_too(minires: Run, trained: Path, tmp_path: Path) -> None:
    done = minires("export", RUN, "--output", str(tmp_path / "digits.safetensors"), cwd=trained)
    assert done.returncode == 0, done.stderr
    done = minires("eval", str(tmp_path / "digits.safetensors"), "--json", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] > 0
    state = load_file(trained / RUN / "best.safetensors")
    for name, array in load_file(tmp_path / "digits.safetensors").items():
        np.testing.assert_array_equal(array, state[name])


def test_export_takes_plans_and_onnx_files(weights: Any, here: Path, capsys: Any) -> None:
    assert run("net.ckpt", "--model", "resnet8", "--output", "net.onnx", "--input", "3,8,8") == 0
    assert run("net.onnx", "--format", "plan", "--output", "net.safetensors") == 0
    capsys.readouterr()
    made = document(capsys, "net.safetensors", "--output", "again.onnx")
    assert made["source"] == "a plan, net.safetensors"
    assert made["verified"]["largest_difference"] == 0
    x = images(2, 3, 8, 8, dtype="float32")
    first, again = (package.load_onnx(name, kernels="reference") for name in ("net.onnx", "again.onnx"))
    np.testing.assert_array_equal(again(x), first(x))
    for name in ("safetensors", "npz", "hf"):
        assert run("net.onnx", "--format", name, "--output", "other") == 2
        assert f"has no weights by name any more (batch norm is folded), which {name} needs" in capsys.readouterr().err
    assert not (here / "other").exists()


def test_export_of_fresh_weights_is_announced(here: Path, capsys: Any) -> None:
    made = document(capsys, "--model", "resnet8", "--format", "onnx", "--classes", "3", "--input", "1,8,8")
    assert made["files"][0]["path"] == "resnet8.onnx"
    assert made["notes"] == ["the weights are fresh, drawn at random: good for trying, useless for images"]
    plan = package.load_onnx("resnet8.onnx", kernels="reference")
    assert (plan.input_shape[1:], plan.output_shape[1:]) == ((1, 8, 8), (3,))


def test_export_takes_the_size_of_images_from_beside_the_weights(here: Path, capsys: Any) -> None:
    from tests.io.checkpoints import folder, twin

    cfg = {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.25] * 3}
    folder(here / "timm", twin([1, 1, 1, 1]).state_dict(), {"architecture": "resnet10", "pretrained_cfg": cfg})
    made = document(capsys, "timm", "--format", "plan")
    assert made["input"] == [3, 96, 96]
    assert made["architecture"] == "resnet10"
    assert made["notes"] == []
    assert made["files"][0]["path"] == "timm.plan.safetensors"


# --- what is refused, and what is left as it was ---


def test_export_overwrites_nothing_unasked(weights: Any, here: Path, capsys: Any) -> None:
    (here / "net.h").write_text("mine")
    assert run("net.ckpt", "--model", "resnet8", "--output", "net.c", "--input", "3,8,8") == 2
    assert "export: net.h exists already; --force replaces it, --output names another" in capsys.readouterr().err
    assert (here / "net.h").read_text() == "mine"
    (here / "net.npz").write_text("mine")
    assert run("net.ckpt", "--model", "resnet8", "--output", "net.npz") == 2
    assert run("net.ckpt", "--model", "resnet8", "--output", "net.npz", "--force") == 0
    assert (here / "net.npz").read_bytes()[:2] == b"PK"


def test_export_keeps_nothing_that_gives_other_logits(
    weights: Any, here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer with a fault: its file never gets its name, an older one stays."""
    honest = FORMATS["onnx"].write

    def faulty(job: Any) -> Any:
        written = honest(job)
        written.logits = written.logits + np.float32(0.01)
        return written

    (here / "net.onnx").write_text("older")
    monkeypatch.setitem(FORMATS, "onnx", dataclasses.replace(FORMATS["onnx"], write=faulty))
    assert run("net.ckpt", "--model", "resnet8", "--output", "net.onnx", "--input", "3,8,8", "--force") == 1
    assert "what was written gives other logits than the model (they differ by 0.01" in capsys.readouterr().err
    assert (here / "net.onnx").read_text() == "older"
    assert sorted(file.name for file in here.iterdir()) == ["net.ckpt", "net.onnx"]


def test_export_sees_logits_that_are_not_finite(weights: Any) -> None:
    source, written = type("S", (), {"notes": []})(), type("W", (), {"logits": np.array([[1.0, np.nan]], np.float32)})()
    expected = np.array([[1.0, np.inf]], np.float32)
    assert export._compare(written, expected, source) == 0
    assert source.notes == ["the model's own logits are not finite for random images"]
    written.logits = np.array([[1.0, 2.0]], np.float32)
    with pytest.raises(RuntimeError, match="what was written gives other logits"):
        export._compare(written, expected, source)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--format", "onnx"], 2, "export: what shall be written? Name a run, a file or folder of weights"),
        (["net.ckpt"], 2, "export: which format? Say --format onnx, safetensors, hf, npz, c or plan, or an --output"),
        (["net.ckpt", "--output", "net.xyz"], 2, "or an --output that ends in .onnx, .safetensors, .npz, .c; got 'net.xyz'"),
        (["net.ckpt", "--format", "tflite"], 2, "invalid choice: 'tflite'"),
        (["nothing.pth", "--format", "onnx"], 3, "export: there is no file or folder nothing.pth"),
        (["resnet18", "--format", "onnx"], 3, "no file or folder resnet18; for fresh weights: --model resnet18"),
        (["--model", "resnet19", "--format", "onnx"], 2, "unknown model 'resnet19': did you mean"),
        (["--model", "resnet8", "--format", "onnx", "--classes", "0"], 2, "export: --classes must be at least 1, got 0"),
        (["--model", "resnet8", "--format", "onnx", "--input", "3,32"], 2, "export: --input must be C,H,W"),
        (["--model", "resnet8", "--format", "onnx", "--weights", "beside"], 2, "a C file has its weights; the format is onnx"),
        (["net.ckpt", "--model", "resnet20", "--format", "npz"], 3, "the weights are of another network: layers is (1, 1, 1)"),
        (["net.ckpt", "--model", "resnet8", "--input", "1,8,8", "--format", "onnx"], 2, "images of (1, 8, 8) do not fit the model"),
        (["net.ckpt", "--output", "no/net.onnx"], 2, "export: there is no folder no to write net.onnx into"),
        (["net.ckpt", "--output", ".", "--format", "onnx"], 2, "export: . is a folder; give another --output"),
        (["net.ckpt", "--output", "net.ckpt", "--format", "hf"], 2, "export: net.ckpt is a file; give another --output"),
        (["net.ckpt", "--model", "resnet8", "--format", "hf"], 2, "transformers has no CifarResNet; its ResNet is the ImageNet"),
        (["net.onnx", "--model", "resnet8", "--format", "c"], 2, "export: --model goes with weights; net.onnx is a whole"),
        (["net.onnx", "--input", "3,9,9", "--format", "c"], 2, "its input has the shape (batch, 3, 8, 8), got input_shape"),
        (["broken.pth", "--format", "onnx"], 3, "broken.pth"),
    ],
)  # fmt: skip
def test_export_refuses_with_one_message(
    args: list[str], code: int, message: str, weights: Any, here: Path, capsys: Any
) -> None:
    if "net.onnx" in args:
        package.export_onnx(weights, "net.onnx", (1, 3, 8, 8))
    (here / "broken.pth").write_bytes(b"PK\3\4 and then nothing")
    before = sorted(file.name for file in here.iterdir())
    assert run(*args) == code
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text
    assert sorted(file.name for file in here.iterdir()) == before


def test_export_refuses_options_that_contradict_a_run(minires: Run, trained: Path) -> None:
    for option, value, message in (
        ("--model", "resnet20", "best.safetensors is of resnet8, got --model resnet20"),
        ("--classes", "3", "best.safetensors has 10 classes, got --classes 3"),
    ):
        done = minires("export", RUN, "--format", "onnx", option, value, cwd=trained)
        assert done.returncode == 2
        assert message in done.stderr


def test_export_prints_what_was_written_and_what_comes_next(weights: Any, here: Path, capsys: Any) -> None:
    assert run("net.ckpt", "--model", "resnet8", "--format", "onnx", "--input", "3,8,8") == 0
    out, err = capsys.readouterr()
    assert out.startswith("resnet8, weights of net.ckpt -> ONNX\n  written     net.onnx (")
    assert "\nConv                   7   74,400\n" in out
    assert "\nnext:\n  python -c" in out
    assert "minires import net.onnx" in out
    assert err == ""
