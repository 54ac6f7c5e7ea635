"""`minires summary`: the table, the document, and the ways to name a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import minires
from minires import models
from minires.cli.main import main
from minires.io.safetensors import save_file

pytestmark = pytest.mark.usefixtures("reference_kernels")

SMALL = ["summary", "--model", "resnet8", "--input", "1,8,8", "--batch", "4"]


def document(capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    assert main([*SMALL, "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_summary_tells_memory_by_layer_and_at_the_peak(capsys: pytest.CaptureFixture[str]) -> None:
    told = document(capsys)
    layers = {layer["name"]: layer for layer in told["layers"]}
    plane = 4 * 4 * 8 * 8  # bytes of one channel of the batch
    assert layers["conv1"]["saved"] == plane
    assert layers["bn1"]["saved"] == 2 * 16 * plane + 2 * 16 * 8  # input, output, float64 statistics
    assert layers["bn1"]["kind"] == "BatchNorm2d + ReLU"
    assert layers["layer1.0.bn2"]["kind"] == "BatchNorm2d + add + ReLU"
    assert layers["conv1"]["output_shape"] == [4, 16, 8, 8]
    assert layers["conv1"]["macs"] == 16 * 9 * 64  # of one image
    memory = told["memory"]
    assert memory["batch"] == told["batch"] == 4
    parts = ("baseline", "weights", "gradients", "optimizer_state", "input", "saved", "workspace")
    assert memory["total"] == sum(memory[part] for part in parts)
    assert memory["saved"] == pytest.approx(sum(layer["saved"] for layer in told["layers"]) - plane, rel=0.01)


def test_summary_memory_grows_with_the_batch_and_the_optimiser(capsys: pytest.CaptureFixture[str]) -> None:
    few, many = document(capsys), document(capsys, "--batch", "400")
    assert many["layers"][0]["saved"] == 100 * few["layers"][0]["saved"]  # the images
    assert many["memory"]["saved"] > 90 * few["memory"]["saved"]  # statistics of batch norms do not grow
    adam = document(capsys, "--optimizer", "adam")
    assert adam["memory"]["optimizer_state"] == 2 * few["memory"]["optimizer_state"] > 0


def test_summary_without_memory_runs_no_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minires.train.forecast.rehearse_step", None)
    told = document(capsys, "--no-memory")
    assert "memory" not in told and "saved" not in told["layers"][0]
    assert told["macs"] == sum(layer["macs"] for layer in told["layers"])
    assert main([*SMALL, "--no-memory"]) == 0
    assert "saved" not in capsys.readouterr().out


def test_summary_with_times(capsys: pytest.CaptureFixture[str]) -> None:
    told = document(capsys, "--time")
    assert all(layer["forward_seconds"] > 0 for layer in told["layers"])
    assert all(layer["backward_seconds"] > 0 for layer in told["layers"] if layer["parameters"])
    assert main([*SMALL, "--time"]) == 0
    assert "fwd ms  bwd ms" in capsys.readouterr().out


def test_summary_table_fits_120_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--model", "resnet50", "--input", "3,64,64", "--batch", "2", "--time"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    assert "layer4.0.downsample.1" in text
    assert "training takes about" in text and "at its peak (" in text


def test_summary_of_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = models.build("resnet18", num_classes=7, in_channels=3, image_size=224)
    save_file({name: np.asarray(t.array) for name, t in model.state_dict().items()}, tmp_path / "net.safetensors")
    words = ["summary", "--weights", str(tmp_path / "net.safetensors"), "--model", "resnet18", "--input", "3,32,32"]
    assert main([*words, "--batch", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["classes"], told["input"]) == (7, [3, 32, 32])
    assert told["parameters"] == sum(p.array.size for p in model.parameters())
    assert main([*words, "--no-memory"]) == 0
    assert "minires train" not in capsys.readouterr().out


def test_summary_of_a_plan_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = minires.compile(models.build("resnet8", num_classes=10, in_channels=1, image_size=8).eval(), (1, 1, 8, 8))
    plan.save(tmp_path / "plan.safetensors")
    assert main(["summary", "--weights", str(tmp_path / "plan.safetensors")]) == 2
    assert "has steps and no layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "summary: --batch must be at least 1, got 0"),
        (["--time", "--no-memory"], "--time runs training steps, which --no-memory leaves out"),
        (["--optimizer", "lion"], "optimizer must be one of sgd, adam, adamw, got 'lion'"),
    ],
)
def test_summary_refuses(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main([*SMALL, *words]) == 2
    assert message in capsys.readouterr().err
