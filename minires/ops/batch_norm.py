"""Batch normalisation: with the statistics of the batch, or with given ones.

The two variances (what learners ask most): a batch is normalised with its biased variance, sum / n, and the running
variance takes the unbiased one, sum / (n - 1).

Source: S. Ioffe, C. Szegedy, "Batch Normalization", 2015 (arXiv:1502.03167), algorithms 1 and 2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.errors import ArgumentError, DTypeError, GradError, ShapeError
from minires.ops.checks import check_floating, check_same_device, check_same_dtype, check_tensor
from minires.ops.normalization import second_derivative
from minires.ops.reduce import sum as sum_over
from minires.ops.shape import reshape
from minires.ops.unary import rsqrt

if TYPE_CHECKING:
    from minires.tensor import Tensor


class BatchNormTrain(Op):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, mean and biased var over the batch, channel by channel.

    dL/dx = weight s (g - mean(g) - x_hat mean(g x_hat)),  g = dL/dy, s = 1 / sqrt(var + eps), x_hat = (x - mean) s;
    dL/dweight = sum g x_hat,  dL/dbias = sum g.

    Saves: x, weight; mean and var, which are functions of x: the second derivative computes them again.
    """

    name = "batch_norm"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, eps: float) -> Any:
        y, mean, var = ctx.kernels.batch_norm_train(x, weight, bias, eps)
        ctx.save_for_backward(x, weight)
        ctx.statistics = mean, var
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, grad_y: Any, grad_mean: Any, grad_var: Any) -> Any:
        x, weight = ctx.saved_tensors
        grads = apply(BatchNormTrainBackward, grad_y, x, weight, *ctx.statistics, ctx.eps)
        return tuple(g if wanted else None for g, wanted in zip(grads, ctx.needs_input_grad, strict=False))


class BatchNormTrainBackward(Op):
    """grad_x, grad_weight, grad_bias of BatchNormTrain, by one kernel; its own derivative is in `normalization`."""

    name = "batch_norm_backward"
    structured = True

    @staticmethod
    def forward(ctx: Any, grad_y: Any, x: Any, weight: Any, mean: Any, var: Any, eps: float) -> Any:
        ctx.save_for_backward(grad_y, x, weight)
        ctx.eps = eps
        return ctx.kernels.batch_norm_train_backward(grad_y, x, weight, mean, var, eps)

    @staticmethod
    def backward(ctx: Any, u: Any, v: Any, z: Any) -> Any:
        grad_y, x, weight = ctx.saved_tensors
        return second_derivative_train(grad_y, x, weight, ctx.eps, u, v, z)


class BatchNormEval(Op):
    """y = (x - mean) s weight + bias,  s = 1 / sqrt(var + eps), with given mean and var, which are constants.

    dL/dx = weight s g,  dL/dweight = sum g (x - mean) s,  dL/dbias = sum g,  g = dL/dy.

    Saves: x, weight, mean, var.
    """

    name = "batch_norm_eval"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> Any:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        return ctx.kernels.batch_norm_eval(x, weight, bias, mean, var, eps)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        x, weight, mean, var = ctx.saved_tensors
        grads = apply(BatchNormEvalBackward, grad_y, x, weight, mean, var, ctx.eps)
        return tuple(g if wanted else None for g, wanted in zip(grads, ctx.needs_input_grad, strict=False))


class BatchNormEvalBackward(Op):
    """grad_x = weight s g,  grad_weight = sum g x_hat,  grad_bias = sum g,  x_hat = (x - mean) s, by one kernel."""

    name = "batch_norm_eval_backward"
    structured = True

    @staticmethod
    def forward(ctx: Any, grad_y: Any, x: Any, weight: Any, mean: Any, var: Any, eps: float) -> Any:
        ctx.save_for_backward(grad_y, x, weight, mean, var)
        ctx.eps = eps
        return ctx.kernels.batch_norm_eval_backward(grad_y, x, weight, mean, var, eps)

    @staticmethod
    def backward(ctx: Any, u: Any, v: Any, z: Any) -> Any:
        grad_y, x, weight, mean, var = ctx.saved_tensors
        return second_derivative_eval(grad_y, x, weight, mean, var, ctx.eps, u, v, z)


def second_derivative_train(
    grad_y: Any, x: Any, weight: Any, eps: float, u: Any, v: Any, z: Any
) -> tuple[Any, Any, Any]:
    """The backward pass of batch_norm_train_backward: gradients of grad_y, x and weight (None without one).

    Args:
        u, v, z: the gradients of grad_x, grad_weight, grad_bias. Tensors, as the others.
    """
    n, c, length = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    return second_derivative((grad_y, x, weight), eps, (u, v, z), (n, c, length), (1, c, 1), (0, 2))


