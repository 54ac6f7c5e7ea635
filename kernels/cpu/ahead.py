"""Compiling ahead: on the first run on a machine, other processes compile what will be wanted soon.

Numba compiles one function at a time in a process. So the first compilation starts a few others, which go through the tasks
that stand in this set's modules, last ones first, and put them into the cache; this process goes on compiling what it needs
now, and finds the rest there. A process that compiles ahead ends by itself, at once when the one that started it is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys

from minires.kernels.cpu.cache import cache

_MOST = 4  # processes; more would wait for memory and for the disk
_started = False
_processes: list[subprocess.Popen[bytes]] = []


def start(cores: int) -> int:
    """Start compiling ahead, once in a process, where a core is free and the cache is on disk. Returns how many started."""
    global _started
    if _started or cores < 2 or cache.folder is None or not cache.writable:
        return 0
    _started = True
    count = min(_MOST, cores - 1)
    started = 0
    with contextlib.suppress(OSError):  # no more processes are allowed here
        for number in range(count):
            code = f"from minires.kernels.cpu.ahead import work; work({os.getpid()}, {number}, {count})"
            paths = os.pathsep.join(filter(None, sys.path))
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths}, start_new_session=True,
            )  # fmt: skip
            _processes.append(process)
            started += 1
    if started:
        atexit.register(stop)
    return started


def stop() -> None:
    """End them: whoever ends has no use for more kernels, and what is done is in the cache."""
    for process in _processes:
        with contextlib.suppress(OSError):
            process.terminate()
            process.wait()
    _processes.clear()


def work(parent: int, number: int, count: int) -> None:
    """Compile every `count`-th of the standing tasks, from the `number`-th on: what a process started by `start` does."""
    global _started
    _started = True  # it starts no others
    import minires.kernels.cpu  # noqa: F401  # all modules, and so all standing tasks
    from minires.kernels.cpu.tasks import standing

    for each in standing[::-1][number::count]:
        if hasattr(os, "getppid") and os.getppid() != parent:
            return
        _ = each.address
