"""Functions of the top level that are made of others, beside torch."""

from __future__ import annotations

import numpy as np

import minires
from tests.strategies import values
from tests.torch_oracle import compare, torch


def test_composed_functions_give_torchs_values_and_derivatives() -> None:
    a, b, c = values((3, 4), 0), values((4, 3), 1), values((3, 3), 2)
    compare(lambda i, p, q: minires.addmm(i, p, q, beta=0.5, alpha=2.0),
            lambda i, p, q: torch.addmm(i, p, q, beta=0.5, alpha=2.0), c, a, b, n=4)  # fmt: skip
    compare(lambda p, q: minires.lerp(p, q, 0.3), lambda p, q: torch.lerp(p, q, 0.3), a, values((3, 4), 3))
    compare(minires.mv, torch.mv, a, values((4,), 4), n=4)
    compare(lambda p, v: p.mv(v), lambda p, v: p.mv(v), a, values((4,), 4), n=4)
    compare(minires.outer, torch.outer, values((3,), 5), values((4,), 6))
    compare(minires.dot, torch.dot, values((4,), 5), values((4,), 6), n=4)
    compare(minires.ravel, torch.ravel, a)
    compare(lambda p: p.ravel(), lambda p: p.ravel(), a)
    compare(minires.erf, torch.erf, a)
    compare(minires.true_divide, torch.true_divide, a, values((3, 4), 7, 0.5, 1.5))


def test_count_nonzero_counts_in_int64() -> None:
    a = np.array([[0.0, 1.0, np.nan], [0.0, -0.0, 2.0]])
    compare(minires.count_nonzero, torch.count_nonzero, a, gradients=False)
    compare(lambda t: t.count_nonzero(1), lambda t: t.count_nonzero(1), a, gradients=False)


def test_conversions_by_name_are_torchs() -> None:
    a = np.array([1.9, -2.9, 100.0])
    for name in ("short", "char", "byte", "int", "long", "half", "float", "double", "bool"):
        values_in = np.abs(a) if name == "byte" else a  # a negative float as uint8 is undefined
        compare(
            lambda t, name=name: getattr(t, name)(), lambda t, name=name: getattr(t, name)(), values_in, gradients=False
        )
    assert minires.ones(1).get_device() == torch.ones(1).get_device() == -1