def second_derivative_eval(
    grad_y: Any, x: Any, weight: Any, mean: Any, var: Any, eps: float, u: Any, v: Any, z: Any
) -> tuple[Any, Any, Any]:
    """The backward pass of batch_norm_eval_backward, s = 1 / sqrt(var + eps) being a constant:

        to grad_y:  weight s u + v x_hat + z,    to x:  v s grad_y,    to weight:  sum u s grad_y.

    Args and Returns: as second_derivative_train.
    """
    column = (1, x.shape[1], *[1] * (x.ndim - 2))
    v, z, mean, s = (reshape(a, column) for a in (v, z, mean, rsqrt(var + eps)))
    x_hat = (x - mean) * s
    scaled_u = u * s
    to_x = v * s * grad_y
    if weight is None:
        return scaled_u + v * x_hat + z, to_x, None
    to_weight = sum_over(scaled_u * grad_y, (0, *range(2, x.ndim)))
    return scaled_u * reshape(weight, column) + v * x_hat + z, to_x, to_weight


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel to mean 0 and variance 1, then scale and shift it.

    training=True: with the batch's own statistics; running_mean and running_var, where given, are updated in place,

        running = (1 - momentum) running + momentum batch,      the batch's variance being the unbiased one, sum / (n - 1).

    training=False: with running_mean and running_var, as constants. (Frozen statistics while training are this mode: the
    gradients of input, weight and bias exist.)

    Args:
        input: (N, C, *), float32 or float64; n = N times the sizes behind C. An empty batch gives an empty output and
            leaves the running statistics alone.
        running_mean, running_var: (C,), both or neither; needed where training=False.
        weight, bias: (C,) or None.
        momentum: the share of the batch in the running statistics.
        eps: added to the variance.

    Returns:
        (N, C, *).

    Raises:
        ShapeError: input of rank below 2, another argument not (C,), or one value per channel in training.
        ArgumentError: running statistics missing or only one given, momentum not a number, eps not positive in training.
        DTypeError: not floating, or different dtypes.
        GradError: running statistics that require grad.
    """
    check_arguments("batch_norm", input, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training:
        return apply(BatchNormEval, input, weight, bias, running_mean, running_var, float(eps))
    y, mean, var = apply(BatchNormTrain, input, weight, bias, float(eps))
    update_running_statistics(running_mean, running_var, mean, var, momentum, values_per_channel(input))
    return y


def values_per_channel(input: Any) -> int:
    """How many numbers of `input` (N, C, *) one channel's statistics are taken over."""
    return input.shape[0] * math.prod(input.shape[2:])


def update_running_statistics(
    running_mean: Any, running_var: Any, mean: Any, var: Any, momentum: float, count: int
) -> None:
    """running = (1 - momentum) running + momentum batch, where there are running statistics and was a batch.

    Args:
        running_mean, running_var: (C,) tensors, written in place, or None.
        mean, var: (C,) tensors of the batch; var biased, over `count` values.
    """
    if running_mean is None or running_var is None or not count:
        return
    for running, statistic in ((running_mean, mean.array), (running_var, var.array * (count / (count - 1)))):
        # In place, in the buffer's dtype; the version says so to any graph that saved the buffer.
        running.array[...] = (1 - momentum) * running.array + momentum * statistic
        running._bump_version()


def check_arguments(
    op: str,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    training: bool,
    momentum: Any,
    eps: Any,
    values: int | None = None,
) -> None:
    """What `batch_norm` raises, under the name `op`.

    Args:
        values: over how many a channel's statistics are taken; default: those of `input`.
    """
    check_tensor(op, "input", input)
    check_floating(op, "input", input)
    if input.ndim < 2:
        raise ShapeError(f"{op}: input needs at least 2 dimensions (N, C, *), got input.shape = {tuple(input.shape)}")
    if (running_mean is None) != (running_var is None):
        raise ArgumentError(f"{op}: running_mean and running_var must both be given or both be None")
    if not training and running_mean is None:
        raise ArgumentError(
            f"{op}: running_mean and running_var must be given where training=False; with training=True the batch's "
            "own statistics are used"
        )
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, vector in vectors.items():
        if vector is None:
            continue
        check_tensor(op, name, vector)
        if vector.shape != (input.shape[1],):
            raise ShapeError(
                f"{op}: {name} must have shape ({input.shape[1]},), one value per channel of input.shape = "
                f"{tuple(input.shape)}, got {tuple(vector.shape)}"
            )
        if name.startswith("running") and vector.requires_grad:
            raise GradError(
                f"{op}: {name} must not require grad: no derivative flows to running statistics; use .detach()"
            )
    check_same_dtype(op, input=input, **vectors)
    check_same_device(op, input=input, **vectors)
    if isinstance(momentum, bool) or not isinstance(momentum, (int, float)):
        raise ArgumentError(
            f"{op}: momentum must be a number, got {momentum!r}; a cumulative average (momentum=None) is the "
            "module's: it passes 1 / num_batches_tracked"
        )
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise DTypeError(f"{op}: eps must be a number, got {eps!r}")
    if training and not eps > 0:
        raise ArgumentError(f"{op}: eps must be positive in training, got {eps}")
    if training and (values_per_channel(input) if values is None else values) == 1:
        raise ShapeError(
            f"{op}: training needs more than one value per channel to have a variance, got input.shape = "
            f"{tuple(input.shape)}; use a larger batch, or training=False (module.eval())"
        )
