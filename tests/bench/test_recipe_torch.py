"""The recipe's twin in torch: the same training, by another engine."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from minires.errors import UnsupportedError
from minires.train.config import build_config
from minires.train.session import run_training
from tests.cli.conftest import environment
from tests.torch_oracle import torch

SMALL = {
    "data": "digits", "model": "resnet9", "model_options": ["width=8"], "limit": 210, "batch_size": 32, "val_fraction": 0.1,
}  # fmt: skip


@pytest.mark.usefixtures("reference_kernels")
@pytest.mark.parametrize(
    "settings",
    [
        {"recipe": "fashion-mnist-fast", "epochs": 3, "lr": 0.02},
        {"recipe": "fashion-mnist", "epochs": 2, "lr": 0.02, "clip_norm": 1.0},
    ],
)
def test_twin_trains_as_minires_does(settings: dict[str, object], tmp_path: Path) -> None:
    from minires.bench.recipe_torch import train

    config = build_config({**settings, **SMALL, "run_dir": str(tmp_path)})
    ours = run_training(config, io.StringIO())
    theirs = train(config, torch.contiguous_format)
    assert ours.test is not None
    for a, b in zip(ours.rows, theirs["rows"], strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=2e-3)
    assert theirs["test_accuracy"] == pytest.approx(ours.test.accuracy, abs=0.03)
    assert 0 < theirs["train_seconds"] <= theirs["seconds"]
    assert theirs["flip_tta"] == config.flip_tta


def test_a_setting_that_the_twin_does_not_know_is_refused() -> None:
    from minires.bench.recipe_torch import check_supported

    with pytest.raises(UnsupportedError, match="optimizer, accumulate"):
        check_supported(build_config({"optimizer": "adam", "accumulate": 2}))


def test_command_writes_its_figures(tmp_path: Path) -> None:
    words = [f"{k}={json.dumps(v) if not isinstance(v, str) else v}" for k, v in SMALL.items() if k != "model_options"]
    sets = [w for word in [*words, 'model_options=["width=4"]', "epochs=1", "recipe=digits"] for w in ("--set", word)]
    done = subprocess.run(
        [sys.executable, "-m", "minires.bench.recipe_torch", "--recipe", "digits", *sets, "--json", "out.json", "--threads", "1"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert f"test accuracy {100 * result['test_accuracy']:.2f} %" in done.stdout
    assert (result["threads"], result["recipe"], result["layout"]) == (1, "digits", "channels-last")
    assert len(result["rows"]) == 1
