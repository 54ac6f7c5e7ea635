"""Batch norm over all ranks: the operation of `nn.SyncBatchNorm`.

Each rank's kernels do what they always do; of the other ranks two small messages are needed.

Forward: each rank's count, mean and M2 = sum (x - mean)^2 of every channel are gathered, and merged in the order of the ranks,
so that all compute the same bits (Chan, Golub and LeVeque 1983, equation 2.1):

    delta = mean_b - mean_a,   mean = mean_a + delta n_b / n,   M2 = M2_a + M2_b + delta^2 n_a n_b / n,   n = n_a + n_b

Then y = (x - mean) s weight + bias with these constants, s = 1 / sqrt(M2 / n + eps): batch norm's evaluation kernel.

Backward: mean and s depend on every rank's x. With the sums S_g = sum g and S_gx = sum g x_hat over all ranks, g = dL/dy,

    dL/dx = weight s (g - S_g / n - x_hat S_gx / n)

The first term is the evaluation kernel's derivative, and the rest is linear in x_hat: that kernel itself, with other weights.
dL/dweight and dL/dbias stay each rank's own sums: they are added up with all other gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minires.autograd import Op, apply
from minires.distributed.group import Array, Group, current
from minires.errors import GradError, ShapeError
from minires.kernels.private import PrivateArray, to_plain
from minires.ops.batch_norm import batch_norm, check_arguments, update_running_statistics, values_per_channel
from minires.ops.batch_norm_relu import batch_norm_relu, check_shortcut
from minires.tensor import Tensor

__all__ = ["sync_batch_norm", "sync_batch_norm_relu"]


def merge_moments(count: Array, mean: Array, m2: Array) -> tuple[float, Array, Array]:
    """Merge the moments of parts.

    Args:
        count: (parts,) how many values each part has a channel; may be 0.
        mean, m2: (parts, C).

    Returns:
        count, mean and biased variance (C,) of all parts together.
    """
    n, total_mean, total_m2 = 0.0, np.zeros_like(mean[0]), np.zeros_like(m2[0])
    for n_b, mean_b, m2_b in zip(count, mean, m2, strict=True):
        if not n_b:
            continue
        delta, n_a = mean_b - total_mean, n
        n += float(n_b)
        total_mean = total_mean + delta * (n_b / n)
        total_m2 = total_m2 + m2_b + delta * delta * (n_a * n_b / n)
    return n, total_mean, total_m2 / max(n, 1.0)


def shared_moments(kernels: Any, x: Any, eps: float, group: Group) -> tuple[Array, Array, float]:
    """Mean and biased variance (C,) of every channel over the batches of all ranks, and over how many values.

    Raises:
        ShapeError: over one value alone.
    """
    _, mean, var = kernels.batch_norm_train(x, None, None, eps)
    values, c = values_per_channel(x), x.shape[1]
    every = group.gather(np.concatenate([[values], mean, var * values]))
    count, mean, var = merge_moments(every[:, 0], every[:, 1 : 1 + c], every[:, 1 + c :])
    if count == 1:
        raise ShapeError(
            "sync_batch_norm: training needs more than one value per channel, over all processes, to have a variance, got "
            f"input.shape = {tuple(x.shape)}; use a larger batch, or training=False (module.eval())"
        )
    return mean, var, count


class SyncBatchNormTrain(Op):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, mean and biased var over the batches of all ranks. Saves: x, weight."""

    name = "sync_batch_norm"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, eps: float, group: Group) -> Any:
        mean, var, count = shared_moments(ctx.kernels, x, eps, group)
        ctx.save_for_backward(x, weight)
        ctx.constants = mean, var, eps, count, group
        ctx.mark_non_differentiable(mean, var)
        return ctx.kernels.batch_norm_eval(x, weight, bias, mean, var, eps), mean, var, np.float64(count)

    @staticmethod
    def backward(ctx: Any, grad_y: Any, *unused: Any) -> Any:
        grads = apply(SyncBatchNormBackward, grad_y, *ctx.saved_tensors, *ctx.constants)
        return tuple(g if wanted else None for g, wanted in zip(grads, ctx.needs_input_grad, strict=False))


class SyncBatchNormBackward(Op):
    """grad_x, grad_weight, grad_bias of SyncBatchNormTrain."""

    name = "sync_batch_norm_backward"
    structured = True

    @staticmethod
    def forward(
        ctx: Any, grad_y: Any, x: Any, weight: Any, mean: Any, var: Any, eps: float, count: float, group: Group
    ) -> Any:
        parts = ctx.kernels.batch_norm_eval_backward(grad_y, x, weight, mean, var, eps)
        return _through_statistics(ctx.kernels, parts, x, weight, mean, var, eps, count, group)

    @staticmethod
    def backward(ctx: Any, *unused: Any) -> Any:
        raise _no_second_derivative()


