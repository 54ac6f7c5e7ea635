"""The reference softmax and cross-entropy kernels against PyTorch in float64, and at the edges of the number range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.kernels.reference import (
    cross_entropy_backward,
    cross_entropy_forward,
    log_softmax_backward,
    log_softmax_forward,
    softmax_backward,
    softmax_forward,
)
from tests.kernels.memory import assert_same_in_every_form
from tests.tolerances import tolerance
from tests.torch_oracle import torch

KERNELS = {
    "softmax": (softmax_forward, softmax_backward, torch.softmax),
    "log_softmax": (log_softmax_forward, log_softmax_backward, torch.log_softmax),
}


@pytest.mark.parametrize("name", KERNELS)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    axis=st.integers(0, 3),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_softmax_equals_torch(name, shape, axis, dtype, seed):
    forward, backward, oracle = KERNELS[name]
    axis %= len(shape)
    random = np.random.default_rng(seed)
    x, grad_y = (4 * random.standard_normal(shape).astype(dtype) for _ in range(2))
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    wanted = oracle(t, axis)
    (wanted_grad,) = torch.autograd.grad(wanted, t, torch.tensor(grad_y, dtype=torch.float64))
    y = forward(x, axis)
    grad_x = backward(grad_y, y, axis)
    assert y.dtype == grad_x.dtype == dtype
    np.testing.assert_allclose(y, wanted.detach().numpy(), **tolerance(dtype, shape[axis]))
    np.testing.assert_allclose(grad_x, wanted_grad.numpy(), **tolerance(dtype, 16 * shape[axis]))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    "row",
    [
        [1e30, 0.0, -1e30],
        [1000.0, 1000.0, -np.inf],
        [-1000.0, -1001.0, -1002.0],
        [-np.inf, -np.inf, -np.inf],
        [np.inf, 0.0, 1.0],
        [np.nan, 0.0, 1.0],
    ],
)
def test_softmax_at_the_edges_equals_torch(name, row):
    forward, _, oracle = KERNELS[name]
    x = np.array([row, [0.0, 1.0, 2.0]], np.float32)
    np.testing.assert_allclose(forward(x, 1), oracle(torch.tensor(x), 1).numpy(), **tolerance("float32", 3))


@st.composite
def cross_entropies(draw):
    """(x, target, weight, grad_loss, label_smoothing); some labels are ignored (-100)."""
    n, c = draw(st.integers(0, 5)), draw(st.integers(1, 5))
    rest = draw(st.lists(st.integers(0, 3), max_size=2))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    target = random.integers(0, c, (n, *rest))
    target[random.random(target.shape) < 0.2] = -100
    weight = random.uniform(0, 2, c).astype(dtype) if draw(st.booleans()) else None
    x = 3 * random.standard_normal((n, c, *rest)).astype(dtype)
    return x, target, weight, random.standard_normal(target.shape).astype(dtype), draw(st.sampled_from([0.0, 0.1, 1.0]))


@given(cross_entropies())
@settings(deadline=None, max_examples=100)
def test_cross_entropy_equals_torch(case):
    x, target, weight, grad_loss, smoothing = case
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    wanted = torch.nn.functional.cross_entropy(t, torch.tensor(target), w, reduction="none", label_smoothing=smoothing)
    (wanted_grad,) = torch.autograd.grad(wanted, t, torch.tensor(grad_loss, dtype=torch.float64))
    loss, log_p = cross_entropy_forward(x, target, weight, -100, smoothing)
    grad_x = cross_entropy_backward(grad_loss, log_p, target, weight, -100, smoothing)
    assert loss.dtype == log_p.dtype == grad_x.dtype == x.dtype
    n = 4 * x.shape[1]
    np.testing.assert_allclose(loss, wanted.detach().numpy(), **tolerance(x.dtype.name, n))
    np.testing.assert_allclose(log_p, torch.log_softmax(t, 1).detach().numpy(), **tolerance(x.dtype.name, n))
    np.testing.assert_allclose(grad_x, wanted_grad.numpy(), **tolerance(x.dtype.name, n))


def test_cross_entropy_backward_sums_to_zero_over_the_classes():
    """Adding a constant to all logits changes no probability."""
    random = np.random.default_rng(0)
    x, target, weight = random.standard_normal((6, 5)), random.integers(0, 5, 6), random.uniform(0, 2, 5)
    _, log_p = cross_entropy_forward(x, target, weight, -100, 0.1)
    grad_x = cross_entropy_backward(random.standard_normal(6), log_p, target, weight, -100, 0.1)
    np.testing.assert_allclose(grad_x.sum(axis=1), 0, **tolerance("float64", 5))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_ignored_sample_may_hold_nan(smoothing):
    x = np.array([[np.nan, np.inf, 0.0], [0.0, 1.0, 2.0]])
    loss, log_p = cross_entropy_forward(x, np.array([-100, 1]), None, -100, smoothing)
    grad_x = cross_entropy_backward(np.ones(2), log_p, np.array([-100, 1]), None, -100, smoothing)
    assert loss[0] == 0 and np.isfinite(loss[1])
    np.testing.assert_array_equal(grad_x[0], 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_takes_every_memory_form(dtype):
    random = np.random.default_rng(0)
    x, grad_y = (random.standard_normal((4, 3, 2)).astype(dtype) for _ in range(2))
    target = random.integers(0, 3, (4, 2))
    weight = random.uniform(0.5, 2, 3).astype(dtype)
    for axis in range(3):
        for kernel in (softmax_forward, log_softmax_forward):
            assert_same_in_every_form(lambda a, k=kernel, d=axis: k(a, d), x)
        for kernel in (softmax_backward, log_softmax_backward):
            assert_same_in_every_form(lambda a, b, k=kernel, d=axis: k(a, b, d), grad_y, x)
    foreign = np.asfortranarray(target.astype(">i4"))  # the guard's forms are for floating arrays
    for t in (target, foreign):
        assert_same_in_every_form(lambda a, w, t=t: cross_entropy_forward(a, t, w, -100, 0.1), x, weight)
        assert_same_in_every_form(
            lambda g, a, w, t=t: cross_entropy_backward(g, a, t, w, -100, 0.1), grad_y[:, 0], x, weight
        )
