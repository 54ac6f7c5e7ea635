"""Settings that come from the environment. Everything else is an argument.

| variable          | values                          | meaning                                                              |
|-------------------|---------------------------------|----------------------------------------------------------------------|
| `MINIRES_DEBUG`   | 0, 1, 2, 3, 4                   | 1 which kernel set serves an op, 2 also its time and GB/s, 3 also    |
|                   |                                 | every node of a backward pass, 4 also tracebacks in the command line |
| `MINIRES_KERNELS` | auto, cpu, reference            | the kernel set; `auto` takes the fastest that is there               |
| `MINIRES_CHECK`   | 0, 1                            | 1 every kernel runs beside the reference, live (see `checked.py`)    |
| `MINIRES_THREADS` | 1 .. 1024                       | workers of the cpu set; with the reference set, threads of the       |
|                   |                                 | linear algebra under NumPy (needs threadpoolctl)                     |
| `MINIRES_DATA`    | a folder                        | where data sets are looked for first                                 |

A bad value is an error that lists what is allowed: a setting that is silently ignored costs a day.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from minires.errors import ConfigError

KERNEL_SETS = ("auto", "cpu", "reference")


@dataclass(frozen=True)
class Settings:
    """What the environment says. `threads` and `data_dir` are None where it says nothing."""

    debug: int = 0
    kernels: str = "auto"
    check: bool = False
    threads: int | None = None
    data_dir: str | None = None


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`.

    Raises:
        ConfigError: a value outside the allowed ones, or an unknown variable that begins with MINIRES_.
    """
    known = {"MINIRES_DEBUG", "MINIRES_KERNELS", "MINIRES_CHECK", "MINIRES_THREADS", "MINIRES_DATA"}
    for name in environ:
        if name.startswith("MINIRES_") and name not in known:
            raise ConfigError(f"environment: {name} is not a setting of minires. Known: {', '.join(sorted(known))}")
    return Settings(
        debug=_integer(environ, "MINIRES_DEBUG", 0, 0, 4) or 0,
        kernels=_choice(environ, "MINIRES_KERNELS", "auto", KERNEL_SETS),
        check=bool(_integer(environ, "MINIRES_CHECK", 0, 0, 1)),
        threads=_integer(environ, "MINIRES_THREADS", None, 1, 1024),
        data_dir=environ.get("MINIRES_DATA") or None,
    )


def _integer(environ: Mapping[str, str], name: str, default: int | None, low: int, high: int) -> int | None:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ConfigError(f"environment: {name} must be a whole number from {low} to {high}, got {text!r}")
    return int(text)


def _choice(environ: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    text = environ.get(name, "") or default
    if text not in allowed:
        raise ConfigError(f"environment: {name} must be one of {', '.join(allowed)}, got {text!r}")
    return text


settings = read_settings(os.environ)
