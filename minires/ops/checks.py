"""What ops ask of their arguments. Each check raises an error that names op, argument, expectation and what came."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minires import backend
from minires.autograd.variable import Variable
from minires.errors import ArgumentError, DeviceError, DTypeError, LabelError, ShapeError


def check_tensor(op: str, name: str, value: Any) -> None:
    """`value` must be a Tensor."""
    if not isinstance(value, Variable):
        hint = "; wrap it with minires.from_numpy(...)" if isinstance(value, np.ndarray) else ""
        raise DTypeError(f"{op}: {name} must be a Tensor, got {type(value).__name__}{hint}")


def check_rank(op: str, name: str, tensor: Any, ranks: int | Iterable[int]) -> None:
    """`tensor` must have one of the numbers of dimensions `ranks`."""
    allowed = (ranks,) if isinstance(ranks, int) else tuple(ranks)
    if tensor.raw.ndim not in allowed:
        expected = " or ".join(str(rank) for rank in allowed)
        raise ShapeError(f"{op}: {name} needs {expected} dimensions, got {name}.shape = {tensor.raw.shape}")


def check_floating(op: str, name: str, tensor: Any) -> None:
    """`tensor` must hold floating numbers."""
    if tensor.raw.dtype.kind != "f":
        raise DTypeError(f"{op}: {name} needs a floating dtype, got {tensor.raw.dtype}; convert with .float()")


def check_same_dtype(op: str, **tensors: Any) -> None:
    """All the tensors (None is left out) must have one dtype."""
    given = {name: t.raw.dtype for name, t in tensors.items() if t is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} {dtype}" for name, dtype in given.items())
        raise DTypeError(f"{op}: all tensors need one dtype, got {listed}; convert with .to(dtype)")


def check_same_device(op: str, **tensors: Any) -> None:
    """All the tensors (None is left out) must be on one device."""
    given = {name: backend.device_of(t.raw) for name, t in tensors.items() if t is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} on {device}" for name, device in given.items())
        raise DeviceError(f"{op}: all tensors must be on one device, got {listed}; move with .to(device)")


def pair(op: str, name: str, value: Any) -> tuple[int, int]:
    """`value`, an int or two of them, as (for height, for width)."""
    values = (value, value) if _is_int(value) else value
    if not isinstance(values, (tuple, list)) or len(values) not in (1, 2) or not all(_is_int(v) for v in values):
        raise ArgumentError(f"{op}: {name} must be an int or a pair of ints, got {value!r}")
    return int(values[0]), int(values[-1])


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def dimension(op: str, dim: Any, rank: int) -> int:
    """`dim` as a number from 0 to rank - 1; a tensor without dimensions counts as having one."""
    if not _is_int(dim):
        raise ArgumentError(f"{op}: dim must be an int, got {dim!r}")
    span = max(rank, 1)
    if not -span <= dim < span:
        raise LabelError(f"{op}: dim must be from {-span} to {span - 1} for a tensor of {rank} dimensions, got {dim}")
    return int(dim) % span


def dimensions(op: str, dim: Any, rank: int) -> tuple[int, ...]:
    """`dim` (None for all, an int, or several) as distinct numbers from 0 to rank - 1."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(rank))
    dims = tuple(dimension(op, d, rank) for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    if len(set(dims)) != len(dims):
        raise ArgumentError(f"{op}: dim names a dimension twice, got {dim!r}")
    return tuple(d for d in dims if rank)
