"""Floating-point formats that NumPy lacks, as float32, which holds every one of their values exactly.

    bfloat16        the upper half of a float32: shifted left by 16 bits
    float8_e4m3fn   sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity; exponent and mantissa all ones: NaN
    float8_e5m2     the upper half of a float16
    float8_*fnuz    bias one larger, no -0: its bits, 80, are the only NaN; no infinity
    float8_e8m0fnu  8 bits of exponent alone: 2 ** (bits - 127), ff is NaN

Source: OCP Microscaling Formats (MX) Specification v1.0, section 5; Noune et al. 2022, arXiv:2206.02915 (fnuz).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["FLOAT8", "widen_bfloat16"]


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 from bfloat16's bits, a uint16 array of any byte order."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _values(exponent_bits: int, bias: int, kind: str) -> np.ndarray:
    """The 256 values of a float8 format, as float32. `kind`: "ieee", "fn" (no infinity) or "fnuz" (and no -0)."""
    bits = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent, mantissa = bits >> mantissa_bits & (1 << exponent_bits) - 1, bits & (1 << mantissa_bits) - 1
    fraction = mantissa / (1 << mantissa_bits)
    normal = exponent > 0
    size = np.ldexp(np.where(normal, 1 + fraction, fraction), np.where(normal, exponent, 1) - bias)
    values = np.where(bits >= 128, -size, size)
    if kind == "ieee":
        top = exponent == (1 << exponent_bits) - 1
        values[top] = np.copysign(np.where(mantissa[top] > 0, np.nan, np.inf), values[top])
    elif kind == "fn":
        values[127], values[255] = np.nan, -np.nan
    else:
        values[128] = np.nan
    return values.astype(np.float32)


# By torch's names: functions that give the value of every byte.
FLOAT8: dict[str, Callable[[], np.ndarray]] = {
    "float8_e4m3fn": lambda: _values(4, 7, "fn"),
    "float8_e4m3fnuz": lambda: _values(4, 8, "fnuz"),
    "float8_e5m2": lambda: _values(5, 15, "ieee"),
    "float8_e5m2fnuz": lambda: _values(5, 16, "fnuz"),
    "float8_e8m0fnu": lambda: np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.nan).astype(np.float32),
}
