"""The names of torch.nn.functional: arguments, order and defaults, and the functions that live here themselves."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import minires
from minires.errors import ArgumentError, DTypeError, LabelError
from minires.nn import functional as F
from tests.nn.networks import tensor
from tests.torch_oracle import compare, torch

# Written in C++ or wrapped in torch, so that inspect cannot read them; from torch's documentation.
DOCUMENTED = {
    "adaptive_max_pool2d": "(input, output_size, return_indices=False)",
    "avg_pool2d": "(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,"
    " divisor_override=None)",
    "conv2d": "(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)",
    "conv_transpose2d": "(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)",
    "gelu": "(input, approximate='none')",
    "linear": "(input, weight, bias=None)",
    "logsigmoid": "(input)",
    "max_pool2d": "(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False)",
    "one_hot": "(tensor, num_classes=-1)",
    "relu_": "(input)",
    "softplus": "(input, beta=1.0, threshold=20.0)",
}
# Arguments of torch that say nothing to a caller here.
OMITTED = {"normalize": ["out"], "l1_loss": ["weight"], "mse_loss": ["weight"]}


def described(function: Any) -> str:
    """The signature without annotations."""
    signature = inspect.signature(function)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", [name for name in F.__all__ if name not in ("batch_norm_relu", "residual_relu")])
def test_functional_signature_equals_torchs(name: str) -> None:
    theirs = getattr(torch.nn.functional, name)
    expected = DOCUMENTED.get(name)
    if expected is None:
        signature = inspect.signature(theirs)
        kept = [p for p in signature.parameters.values() if p.name not in OMITTED.get(name, [])]
        plain = [p.replace(annotation=inspect.Parameter.empty) for p in kept]
        expected = str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    assert described(getattr(F, name)) == expected


def test_functional_lists_what_it_has() -> None:
    public = {name for name, value in vars(F).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert set(F.__all__) == public - {"check_tensor"}


def test_residual_relu_is_the_relu_of_the_sum() -> None:
    generator = np.random.default_rng(0)
    x, shortcut = generator.normal(size=(2, 2, 3, 4, 4))
    compare(F.residual_relu, lambda a, b: torch.relu(a + b), x, shortcut)


@pytest.mark.parametrize("kwargs", [{}, {"p": 1.0, "dim": 0}, {"p": 3.0, "dim": -1}, {"eps": 10.0}])
def test_normalize_equals_torchs(kwargs: dict[str, Any]) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    compare(lambda a: F.normalize(a, **kwargs), lambda a: torch.nn.functional.normalize(a, **kwargs), x)


@pytest.mark.parametrize("num_classes", [-1, 5])
def test_one_hot_equals_torchs(num_classes: int) -> None:
    labels = np.array([[0, 2], [3, 1]])
    ours, theirs = (
        F.one_hot(tensor(labels), num_classes),
        torch.nn.functional.one_hot(torch.tensor(labels), num_classes),
    )
    assert ours.dtype == minires.int64
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: F.one_hot([1]), DTypeError, r"one_hot: tensor must be a Tensor, got list"),
        (lambda: F.one_hot(minires.ones(2)), DTypeError, r"must hold class indices \(int64\), got dtype float32"),
        (lambda: F.one_hot(tensor(np.array([1, 4])), 4), LabelError, r"one_hot: indices must be in \[0, 4\), got 4"),
        (lambda: F.one_hot(tensor(np.array([-1, 4]))), LabelError, r"one_hot: indices must be in \[0, 5\), got -1"),
        (lambda: F.one_hot(minires.zeros(0, dtype=minires.int64)), ArgumentError, r"num_classes must be given where"),
    ],
)
def test_one_hot_errors_say_what_is_wrong(act: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        act()