class SyncBatchNormReLUTrain(Op):
    """relu(SyncBatchNormTrain(x) [+ shortcut]), fused as in `ops.batch_norm_relu`. Saves: x, y, weight."""

    name = "sync_batch_norm_relu"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, shortcut: Any, eps: float, group: Group) -> Any:
        mean, var, count = shared_moments(ctx.kernels, x, eps, group)
        y = ctx.kernels.batch_norm_relu_eval(x, weight, bias, mean, var, eps, shortcut)
        ctx.save_for_backward(x, y, weight)
        ctx.constants = mean, var, eps, count, group
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var, np.float64(count)

    @staticmethod
    def backward(ctx: Any, grad_y: Any, *unused: Any) -> Any:
        x, y, weight = ctx.saved_tensors
        return apply(SyncBatchNormReLUBackward, grad_y, y, x, weight, *ctx.constants, ctx.needs_input_grad[3])


class SyncBatchNormReLUBackward(Op):
    """grad_x, grad_weight, grad_bias and, if wanted, grad_shortcut of SyncBatchNormReLUTrain."""

    name = "sync_batch_norm_relu_backward"
    structured = True

    @staticmethod
    def forward(
        ctx: Any, grad_y: Any, y: Any, x: Any, weight: Any, mean: Any, var: Any, eps: float, count: float, group: Group,
        has_shortcut: bool,
    ) -> Any:  # fmt: skip
        *parts, to_shortcut = ctx.kernels.batch_norm_relu_eval_backward(
            grad_y, y, x, weight, mean, var, eps, has_shortcut
        )
        grads = _through_statistics(ctx.kernels, parts, x, weight, mean, var, eps, count, group)
        return (*grads, to_shortcut) if has_shortcut else grads

    @staticmethod
    def backward(ctx: Any, *unused: Any) -> Any:
        raise _no_second_derivative()


def _through_statistics(
    kernels: Any, parts: Sequence[Any], x: Any, weight: Any, mean: Any, var: Any, eps: float, count: float, group: Group
) -> tuple[Any, Any, Any]:
    """From the derivatives with constant statistics, `parts`, to those with statistics that all ranks' x move (see the top of
    this file).
    """
    grad_x, grad_weight, grad_bias = parts
    sums = np.stack([grad_weight, grad_bias]).astype(np.float64)
    group.sum(sums)
    scale = (1.0 if weight is None else weight) / np.sqrt(var + eps)
    of_x_hat, constant = (-scale * sums / max(count, 1.0)).astype(grad_weight.dtype)
    return _added(grad_x, kernels.batch_norm_eval(x, of_x_hat, constant, mean, var, eps)), grad_weight, grad_bias


def _no_second_derivative() -> GradError:
    return GradError(
        "sync_batch_norm: the second derivative is not there (as in torch); use BatchNorm2d where it is needed"
    )


def _added(a: Any, b: Any) -> Any:
    """a + b, private where both are."""
    if isinstance(a, PrivateArray) and type(a) is type(b):
        return a.add(b)
    return to_plain(a) + to_plain(b)


def sync_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` with the statistics of the batches of all ranks of `distributed.current()`; in training, a collective.

    Args, Returns and Raises: as F.batch_norm's. N may differ between ranks, and may be 0 on some.
    """
    group = current()
    checked = (input, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training or group.size == 1:
        return batch_norm(*checked)
    check_arguments("sync_batch_norm", *checked, values=0)
    y, mean, var, count = apply(SyncBatchNormTrain, input, weight, bias, float(eps), group)
    update_running_statistics(running_mean, running_var, mean, var, momentum, int(count.item()))
    return y


def sync_batch_norm_relu(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    shortcut: Tensor | None = None,
) -> Tensor:
    """relu(sync_batch_norm(input, ...) [+ shortcut]), fused.

    Args, Returns and Raises: as F.batch_norm_relu's.
    """
    group = current()
    checked = (input, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training or group.size == 1:
        return batch_norm_relu(*checked, shortcut)
    check_arguments("sync_batch_norm_relu", *checked, values=0)
    if shortcut is not None:
        check_shortcut("sync_batch_norm_relu", input, shortcut)
    y, mean, var, count = apply(SyncBatchNormReLUTrain, input, weight, bias, shortcut, float(eps), group)
    update_running_statistics(running_mean, running_var, mean, var, momentum, int(count.item()))
    return y
