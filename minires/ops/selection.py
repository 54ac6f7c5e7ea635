"""Parts of a tensor by position or by order: select, narrow, split, sort, topk, triangles.

All but the triangles are made of `getitem` and `gather`, whose derivatives they inherit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Op, apply
from minires.autograd.variable import new_tensor
from minires.errors import ArgumentError, LabelError
from minires.ops.checks import check_tensor, dimension
from minires.ops.index import gather, getitem
from minires.ops.reduce import ValuesIndices
from minires.ops.shape import flatten

if TYPE_CHECKING:
    from minires.tensor import Tensor


class Triangle(Op):
    """The lower or upper triangle of matrices, zeros elsewhere; so is its gradient."""

    name = "tril"

    @staticmethod
    def forward(ctx: Any, x: Any, diagonal: int, function: str) -> Any:
        ctx.options = diagonal, function
        return getattr(ctx.xp, function)(x, diagonal)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(Triangle, grad_y, *ctx.options)


def select(input: Tensor, dim: int, index: int) -> Tensor:
    d = dimension("select", dim, input.raw.ndim)
    return getitem(input, (*(slice(None),) * d, index))


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """`length` slices of `dim` from `start` on."""
    d = dimension("narrow", dim, input.raw.ndim)
    if start < 0 or length < 0 or start + length > input.raw.shape[d]:
        raise LabelError(
            f"narrow: start {start} and length {length} go beyond dimension {d} of a tensor of shape {input.raw.shape}"
        )
    return getitem(input, (*(slice(None),) * d, slice(start, start + length)))


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along `dim`, without that dimension."""
    d = dimension("unbind", dim, input.raw.ndim)
    return tuple(select(input, d, i) for i in range(input.raw.shape[d]))


def split(input: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Parts of a size (the last may be smaller), or of the sizes given, along `dim`."""
    d = dimension("split", dim, input.raw.ndim)
    total = input.raw.shape[d]
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        if step <= 0:
            raise ArgumentError(f"split: split_size must be positive, got {step}")
        sizes = [min(step, total - start) for start in range(0, total, step)] or [0]
    else:
        sizes = list(split_size_or_sections)
        if sum(sizes) != total or any(s < 0 for s in sizes):
            raise ArgumentError(f"split: sections must add up to the size {total} of dimension {d}, got {sizes}")
    starts = np.cumsum([0, *sizes[:-1]])
    return tuple(narrow(input, d, int(start), size) for start, size in zip(starts, sizes, strict=True))


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` parts of equal size along `dim`."""
    if chunks <= 0:
        raise ArgumentError(f"chunk: chunks must be positive, got {chunks}")
    size = input.raw.shape[dimension("chunk", dim, input.raw.ndim)]
    return split(input, max(-(-size // chunks), 1), dim)


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    check_tensor("tril", "input", input)
    return apply(Triangle, input, diagonal, "tril")


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    check_tensor("triu", "input", input)
    return apply(Triangle, input, diagonal, "triu")


def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The order that sorts along `dim`; equal values keep theirs, NaN is the largest."""
    check_tensor("argsort", "input", input)
    d = dimension("argsort", dim, input.raw.ndim)
    if input.raw.ndim == 0:
        return new_tensor(np.zeros((), np.int64))
    values = input.array
    if descending:  # sort the reversed array, so that equal values keep their order after turning it round
        order = np.flip(np.argsort(np.flip(values, d), axis=d, kind="stable"), d)
        return new_tensor(values.shape[d] - 1 - order)
    return new_tensor(np.argsort(values, axis=d, kind="stable"))


def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """(values, indices) in order along `dim`."""
    order = argsort(input, dim, descending)
    return ValuesIndices(gather(input, dim, order) if input.raw.ndim else input, order)


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """(values, indices) of the `k` largest (or smallest) along `dim`, in order."""
    check_tensor("topk", "input", input)
    d = dimension("topk", dim, input.raw.ndim)
    size = input.raw.shape[d] if input.raw.ndim else 1
    if not 0 <= k <= size:
        raise ArgumentError(f"topk: k must be from 0 to {size}, the size of dimension {d}, got {k}")
    order = narrow(argsort(input, d, descending=largest), d, 0, k)
    return ValuesIndices(gather(input, d, order), order)


def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements of the flattened tensor that `index` names."""
    return getitem(flatten(input), index)


def unique(input: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> Any:
    """The distinct values in order, with the way back and their counts where asked for."""
    values, inverse, counts = np.unique(input.array, return_inverse=True, return_counts=True)
    results = [new_tensor(values)]
    if return_inverse:
        results.append(new_tensor(inverse.reshape(input.raw.shape)))
    if return_counts:
        results.append(new_tensor(counts))
    return results[0] if len(results) == 1 else tuple(results)
