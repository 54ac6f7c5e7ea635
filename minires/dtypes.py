"""The dtypes of tensors and the rules by which two of them meet.

`minires.float32` and its siblings stand for torch's dtypes of the same names. The rules of promotion are torch's, which
differ from NumPy's in two places that matter in training code: an int64 tensor times a float32 tensor is float32 (NumPy:
float64), and a zero-dimensional tensor does not widen a tensor of the same kind.

Source: https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.errors import DTypeError

# Kinds in the order of promotion: bool < integer < floating.
_BOOL, _INTEGER, _FLOATING = 0, 1, 2


class dtype:
    """The type of a tensor's elements; one object a type, so `is` and `==` agree."""

    __slots__ = ("itemsize", "kind", "name", "numpy")

    def __init__(self, name: str) -> None:
        self.name = name
        self.numpy = np.dtype(name)
        self.itemsize = self.numpy.itemsize  # bytes an element
        self.kind = {"b": _BOOL, "f": _FLOATING}.get(self.numpy.kind, _INTEGER)

    @property
    def is_floating_point(self) -> bool:
        return self.kind == _FLOATING

    @property
    def is_complex(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"minires.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _by_name, (self.name,)


def _by_name(name: str) -> dtype:
    return _DTYPES[name]


float16 = half = dtype("float16")
float32 = dtype("float32")
float64 = double = dtype("float64")
uint8 = dtype("uint8")
int8 = dtype("int8")
int16 = short = dtype("int16")
int32 = dtype("int32")
int64 = long = dtype("int64")
bool_ = dtype("bool")

_DTYPES = {d.name: d for d in (float16, float32, float64, uint8, int8, int16, int32, int64, bool_)}
_BY_NUMPY = {d.numpy: d for d in _DTYPES.values()}
_PYTHON = {bool: bool_, int: int64, float: float32}

_default = float32


def get_default_dtype() -> dtype:
    """The floating dtype that Python floats become: float32 unless `set_default_dtype` said otherwise."""
    return _default


def set_default_dtype(d: Any) -> None:
    """Make `d` (float16, float32 or float64) the dtype that Python floats become."""
    global _default
    new = as_dtype(d)
    if not new.is_floating_point:
        raise DTypeError(f"set_default_dtype: d must be a floating dtype, got {new}")
    _default = new


def as_dtype(value: Any) -> dtype:
    """`value` as a `dtype`: one of ours, a NumPy dtype or its name, or Python's bool, int or float.

    Raises:
        DTypeError: a dtype that tensors cannot have.
    """
    if isinstance(value, dtype):
        return value
    of_class = getattr(value, "dtype", None) if isinstance(value, type) else None
    if isinstance(of_class, dtype):  # torch.LongTensor and its like
        return of_class
    if isinstance(value, type) and value in _PYTHON:
        return _default if value is float else _PYTHON[value]
    try:
        found = _BY_NUMPY.get(np.dtype(value).newbyteorder("="))
    except TypeError:
        found = None
    if found is None:
        raise DTypeError(f"dtype: expected one of {', '.join(_DTYPES)}, got {value!r}")
    return found


def result_type(*operands: Any) -> dtype:
    """The dtype in which tensors, arrays and Python numbers meet.

    The highest kind (bool < integer < floating) wins; within it, tensors with dimensions outrank zero-dimensional ones,
    which outrank Python numbers. A Python float among integers gives the default dtype.
    """
    ranks: tuple[list[dtype], list[dtype], list[dtype]] = ([], [], [])
    for operand in operands:
        if isinstance(operand, (bool, int, float)):
            ranks[2].append(as_dtype(type(operand)))
        elif isinstance(operand, np.generic):
            ranks[1].append(as_dtype(operand.dtype))
        else:
            array = getattr(operand, "raw", operand)  # of a tensor, the values in whatever form they are
            ranks[0 if array.ndim else 1].append(as_dtype(array.dtype))
    result: dtype | None = None
    for rank in ranks:
        if not rank:
            continue
        candidate = _BY_NUMPY[np.result_type(*(d.numpy for d in rank))] if _same_kind(rank) else _mixed(rank)
        if result is None or candidate.kind > result.kind:
            result = candidate
    if result is None:
        raise DTypeError("result_type: expected at least one operand, got none")
    return result


def _same_kind(rank: list[dtype]) -> bool:
    return len({d.kind for d in rank}) == 1


def _mixed(rank: list[dtype]) -> dtype:
    """Operands of one rank and several kinds: the members of the highest kind decide."""
    top = max(d.kind for d in rank)
    return _BY_NUMPY[np.result_type(*(d.numpy for d in rank if d.kind == top))]
