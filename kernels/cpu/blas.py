"""NumPy's linear algebra, held to one thread while this set is in use.

OpenBLAS's threads wait for their next work by spinning. After one small product they would take a core from every kernel that
follows: a network's last layer made the whole of it three times slower. The kernels here use all cores themselves, so while
they serve, OpenBLAS gets one thread; it gets back what it had when another set takes over.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# The names under which NumPy's wheels, other wheels and system libraries offer the two functions.
_NAMES = (
    ("scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"),
    ("scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"),
    ("openblas_set_num_threads64_", "openblas_get_num_threads64_"),
    ("openblas_set_num_threads", "openblas_get_num_threads"),
)


@cache
def _functions() -> tuple[Any, Any] | None:
    """(set, get) of the OpenBLAS that NumPy has loaded; None where it uses another library."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs", package / ".libs"):
        for file in sorted(folder.glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(file))  # loaded already: this is the same one
            except OSError:
                continue
            for setter, getter in _NAMES:
                if hasattr(library, setter) and hasattr(library, getter):
                    return getattr(library, setter), getattr(library, getter)
    return None


def get_threads() -> int | None:
    """How many threads OpenBLAS may use; None where NumPy uses another library."""
    found = _functions()
    return None if found is None else int(found[1]())


def set_threads(count: int) -> None:
    """Let OpenBLAS use `count` threads; no effect where NumPy uses another library."""
    found = _functions()
    if found is not None:
        found[0](ctypes.c_int(count))


_before: int | None = None


def hold() -> None:
    """One thread from now on."""
    global _before
    if _before is None:
        _before = get_threads()
        set_threads(1)


def give_back() -> None:
    """As many as before `hold`."""
    global _before
    if _before is not None:
        set_threads(_before)
        _before = None
