"""Activation checkpointing: same numbers, fewer saved bytes."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import minires
from minires.autograd import checkpoint
from minires.errors import GradError


def stretch(x, w):
    return ((x * w).exp() * w).tanh()


def inputs() -> list[minires.Tensor]:
    generator = np.random.default_rng(0)
    return [minires.tensor(generator.standard_normal(5), requires_grad=True) for _ in range(2)]


def test_checkpoint_gives_the_same_values_and_gradients() -> None:
    plain, kept = inputs(), inputs()
    stretch(*plain).sum().backward()
    checkpoint(stretch, *kept).sum().backward()
    for a, b in zip(plain, kept, strict=True):
        np.testing.assert_array_equal(a.grad.array, b.grad.array)


def test_checkpoint_serves_autograd_grad_and_second_derivatives() -> None:
    results = []
    for run in (stretch, lambda *a: checkpoint(stretch, *a)):
        x, w = inputs()
        first = minires.autograd.grad(run(x, w).sum(), [x, w], create_graph=True)
        results.append([g.array for g in minires.autograd.grad(first[0].sum() + first[1].sum(), [x, w])])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-14)


def test_checkpoint_does_not_keep_what_is_inside() -> None:
    watched = []

    def watch(x):
        hidden = x.exp()
        watched.append(weakref.ref(hidden.array))
        return hidden * hidden

    (x, _) = inputs()
    y = checkpoint(watch, x)
    gc.collect()
    assert watched[0]() is None
    y.sum().backward()
    np.testing.assert_allclose(x.grad.array, 2 * np.exp(2 * x.array))


def test_checkpoint_repeats_the_random_numbers_and_leaves_the_state() -> None:
    def noisy(x):
        return x * minires.rand(5, dtype=minires.float64)

    minires.manual_seed(3)
    (x, _) = inputs()
    y = checkpoint(noisy, x)
    after = minires.rand(1).item()
    minires.manual_seed(3)
    noise = minires.rand(5, dtype=minires.float64)
    assert after == minires.rand(1).item()
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.array, noise.array)
    state = minires.get_rng_state()
    assert state == minires.get_rng_state()


def test_checkpoint_twice_through_a_retained_graph() -> None:
    x, w = inputs()
    y = checkpoint(stretch, x, w).sum()
    y.backward(retain_graph=True)
    once = x.grad.clone()
    y.backward()
    np.testing.assert_allclose(x.grad.array, 2 * once.array)


def test_checkpoint_of_a_function_that_changes_is_an_error() -> None:
    calls = []

    def fickle(x):
        calls.append(1)
        return x.exp() if len(calls) == 1 else x.exp().exp()

    (x, _) = inputs()
    y = checkpoint(fickle, x)
    with pytest.raises(GradError, match=r"checkpoint: the function saved 1 values the first time and 2 the second"):
        y.sum().backward()
