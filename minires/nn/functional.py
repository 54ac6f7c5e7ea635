"""The operations as functions, under torch's names: `from minires.nn import functional as F`.

Each stands in `minires/ops/`, its forward and derivative side by side. Here are the names, and two functions that are made
of others.
"""

from __future__ import annotations

import numpy as np

from minires.errors import ArgumentError, DTypeError, LabelError
from minires.ops.activation import (
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    logsigmoid,
    mish,
    relu,
    relu6,
    relu_,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from minires.ops.batch_norm import batch_norm
from minires.ops.batch_norm_relu import batch_norm_relu
from minires.ops.checks import check_tensor
from minires.ops.conv import conv2d, conv_transpose2d
from minires.ops.dropout import dropout, dropout2d
from minires.ops.interpolate import interpolate
from minires.ops.layer_norm import group_norm, layer_norm
from minires.ops.linear import linear
from minires.ops.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from minires.ops.pad import pad
from minires.ops.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from minires.ops.residual import residual_relu
from minires.ops.softmax import log_softmax, softmax
from minires.tensor import Tensor

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "batch_norm",
    "batch_norm_relu",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "elu",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "interpolate",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "max_pool2d",
    "mish",
    "mse_loss",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "relu",
    "relu6",
    "relu_",
    "residual_relu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "tanh",
]


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """y[..., k] = 1 where tensor[...] = k, 0 elsewhere; int64.

    Args:
        tensor: class indices, int64 of any shape.
        num_classes: the size of the new last dimension; -1 for the largest index + 1.

    Raises:
        DTypeError: not integers. LabelError: an index outside [0, num_classes).
    """
    check_tensor("one_hot", "tensor", tensor)
    labels = tensor.array
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"one_hot: tensor must hold class indices (int64), got dtype {labels.dtype}")
    if num_classes == -1:
        if not labels.size:
            raise ArgumentError("one_hot: num_classes must be given where the tensor is empty")
        num_classes = int(labels.max()) + 1
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        raise LabelError(f"one_hot: indices must be in [0, {num_classes}), got {labels[outside][0]}")
    return Tensor((labels[..., None] == np.arange(num_classes)).astype(np.int64))


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """y = x / max(||x||_p, eps) along `dim`."""
    return input / input.norm(p, dim, keepdim=True).clamp(min=eps)
