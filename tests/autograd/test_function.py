"""Writing operations: torch's Function interface, and the gate's duties."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import minires
from minires.autograd import Function, gradcheck, gradgradcheck
from minires.errors import ArgumentError, UnsupportedError


class Square(Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return factor * x * x

    @staticmethod
    def backward(ctx, grad_y):
        assert ctx.needs_input_grad == (True, False)
        (x,) = ctx.saved_tensors
        return 2 * ctx.factor * x * grad_y, None


def test_function_forward_gets_tensors_and_backward_is_differentiable() -> None:
    x = minires.tensor([1.0, -2.0], dtype=minires.float64, requires_grad=True)
    y = Square.apply(x, 3.0)
    assert y.tolist() == [3.0, 12.0]
    assert gradcheck(lambda t: Square.apply(t, 3.0), x)
    assert gradgradcheck(lambda t: Square.apply(t, 3.0), x)


def test_function_with_non_differentiable_and_unused_outputs() -> None:
    class SortedWithOrder(Function):
        @staticmethod
        def forward(ctx, x):
            order = x.argsort()
            ctx.save_for_backward(order)
            ctx.mark_non_differentiable(order)
            return x[order], order

        @staticmethod
        def backward(ctx, grad_values, grad_order):
            (order,) = ctx.saved_tensors
            return minires.zeros_like(grad_values).scatter(0, order, grad_values)

    x = minires.tensor([3.0, 1.0, 2.0], requires_grad=True)
    values, order = SortedWithOrder.apply(x)
    assert not order.requires_grad
    (values * minires.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad.tolist() == [100.0, 1.0, 10.0]


def test_function_under_no_grad_records_nothing() -> None:
    with minires.no_grad():
        assert not Square.apply(minires.ones(1, requires_grad=True), 1.0).requires_grad


def test_function_errors() -> None:
    class Dirty(Square):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.mark_dirty(x)

    class NoTensor(Square):
        @staticmethod
        def forward(ctx, x, factor):
            return 1.0

    x = minires.ones(1, requires_grad=True)
    with pytest.raises(UnsupportedError, match="mark_dirty is not supported"):
        Dirty.apply(x, 1.0)
    with pytest.raises(ArgumentError, match="NoTensor: forward must return tensors, got float"):
        NoTensor.apply(x, 1.0)
    with pytest.raises(UnsupportedError, match="must define the static method forward"):
        Function.apply(x)


def test_ieee_values_come_without_warnings() -> None:
    zero = minires.zeros(1, requires_grad=True)
    y = 1 / zero + zero.log()
    y.sum().backward()
    assert np.isinf(zero.grad.item()) or np.isnan(zero.grad.item())


def test_debug_2_prints_every_operation_with_its_time() -> None:
    code = "import minires; minires.ones(2, 3).exp()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"MINIRES_DEBUG": "2", "PATH": ""}, check=True
    )
    assert "minires exp" in done.stderr
    assert "2x3" in done.stderr
    assert "GB/s" in done.stderr


def test_debug_3_prints_the_backward_pass() -> None:
    code = "import minires; minires.ones(2, requires_grad=True).exp().sum().backward()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"MINIRES_DEBUG": "3", "PATH": ""}, check=True
    )
    assert done.stderr.index("backward <SumBackward>") < done.stderr.index("backward <ExpBackward>")
