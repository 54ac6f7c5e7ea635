"""The CPU kernel set: Numba and emitted vector code, in blocks of 16 channels.

    emit, microkernel     vector instructions, and the tile of a matrix product that all convolutions are made of
    tasks, intrinsics     how pieces of work reach all cores
    layout, memory        the private array type, and the pool its memory comes from
    product               the gathered product: the micro-kernel over tables of pixels and taps
    conv_*                direct, Winograd, the gradient of weights, the stem; conv.py chooses

One screen shows what is fast: what is taken from the reference stands in the second list.
"""

from minires.kernels import reference
from minires.kernels.cpu.conv import conv2d_backward_weight, conv2d_backward_x, conv2d_forward
from minires.kernels.cpu.layout import Blocked
from minires.kernels.cpu.optimizer import adam_step, sgd_step
from minires.kernels.cpu.plan import lower
from minires.kernels.cpu.tasks import set_workers, workers
from minires.kernels.private import takes_plain

PRIVATE = (Blocked,)

adaptive_avg_pool2d_backward = takes_plain(reference.adaptive_avg_pool2d_backward)
adaptive_avg_pool2d_forward = takes_plain(reference.adaptive_avg_pool2d_forward)
adaptive_max_pool2d_forward = takes_plain(reference.adaptive_max_pool2d_forward)
avg_pool2d_backward = takes_plain(reference.avg_pool2d_backward)
avg_pool2d_forward = takes_plain(reference.avg_pool2d_forward)
batch_norm_eval = takes_plain(reference.batch_norm_eval)
batch_norm_eval_backward = takes_plain(reference.batch_norm_eval_backward)
batch_norm_relu_eval = takes_plain(reference.batch_norm_relu_eval)
batch_norm_relu_eval_backward = takes_plain(reference.batch_norm_relu_eval_backward)
batch_norm_relu_train = takes_plain(reference.batch_norm_relu_train)
batch_norm_relu_train_backward = takes_plain(reference.batch_norm_relu_train_backward)
batch_norm_train = takes_plain(reference.batch_norm_train)
batch_norm_train_backward = takes_plain(reference.batch_norm_train_backward)
cross_entropy_backward = takes_plain(reference.cross_entropy_backward)
cross_entropy_forward = takes_plain(reference.cross_entropy_forward)
group_norm_backward = takes_plain(reference.group_norm_backward)
group_norm_forward = takes_plain(reference.group_norm_forward)
interpolate_bilinear_backward = takes_plain(reference.interpolate_bilinear_backward)
interpolate_bilinear_forward = takes_plain(reference.interpolate_bilinear_forward)
interpolate_nearest_backward = takes_plain(reference.interpolate_nearest_backward)
interpolate_nearest_forward = takes_plain(reference.interpolate_nearest_forward)
layer_norm_backward = takes_plain(reference.layer_norm_backward)
layer_norm_forward = takes_plain(reference.layer_norm_forward)
log_softmax_backward = takes_plain(reference.log_softmax_backward)
log_softmax_forward = takes_plain(reference.log_softmax_forward)
max_pool2d_backward = takes_plain(reference.max_pool2d_backward)
max_pool2d_forward = takes_plain(reference.max_pool2d_forward)
max_pool2d_gather = takes_plain(reference.max_pool2d_gather)
relu_backward = takes_plain(reference.relu_backward)
relu_forward = takes_plain(reference.relu_forward)
residual_relu_backward = takes_plain(reference.residual_relu_backward)
residual_relu_forward = takes_plain(reference.residual_relu_forward)
softmax_backward = takes_plain(reference.softmax_backward)
softmax_forward = takes_plain(reference.softmax_forward)

__all__ = [
    "PRIVATE",
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
    "lower",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "max_pool2d_gather",
    "relu_backward",
    "relu_forward",
    "residual_relu_backward",
    "residual_relu_forward",
    "set_workers",
    "sgd_step",
    "softmax_backward",
    "softmax_forward",
    "workers",
]
