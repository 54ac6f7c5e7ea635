"""Joining and rearranging by copy: cat, stack, repeat, flip, roll.

Linear, like the views of `shape.py`: each derivative is the transpose, that is, the pieces cut out again or moved back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Op, apply
from minires.dtypes import result_type
from minires.errors import ArgumentError, ShapeError
from minires.ops.checks import check_tensor, dimension, dimensions
from minires.ops.shape import as_sizes, expand, flatten, reshape, to_dtype, unsqueeze

if TYPE_CHECKING:
    from minires.tensor import Tensor


class Flip(Op):
    """The order of the elements reversed along some dimensions; the gradient too."""

    name = "flip"

    @staticmethod
    def forward(ctx: Any, x: Any, dims: tuple[int, ...]) -> Any:
        ctx.dims = dims
        return ctx.xp.flip(x, dims).copy()

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(Flip, grad_y, ctx.dims)


class Roll(Op):
    """The elements shifted around cyclically; the gradient shifted back."""

    name = "roll"

    @staticmethod
    def forward(ctx: Any, x: Any, shifts: tuple[int, ...], dims: tuple[int, ...]) -> Any:
        ctx.shifts, ctx.dims = shifts, dims
        return ctx.xp.roll(x, shifts, dims)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(Roll, grad_y, tuple(-s for s in ctx.shifts), ctx.dims)


class Concatenate(Op):
    """Tensors one after the other along a dimension; each gets its own part of the gradient."""

    name = "cat"

    @staticmethod
    def forward(ctx: Any, *arrays: Any, dim: int) -> Any:
        ctx.dim = dim
        ctx.sizes = [a.shape[dim] for a in arrays]
        return ctx.xp.concatenate(arrays, axis=dim)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        ends = np.cumsum(ctx.sizes)
        before = (slice(None),) * ctx.dim
        return tuple(
            grad_y[(*before, slice(int(end - size), int(end)))] if wanted else None
            for size, end, wanted in zip(ctx.sizes, ends, ctx.needs_input_grad, strict=True)
        )


# --- public functions ------------------------------------------------------------------------------------------------


def repeat(input: Tensor, *sizes: Any) -> Tensor:
    """The tensor written `sizes[i]` times along each dimension, as a copy."""
    check_tensor("repeat", "input", input)
    counts = as_sizes("repeat", sizes)
    shape = input.raw.shape
    if len(counts) < len(shape) or any(c < 0 for c in counts):
        raise ArgumentError(f"repeat: needs a count >= 0 for each of the {len(shape)} dimensions, got {counts}")
    shape = (1,) * (len(counts) - len(shape)) + shape
    stretched = reshape(input, tuple(s for size in shape for s in (1, size)))
    expanded = expand(stretched, tuple(s for pair in zip(counts, shape, strict=True) for s in pair))
    return reshape(expanded, tuple(c * s for c, s in zip(counts, shape, strict=True)))


def flip(input: Tensor, *dims: Any) -> Tensor:
    """The order of the elements reversed along `dims`, as a copy."""
    check_tensor("flip", "input", input)
    return apply(Flip, input, dimensions("flip", as_sizes("flip", dims), input.raw.ndim))


def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """The elements shifted cyclically; without dims, over the flattened tensor."""
    check_tensor("roll", "input", input)
    if dims is None:
        return reshape(roll(flatten(input), shifts, 0), input.raw.shape)
    amounts = tuple(shifts) if isinstance(shifts, (tuple, list)) else (shifts,)
    axes = tuple(dims) if isinstance(dims, (tuple, list)) else (dims,)
    if len(amounts) != len(axes):
        raise ArgumentError(f"roll: shifts and dims need the same length, got {shifts!r} and {dims!r}")
    return apply(Roll, input, amounts, tuple(dimension("roll", d, input.raw.ndim) for d in axes))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along `dim`; all other sizes must agree."""
    items = list(tensors)
    if not items:
        raise ArgumentError("cat: expected at least one tensor, got none")
    for position, tensor in enumerate(items):
        check_tensor("cat", f"tensors[{position}]", tensor)
    first = items[0].raw.shape
    d = dimension("cat", dim, len(first))
    for position, tensor in enumerate(items):
        shape = tensor.raw.shape
        if (
            len(shape) == 0
            or len(shape) != len(first)
            or any(a != b for i, (a, b) in enumerate(zip(shape, first, strict=True)) if i != d)
        ):
            raise ShapeError(
                f"cat: all tensors need the same sizes except in dimension {d}, got tensors[0].shape = {first} and "
                f"tensors[{position}].shape = {shape}"
            )
    dtype = result_type(*items)
    return apply(Concatenate, *(to_dtype(item, dtype) for item in items), dim=d)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors, all of one shape, along a new dimension `dim`."""
    items = list(tensors)
    if not items:
        raise ArgumentError("stack: expected at least one tensor, got none")
    for position, tensor in enumerate(items):
        check_tensor("stack", f"tensors[{position}]", tensor)
        if tensor.raw.shape != items[0].raw.shape:
            raise ShapeError(
                f"stack: all tensors need one shape, got tensors[0].shape = {items[0].raw.shape} and tensors[{position}].shape = "
                f"{tensor.raw.shape}"
            )
    d = dimension("stack", dim, items[0].raw.ndim + 1)
    return cat([unsqueeze(item, d) for item in items], d)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    items = [flatten(t) if t.raw.ndim == 0 else t for t in tensors]
    return cat(items, 0 if items and items[0].raw.ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    return cat([reshape(t, 1, -1) if t.raw.ndim < 2 else t for t in tensors], 0)
