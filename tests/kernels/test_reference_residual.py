"""The reference ReLU and residual join against PyTorch, NaN and infinities included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minires.kernels.reference import relu_backward, relu_forward, residual_relu_backward, residual_relu_forward
from tests.kernels.memory import assert_same_in_every_form
from tests.torch_oracle import torch

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -1.5, 1e-45, -1e-45]


@st.composite
def pairs(draw):
    """Two arrays of one shape and dtype, special values in them."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    elements = st.one_of(st.sampled_from(SPECIAL), st.floats(-3, 3, width=32))
    return tuple(draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(2))


@given(pairs())
def test_relu_equals_torch(arrays):
    x, grad_y = arrays
    t = torch.tensor(x, requires_grad=True)
    wanted = torch.relu(t)
    y = relu_forward(x)
    np.testing.assert_array_equal(y, wanted.detach().numpy())
    grad_x = relu_backward(grad_y, np.asarray(y))
    np.testing.assert_array_equal(grad_x, torch.autograd.grad(wanted, t, torch.tensor(grad_y))[0].numpy())
    assert grad_x.dtype == x.dtype and grad_x.shape == x.shape


def test_relu_backward_drops_an_infinite_gradient():
    grad_x = relu_backward(np.array([np.inf, np.nan, np.inf]), np.array([0.0, 0.0, 2.0]))
    np.testing.assert_array_equal(grad_x, [0, 0, np.inf])


@given(pairs())
def test_residual_relu_equals_torch(arrays):
    x, shortcut = arrays
    with np.errstate(invalid="ignore"):  # inf - inf in the sum
        y = residual_relu_forward(x, shortcut)
    wanted = torch.relu(torch.tensor(x) + torch.tensor(shortcut)).numpy()
    np.testing.assert_array_equal(y, wanted)
    assert y.dtype == x.dtype and y.shape == x.shape
    np.testing.assert_array_equal(residual_relu_backward(shortcut, y), relu_backward(shortcut, y))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_residual_takes_every_memory_form(dtype):
    random = np.random.default_rng(0)
    x, shortcut = (random.standard_normal((2, 3, 4)).astype(dtype) for _ in range(2))
    assert_same_in_every_form(relu_forward, x)
    assert_same_in_every_form(relu_backward, x, shortcut)
    assert_same_in_every_form(residual_relu_forward, x, shortcut)
    assert_same_in_every_form(residual_relu_backward, x, shortcut)
