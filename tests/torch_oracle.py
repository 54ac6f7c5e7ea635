"""The judge: write one expression twice, for minires and for torch, and compare values and derivatives.

    compare(lambda x, w: F.conv2d(x, w), lambda x, w: TF.conv2d(x, w), x, w)

A test module that imports `torch` from here is skipped, with the reason, where torch is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minires
from minires.tensor import Tensor
from tests.tolerances import assert_close

torch = pytest.importorskip(
    "torch", reason="PyTorch, the judge of this test, is not installed (pip install 'minires[test]')"
)
torch.set_num_threads(1)


def to_torch(array: np.ndarray) -> Any:
    """A torch tensor with the values of `array`, whatever its strides, byte order and flags."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True))


def compare(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *arrays: np.ndarray,
    dtype: str = "float64",
    n: int = 1,
    second: bool = True,
    gradients: bool = True,
    seed: int = 0,
) -> None:
    """Outputs, first gradients and (second=True) gradients of the gradients of `ours` and `theirs` agree.

    Args:
        arrays: inputs. Floating ones are cast to `dtype` (their memory form is kept if they have it already) and require grad;
            others are passed as they are. Neither may be changed by the call.
        n: the length of the longest reduction, for the tolerance.
    """
    inputs = [
        a.astype(dtype) if a.dtype.kind == "f" and a.dtype != np.dtype(dtype).newbyteorder(a.dtype.byteorder) else a
        for a in arrays
    ]
    before = [a.copy() for a in inputs]
    mine = [_leaf(a, gradients) for a in inputs]
    twin = [to_torch(a).requires_grad_(gradients) if a.dtype.kind == "f" else to_torch(a) for a in inputs]
    our_outputs, their_outputs = _outputs(ours(*mine)), _outputs(theirs(*twin))
    assert len(our_outputs) == len(their_outputs)
    for number, (a, b) in enumerate(zip(our_outputs, their_outputs, strict=True)):
        assert str(a.array.dtype) == str(b.dtype).removeprefix("torch."), (
            f"output {number}: {a.array.dtype}, torch {b.dtype}"
        )
        assert_close(a.array, b.detach().numpy(), dtype, n, f"output {number}")
    for a, b in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(a, b, "an input was changed")
    if not gradients:
        return
    generator = np.random.default_rng(seed)
    pairs = [(a, b) for a, b in zip(our_outputs, their_outputs, strict=True) if b.requires_grad]
    assert all(a.requires_grad == b.requires_grad for a, b in zip(our_outputs, their_outputs, strict=True)), (
        "requires_grad differs"
    )
    if not pairs:
        return
    weights = [generator.standard_normal(a.shape).astype(dtype) for a, _ in pairs]
    our_inputs, their_inputs = [t for t in mine if t.requires_grad], [t for t in twin if t.requires_grad]
    our_weights = [Tensor(w.copy(), requires_grad=second) for w in weights]
    their_weights = [torch.from_numpy(w.copy()).requires_grad_(second) for w in weights]
    our_grads = minires.autograd.grad(
        [a for a, _ in pairs], our_inputs, our_weights, create_graph=second, allow_unused=True
    )
    their_grads = torch.autograd.grad(
        [b for _, b in pairs], their_inputs, their_weights, create_graph=second, allow_unused=True
    )
    _compare_grads(our_grads, their_grads, dtype, n, "gradient of input")
    if not second:
        return
    firsts = [(a, b) for a, b in zip(our_grads, their_grads, strict=True) if b is not None and b.requires_grad]
    if not firsts:
        return
    seeds = [generator.standard_normal(a.shape).astype(dtype) for a, _ in firsts]
    ours2 = minires.autograd.grad(
        [a for a, _ in firsts], our_inputs + our_weights, [Tensor(s.copy()) for s in seeds], allow_unused=True
    )
    theirs2 = torch.autograd.grad(
        [b for _, b in firsts],
        their_inputs + their_weights,
        [torch.from_numpy(s.copy()) for s in seeds],
        allow_unused=True,
    )
    _compare_grads(ours2, theirs2, dtype, n, "second derivative for")


def _leaf(array: np.ndarray, gradients: bool) -> Tensor:
    native = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    return Tensor(native, requires_grad=gradients and array.dtype.kind == "f")


def _outputs(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def _compare_grads(ours: Any, theirs: Any, dtype: str, n: int, what: str) -> None:
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        # No gradient and a gradient of zeros say the same thing; engines differ in which they say.
        expected = np.zeros(a.shape) if b is None and a is not None else b
        actual = np.zeros(tuple(b.shape)) if a is None and b is not None else a
        if actual is None:
            continue
        assert_close(_values(actual), _values(expected), dtype, n, f"{what} {number}")


def _values(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.array
    return value.detach().numpy(force=True) if hasattr(value, "detach") else value
