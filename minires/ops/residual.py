"""The residual join: what ends every residual block, as one operation.

Written as `relu(input + shortcut)` it makes two arrays, and keeps the sum for nobody. Fused, it makes one, and backward
reads that one: the same gradient goes to both branches, which is why depth does not stop it.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015, equation 1 and figure 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.errors import ShapeError
from minires.ops.activation import ReLUBackward
from minires.ops.checks import check_floating, check_same_device, check_same_dtype, check_tensor

if TYPE_CHECKING:
    from minires.tensor import Tensor


class ResidualReLU(Op):
    """y = max(input + shortcut, 0);  dL/dinput = dL/dshortcut = dL/dy where y > 0, 0 elsewhere. Saves: y."""

    name = "residual_relu"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, shortcut: Any) -> Any:
        y = ctx.kernels.residual_relu_forward(x, shortcut)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (y,) = ctx.saved_tensors
        grad = apply(ResidualReLUBackward, grad_y, y)
        return grad, grad


class ResidualReLUBackward(Op):
    """v = g where not (y <= 0), else 0; linear in g, its own adjoint."""

    name = "residual_relu_backward"
    structured = True

    @staticmethod
    def forward(ctx: Any, grad_y: Any, y: Any) -> Any:
        ctx.save_for_backward(y)
        return ctx.kernels.residual_relu_backward(grad_y, y)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (y,) = ctx.saved_tensors
        return apply(ReLUBackward, grad, y), None


def residual_relu(input: Tensor, shortcut: Tensor) -> Tensor:
    """relu(input + shortcut), fused. NaN propagates; at 0 the gradient is 0.

    Args:
        input: any shape, floating.
        shortcut: the same shape and dtype. There is no broadcasting: two branches of unequal shapes are a mistake in a
            residual block far more often than a wish.

    Returns:
        The same shape.

    Raises:
        ShapeError: unequal shapes.
        DTypeError: not floating, or unequal dtypes.
    """
    for name, tensor in (("input", input), ("shortcut", shortcut)):
        check_tensor("residual_relu", name, tensor)
        check_floating("residual_relu", name, tensor)
    if input.shape != shortcut.shape:
        raise ShapeError(
            f"residual_relu: shortcut must have input's shape {tuple(input.shape)}, got {tuple(shortcut.shape)}; give the "
            "block a projection shortcut (1x1 convolution) where it changes channels or stride"
        )
    check_same_dtype("residual_relu", input=input, shortcut=shortcut)
    check_same_device("residual_relu", input=input, shortcut=shortcut)
    return apply(ResidualReLU, input, shortcut)
