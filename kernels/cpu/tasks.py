"""Tasks: how kernels reach all cores.

A *task* is a compiled function `task(index, worker, frame)` that does the `index`-th piece of some work. `frame` is the
address of 64-bit integers: the arrays' addresses, sizes and tables that all pieces share. One compiled driver hands pieces
out to the workers, whoever is free takes the next; so tasks need no parallel code of their own, compile in tenths of a
second, and a whole network can be one list of *steps* that runs in a single call from Python (a step costs 2 us):

    step = (address of the task, number of pieces, address of the frame)

A piece must not depend on which worker takes it. Sums over pieces go to a slot a piece (not a worker), and are added in a
fixed order afterwards: the bits of a result then depend on the number of slots alone.

`worker` is below `workers()`: scratch memory is indexed by it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np

from minires.kernels.cpu import ahead, threads
from minires.kernels.cpu.cache import cache, source_digest
from minires.kernels.cpu.machine import machine, tile_for, usable_cores
from minires.kernels.cpu.machine_code import compile_function, load
from minires.kernels.cpu.rehearsal import rehearsing

# ------------------------------------------------------------------------------------------------------------- compiling

_debug = 0
_announced = False
_lock = threading.RLock()


def set_debug(level: int) -> None:
    """From level 1 on, a line on stderr for each kernel that is compiled."""
    global _debug
    _debug = level


def _announce(name: str) -> None:
    """Whoever waits for a compiler shall know for what: once, or each time if asked."""
    global _announced
    if _debug:
        print(f"minires: compiling {name}", file=sys.stderr, flush=True)
    elif not _announced:
        print(
            "minires: compiling CPU kernels for this machine (first run only; `minires warmup` does it ahead) ...",
            file=sys.stderr,
            flush=True,
        )
    _announced = True


_listeners: list[Callable[[str, float], None]] = []


def on_compile(listener: Callable[[str, float], None]) -> Callable[[], None]:
    """`listener(name, seconds)` is called after each compilation. Returns a function that ends this."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def compiled(key: str, name: str, make: Callable[[], bytes], symbol: str) -> int:
    """The address of `symbol` in the object file under `key`: from the cache, or made and put there."""
    with _lock:
        code = cache.load(key)
        if code is not None:
            return load(code, symbol)
        if not _listeners:
            _announce(name)
        ahead.start(_cores)
        began = time.perf_counter()
        code = make()
        cache.store(key, code)
        for listener in _listeners:
            listener(name, time.perf_counter() - began)
        return load(code, symbol)


def describe(value: Any) -> str:
    """What a value that a task captures contributes to the task's name in the cache.

    Raises:
        TypeError: nothing that tells it from others in another process is known of it.
    """
    if isinstance(value, (bool, int, float, str, np.dtype, type(None))):
        return repr(value)
    if isinstance(value, tuple):
        return f"({','.join(map(describe, value))})"
    function = getattr(value, "function", None) or getattr(value, "py_func", None) or value
    if isinstance(function, FunctionType):
        captured = [describe(cell.cell_contents) for cell in function.__closure__ or ()]
        # Constants of the module may depend on the machine; the rest of it is in the hash of the sources.
        found = [(name, function.__globals__.get(name)) for name in function.__code__.co_names]
        constants = [f"{name}={found_value!r}" for name, found_value in found if isinstance(found_value, (int, float))]
        return f"{function.__module__}.{function.__qualname__}({','.join(captured + constants)})"
    raise TypeError(
        f"kernels/cpu: a task captures {value!r}; only numbers, strings, tuples and functions can be cached"
    )


standing: list[Task] = []  # tasks of modules, which exist without anybody's asking; see ahead.py


class Task:
    """A function `(index, worker, frame)` that is compiled, or loaded from the cache, at its first use."""

    def __init__(self, function: Callable[[int, int, int], None]) -> None:
        self.function = function
        self._address = 0
        if "<locals>" not in function.__qualname__:
            standing.append(self)

    @property
    def name(self) -> str:
        """What it is: module, function and captured values."""
        return describe(self.function).removeprefix("minires.kernels.cpu.")

    @property
    def address(self) -> int:
        """Where its machine code lies: what a step needs."""
        if not self._address:
            name = self.name
            made_of = f"{name}\0{source_digest(self.function.__module__)}"
            key = hashlib.sha256(made_of.encode()).hexdigest()[:24]
            symbol = f"minires_{key}"
            self._address = compiled(key, name, lambda: compile_function(self.function, symbol), symbol)
        return self._address


