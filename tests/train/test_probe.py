"""The linear probe: its minimum against scikit-learn's and against the gradient, its features against the network."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import models, nn
from minires.data import ArrayDataset
from minires.data.array_dataset import normalize
from minires.tensor import Tensor
from minires.train import probe
from minires.train.probe import STRENGTHS, features_of, fit_probe, logistic_regression, minimize, put_into
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("reference_kernels")


def data(n: int, seed: int = 0) -> ArrayDataset:
    rng = np.random.default_rng(seed)
    return ArrayDataset(rng.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8), np.arange(n) % 3)


def test_minimize_finds_the_minimum_of_a_stretched_bowl() -> None:
    scale, center = np.logspace(0, 4, 20), np.linspace(-1, 1, 20)

    def bowl(x: np.ndarray) -> tuple[float, np.ndarray]:
        return float(0.5 * (scale * (x - center) ** 2).sum()), scale * (x - center)

    np.testing.assert_allclose(minimize(bowl, np.zeros(20)), center, atol=1e-6)


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_logistic_regression_is_scikit_learns(l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn judges the fit")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 120)
    x = rng.standard_normal((120, 7)) * np.logspace(-2, 2, 7) + labels[:, None] * np.logspace(-2, 2, 7) * 0.5 + 3
    weight, bias = logistic_regression(x, labels, 4, l2)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    judge = linear_model.LogisticRegression(C=1 / (l2 * 120), tol=1e-9, max_iter=5000).fit(standard, labels)
    logits = x @ weight.T.astype(np.float64) + bias
    # A constant added to all logits changes nothing.
    ours, theirs = (z - z.mean(axis=1, keepdims=True) for z in (logits, judge.decision_function(standard)))
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())


def test_logistic_regression_takes_a_feature_that_is_always_the_same() -> None:
    x = np.stack([np.full(30, 7.0), np.tile([-1.0, 1.0], 15)], axis=1)
    weight, bias = logistic_regression(x, np.tile([0, 1], 15), 2, 1e-3)
    assert np.isfinite(weight).all()
    assert ((x @ weight.T + bias).argmax(axis=1) == np.tile([0, 1], 15)).all()


@pytest.mark.parametrize("training", [True, False])
def test_features_are_what_fc_is_given(training: bool) -> None:
    model, images = models.resnet8(num_classes=3, in_channels=1), data(300)
    model.train(training)
    seen: list[np.ndarray] = []
    handle = model.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numpy().copy()))
    with minires.no_grad():
        model.eval()
        model(Tensor(normalize(images.images, images.mean, images.std)))
        model.train(training)
    handle.remove()
    before, fc = model.bn1.running_mean.numpy().copy(), model.fc
    features = features_of(model, images)
    assert features.shape == (300, 64)
    assert_close(features, seen[0], "float32", 576)
    assert model.fc is fc
    assert model.training == training
    np.testing.assert_array_equal(model.bn1.running_mean.numpy(), before)


def test_probe_puts_the_fit_into_the_network_and_validation_chooses_its_strength(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The features are planted: the class is in one of five, the rest is noise that only a strong l2 ignores."""
    rng = np.random.default_rng(0)

    def planted(model: nn.Module, dataset: ArrayDataset) -> np.ndarray:
        noise = rng.standard_normal((len(dataset), 64))
        noise[:, 0] += 2 * dataset.labels
        return noise.astype(np.float32)

    model = models.resnet8(num_classes=3, in_channels=1)
    monkeypatch.setattr(probe, "features_of", planted)
    found = fit_probe(model, data(60), data(600, 1))
    scores = {}
    for l2 in STRENGTHS:
        rng = np.random.default_rng(0)
        x, unseen = planted(model, data(60)), planted(model, data(600, 1))
        weight, bias = logistic_regression(x, data(60).labels, 3, l2)
        scores[l2] = float(((unseen @ weight.T + bias).argmax(axis=1) == data(600, 1).labels).mean())
    assert found.val_accuracy == max(scores.values()) == scores[found.l2]
    assert scores[found.l2] > scores[STRENGTHS[0]]
    assert fit_probe(model, data(60)).val_accuracy is None
    put_into(model, found)
    np.testing.assert_array_equal(model.fc.weight.array, found.weight)
    np.testing.assert_array_equal(model.fc.bias.array, found.bias)
