"""A rehearsal goes the kernels' way without their numbers."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from minires.kernels import cpu
from minires.kernels.cpu import conv, tasks
from minires.kernels.cpu.layout import Blocked
from minires.kernels.cpu.memory import pool
from minires.kernels.cpu.rehearsal import at_batch, rehearse
from minires.kernels.geometry import Conv2dGeometry


def geometry(n: int, c_in: int = 16, c_out: int = 32, size: int = 12) -> Conv2dGeometry:
    return Conv2dGeometry(n, c_in, size, size, c_out, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1)


def one_layer(g: Conv2dGeometry) -> None:
    """A convolution, batch norm with ReLU, and all of their backward passes."""
    x = Blocked(g.x_shape)
    weight = np.zeros(g.weight_shape, np.float32)
    y = cpu.conv2d_forward(x, weight, None, g)
    z, mean, var = cpu.batch_norm_relu_train(y, None, None, 1e-5)
    grad_y = cpu.batch_norm_relu_train_backward(z, z, y, None, mean, var, 1e-5, False)[0]
    cpu.conv2d_backward_weight(grad_y, x, g)
    cpu.conv2d_backward_x(grad_y, weight, g)


@pytest.fixture
def nothing_runs(monkeypatch):
    def run(*_):
        raise AssertionError("a task ran")

    monkeypatch.setattr(tasks, "_run", run)
    monkeypatch.setattr(tasks, "compiled", run)


def test_a_rehearsal_runs_and_compiles_nothing(nothing_runs):
    with rehearse(2, 2) as rehearsal:
        one_layer(geometry(2))
    assert rehearsal.events
    with pytest.raises(AssertionError, match="a task ran"):
        one_layer(geometry(2))


def test_a_rehearsal_takes_what_the_kernels_take(monkeypatch):
    """The same buffers, under the same keys, in the same order."""
    taken = []
    take = pool.take

    def watched(key, count, dtype):
        taken.append(key)
        return take(key, count, dtype)

    monkeypatch.setattr(pool, "take", watched)
    one_layer(geometry(3))
    computed, taken[:] = list(taken), []
    with rehearse(3, 3) as rehearsal:
        one_layer(geometry(3))
    assert taken == computed
    assert [event.key for event in rehearsal.events if event.key is not None and event.size] == computed


def test_a_rehearsal_counts_what_is_touched(nothing_runs):
    """Scratch buffers are rounded up to powers of two; memory that nobody writes to is none."""
    with rehearse(2, 2) as rehearsal:
        one_layer(geometry(2, 48, 48))
    sizes = [event.size for event in rehearsal.events if event.size and event.key and event.key[0] == "scratch"]
    rooms = [4 * event.key[1] for event in rehearsal.events if event.size and event.key and event.key[0] == "scratch"]
    assert sizes and all(size <= room for size, room in zip(sizes, rooms, strict=True)) and sum(sizes) < sum(rooms)


def test_every_buffer_that_comes_goes(nothing_runs):
    with rehearse(2, 2) as rehearsal:
        one_layer(geometry(2))
        ended = [event.buffer for event in rehearsal.events if not event.size]
    begun = [event.buffer for event in rehearsal.events if event.size]
    assert sorted(ended) == sorted(begun) and len(set(begun)) == len(begun)


def test_algorithms_are_chosen_for_the_batch_that_is_meant(monkeypatch, nothing_runs):
    asked = []
    monkeypatch.setattr(conv, "_algorithm", lambda g, purpose: asked.append(g.n) or 0)
    with rehearse(2, 50):
        one_layer(geometry(2))
        assert at_batch(geometry(4)).n == 100  # a model that makes two images of one
    assert asked == [50, 50, 50]
    assert at_batch(geometry(4)).n == 4


def test_other_threads_compute_meanwhile():
    x = np.ones((1, 16, 4, 4), np.float32)
    found = []

    def elsewhere():
        found.append(float(Blocked.from_plain(x).to_plain().sum()))

    with rehearse(1, 1) as rehearsal:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert not rehearsal.events
    assert found == [256.0]


def test_a_rehearsal_leaves_no_buffers_waiting():
    with rehearse(2, 2):
        one_layer(geometry(2))
    assert pool.free_bytes == 0


def test_a_rehearsal_in_a_rehearsal_is_refused():
    with rehearse(1, 1), pytest.raises(RuntimeError, match="a rehearsal is going on already"), rehearse(1, 1):
        pass