task = Task


class Helper:
    """A function that tasks call; it is compiled into them. Numba sees it as its own kind of function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._dispatcher: Any = None

    @property
    def _numba_type_(self) -> Any:
        if self._dispatcher is None:
            import numba

            options: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
            self._dispatcher = numba.njit(**options)(self.function)
        return self._dispatcher._numba_type_

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def helper(function: Callable[..., Any]) -> Any:
    """A function that tasks call; it is compiled into them."""
    return Helper(function)


# ------------------------------------------------------------------------------------------------------------- workers

_cores = _workers = usable_cores()  # read once: it asks the file system


def workers() -> int:
    """How many workers share the pieces of a step."""
    return 1 if threads.alone() else _workers


def set_workers(count: int) -> None:
    """From now on `count` workers. More than the machine has threads for still give right results."""
    global _workers
    _workers = count


# ------------------------------------------------------------------------------------------------------------- running


def _driver() -> Callable[[int, int, int, int], None]:
    key = f"driver-{source_digest('threads')[:16]}"
    return threads.driver(compiled(key, "the driver", threads.driver_code, "minires_run"))


_call: Callable[[int, int, int, int], None] | None = None


def _run(steps: int, count: int, most: int | None = None) -> None:
    global _call
    if _call is None:
        _call = _driver()
    team = workers() if most is None else min(workers(), most)
    if team <= 1:
        _call(steps, count, 1, 0)
        return
    pool = threads.pool(_cores)
    with pool.guard:
        _call(steps, count, team, pool.parallel_for)


def run(function: Task, pieces: int, frame: np.ndarray) -> None:
    """Run one step. `frame` is an int64 array."""
    if rehearsing():
        return
    step = np.array([function.address, pieces, frame.ctypes.data, 0], np.int64)
    _run(step.ctypes.data, 1)


@dataclass(frozen=True, eq=False)
class Step:
    """One step: a task, the number of its pieces, its frame, and the arrays whose addresses the frame holds."""

    task: Task
    pieces: int
    frame: np.ndarray
    kept: tuple[Any, ...] = ()


def run_steps(*steps: Step) -> None:
    """Run steps one after another, in one call."""
    if steps and not rehearsing():
        table = np.array([(s.task.address, s.pieces, s.frame.ctypes.data, 0) for s in steps], np.int64)
        _run(table.ctypes.data, len(steps))


class Program:
    """Steps that run one after another in one call. Keeps what their frames point at alive.

    Never on more workers than there were when it was made: its steps may have scratch memory for so many.
    """

    def __init__(self) -> None:
        self._team = workers()
        self._rows: list[tuple[Task, int, int]] = []
        self._kept: list[Any] = []
        self._table: np.ndarray | None = None

    def add(self, function: Task, pieces: int, frame: np.ndarray, *kept: Any) -> None:
        """One more step; `kept`: arrays whose addresses `frame` holds."""
        self._rows.append((function, pieces, frame.ctypes.data))
        self._kept.append((frame, kept))
        self._table = None

    def run(self) -> None:
        if self._table is None:
            self._table = np.array(
                [(function.address, pieces, frame, 0) for function, pieces, frame in self._rows], np.int64
            )
        table = self._table.copy()  # its last words count pieces: two threads may run one program
        _run(table.ctypes.data, len(self._rows), self._team)

    def __len__(self) -> int:
        return len(self._rows)


# -------------------------------------------------------------------------------------------------------------- report


def report() -> dict[str, Any]:
    """What this set found on this machine, and what it keeps."""
    here, tile = machine(), tile_for(32)
    return {
        "cpu": here.cpu,
        "instruction_set": here.instruction_set,
        "tile": f"{tile.pixels}x{tile.vectors}",
        "l1_bytes": here.l1_bytes,
        "l2_bytes": here.l2_bytes,
        "threads": workers(),
        "layer": threads.pool(_cores).name if workers() > 1 else "one thread",
        "cache": None if cache.folder is None else str(cache.folder),
        "cached_kernels": len(cache),
        "cached_bytes": cache.disk_bytes(),
    }


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
