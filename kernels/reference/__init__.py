"""The reference kernel set: plain NumPy, the textbook, and the oracle of the other sets."""

from minires.kernels.reference.conv import conv2d_backward_weight, conv2d_backward_x, conv2d_forward
from minires.kernels.reference.interpolate import (
    interpolate_bilinear_backward,
    interpolate_bilinear_forward,
    interpolate_nearest_backward,
    interpolate_nearest_forward,
)
from minires.kernels.reference.pool import (
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool2d_forward,
    adaptive_max_pool2d_forward,
    avg_pool2d_backward,
    avg_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
    max_pool2d_gather,
)

__all__ = [
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool2d_forward",
    "adaptive_max_pool2d_forward",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "conv2d_backward_weight",
    "conv2d_backward_x",
    "conv2d_forward",
    "interpolate_bilinear_backward",
    "interpolate_bilinear_forward",
    "interpolate_nearest_backward",
    "interpolate_nearest_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "max_pool2d_gather",
]
