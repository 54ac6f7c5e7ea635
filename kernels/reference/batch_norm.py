"""Batch normalisation in plain NumPy: the textbook, and the oracle of the fast kernel sets.

An activation (N, C, *) is seen as (N, C, L), L = product of the sizes behind the channels. Each channel is normalised
over its N * L values. The statistics are float64 whatever x is: they are C numbers, so it costs nothing, and mean and
variance stay right where the mean is large and the spread small.

Source: S. Ioffe, C. Szegedy, "Batch Normalization", 2015, algorithm 1 and the derivatives of section 3.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from minires.kernels.interface import Array
from minires.kernels.reference.windows import native

Statistic: TypeAlias = npt.NDArray[np.float64]

ROW = 1024  # products that one BLAS dot adds up


def batch_norm_train(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Statistic, Statistic]:
    """Normalise with the statistics of the batch. See interface.batch_norm_train."""
    x3 = _as_ncl(x)
    count = x3.shape[0] * x3.shape[2]
    if count == 0:  # nothing to average: the output is empty as well
        nothing = np.zeros(x3.shape[1])
        return np.empty(x.shape, x3.dtype), nothing, nothing
    # Pass 1: the mean, in x's own precision.
    guess = (_channel_sum(x3) / count).astype(x3.dtype)
    # Pass 2: the centred values, kept: variance and output both need them.
    centred = x3 - guess[:, None]
    # Pass 3 and 4: what rounding left of the mean, and the variance about the true one: the corrected two-pass
    # algorithm (Chan, Golub, LeVeque 1983, equation 1.7). E[x^2] - E[x]^2 would cancel to nothing when |mean| >> std.
    rest = _channel_sum(centred) / count
    var = _channel_dot(centred, centred) / count - rest * rest
    # Pass 5 and 6: scale and shift in place.
    y = _scale_and_shift(centred, rest, _scale(weight, var, eps), bias)
    return y.reshape(x.shape), guess + rest, var


def batch_norm_train_backward(
    grad_y: Array, x: Array, weight: Array | None, mean: Statistic, var: Statistic, eps: float
) -> tuple[Array, Array, Array]:
    """Adjoint of batch_norm_train; the statistics depend on x. See interface.batch_norm_train_backward."""
    grad3, x3 = _as_ncl(grad_y), _as_ncl(x)
    count = max(grad3.shape[0] * grad3.shape[2], 1)
    inv_std = 1.0 / np.sqrt(var + eps)
    centred, rest = _centre(x3, mean)
    # Two reductions: sum of grad_y, and of grad_y * x_hat, x_hat = (centred - rest) * inv_std.
    grad_bias = _channel_sum(grad3)
    grad_weight = inv_std * (_channel_dot(grad3, centred) - rest * grad_bias)
    # grad_x = a (grad_y - mean(grad_y) - x_hat mean(grad_y x_hat)), a = weight inv_std: one linear combination
    # a grad_y + b centred + c of the two big arrays, gathered so that each is touched once.
    a = _scale(weight, var, eps)
    b = -a * inv_std * grad_weight / count
    c = -a * grad_bias / count - b * rest
    grad_x = np.multiply(centred, _column(b, x3), out=centred)
    grad_x += grad3 * _column(a, x3)
    grad_x += _column(c, x3)
    return grad_x.reshape(x.shape), grad_weight.astype(x3.dtype), grad_bias.astype(x3.dtype)


def batch_norm_eval(x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, eps: float) -> Array:
    """Normalise with given statistics, which are constants. See interface.batch_norm_eval."""
    centred, rest = _centre(_as_ncl(x), mean)
    return _scale_and_shift(centred, rest, _scale(weight, var, eps), bias).reshape(x.shape)


def batch_norm_eval_backward(
    grad_y: Array, x: Array, weight: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """Adjoint of batch_norm_eval: the statistics do not move with x. See interface.batch_norm_eval_backward."""
    grad3 = _as_ncl(grad_y)
    x3 = _as_ncl(x)
    centred, rest = _centre(x3, mean)
    grad_bias = _channel_sum(grad3)
    grad_weight = (_channel_dot(grad3, centred) - rest * grad_bias) / np.sqrt(np.asarray(var, np.float64) + eps)
    grad_x = np.multiply(grad3, _column(_scale(weight, var, eps), x3), out=centred)
    return grad_x.reshape(x.shape), grad_weight.astype(x3.dtype), grad_bias.astype(x3.dtype)


def _as_ncl(x: Array) -> Array:
    """(N, C, *) -> (N, C, L), a view where memory allows. L is counted, for an empty batch leaves -1 undefined."""
    return native(x).reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:]))


def _channel_sum(x3: Array) -> Statistic:
    """(N, C, L) -> (C,): sum over n and l; a dot product with ones takes half the time of np.sum."""
    return _channel_dot(x3, np.ones(x3.shape[2], x3.dtype))


def _channel_dot(a3: Array, b3: Array) -> Statistic:
    """(N, C, L), (N, C, L) or (L,) -> (C,): sum over n and l of a * b, with no array of products in between.

    BLAS adds up to ROW products in x's precision, float64 adds those partial sums: in float32 the error stays below
    1e-6 however long L is, where one dot product over 10^6 elements loses 2e-4.
    """
    total = np.zeros(a3.shape[1])
    for start in range(0, a3.shape[2], ROW):
        row = slice(start, start + ROW)
        total += np.vecdot(a3[:, :, row], b3[..., row]).sum(axis=0, dtype=np.float64)
    return total


def _column(statistic: Statistic, x3: Array) -> Array:
    """(C,) float64 -> (C, 1) of x's dtype, which broadcasts against (N, C, L)."""
    return statistic.astype(x3.dtype)[:, None]


def _centre(x3: Array, mean: Array) -> tuple[Array, Statistic]:
    """x - round(mean), and rest = mean - round(mean), which the caller folds into its shift.

    mean is rounded to x's dtype because a float64 operand would turn the whole (N, C, L) array into float64.
    """
    rounded = mean.astype(x3.dtype)
    return x3 - rounded[:, None], np.asarray(mean, np.float64) - rounded


def _scale(weight: Array | None, var: Array, eps: float) -> Statistic:
    """weight / sqrt(var + eps), in float64."""
    inv_std = 1.0 / np.sqrt(np.asarray(var, np.float64) + eps)
    return inv_std if weight is None else weight * inv_std


def _scale_and_shift(centred: Array, rest: Statistic, scale: Statistic, bias: Array | None) -> Array:
    """(centred - rest) * scale + bias, in place: centred is scratch of our own."""
    shift = -rest * scale if bias is None else bias - rest * scale
    centred *= _column(scale, centred)
    centred += _column(shift, centred)
    return centred
