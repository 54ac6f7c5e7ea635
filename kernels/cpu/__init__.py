"""The CPU kernel set: Numba and emitted vector code, in blocks of 16 channels.

    emit, microkernel     vector instructions, and the tile of a matrix product that all convolutions are made of
    tasks, intrinsics     how pieces of work reach all cores
    layout, memory        the private array type, and the pool its memory comes from
    product               the gathered product: the micro-kernel over tables of pixels and taps
    batch_norm, elementwise, pixels, planes, pool, windows, optimizer    what surrounds the convolutions
    conv_*                direct, Winograd, the gradient of weights, the stem; conv.py chooses

One screen shows what is fast, and what is taken from the reference.
"""

from minires.kernels import reference
from minires.kernels.cpu import batch_norm, elementwise, pool
from minires.kernels.cpu.blas import give_back as leave
from minires.kernels.cpu.blas import hold as enter
from minires.kernels.cpu.conv import conv2d_backward_weight, conv2d_backward_x, conv2d_forward
from minires.kernels.cpu.dispatch import adaptive_avg_pool2d_backward, blocked_if_any, max_pool2d_backward
from minires.kernels.cpu.layout import Blocked
from minires.kernels.cpu.memory import pool as _memory
from minires.kernels.cpu.optimizer import adam_step, sgd_step
from minires.kernels.cpu.plan import lower
from minires.kernels.cpu.pool import Taps
from minires.kernels.cpu.rehearsal import rehearse
from minires.kernels.cpu.tasks import on_compile, report, set_debug, set_workers, workers
from minires.kernels.private import takes_plain

PRIVATE = (Blocked, Taps)

release = _memory.clear

# Ours where an image (by its position in the arguments) is blocked.
adaptive_avg_pool2d_forward = blocked_if_any(pool.adaptive_avg_pool2d_forward, reference.adaptive_avg_pool2d_forward, 0)
avg_pool2d_backward = blocked_if_any(pool.avg_pool2d_backward, reference.avg_pool2d_backward, 0)
avg_pool2d_forward = blocked_if_any(pool.avg_pool2d_forward, reference.avg_pool2d_forward, 0)
batch_norm_eval = blocked_if_any(batch_norm.batch_norm_eval, reference.batch_norm_eval, 0)
batch_norm_eval_backward = blocked_if_any(batch_norm.batch_norm_eval_backward, reference.batch_norm_eval_backward, 0, 1)
batch_norm_relu_eval = blocked_if_any(batch_norm.batch_norm_relu_eval, reference.batch_norm_relu_eval, 0, 6, "shortcut")
batch_norm_relu_eval_backward = blocked_if_any(
    batch_norm.batch_norm_relu_eval_backward, reference.batch_norm_relu_eval_backward, 0, 1, 2
)
batch_norm_relu_train = blocked_if_any(
    batch_norm.batch_norm_relu_train, reference.batch_norm_relu_train, 0, 4, "shortcut"
)
batch_norm_relu_train_backward = blocked_if_any(
    batch_norm.batch_norm_relu_train_backward, reference.batch_norm_relu_train_backward, 0, 1, 2
)
batch_norm_train = blocked_if_any(batch_norm.batch_norm_train, reference.batch_norm_train, 0)
batch_norm_train_backward = blocked_if_any(
    batch_norm.batch_norm_train_backward, reference.batch_norm_train_backward, 0, 1
)
max_pool2d_forward = blocked_if_any(pool.max_pool2d_forward, reference.max_pool2d_forward, 0)
relu_backward = blocked_if_any(elementwise.relu_backward, reference.relu_backward, 0, 1)
relu_forward = blocked_if_any(elementwise.relu_forward, reference.relu_forward, 0)
residual_relu_backward = blocked_if_any(elementwise.relu_backward, reference.residual_relu_backward, 0, 1)
residual_relu_forward = blocked_if_any(elementwise.residual_relu_forward, reference.residual_relu_forward, 0, 1)

max_pool2d_gather = pool.max_pool2d_gather

# The reference's.
adaptive_max_pool2d_forward = takes_plain(reference.adaptive_max_pool2d_forward)
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
    "enter",
    "group_norm_backward",
    "group_norm_forward",
    "interpolate_bilinear_backward",
    "interpolate_bilinear_forward",
    "interpolate_nearest_backward",
    "interpolate_nearest_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "leave",
    "log_softmax_backward",
    "log_softmax_forward",
    "lower",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "max_pool2d_gather",
    "on_compile",
    "rehearse",
    "release",
    "relu_backward",
    "relu_forward",
    "report",
    "residual_relu_backward",
    "residual_relu_forward",
    "set_debug",
    "set_workers",
    "sgd_step",
    "softmax_backward",
    "softmax_forward",
    "workers",
]
