"""The ReLU, alone and at a residual join, in plain NumPy.

relu(x) = max(x, 0), and relu(input + shortcut), the join that ends every residual block (He et al. 2015, figure 2).
Both share one adjoint, which needs the output alone: y > 0 exactly where the sum was.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.kernels.interface import Array


def relu_forward(x: Array) -> Array:
    """max(x, 0); NaN stays NaN. See interface.relu_forward."""
    return np.maximum(x, 0)


def relu_backward(grad_y: Array, y: Array) -> Array:
    """grad_y where not (y <= 0), else 0. See interface.relu_backward.

    np.where branches on every element: 9.4 ms on 2 million random floats on one core. grad_y * (y > 0) takes 1.4 ms and
    is wrong: inf * 0 is NaN. So the gradient's bits are masked (1.7 ms): all ones keep a number, all zeros make it 0.0.
    """
    grad_y = np.asarray(grad_y, grad_y.dtype.newbyteorder("="))
    integer = np.int32 if grad_y.dtype.itemsize == 4 else np.int64
    mask: Any = np.asarray(y <= 0, integer)  # 1: drop, 0: keep; a NaN in y keeps, as in torch
    mask -= 1  # 0: drop, -1 (every bit set): keep
    mask &= grad_y.view(integer)
    return mask.view(grad_y.dtype)


def residual_relu_forward(x: Array, shortcut: Array) -> Array:
    """max(x + shortcut, 0) with one array, not two. See interface.residual_relu_forward."""
    y = np.asarray(x + shortcut)
    return np.maximum(y, 0, out=y)


def residual_relu_backward(grad_y: Array, y: Array) -> Array:
    """The gradient of x and of shortcut, which is the same array. See interface.residual_relu_backward."""
    return relu_backward(grad_y, y)
