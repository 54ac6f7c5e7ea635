"""The same numbers in every form of memory a kernel may meet, and a guard that nobody wrote to them."""

from __future__ import annotations

import numpy as np
import pytest


def _inside(a):
    """A slice from the middle of a larger array."""
    big = np.full([size + 3 for size in a.shape], np.nan, a.dtype)
    view = big[tuple(slice(1, 1 + size) for size in a.shape)]
    view[...] = a
    return view


def _every_second(a):
    big = np.full([*a.shape[:-1], 2 * a.shape[-1]], np.nan, a.dtype)
    big[..., ::2] = a
    return big[..., ::2]


def _backwards(a):
    mirror = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[mirror])[mirror]


MEMORY_FORMS = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "inside": _inside,
    "every second": _every_second,
    "backwards": _backwards,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


def assert_same_in_every_form(kernel, *arrays):
    """`kernel(*arrays)` gives the same numbers whatever form the arrays have, and leaves them as they were."""
    expected = kernel(*arrays)
    for name, form in MEMORY_FORMS.items():
        given = [form(a) for a in arrays]
        for a in given:
            a.flags.writeable = False  # a kernel that writes to its input raises here
        result = kernel(*given)
        for got, wanted in zip(_tuple(result), _tuple(expected), strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=name)
            assert got.dtype == wanted.dtype and got.dtype.isnative, name
            assert not any(np.shares_memory(got, a) for a in given), name


def _tuple(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.fixture
def poisoned_memory(monkeypatch):
    """np.empty hands out NaN (or, for integers, an impossible index): an element that a kernel forgets shows."""
    real = np.empty

    def poisoned(shape, dtype=float, *args, **kwargs):
        array = real(shape, dtype, *args, **kwargs)
        array.fill(np.nan if array.dtype.kind == "f" else -(10**9))
        return array

    monkeypatch.setattr(np, "empty", poisoned)
