"""How a tensor prints, and `set_printoptions`, which changes it."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    linewidth: characters a line; sci_mode: exponents always, never, or (None) where the numbers are far apart."""

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
    array = tensor.array
    if array.size == 0:
        text = "[]"
    else:
        text = _nested(array, _formatter(_shown(array)), len("tensor("))
    suffixes = []
    if array.size == 0 and array.ndim != 1:
        suffixes.append(f"size={tuple(array.shape)}")
    # Without elements to see it by, integers must be named too.
    usual = (dtypes.get_default_dtype(),) + ((dtypes.int64, dtypes.bool_) if array.size else ())
    if tensor.dtype not in usual:
        suffixes.append(f"dtype={tensor.dtype!r}")
    if tensor.grad_fn is not None:
        suffixes.append(f"grad_fn={tensor.grad_fn!r}")
    elif tensor.requires_grad:
        suffixes.append("requires_grad=True")
    text = "tensor(" + text
    for suffix in suffixes:
        room = _options.linewidth - (len(text) - text.rfind("\n") - 1)
        text += (", " if len(suffix) + 4 <= room else ",\n" + " " * len("tensor(")) + suffix
    return text + ")"


def _shown(array: Any) -> Any:
    """The elements that will be printed: they alone decide about digits and width."""
    edge, whole = _options.edgeitems, array
    if whole.size <= _options.threshold:
        return whole
    for dim, size in enumerate(whole.shape):
        if size > 2 * edge:
            kept = [*range(edge), *range(size - edge, size)]
            array = np.take(array, kept, axis=dim)
    return array


def _formatter(shown: Any) -> Callable[[Any], str]:
    """One element as text, all of one width.

    Floats: as `3.` where all are whole numbers; with `precision` digits after the point; with exponents where the largest is
    more than 1000 times the smallest, above 1e8, or (not whole) the smallest is below 1e-4.
    """
    if shown.dtype.kind != "f":
        return _padded(str, [str(value) for value in shown.ravel().tolist()])
    values = shown.ravel().astype(np.float64)
    values = values[np.isfinite(values) & (values != 0)]
    digits = _options.precision
    whole = bool((values == np.ceil(values)).all())
    if values.size:
        low, high = float(np.abs(values).min()), float(np.abs(values).max())
        exponents = high / low > 1000 or high > 1e8 or (not whole and low < 1e-4)
    else:
        exponents = False
    if _options.sci_mode is not None:
        exponents = _options.sci_mode

    def text(value: float) -> str:
        if exponents:
            return f"{value:.{digits}e}"
        if whole:
            return f"{value:.0f}" + ("." if math.isfinite(value) else "")
        return f"{value:.{digits}f}"

    return _padded(text, [text(value) for value in values.tolist()])


def _padded(text: Callable[[Any], str], texts: list[str]) -> Callable[[Any], str]:
    width = max(map(len, texts), default=1)
    return lambda value: text(value).rjust(width)


def _nested(array: Any, text: Callable[[Any], str], indent: int, size: int | None = None) -> str:
    """Brackets around brackets; a new line between rows, an empty one more for each dimension above."""
    if array.ndim == 0:
        return text(array.item())
    size = array.size if size is None else size
    edge = _options.edgeitems
    cut = size > _options.threshold and len(array) > 2 * edge
    rows = [array[:edge], array[len(array) - edge :]] if cut else [array]
    if array.ndim > 1:
        parts = [[_nested(row, text, indent + 1, size) for row in half] for half in rows]
        lines = parts[0] + (["...", *parts[1]] if cut else [])
        return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(lines) + "]"
    items = [[text(value) for value in half.tolist()] for half in rows]
    words = items[0] + ([" ...", *items[1]] if cut else [])
    width = len(words[0]) if words else 1
    per_line = max(1, (_options.linewidth - indent) // (width + 2))
    lines = [", ".join(words[i : i + per_line]) for i in range(0, len(words), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
