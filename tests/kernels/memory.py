"""The same numbers in every form of memory a kernel may meet, and a guard that nobody wrote to them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.strategies import MEMORY_FORMS, in_memory_form


def assert_same_in_every_form(kernel, *arrays):
    """`kernel(*arrays)` gives the same numbers whatever form the arrays have, and leaves them as they were."""
    expected = kernel(*arrays)
    for name in MEMORY_FORMS:
        given = [in_memory_form(a, name) for a in arrays]
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
