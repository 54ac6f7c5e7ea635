"""Whether a contender computes what it should: its results against float64 on the reference kernels, before any timing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

__all__ = ["LIMITS", "error_of", "relative_error"]

# Largest error at which a result still counts as the same computation. float32 gives about 3e-7 for the logits of a
# ResNet-18. The gradients of a training step are rougher: where float32 and float64 disagree whether a value is above
# zero, a whole ReLU opens or closes, and a small tensor (a bias) sees it; measured with torch: 1e-5 to 2e-3.
LIMITS = {"infer": 1e-4, "train": 1e-2, "ops": 1e-4, "start": 1e-4}


def relative_error(got: np.ndarray, expected: np.ndarray, floor: float = 0.0) -> float:
    """The root mean square of got - expected, relative to that of expected (at least `floor`).

    Infinite for a wrong shape, for a NaN, and for anything but zero where zeros are expected.
    """
    if got.shape != expected.shape:
        return math.inf
    error = _root_mean_square(got.astype(np.float64) - expected.astype(np.float64))
    if error == 0:
        return 0.0
    scale = max(_root_mean_square(expected), floor)
    return error / scale if math.isfinite(error) and scale > 0 else math.inf


def error_of(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """The largest relative error over all arrays, and the name of the array that has it.

    An array that is missing, or one too many, is an infinite error. Gradients (their names begin with `gradient/`) are
    taken relative to at least a thousandth of the root mean square of them all: one that vanishes by symmetry, such as
    that of a bias before a batch norm, is nothing but rounding.
    """
    odd = set(got) ^ set(expected)
    if odd:
        return math.inf, min(odd)
    gradients = [array.ravel() for name, array in expected.items() if name.startswith("gradient/")]
    floor = 1e-3 * _root_mean_square(np.concatenate(gradients)) if gradients else 0.0
    worst, where = 0.0, min(expected, default="")
    for name, array in expected.items():
        error = relative_error(got[name], array, floor if name.startswith("gradient/") else 0.0)
        if error > worst:
            worst, where = error, name
    return worst, where


def _root_mean_square(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0
