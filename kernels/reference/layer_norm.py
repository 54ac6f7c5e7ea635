"""Layer and group normalisation in plain NumPy: each sample by itself, so training and evaluation are the same.

Both are one operation on rows: x is seen as (M, K), each row is normalised over its K values, then scaled and shifted.
  layer norm:  M = all leading positions, K = the last dimensions, weight and bias over K;
  group norm:  M = N * G, K = (C / G) * L, weight and bias per channel.

Source: J. Ba, J. Kiros, G. Hinton, "Layer Normalization", 2016, equations 3 and 4; Y. Wu, K. He, "Group Normalization",
2018, equation 7.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from minires.kernels.interface import Array
from minires.kernels.reference.windows import native

Statistic: TypeAlias = npt.NDArray[np.float64]


def layer_norm_forward(
    x: Array, normalized_ndim: int, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Statistic, Statistic]:
    """Normalise over the last normalized_ndim dimensions. See interface.layer_norm_forward."""
    y, mean, var = _normalize(_as_rows(x, normalized_ndim), eps)
    if weight is not None:
        y *= weight.reshape(-1)
    if bias is not None:
        y += bias.reshape(-1)
    return y.reshape(x.shape), mean, var


def layer_norm_backward(
    grad_y: Array, x: Array, normalized_ndim: int, weight: Array | None, mean: Statistic, var: Statistic, eps: float
) -> tuple[Array, Array, Array]:
    """Adjoint of layer_norm_forward. See interface.layer_norm_backward."""
    grad, rows = _as_rows(grad_y, normalized_ndim), _as_rows(x, normalized_ndim)
    x_hat = _x_hat(rows, mean, var, eps)
    shape = x.shape[x.ndim - normalized_ndim :]
    grad_weight = (grad * x_hat).sum(axis=0).reshape(shape)
    grad_bias = grad.sum(axis=0).reshape(shape)
    grad_x_hat = grad if weight is None else grad * weight.reshape(-1)
    return _normalize_backward(grad_x_hat, x_hat, var, eps).reshape(x.shape), grad_weight, grad_bias


def group_norm_forward(
    x: Array, num_groups: int, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Statistic, Statistic]:
    """Normalise each of num_groups groups of channels. See interface.group_norm_forward."""
    x_hat, mean, var = _normalize(_as_groups(x, num_groups), eps)
    y = x_hat.reshape(_ncl(x))
    if weight is not None:
        y *= weight[:, None]
    if bias is not None:
        y += bias[:, None]
    return y.reshape(x.shape), mean, var


def group_norm_backward(
    grad_y: Array, x: Array, num_groups: int, weight: Array | None, mean: Statistic, var: Statistic, eps: float
) -> tuple[Array, Array, Array]:
    """Adjoint of group_norm_forward. See interface.group_norm_backward."""
    grad = native(grad_y).reshape(_ncl(x))
    x_hat = _x_hat(_as_groups(x, num_groups), mean, var, eps)
    grad_weight = (grad * x_hat.reshape(_ncl(x))).sum(axis=(0, 2))
    grad_bias = grad.sum(axis=(0, 2))
    grad_x_hat = (grad if weight is None else grad * weight[:, None]).reshape(x_hat.shape)
    return _normalize_backward(grad_x_hat, x_hat, var, eps).reshape(x.shape), grad_weight, grad_bias


def _ncl(x: Array) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _as_rows(x: Array, normalized_ndim: int) -> Array:
    """(*, normalized dimensions) -> (M, K)."""
    split = x.ndim - normalized_ndim
    return native(x).reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:]))


def _as_groups(x: Array, num_groups: int) -> Array:
    """(N, C, *) -> (N * G, C / G * L): the channels of a group lie next to each other."""
    n, c, length = _ncl(x)
    return native(x).reshape(n * num_groups, c // num_groups * length)


def _row_mean(rows: Array) -> Statistic:
    """(M, K) -> (M,) float64; 0 where K = 0, for then no value is normalised."""
    return np.asarray(rows.sum(axis=1), np.float64) / max(rows.shape[1], 1)


def _normalize(rows: Array, eps: float) -> tuple[Array, Statistic, Statistic]:
    """x_hat (M, K), and mean and biased variance (M,): the corrected two-pass algorithm of reference.batch_norm."""
    guess = _row_mean(rows).astype(rows.dtype)
    centred = rows - guess[:, None]
    rest = _row_mean(centred)  # what rounding left of the mean
    centred -= rest.astype(rows.dtype)[:, None]
    var = _row_mean(centred * centred)
    centred *= _inv_std(var, eps, rows)
    return centred, guess + rest, var


def _x_hat(rows: Array, mean: Statistic, var: Statistic, eps: float) -> Array:
    """(x - mean) * inv_std, the mean subtracted in two parts so that float32 loses none of it."""
    guess = mean.astype(rows.dtype)
    centred = rows - guess[:, None]
    centred -= (mean - guess).astype(rows.dtype)[:, None]
    centred *= _inv_std(var, eps, rows)
    return centred


def _inv_std(var: Statistic, eps: float, rows: Array) -> Array:
    """1 / sqrt(var + eps) as a column (M, 1) of x's dtype."""
    return (1.0 / np.sqrt(var + eps)).astype(rows.dtype)[:, None]


def _normalize_backward(grad_x_hat: Array, x_hat: Array, var: Statistic, eps: float) -> Array:
    """inv_std (g - mean(g) - x_hat mean(g x_hat)), g = grad_x_hat; means over each row."""
    count = max(x_hat.shape[1], 1)
    mean_grad = grad_x_hat.sum(axis=1, keepdims=True) / count
    mean_grad_x_hat = (grad_x_hat * x_hat).sum(axis=1, keepdims=True) / count
    grad_rows = grad_x_hat - mean_grad
    grad_rows -= x_hat * mean_grad_x_hat
    grad_rows *= _inv_std(var, eps, x_hat)
    return grad_rows
