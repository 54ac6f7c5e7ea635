"""Whether a contender computes what it should: its results against float64 on the reference kernels, before any timing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from minires.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY

__all__ = ["LIMITS", "error_of", "error_of_training", "relative_error"]

# Largest error at which a result still counts as the same computation. float32 gives about 3e-7 for the logits of a
# ResNet-18. The gradients of a training step are rougher: where float32 and float64 disagree whether a value is above zero,
# a whole ReLU opens or closes, and the gradient of one small tensor (a batch norm's scale) shows it; measured with torch:
# 3e-4 to 3e-3 for a ResNet-20, 2e-2 for a ResNet-50 on four small images. What is wrong (no weight decay, no momentum, a
# gradient lost) is wrong by 0.3 or more.
LIMITS = {"infer": 1e-4, "train": 1e-1, "ops": 1e-4, "start": 1e-4}


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


def error_of_training(
    got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]
) -> tuple[float, str]:
    """The largest relative error of two training steps, and what has it.

    The first step is compared with float64: loss, gradients, buffers, and the change of each weight (not its value, in
    which a small step, right or wrong, would not show). Of the second, which is the first that shows momentum, only the
    update is: two runs drift apart where a ReLU opens in one alone, so each is held to its own gradients,

        g1 <- g1 + lambda w0;  g2 <- g2 + lambda w1;  w2 - w1 = -lr (mu g1 + g2)

    Args:
        got: judge.step_results of the first step, and with `second/` before the names of the second.
        expected: the judge's, of the first.
        before: the weights w0 that both began with.
    """
    first = {name: array for name, array in got.items() if not name.startswith("second/")}
    odd = set(first) ^ set(expected)
    if odd:
        return math.inf, min(odd)
    result = error_of(_as_changes(first, before), _as_changes(expected, before))
    steps, laws = {}, {}
    for name in (name.removeprefix("weight/") for name in expected if name.startswith("weight/")):
        w0, w1 = before[name].astype(np.float64), got[f"weight/{name}"].astype(np.float64)
        g1 = got[f"gradient/{name}"] + WEIGHT_DECAY * w0
        g2 = got[f"second/gradient/{name}"] + WEIGHT_DECAY * w1
        steps[f"second change/{name}"] = got[f"second/weight/{name}"] - w1
        laws[f"second change/{name}"] = -LEARNING_RATE * (MOMENTUM * g1 + g2)
    return max(result, error_of(steps, laws))


def _as_changes(results: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`weight/NAME` becomes `change/NAME`, in float64."""
    changed = {}
    for name, array in results.items():
        if name.startswith("weight/"):
            name = name.removeprefix("weight/")
            array = np.asarray(array, np.float64)
            changed[f"change/{name}"] = array - before[name] if array.shape == before[name].shape else array
        else:
            changed[name] = array
    return changed


def _root_mean_square(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0
