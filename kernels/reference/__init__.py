"""The reference kernel set: plain NumPy, the textbook, and the oracle of the other sets."""

from minires.kernels.reference.batch_norm import (
    batch_norm_eval,
    batch_norm_eval_backward,
    batch_norm_train,
    batch_norm_train_backward,
)
from minires.kernels.reference.batch_norm_relu import (
    batch_norm_relu_eval,
    batch_norm_relu_eval_backward,
    batch_norm_relu_train,
    batch_norm_relu_train_backward,
)
from minires.kernels.reference.conv import conv2d_backward_weight, conv2d_backward_x, conv2d_forward
from minires.kernels.reference.interpolate import (
    interpolate_bilinear_backward,
    interpolate_bilinear_forward,
    interpolate_nearest_backward,
    interpolate_nearest_forward,
)
from minires.kernels.reference.layer_norm import (
    group_norm_backward,
    group_norm_forward,
    layer_norm_backward,
    layer_norm_forward,
)
from minires.kernels.reference.optimizer import adam_step, sgd_step
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
from minires.kernels.reference.residual import (
    relu_backward,
    relu_forward,
    residual_relu_backward,
    residual_relu_forward,
)
from minires.kernels.reference.softmax import (
    cross_entropy_backward,
    cross_entropy_forward,
    log_softmax_backward,
    log_softmax_forward,
    softmax_backward,
    softmax_forward,
)

__all__ = [
    "adam_step",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool2d_forward",
    "adaptive_max_pool2d_forward",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "batch_norm_eval",
    "batch_norm_eval_backward",
    "batch_norm_relu_eval",
    "batch_norm_relu_eval_backward",
    "batch_norm_relu_train",
    "batch_norm_relu_train_backward",
    "batch_norm_train",
    "batch_norm_train_backward",
    "conv2d_backward_weight",
    "conv2d_backward_x",
    "conv2d_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "group_norm_backward",
    "group_norm_forward",
    "interpolate_bilinear_backward",
    "interpolate_bilinear_forward",
    "interpolate_nearest_backward",
    "interpolate_nearest_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "log_softmax_backward",
    "log_softmax_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "max_pool2d_gather",
    "relu_backward",
    "relu_forward",
    "residual_relu_backward",
    "residual_relu_forward",
    "sgd_step",
    "softmax_backward",
    "softmax_forward",
]
