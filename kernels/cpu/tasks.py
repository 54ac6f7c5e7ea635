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

import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from minires.kernels.cpu.intrinsics import call_task, load_word, store_word, take_next

_config: Any = numba.config  # its attributes are made at run time
_config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]  # a region costs 1.6, 1.5-15 and 130 us

STEP_WORDS = 4  # task, pieces, frame, and the counter that hands pieces out


class Task:
    """A function `(index, worker, frame)` that is compiled, or loaded from the cache, at its first use."""

    def __init__(self, function: Callable[[int, int, int], None]) -> None:
        self.function = function
        self._compiled: Any = None

    @property
    def address(self) -> int:
        """Where its machine code lies: what a step needs."""
        if self._compiled is None:
            self._compiled = numba.cfunc("void(int64, int64, int64)", cache=True, error_model="numpy")(self.function)
        return int(self._compiled.address)


task = Task


def helper(function: Callable[..., Any]) -> Any:
    """A function that tasks call; it is compiled into them."""
    return numba.njit(inline="never", error_model="numpy")(function)


@numba.njit("void(int64, int64, int64)", parallel=True, nogil=True, cache=True, error_model="numpy")
def _run(steps: int, count: int, workers: int) -> None:
    for s in range(count):
        step = steps + 8 * STEP_WORDS * s
        function, pieces, frame = load_word(step, 0), load_word(step, 1), load_word(step, 2)
        if workers == 1 or pieces == 1:
            for i in range(pieces):
                call_task(function, i, 0, frame)
        else:
            store_word(step, 3, 0)
            for worker in numba.prange(workers):
                i = take_next(step + 24)
                while i < pieces:
                    call_task(function, i, worker, frame)
                    i = take_next(step + 24)


_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """How many workers share the pieces of a step."""
    return _workers


def set_workers(count: int) -> None:
    """From now on `count` workers. More than the machine has threads for still give right results."""
    global _workers
    _workers = count


def run(function: Task, pieces: int, frame: np.ndarray) -> None:
    """Run one step. `frame` is an int64 array."""
    step = np.array([function.address, pieces, frame.ctypes.data, 0], np.int64)
    _run(step.ctypes.data, 1, _workers)


class Program:
    """Steps that run one after another in one call. Keeps what their frames point at alive."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, int]] = []
        self._kept: list[Any] = []
        self._table: np.ndarray | None = None

    def add(self, function: Task, pieces: int, frame: np.ndarray, *kept: Any) -> None:
        """One more step; `kept`: arrays whose addresses `frame` holds."""
        self._rows.append((function.address, pieces, frame.ctypes.data, 0))
        self._kept.append((function, frame, kept))
        self._table = None

    def run(self) -> None:
        if self._table is None:
            self._table = np.array(self._rows, np.int64)
        _run(self._table.ctypes.data, len(self._rows), _workers)

    def __len__(self) -> int:
        return len(self._rows)
