"""Modules that are loaded when something of them is used, and not when this package is imported.

Numba is a compiler, and its import and first steps cost more than the whole first prediction of a small network. A process
whose kernels all lie compiled in the cache needs none of it. So no module of this set imports Numba at its head; it writes

    from minires.kernels.cpu.lazy import types

and the first `types.int64`, which runs when a kernel has to be compiled, does the import.
"""

from __future__ import annotations

import importlib
from typing import Any


class LazyModule:
    """Stands for the module called `name`; an attribute's first use imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # whoever inspects this object does not want the module
            raise AttributeError(attribute)
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


ir: Any = LazyModule("llvmlite.ir")
types: Any = LazyModule("numba.core.types")
cgutils: Any = LazyModule("numba.core.cgutils")
