"""The second derivative that batch, layer and group normalisation share.

All three are, over their own axes (means and sums below run over these),

    x_hat = (x - mean) s,   s = 1 / sqrt(var + eps),   y = weight x_hat + bias

With P(a) = a - mean(a) - x_hat mean(a x_hat), which is symmetric, a small step dx moves x_hat by s P(dx) and s by
-s^2 mean(x_hat dx). So the first derivative, which one fused kernel computes, is, with h = weight grad_y,

    grad_x = s P(h),   grad_weight = sum grad_y x_hat,   grad_bias = sum grad_y

Differentiating the three again, for what comes back (u for grad_x, v for grad_weight, z for grad_bias):

    to grad_y:  weight s P(u) + v x_hat + z
    to weight:  sum grad_y s P(u)
    to x:       s P(v grad_y) - s^2 (x_hat mean(u P(h)) + mean(h x_hat) P(u) + mean(u x_hat) P(h))

The last bracket is what is lost if s is held constant. Everything here is made of differentiable operations of x, so the
third derivative and all beyond exist as well.
"""

from __future__ import annotations

import math
from typing import Any

from minires.ops.reduce import sum as sum_over
from minires.ops.shape import reshape, sum_to_shape
from minires.ops.unary import rsqrt


def second_derivative(
    saved: tuple[Any, Any, Any],
    eps: float,
    from_outputs: tuple[Any, Any, Any],
    shape: tuple[int, ...],
    parameter_shape: tuple[int, ...],
    axes: tuple[int, ...],
) -> tuple[Any, Any, Any]:
    """The backward pass of a normalisation's backward pass, with the statistics of x itself.

    Args:
        saved: grad_y, x and weight (or None), with their history.
        from_outputs: u, v, z, the gradients of grad_x, grad_weight, grad_bias.
        shape: how to see u, grad_y and x.
        parameter_shape: how to see v, z and weight; broadcasts against `shape`.
        axes: the dimensions of `shape` that are normalised over.

    Returns:
        (for grad_y, for x, for weight or None), in the shapes of these.
    """
    grad_y, x, weight = saved
    x_shape, count = x.shape, max(math.prod(shape[a] for a in axes), 1)
    u, grad_y, x = (reshape(a, shape) for a in (from_outputs[0], grad_y, x))
    v, z = (reshape(a, parameter_shape) for a in from_outputs[1:])
    scale = None if weight is None else reshape(weight, parameter_shape)

    def mean(a: Any) -> Any:
        return sum_over(a, axes, keepdim=True) / count

    centred = x - mean(x)
    s = rsqrt(mean(centred * centred) + eps)
    x_hat = centred * s

    def project(a: Any) -> Any:
        return a - mean(a) - x_hat * mean(a * x_hat)

    h = grad_y if scale is None else grad_y * scale
    projected_u, projected_h = project(u), project(h)
    through_s = x_hat * mean(u * projected_h) + mean(h * x_hat) * projected_u + mean(u * x_hat) * projected_h
    to_x = s * project(v * grad_y) - s * s * through_s
    to_h = s * projected_u
    to_grad_y = (to_h if scale is None else scale * to_h) + v * x_hat + z
    to_weight = None if weight is None else reshape(sum_to_shape(grad_y * to_h, parameter_shape), weight.shape)
    return reshape(to_grad_y, x_shape), reshape(to_x, x_shape), to_weight
