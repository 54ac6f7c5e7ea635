"""Indexing, gather and scatter, splitting and sorting, beside torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, LabelError, ShapeError
from tests.strategies import in_memory_form, memory_forms, values
from tests.torch_oracle import compare, torch

X = values((3, 4, 5))
MASK = values((3, 4), 9) > 0

INDICES = {
    "int": 1,
    "negative": -1,
    "slice": slice(1, 3),
    "stride": (slice(None), slice(None, None, 2), slice(1, None, 3)),
    "ellipsis": (..., 0),
    "none": (None, slice(None), None, 1),
    "ints": (0, 1, 2),
    "list": [0, 2, 2],
    "two lists": ([0, 2, 2], [1, 1, 1]),
    "list and slice": (slice(None), [0, 0, 3]),
    "separated lists": ([0, 1], slice(None), [2, 2]),
    "grid": ([[0], [1]], [[0, 1]]),
    "empty slice": slice(2, 2),
    "bool": True,
}


@pytest.mark.parametrize("name", INDICES)
@given(form=memory_forms())
def test_indexing_is_torchs(name, form) -> None:
    index = INDICES[name]
    compare(lambda t: t[index], lambda t: t[index], in_memory_form(X, form), n=4)


def test_indexing_by_tensors_and_masks() -> None:
    rows = np.array([2, 0, 2])
    compare(lambda t, i: t[i], lambda t, i: t[i], X, rows)
    compare(lambda t, i: t[:, i], lambda t, i: t[:, i], X, rows)
    compare(lambda t, m: t[m], lambda t, m: t[m], X, MASK)
    compare(lambda t: t[t > 0], lambda t: t[t > 0], X)
    compare(lambda t, i: t[i, 1:3], lambda t, i: t[i, 1:3], X, np.array(1))


def test_a_basic_index_is_a_view_and_an_advanced_one_a_copy() -> None:
    x = minires.tensor(X)
    assert np.may_share_memory(x[1:, 0].array, x.array)
    assert not np.may_share_memory(x[[0, 1]].array, x.array)


def test_an_index_array_may_change_after_use() -> None:
    x = minires.tensor([1.0, 2.0, 3.0], requires_grad=True)
    where = minires.tensor([0, 1])
    y = x[where]
    where.fill_(2)
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0]


def test_iteration_and_unpacking() -> None:
    first, second = minires.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert (first.tolist(), second.tolist()) == ([1.0, 2.0], [3.0, 4.0])
    assert len(minires.zeros(3, 2)) == 3


SETS = {
    "int": (1, 4, 5),
    "slice": (slice(1, 3), 2, 4, 5),
    "stride": ((slice(None), slice(None, None, 2)), 3, 2, 5),
    "broadcast": ((slice(None), 0), 5),
    "leading ones": (0, 1, 1, 4, 5),
    "list": ([0, 2], 2, 4, 5),
    "mask": (MASK, 5),
    "all": (..., 3, 4, 5),
}


@pytest.mark.parametrize("name", SETS)
def test_assignment_is_torchs(name) -> None:
    index, *shape = SETS[name]

    def assign(x, v, torch_like):
        y = x * 1
        y[torch_like(index)] = v
        return y

    def for_torch(i):
        return torch.from_numpy(i) if isinstance(i, np.ndarray) else i

    compare(
        lambda x, v: assign(x, v, lambda i: i), lambda x, v: assign(x, v, for_torch), X, values(tuple(shape), 5), n=15
    )


def test_assignment_of_numbers_and_integers() -> None:
    x = minires.zeros(2, 2, dtype=minires.int64)
    x[0] = 3
    x[1, 1] = 2.9
    assert x.tolist() == [[3, 3], [0, 2]]


@pytest.mark.parametrize("dim", [0, 1, -1])
@given(seed=st.integers(0, 20))
def test_gather_and_scatter(dim, seed) -> None:
    generator = np.random.default_rng(seed)
    shape = tuple(int(generator.integers(1, size + 1)) for size in X.shape)
    index = generator.integers(0, X.shape[dim], shape)
    source = values(shape, seed)
    compare(lambda t, i: t.gather(dim, i), lambda t, i: t.gather(dim, i), X, index, n=9)
    compare(lambda t, i, s: t.scatter_add(dim, i, s), lambda t, i, s: t.scatter_add(dim, i, s), X, index, source, n=9)
    compare(lambda t, i: t.scatter(dim, i, 2.5), lambda t, i: t.scatter(dim, i, 2.5), X, index, n=9)


def test_scatter_of_a_tensor() -> None:
    index = np.array([[1, 0, 3], [2, 1, 0]])
    compare(
        lambda t, i, s: t.scatter(1, i, s), lambda t, i, s: t.scatter(1, i, s), values((3, 4)), index, values((2, 3), 1)
    )


CALLS = {
    "masked_fill": lambda t: t.masked_fill(t > 0.5, 3.0),
    "masked_select": lambda t: t.masked_select(t > 0.5),
    "select": lambda t: t.select(1, 2),
    "narrow": lambda t: t.narrow(1, 1, 2),
    "unbind": lambda t: t.unbind(1),
    "split": lambda t: t.split(3, dim=2),
    "split sizes": lambda t: t.split([1, 4], dim=2),
    "chunk": lambda t: t.chunk(2, dim=1),
    "chunk uneven": lambda t: t.chunk(3, dim=2),
    "tril": lambda t: t.tril(),
    "triu": lambda t: t.triu(1),
    "sort": lambda t: t.sort(1),
    "sort descending": lambda t: t.sort(descending=True),
    "topk": lambda t: t.topk(2, 1),
    "topk smallest": lambda t: t.topk(3, largest=False),
    "argsort": lambda t: t.argsort(0),
    "nonzero": lambda t: (t > 0).nonzero(),
}


@pytest.mark.parametrize("name", CALLS)
def test_selections_are_torchs(name) -> None:
    compare(CALLS[name], CALLS[name], X)


def test_index_select_take_and_stacks() -> None:
    index = np.array([2, 0, 0])
    compare(lambda t, i: t.index_select(0, i), lambda t, i: t.index_select(0, i), X, index)
    compare(minires.take, torch.take, X, index)
    compare(lambda a, b: minires.hstack([a, b]), lambda a, b: torch.hstack([a, b]), values((2, 3)), values((2, 1), 1))
    compare(lambda a, b: minires.vstack([a, b]), lambda a, b: torch.vstack([a, b]), values((3,)), values((2, 3), 1))


def test_sort_keeps_the_order_of_equals() -> None:
    x = np.array([1.0, 0.0, 1.0, 0.0, 1.0])
    for descending in (False, True):
        ours = minires.tensor(x).argsort(descending=descending)
        assert ours.tolist() == torch.from_numpy(x).argsort(descending=descending, stable=True).tolist()


@pytest.mark.parametrize("name", [n for n in CALLS if n not in ("argsort", "nonzero")])
def test_gradients_by_finite_differences(name) -> None:
    x = minires.tensor(values((2, 3, 5)), requires_grad=True)
    assert gradcheck(CALLS[name], x)
    assert gradgradcheck(CALLS[name], x)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: x[5], LabelError, r"getitem: index 5 is out of bounds .* shape \(3, 4, 5\)"),
        (lambda x: x[0, 0, 0, 0], LabelError, r"getitem: too many indices"),
        (lambda x: x["a"], DTypeError, r"index: expected ints, slices, None, ..., lists or tensors, got str"),
        (
            lambda x: x[minires.ones(2)],
            DTypeError,
            r"index: a tensor used as an index must hold integers or bools, got float32",
        ),
        (lambda x: x.gather(0, minires.tensor([0])), ShapeError, r"gather: index needs 3 dimensions"),
        (lambda x: x.gather(0, minires.full((1, 1, 1), 3)), LabelError, r"gather: index must be from 0 to 2 .* got 3"),
        (
            lambda x: x.gather(0, minires.zeros(1, 9, 1, dtype=minires.int64)),
            ShapeError,
            r"gather: index.shape .* goes beyond",
        ),
        (lambda x: x.gather(0, minires.zeros(1, 1, 1)), DTypeError, r"gather: index must hold integers, got float32"),
        (lambda x: x.masked_fill(x, 0), DTypeError, r"masked_fill: mask must be a bool tensor"),
        (lambda x: x.narrow(0, 2, 2), LabelError, r"narrow: start 2 and length 2 go beyond dimension 0"),
        (lambda x: x.split(0), ArgumentError, r"split: split_size must be positive"),
        (lambda x: x.split([1, 1]), ArgumentError, r"split: sections must add up to the size 3"),
        (lambda x: x.chunk(0), ArgumentError, r"chunk: chunks must be positive"),
        (lambda x: x.topk(9), ArgumentError, r"topk: k must be from 0 to 5"),
    ],
)
def test_errors(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call(minires.tensor(X))
