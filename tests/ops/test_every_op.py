"""Every differentiable operation of minires, by finite differences, to the second derivative: none can be forgotten.

The table below calls the public functions; a recorder at the gate notes which `Op` classes ran, forward and in the first
and second backward pass. An `Op` that no entry reaches fails the last test.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minires
import minires.ops
from minires.autograd import Op, function, gradcheck, gradgradcheck
from minires.nn import functional as F
from tests.strategies import values

# Operations whose results are integers or truth values, or constant between jumps: there is no derivative to check.
WITHOUT_DERIVATIVE = {"Predicate", "Arg", "FloorDivide", "Step"}
reached: set[str] = set()


def all_ops() -> dict[str, type[Op]]:
    """Every subclass of Op in minires.ops, by name."""
    for module in pkgutil.iter_modules(minires.ops.__path__):
        importlib.import_module(f"minires.ops.{module.name}")
    found: dict[str, type[Op]] = {}
    stack: list[type[Op]] = [Op]
    while stack:
        for sub in stack.pop().__subclasses__():
            stack.append(sub)
            if sub.__module__.startswith("minires.ops.") and "forward" in vars(sub):
                found[sub.__name__] = sub
    return found


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Note the class of every operation that makes a graph node."""
    original = function.Context.__init__

    def init(self: Any, op: Any, args: Any, recording: bool) -> None:
        if recording:
            reached.add(op.__name__)
        original(self, op, args, recording)

    monkeypatch.setattr(function.Context, "__init__", init)
    yield


def x(*shape: int, seed: int = 0, low: float = 0.3, high: float = 1.7) -> np.ndarray:
    """Positive numbers away from 0 and 1, where some functions have kinks."""
    return values(shape, seed, low, high)


LABELS = minires.tensor([0, 2])
INDEX = minires.tensor([[0, 2], [1, 1]])
MEAN, VAR = minires.tensor(x(2, seed=7)), minires.tensor(x(2, seed=8))

