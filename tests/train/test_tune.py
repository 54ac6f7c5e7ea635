"""Searches over settings: what may vary, that every trial counts once, and that a search goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from minires.errors import ConfigError, UnknownNameError
from minires.train.tune.space import Axis, parse_axis

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"data": "digits", "epochs": 2, "limit": 120, "workers": 0}


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("lr=log:0.01..1", Axis("lr", (), 0.01, 1.0, None, True)),
        ("label_smoothing=0..0.2", Axis("label_smoothing", (), 0.0, 0.2)),
        ("epochs=1..9:2", Axis("epochs", (), 1, 9, 2)),
        ("optimizer=sgd, adamw", Axis("optimizer", ("sgd", "adamw"))),
        ("batch_size=32,64", Axis("batch_size", (32, 64))),
        ("nesterov=true,false", Axis("nesterov", (True, False))),
        ("augment=|flip|pad_crop:4,flip", Axis("augment", ([], ["flip"], ["pad_crop:4", "flip"]))),
        ("milestones=3|3,6", Axis("milestones", ([3], [3, 6]))),
    ],
)
def test_axes_are_read_as_they_are_written(text, axis):
    assert parse_axis(text) == axis


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "KEY=VALUES"),
        ("lr=", "KEY=VALUES"),
        ("lr=0.1", "two different values"),
        ("lr=0.1,0.1", "two different values"),
        ("lr=0.1,,0.2", "a value is missing"),
        ("lr=1..0.1", "the first end must be the smaller"),
        ("lr=nan..1", "the first end must be the smaller"),
        ("lr=a..b", "must be numbers"),
        ("epochs=1.5..3", "must be whole numbers"),
        ("lr=log:0..1", "begins above 0"),
        ("lr=0..1:-0.5", "the step must be positive"),
        ("optimizer=sgd..adamw", "is no number"),
        ("seed=1,2", "not searched over"),
        ("epochs=1,two", "must be a whole number"),
    ],
)
def test_bad_axes_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_axis(text)


def test_an_unknown_setting_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="label_smoothing"):
        parse_axis("label_smothing=0..1")


def test_grids_count_both_ends():
    assert parse_axis("epochs=1..9:4").grid() == [1, 5, 9]
    assert parse_axis("epochs=1..3").grid() == [1, 2, 3]
    assert parse_axis("lr=0.1..0.3:0.1").grid() == pytest.approx([0.1, 0.2, 0.3])
    assert parse_axis("augment=flip|").grid() == [0, 1]
    with pytest.raises(ConfigError, match="a grid needs values or a step"):
        parse_axis("lr=log:0.1..1").grid()


optuna = pytest.importorskip("optuna", reason="searches are Optuna's work")

from minires.train.tune import Search, importances, open_study, run_search  # noqa: E402
from minires.train.tune.summary import best_trials  # noqa: E402

pytestmark = pytest.mark.usefixtures("reference_kernels")


def search(folder, *axes, **options):
    return Search(folder, [parse_axis(axis) for axis in axes], QUICK, **options)


def test_a_grid_runs_every_combination_once_and_ends(tmp_path):
    s = search(tmp_path, "lr=0.05,0.1", "augment=|translate:1", sampler="grid", pruner="none")
    study = open_study(s)
    told = []
    assert run_search(s, study, trials=10, tell=told.append)
    assert len(told) == 4
    assert {(t.params["lr"], t.params["augment"]) for t in told} == {(lr, a) for lr in (0.05, 0.1) for a in (0, 1)}
    assert len(open_study(s).trials) == 4
    for trial in told:
        run = Path(trial.user_attrs["run"])
        config = (run / "config.toml").read_text()
        assert f"lr = {trial.params['lr']}" in config
        assert ('augment = ["translate:1"]' in config) == bool(trial.params["augment"])


def test_values_are_best_validation_accuracies_and_the_test_set_waits(tmp_path):
    from minires.train.run_folder import read_metrics

    s = search(tmp_path, "lr=0.05,0.1", sampler="grid")
    study = open_study(s)
    run_search(s, study, trials=2)
    for trial in best_trials(study):
        rows = read_metrics(Path(trial.user_attrs["run"]))
        assert trial.value == max(row["val_accuracy"] for row in rows)
        assert rows[0]["test_accuracy"] is None
    values = [trial.value for trial in best_trials(study)]
    assert values == sorted(values, reverse=True)


def test_a_search_goes_on_where_it_was_with_other_proposals(tmp_path):
    s = search(tmp_path, "lr=log:0.01..1", sampler="random", pruner="none")
    run_search(s, open_study(s), trials=2)
    study = open_study(s)
    assert len(best_trials(study)) == 2
    run_search(s, study, trials=4)
    assert len({trial.params["lr"] for trial in best_trials(study)}) == 4


def test_a_search_over_other_settings_is_refused(tmp_path):
    open_study(search(tmp_path, "lr=0.1,0.2"))
    with pytest.raises(ConfigError, match="another --study"):
        open_study(search(tmp_path, "lr=0.1,0.3"))


def test_a_loss_that_is_not_finite_is_the_worst_result(tmp_path):
    s = search(tmp_path, "lr=0.05,1e30", sampler="grid", pruner="none")
    study = open_study(s)
    assert run_search(s, study, trials=2)
    best, worst = best_trials(study)
    assert best.params["lr"] == 0.05 and worst.value == 0.0
    assert "not finite" in worst.user_attrs


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_poor_trials_end_early(tmp_path, monkeypatch, pruner):
    """Trials whose accuracy is their learning rate: the poor ones must not reach the last epoch."""
    from minires.train.tune import search as module

    reached = []

    def fit(parts, folder, progress, guard):
        progress.start(9, 1)
        row = dict.fromkeys(("train_loss", "val_loss", "train_accuracy", "lr", "images_per_second", "seconds"), 1.0)
        for epoch in range(1, 10):
            progress.epoch_end({**row, "epoch": epoch, "val_accuracy": parts.config.lr, "test_accuracy": None}, False)
        reached.append(parts.config.lr)
        state = type("State", (), {"epoch": parts.config.epochs, "best_val_accuracy": parts.config.lr})()
        return state, None

    monkeypatch.setattr(module, "fit", fit)
    lrs = [0.9, 0.8, 0.85, 0.7, 0.75, 0.1, 0.11, 0.12, 0.95]
    s = search(tmp_path, "lr=" + ",".join(map(str, lrs)), sampler="grid", pruner=pruner)
    study = open_study(s)
    run_search(s, study, trials=len(lrs))
    states = {t.params["lr"]: t.state.name for t in study.trials if t.params}
    assert states[0.95] == "COMPLETE" and states[0.9] == "COMPLETE"
    assert [states[lr] for lr in (0.1, 0.11, 0.12)] == ["PRUNED"] * 3
    assert 0.95 in reached and 0.11 not in reached


def test_importance_finds_the_setting_that_decides(tmp_path):
    axes = [parse_axis("lr=0..1"), parse_axis("label_smoothing=0..0.5")]
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: axes[0].suggest(trial) + 0.01 * axes[1].suggest(trial), n_trials=60)
    found = importances(study, axes)
    assert sum(found.values()) == pytest.approx(1)
    assert found["lr"] > 0.9
    assert importances(optuna.create_study(), axes) == {}


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path):
    """SIGKILL in the middle of a trial: the journal stays whole, the trial counts as failed, the rest is run."""
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from minires.train.tune import Search, open_study, parse_axis, run_search
        s = Search(Path({str(tmp_path)!r}), [parse_axis("lr=log:0.01..1")], {dict(QUICK, epochs=40)!r}, "random", "none")
        run_search(s, open_study(s), 5)
        """
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MINIRES_KERNELS": "reference"}
    child = subprocess.Popen([sys.executable, "-c", script], env=env)
    until = time.monotonic() + 120
    while not (tmp_path / "trial-001" / "metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    s = search(tmp_path, "lr=log:0.01..1", sampler="random", pruner="none")
    study = open_study(s)
    states = [trial.state.name for trial in study.trials]
    assert states[0] == "COMPLETE" and states[-1] == "FAIL" and "RUNNING" not in states
    before = len(best_trials(study))
    assert run_search(s, study, trials=before + 1)
    assert len(best_trials(study)) == before + 1
