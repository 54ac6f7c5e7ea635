"""Anomaly detection: where in the forward pass did the operation run whose gradient went wrong?

With it on, every recorded operation remembers its call site, and the engine looks at every gradient for NaN. It costs a
stack walk an operation, so it is off until asked for.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_enabled = False
_check_nan = True


def is_anomaly_enabled() -> bool:
    return _enabled


def is_anomaly_check_nan_enabled() -> bool:
    return _check_nan


class set_detect_anomaly:
    """Switch anomaly detection on or off; as a context manager, for the block."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        global _enabled, _check_nan
        self._before = _enabled, _check_nan
        _enabled, _check_nan = bool(mode), bool(check_nan)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        global _enabled, _check_nan
        _enabled, _check_nan = self._before


class detect_anomaly(set_detect_anomaly):
    """`with detect_anomaly():` a gradient that is NaN is an error that names the operation and its call site."""

    def __init__(self, check_nan: bool = True) -> None:
        super().__init__(True, check_nan)


def call_site() -> traceback.StackSummary | None:
    """The stack outside minires, innermost call last; None when detection is off."""
    if not _enabled:
        return None
    frames = [f for f in traceback.extract_stack() if not f.filename.startswith(_PACKAGE)]
    return traceback.StackSummary.from_list(frames[-8:])


def where(node: Any) -> str:
    """`node`'s call site as the end of an error message."""
    if node.call_site is None:
        return (
            ""
            if _enabled
            else ". To see where it was called, run the forward pass under minires.autograd.detect_anomaly()"
        )
    return f". {node.name} was called at:\n{''.join(node.call_site.format()).rstrip()}"
