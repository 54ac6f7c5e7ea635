"""How a tensor prints, and `set_printoptions`, which changes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from minires import dtypes
from minires.errors import ArgumentError

if TYPE_CHECKING:
    from minires.tensor import Tensor


@dataclass(frozen=True)
class PrintOptions:
    """precision: digits after the point; threshold: elements from which on the middle is left out (edgeitems stay);
    linewidth: characters a line; sci_mode: exponents always, never, or (None) where NumPy finds them shorter."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


PROFILES = {
    "default": PrintOptions(),
    "short": PrintOptions(precision=2, edgeitems=2),
    "full": PrintOptions(threshold=math.inf),
}
_options = PROFILES["default"]


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Change how tensors print (torch.set_printoptions). What is not given stays; `profile` is a whole set to begin from.

    Raises:
        ArgumentError: an unknown profile, or a count that is none.
    """
    global _options
    if profile is not None and profile not in PROFILES:
        raise ArgumentError(f"set_printoptions: profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    changes: dict[str, Any] = {}
    for name, value, low in (("precision", precision, 0), ("edgeitems", edgeitems, 0), ("linewidth", linewidth, 1)):
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ArgumentError(f"set_printoptions: {name} must be a whole number >= {low}, got {value!r}")
            changes[name] = value
    if threshold is not None:
        changes["threshold"] = threshold
    changes["sci_mode"] = sci_mode  # as in torch, every call sets it: None is the automatic choice
    _options = replace(_options if profile is None else PROFILES[profile], **changes)


def format_tensor(tensor: Tensor) -> str:
    """`tensor([[1., 2.]], requires_grad=True)`: the values, then what is not as usual about the tensor."""
    o, array = _options, tensor.array
    formatter: Any = None
    if array.dtype.kind == "f" and o.sci_mode:
        formatter = {"float_kind": lambda x: f"{x:.{o.precision}e}"}
    elif array.dtype.kind == "f" and o.sci_mode is False:
        formatter = {"float_kind": lambda x: f"{x:.{o.precision}f}"}
    # NumPy wants an integer: more than any array has stands for "no limit".
    threshold = 2**62 if math.isinf(o.threshold) else int(o.threshold)
    text = np.array2string(
        array,
        max_line_width=o.linewidth,
        separator=", ",
        precision=o.precision,
        prefix="tensor(",
        floatmode="maxprec_equal",
        threshold=threshold,
        edgeitems=o.edgeitems,
        formatter=formatter,
    )
    parts = [text]
    if array.size == 0 and array.ndim != 1:
        parts.append(f"size={tuple(array.shape)}")
    if tensor.dtype not in (dtypes.get_default_dtype(), dtypes.int64, dtypes.bool_):
        parts.append(f"dtype={tensor.dtype!r}")
    if tensor.grad_fn is not None:
        parts.append(f"grad_fn={tensor.grad_fn!r}")
    elif tensor.requires_grad:
        parts.append("requires_grad=True")
    return f"tensor({', '.join(parts)})"
