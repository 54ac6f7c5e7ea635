"""Indexing and slicing with gradient: `x[...]`, assignment, gather and scatter, splitting, sorting.

Taking elements out and putting gradients back are transposes of one another: `GetItem` and `PutItem` (which adds where an
index occurs twice) are each other's backward, and so are `Gather` and `ScatterAdd`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Op, apply, apply_inplace, is_grad_enabled
from minires.autograd.function import check_writable
from minires.autograd.variable import Variable, new_tensor
from minires.errors import DTypeError, LabelError, ShapeError
from minires.ops.checks import check_tensor, dimension
from minires.ops.shape import reshape, sum_to_shape, to_dtype

if TYPE_CHECKING:
    from minires.tensor import Tensor


def _is_basic(index: tuple[Any, ...]) -> bool:
    """Whether NumPy answers with a view: only ints, slices, None and Ellipsis."""
    return all(
        i is None or i is Ellipsis or (isinstance(i, (int, np.integer, slice)) and not isinstance(i, bool))
        for i in index
    )


def as_index(index: Any) -> tuple[Any, ...]:
    """What stands in the brackets, as a tuple that NumPy takes: tensors and lists become arrays."""
    items = index if isinstance(index, tuple) else (index,)
    return tuple(_index_item(item) for item in items)


def _index_item(item: Any) -> Any:
    if isinstance(item, Variable):
        item = item.array
    elif isinstance(item, slice):
        return slice(*(_bound(b) for b in (item.start, item.stop, item.step)))
    elif isinstance(item, (list, range)):
        item = np.asarray(item, np.intp) if len(item) == 0 else np.asarray([_bound(i) for i in item])
    if isinstance(item, np.ndarray):
        if item.dtype.kind not in "biu":
            raise DTypeError(f"index: a tensor used as an index must hold integers or bools, got {item.dtype}")
        # torch treats a uint8 mask as bools only with a warning; here it is what it says, integers.
        return item
    if item is None or item is Ellipsis or isinstance(item, (bool, int, np.integer)):
        return item
    raise DTypeError(f"index: expected ints, slices, None, ..., lists or tensors, got {type(item).__name__}")


def _bound(value: Any) -> Any:
    return value.array.item() if isinstance(value, Variable) else value


def _take(x: Any, index: tuple[Any, ...]) -> Any:
    """x[index] as an array, also where it is a single element."""
    if any(i is Ellipsis for i in index):
        return x[index]
    return x[(*index, Ellipsis)]


class GetItem(Op):
    """y = x[index]; the gradient goes back to the places the values came from."""

    name = "getitem"
    view = True

    @staticmethod
    def forward(ctx: Any, x: Any, index: tuple[Any, ...]) -> Any:
        ctx.index, ctx.shape = index, x.shape
        return _take(x, index)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(PutItem, grad_y, ctx.index, ctx.shape)


class PutItem(Op):
    """Zeros of `shape` with y added at `index`: the transpose of `GetItem`."""

    name = "putitem"

    @staticmethod
    def forward(ctx: Any, y: Any, index: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
        ctx.index = index
        x = ctx.xp.zeros(shape, y.dtype)
        if _is_basic(index):
            x[index] = y
        else:
            ctx.xp.add.at(x, index, y)  # an index that occurs twice adds twice
        return x

    @staticmethod
    def backward(ctx: Any, grad_x: Any) -> Any:
        return apply(GetItem, grad_x, ctx.index)


class SetItem(Op):
    """y = x with y[index] = value;  dL/dx is dL/dy with zeros at index,  dL/dvalue = dL/dy[index]."""

    name = "setitem"

    @staticmethod
    def forward(ctx: Any, x: Any, value: Any, index: tuple[Any, ...]) -> Any:
        ctx.index, ctx.shape = index, value.shape
        y = x.copy()
        y[index] = value
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        grad_x = apply(SetItem, grad_y, np.zeros((), grad_y.raw.dtype), ctx.index) if ctx.needs_input_grad[0] else None
        grad_value = None
        if ctx.needs_input_grad[1]:
            taken = apply(GetItem, grad_y, ctx.index)
            extra = len(ctx.shape) - taken.raw.ndim  # NumPy drops leading ones of the value
            grad_value = reshape(sum_to_shape(taken, ctx.shape[max(extra, 0) :]), ctx.shape)
        return grad_x, grad_value


class Gather(Op):
    """y[i, j] = x[index[i, j], j] (for dim 0): one element for each entry of index, along a dimension."""

    name = "gather"

    @staticmethod
    def forward(ctx: Any, x: Any, dim: int, index: Any) -> Any:
        ctx.dim, ctx.shape = dim, x.shape
        ctx.save_for_backward(index)
        cut = tuple(slice(None) if d == dim else slice(0, size) for d, size in enumerate(index.shape))
        return ctx.xp.take_along_axis(x[cut], index, axis=dim)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (index,) = ctx.saved_tensors
        zeros = new_tensor(np.zeros(ctx.shape, grad_y.raw.dtype))
        return apply(ScatterAdd, zeros, ctx.dim, index, grad_y)


class ScatterAdd(Op):
    """y = x with y[index[i, j], j] += source[i, j] (for dim 0): the transpose of `Gather`."""

    name = "scatter_add"

    @staticmethod
    def forward(ctx: Any, x: Any, dim: int, index: Any, source: Any) -> Any:
        ctx.dim = dim
        ctx.save_for_backward(index)
        y = x.copy()
        ctx.xp.add.at(y, _along(index, dim), source[tuple(slice(0, size) for size in index.shape)])
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (index,) = ctx.saved_tensors
        return grad_y, None, None, apply(Gather, grad_y, ctx.dim, index)


def _along(index: Any, dim: int) -> tuple[Any, ...]:
    """Index arrays that visit every entry of `index`, with its value in place of coordinate `dim`."""
    grids = list(np.ogrid[tuple(slice(0, size) for size in index.shape)])
    grids[dim] = index
    return tuple(grids)


class MaskedFill(Op):
    """y = value where mask, x elsewhere; the gradient passes where x did."""

    name = "masked_fill"

    @staticmethod
    def forward(ctx: Any, x: Any, mask: Any, value: Any) -> Any:
        ctx.save_for_backward(mask)
        return ctx.xp.where(mask, x.dtype.type(value), x)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (mask,) = ctx.saved_tensors
        return apply(MaskedFill, grad_y, mask, 0)


# --- public functions ------------------------------------------------------------------------------------------------


def getitem(input: Any, index: Any) -> Tensor:
    """input[index], with NumPy's rules.

    Raises:
        LabelError: an index outside its dimension, or more of them than dimensions.
    """
    items = as_index(index)
    if not _is_basic(items):
        items = tuple(
            i.copy() if isinstance(i, np.ndarray) else i for i in items
        )  # a later write must not move gradients
    try:
        return apply(GetItem, input, items)
    except IndexError as error:
        raise LabelError(f"getitem: {error}, for a tensor of shape {input.raw.shape}") from None


def _index_along(op: str, input: Tensor, dim: int, index: Any) -> tuple[int, Any]:
    check_tensor(op, "input", input)
    check_tensor(op, "index", index)
    d = dimension(op, dim, input.raw.ndim)
    if index.raw.dtype.kind not in "iu":
        raise DTypeError(f"{op}: index must hold integers, got {index.raw.dtype}")
    if index.raw.ndim != input.raw.ndim:
        raise ShapeError(f"{op}: index needs {input.raw.ndim} dimensions, got index.shape = {index.raw.shape}")
    size = input.raw.shape[d]
    if index.raw.size and not (index.array.min() >= 0 and index.array.max() < size):
        bad = index.array[(index.array < 0) | (index.array >= size)][0]
        raise LabelError(f"{op}: index must be from 0 to {size - 1} along dimension {d}, got {bad}")
    for k, (have, limit) in enumerate(zip(index.raw.shape, input.raw.shape, strict=True)):
        if k != d and have > limit:
            raise ShapeError(
                f"{op}: index.shape {index.raw.shape} goes beyond input.shape {input.raw.shape} in dimension {k}"
            )
    return d, index.array


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The elements of `input` along `dim` that `index` names; the result has the shape of `index`."""
    d, array = _index_along("gather", input, dim, index)
    return apply(Gather, input, d, array)


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of `input` with `src` added at the places along `dim` that `index` names."""
    d, array = _index_along("scatter_add", input, dim, index)
    check_tensor("scatter_add", "src", src)
    return apply(ScatterAdd, input, d, array, src)


def scatter(input: Tensor, dim: int, index: Tensor, src: Any) -> Tensor:
    """A copy of `input` with `src` (a tensor or a number) written at the places along `dim` that `index` names."""
    d, array = _index_along("scatter", input, dim, index)
    where = _along(array, d)
    if isinstance(src, Variable):
        src = getitem(src, tuple(slice(0, size) for size in array.shape))
        return apply(SetItem, input, to_dtype(src, input.dtype), where)
    return apply(SetItem, input, np.asarray(src, input.raw.dtype), where)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of `input` along `dim` that the vector `index` names."""
    d = dimension("index_select", dim, input.raw.ndim)
    return getitem(input, (*(slice(None),) * d, index))


