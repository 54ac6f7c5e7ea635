"""Matrix products: matmul with torch's broadcasting, and the linear layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.errors import ShapeError
from minires.ops.checks import check_floating, check_rank, check_same_device, check_same_dtype, check_tensor
from minires.ops.shape import reshape, sum_to_shape, transpose

if TYPE_CHECKING:
    from minires.tensor import Tensor


class MatMul(Op):
    """y = a b, (*, m, k) times (*, k, n), leading dimensions broadcast;  dL/da = g b^T,  dL/db = a^T g,  g = dL/dy.

    Saves: a, b.
    """

    name = "matmul"

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.save_for_backward(a if ctx.needs_input_grad[1] else None, b if ctx.needs_input_grad[0] else None)
        ctx.shapes = a.shape, b.shape
        return ctx.xp.matmul(a, b)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        a, b = ctx.saved_tensors
        a_shape, b_shape = ctx.shapes
        grad_a = grad_b = None
        if b is not None:
            grad_a = sum_to_shape(apply(MatMul, grad_y, transpose(b, -2, -1)), a_shape)
        if a is not None and len(b_shape) == 2:  # one matrix for the whole batch: one long product, not a sum of many
            grad_b = apply(MatMul, transpose(_as_matrix(a), 0, 1), _as_matrix(grad_y))
        elif a is not None:
            grad_b = sum_to_shape(apply(MatMul, transpose(a, -2, -1), grad_y), b_shape)
        return grad_a, grad_b


class Linear(Op):
    """y = x W^T + b;  dL/dx = g W,  dL/dW = g^T x,  dL/db = sum of g over all positions,  g = dL/dy. Saves: x, W."""

    name = "linear"

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        y = ctx.xp.matmul(x, weight.T)
        if bias is not None:
            y += bias
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        x, weight = ctx.saved_tensors
        rows = _as_matrix(grad_y)
        grad_x = grad_weight = grad_bias = None
        if weight is not None:
            grad_x = reshape(apply(MatMul, rows, weight), (*grad_y.shape[:-1], weight.shape[1]))
        if x is not None:
            grad_weight = apply(MatMul, transpose(rows, 0, 1), _as_matrix(x))
        if ctx.needs_input_grad[2]:
            grad_bias = sum_to_shape(grad_y, grad_y.shape[-1:])
        return grad_x, grad_weight, grad_bias


def _as_matrix(tensor: Any) -> Any:
    """(*, n) -> (product of *, n)."""
    return reshape(tensor, (math.prod(tensor.shape[:-1]), tensor.shape[-1]))


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product, with torch's rules for dimensions.

    - (k,) by (k,): the inner product, a tensor without dimensions;
    - a first operand (k,) counts as (1, k), a second as (k, 1), and the added dimension is taken away again;
    - leading dimensions broadcast: (j, 1, n, m) by (k, m, p) gives (j, k, n, p).

    Raises:
        ShapeError: an operand without dimensions, unequal inner sizes, leading dimensions that do not broadcast.
        DTypeError: different dtypes.
    """
    for name, tensor in (("input", input), ("other", other)):
        check_tensor("matmul", name, tensor)
        if tensor.ndim == 0:
            raise ShapeError(f"matmul: {name} needs at least 1 dimension, got a tensor without any; use * to scale")
    check_same_dtype("matmul", input=input, other=other)
    check_same_device("matmul", input=input, other=other)
    a = reshape(input, (1, *input.shape)) if input.ndim == 1 else input
    b = reshape(other, (*other.shape, 1)) if other.ndim == 1 else other
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(
            f"matmul: the last size of input must equal the {'only' if other.ndim == 1 else 'second last'} size of other, "
            f"got input.shape = {tuple(input.shape)} and other.shape = {tuple(other.shape)}"
        )
    for x, y in zip(reversed(a.shape[:-2]), reversed(b.shape[:-2]), strict=False):
        if x != y and 1 not in (x, y):
            raise ShapeError(
                f"matmul: the leading sizes of input.shape = {tuple(input.shape)} and other.shape = {tuple(other.shape)} do "
                f"not broadcast: {x} and {y} are neither equal nor 1"
            )
    y = apply(MatMul, a, b)
    shape = list(y.shape)
    if other.ndim == 1:
        del shape[-1]
    if input.ndim == 1:
        del shape[len(shape) - (1 if other.ndim == 1 else 2)]
    return y if len(shape) == y.ndim else reshape(y, tuple(shape))


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """(n, m) by (m, p): the product of two matrices, without broadcasting.

    Raises:
        ShapeError: an operand that is no matrix, or unequal inner sizes.
    """
    return _matrices("mm", 2, input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """(b, n, m) by (b, m, p): b products of matrices, without broadcasting.

    Raises:
        ShapeError: an operand without 3 dimensions, unequal b or inner sizes.
    """
    return _matrices("bmm", 3, input, mat2)


def _matrices(op: str, rank: int, input: Any, mat2: Any) -> Any:
    for name, tensor in (("input", input), ("mat2", mat2)):
        check_tensor(op, name, tensor)
        check_rank(op, name, tensor, rank)
    wanted = (*input.shape[:-2], input.shape[-1])
    if mat2.shape[:-1] != wanted:
        raise ShapeError(
            f"{op}: mat2 must have shape ({', '.join(map(str, wanted))}, p) to follow input.shape = {tuple(input.shape)}, "
            f"got {tuple(mat2.shape)}"
        )
    return matmul(input, mat2)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b, on the last dimension.

    Args:
        input: (*, in_features).
        weight: (out_features, in_features).
        bias: (out_features,) or None.

    Returns:
        (*, out_features).

    Raises:
        ShapeError: sizes that do not fit.
        DTypeError: not floating, or different dtypes.
    """
    check_tensor("linear", "input", input)
    check_tensor("linear", "weight", weight)
    check_floating("linear", "input", input)
    check_rank("linear", "weight", weight, 2)
    if input.ndim == 0 or input.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"linear: input needs {weight.shape[1]} features in its last dimension (weight.shape = {tuple(weight.shape)}), "
            f"got input.shape = {tuple(input.shape)}; flatten(1) an image first"
        )
    if bias is not None:
        check_tensor("linear", "bias", bias)
        if bias.shape != (weight.shape[0],):
            raise ShapeError(
                f"linear: bias must have shape ({weight.shape[0]},), one value per output feature, got {tuple(bias.shape)}"
            )
    check_same_dtype("linear", input=input, weight=weight, bias=bias)
    check_same_device("linear", input=input, weight=weight, bias=bias)
    return apply(Linear, input, weight, bias)
