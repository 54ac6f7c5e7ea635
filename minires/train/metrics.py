"""Counting right answers.

Everything a report says about classification comes from one table, the confusion matrix: `matrix[i, j]` images of
class i were taken for class j. Accuracy is its trace over its sum; a class's accuracy (recall) is its diagonal entry
over its row.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.distributed.group import Group
from minires.errors import LabelError, ShapeError

__all__ = ["RunningMean", "Spread", "accuracy", "confusion_matrix", "per_class_accuracy", "worst_confusions"]


class RunningMean:
    """A mean over batches of different sizes: each value counts as often as there were items in its batch.

    A plain mean of batch means is wrong as soon as the last batch is smaller.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def add(self, mean: float, count: int) -> None:
        """Add a batch of `count` items whose mean is `mean`."""
        self.total += float(mean) * count
        self.count += count

    @property
    def value(self) -> float:
        """The mean so far; NaN when nothing was added."""
        return self.total / self.count if self.count else float("nan")

    def over(self, group: Group) -> float:
        """The mean over what all ranks of `group` have added."""
        sums = np.array([self.total, self.count], np.float64)
        group.sum(sums)
        return float(sums[0] / sums[1]) if sums[1] else float("nan")


@dataclass(frozen=True)
class Spread:
    """Of one figure over several runs. `std` is the sample's: divided by n - 1."""

    each: list[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.each)

    @property
    def std(self) -> float:
        return statistics.stdev(self.each) if len(self.each) > 1 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"mean": self.mean, "std": self.std, "min": min(self.each), "max": max(self.each), "each": self.each}

    def __str__(self) -> str:
        low, high = 100 * min(self.each), 100 * max(self.each)
        return f"{100 * self.mean:.2f} % +- {100 * self.std:.2f} ({low:.2f} to {high:.2f})"


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose largest logit stands at the label.

    Args:
        logits: (N, C) float.
        labels: (N,) integers in [0, C).

    Returns:
        A number in [0, 1]; NaN for N = 0.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ShapeError(f"accuracy: needs logits (N, C) and labels (N,), got {logits.shape} and {labels.shape}")
    if not len(labels):
        return float("nan")
    return float(np.mean(logits.argmax(axis=1) == labels))


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """matrix[i, j] = number of items with label i and prediction j.

    Args:
        predictions: (N,) integers in [0, num_classes).
        labels: (N,) integers in [0, num_classes).
        num_classes: C.

    Returns:
        (C, C) int64.

    Raises:
        ShapeError: the two differ in length.
        LabelError: a value outside [0, num_classes), with its index.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1:
        raise ShapeError(
            f"confusion_matrix: needs predictions and labels of shape (N,), got {predictions.shape} and {labels.shape}"
        )
    for name, values in (("prediction", predictions), ("label", labels)):
        outside = np.flatnonzero((values < 0) | (values >= num_classes))
        if len(outside):
            i = int(outside[0])
            raise LabelError(f"confusion_matrix: {name} {values[i]} at index {i} is outside [0, {num_classes})")
    # Each pair (i, j) becomes the one number i C + j, and bincount counts those.
    pairs = labels.astype(np.int64) * num_classes + predictions.astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """matrix[i, i] / sum_j matrix[i, j], the share of class i that was recognised.

    Args:
        matrix: (C, C) confusion matrix.

    Returns:
        (C,) float64; NaN for a class with no items.
    """
    counts = matrix.sum(axis=1)
    return np.where(counts > 0, np.diag(matrix) / np.maximum(counts, 1), np.nan)


def worst_confusions(matrix: np.ndarray, n: int = 3) -> list[tuple[int, int, int]]:
    """The n largest entries off the diagonal, as (label, prediction, count), largest first; zeros are left out."""
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:n]
    rows = [(int(k // len(off)), int(k % len(off))) for k in order]
    return [(i, j, int(off[i, j])) for i, j in rows if off[i, j] > 0]
