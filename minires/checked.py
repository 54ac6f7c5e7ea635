"""MINIRES_CHECK=1: every kernel of the set in use runs beside the reference, live.

A kernel's result is right if it is that of slightly different inputs. So the reference runs twice in float64, on the
inputs and on inputs of which each number is moved by one rounding; what that moves in the result is how well the result
is determined at all. With eps the relative rounding of the kernel's dtype, an element y of the result may differ by

    (40 + 4 sqrt(n)) (eps |y| + |moved| + rms over the output of both)

where n estimates the length of the sums on the way, whose roundings add up like a random walk, and 40 leaves room for
fast algorithms: Winograd's F(4x4) costs a digit. A mistake in a formula is some thousand times larger. Integers
and shapes must agree, NaN and infinity must stand in the same places, and no input may be written to.

Source: N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 1.5, for the idea of backward error.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.errors import KernelError
from minires.kernels.private import PrivateArray

# Run beside the kernel, the reference would take a second step.
IN_PLACE = ("sgd_step", "adam_step")


class CheckedKernels:
    """A kernel set whose functions are those of `kernels`, each judged by the reference's at every call.

    Functions that the reference does not have, those that write to their arguments, and whatever else the set holds,
    pass as they are.
    """

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels
        self.reference = importlib.import_module("minires.kernels.reference")
        self.__name__ = getattr(kernels, "__name__", type(kernels).__name__)

    def __getattr__(self, name: str) -> Any:
        """Reached at the first use of a name; a checked function is kept."""
        kernel = getattr(self.kernels, name)
        if not callable(kernel) or name in IN_PLACE or not hasattr(self.reference, name):
            return kernel
        checked = _beside(f"{name} of {self.__name__}", kernel, getattr(self.reference, name))
        setattr(self, name, checked)
        return checked


def _beside(title: str, kernel: Callable[..., Any], reference: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, judged by `reference` at every call."""
    signature = inspect.signature(reference)

    @functools.wraps(kernel)
    def call(*args: Any, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            given = signature.bind(*args, **options).arguments
            before = {name: np.array(value) if _is_array(value) else value for name, value in given.items()}
            result = kernel(*args, **options)
            described = f"Arguments: {', '.join(f'{name} {_described(v)}' for name, v in before.items())}"
            for name, value in given.items():
                if _is_array(value) and not _same(np.asarray(value), before[name]):
                    raise KernelError(f"MINIRES_CHECK: {title} wrote to its argument {name}. {described}")
            floats = [v for v in before.values() if _is_float(v)]
            dtype = floats[0].dtype if floats else np.dtype(np.float32)
            expected = _outputs(
                reference(**{k: v.astype(np.float64) if _is_float(v) else v for k, v in before.items()})
            )
            moved = _outputs(reference(**_moved(before, float(np.finfo(dtype).eps))))
            outputs = _outputs(result)
            if len(outputs) != len(expected):
                raise KernelError(
                    f"MINIRES_CHECK: {title} returned {len(outputs)} values, the reference {len(expected)}. {described}"
                )
            # Where an input is not finite, a convolution by tiles spreads that over the tile; elsewhere it must stay put.
            spreads = title.startswith("conv2d") and not all(np.isfinite(v).all() for v in floats)
            for number, (got, want, other) in enumerate(zip(outputs, expected, moved, strict=True)):
                problem = _difference(got, want, other, dtype, [v.size for v in floats], spreads)
                if problem:
                    raise KernelError(f"MINIRES_CHECK: {title}: output {number} {problem}. {described}")
        return result

    return call


def _difference(got: Any, want: Any, moved: Any, dtype: Any, sizes: list[int], spreads: bool) -> str:
    """What is wrong with the output `got`, or an empty text.

    Args:
        want, moved: the reference's output in float64, of the inputs and of the moved inputs.
        dtype: the kernel's.
        sizes: how many elements the floating inputs have.
        spreads: whether NaN may stand where the reference has none.
    """
    if got is None or want is None:
        return "" if got is want else f"is {_described(got)}, expected {_described(want)}"
    got = np.asarray(got)
    # A vector may be a statistic, which is float64 whatever the images are.
    allowed = [dtype, np.dtype(np.float64)] if want.ndim == 1 else [dtype]
    if got.shape != want.shape or (got.dtype not in allowed if _is_float(want) else got.dtype != want.dtype):
        wanted = f"{want.shape} {dtype if _is_float(want) else want.dtype}"
        return f"is {_described(got)}, expected {wanted}"
    if not got.size:
        return ""
    if not _is_float(want):
        wrong, error, limit = got != want, np.abs(got.astype(np.float64) - want), np.zeros(want.shape)
    else:
        want = want.astype(dtype).astype(np.float64)  # what overflows in the kernel's dtype may overflow
        got = got.astype(np.float64)
        finite = np.isfinite(want) & np.isfinite(got)
        error = np.where(finite, np.abs(got - want), np.inf)
        limit = _limit(want, moved, finite, np.finfo(dtype), sizes)
        agree = (np.isnan(want) & np.isnan(got)) | (want == got) | spreads
        wrong = np.where(finite, error > limit, ~agree)
    if not wrong.any():
        return ""
    worst = np.unravel_index(np.argmax(np.where(wrong, error, -1)), got.shape)
    place = tuple(int(i) for i in worst)
    return (
        f"differs from the reference in {int(wrong.sum())} of {got.size} elements; the greatest error is "
        f"{error[worst]:.3g} at {place} (got {got[worst]:.9g}, expected {want[worst]:.9g}), the tolerance there {limit[worst]:.3g}"
    )


def _limit(want: np.ndarray, moved: np.ndarray, finite: np.ndarray, info: Any, sizes: list[int]) -> np.ndarray:
    """The greatest error that each element may have; the formula stands at the top of this file."""
    own = float(info.eps) * np.abs(want)
    through_inputs = np.abs(moved - want)
    unit = own + np.where(np.isfinite(through_inputs), through_inputs, 0)
    typical = math.sqrt(float(np.mean(unit[finite] ** 2))) if finite.any() else 0.0
    # Of a product of two inputs, (m, n) and (n, k), the geometric mean tells n; of a sum of one, the quotient.
    largest = sorted(sizes, reverse=True)[:2]
    n = math.prod(largest) ** (1 / 2) / want.size ** (1 / 2) if len(largest) == 2 else 1.0
    n = max(n, largest[0] / want.size) if largest else n
    return (40 + 4 * math.sqrt(n)) * (unit + typical) + float(info.tiny)


def _moved(values: dict[str, Any], eps: float) -> dict[str, Any]:
    """`values` with each floating number times 1 + eps or 1 - eps; signs, zeros and ties with zero stay as they are."""
    signs = np.random.default_rng(0)
    return {
        name: v * (1 + eps * (2.0 * signs.integers(0, 2, v.shape) - 1)) if _is_float(v) else v
        for name, v in values.items()
    }


def _outputs(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, PrivateArray))


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _described(value: Any) -> str:
    return f"{value.shape} {value.dtype}" if _is_array(value) else f"= {value!r}"


__all__ = ["CheckedKernels"]
