"""What hypothesis draws: shapes, and the forms in which the same values can lie in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

MEMORY_FORMS = ("contiguous", "transposed", "sliced", "reversed", "readonly", "big-endian")


def in_memory_form(array: np.ndarray, form: str) -> np.ndarray:
    """An array equal to `array` whose values lie in memory as `form` says."""
    array = np.asarray(array)
    if form == "transposed":
        return np.array(array.T, order="C", copy=True).T
    if form == "sliced":
        padded = np.full(
            tuple(2 * size + 1 for size in array.shape), np.nan if array.dtype.kind == "f" else 7, array.dtype
        )
        view = padded[(*(slice(1, 2 * size + 1, 2) for size in array.shape), ...)]
        view[...] = array
        return view
    if form == "reversed":
        backwards = tuple(slice(None, None, -1) for _ in array.shape)
        return np.array(array[backwards], order="C", copy=True)[(*backwards, ...)]
    if form == "readonly":
        copy = array.copy()
        copy.flags.writeable = False
        return copy
    if form == "big-endian":
        return array.astype(array.dtype.newbyteorder(">"))
    return np.array(array, order="C", copy=True)


def memory_forms() -> st.SearchStrategy[str]:
    return st.sampled_from(MEMORY_FORMS)


def shapes(
    min_rank: int = 0, max_rank: int = 4, min_size: int = 0, max_size: int = 5
) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(min_size, max_size), min_size=min_rank, max_size=max_rank).map(tuple)


@st.composite
def broadcastable(draw: Callable[..., tuple[int, ...]], max_rank: int = 4) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast with one another."""
    full = draw(shapes(0, max_rank, 1, 4))
    pair = []
    for _ in range(2):
        kept = draw(st.integers(0, len(full)))
        sizes = [draw(st.sampled_from([1, s])) for s in full[len(full) - kept :]]
        pair.append(tuple(sizes))
    return pair[0], pair[1]


def values(shape: tuple[int, ...], seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """float64 numbers in [low, high), distinct with probability one."""
    return np.random.default_rng(seed).uniform(low, high, shape)
