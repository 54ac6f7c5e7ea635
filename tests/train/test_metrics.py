"""Counting: against definitions written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minires.errors import LabelError, ShapeError
from minires.train.metrics import RunningMean, accuracy, confusion_matrix, per_class_accuracy, worst_confusions

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40)


@given(items=pairs)
def test_confusion_matrix_counts_like_a_loop(items: list[tuple[int, int]]) -> None:
    labels, predictions = (np.array([pair[k] for pair in items], np.int64) for k in (0, 1))
    expected = np.zeros((4, 4), np.int64)
    for label, prediction in items:
        expected[label, prediction] += 1
    matrix = confusion_matrix(predictions, labels, 4)
    np.testing.assert_array_equal(matrix, expected)
    for i, share in enumerate(per_class_accuracy(matrix)):
        of_class = [p == label for label, p in items if label == i]
        assert share == pytest.approx(np.mean(of_class)) if of_class else math.isnan(share)


def test_confusion_matrix_names_a_value_outside_the_classes() -> None:
    with pytest.raises(LabelError, match=r"confusion_matrix: label 3 at index 1 is outside \[0, 3\)"):
        confusion_matrix(np.array([0, 0]), np.array([0, 3]), 3)
    with pytest.raises(LabelError, match=r"confusion_matrix: prediction -1 at index 0 is outside \[0, 3\)"):
        confusion_matrix(np.array([-1]), np.array([0]), 3)
    with pytest.raises(ShapeError, match=r"confusion_matrix: needs predictions and labels of shape \(N,\), got \(2,\)"):
        confusion_matrix(np.array([0, 1]), np.array([0]), 3)


def test_accuracy_is_the_share_of_right_largest_logits() -> None:
    logits = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4], [0.5, 0.5]])
    assert accuracy(logits, np.array([1, 0, 0, 0])) == 0.75
    assert math.isnan(accuracy(np.zeros((0, 3)), np.zeros(0, np.int64)))
    with pytest.raises(ShapeError, match=r"accuracy: needs logits \(N, C\) and labels \(N,\), got \(3,\) and \(3,\)"):
        accuracy(np.zeros(3), np.zeros(3))


def test_running_mean_weighs_batches_by_their_size() -> None:
    mean = RunningMean()
    assert math.isnan(mean.value)
    mean.add(1.0, 3)
    mean.add(5.0, 1)
    assert mean.value == 2.0


def test_worst_confusions_are_the_largest_off_the_diagonal() -> None:
    matrix = np.array([[9, 2, 0], [0, 9, 5], [1, 0, 9]])
    assert worst_confusions(matrix, 2) == [(1, 2, 5), (0, 1, 2)]
    assert worst_confusions(np.eye(3, dtype=int)) == []
