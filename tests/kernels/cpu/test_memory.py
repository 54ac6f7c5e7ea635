"""The pool of buffers."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from minires.kernels.cpu.layout import Blocked
from minires.kernels.cpu.memory import _STALE, Pool, aligned, pool, usable_memory


@pytest.mark.parametrize("count", [0, 1, 1000, 3 << 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_aligned_gives_writable_zeros_at_a_multiple_of_64_bytes(count, dtype):
    array = aligned(count, dtype)
    assert array.shape == (count,) and array.dtype == dtype
    assert count == 0 or array.ctypes.data % 64 == 0
    assert not array.any()
    array[...] = 1


def test_a_returned_buffer_serves_its_own_key_only():
    small = Pool()
    first = small.take("a", 10, np.float32)
    small.give("a", first)
    assert small.take("b", 10, np.float32) is not first
    assert small.take("a", 10, np.float32) is first
    assert small.take("a", 10, np.float32) is not first  # it is out


def test_bytes_are_counted():
    counted = Pool()
    buffers = [counted.take("k", 100, np.float32) for _ in range(3)]
    assert (counted.used_bytes, counted.free_bytes, counted.peak_bytes) == (1200, 0, 1200)
    for buffer in buffers[:2]:
        counted.give("k", buffer)
    assert (counted.used_bytes, counted.free_bytes, counted.peak_bytes) == (400, 800, 1200)
    counted.clear()
    counted.reset_peak()
    assert (counted.used_bytes, counted.free_bytes, counted.peak_bytes) == (400, 0, 400)


def test_what_waits_stays_below_the_limit_and_the_longest_unused_goes_first():
    limited = Pool(limit_bytes=1000)
    kept = {key: limited.take(key, 100, np.float32) for key in "abc"}
    for key in "abc":
        limited.give(key, kept[key])
    assert limited.free_bytes == 800
    assert limited.take("c", 100, np.float32) is kept["c"] and limited.take("b", 100, np.float32) is kept["b"]
    assert limited.take("a", 100, np.float32) is not kept["a"]


def test_keys_that_nobody_asks_for_are_given_back_when_the_pool_grows():
    growing = Pool()
    growing.give("before", growing.take("before", 1000, np.float32))
    for _ in range(_STALE + 1):
        growing.give("now", growing.take("now", 10, np.float32))
    assert growing.free_bytes == 4040  # nothing grew: nothing was dropped
    growing.take("next", 10, np.float32)
    assert growing.free_bytes == 40


def test_the_limit_is_a_part_of_the_machine():
    assert 1 << 28 < usable_memory() < 1 << 50
    assert Pool().limit_bytes == usable_memory() // 4


def test_finalizers_may_return_buffers_in_the_midst_of_a_take(monkeypatch):
    """A garbage collection runs wherever memory is asked for, here inside `take`."""
    inner = Pool()
    lost = inner.take("k", 8, np.float32)
    make = aligned

    def collecting(count, dtype):
        inner.give("k", lost)  # as a finalizer would
        return make(count, dtype)

    monkeypatch.setattr("minires.kernels.cpu.memory.aligned", collecting)
    inner.take("other", 4, np.float32)
    assert (inner.used_bytes, inner.free_bytes) == (16, 32)
    assert inner.take("k", 8, np.float32) is lost


def test_threads_never_hold_the_same_buffer():
    shared, failures = Pool(), []

    def work(number: int) -> None:
        for turn in range(300):
            buffer = shared.take("k", 64, np.float32)
            buffer[...] = number * 1000 + turn
            if not (buffer == number * 1000 + turn).all():
                failures.append(number)
            shared.give("k", buffer)

    everyone = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in everyone:
        thread.start()
    for thread in everyone:
        thread.join()
    assert not failures and shared.used_bytes == 0


LOOKS = {
    "data": lambda image: image.data,
    "view": lambda image: image.data[0],
    "slice of a view": lambda image: image.data[0][:, 1:3],
    "memoryview": lambda image: memoryview(image.data),
    "reshaped": lambda image: [image.data.reshape(-1)],
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("side", [7, 200])  # an ordinary buffer, and a mapped one
def test_memory_that_somebody_looks_at_is_never_recycled(look, side):
    plain = np.arange(16 * 5 * side, dtype=np.float32).reshape(1, 16, 5, side).repeat(40, 0)
    image = Blocked.from_plain(plain)
    seen = LOOKS[look](image)
    before = np.array(seen)
    del image
    gc.collect()
    others = [Blocked.from_plain(plain + 100) for _ in range(3)]
    np.testing.assert_array_equal(np.array(seen), before)
    assert len(others) == 3


def test_memory_that_nobody_looks_at_is_recycled():
    pool.clear()
    plain = np.ones((1, 16, 6, 7), np.float32)
    image = Blocked.from_plain(plain)
    address = image.address
    del image
    assert Blocked.from_plain(plain).address == address
