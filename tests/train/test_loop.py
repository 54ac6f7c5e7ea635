"""The loop's bookkeeping, and its parts: what counts as best, schedules, optimisers, settings that reach them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minires import nn, optim
from minires.errors import CheckpointError, ConfigError
from minires.io import archive
from minires.tensor import Tensor
from minires.train import session
from minires.train.checkpoint import Checkpoint, load_checkpoint, load_model, weights_not_finite
from minires.train.config import TrainConfig, build_config
from minires.train.loop import State
from minires.train.session import run_training
from minires.train.setup import build_optimizer, build_parts, build_schedule


def row(val_accuracy: float | None, val_loss: float | None, test_accuracy: float = 0.0) -> dict[str, Any]:
    return {"val_accuracy": val_accuracy, "val_loss": val_loss, "test_accuracy": test_accuracy}


def test_state_best_is_chosen_by_validation_accuracy_then_loss_never_by_test() -> None:
    state = State()
    rows = [row(0.5, 1.0, 0.9), row(0.6, 1.0, 0.1), row(0.6, 1.0, 0.99), row(0.6, 0.9, 0.2), row(0.55, 0.1, 1.0)]
    better = []
    for epoch, figures in enumerate(rows, 1):
        state.epoch = epoch
        better.append(state.note_validation(figures))
    assert better == [True, True, False, True, False]
    assert (state.best_epoch, state.best_val_accuracy, state.best_val_loss) == (4, 0.6, 0.9)
    assert not State().note_validation(row(None, None, 1.0))


def rates(**settings: Any) -> list[float]:
    """The learning rate of every step of a run of 4 epochs with 5 steps each."""
    config = TrainConfig(epochs=4, lr=0.8, **settings)
    parameter = nn.Parameter(Tensor(np.zeros(1, np.float32)))
    parameter.grad = Tensor(np.zeros(1, np.float32))
    optimizer = optim.SGD([parameter], lr=config.lr, momentum=config.momentum)
    schedule = build_schedule(config, optimizer, 5)
    result = []
    for _ in range(20):
        result.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[0]["momentum"] == config.momentum
        optimizer.step()
        schedule.step()
    return result


def test_schedules_have_their_shapes() -> None:
    assert rates(schedule="constant") == [0.8] * 20
    assert rates(schedule="step", step_epochs=2, gamma=0.5) == pytest.approx([0.8] * 10 + [0.4] * 10)
    steps = rates(schedule="multistep", milestones=[1, 3], gamma=0.1)
    assert steps == pytest.approx([0.8] * 5 + [0.08] * 10 + [0.008] * 5)
    assert rates(schedule="linear") == pytest.approx([0.8 * (1 - i / 20) for i in range(20)])
    assert rates(schedule="cosine") == pytest.approx([0.4 * (1 + math.cos(math.pi * i / 20)) for i in range(20)])
    cycle = rates(schedule="onecycle")
    assert max(cycle) == pytest.approx(0.8)
    assert cycle.index(max(cycle)) == 3  # a fifth of 20 steps rises
    assert cycle[-1] < 0.01


def test_schedules_warm_up_from_below_and_keep_their_milestones() -> None:
    warm = rates(schedule="multistep", milestones=[3], gamma=0.1, warmup_epochs=1.0)
    assert warm[:5] == pytest.approx([0.8 * (i + 1) / 6 for i in range(5)])
    assert warm[5:] == pytest.approx([0.8] * 10 + [0.08] * 5)
    cosine = rates(schedule="cosine", warmup_epochs=1.0)
    assert cosine[5:] == pytest.approx([0.4 * (1 + math.cos(math.pi * i / 15)) for i in range(15)])


@pytest.mark.parametrize(("name", "kind"), [("sgd", optim.SGD), ("adam", optim.Adam), ("adamw", optim.AdamW)])
def test_build_optimizer_gives_the_settings_on(name: str, kind: type) -> None:
    config = TrainConfig(optimizer=name, lr=0.3, momentum=0.7, weight_decay=0.01)
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(config, model)
    group = optimizer.param_groups[0]
    assert type(optimizer) is kind
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.01)
    assert (group["momentum"] if name == "sgd" else group["betas"][0]) == 0.7
    assert len(group["params"]) == 2


def test_build_parts_splits_limits_and_passes_options_on() -> None:
    parts = build_parts(build_config({"limit": 100, "val_fraction": 0.2, "model_options": ["shortcut=B", "width=4"]}))
    assert (len(parts.loader.dataset), len(parts.validation or ())) == (80, 20)
    assert len(parts.test) == 360
    assert next(iter(parts.model.parameters())).shape[0] == 4
    assert build_parts(build_config({"limit": 100, "val_fraction": 0.0})).validation is None
    with pytest.raises(ConfigError, match=r"limit = 1 and val_fraction = 0\.9 leave no image to train on"):
        build_parts(build_config({"limit": 1, "val_fraction": 0.9}))


@pytest.mark.parametrize(("count", "batches"), [(64, 2), (65, 2), (66, 3), (1, 1)])
def test_build_parts_leaves_out_a_last_batch_of_one_image(count: int, batches: int) -> None:
    parts = build_parts(build_config({"limit": count, "val_fraction": 0.0, "batch_size": 32}))
    assert len(parts.loader) == batches


def test_weights_not_finite_names_the_one_that_holds_a_bad_value() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    assert weights_not_finite(model) == ""
    for bad in (math.nan, math.inf):
        model[1].running_var.array[1] = bad
        assert weights_not_finite(model) == "1.running_var"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    config = build_config({"epochs": 1, "limit": 64, "run_dir": str(folder), "test_every": 0, "augment": ["mixup:0.4"]})
    with open(folder / "out.txt", "w") as stream:
        return run_training(config, stream).path / "last.ckpt"


def test_training_with_mixed_labels_counts_the_larger_part(checkpoint: Path) -> None:
    assert 0 <= load_checkpoint(checkpoint).progress["best_val_accuracy"] <= 1


def test_checkpoint_holds_what_predict_needs(checkpoint: Path) -> None:
    found = load_checkpoint(checkpoint)
    assert found.data["classes"] == [str(i) for i in range(10)]
    assert (found.data["channels"], found.data["height"], found.data["width"]) == (1, 8, 8)
    assert len(found.data["mean"]) == len(found.data["std"]) == 1
    assert found.versions["minires"]
    assert not load_model(found).training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.pop("optimizer"), "is incomplete: optimizer missing or of the wrong kind"),
        (lambda tree: tree.update(version=9), "has version 9; this minires reads version 1"),
        (lambda tree: tree.update(format="x"), "holds a dict, not a training run"),
        (
            lambda tree: tree["config"].update(epohcs=3),
            "its settings do not fit this minires: unknown setting 'epohcs'",
        ),
        (lambda tree: tree["model"].popitem(), "does not fit model resnet8"),
        (lambda tree: tree["data"].pop("classes"), "does not fit model resnet8"),
        (lambda tree: tree["config"].update(model="resnet20"), "does not fit model resnet20"),
    ],
)
def test_checkpoint_that_does_not_fit_is_a_checkpoint_error(
    checkpoint: Path, tmp_path: Path, change: Any, message: str
) -> None:
    tree = archive.load(checkpoint)
    change(tree)
    archive.save(tree, tmp_path / "a.ckpt")

    def use() -> Checkpoint:
        found = load_checkpoint(tmp_path / "a.ckpt")
        load_model(found)
        return found

    with pytest.raises(CheckpointError, match=message):
        use()


def test_checkpoint_of_bare_weights_says_how_to_use_them(tmp_path: Path) -> None:
    archive.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match=r"holds a state dict \(weights alone\), .*model\.load_state_dict"):
        load_checkpoint(tmp_path / "w.ckpt")


@pytest.mark.parametrize("there", [True, False])
def test_session_on_a_busy_machine_takes_one_thread_or_says_how(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(session, "busy_advice", lambda: "the advice")
    monkeypatch.setattr(session, "limit_threads", taken.append)
    monkeypatch.setattr(session.importlib.util, "find_spec", lambda name: object() if there else None)
    note = session._share_cores()
    assert taken == ([1] if there else [])
    assert note == (
        "machine busy: one thread for linear algebra (MINIRES_THREADS=N sets it)" if there else "the advice"
    )
    monkeypatch.setattr(session, "busy_advice", lambda: "")
    assert session._share_cores() == ""
    assert len(taken) <= 1
