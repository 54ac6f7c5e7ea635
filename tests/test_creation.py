"""Making tensors, beside torch: dtypes, values, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires.errors import ArgumentError, DeviceError, ShapeError, UnsupportedError
from tests.torch_oracle import torch

CALLS = [
    "tensor([1, 2])",
    "tensor([1.0, 2])",
    "tensor([[True]])",
    "tensor(3)",
    "tensor([])",
    "tensor([[1, 2], [3, 4]], dtype=X.float64)",
    "zeros(2, 3)",
    "zeros((2, 3))",
    "zeros([2])",
    "zeros(2, dtype=X.int64)",
    "ones(2)",
    "full((2, 2), 3)",
    "full((2,), 2.5)",
    "full((1,), True)",
    "arange(5)",
    "arange(1, 2, 0.25)",
    "arange(5, 0, -2)",
    "arange(0)",
    "arange(3.0)",
    "linspace(0, 1, 5)",
    "eye(3)",
    "eye(2, 3)",
    "zeros_like(X.ones(2, dtype=X.int64))",
    "ones_like(X.zeros(2, 3))",
    "full_like(X.zeros(2), 7)",
    "as_tensor([1.5])",
    "tensor([1, 2]).new_zeros(2)",
    "empty(0, 3)",
]


@pytest.mark.parametrize("call", CALLS)
def test_creation_is_torchs(call) -> None:
    ours, theirs = (eval(f"X.{call}", {"X": library}) for library in (minires, torch))
    assert (tuple(ours.shape), ours.dtype.name) == (tuple(theirs.shape), str(theirs.dtype).removeprefix("torch."))
    np.testing.assert_allclose(ours.array, theirs.numpy(), rtol=1e-6)


def test_tensor_copies_and_as_tensor_shares() -> None:
    array = np.zeros(2)
    assert not np.shares_memory(minires.tensor(array).array, array)
    assert np.shares_memory(minires.as_tensor(array).array, array)
    assert np.shares_memory(minires.from_numpy(array).array, array)
    t = minires.ones(1)
    assert minires.as_tensor(t) is t


def test_numpy_keeps_its_dtype_and_loses_its_byte_order() -> None:
    assert minires.tensor(np.ones(2)).dtype is minires.float64
    big = np.arange(3, dtype=">i4")
    t = minires.from_numpy(big)
    assert t.array.dtype.isnative
    assert t.tolist() == [0, 1, 2]


def test_lists_of_tensors() -> None:
    assert minires.tensor([minires.tensor(1.0), minires.tensor(2.0)]).tolist() == [1.0, 2.0]


def test_default_dtype() -> None:
    minires.set_default_dtype(minires.float64)
    try:
        assert minires.zeros(1).dtype is minires.float64
        assert minires.tensor([1.0]).dtype is minires.float64
    finally:
        minires.set_default_dtype(minires.float32)


def test_random_tensors_follow_their_distributions() -> None:
    minires.manual_seed(0)
    assert abs(minires.randn(20000).std().item() - 1) < 0.02
    u = minires.rand(20000)
    assert u.min().item() >= 0 and u.max().item() < 1
    assert abs(u.mean().item() - 0.5) < 0.01
    r = minires.randint(3, 7, (5000,))
    assert sorted(r.unique().tolist()) == [3, 4, 5, 6]
    assert minires.randint(2, (3,)).dtype is minires.int64
    assert sorted(minires.randperm(10).tolist()) == list(range(10))
    assert abs(minires.normal(5.0, 0.1, (1000,)).mean().item() - 5) < 0.02
    assert abs(minires.bernoulli(minires.full((5000,), 0.3)).mean().item() - 0.3) < 0.03
    assert minires.rand_like(minires.zeros(2, 3)).shape == (2, 3)
    assert minires.randn_like(minires.zeros(2, dtype=minires.float64)).dtype is minires.float64


def test_seeds_and_states() -> None:
    minires.manual_seed(5)
    state = minires.get_rng_state()
    a = minires.rand(3).tolist()
    minires.manual_seed(5)
    assert minires.rand(3).tolist() == a
    minires.set_rng_state(state)
    assert minires.rand(3).tolist() == a
    assert minires.initial_seed() == 5
    g = minires.Generator().manual_seed(9)
    h = minires.Generator().manual_seed(9)
    assert minires.randn(2, generator=g).tolist() == minires.randn(2, generator=h).tolist()
    assert isinstance(minires.seed(), int)


def test_meshgrid() -> None:
    x, y = minires.meshgrid(minires.arange(2), minires.arange(3))
    assert (x.shape, y[1].tolist()) == ((2, 3), [0, 1, 2])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: minires.tensor([[1], [1, 2]]), ShapeError, r"tensor: data must be a rectangle of numbers"),
        (lambda: minires.tensor(["a"]), ArgumentError, r"tensor: data must be numbers"),
        (lambda: minires.tensor(None), ArgumentError, r"tensor: data must be numbers"),
        (lambda: minires.from_numpy([1]), ArgumentError, r"from_numpy: expected a NumPy array, got list"),
        (lambda: minires.zeros(-1), ShapeError, r"sizes must not be negative"),
        (lambda: minires.zeros(2, out=minires.zeros(2)), UnsupportedError, r"out=: results are always new tensors"),
        (lambda: minires.zeros(2, colour="red"), TypeError, r"colour"),
        (lambda: minires.zeros(1, device="cuda"), DeviceError, r"cuda has no kernel set"),
        (lambda: minires.arange(0, 5, 0), ArgumentError, r"arange: step must lead from start to end"),
        (lambda: minires.arange(0, 5, -1), ArgumentError, r"arange: step must lead from start to end"),
        (lambda: minires.randint(3, 3, (1,)), ArgumentError, r"randint: low must be smaller than high"),
        (lambda: minires.meshgrid(minires.arange(2), indexing="zz"), ArgumentError, r"meshgrid: indexing must be"),
        (lambda: minires.manual_seed("a"), ArgumentError, r"manual_seed: seed must be an integer, got 'a'"),
    ],
)
def test_errors(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()
