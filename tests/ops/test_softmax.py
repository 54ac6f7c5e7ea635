"""softmax and log_softmax against PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import DTypeError, LabelError
from minires.kernels import reference
from minires.ops.softmax import log_softmax, softmax
from minires.tensor import Tensor
from tests.strategies import in_memory_form, memory_forms, shapes, values
from tests.tolerances import assert_close
from tests.torch_oracle import compare, torch

PAIRS = {"softmax": (softmax, torch.softmax), "log_softmax": (log_softmax, torch.log_softmax)}


@pytest.mark.parametrize("name", PAIRS)
@given(
    shape=shapes(1, 4, 0, 4),
    dim=st.integers(-4, 3),
    dtype=st.sampled_from(["float32", "float64"]),
    form=memory_forms(),
    seed=st.integers(0, 20),
)
@settings(deadline=None, max_examples=40)
def test_softmax_equals_torch(name, shape, dim, dtype, form, seed):
    ours, theirs = PAIRS[name]
    dim = dim % len(shape) if dim >= 0 else -(-dim % len(shape)) or -1
    x = in_memory_form(values(shape, seed, -5, 5).astype(dtype), form)
    compare(lambda x: ours(x, dim), lambda x: theirs(x, dim), x, dtype=dtype, n=64)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dim", [0, -1])
def test_softmax_without_dimensions_equals_torch(name, dim):
    ours, theirs = PAIRS[name]
    compare(lambda x: ours(x, dim), lambda x: theirs(x, dim), np.array(3.0))


@pytest.mark.parametrize("name", PAIRS)
def test_softmax_derivatives_by_finite_differences(name):
    ours, _ = PAIRS[name]
    x = Tensor(values((2, 3, 2)), requires_grad=True)
    for dim in range(3):
        assert gradcheck(lambda x, d=dim: ours(x, d), x)
        assert gradgradcheck(lambda x, d=dim: ours(x, d), x)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    "row", [[1e300, 0, -1e300], [-np.inf, 0, 1], [-np.inf] * 3, [np.inf, 0, 1], [np.nan, 0, 1], [2, 2, 2]]
)
def test_softmax_at_the_edges_equals_torch(name, row):
    ours, theirs = PAIRS[name]
    compare(lambda x: ours(x, 1), lambda x: theirs(x, 1), np.array([row, [0, 1, 2]], float), second=False)


def test_log_softmax_keeps_what_the_logarithm_of_softmax_loses():
    x = Tensor(np.array([[0.0, -200.0]], np.float32))
    assert log_softmax(x, 1).array[0, 1] == -200
    assert softmax(x, 1).array[0, 1] == 0


@pytest.mark.parametrize("name", PAIRS)
def test_softmax_converts_to_dtype_first(name):
    ours, theirs = PAIRS[name]
    x = np.array([1, 2, 3])
    y = ours(Tensor(x), 0, dtype=minires.float64)
    assert_close(y.array, theirs(torch.tensor(x), 0, dtype=torch.float64).numpy(), "float64")


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_softmax_without_dim_warns_and_does_as_torch(name, rank):
    ours, theirs = PAIRS[name]
    x = values((2, 3, 2, 2)[:rank])
    implicit = 0 if rank in (1, 3) else 1
    with pytest.warns(UserWarning, match=f"{name}: dim was not given, so dim={implicit} is taken"):
        y = ours(Tensor(x))
    assert_close(y.array, theirs(torch.tensor(x), implicit).numpy(), "float64")


@pytest.mark.usefixtures("reference_kernels")
def test_softmax_uses_the_kernel_set(monkeypatch):
    calls = []
    for name in ("softmax_forward", "softmax_backward", "log_softmax_forward", "log_softmax_backward"):
        real = getattr(reference, name)
        monkeypatch.setattr(reference, name, lambda *a, n=name, r=real: calls.append(n) or r(*a))
    x = Tensor(values((2, 3)), requires_grad=True)
    (softmax(x, 1) * log_softmax(x, 1)).sum().backward()
    assert sorted(calls) == ["log_softmax_backward", "log_softmax_forward", "softmax_backward", "softmax_forward"]


def test_softmax_refuses():
    x = Tensor(values((2, 3)))
    for name, (ours, _) in PAIRS.items():
        with pytest.raises(LabelError, match=f"{name}: dim must be from -2 to 1 for a tensor of 2 dimensions, got 2"):
            ours(x, 2)
        with pytest.raises(DTypeError, match=f"{name}: input needs a floating dtype, got int64"):
            ours(x.long(), 1)
        with pytest.raises(DTypeError, match=f"{name}: input must be a Tensor, got ndarray"):
            ours(x.array, 1)
