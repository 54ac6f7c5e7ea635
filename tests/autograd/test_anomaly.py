"""Anomaly detection names the operation and the line that called it."""

from __future__ import annotations

import pytest

import minires
from minires.autograd import detect_anomaly, is_anomaly_enabled, set_detect_anomaly
from minires.errors import GradError


def square_root_of_zero_times_zero(x):
    return (x.sqrt() * 0).sum()  # the marked line


def test_nan_in_a_gradient_names_op_and_line() -> None:
    x = minires.zeros(1, requires_grad=True)
    with detect_anomaly():
        y = square_root_of_zero_times_zero(x)
        with pytest.raises(GradError) as caught:
            y.backward()
    text = str(caught.value)
    assert text.startswith("sqrt: backward returned NaN in the gradient of argument 0")
    assert "the marked line" in text
    assert "function.py" not in text  # the user's lines, not the engine's


def test_without_detection_nan_passes() -> None:
    x = minires.zeros(1, requires_grad=True)
    square_root_of_zero_times_zero(x).backward()
    assert x.grad.isnan().item()
    assert not is_anomaly_enabled()


def test_check_nan_can_be_left_out() -> None:
    x = minires.zeros(1, requires_grad=True)
    with detect_anomaly(check_nan=False):
        assert is_anomaly_enabled()
        square_root_of_zero_times_zero(x).backward()
    assert x.grad.isnan().item()


def test_an_error_in_backward_carries_the_call_site() -> None:
    x = minires.ones(1, requires_grad=True)
    with set_detect_anomaly(True):
        h = x * 2
        y = h * h
        h.add_(1)
        with pytest.raises(GradError, match=r"(?s)mul was called at:.*y = h \* h"):
            y.sum().backward()


def test_without_detection_the_message_says_how_to_get_the_call_site() -> None:
    x = minires.ones(1, requires_grad=True)
    h = x * 2
    y = h * h
    h.add_(1)
    with pytest.raises(GradError, match="detect_anomaly"):
        y.sum().backward()
