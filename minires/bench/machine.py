"""What a figure depends on beside the code: processor, instruction set, cores, load, versions, the command itself."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import minires

__all__ = ["describe_machine", "headline", "instruction_set"]


def describe_machine(threads: int, arguments: Sequence[str]) -> dict[str, Any]:
    """For the top of a report and for JSON.

    Args:
        threads: that each contender may use.
        arguments: of the command, without the program's name.
    """
    from minires.train.run_folder import available_cores

    name, flags = _processor()
    return {
        "processor": name,
        "instruction_set": instruction_set(flags),
        "cores": available_cores(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "minires": minires.__version__,
        "numpy": np.__version__,
        "command": shlex.join(["minires", *arguments]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def headline(machine: dict[str, Any]) -> str:
    """Two lines: the machine, the command."""
    load = machine["load"]
    busy = (
        f", load {load} (others are at work: the figures are rough)" if load and load > 0.5 * machine["cores"] else ""
    )
    return (
        f"{machine['processor']}, {machine['instruction_set']}, {machine['cores']} cores, {machine['threads']} threads each, "
        f"float32; Python {machine['python']}, NumPy {machine['numpy']}{busy}\n$ {machine['command']}"
    )


def instruction_set(flags: set[str]) -> str:
    """The widest vector instructions among /proc/cpuinfo's flags."""
    for flag, name in (
        ("avx512f", "AVX-512"),
        ("avx2", "AVX2"),
        ("avx", "AVX"),
        ("sve", "SVE"),
        ("asimd", "NEON"),
        ("sse2", "SSE2"),
    ):
        if flag in flags:
            extra = " with AMX" if name == "AVX-512" and "amx_tile" in flags else ""
            return name + extra
    return "instruction set unknown"


def _processor() -> tuple[str, set[str]]:
    """(name, flags); from /proc/cpuinfo where there is one."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), {"asimd"} if sys.platform == "darwin" else set()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, set((fields.get("flags") or fields.get("features") or "").split())
