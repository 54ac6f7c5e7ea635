"""The blocked layout: there and back, halos, and memory that is recycled only when nobody looks at it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.kernels.cpu.layout import Blocked, as_blocked
from tests.kernels.cpu.blocked import assert_sound, blocked, draw_shape, numbers
from tests.strategies import in_memory_form, memory_forms

pytestmark = pytest.mark.usefixtures("workers")


@given(shape=draw_shape(), halo=st.integers(0, 3), form=memory_forms())
@settings(max_examples=40)
def test_blocked_and_back_is_the_same_array(shape, halo, form):
    plain = numbers(shape)
    array = Blocked.from_plain(in_memory_form(plain, form), halo)
    assert_sound(array)
    assert array.shape == shape and array.dtype == np.float32 and array.data.ctypes.data % 64 == 0
    np.testing.assert_array_equal(array.to_plain(), plain)
    np.testing.assert_array_equal(np.asarray(array), plain)


@given(shape=draw_shape(), halo=st.integers(0, 2), wider=st.integers(0, 4))
@settings(max_examples=25)
def test_with_halo_widens_and_never_narrows(shape, halo, wider):
    plain = numbers(shape)
    array = blocked(plain, halo)
    other = array.with_halo(wider)
    assert other.halo == max(halo, wider) and (other is array) == (wider <= halo)
    assert_sound(other)
    np.testing.assert_array_equal(other.to_plain(), plain)


def test_recycled_buffers_keep_halo_and_dead_lanes_zero():
    for seed in range(3):
        array = blocked(numbers((2, 5, 3, 4), seed))
        address = array.address
        del array
    assert blocked(numbers((2, 5, 3, 4))).address == address


def test_a_buffer_that_someone_looks_at_is_not_recycled():
    array = blocked(numbers((1, 16, 3, 3), 1))
    view = array.data[0]
    before = view.copy()
    del array
    others = [blocked(numbers((1, 16, 3, 3), seed)) for seed in range(2, 6)]
    np.testing.assert_array_equal(view, before)
    assert len({other.address for other in others}) == 4


def test_as_blocked_leaves_blocked_arrays_alone():
    array = blocked(numbers((1, 3, 4, 4)))
    assert as_blocked(array) is array
    np.testing.assert_array_equal(as_blocked(numbers((1, 3, 4, 4))).to_plain(), array.to_plain())


def test_sums_and_copies_are_new_arrays():
    a, b = numbers((2, 19, 4, 3), 1), numbers((2, 19, 4, 3), 2)
    left, right = blocked(a), blocked(b, 2)
    total = left.add(right)
    np.testing.assert_array_equal(total.to_plain(), a + b)
    assert_sound(total)
    copy = left.copy()
    copy.iadd(right)
    np.testing.assert_array_equal(copy.to_plain(), a + b)
    np.testing.assert_array_equal(left.to_plain(), a)
