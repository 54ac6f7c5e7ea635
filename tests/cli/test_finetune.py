"""`minires finetune` and `minires train --seeds`, as they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minires.cli.main import main

pytestmark = pytest.mark.usefixtures("reference_kernels")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--limit", "200", "--epochs", "1"]) == 0
    capsys.readouterr()
    return "runs/digits-resnet8"


def test_finetune_trains_on_by_its_recipe(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", run, "--per-class", "5", "--epochs", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == "runs/digits-resnet8-2"
    config = (Path(document["run"]) / "config.toml").read_text()
    assert 'recipe = "finetune"' in config
    assert f'weights = "{run}"' in config


def test_finetune_probe_fits_a_head_and_leaves_no_run(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", run, "--probe", "--limit", "300", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert 0.3 < document["test"]["accuracy"] <= 1
    assert document["val_accuracy"] is not None
    assert [path.name for path in Path("runs").iterdir()] == ["digits-resnet8"]
    assert main(["finetune", run, "--probe", "--limit", "300"]) == 0
    printed = capsys.readouterr().out
    assert f"test accuracy {100 * document['test']['accuracy']:.2f} % of a linear layer on the features" in printed


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (
            ["finetune", "runs/digits-resnet8", "--probe", "--seeds", "0,1"],
            2,
            "--probe trains nothing; leave out --seeds",
        ),
        (["finetune", "nowhere"], 3, "weights: there is no file or folder nowhere"),
        (["train", "--recipe", "finetune"], 2, "weights must be given where freeze = 'stem' (--weights FILE)"),
        (["train", "--seeds", "0,1", "--seed", "3"], 2, "leave out --resume and --seed"),
        (["train", "--seeds", "a"], 2, "--seeds must be different whole numbers"),
    ],
)
def test_finetune_and_seeds_errors(
    run: str, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, message: str
) -> None:
    assert main(argv) == code
    assert message in capsys.readouterr().err


def test_train_with_seeds_prints_mean_and_spread(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--limit", "100", "--epochs", "1", "--seeds", "0,1"]) == 0
    printed = capsys.readouterr().out
    assert "test accuracy over 2 seeds, mean +- standard deviation" in printed
    assert "minires compare runs/digits-resnet8-seed0 runs/digits-resnet8-seed1" in printed
    assert main(["train", "--limit", "100", "--epochs", "1", "--seeds", "0,1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["test_accuracy"]["each"]) == 2
