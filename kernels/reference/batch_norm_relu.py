"""relu(batch_norm(x) [+ shortcut]) in plain NumPy: the kernels of batch_norm.py and residual.py, one after the other.

The textbook of the fused operation is its parts. What it leaves out is their arrays: the normalised x is cut off where
it lies, and backward takes the mask from y. The numbers are those of the separate kernels to the last bit.
"""

from __future__ import annotations

import numpy as np

from minires.kernels.interface import Array
from minires.kernels.reference.batch_norm import (
    Statistic,
    batch_norm_eval,
    batch_norm_eval_backward,
    batch_norm_train,
    batch_norm_train_backward,
)
from minires.kernels.reference.residual import relu_backward


def batch_norm_relu_train(
    x: Array, weight: Array | None, bias: Array | None, eps: float, shortcut: Array | None = None
) -> tuple[Array, Statistic, Statistic]:
    """Normalise with the statistics of the batch, add, cut off. See interface.batch_norm_relu_train."""
    y, mean, var = batch_norm_train(x, weight, bias, eps)
    return _join(y, shortcut), mean, var


def batch_norm_relu_train_backward(
    grad_y: Array,
    y: Array,
    x: Array,
    weight: Array | None,
    mean: Statistic,
    var: Statistic,
    eps: float,
    has_shortcut: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """Mask, then batch norm's adjoint. See interface.batch_norm_relu_train_backward."""
    grad = relu_backward(grad_y, y)
    return *batch_norm_train_backward(grad, x, weight, mean, var, eps), grad if has_shortcut else None


def batch_norm_relu_eval(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mean: Array,
    var: Array,
    eps: float,
    shortcut: Array | None = None,
) -> Array:
    """Normalise with given statistics, add, cut off. See interface.batch_norm_relu_eval."""
    return _join(batch_norm_eval(x, weight, bias, mean, var, eps), shortcut)


def batch_norm_relu_eval_backward(
    grad_y: Array,
    y: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    eps: float,
    has_shortcut: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """Mask, then batch norm's adjoint. See interface.batch_norm_relu_eval_backward."""
    grad = relu_backward(grad_y, y)
    return *batch_norm_eval_backward(grad, x, weight, mean, var, eps), grad if has_shortcut else None


def _join(normalized: Array, shortcut: Array | None) -> Array:
    """max(normalized + shortcut, 0), in place: the array is new, and nobody else has seen it."""
    if shortcut is not None:
        normalized += shortcut
    return np.maximum(normalized, 0, out=normalized)
