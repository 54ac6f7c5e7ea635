"""Several seeds: the figures of each, their mean and spread."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from minires.errors import ConfigError
from minires.train.config import build_config
from minires.train.metrics import Spread
from minires.train.repeat import parse_seeds, run_seeds
from minires.train.run_folder import read_metrics
from minires.train.session import run_training

pytestmark = pytest.mark.usefixtures("reference_kernels")


def test_spread_is_numpys_mean_and_sample_deviation() -> None:
    each = [0.91, 0.945, 0.938]
    spread = Spread(each)
    assert (spread.mean, spread.std) == (pytest.approx(np.mean(each)), pytest.approx(np.std(each, ddof=1)))
    assert str(spread) == "93.10 % +- 1.85 (91.00 to 94.50)"
    assert Spread([0.5]).std == 0.0


def test_seeds_are_read_and_refused() -> None:
    assert parse_seeds("0,1, 7") == [0, 1, 7]
    for text in ("", "0,x", "1,1", "-1"):
        with pytest.raises(ConfigError, match="--seeds must be different whole numbers, as 0,1,2, got"):
            parse_seeds(text)


def test_runs_with_seeds_are_the_single_runs_and_the_summary_is_theirs(tmp_path: Path) -> None:
    settings = {"limit": 120, "epochs": 1, "run_dir": str(tmp_path), "flip_tta": True}
    result = run_seeds(build_config(settings), [0, 3], io.StringIO())
    alone = run_training(build_config(settings, {"seed": 3}), io.StringIO())
    assert [run.path.name for run in result.runs] == ["digits-resnet8-seed0", "digits-resnet8-seed3"]
    rows = [read_metrics(path)[0] for path in (result.runs[1].path, alone.path)]
    assert rows[0]["train_loss"] == rows[1]["train_loss"]
    assert rows[0]["test_accuracy"] == rows[1]["test_accuracy"] == result.last().each[1]
    assert result.last().each[0] == read_metrics(result.runs[0].path)[0]["test_accuracy"]
    assert rows[0]["train_loss"] != read_metrics(result.runs[0].path)[0]["train_loss"]
    document = json.loads((tmp_path / "digits-resnet8-seeds.json").read_text())
    assert document["test_accuracy"]["mean"] == pytest.approx(np.mean(result.last().each))
    assert document["chosen_by_validation"]["each"] == [run["best"]["test_accuracy"] for run in document["runs"]]
    text = "\n".join(result.lines())
    assert "over 2 seeds, mean +- standard deviation (mean over each image and its mirror)" in text
    assert f"last epoch             {result.last()}" in text
    assert f"chosen by validation   {result.chosen()}" in text
