"""minires import: what a file is said to be, and the clean file that is made of it."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires as package
from minires import models
from minires.cli.main import main
from minires.io.safetensors import SafetensorsFile, load_file, save_file
from minires.io.weights_report import describe_value
from tests.cli.conftest import Run
from tests.infer.nets import eager, images, randomize, small

RUN = "runs/digits-resnet8"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; kernels that need no compiling."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIRES_KERNELS", "reference")
    return tmp_path


def run(*args: str) -> int:
    try:
        return main(["import", *args])
    except SystemExit as error:
        return int(error.code or 0)


def document(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert run(*args, "--json") == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def judge() -> Any:
    """A small network in torch; skips the test without torch."""
    from tests.io.checkpoints import twin

    return twin([1, 1, 1, 1], [16, 24, 32, 40], stem_width=16)


def training_dictionary(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "epoch": 90,
        "arch": "resnet10",
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "optimizer": {"state": {}, "param_groups": []},
        "args": argparse.Namespace(lr=0.1),
    }


def test_import_tells_what_a_training_script_has_saved(here: Path, capsys: Any) -> None:
    from tests.torch_oracle import torch

    net = judge()
    torch.save(training_dictionary(net.state_dict()), "best.pth.tar")
    said = document(capsys, "best.pth.tar")
    assert said["format"] == "torch.save, zip form"
    assert said["bytes"] == (here / "best.pth.tar").stat().st_size
    assert (said["weights_under"], said["prefix"], said["names"]) == (["state_dict"], "module.", "torchvision")
    assert said["left_out"] == {
        "epoch": "90",
        "arch": "'resnet10'",
        "optimizer": "dict of 2",
        "args": "an object, argparse.Namespace",
    }
    assert said["guessed"]
    assert said["network"].startswith("basic blocks 1 1 1 1, stem 7x7; 3 channels, 7 classes")
    assert said["tensors"] == len(net.state_dict())
    assert said["parameters"] == sum(p.numel() for p in net.parameters())
    assert said["numbers"] == sum(v.numel() for v in net.state_dict().values())
    assert said["dtypes"] == {"float32": 62, "int64": 12}
    assert sorted(file.name for file in here.iterdir()) == ["best.pth.tar"]  # it only tells


def test_import_writes_what_torch_loads_strictly(here: Path, capsys: Any) -> None:
    load_with_torch = pytest.importorskip(
        "safetensors.torch", reason="safetensors, the judge, is not installed"
    ).load_file
    from tests.io.checkpoints import huggingface_name, named, twin
    from tests.torch_oracle import torch

    net = judge()
    torch.save({"model_ema": named(net, huggingface_name, "_orig_mod.")}, "theirs.pt")
    said = document(capsys, "theirs.pt", "--output", "clean.safetensors")
    assert said["names"] == "huggingface"
    assert said["verified"] == "read back: every tensor, and the logits of 2 random images, equal bit for bit"
    other = twin([1, 1, 1, 1], [16, 24, 32, 40], seed=1, stem_width=16)
    other.load_state_dict(load_with_torch("clean.safetensors"), strict=True)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(other(x), net(x))
    with SafetensorsFile("clean.safetensors") as file:
        assert file.metadata == {"format": "pt"}  # nothing but its shapes says what it is


def test_import_keeps_the_files_dtype(here: Path, capsys: Any) -> None:
    from tests.torch_oracle import torch

    state = {k: v.half() if v.is_floating_point() else v for k, v in judge().state_dict().items()}
    torch.save(state, "half.pth", _use_new_zipfile_serialization=False)
    said = document(capsys, "half.pth", "--output", "half.safetensors")
    assert said["format"] == "torch.save, legacy form"
    assert said["dtypes"] == {"float16": 62, "int64": 12}
    written = load_file("half.safetensors")
    for name, value in state.items():
        assert written[name].dtype == value.numpy().dtype
        np.testing.assert_array_equal(written[name], value.numpy())


def test_import_tells_of_bfloat16(here: Path, capsys: Any) -> None:
    save_with_torch = pytest.importorskip(
        "safetensors.torch", reason="safetensors, the judge, is not installed"
    ).save_file
    from tests.torch_oracle import torch

    state = {k: v.bfloat16() if v.is_floating_point() else v for k, v in judge().state_dict().items()}
    save_with_torch(state, "b.safetensors")
    said = document(capsys, "b.safetensors", "--output", "clean.safetensors")
    assert said["dtypes"] == {"I64": 12, "BF16": 62}
    assert "NumPy has no such dtype: the tensors are float32 here, exactly" in said["notes"]
    name = "layer1.0.conv1.weight"
    np.testing.assert_array_equal(load_file("clean.safetensors")[name], state[name].to(torch.float32).numpy())


@pytest.mark.parametrize("kind", ["timm", "huggingface"])
def test_import_of_a_folder_hands_its_networks_name_on(kind: str, here: Path, capsys: Any) -> None:
    from tests.io.checkpoints import folder, huggingface_name, named, twin

    net = twin([1, 1, 1, 1])
    names = list("abcdefg")
    if kind == "timm":
        cfg = {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.25] * 3}
        config = {"architecture": "resnet10", "label_names": names, "pretrained_cfg": cfg}
        folder(here / "net", net.state_dict(), config)
    else:
        config = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "layer_type": "basic"}
        config |= {"depths": [1, 1, 1, 1], "hidden_sizes": [64, 128, 256, 512], "id2label": dict(enumerate(names))}
        folder(here / "net", named(net, huggingface_name), config)
    said = document(capsys, "net", "--output", "clean.safetensors")
    assert not said["guessed"]
    assert said["names"] == ("torchvision" if kind == "timm" else kind)
    assert said["network"].startswith("resnet10: " if kind == "timm" else "ResNetForImageClassification: ")
    with SafetensorsFile("clean.safetensors") as file:
        # timm has a resnet10, our registry none: of Hugging Face's there is no name to give.
        assert file.metadata.get("architecture") == ("resnet10" if kind == "timm" else None)
    if kind == "timm":
        assert "what lies beside the weights about images and classes is not in the file" in said["notes"][-1]
        assert run("net") == 0
        out = capsys.readouterr().out
        assert "  images    shorter side to 109 (bicubic), centre 96x96, RGB, mean 0.5" in out
        assert "  classes   7: a, b, c, d, e, f, ...\n" in out


def test_import_names_a_known_structure_of_huggingface(here: Path, capsys: Any) -> None:
    """Basic blocks 2 2 2 2 of the usual widths with 1x1 shortcuts are resnet18, if their configuration says all that."""
    from minires.io.huggingface import save_huggingface

    save_huggingface(randomize(models.resnet18(num_classes=3)), here / "net")
    document(capsys, "net", "--output", "clean.safetensors")
    with SafetensorsFile("clean.safetensors") as file:
        assert file.metadata == {"format": "pt", "architecture": "resnet18"}


def test_import_tells_of_a_stride_that_weights_do_not_show(here: Path, capsys: Any) -> None:
    from minires.io.huggingface import save_huggingface

    save_huggingface(small("resnet50", stride_on_1x1=True), here / "net")
    said = document(capsys, "net", "--output", "clean.safetensors")
    assert any("load with stride_on_1x1=True" in note for note in said["notes"])
    with SafetensorsFile("clean.safetensors") as file:
        assert file.metadata == {"format": "pt"}


def test_import_of_split_weights(here: Path, capsys: Any) -> None:
    net = randomize(models.build("resnet8", num_classes=4))
    state = {name: value.array for name, value in net.state_dict().items()}
    parts = {"a.safetensors": list(state)[:10], "b.safetensors": list(state)[10:]}
    for file, names in parts.items():
        save_file({name: state[name] for name in names}, here / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (here / "model.safetensors.index.json").write_text(json.dumps(index))
    said = document(capsys, ".")
    assert said["format"] == "safetensors, in 2 files"
    assert said["bytes"] == sum((here / file).stat().st_size for file in parts)
    assert sum(said["dtypes"].values()) == len(state)


def test_import_names_the_likely_network_for_the_next_command(here: Path, capsys: Any) -> None:
    np.savez("net.npz", **{k: v.array for k, v in models.resnet20(num_classes=4).state_dict().items()})
    assert run("net.npz") == 0
    out, err = capsys.readouterr()
    assert out.startswith("net.npz\n  format    npz, ")
    assert "(guessed from names and shapes: those of resnet20)" in out
    assert "minires import net.npz --model resnet20 --output net.clean.safetensors" in out
    assert "minires export net.npz --model resnet20 --format onnx" in out
    assert "give --model NAME to be sure" in err
    assert run("net.npz", "--model", "resnet20", "--output", "net.clean.safetensors") == 0
    with SafetensorsFile("net.clean.safetensors") as file:
        assert file.metadata == {"format": "pt", "architecture": "resnet20"}


def test_import_of_weights_of_no_network_here(here: Path, capsys: Any) -> None:
    save_file({"b": np.float32([1, np.nan]), "a": np.int64(3)}, "other.safetensors")
    said = document(capsys, "other.safetensors", "--output", "clean.safetensors")
    assert said["network"] is None
    assert said["notes"][0].startswith("not a network that minires can build: ")
    assert "there is no layer1.0.conv1.weight" in said["notes"][0]
    assert "other.safetensors" not in said["notes"][0]
    assert said["verified"] == "read back: every tensor equal bit for bit"
    assert load_file("clean.safetensors").keys() == {"a", "b"}


def test_import_tells_which_of_several_sets_it_took(here: Path, capsys: Any) -> None:
    net = models.build("resnet8", num_classes=4)
    package.save({"state_dict": net.state_dict(), "state_dict_ema": net.state_dict(), "step": 3}, "both.ckpt")
    said = document(capsys, "both.ckpt")
    assert said["weights_under"] == ["state_dict_ema"]
    assert said["notes"][0] == "the file has several sets of weights: took state_dict_ema, not state_dict"
    assert sum("took" in note for note in said["notes"]) == 1
    assert said["left_out"] == {"state_dict": f"dict of {len(net.state_dict())}", "step": "3"}


def test_import_of_a_run(minires: Run, trained: Path, tmp_path: Path) -> None:
    for source, kind in ((RUN, "safetensors"), (f"{RUN}/last.ckpt", "minires' archive")):
        output = tmp_path / f"{Path(source).stem}.safetensors"
        done = minires("import", source, "--output", str(output), cwd=trained)
        assert done.returncode == 0, done.stderr
        assert f"  format    {kind}, " in done.stdout
        assert "  network   resnet8: basic blocks 1 1 1" in done.stdout
        assert "  classes   10: 0, 1, 2, 3, 4, 5, ...\n" in done.stdout
        with SafetensorsFile(output) as file:
            assert file.metadata == {"format": "pt", "architecture": "resnet8"}


def test_import_of_an_onnx_file_makes_a_plan(here: Path, capsys: Any) -> None:
    net = randomize(models.build("resnet8", num_classes=4)).eval()
    package.export_onnx(net, "net.onnx", (1, 3, 16, 16))
    said = document(capsys, "net.onnx", "--output", "net.safetensors")
    assert (said["format"], said["input"], said["output"]) == ("onnx", [3, 16, 16], [4])
    assert said["steps"]["conv2d"] == 7
    assert said["macs"] == package.compile(net, (1, 3, 16, 16), kernels="reference").macs
    x = images(2, 3, 16, 16, dtype="float32")
    plan = package.load_plan("net.safetensors", kernels="reference")
    np.testing.assert_array_equal(plan(x), package.load_onnx("net.onnx", kernels="reference")(x))
    assert np.abs(plan(x) - eager(net, x)).max() < 1e-3
    assert run("net.onnx") == 0
    out = capsys.readouterr().out
    assert "ONNX opset 17, written by minires, " in out
    assert "  nodes     7 Conv, 7 Relu, 3 Add, " in out
    assert "minires import net.onnx --output net.plan.safetensors" in out
    assert run("net.safetensors") == 0
    assert "  format    a plan of minires, " in capsys.readouterr().out


def test_import_overwrites_nothing_unasked(here: Path, capsys: Any) -> None:
    package.save(models.build("resnet8").state_dict(), "net.ckpt")
    (here / "out.safetensors").write_text("mine")
    assert run("net.ckpt", "--output", "out.safetensors") == 2
    assert "import: out.safetensors exists already; --force replaces it" in capsys.readouterr().err
    assert (here / "out.safetensors").read_text() == "mine"
    assert run("net.ckpt", "--output", "out.safetensors", "--force") == 0
    assert load_file("out.safetensors")
    shutil.copy("out.safetensors", "in.safetensors")
    assert run("in.safetensors", "--output", "in.safetensors", "--force") == 2
    assert "import: --output in.safetensors is the file that is read" in capsys.readouterr().err
    assert sorted(file.name for file in here.iterdir()) == ["in.safetensors", "net.ckpt", "out.safetensors"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "the following arguments are required: FILE"),
        (["nothing"], 3, "import: there is no file or folder nothing"),
        (["net.ckpt", "--output", "no/x.safetensors"], 2, "there is no folder no to write x.safetensors into"),
        (["net.ckpt", "--output", "."], 2, "import: --output . is a folder; name a file in it"),
        (["net.ckpt", "--output", "x.pth"], 2, "--output must end in .safetensors, got x.pth; other formats: minires export"),
        (["net.ckpt", "--input", "3,8,8"], 2, "import: --input goes with ONNX files; net.ckpt holds weights"),
        (["net.ckpt", "--model", "resnet19"], 2, "unknown model 'resnet19'"),
        (["net.ckpt", "--model", "resnet20"], 3, "the weights are of another network: layers is (1, 1, 1), expected (3, 3, 3)"),
        (["net.onnx", "--model", "resnet8"], 2, "import: --model goes with weights; net.onnx is a whole network already"),
        (["net.onnx", "--input", "3,9"], 2, "import: --input must be C,H,W"),
        (["cut.onnx"], 3, "cut.onnx"),
        (["pickle.pth"], 3, "a pickle, but not of torch.save"),
        (["empty"], 3, "no weights in this folder"),
    ],
)  # fmt: skip
def test_import_refuses_with_one_message(args: list[str], code: int, message: str, here: Path, capsys: Any) -> None:
    net = models.build("resnet8")
    package.save(net.state_dict(), "net.ckpt")
    package.export_onnx(net, "net.onnx", (1, 3, 8, 8))
    (here / "cut.onnx").write_bytes((here / "net.onnx").read_bytes()[:1000])
    (here / "pickle.pth").write_bytes(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.")
    (here / "empty").mkdir()
    assert run(*args) == code
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text


def test_describe_value_is_short() -> None:
    shown = [1.5, None, True, "x" * 100, {"a": 1}, [1, 2], np.zeros((2, 3)), np.float32(1), object()]
    assert [describe_value(value) for value in shown] == [
        "1.5",
        "None",
        "True",
        repr("x" * 37 + "..."),
        "dict of 1",
        "list of 2",
        "tensor 2x3",
        "tensor of one number",
        "object",
    ]
