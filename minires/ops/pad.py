"""Padding: rows, columns, ... added around a tensor, or cut off where the number is negative.

Constant padding is its own adjoint with the signs turned (what was added is cut off, what was cut off comes back as
zeros); the other modes read existing elements, so they are an indexing, and their adjoint is indexing's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Op, apply
from minires.errors import ArgumentError, ShapeError, UnknownNameError
from minires.ops.checks import check_tensor
from minires.ops.index import GetItem

if TYPE_CHECKING:
    from minires.tensor import Tensor

MODES = ("constant", "reflect", "replicate", "circular")


class ConstantPad(Op):
    """y = x with `value` around it;  dL/dx = dL/dy padded by the negative amounts, with zeros."""

    name = "pad"

    @staticmethod
    def forward(ctx: Any, x: Any, amounts: tuple[tuple[int, int], ...], value: float = 0.0) -> Any:
        ctx.amounts = amounts
        y = ctx.xp.full(
            [before + size + after for size, (before, after) in zip(x.shape, amounts, strict=True)],
            value,
            dtype=x.dtype.newbyteorder("="),
        )
        kept = tuple(slice(max(-b, 0), size - max(-a, 0)) for size, (b, a) in zip(x.shape, amounts, strict=True))
        place = tuple(slice(k.start + b, k.stop + b) for k, (b, _) in zip(kept, amounts, strict=True))
        y[place] = x[kept]
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(ConstantPad, grad_y, tuple((-before, -after) for before, after in ctx.amounts))


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """input with elements added around its last dimensions.

        constant    v v v | a b c d | v v v        reflect     d c b | a b c d | c b a      (the edge is not repeated)
        replicate   a a a | a b c d | d d d        circular    b c d | a b c d | a b c

    Args:
        input: any shape with mode 'constant'; otherwise one or two dimensions (channels, or batch and channels) in
        front of
            those that are padded.
        pad: (before, after) of the last dimension, then of the one before it, and so on: for images
            (left, right, top, bottom). A negative number cuts off.
        mode: 'constant', 'reflect', 'replicate' or 'circular'.
        value: the constant, by default 0; for mode 'constant' only.

    Returns:
        A new tensor (never a view).

    Raises:
        ArgumentError: `pad` is not an even number of ints or names more dimensions than there are; a value in another
        mode. ShapeError: more is cut off than there is; more is reflected than size - 1, or wrapped around than size.
        UnknownNameError: no such mode.
    """
    check_tensor("pad", "input", input)
    amounts = _amounts(input, pad)
    if mode not in MODES:
        raise UnknownNameError.for_name("pad mode", str(mode), MODES)
    if mode == "constant":
        return constant_pad(input, pad, 0.0 if value is None else value)
    if value is not None and value != 0:
        raise ArgumentError(f"pad: value is for mode 'constant' only, got value = {value!r} with mode {mode!r}")
    padded_dims = len(pad) // 2
    if not (1 <= padded_dims <= 3 and input.raw.ndim in (padded_dims + 1, padded_dims + 2)):
        raise ShapeError(
            f"pad: mode {mode!r} pads the last 1 to 3 dimensions with one or two in front of them, got pad of "
            f"{padded_dims} dimensions for input.shape = {input.raw.shape}; use mode 'constant', or unsqueeze"
        )
    y = input
    for dim, (before, after) in enumerate(amounts):
        if dim >= input.raw.ndim - padded_dims:
            index = _source_positions(mode, input.raw.shape, dim, before, after)
            y = apply(GetItem, y, (*(slice(None),) * dim, index))
    return y


def constant_pad(input: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """`pad` in mode 'constant'."""
    amounts = _amounts(input, pad)
    for dim, (size, (before, after)) in enumerate(zip(input.raw.shape, amounts, strict=True)):
        if size + min(before, 0) + min(after, 0) < 0:
            raise ShapeError(
                f"pad: dimension {dim} has {size} elements, fewer than ({before}, {after}) cuts off, "
                f"got input.shape = {input.raw.shape}"
            )
    return apply(ConstantPad, input, amounts, value)


def _amounts(input: Any, pad: Any) -> tuple[tuple[int, int], ...]:
    """torch's order (last dimension first) as one (before, after) a dimension."""
    if not isinstance(pad, (tuple, list)) or not all(
        isinstance(p, (int, np.integer)) and not isinstance(p, bool) for p in pad
    ):
        raise ArgumentError(f"pad: pad must be a sequence of ints, got {pad!r}")
    if len(pad) % 2 or len(pad) > 2 * input.raw.ndim:
        raise ArgumentError(
            f"pad: pad must hold two numbers for each of at most {input.raw.ndim} dimensions, got {len(pad)}: {pad!r}"
        )
    given = [(int(before), int(after)) for before, after in zip(pad[::2], pad[1::2], strict=True)]
    return ((0, 0),) * (input.raw.ndim - len(given)) + tuple(reversed(given))


def _source_positions(mode: str, shape: tuple[int, ...], dim: int, before: int, after: int) -> np.ndarray:
    """The element of dimension `dim` that stands at each place of the padded dimension."""
    size = shape[dim]
    first, last = max(-before, 0), size - max(-after, 0)  # what is not cut off
    # torch wraps around what is left after cutting, but reflects and repeats what was there before.
    most = {"reflect": size - 1, "circular": last - first, "replicate": max(before, after)}[mode]
    if size + before + after < 1 or max(before, after) > most:
        raise ShapeError(
            f"pad: mode {mode!r} can add at most {max(most, 0)} here and must leave something of dimension {dim}, "
            f"got ({before}, {after}) for input.shape = {shape}"
        )
    if mode == "circular":
        return first + np.arange(-max(before, 0), last - first + max(after, 0)) % (last - first)
    position = np.arange(-before, size + after)
    if mode == "replicate":
        return np.clip(position, 0, size - 1)
    position = np.abs(position)  # mirrored at the first element, then at the last
    return (size - 1) - np.abs((size - 1) - position)
