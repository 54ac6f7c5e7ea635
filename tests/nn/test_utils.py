"""Gradient clipping and parameters as a vector, against torch's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import ArgumentError, GradError, ShapeError
from tests.nn.networks import tensor
from tests.tolerances import tolerance
from tests.torch_oracle import torch


def with_gradients(scale: float = 1.0, dtype: str = "float64") -> tuple[list[Any], list[Any]]:
    """(ours, torch's) parameters with equal gradients, and one without any."""
    generator = np.random.default_rng(0)
    ours, theirs = [], []
    for shape in ((3, 4), (5,), ()):
        grad = np.asarray(generator.normal(size=shape) * scale).astype(dtype)
        p, q = (
            nn.Parameter(tensor(np.zeros(shape, dtype))),
            torch.nn.Parameter(torch.from_numpy(np.zeros(shape, dtype))),
        )
        p.grad, q.grad = tensor(grad), torch.from_numpy(grad.copy())
        ours.append(p)
        theirs.append(q)
    return [*ours, nn.Parameter(minires.ones(1))], [*theirs, torch.nn.Parameter(torch.ones(1))]


def assert_same_gradients(ours: list[Any], theirs: list[Any]) -> None:
    for p, q in zip(ours[:3], theirs[:3], strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), **tolerance("float64", 64))
    assert ours[3].grad is None


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_grad_norm_equals_torchs(max_norm: float, norm_type: float) -> None:
    ours, theirs = with_gradients()
    total = nn.utils.clip_grad_norm_(iter(ours), max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    np.testing.assert_allclose(total.item(), expected.item(), **tolerance("float64", 64))
    assert_same_gradients(ours, theirs)


def test_clip_grad_norm_takes_one_tensor_and_nothing() -> None:
    ours, theirs = with_gradients()
    nn.utils.clip_grad_norm_(ours[0], 0.1)
    torch.nn.utils.clip_grad_norm_(theirs[0], 0.1)
    assert_same_gradients(ours, theirs)
    assert nn.utils.clip_grad_norm_([nn.Parameter(minires.ones(1))], 1.0).item() == 0


def test_clip_grad_norm_keeps_a_norm_whose_square_overflows() -> None:
    ours, _ = with_gradients(1e25, "float32")
    assert math.isfinite(nn.utils.clip_grad_norm_(ours, 1.0).item())
    assert nn.utils.get_total_norm([p.grad for p in ours[:3]]).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clip_grad_norm_with_a_bad_gradient_does_as_torchs(bad: float) -> None:
    ours, theirs = with_gradients()
    with minires.no_grad():
        ours[0].grad[0, 0] = bad
    theirs[0].grad[0, 0] = bad
    with pytest.raises(
        GradError, match=rf"the total norm of order 2.0 of the gradients is {bad}, so they cannot be clipped"
    ):
        nn.utils.clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)
    nn.utils.clip_grad_norm_(ours, 1.0)
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    assert_same_gradients(ours, theirs)


def test_clip_grad_value_equals_torchs() -> None:
    ours, theirs = with_gradients()
    nn.utils.clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    assert_same_gradients(ours, theirs)
    with pytest.raises(ArgumentError, match=r"clip_value must not be negative, got -1"):
        nn.utils.clip_grad_value_(ours, -1)


def test_parameters_go_to_a_vector_and_back() -> None:
    m = nn.Linear(2, 3)
    vector = nn.utils.parameters_to_vector(m.parameters())
    assert vector.tolist() == [*m.weight.reshape(-1).tolist(), *m.bias.tolist()] and vector.requires_grad
    weight = m.weight
    nn.utils.vector_to_parameters(minires.arange(9, dtype=minires.float32), m.parameters())
    assert m.weight is weight and weight.tolist() == [[0, 1], [2, 3], [4, 5]] and m.bias.tolist() == [6, 7, 8]
    with pytest.raises(ShapeError, match=r"vector_to_parameters: vec needs shape \(9,\), got \(8,\)"):
        nn.utils.vector_to_parameters(minires.ones(8), m.parameters())
    with pytest.raises(ArgumentError, match=r"vec must be a Tensor, got list"):
        nn.utils.vector_to_parameters([1.0], m.parameters())
    with pytest.raises(ArgumentError, match=r"parameters_to_vector: expected at least one parameter, got none"):
        nn.utils.parameters_to_vector([])