def masked_fill(input: Tensor, mask: Any, value: Any) -> Tensor:
    """`value` where `mask`, `input` elsewhere."""
    check_tensor("masked_fill", "input", input)
    check_tensor("masked_fill", "mask", mask)
    if mask.raw.dtype != np.bool_:
        raise DTypeError(f"masked_fill: mask must be a bool tensor, got {mask.raw.dtype}")
    shape = np.broadcast_shapes(input.raw.shape, mask.raw.shape)
    if shape != input.raw.shape:
        input = input.expand(shape)
    return apply(MaskedFill, input, mask, _bound(value))


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where `mask`, as a vector."""
    shape = np.broadcast_shapes(input.raw.shape, mask.raw.shape)
    return getitem(input.expand(shape), mask.expand(shape))


def nonzero(input: Tensor, as_tuple: bool = False) -> Any:
    """The indices of the elements that are not zero: (count, rank), or a tuple of one vector a dimension."""
    found = np.nonzero(input.array if input.raw.ndim else input.array.reshape(1))
    return tuple(new_tensor(i) for i in found) if as_tuple else new_tensor(np.stack(found, axis=1))


def assign(target: Tensor, index: Any, value: Any) -> None:
    """target[index] = value, recorded where gradients are."""
    items = as_index(index)
    _heal(target, items, value)
    recorded = is_grad_enabled() and (target.requires_grad or (isinstance(value, Variable) and value.requires_grad))
    if recorded:
        if isinstance(value, Variable):
            source: Any = to_dtype(value, target.dtype)
        else:
            source = np.asarray(value).astype(target.raw.dtype)
        apply_inplace(SetItem, target, source, tuple(i.copy() if isinstance(i, np.ndarray) else i for i in items))
        return
    check_writable("setitem", target)
    source = value.array if isinstance(value, Variable) else np.asarray(value)
    if source.dtype.kind == "f" and target.raw.dtype.kind != "f":
        source = source.astype(target.raw.dtype)
    try:
        target.array[items] = source
    except IndexError as error:
        raise LabelError(f"setitem: {error}, for a tensor of shape {target.raw.shape}") from None
    except ValueError as error:
        raise ShapeError(f"setitem: a value of shape {source.shape} does not fit: {error}") from None
    target._bump_version()


def _heal(target: Tensor, items: tuple[Any, ...], value: Any) -> None:
    """`x[i] += v` is a write through the view x[i], which leaves x's own history behind, and then `x[i] = view`, which makes
    it whole again: the part that was written is the part that is now assigned, with the history it got."""
    if (
        isinstance(value, Variable)
        and value.rewrites is target.rewrites
        and _is_basic(items)
        and target.rewrites_seen + value.view_writes == target.rewrites.count
    ):
        place = _take(target.array, items)
        same = place.__array_interface__["data"] == value.array.__array_interface__["data"]
        if same and place.shape == value.raw.shape and place.strides == value.array.strides:
            target.rewrites_seen = target.rewrites.count
