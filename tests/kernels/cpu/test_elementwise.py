"""kernels/cpu/elementwise.py: exact, so bits are compared; any halo, any shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")

from minires.kernels import reference
from minires.kernels.cpu import elementwise as kernels
from minires.kernels.cpu.layout import Blocked
from tests.kernels.cpu.blocked import Unchanged, assert_sound, blocked, draw_shape, numbers

pytestmark = pytest.mark.usefixtures("workers", "poisoned_pool")
any_shape = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38], np.float32)


def sprinkled(shape, seed):
    """Numbers with NaN, infinities, zeros of both signs and the smallest and largest among them."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), rng.standard_normal(shape)).astype(np.float32)


def assert_same(actual, expected):
    """Equal values, NaN in the same places; the sign of a zero is nobody's business."""
    assert_sound(actual)
    assert actual.halo == 1
    np.testing.assert_array_equal(actual.to_plain(), expected)


def check(shape, halo):
    a, b = sprinkled(shape, 1), sprinkled(shape, 2)
    x, other = blocked(a, halo), blocked(b)
    with Unchanged(x, other), np.errstate(all="ignore"):
        assert_same(kernels.relu_forward(x), reference.relu_forward(a))
        assert_same(kernels.relu_backward(x, other), reference.relu_backward(a, b))
        assert_same(kernels.residual_relu_forward(x, other), reference.residual_relu_forward(a, b))
        assert_same(kernels.residual_relu_backward(x, other), reference.residual_relu_backward(a, b))
        assert_same(kernels.add(x, other), a + b)
        assert_same(kernels.copy(x), a)
    changed = kernels.copy(x)
    with Unchanged(other), np.errstate(all="ignore"):
        kernels.iadd(changed, other)
        assert_same(changed, a + b)


@any_shape
@given(draw_shape(), st.sampled_from([0, 1, 3]))
def test_elementwise_any_shape(shape, halo):
    check(shape, halo)


@pytest.mark.parametrize("shape", [(70, 20, 8, 8), (2, 17, 70, 61), (5000, 3, 1, 1)])
def test_elementwise_many_pieces(shape):
    check(shape, 1)


def test_copy_has_memory_of_its_own():
    x = blocked(numbers((2, 16, 3, 3)))
    copy, before = kernels.copy(x), x.to_plain()
    kernels.iadd(x, x)
    np.testing.assert_array_equal(copy.to_plain(), before)
    np.testing.assert_array_equal(x.to_plain(), 2 * before)


def test_elementwise_empty_batch():
    x = Blocked((0, 20, 3, 4))
    for y in (kernels.relu_forward(x), kernels.relu_backward(x, x), kernels.add(x, x), kernels.copy(x)):
        assert y.shape == x.shape
