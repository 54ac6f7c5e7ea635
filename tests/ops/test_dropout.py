"""dropout and dropout2d: what is dropped, how often, what the rest becomes, and the gradient."""

import numpy as np
import pytest

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.ops.dropout import dropout, dropout2d
from minires.tensor import Tensor
from tests.strategies import in_memory_form, values
from tests.tolerances import assert_close


@pytest.fixture(autouse=True)
def seeded():
    minires.manual_seed(0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_zeroes_or_scales(p, dtype):
    x = values((100, 200), 1, 1, 2).astype(dtype)
    y = dropout(Tensor(x), p).array
    dropped = y == 0
    assert y.dtype == dtype
    assert_close(y[~dropped], x[~dropped] / (1 - p), dtype)
    deviation = np.sqrt(p * (1 - p) / x.size)
    assert abs(dropped.mean() - p) < 5 * deviation
    assert abs(dropped.mean(axis=0).mean() - p) < 5 * deviation
    assert np.ptp(dropped.sum(axis=0)) > 0 and np.ptp(dropped.sum(axis=1)) > 0  # elements, not rows or columns


@pytest.mark.parametrize("shape", [(50, 40, 3, 3), (50, 40, 5)])
def test_dropout2d_drops_whole_channels(shape):
    x = values(shape, 1, 1, 2)
    y = dropout2d(Tensor(x), 0.3).array
    dropped = (y == 0).reshape(50, 40, -1)
    assert (dropped.all(axis=2) == dropped.any(axis=2)).all()
    share = dropped[:, :, 0].mean()
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 2000)
    assert_close(y[y != 0], x[y != 0] / 0.7, "float64")


@pytest.mark.parametrize("function", [dropout, dropout2d])
def test_dropout_gradient_uses_the_mask_of_its_forward(function):
    x = Tensor(values((4, 5, 3, 3), 1, 1, 2), requires_grad=True)
    y = function(x, 0.4)
    grad_y = values((4, 5, 3, 3), 2)
    y.backward(Tensor(grad_y))
    assert_close(x.grad.array, grad_y * y.array / x.array, "float64")


@pytest.mark.parametrize("function", [dropout, dropout2d])
def test_dropout_derivatives_by_finite_differences(function):
    def deterministic(x):
        minires.manual_seed(3)
        return function(x, 0.4) * x

    x = Tensor(values((2, 3, 2)), requires_grad=True)
    assert gradcheck(deterministic, x)
    assert gradgradcheck(deterministic, x)


@pytest.mark.parametrize("function", [dropout, dropout2d])
def test_dropout_draws_from_the_generator(function):
    x = Tensor(np.ones((8, 8, 2)))
    minires.manual_seed(5)
    first, second = function(x).array, function(x).array
    minires.manual_seed(5)
    np.testing.assert_array_equal(function(x).array, first)
    assert (first != second).any()


@pytest.mark.parametrize("function", [dropout, dropout2d])
def test_dropout_does_nothing_in_evaluation_or_at_zero(function):
    x = Tensor(values((2, 3, 4)))
    before = minires.get_rng_state()
    assert function(x, 0.5, training=False) is x
    assert function(x, 0.0) is x
    assert minires.get_rng_state() == before


@pytest.mark.parametrize("function", [dropout, dropout2d])
def test_dropout_of_everything_is_zero(function):
    x = Tensor(values((2, 3, 4)), requires_grad=True)
    y = function(x, 1.0)
    y.sum().backward()
    assert not y.array.any() and not x.grad.array.any()


@pytest.mark.parametrize("function", [dropout, dropout2d])
def test_dropout_in_place(function):
    leaf = Tensor(values((4, 5, 3), 1, 1, 2), requires_grad=True)
    x = leaf * 1
    memory = x.array
    y = function(x, 0.5, inplace=True)
    assert y is x and y.array is memory and (memory == 0).any()
    y.sum().backward()
    assert_close(leaf.grad.array, memory / leaf.array, "float64")


@pytest.mark.parametrize("shape", [(), (0,), (0, 3, 2), (2, 0)])
def test_dropout_of_empty_and_dimensionless(shape):
    assert dropout(Tensor(np.ones(shape)), 0.5).shape == shape


@pytest.mark.parametrize("form", ["transposed", "sliced", "reversed", "readonly", "big-endian"])
def test_dropout_takes_every_memory_form(form):
    x = values((4, 5))
    minires.manual_seed(1)
    expected = dropout(Tensor(x)).array
    minires.manual_seed(1)
    given = in_memory_form(x, form)
    np.testing.assert_array_equal(dropout(Tensor(given)).array, expected)
    np.testing.assert_array_equal(given, x)


def test_dropout_refuses():
    x = Tensor(values((2, 3, 4)))
    for function in (dropout, dropout2d):
        name = function.__name__
        for p in (-0.1, 1.1, float("nan")):
            with pytest.raises(
                ArgumentError, match=rf"{name}: p, the probability to drop, must be from 0 to 1, got {p}"
            ):
                function(x, p)
        with pytest.raises(ArgumentError, match=f"{name}: p, the probability"):
            function(x, 2.0, training=False)  # a wrong option is wrong in evaluation too
        with pytest.raises(DTypeError, match=f"{name}: input needs a floating dtype, got int64"):
            function(x.long())
        with pytest.raises(DTypeError, match=f"{name}: input must be a Tensor, got float"):
            function(1.0)
    with pytest.raises(ShapeError, match=r"dropout2d: input needs 3 or 4 dimensions, got input.shape = \(2, 3\)"):
        dropout2d(x[:, :, 0])
