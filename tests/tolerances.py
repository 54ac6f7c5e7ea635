"""One table of tolerances, by dtype and reduction length. No test has a literal of its own.

The base values are torch.testing.assert_close's. A sum of n terms, added in another order, differs by a random walk of n
roundings: both tolerances grow with sqrt(n). The absolute one is scaled by the size of the values compared, because after
cancellation a small result carries the rounding of large terms.
"""

from __future__ import annotations

import math

import numpy as np

BASE = {  # dtype: (rtol, atol)
    "float16": (1e-3, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
}


def tolerance(dtype: str, n: int = 1) -> dict[str, float]:
    """Keyword arguments for np.testing.assert_allclose; `n`: the length of the longest reduction on the way."""
    rtol, atol = BASE[str(np.dtype(dtype))]
    growth = max(1.0, math.sqrt(n))
    return {"rtol": rtol * growth, "atol": atol * growth}


def assert_close(actual: np.ndarray, expected: np.ndarray, dtype: str, n: int = 1, what: str = "") -> None:
    """Shape, and values within the table's tolerance; NaN equals NaN and infinities must agree in sign."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    limits = tolerance(dtype, n)
    finite = expected[np.isfinite(expected)] if expected.dtype.kind == "f" else np.zeros(0)
    scale = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
    np.testing.assert_allclose(
        actual.astype(np.float64),
        expected.astype(np.float64),
        rtol=limits["rtol"],
        atol=limits["atol"] * scale,
        err_msg=what,
    )
