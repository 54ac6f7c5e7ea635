"""gradcheck must pass right derivatives and fail wrong ones: the judge is judged."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import autograd
from minires.autograd import GradcheckError, Op, apply, gradcheck, gradgradcheck
from minires.errors import GradError


class WrongCube(Op):
    """y = x^3 with a derivative of 2 x^2."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad_y):
        (x,) = ctx.saved_tensors
        return grad_y * 2 * x * x


class ConstantHeld(Op):
    """y = x^3 with a right first derivative, written so that its own derivative is lost (detached)."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad_y):
        (x,) = ctx.saved_tensors
        return grad_y * (3 * x * x).detach()


def points(n: int = 3) -> minires.Tensor:
    return minires.tensor(np.random.default_rng(0).uniform(0.5, 2.0, n), requires_grad=True)


def test_gradcheck_passes_right_derivatives() -> None:
    assert gradcheck(lambda x: x**3, points())
    assert gradcheck(lambda x, y: (x * y, x.sum()), (points(), points()))
    assert gradgradcheck(lambda x: x**3, points())


def test_gradcheck_fails_a_wrong_derivative() -> None:
    with pytest.raises(
        GradcheckError, match=r"gradcheck: d output 0\[0\] / d input 0\[0\] is .* by finite differences and"
    ):
        gradcheck(lambda x: apply(WrongCube, x), points())
    assert not gradcheck(lambda x: apply(WrongCube, x), points(), raise_exception=False)


def test_gradcheck_fails_a_missing_derivative() -> None:
    assert not gradcheck(lambda x: x * x.detach(), points(), raise_exception=False)
    assert not gradcheck(lambda x: x.detach() * 2, points(), raise_exception=False)


def test_gradgradcheck_fails_a_lost_second_derivative() -> None:
    assert gradcheck(lambda x: apply(ConstantHeld, x), points())
    assert not gradgradcheck(lambda x: apply(ConstantHeld, x), points(), raise_exception=False)


def test_gradcheck_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(GradError, match="at least one input must require grad"):
        gradcheck(lambda x: x, minires.ones(1))
    with pytest.raises(GradError, match="input 0 has dtype float32; differences need float64"):
        gradcheck(lambda x: x, minires.ones(1, requires_grad=True))


def test_gradcheck_leaves_grad_alone() -> None:
    x = points()
    gradcheck(lambda t: t * 2, x)
    gradgradcheck(lambda t: t * t, x)
    assert x.grad is None
    assert autograd.is_grad_enabled()
