"""`minires.utils.checkpoint`: what is run again, and what is refused."""

from __future__ import annotations

import pytest

import minires
from minires.errors import ArgumentError, UnsupportedError
from minires.utils.checkpoint import checkpoint, checkpoint_sequential


def counted(calls: list[int], number: int):  # type: ignore[no-untyped-def]
    def step(x):  # type: ignore[no-untyped-def]
        calls.append(number)
        return (x * (number + 1)).tanh()

    return step


@pytest.mark.parametrize(
    ("segments", "again"),
    [(1, []), (2, [0, 1]), (3, [0, 1]), (5, [0, 1, 2, 3])],
)
def test_checkpoint_sequential_runs_all_but_the_last_segment_twice(segments: int, again: list[int]) -> None:
    """5 functions: torch divides them 5 | 2 3 | 1 1 3 | 1 1 1 1 1."""
    calls: list[int] = []
    steps = [counted(calls, number) for number in range(5)]
    x = minires.linspace(-0.5, 0.5, 4, dtype=minires.float64).requires_grad_()
    out = checkpoint_sequential(steps, segments, x, use_reentrant=False)
    assert calls == [0, 1, 2, 3, 4]
    out.sum().backward()
    assert sorted(calls[5:]) == again
    plain = x.detach().requires_grad_()
    y = plain
    for step in steps:
        y = step(y)
    y.sum().backward()
    assert x.grad is not None and plain.grad is not None
    assert minires.equal(out, y) and minires.equal(x.grad, plain.grad)


def test_checkpoint_draws_the_same_dropout_mask_again() -> None:
    x = minires.ones(200, requires_grad=True)
    y = checkpoint(lambda t: minires.nn.functional.dropout(t, 0.5) * t, x)
    y.sum().backward()
    assert minires.equal(x.grad > 0, y > 0)


@pytest.mark.parametrize(
    ("option", "value"), [("context_fn", lambda: None), ("determinism_check", "none"), ("debug", True)]
)
def test_checkpoint_refuses_torchs_other_options(option: str, value: object) -> None:
    with pytest.raises(UnsupportedError, match=f"^checkpoint: {option} = .* is not supported; leave {option} out$"):
        checkpoint(lambda t: t, minires.ones(1), **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("segments", [0, 3, 1.5])
def test_checkpoint_sequential_refuses_a_bad_number_of_segments(segments: int) -> None:
    with pytest.raises(ArgumentError, match=r"^checkpoint_sequential: segments must be a whole number from 1 to 2"):
        checkpoint_sequential([lambda t: t] * 2, segments, minires.ones(1))


def test_data_has_the_names_of_minires_data() -> None:
    assert minires.utils.data.DataLoader is minires.data.DataLoader
    assert all(getattr(minires.utils.data, name) is getattr(minires.data, name) for name in minires.utils.data.__all__)
