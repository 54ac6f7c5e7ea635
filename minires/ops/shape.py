"""Shape, layout and dtype: operations that move values and compute nothing.

Each is linear, so its derivative is its transpose: reshape back, permute back, sum over what was repeated, cut out what
was joined. Most return views: no byte is copied, and a write to one is seen through the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Op, apply
from minires.dtypes import as_dtype
from minires.errors import ArgumentError, ShapeError
from minires.ops.checks import check_tensor, dimension, dimensions

if TYPE_CHECKING:
    from minires.tensor import Tensor


class Reshape(Op):
    """The same values in the same order under another shape; the gradient is reshaped back."""

    name = "reshape"
    view = True

    @staticmethod
    def forward(ctx: Any, x: Any, shape: tuple[int, ...]) -> Any:
        ctx.shape = x.shape
        return x.reshape(shape)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(Reshape, grad_y, ctx.shape)


class Permute(Op):
    """y[i_p0, i_p1, ...] = x[i_0, i_1, ...]; the gradient is permuted back."""

    name = "permute"
    view = True

    @staticmethod
    def forward(ctx: Any, x: Any, order: tuple[int, ...]) -> Any:
        ctx.order = order
        return x.transpose(order)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(Permute, grad_y, tuple(int(i) for i in np.argsort(ctx.order)))


class Expand(Op):
    """Dimensions of size 1 repeated without a copy; the gradient is summed over the repeats."""

    name = "expand"
    view = True

    @staticmethod
    def forward(ctx: Any, x: Any, shape: tuple[int, ...]) -> Any:
        ctx.shape = x.shape
        return ctx.xp.broadcast_to(x, shape)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return sum_to_shape(grad_y, ctx.shape)


class SumToShape(Op):
    """The transpose of `Expand`: sums over the dimensions in which `shape` was repeated."""

    name = "sum_to_shape"

    @staticmethod
    def forward(ctx: Any, x: Any, shape: tuple[int, ...]) -> Any:
        ctx.shape = x.shape
        extra = x.ndim - len(shape)
        repeated = tuple(i for i, size in enumerate(shape, extra) if size == 1 and x.shape[i] != 1)
        return x.sum(axis=tuple(range(extra)) + repeated, keepdims=True, dtype=x.dtype).reshape(shape)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(Expand, grad_y, ctx.shape)


class Cast(Op):
    """The same values in another dtype; the gradient in the first one."""

    name = "to"

    @staticmethod
    def forward(ctx: Any, x: Any, dtype: Any) -> Any:
        ctx.dtype = x.dtype
        return x.astype(dtype)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(Cast, grad_y, ctx.dtype)


class Clone(Op):
    """A copy; the gradient passes."""

    name = "clone"

    @staticmethod
    def forward(ctx: Any, x: Any, order: str = "K") -> Any:
        return x.copy(order=order)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return grad_y


# --- public functions ------------------------------------------------------------------------------------------------


def sum_to_shape(input: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`input` summed over the dimensions that broadcasting from `shape` had repeated or put in front."""
    return input if input.raw.shape == tuple(shape) else apply(SumToShape, input, tuple(shape))


def to_dtype(input: Any, dtype: Any) -> Tensor:
    """`input` with `dtype`; itself if it has that already."""
    wanted = as_dtype(dtype).numpy
    return input if input.raw.dtype == wanted else apply(Cast, input, wanted)


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy of its own memory, through which gradients flow."""
    check_tensor("clone", "input", input)
    return apply(Clone, input)


def contiguous(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """`input` itself if its values lie in C order, else a copy that does."""
    return input if input.array.flags.c_contiguous else apply(Clone, input, "C")


def as_sizes(op: str, sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """`f(2, 3)` and `f((2, 3))` alike, as ints."""
    given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    try:
        return tuple(size.__index__() for size in given)
    except AttributeError:
        raise ArgumentError(f"{op}: sizes must be integers, got {given!r}") from None


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same values under another shape; one size may be -1. A view where the layout allows, else a copy."""
    check_tensor("reshape", "input", input)
    return apply(Reshape, input, _resolve("reshape", input.raw.shape, as_sizes("reshape", shape)))


