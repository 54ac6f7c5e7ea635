"""Softmax, its logarithm, and the cross entropy fused with it, in plain NumPy.

Everything is computed from x - max(x): exp never overflows, and the largest term of the sum is 1, so log never sees 0.
A row of -inf alone (or with +inf in it) gives NaN, as -inf - -inf says, without a warning.

Source: C. Bishop, "Pattern Recognition and Machine Learning", 2006, equations 4.104 to 4.109; label smoothing:
C. Szegedy et al., "Rethinking the Inception Architecture", 2015, section 7.
"""

from __future__ import annotations

import numpy as np

from minires.kernels.interface import Array
from minires.kernels.reference.windows import native


def softmax_forward(x: Array, axis: int) -> Array:
    """exp(x - m) / sum exp(x - m). See interface.softmax_forward."""
    y = np.exp(_below_maximum(x, axis))
    y /= y.sum(axis=axis, keepdims=True)
    return y


def softmax_backward(grad_y: Array, y: Array, axis: int) -> Array:
    """y (grad_y - <grad_y, y>). See interface.softmax_backward."""
    grad_x = native(grad_y) * native(y)
    inner = grad_x.sum(axis=axis, keepdims=True)
    grad_x -= y * inner
    return grad_x


def log_softmax_forward(x: Array, axis: int) -> Array:
    """(x - m) - log sum exp(x - m). See interface.log_softmax_forward."""
    y = _below_maximum(x, axis)
    if y.size:  # with no class there is no sum to take the logarithm of
        y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
    return y


def log_softmax_backward(grad_y: Array, y: Array, axis: int) -> Array:
    """grad_y - softmax sum(grad_y). See interface.log_softmax_backward."""
    grad_y, y = native(grad_y), native(y)
    return grad_y - np.exp(y) * grad_y.sum(axis=axis, keepdims=True)


def cross_entropy_forward(
    x: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array]:
    """Loss of each sample, and log softmax. See interface.cross_entropy_forward."""
    log_p = log_softmax_forward(x, 1)
    kept, label, label_weight = _labels(x, target, weight, ignore_index)
    loss = -label_weight * np.take_along_axis(log_p, label, 1)
    if label_smoothing:
        every_class = log_p if weight is None else log_p * _class_column(weight, x)
        loss *= 1 - label_smoothing
        loss -= label_smoothing / x.shape[1] * every_class.sum(axis=1, keepdims=True)
    return np.where(kept, loss, 0)[:, 0], log_p


def cross_entropy_backward(
    grad_loss: Array,
    log_p: Array,
    target: Array,
    weight: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> Array:
    """grad_loss (p sum(q) - q), q the weighted, smoothed target. See interface.cross_entropy_backward."""
    kept, label, label_weight = _labels(log_p, target, weight, ignore_index)
    classes = log_p.shape[1]
    class_weight = np.ones(classes, log_p.dtype) if weight is None else weight
    label_share = (1 - label_smoothing) * label_weight  # what q puts on the label
    grad_x = np.exp(native(log_p))
    grad_x *= label_share + label_smoothing / classes * class_weight.sum()
    np.put_along_axis(grad_x, label, np.take_along_axis(grad_x, label, 1) - label_share, 1)
    if label_smoothing:
        grad_x -= label_smoothing / classes * _class_column(class_weight, log_p)
    grad_x *= grad_loss[:, None]
    return np.where(kept, grad_x, 0)  # where, not times 0: an ignored sample may hold NaN


def _below_maximum(x: Array, axis: int) -> Array:
    """x - max(x) along axis; a new array."""
    x = native(x)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is the answer
        return x - x.max(axis=axis, keepdims=True, initial=-np.inf)


def _labels(x: Array, target: Array, weight: Array | None, ignore_index: int) -> tuple[Array, Array, Array]:
    """For target (N, *): which samples count, their labels (0 for the others) and weights; each (N, 1, *)."""
    target = target[:, None]
    kept = target != ignore_index
    label = np.where(kept, target, 0)
    return kept, label, np.ones(label.shape, x.dtype) if weight is None else weight[label]


def _class_column(weight: Array, x: Array) -> Array:
    """(C,) -> (C, 1, ..., 1), which broadcasts against x (N, C, *)."""
    return weight.reshape(-1, *[1] * (x.ndim - 2))
