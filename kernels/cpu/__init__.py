"""The CPU kernel set: Numba and emitted vector code."""
