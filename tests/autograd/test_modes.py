"""no_grad, enable_grad, set_grad_enabled and inference_mode: as blocks, as decorators, across threads."""

from __future__ import annotations

import threading

import pytest

import minires
from minires.errors import GradError


def leaf() -> minires.Tensor:
    return minires.ones(2, requires_grad=True)


def test_no_grad_does_not_record() -> None:
    with minires.no_grad():
        y = leaf() * 2
        assert not minires.is_grad_enabled()
        with minires.enable_grad():
            z = leaf() * 2
    assert not y.requires_grad
    assert z.requires_grad
    assert minires.is_grad_enabled()


def test_no_grad_is_left_when_an_error_passes() -> None:
    with pytest.raises(KeyError), minires.no_grad():
        raise KeyError
    assert minires.is_grad_enabled()


@pytest.mark.parametrize(
    "make",
    [
        lambda: minires.no_grad,
        lambda: minires.no_grad(),
        lambda: minires.set_grad_enabled(False),
        lambda: minires.inference_mode,
    ],
)
def test_modes_decorate_functions(make) -> None:
    @make()
    def double(x):
        """Twice."""
        return x * 2

    assert not double(leaf()).requires_grad
    assert (double.__name__, double.__doc__) == ("double", "Twice.")
    assert minires.is_grad_enabled()


def test_modes_decorate_generators_and_hold_only_while_they_run() -> None:
    @minires.no_grad()
    def numbers():
        yield minires.is_grad_enabled()
        yield minires.is_grad_enabled()

    iterator = numbers()
    assert next(iterator) is False
    assert minires.is_grad_enabled()
    assert next(iterator) is False


def test_set_grad_enabled_as_a_function_holds_from_then_on() -> None:
    minires.set_grad_enabled(False)
    try:
        assert not (leaf() * 2).requires_grad
    finally:
        minires.set_grad_enabled(True)
    with minires.set_grad_enabled(False):
        assert not minires.is_grad_enabled()
    assert minires.is_grad_enabled()


def test_the_mode_of_one_thread_is_not_another_ones() -> None:
    seen = []
    with minires.no_grad():
        thread = threading.Thread(target=lambda: seen.append(minires.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_inference_mode_marks_its_tensors() -> None:
    with minires.inference_mode():
        y = leaf() * 2
        assert minires.is_inference_mode_enabled()
    assert y.is_inference()
    assert not y.requires_grad
    assert not minires.is_inference_mode_enabled()


def test_an_inference_tensor_cannot_enter_a_graph() -> None:
    with minires.inference_mode():
        y = minires.ones(2)
    with pytest.raises(GradError, match=r"mul: an inference tensor cannot be saved.*clone"):
        leaf() * y
    with pytest.raises(GradError, match=r"add_: an inference tensor cannot be changed.*clone"):
        y.add_(1)
    with pytest.raises(GradError, match="an inference tensor cannot require grad"):
        y.requires_grad_()
    assert (leaf() * y.clone()).requires_grad


def test_inference_mode_false_records() -> None:
    with minires.inference_mode(False):
        assert (leaf() * 2).requires_grad
