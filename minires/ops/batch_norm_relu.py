"""y = relu(batch_norm(x) [+ shortcut]): what stands behind almost every convolution of a residual network, fused.

Written apart, batch norm, sum and ReLU make three arrays of the size of x, and keep two of them for backward beside x.
Fused they make one, y, which is also the mask: y > 0 exactly where the ReLU let through.

With z = batch_norm(x) + shortcut and g = dL/dy where y > 0, 0 elsewhere (also at 0; a NaN in y lets the gradient through):

    dL/dshortcut = dL/dz = g,    dL/dx, dL/dweight, dL/dbias: batch norm's, of g

torch has no such function; there it is F.relu(F.batch_norm(...) + shortcut), and these are its numbers.

Sources: S. Ioffe, C. Szegedy, "Batch Normalization", 2015, algorithms 1 and 2; K. He, X. Zhang, S. Ren, J. Sun, "Deep
Residual Learning for Image Recognition", 2015, figure 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.errors import ShapeError
from minires.ops.activation import ReLUBackward
from minires.ops.batch_norm import (
    check_arguments,
    second_derivative_eval,
    second_derivative_train,
    update_running_statistics,
    values_per_channel,
)
from minires.ops.checks import check_same_device, check_same_dtype, check_tensor

if TYPE_CHECKING:
    from minires.tensor import Tensor


class BatchNormReLUTrain(Op):
    """With the mean and biased variance of the batch. Saves: x, y, weight; mean and var, which are functions of x."""

    name = "batch_norm_relu"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, shortcut: Any, eps: float) -> Any:
        y, mean, var = ctx.kernels.batch_norm_relu_train(x, weight, bias, eps, shortcut)
        ctx.save_for_backward(x, y, weight)
        ctx.statistics = mean, var
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, grad_y: Any, grad_mean: Any, grad_var: Any) -> Any:
        x, y, weight = ctx.saved_tensors
        constants = *ctx.statistics, ctx.eps, ctx.needs_input_grad[3]
        return apply(BatchNormReLUTrainBackward, grad_y, y, x, weight, *constants)


class BatchNormReLUTrainBackward(Op):
    """grad_x, grad_weight, grad_bias and, if wanted, grad_shortcut of BatchNormReLUTrain, by one kernel."""

    name = "batch_norm_relu_backward"
    structured = True

    @staticmethod
    def forward(
        ctx: Any, grad_y: Any, y: Any, x: Any, weight: Any, mean: Any, var: Any, eps: float, has_shortcut: bool
    ) -> Any:
        ctx.save_for_backward(grad_y, y, x, weight)
        ctx.eps = eps
        grads = ctx.kernels.batch_norm_relu_train_backward(grad_y, y, x, weight, mean, var, eps, has_shortcut)
        return grads if has_shortcut else grads[:3]

    @staticmethod
    def backward(ctx: Any, u: Any, v: Any, z: Any, to_shortcut: Any = None) -> Any:
        grad_y, y, x, weight = ctx.saved_tensors
        g = apply(ReLUBackward, grad_y, y)
        to_g, to_x, to_weight = second_derivative_train(g, x, weight, ctx.eps, u, v, z)
        return _through_mask(to_g, to_shortcut, y), None, to_x, to_weight


class BatchNormReLUEval(Op):
    """With given mean and var, which are constants. Saves: x, y, weight, mean, var."""

    name = "batch_norm_relu_eval"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, shortcut: Any, mean: Any, var: Any, eps: float) -> Any:
        y = ctx.kernels.batch_norm_relu_eval(x, weight, bias, mean, var, eps, shortcut)
        ctx.save_for_backward(x, y, weight, mean, var)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        x, y, weight, mean, var = ctx.saved_tensors
        constants = mean, var, ctx.eps, ctx.needs_input_grad[3]
        return apply(BatchNormReLUEvalBackward, grad_y, y, x, weight, *constants)


class BatchNormReLUEvalBackward(Op):
    """grad_x, grad_weight, grad_bias and, if wanted, grad_shortcut of BatchNormReLUEval, by one kernel."""

    name = "batch_norm_relu_eval_backward"
    structured = True

    @staticmethod
    def forward(
        ctx: Any, grad_y: Any, y: Any, x: Any, weight: Any, mean: Any, var: Any, eps: float, has_shortcut: bool
    ) -> Any:
        ctx.save_for_backward(grad_y, y, x, weight, mean, var)
        ctx.eps = eps
        grads = ctx.kernels.batch_norm_relu_eval_backward(grad_y, y, x, weight, mean, var, eps, has_shortcut)
        return grads if has_shortcut else grads[:3]

    @staticmethod
    def backward(ctx: Any, u: Any, v: Any, z: Any, to_shortcut: Any = None) -> Any:
        grad_y, y, x, weight, mean, var = ctx.saved_tensors
        g = apply(ReLUBackward, grad_y, y)
        to_g, to_x, to_weight = second_derivative_eval(g, x, weight, mean, var, ctx.eps, u, v, z)
        return _through_mask(to_g, to_shortcut, y), None, to_x, to_weight


def _through_mask(to_g: Any, to_shortcut: Any, y: Any) -> Any:
    """What comes back to grad_y: g = mask grad_y went into batch norm's adjoint and, as it was, out to the shortcut."""
    return apply(ReLUBackward, to_g if to_shortcut is None else to_g + to_shortcut, y)


def batch_norm_relu(
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
    """relu(batch_norm(input, ...) [+ shortcut]), fused. torch has no such function.

    Args:
        input: (N, C, *), float32 or float64.
        running_mean, running_var, weight, bias, training, momentum, eps: as batch_norm's; running statistics are updated
            in place while training.
        shortcut: (N, C, *), input's shape and dtype, or None. There is no broadcasting, as in residual_relu.

    Returns:
        (N, C, *). NaN propagates; at 0 the gradient is 0.

    Raises:
        ShapeError: a shortcut of another shape, and batch_norm's.
        DTypeError: a shortcut that is no tensor or has another dtype, and batch_norm's.
        ArgumentError, GradError: batch_norm's.
    """
    check_arguments("batch_norm_relu", input, running_mean, running_var, weight, bias, training, momentum, eps)
    if shortcut is not None:
        check_shortcut("batch_norm_relu", input, shortcut)
    if not training:
        return apply(BatchNormReLUEval, input, weight, bias, shortcut, running_mean, running_var, float(eps))
    y, mean, var = apply(BatchNormReLUTrain, input, weight, bias, shortcut, float(eps))
    update_running_statistics(running_mean, running_var, mean, var, momentum, values_per_channel(input))
    return y


def check_shortcut(op: str, input: Any, shortcut: Any) -> None:
    """What `batch_norm_relu` raises of its shortcut, under the name `op`."""
    check_tensor(op, "shortcut", shortcut)
    if shortcut.shape != input.shape:
        raise ShapeError(
            f"{op}: shortcut must have input's shape {tuple(input.shape)}, got {tuple(shortcut.shape)}; "
            "give the block a projection shortcut (1x1 convolution) where it changes channels or stride"
        )
    check_same_dtype(op, input=input, shortcut=shortcut)
    check_same_device(op, input=input, shortcut=shortcut)
