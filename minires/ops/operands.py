"""How two operands meet: broadcasting of their shapes, promotion of their dtypes.

Broadcasting repeats a dimension of size 1; its derivative is therefore a sum over what was repeated (`sum_to_shape`).
Operands of different dtypes meet as in torch (`minires.dtypes.result_type`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.autograd.variable import Variable
from minires.dtypes import get_default_dtype, result_type
from minires.errors import DTypeError, ShapeError
from minires.ops.shape import to_dtype


def operands(op: str, a: Any, b: Any, floating: bool = False) -> tuple[Any, Any]:
    """`a` and `b` in the dtype in which they meet: tensors as tensors, numbers as arrays without dimensions.

    Args:
        floating: whether integers must become floating numbers first (division).

    Raises:
        DTypeError: an operand that is neither a tensor nor a number.
        ShapeError: shapes that do not broadcast.
    """
    for position, value in enumerate((a, b)):
        if not isinstance(value, (Variable, int, float, np.ndarray, np.generic)):
            raise DTypeError(f"{op}: operand {position} must be a Tensor or a number, got {type(value).__name__}")
    dtype = result_type(a, b)
    if floating and not dtype.is_floating_point:
        dtype = get_default_dtype()
    shapes = [v.raw.shape if isinstance(v, Variable) else np.shape(v) for v in (a, b)]
    if shapes[0] != shapes[1]:
        for x, y in zip(reversed(shapes[0]), reversed(shapes[1]), strict=False):
            if x != y and 1 not in (x, y):
                raise ShapeError(
                    f"{op}: the shapes {shapes[0]} and {shapes[1]} do not broadcast: {x} and {y} are neither equal nor 1"
                )
    return tuple(
        (v if v.raw.dtype == dtype.numpy else to_dtype(v, dtype))
        if isinstance(v, Variable)
        else np.asarray(v).astype(dtype.numpy)
        for v in (a, b)
    )  # type: ignore[return-value]  # two values in, two out
