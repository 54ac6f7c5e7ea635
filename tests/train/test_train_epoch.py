"""What one pass does beside the plain step: pieces of a batch, the running mean, an end by steps or by patience."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minires import nn
from minires.errors import CheckpointError
from minires.tensor import Tensor
from minires.train import loop
from minires.train.checkpoint import load_checkpoint, load_model
from minires.train.config import TrainConfig, build_config
from minires.train.evaluate import Evaluation, evaluate
from minires.train.loop import State, piece_count, pieces, train_epoch
from minires.train.progress import Progress
from minires.train.session import TrainResult, resume_training, run_training
from minires.train.setup import Parts, build_optimizer, build_parts, build_schedule
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("reference_kernels")


class Wide(nn.Module):
    """A net without batch norm that computes in float64, and gives its logits in `dtype`."""

    def __init__(self, dtype: str = "float64") -> None:
        super().__init__()
        self.dtype = dtype
        self.conv = nn.Conv2d(1, 6, 3).double()
        self.fc = nn.Linear(6 * 36, 10).double()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.fc(self.conv(x.double()).relu().flatten(1))
        return logits if self.dtype == "float64" else logits.float()


def one_epoch(model: nn.Module, **settings: Any) -> tuple[State, dict[str, np.ndarray]]:
    """Train `model` for one epoch on 150 digits; gives the state and the weights."""
    config = build_config({"limit": 150, "val_fraction": 0.0, "batch_size": 64, "lr": 0.05}, settings)
    parts: Parts = build_parts(config)
    parts.model, parts.optimizer = model, build_optimizer(config, model)
    parts.schedule = build_schedule(config, parts.optimizer, len(parts.loader))
    state, progress = State(), Progress(io.StringIO())
    progress.start(1, 1)
    train_epoch(parts, state, progress, lambda: False, "last.ckpt")
    return state, {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        ("float64", {}),
        ("float64", {"clip_norm": 0.5, "label_smoothing": 0.2}),
        ("float32", {"augment": ["mixup:0.4"]}),  # rows of probabilities are float32
    ],
)
def test_accumulated_pieces_are_the_step_of_the_whole_batch(dtype: str, settings: dict[str, Any]) -> None:
    whole, split = Wide(dtype), Wide(dtype)
    split.load_state_dict(whole.state_dict())
    state, expected = one_epoch(whole, **settings)
    other, weights = one_epoch(split, accumulate=5, **settings)
    for name, value in expected.items():
        assert_close(weights[name], value, dtype, 64, name)
    assert (other.images, other.batch, other.correct) == (state.images, state.batch, state.correct)
    assert (state.images, state.batch) == (150, 3)
    assert_close(np.array(other.loss_sum), np.array(state.loss_sum), dtype, 150)


def test_accumulated_pieces_of_batch_norm_see_a_piece_at_a_time() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1, momentum=1.0), nn.Flatten(), nn.Linear(64, 10))
    one_epoch(model, accumulate=4)
    assert model[0].num_batches_tracked.item() == 12


@pytest.mark.parametrize(("n", "count", "sizes"), [(10, 3, [3, 3, 4]), (9, 1, [9]), (5, 4, [2, 3]), (1, 4, [1])])
def test_pieces_cover_the_batch_and_none_has_one_image(n: int, count: int, sizes: list[int]) -> None:
    images, labels = Tensor(np.arange(n, dtype=np.float32)[:, None]), Tensor(np.arange(n))
    found = list(pieces(images, labels, piece_count(count, n), n))
    assert [len(x) for x, _, _ in found] == sizes
    assert sum(share for _, _, share in found) == pytest.approx(1)
    np.testing.assert_array_equal(np.concatenate([x.numpy()[:, 0] for x, _, _ in found]), np.arange(n))
    np.testing.assert_array_equal(np.concatenate([y.numpy() for _, y, _ in found]), np.arange(n))


def run(folder: Path, **settings: Any) -> TrainResult:
    config = build_config({"limit": 150, "epochs": 3, "run_dir": str(folder), "augment": []}, settings)
    return run_training(config, io.StringIO())


def test_average_is_what_is_judged_and_kept(tmp_path: Path) -> None:
    result = run(tmp_path, ema_decay=0.9, val_fraction=0.3)
    last, best = load_checkpoint(result.path / "last.ckpt"), load_checkpoint(result.path)
    assert last.stateful["ema"]["steps"] == 3 * 2  # 105 images, batches of 64
    average = {name: tensor.numpy() for name, tensor in last.stateful["ema"]["average"].items()}
    model = load_model(last)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), average[name])
    assert any((last.model[name].numpy() != array).any() for name, array in average.items())
    parts = build_parts(result.config)
    row = result.rows[-1]
    assert evaluate(model, parts.test).accuracy == row["test_accuracy"]
    seen = evaluate(load_model(best), parts.validation)
    assert (seen.accuracy, seen.loss) == (result.state.best_val_accuracy, result.state.best_val_loss)


def test_run_ends_after_its_steps_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    result = run(tmp_path, max_steps=5, ema_decay=0.9, val_fraction=0.0)
    assert len(build_parts(result.config).loader) == 3
    assert load_checkpoint(result.path / "last.ckpt").stateful["ema"]["steps"] == 5
    assert result.test is not None
    assert result.state.epoch == 2
    with pytest.raises(CheckpointError, match="has finished its 2 epochs"):
        resume_training(result.path, io.StringIO())


def test_state_ends_by_epochs_or_by_patience() -> None:
    config = TrainConfig(epochs=9, patience=2)
    assert not State(epoch=3, best_epoch=2).ended(config)
    assert State(epoch=4, best_epoch=2).ended(config)
    assert not State(epoch=4).ended(config), "nothing was measured yet"
    assert State(epoch=9, best_epoch=9).ended(config)
    assert not State(epoch=8, best_epoch=1).ended(TrainConfig(epochs=9))


def test_patience_ends_the_run_by_validation_alone_and_the_test_set_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is best in the second epoch; on the test images nine of ten are right all the time."""
    right = iter([5, 7, 6, 7, 8])
    looked: list[int] = []

    def judged(model: nn.Module, dataset: Any, **options: Any) -> Evaluation:
        looked.append(len(dataset))
        n = next(right) if len(dataset) == 45 else 9
        matrix = np.zeros((10, 10), np.int64)
        matrix[0, :2] = n, 10 - n
        return Evaluation(1.0, matrix, dataset.classes)

    monkeypatch.setattr(loop, "evaluate", judged)
    result = run(tmp_path, epochs=9, patience=2, val_fraction=0.3, test_every=0)
    assert (result.state.epoch, result.state.best_epoch) == (4, 2)
    assert looked == [45, 45, 45, 45, 360]
    document = result.as_dict()
    assert document["stopped_early"]
    assert not document["interrupted"]
    assert document["test_accuracy"] == 0.9


def test_mirrored_judging_is_declared_in_result_log_and_report(tmp_path: Path) -> None:
    result = run(tmp_path, epochs=1, flip_tta=True)
    assert result.as_dict()["test"]["flip_tta"] is True
    assert "mean over each image and its mirror" in (result.path / "log.txt").read_text()
    parts = build_parts(result.config)
    model = load_model(load_checkpoint(result.path / "last.ckpt"))
    mirrored, plain = evaluate(model, parts.test, flip_tta=True), evaluate(model, parts.test)
    assert result.rows[-1]["test_loss"] == mirrored.loss != plain.loss
