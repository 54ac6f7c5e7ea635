"""How much memory a piece of work takes: the growth of this process' resident memory, at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable, Sequence

__all__ = ["growth"]


def growth(*stages: Callable[[], object], between: Callable[[], object] | None = None) -> tuple[int, str]:
    """Run the stages in order; the peak of resident memory on the way, less what there was before the first.

    Where Linux's /proc is, each stage's peak is counted from its own start, and the allocator returns what is free before
    each. `between` runs after each stage but the last; what it keeps is taken off again. Elsewhere the peak is that of the
    process' whole life, a bound from above at best.

    Returns:
        bytes, and how they were measured: "VmHWM" or "ru_maxrss".
    """
    _trim()
    try:
        before = _proc("VmRSS")
        peak = 0
        for number, stage in enumerate(stages):
            if number and between is not None:
                _trim()
                kept = _proc("VmRSS")
                between()
                _trim()
                before += max(0, _proc("VmRSS") - kept)
            _trim()
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # sets VmHWM back to the present
            stage()
            peak = max(peak, _proc("VmHWM"))
        return max(0, peak - before), "VmHWM"
    except FileNotFoundError:
        return _by_rusage(stages, between)


def _by_rusage(stages: Sequence[Callable[[], object]], between: Callable[[], object] | None) -> tuple[int, str]:
    def run() -> None:
        for number, stage in enumerate(stages):
            if number and between is not None:
                between()
            stage()

    try:
        import resource
    except ImportError:  # Windows has neither
        run()
        return 0, "unknown"
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit, "ru_maxrss"


def _proc(key: str) -> int:
    """Bytes of one line of /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise FileNotFoundError(f"/proc/self/status has no {key}")


def _trim() -> None:
    """Collect garbage and have the C library give free pages back, so that old freed memory does not hide new."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
