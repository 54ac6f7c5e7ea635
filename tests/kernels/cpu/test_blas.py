"""OpenBLAS is held to one thread while the cpu set is in use, and given back after."""

from __future__ import annotations

import pytest

from minires import backend
from minires.kernels.cpu import blas

known = pytest.mark.skipif(blas.get_threads() is None, reason="NumPy here does not use OpenBLAS from its own wheel")


@pytest.fixture
def three_threads():
    """OpenBLAS with three threads, whatever it had."""
    with backend.use_kernels("reference"):
        before = blas.get_threads()
        blas.set_threads(3)
        yield
        blas.set_threads(before)


@known
def test_blas_has_one_thread_inside_and_its_own_number_after(three_threads):
    with backend.use_kernels("cpu"):
        assert blas.get_threads() == 1
        with backend.use_kernels("reference"):
            assert blas.get_threads() == 3
        assert blas.get_threads() == 1
    assert blas.get_threads() == 3


@known
def test_blas_is_given_back_after_an_error(three_threads):
    with pytest.raises(ZeroDivisionError), backend.use_kernels("cpu"):
        1 / 0  # noqa: B018
    assert blas.get_threads() == 3
