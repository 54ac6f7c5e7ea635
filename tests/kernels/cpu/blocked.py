"""Blocked arrays for tests: made with any halo, and checked for what every producer owes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from minires.kernels.cpu.layout import BLOCK, Blocked
from tests.tolerances import assert_close


def draw_shape(max_n=3, max_c=40, max_size=9):
    """(n, c, h, w): a channel block that is full, begun, or followed by another."""
    return st.tuples(st.integers(1, max_n), st.integers(1, max_c), st.integers(1, max_size), st.integers(1, max_size))


def numbers(shape, seed=0):
    """float32, standard normal."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def blocked(plain, halo=1):
    """`plain` in the blocked layout; a guard's bytes tell later whether a kernel wrote to it."""
    array = Blocked.from_plain(plain, halo)
    assert_sound(array)
    return array


def assert_sound(array):
    """Halo and the lanes behind the last channel are zero."""
    n, c, h, w = array.shape
    inside = np.zeros(array.data.shape, bool)
    lanes = inside.transpose(0, 1, 4, 2, 3).reshape(n, -1, *array.data.shape[2:4])  # a copy, (n, blocks * 16, ., .)
    lanes[:, :c, array.halo : array.halo + h, array.halo : array.halo + w] = True
    inside = lanes.reshape(n, -1, BLOCK, *array.data.shape[2:4]).transpose(0, 1, 3, 4, 2)
    assert not array.data[~inside].any(), "halo or dead lanes are not zero"


def assert_blocked(actual, expected, n=1, what=""):
    """A sound blocked float32 array with the values of the plain `expected`; n: the length of its sums."""
    assert isinstance(actual, Blocked), what
    assert_sound(actual)
    assert_close(actual.to_plain(), expected, "float32", n=n, what=what)


class Unchanged:
    """`with Unchanged(x, y): ...` fails if a blocked array is written to inside."""

    def __init__(self, *arrays):
        self.arrays = [a for a in arrays if isinstance(a, Blocked)]

    def __enter__(self):
        self.before = [a.data.copy() for a in self.arrays]
        return self

    def __exit__(self, *exc):
        for a, before in zip(self.arrays, self.before, strict=True):
            np.testing.assert_array_equal(a.data, before, err_msg="an input was written to")