def _resolve(op: str, old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...]:
    """`new` with its -1 worked out."""
    count = int(np.prod(old, dtype=np.int64))
    known = int(np.prod([s for s in new if s != -1], dtype=np.int64))
    free = new.count(-1)
    if (
        any(s < -1 for s in new)
        or free > 1
        or (free == 0 and known != count)
        or (free == 1 and (known == 0 or count % known))
    ):
        raise ShapeError(f"{op}: shape {tuple(new)} does not hold the {count} elements of a tensor of shape {old}")
    return tuple(count // known if s == -1 else s for s in new)


def view(input: Tensor, *shape: Any) -> Tensor:
    """As `reshape`, but never a copy.

    Raises:
        ShapeError: the values do not lie in an order that the shape can describe; reshape() copies.
    """
    check_tensor("view", "input", input)
    if len(shape) == 1 and not isinstance(shape[0], (int, tuple, list, np.integer)):
        raise ArgumentError(f"view: sizes must be integers, got {shape[0]!r}; to change the dtype use .to(dtype)")
    sizes = _resolve("view", input.raw.shape, as_sizes("view", shape))
    result = apply(Reshape, input, sizes)
    if input.raw.size and not np.may_share_memory(result.array, input.array):
        raise ShapeError(
            f"view: a tensor of shape {input.raw.shape} whose values do not lie in order cannot be seen as {sizes} without a "
            "copy; use .reshape(...)"
        )
    return result


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim as one."""
    check_tensor("flatten", "input", input)
    shape = input.raw.shape
    start, end = dimension("flatten", start_dim, len(shape)), dimension("flatten", end_dim, len(shape))
    if start > end:
        raise ArgumentError(f"flatten: start_dim must not come after end_dim, got {start_dim} and {end_dim}")
    return apply(
        Reshape, input, (*shape[:start], int(np.prod(shape[start : end + 1], dtype=np.int64)), *shape[end + 1 :])
    )


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` as several of sizes `sizes`, one of which may be -1."""
    check_tensor("unflatten", "input", input)
    shape = input.raw.shape
    d = dimension("unflatten", dim, len(shape))
    return apply(Reshape, input, (*shape[:d], *_resolve("unflatten", (shape[d],), tuple(sizes)), *shape[d + 1 :]))


def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without the dimensions of size 1 (all, or those named that have size 1)."""
    check_tensor("squeeze", "input", input)
    shape = input.raw.shape
    dims = dimensions("squeeze", dim, len(shape))
    return apply(Reshape, input, tuple(s for i, s in enumerate(shape) if not (i in dims and s == 1)))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dimension of size 1 put in at `dim`."""
    check_tensor("unsqueeze", "input", input)
    shape = input.raw.shape
    d = dimension("unsqueeze", dim, len(shape) + 1)
    return apply(Reshape, input, (*shape[:d], 1, *shape[d:]))


def permute(input: Tensor, *dims: Any) -> Tensor:
    """The dimensions in the order `dims`."""
    check_tensor("permute", "input", input)
    rank = input.raw.ndim
    order = tuple(dimension("permute", d, rank) for d in as_sizes("permute", dims))
    if sorted(order) != list(range(rank)):
        raise ArgumentError(f"permute: dims must name each of the {rank} dimensions once, got {order}")
    return apply(Permute, input, order)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged."""
    check_tensor("transpose", "input", input)
    rank = input.raw.ndim
    a, b = dimension("transpose", dim0, rank), dimension("transpose", dim1, rank)
    order = list(range(rank))
    if rank:
        order[a], order[b] = b, a
    return apply(Permute, input, tuple(order))


def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; a vector as it is."""
    check_tensor("t", "input", input)
    if input.raw.ndim > 2:
        raise ShapeError(
            f"t: input needs at most 2 dimensions, got input.shape = {input.raw.shape}; use .transpose(a, b)"
        )
    return transpose(input, 0, 1) if input.raw.ndim == 2 else input


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions moved to other places, the rest in order."""
    check_tensor("movedim", "input", input)
    rank = input.raw.ndim
    sources, targets = dimensions("movedim", source, rank), dimensions("movedim", destination, rank)
    if len(sources) != len(targets):
        raise ArgumentError(f"movedim: source and destination need the same length, got {source!r} and {destination!r}")
    order = [d for d in range(rank) if d not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return apply(Permute, input, tuple(order))


def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Dimensions of size 1 repeated to `sizes` without a copy; -1 keeps a size."""
    check_tensor("expand", "input", input)
    wanted = as_sizes("expand", sizes)
    shape = input.raw.shape
    extra = len(wanted) - len(shape)
    full = tuple(shape[i - extra] if s == -1 and i >= extra else s for i, s in enumerate(wanted))
    if extra < 0 or any(s < 0 for s in full) or any(a not in (1, b) for a, b in zip(shape, full[extra:], strict=True)):
        raise ShapeError(
            f"expand: a tensor of shape {shape} cannot be expanded to {wanted}: only sizes of 1 can be repeated"
        )
    return apply(Expand, input, full)


def broadcast_to(input: Tensor, shape: Sequence[int]) -> Tensor:
    return expand(input, *shape)
