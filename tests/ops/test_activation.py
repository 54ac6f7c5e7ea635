"""Activations against PyTorch: values, first and second derivatives; at the kinks, at NaN and infinity; in place."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError
from minires.ops import activation as ours
from minires.ops.erf import erf, erf_array
from minires.tensor import Tensor
from tests.strategies import in_memory_form, memory_forms, shapes, values
from tests.tolerances import tolerance
from tests.torch_oracle import compare, torch

F = torch.nn.functional
# name: (ours, torch's, the points where the derivative jumps)
ACTIVATIONS = {
    "relu": (ours.relu, F.relu, [0]),
    "leaky_relu": (lambda x: ours.leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, 0.2), [0]),
    "leaky_relu negative": (lambda x: ours.leaky_relu(x, -0.3), lambda x: F.leaky_relu(x, -0.3), [0]),
    "elu": (ours.elu, F.elu, [0]),
    "elu alpha": (lambda x: ours.elu(x, 0.7), lambda x: F.elu(x, 0.7), [0]),
    "sigmoid": (ours.sigmoid, torch.sigmoid, []),
    "tanh": (ours.tanh, torch.tanh, []),
    "silu": (ours.silu, F.silu, []),
    "gelu": (ours.gelu, F.gelu, []),
    "gelu tanh": (lambda x: ours.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh"), []),
    "softplus": (ours.softplus, F.softplus, []),
    "softplus beta": (lambda x: ours.softplus(x, 2.0, 1.0), lambda x: F.softplus(x, 2.0, 1.0), [0.5]),
    "logsigmoid": (ours.logsigmoid, F.logsigmoid, []),
    "mish": (ours.mish, F.mish, []),
    "hardtanh": (ours.hardtanh, F.hardtanh, [-1, 1]),
    "hardtanh bounds": (lambda x: ours.hardtanh(x, -0.5, 2), lambda x: F.hardtanh(x, -0.5, 2), [-0.5, 2]),
    "relu6": (ours.relu6, F.relu6, [0, 6]),
    "hardsigmoid": (ours.hardsigmoid, F.hardsigmoid, [-3, 3]),
    "hardswish": (ours.hardswish, F.hardswish, [-3, 3]),
    "erf": (erf, torch.erf, []),
}
NO_SECOND = {"hardsigmoid"}  # torch has no second derivative of it; finite differences judge ours
IN_PLACE = {
    name: getattr(ours, name)
    for name in ("relu", "leaky_relu", "elu", "silu", "mish", "hardtanh", "relu6", "hardsigmoid", "hardswish")
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(
    shape=shapes(1, 3, 0, 4),
    dtype=st.sampled_from(["float32", "float64"]),
    form=memory_forms(),
    width=st.sampled_from([1.0, 8.0]),
    seed=st.integers(0, 20),
)
@settings(deadline=None, max_examples=12)
def test_activation_equals_torch(name, shape, dtype, form, width, seed):
    mine, theirs, _ = ACTIVATIONS[name]
    x = in_memory_form(values(shape, seed, -width, width).astype(dtype), form)
    compare(lambda x: mine(x) * x, lambda x: theirs(x) * x, x, dtype=dtype, n=64, second=name not in NO_SECOND)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_without_dimensions_equals_torch(name):
    mine, theirs, _ = ACTIVATIONS[name]
    compare(mine, theirs, np.array(0.7), second=name not in NO_SECOND)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_derivatives_by_finite_differences(name):
    mine, _, kinks = ACTIVATIONS[name]
    x = np.array([-7.3, -3.1, -2.2, -0.8, -0.1, 0.05, 0.3, 1.4, 2.9, 3.2, 6.7])
    assert not kinks or np.abs(x[:, None] - np.array(kinks)).min() > 1e-3  # differences across a kink mean nothing
    assert gradcheck(mine, Tensor(x, requires_grad=True))
    assert gradgradcheck(lambda x: mine(x) * x, Tensor(x, requires_grad=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name, case in ACTIVATIONS.items() if case[2]])
def test_activation_at_its_kinks_equals_torch(name, dtype):
    mine, theirs, kinks = ACTIVATIONS[name]
    points = np.array([*kinks, *np.nextafter(kinks, 99), *np.nextafter(kinks, -99), 0.0, -0.0], dtype)
    compare(mine, theirs, points, dtype=dtype, second=False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_nan_is_nan(name, dtype):
    mine, _, _ = ACTIVATIONS[name]
    y = mine(Tensor(np.array([np.nan, 1.0], dtype)))
    assert np.isnan(y.array[0]) and np.isfinite(y.array[1]) and y.array.dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_large_numbers_and_infinity_equals_torch(name, dtype):
    """Values and, where they are finite in torch, gradients. (At an infinity itself several of torch's are NaN.)"""
    mine, theirs, _ = ACTIVATIONS[name]
    compare(mine, theirs, np.array([-1e4, -800.0, -90.0, 90.0, 800.0, 1e4], dtype), dtype=dtype, second=False)
    # In float32 torch's answer at an infinity is the processor's: with AVX-512 its gelu(inf) is NaN. Float64 judges.
    ends = np.array([-np.inf, np.inf, -1e30, 1e30], dtype)
    compare(mine, lambda x: theirs(x.double()).to(x.dtype), ends, dtype=dtype, gradients=False)


@pytest.mark.parametrize("name", ["relu", "hardtanh", "relu6"])
def test_activation_nan_and_infinity_in_backward_equal_torch(name):
    """A selection, not a product: an infinite gradient does not leak through a closed gate as inf * 0 = NaN."""
    mine, theirs, _ = ACTIVATIONS[name]
    x = np.array([-1.0, 0.0, 0.5, np.nan, 7.0])
    for bad in (np.inf, np.nan):
        t, twin = Tensor(x.copy(), requires_grad=True), torch.tensor(x, requires_grad=True)
        mine(t).backward(Tensor(np.full(5, bad)))
        theirs(twin).backward(torch.full((5,), bad, dtype=torch.float64))
        np.testing.assert_array_equal(t.grad.array, twin.grad.numpy())


@pytest.mark.parametrize("name", IN_PLACE)
def test_activation_in_place_writes_the_input_and_gives_the_same_gradient(name):
    function = IN_PLACE[name]
    start = values((4, 5), 3, -8, 8)
    expected = Tensor(start.copy(), requires_grad=True)
    (function(expected * 1) ** 2).sum().backward()
    leaf = Tensor(start.copy(), requires_grad=True)
    x = leaf * 1
    memory = x.array
    y = function(x, inplace=True)
    assert y is x and y.array is memory
    np.testing.assert_array_equal(y.array, function(Tensor(start)).array)
    (y**2).sum().backward()
    np.testing.assert_allclose(leaf.grad.array, expected.grad.array, **tolerance("float64"))


def test_relu_in_place_by_name():
    x = Tensor(np.array([-1.0, 2.0]))
    assert ours.relu_(x) is x
    np.testing.assert_array_equal(x.array, [0, 2])


def test_relu_takes_integers():
    y = ours.relu(Tensor(np.array([-2, 0, 3])))
    np.testing.assert_array_equal(y.array, [0, 0, 3])
    assert y.array.dtype == np.int64


def test_erf_equals_the_c_library():
    x = np.concatenate([np.linspace(-7, 7, 20001), np.logspace(-300, 0, 500), [0.46875, 4.0, 40.0, 1e300]])
    exact = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(erf_array(np, x), exact, rtol=1e-15, atol=0)
    single = x[:-1].astype(np.float32)
    got = erf_array(np, single)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [math.erf(v) for v in single], rtol=1e-7, atol=1e-45)


