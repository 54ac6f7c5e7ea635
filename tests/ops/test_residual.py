"""residual_relu against PyTorch's relu(a + b)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.autograd import gradcheck, gradgradcheck
from minires.errors import DTypeError, ShapeError
from minires.kernels import reference
from minires.ops.residual import residual_relu
from minires.tensor import Tensor
from tests.strategies import in_memory_form, memory_forms, shapes, values
from tests.torch_oracle import compare, torch


@given(
    shape=shapes(1, 4, 0, 4),
    dtype=st.sampled_from(["float32", "float64"]),
    forms=st.tuples(memory_forms(), memory_forms()),
    seed=st.integers(0, 50),
)
@settings(deadline=None, max_examples=60)
def test_residual_relu_equals_torch(shape, dtype, forms, seed):
    arrays = [in_memory_form(values(shape, seed + k).astype(dtype), form) for k, form in enumerate(forms)]
    # A square behind it makes the second derivative more than zero.
    compare(lambda a, b: residual_relu(a, b) ** 2, lambda a, b: torch.relu(a + b) ** 2, *arrays, dtype=dtype, n=4)


def test_residual_relu_without_dimensions_equals_torch():
    compare(lambda a, b: residual_relu(a, b) ** 2, lambda a, b: torch.relu(a + b) ** 2, np.array(1.5), np.array(-0.5))


def test_residual_relu_derivatives_by_finite_differences():
    a, b = (Tensor(values((3, 4), k), requires_grad=True) for k in (1, 2))
    assert gradcheck(lambda a, b: residual_relu(a, b) ** 2, (a, b))
    assert gradgradcheck(lambda a, b: residual_relu(a, b) ** 2, (a, b))


def test_residual_relu_at_zero_nan_and_infinity_equals_torch():
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan])
    a, b = (grid.ravel().copy() for grid in np.meshgrid(special, special))
    compare(residual_relu, lambda a, b: torch.relu(a + b), a, b)


def test_residual_relu_sends_one_gradient_to_both_branches():
    a, b = (Tensor(values((2, 3), k), requires_grad=True) for k in (1, 2))
    residual_relu(a, b).sum().backward()
    np.testing.assert_array_equal(a.grad.array, b.grad.array)
    np.testing.assert_array_equal(a.grad.array, (a.array + b.array > 0).astype(float))
    a.grad.array[...] = 7  # and the two must not share memory
    assert not (b.grad.array == 7).any()


def test_residual_relu_of_one_tensor_twice():
    compare(lambda a: residual_relu(a, a), lambda a: torch.relu(a + a), values((5,)))


@pytest.mark.usefixtures("reference_kernels")
def test_residual_relu_uses_the_kernel_set(monkeypatch):
    calls = []
    for name in ("residual_relu_forward", "residual_relu_backward"):
        real = getattr(reference, name)
        monkeypatch.setattr(reference, name, lambda *a, n=name, r=real: calls.append(n) or r(*a))
    a, b = (Tensor(values((2, 3), k), requires_grad=True) for k in (1, 2))
    residual_relu(a, b).sum().backward()
    assert calls == ["residual_relu_forward", "residual_relu_backward"]


def test_residual_relu_refuses():
    a = Tensor(values((2, 3)))
    with pytest.raises(
        ShapeError,
        match=r"residual_relu: shortcut must have input's shape \(2, 3\), got \(1, 3\); give the block a projection",
    ):
        residual_relu(a, a[:1])
    with pytest.raises(DTypeError, match="residual_relu: shortcut must be a Tensor, got float"):
        residual_relu(a, 1.0)
    with pytest.raises(DTypeError, match="residual_relu: input needs a floating dtype, got int64"):
        residual_relu(a.long(), a.long())
    with pytest.raises(
        DTypeError, match="residual_relu: all tensors need one dtype, got input float64, shortcut float32"
    ):
        residual_relu(a, a.float())
