"""MINIRES_THREADS: how many threads the linear algebra under NumPy may use.

OpenBLAS reads its environment once, when NumPy loads; before that a variable is enough, and after it threadpoolctl (extra
`cpu`) must do it. Its threads spin for a while after each product, so two processes with two threads each on two cores are
many times slower than with one each: set this to 1 when several runs share a machine.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from typing import Any

from minires.config import settings

_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_held: Any = None  # threadpoolctl gives the threads back when this object dies


def limit_threads(count: int | None = settings.threads) -> None:
    """Hold the linear algebra to `count` threads (None: leave it alone).

    Warns: NumPy is loaded already and threadpoolctl is not installed, so the number cannot be set.
    """
    global _held
    if count is None:
        return
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(_VARIABLES, str(count)))
    elif importlib.util.find_spec("threadpoolctl") is not None:
        import threadpoolctl

        _held = threadpoolctl.threadpool_limits(count)
    else:
        warnings.warn(
            f"MINIRES_THREADS={count} has no effect: NumPy was imported before minires, and threadpoolctl is not installed "
            "(pip install threadpoolctl, or set OPENBLAS_NUM_THREADS yourself)",
            RuntimeWarning,
            stacklevel=2,
        )


limit_threads()
