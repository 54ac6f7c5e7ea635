"""kernels/cpu/optimizer.py: the reference's steps, over parameters of all sizes at once."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")

from minires.kernels import reference
from minires.kernels.cpu import optimizer as kernels
from tests.kernels.cpu.blocked import numbers
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("workers")

# One number, less than a vector, a vector and a rest, whole chunks, and a rest behind chunks.
SHAPES = [(), (0, 3), (7,), (16,), (5, 7), (2, kernels.CHUNK), (3, 3, 7001)]


def parameters(seed, shapes=SHAPES):
    return [numbers(shape, seed + k) for k, shape in enumerate(shapes)]


def copies(arrays, dtype):
    return [np.array(a, dtype) for a in arrays]


def assert_all_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == np.float32
        assert_close(a, e, "float32")


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    "momentum, dampening, nesterov", [(0.0, 0.0, False), (0.9, 0.0, False), (0.8, 0.3, False), (0.9, 0.0, True)]
)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd_step_is_the_references(momentum, dampening, nesterov, weight_decay, maximize):
    start, results = parameters(0), []
    for module, dtype in ((kernels, np.float32), (reference, np.float64)):
        params = copies(start, dtype)
        buffers = [np.full_like(p, np.nan) for p in params] if momentum else []  # never read before they are written
        for step in range(3):
            grads = copies(parameters(100 * (step + 1)), dtype)
            before = copies(grads, dtype)
            first = [step == 0] * len(params) if momentum else []
            module.sgd_step(params, grads, buffers, first, 0.1, momentum, dampening, weight_decay, nesterov, maximize)
            for g, b in zip(grads, before, strict=True):
                np.testing.assert_array_equal(g, b)
        results.append([*params, *buffers])
    assert_all_close(*results)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("weight_decay, decoupled", [(0.0, False), (0.1, False), (0.1, True)])
def test_adam_step_is_the_references(amsgrad, weight_decay, decoupled, maximize):
    start, results = parameters(0), []
    for module, dtype in ((kernels, np.float32), (reference, np.float64)):
        params = copies(start, dtype)
        means, squares, largest = ([np.zeros_like(p) for p in params] for _ in range(3))
        for step in range(3):
            grads = copies(parameters(100 * (step + 1)), dtype)
            steps = [float(step + 1 + k) for k in range(len(params))]  # each parameter has its own count
            module.adam_step(
                params, grads, means, squares, largest if amsgrad else [], steps,
                0.01, 0.9, 0.999, 1e-8, weight_decay, decoupled, maximize,
            )  # fmt: skip
        results.append([*params, *means, *squares, *largest])
    assert_all_close(*results)


def test_steps_of_other_dtypes_and_forms_are_the_references():
    """float64 and strided parameters among the others, each updated in its own memory."""
    results = []
    for module in (kernels, reference):
        params = [numbers((40, 40), 1)[::2, 1:], numbers((9,), 2).astype(np.float64), numbers((33,), 3)]
        grads = [numbers(p.shape, 4).astype(p.dtype) for p in params]
        buffers, means, squares = ([np.zeros_like(p) for p in params] for _ in range(3))
        module.sgd_step(params, grads, buffers, [True, False, False], 0.1, 0.9, 0.0, 0.0, False, False)
        module.adam_step(params, grads, means, squares, [], [1.0] * 3, 0.1, 0.9, 0.99, 1e-8, 0.0, False, False)
        results.append([*params, *buffers, *means, *squares])
    for a, e in zip(*results, strict=True):
        assert a.dtype == e.dtype
        assert_close(a, e, "float32")


def test_steps_without_parameters_do_nothing():
    kernels.sgd_step([], [], [], [], 0.1, 0.9, 0.0, 0.0, False, False)
    kernels.adam_step([], [], [], [], [], [], 0.1, 0.9, 0.99, 1e-8, 0.0, False, False)