def test_erf_is_odd_at_zero_and_infinity():
    y = erf_array(np, np.array([0.0, -0.0, np.inf, -np.inf]))
    np.testing.assert_array_equal(y, [0, 0, 1, -1])
    np.testing.assert_array_equal(np.signbit(y), [False, True, False, True])


def test_activation_refuses():
    x = Tensor(np.arange(3))
    for name in ("sigmoid", "tanh", "elu", "softplus", "mish", "hardswish", "leaky_relu", "silu", "gelu"):
        with pytest.raises(DTypeError, match=f"{name}: input needs a floating dtype, got int64"):
            getattr(ours, name)(x)
    with pytest.raises(DTypeError, match="erf: input needs a floating dtype, got int64"):
        erf(x)
    with pytest.raises(DTypeError, match="erf: input must be a Tensor, got float"):
        erf(1.0)
    with pytest.raises(DTypeError, match="relu: input must be a Tensor, got list"):
        ours.relu([1.0])
    with pytest.raises(DTypeError, match="tanh: input must be a Tensor, got float"):
        ours.tanh(1.0)
    with pytest.raises(ArgumentError, match="gelu: approximate must be 'none' or 'tanh', got 'fast'"):
        ours.gelu(x.double(), approximate="fast")
    with pytest.raises(ArgumentError, match="hardtanh: min_val must not exceed max_val, got min_val = 2, max_val = 1"):
        ours.hardtanh(x.double(), 2, 1)
