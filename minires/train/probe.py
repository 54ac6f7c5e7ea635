"""A linear probe: the features of every image are computed once, through a compiled plan, and a linear layer is fitted.

What a network has learned shows in how well its features, what fc is given, separate classes it has never seen. The fit
is logistic regression: convex, so there is one answer, and neither a learning rate nor luck in it.

    loss(W, b) = mean_n cross_entropy(W f_n + b, y_n) + l2 / 2 |W|^2

over features shifted and scaled to mean 0 and deviation 1, which is undone in the W and b given back.

Source: Alain & Bengio 2016 (arXiv 1610.01644); the minimiser: Nocedal & Wright, Numerical Optimization, algorithms 7.4
and 7.5 (L-BFGS).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.data import ArrayDataset
from minires.data.array_dataset import normalize
from minires.nn import Identity, Module

__all__ = ["Probe", "features_of", "fit_probe", "logistic_regression", "minimize", "put_into"]

BATCH = 256
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of l2; validation chooses
WITHOUT_VALIDATION = 1e-2
Array = np.ndarray


@dataclass(frozen=True)
class Probe:
    """A fitted linear layer, to stand in the place of fc.

    weight: (K, F).    bias: (K,).    l2: the strength that was taken.    val_accuracy: None without validation images.
    """

    weight: Array
    bias: Array
    l2: float
    val_accuracy: float | None


def features_of(model: Module, dataset: ArrayDataset) -> Array:
    """What fc is given for every image: (N, F) float32, in evaluation mode, without augmentation.

    Args:
        model: a network whose last layer is `fc`; it is left as it was.
        dataset: images of its size.
    """
    from minires.infer import compile  # here: training that needs no probe loads no compiler

    was_training, head = model.training, model.fc
    try:
        model.fc = Identity()
        plan = compile(model.eval(), (BATCH, *dataset.image_shape))
    finally:
        model.fc = head
        model.train(was_training)
    pieces = [
        plan(normalize(dataset.images[start : start + BATCH], dataset.mean, dataset.std))
        for start in range(0, len(dataset), BATCH)
    ]
    return np.concatenate(pieces).reshape(len(dataset), -1)


def fit_probe(model: Module, train: ArrayDataset, validation: ArrayDataset | None = None) -> Probe:
    """Fit a linear layer on the features of `train`. Where there are validation images they choose l2, else it is .01.

    Args:
        model: a network whose last layer is `fc`.
        train, validation: images of its size, with the same classes.
    """
    features, classes = features_of(model, train), train.num_classes
    if validation is None:
        return Probe(
            *logistic_regression(features, train.labels, classes, WITHOUT_VALIDATION), WITHOUT_VALIDATION, None
        )
    unseen = features_of(model, validation)
    best: tuple[tuple[float, float], Probe] | None = None
    for l2 in STRENGTHS:
        weight, bias = logistic_regression(features, train.labels, classes, l2)
        logs = _log_softmax(unseen.astype(np.float64) @ weight.T + bias)
        accuracy = float((logs.argmax(axis=1) == validation.labels).mean())
        # The more accurate one, then the one with the smaller loss.
        rank = (accuracy, float(logs[np.arange(len(unseen)), validation.labels].mean()))
        if best is None or rank > best[0]:
            best = (rank, Probe(weight, bias, l2, accuracy))
    assert best is not None
    return best[1]


def logistic_regression(features: Array, labels: Array, classes: int, l2: float) -> tuple[Array, Array]:
    """The W (K, F) and b (K,), float32, with the smallest loss; see the top of this file.

    Args:
        features: (N, F).    labels: (N,) integers.    classes: K.    l2: at least 0.
    """
    x = features.astype(np.float64)
    mean, std = x.mean(axis=0), x.std(axis=0)
    std[std < 1e-8] = 1.0  # a feature that is always the same tells nothing, and must not be blown up
    x = (x - mean) / std
    n, f = x.shape
    wanted = np.eye(classes)[labels]

    def loss_and_gradient(flat: Array) -> tuple[float, Array]:
        weight, bias = flat[: classes * f].reshape(classes, f), flat[classes * f :]
        logs = _log_softmax(x @ weight.T + bias)
        loss = -(wanted * logs).sum() / n + 0.5 * l2 * (weight * weight).sum()
        error = (np.exp(logs) - wanted) / n
        return float(loss), np.concatenate([(error.T @ x + l2 * weight).reshape(-1), error.sum(axis=0)])

    flat = minimize(loss_and_gradient, np.zeros(classes * (f + 1)))
    weight = flat[: classes * f].reshape(classes, f) / std
    bias = flat[classes * f :] - weight @ mean
    return weight.astype(np.float32), bias.astype(np.float32)


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def minimize(
    function: Callable[[Array], tuple[float, Array]], start: Array, *, memory: int = 10, tolerance: float = 1e-7,
    steps: int = 5000,
) -> Array:  # fmt: skip
    """The minimum of a convex function by L-BFGS with halved steps.

    The last `memory` pairs s = x' - x, y = g' - g say how the gradient changes along the way; two loops over them
    multiply the gradient by an estimate of the inverse second derivative, without ever writing that matrix.

    Args:
        function: x -> (value, gradient).
        start: (D,) float64.
        tolerance: of the largest component of the gradient.
        steps: at most.
    """
    x, (value, gradient) = start, function(start)
    pairs: list[tuple[Array, Array, float]] = []
    for _ in range(steps):
        if np.abs(gradient).max() <= tolerance:
            break
        direction = -_times_inverse(pairs, gradient)
        slope = float(gradient @ direction)
        step = 1.0 if pairs else min(1.0, 1.0 / float(np.abs(gradient).sum()))
        while True:
            moved = x + step * direction
            new_value, new_gradient = function(moved)
            if new_value <= value + 1e-4 * step * slope:  # Armijo: at least a part of what the slope promises
                break
            step /= 2
            if step < 1e-12:  # rounding: no lower value can be seen from here
                return x
        s, y = moved - x, new_gradient - gradient
        if s @ y > 1e-12 * float(y @ y):
            pairs = [*pairs[-memory + 1 :], (s, y, 1.0 / float(s @ y))]
        x, value, gradient = moved, new_value, new_gradient
    return x


def _times_inverse(pairs: list[tuple[Array, Array, float]], gradient: Array) -> Array:
    q, parts = gradient.copy(), []
    for s, y, rho in reversed(pairs):
        part = rho * float(s @ q)
        parts.append(part)
        q -= part * y
    if pairs:
        s, y, _ = pairs[-1]
        q *= float(s @ y) / float(y @ y)
    for (s, y, rho), part in zip(pairs, reversed(parts), strict=True):
        q += (part - rho * float(y @ q)) * s
    return q


def put_into(model: Any, probe: Probe) -> None:
    """Give the network's fc the fitted weights."""
    model.fc.weight.array[...] = probe.weight
    model.fc.bias.array[...] = probe.bias
