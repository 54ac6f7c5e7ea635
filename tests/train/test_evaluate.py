"""Evaluation: against the model run by hand."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import nn
from minires.data import ArrayDataset
from minires.nn import functional as F
from minires.tensor import Tensor
from minires.train.evaluate import Evaluation, evaluate
from tests.tolerances import tolerance


def small() -> tuple[nn.Module, ArrayDataset]:
    """A net with batch norm whose running statistics are not those of any batch, and 23 images."""
    minires.manual_seed(0)
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3))
    model[1].running_mean.array[...] = 0.3
    model[1].running_var.array[...] = 2.0
    images = rng.integers(0, 256, (23, 1, 5, 5), dtype=np.uint8)
    return model, ArrayDataset(images, rng.integers(0, 3, 23), ["a", "b", "c"])


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
@pytest.mark.parametrize("training", [True, False])
def test_evaluate_is_the_model_in_evaluation_mode_on_every_image(batch_size: int, training: bool) -> None:
    model, data = small()
    model.eval()
    images = ((data.images / 255.0 - data.mean[0]) / data.std[0]).astype(np.float32)
    with minires.no_grad():
        logits = model(Tensor(images))
        loss = F.cross_entropy(logits, Tensor(data.labels)).item()
    model.train(training)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    seen: list[tuple[int, int]] = []
    result = evaluate(model, data, batch_size=batch_size, on_batch=lambda done, total: seen.append((done, total)))
    assert result.loss == pytest.approx(loss, rel=tolerance("float32", 23)["rtol"])
    right = logits.numpy().argmax(axis=1) == data.labels
    assert result.accuracy == right.mean()
    assert result.images == 23
    assert seen[-1] == (23, 23)
    assert len(seen) == -(-23 // batch_size)
    assert model.training == training
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name], err_msg=f"evaluation changed {name}")


def test_evaluate_with_mirrored_images_averages_the_logits_and_says_so() -> None:
    model, data = small()
    model.eval()
    images = ((data.images / 255.0 - data.mean[0]) / data.std[0]).astype(np.float32)
    with minires.no_grad():
        both = [model(Tensor(np.ascontiguousarray(each))).numpy() for each in (images, images[..., ::-1])]
        logits = (both[0] + both[1]) / 2
        loss = F.cross_entropy(Tensor(logits), Tensor(data.labels)).item()
    plain, mirrored = evaluate(model, data), evaluate(model, data, flip_tta=True)
    assert mirrored.loss == pytest.approx(loss, rel=tolerance("float32", 23)["rtol"])
    assert mirrored.loss != plain.loss
    assert mirrored.accuracy == (logits.argmax(axis=1) == data.labels).mean()
    assert (plain.how, mirrored.how) == ("", "mean over each image and its mirror")
    assert (plain.as_dict()["flip_tta"], mirrored.as_dict()["flip_tta"]) == (False, True)


def test_evaluate_leaves_the_mode_as_it_was_when_the_model_fails() -> None:
    _, data = small()
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(minires.MiniresError):
        evaluate(model, data)
    assert model.training


def test_evaluation_rows_name_who_is_taken_for_whom() -> None:
    matrix = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    rows = Evaluation(0.5, matrix, ["cat", "dog", "owl"]).class_rows()
    assert rows[0] == {"class": "cat", "accuracy": 0.8, "images": 10, "taken_for": "dog", "taken_for_times": 2}
    assert rows[1]["taken_for"] is None
    assert np.isnan(rows[2]["accuracy"])
    assert rows[2]["images"] == 0