CALLS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "add": (lambda a, b: a + b, (x(2, 3), x(3, seed=1))),
    "sub": (lambda a, b: a - b, (x(2, 3), x(3, seed=1))),
    "mul": (lambda a, b: a * b, (x(2, 3), x(3, seed=1))),
    "div": (lambda a, b: a / b, (x(2, 3), x(3, seed=1))),
    "pow": (lambda a, b: a**b, (x(2, 3), x(3, seed=1))),
    "remainder": (lambda a, b: a % b, (x(3, low=2.2, high=2.8), x(3, seed=1, low=0.9, high=1.05))),
    "maximum, minimum": (lambda a, b: a.maximum(b) * a.minimum(b), (x(3), x(3, seed=1))),
    "where, clamp": (lambda a, b: minires.where(a > b, a, b).clamp(0.5, 1.5), (x(3), x(3, seed=1))),
    "exp, log": (lambda a: a.exp() + a.log() + a.expm1() + a.log1p(), (x(3),)),
    "roots": (lambda a: a.sqrt() * a.rsqrt() + a.sqrt() + a.rsqrt(), (x(3),)),
    "waves": (lambda a: a.sin() * a.cos() - a.abs(), (x(3),)),
    "erf": (lambda a: a.erf(), (x(3),)),
    "sums": (lambda a: a.sum(1) + a.mean(1) + a.amax(1) + a.norm(dim=1), (x(2, 3),)),
    "variance": (lambda a: a.var(1) + a.prod(1) + a.logsumexp(1), (x(2, 3),)),
    "cumsum": (lambda a: a.cumsum(1), (x(2, 3),)),
    "shapes": (lambda a: a.reshape(3, 2).permute(1, 0).unsqueeze(0).expand(2, 2, 3).flip(0).roll(1, 2).clone(), (x(2, 3),)),
    "cat, stack": (lambda a, b: minires.cat([minires.stack([a, b]), a[None]]), (x(2, 3), x(2, 3, seed=1))),
    "cast": (lambda a: a.float().double() * 0 + a, (x(2),)),
    "index": (lambda a: a[:, [0, 2, 2]] * a[0], (x(2, 3),)),
    "assign": (lambda a, b: _assigned(a, b), (x(2, 3), x(3, seed=1))),
    "gather, scatter": (lambda a, b: a.gather(1, INDEX).sum() + a.scatter_add(1, INDEX, b), (x(2, 3), x(2, 2, seed=1))),
    "mask, triangle": (lambda a: a.masked_fill(a > 1, 0.5) * a.tril() + a.triu(), (x(2, 3),)),
    "matmul, linear": (lambda a, w, b: F.linear(a, w, b) @ w, (x(2, 3), x(4, 3, seed=1), x(4, seed=2))),
    "conv2d": (lambda a, w, b: F.conv2d(a, w, b, 2, 1), (x(1, 2, 4, 3), x(2, 2, 3, 3, seed=1), x(2, seed=2))),
    "conv_transpose2d": (lambda a, w: F.conv_transpose2d(a, w, stride=2), (x(1, 2, 2, 2), x(2, 1, 2, 2, seed=1))),
    "max_pool2d": (lambda a: F.max_pool2d(a, 2, 1), (x(1, 1, 3, 3),)),
    "avg_pool2d": (lambda a: F.avg_pool2d(a, 2, 1, 1), (x(1, 1, 3, 3),)),
    "adaptive pools": (lambda a: F.adaptive_avg_pool2d(a, 2) + F.adaptive_max_pool2d(a, 2), (x(1, 1, 3, 3),)),
    "interpolate": (
        lambda a: F.interpolate(a, size=(3, 4), mode="bilinear") * F.interpolate(a, size=(3, 4)), (x(1, 1, 2, 2),)),
    "pad": (lambda a: F.pad(a, (1, 1, 0, 1)) + F.pad(a, (1, 1, 0, 1), mode="reflect"), (x(1, 1, 3, 3),)),
    "batch_norm train": (lambda a, w, b: F.batch_norm(a, None, None, w, b, True), (x(3, 2, 2), x(2, seed=1), x(2, seed=2))),
    "batch_norm eval": (lambda a, w, b: F.batch_norm(a, MEAN, VAR, w, b), (x(3, 2, 2), x(2, seed=1), x(2, seed=2))),
    "batch_norm_relu train": (
        lambda a, w, b, s: (
            F.batch_norm_relu(a, None, None, w, b - 1, True) + F.batch_norm_relu(a, None, None, None, None, True, shortcut=s)),
        (x(3, 2, 2), x(2, seed=1), x(2, seed=2), x(3, 2, 2, seed=3))),
    "batch_norm_relu eval": (
        lambda a, w, b, s: F.batch_norm_relu(a, MEAN, VAR, w, b - 1) + F.batch_norm_relu(a, MEAN, VAR, shortcut=s),
        (x(3, 2, 2), x(2, seed=1), x(2, seed=2), x(3, 2, 2, seed=3))),
    "layer_norm": (lambda a, w, b: F.layer_norm(a, (3,), w, b), (x(2, 3), x(3, seed=1), x(3, seed=2))),
    "group_norm": (lambda a, w, b: F.group_norm(a, 1, w, b), (x(2, 2, 2), x(2, seed=1), x(2, seed=2))),
    "relu": (lambda a: F.relu(a - 1), (x(3),)),
    "residual_relu": (lambda a, b: F.residual_relu(a - 1, b - 0.5), (x(3), x(3, seed=1))),
    "smooth activations": (lambda a: F.gelu(a) + F.silu(a) + a.sigmoid() + a.tanh() + F.softplus(a) + F.mish(a), (x(3),)),
    "gelu tanh, logsigmoid": (lambda a: F.gelu(a, approximate="tanh") + F.logsigmoid(a), (x(3),)),
    "kinked activations": (
        lambda a: F.leaky_relu(a - 1) + F.elu(a - 1) + F.hardtanh(a) + F.relu6(a) + F.hardsigmoid(a) + F.hardswish(a), (x(3),)),
    "softmax": (lambda a: F.softmax(a, 1) + F.log_softmax(a, 1), (x(2, 3),)),
    "cross_entropy": (lambda a: F.cross_entropy(a, LABELS, label_smoothing=0.1), (x(2, 3),)),
    "cross_entropy of probabilities": (lambda a, b: F.cross_entropy(a, b.softmax(1)), (x(2, 3), x(2, 3, seed=1))),
    "nll_loss": (lambda a: F.nll_loss(a, LABELS), (x(2, 3),)),
    "other losses": (
        lambda a, b: F.mse_loss(a, b) + F.l1_loss(a, b) + F.smooth_l1_loss(a, b) + F.binary_cross_entropy_with_logits(a, b),
        (x(3), x(3, seed=1))),
    "dropout": (lambda a: _dropped(a), (x(6),)),
}  # fmt: skip


def _assigned(a: Any, b: Any) -> Any:
    y = a * 1
    y[0] = b
    return y


def _dropped(a: Any) -> Any:
    minires.manual_seed(1)  # the same mask at every call, or there is no function to differentiate
    return F.dropout(a, 0.5)


@pytest.mark.parametrize("name", CALLS)
def test_derivatives_by_finite_differences(name: str, recorder: None) -> None:
    call, arrays = CALLS[name]
    inputs = tuple(minires.tensor(a, requires_grad=True) for a in arrays)
    # Away from the recorder's table, float32 casts are exact only to 1e-7: "cast" multiplies them by zero.
    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs)


def test_no_operation_is_left_out(recorder: None) -> None:
    for call, arrays in CALLS.values():  # also when this test runs alone, or in another process than the others
        inputs = tuple(minires.tensor(a, requires_grad=True) for a in arrays)
        result = call(*inputs)
        weight = minires.ones_like(
            result
        ).requires_grad_()  # makes the first backward pass a function of the gradient too
        first = minires.autograd.grad((result * weight).sum(), inputs, create_graph=True)
        minires.autograd.grad(
            sum((g * g).sum() for g in first), [*inputs, weight], create_graph=True, allow_unused=True
        )
    missing = set(all_ops()) - reached - WITHOUT_DERIVATIVE
    missing = {name for name in missing if not _is_comparison(all_ops()[name])}
    assert not missing, f"no entry of CALLS reaches {sorted(missing)}"


def _is_comparison(op: type[Op]) -> bool:
    return op.__module__ == "minires.ops.comparison"
