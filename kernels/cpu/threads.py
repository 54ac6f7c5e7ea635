"""The workers: which threads there are, and the compiled loop that hands them pieces.

Threads come from one of Numba's pools, small compiled modules that share one interface,

    parallel_for(function, args, dims, steps, data, 1, 1, threads)

which calls `function` on every thread with a share of the numbers 0 .. dims[0] - 1; `args[0]` says where the share starts
and `dims[0]` how long it is. Measured, for an empty region: omp (OpenMP) 1.6 us, tbb 1.5 to 15 us, workqueue 130 us. We
load the pool's file and not Numba, and call it from the driver below, which is LLVM's form of

    run(steps, count):                                  team(data = step):
        for step in steps:                                  for each worker of my share:
            if one worker or one piece:                         while (i = step.next++) < step.pieces:
                for i < step.pieces:                                step.task(i, worker, step.frame)
                    step.task(i, 0, step.frame)
            else:
                step.next = 0; parallel_for(team, step)

A process forked from one whose threads run has no threads, and GNU OpenMP would wait for them forever: it works alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from minires.kernels.cpu.lazy import ir
from minires.kernels.cpu.machine_code import assemble, new_module

STEP_WORDS = 4  # task, pieces, frame, and the counter that hands pieces out
LAYERS = ("omp", "tbb", "workqueue")  # best first
_FILES = {"omp": "omppool", "tbb": "tbbpool", "workqueue": "workqueue"}


# ------------------------------------------------------------------------------------------------------------- driver


def driver_code() -> bytes:
    """The object file of `minires_run(steps, count, workers, parallel_for)`."""
    word = ir.IntType(64)
    pointer = ir.IntType(8).as_pointer()
    words = word.as_pointer()
    module = new_module("driver")
    task_type = ir.FunctionType(ir.VoidType(), [word, word, word])
    team_type = ir.FunctionType(ir.VoidType(), [words, words, words, pointer])
    pool_type = ir.FunctionType(ir.VoidType(), [pointer, words, words, words, pointer, word, word, ir.IntType(32)])

    def number(value: int) -> Any:
        return ir.Constant(word, value)

    class Function:
        """A function under construction, with loops."""

        def __init__(self, kind: Any, name: str) -> None:
            self.function = ir.Function(module, kind, name)
            self.builder = ir.IRBuilder(self.function.append_basic_block())

        @contextlib.contextmanager
        def while_below(self, take: Callable[[Any], Any], end: Any) -> Any:
            """`while (i = take(turn)) < end`, where turn counts 0, 1, 2, ..."""
            b = self.builder
            before = b.block
            head, body, done = (b.append_basic_block() for _ in range(3))
            b.branch(head)
            b.position_at_end(head)
            turn = b.phi(word)
            turn.add_incoming(number(0), before)
            i = take(turn)
            b.cbranch(b.icmp_signed("<", i, end), body, done)
            b.position_at_end(body)
            yield i
            turn.add_incoming(b.add(turn, number(1)), b.block)
            b.branch(head)
            b.position_at_end(done)

        def word_at(self, base: Any, i: int) -> Any:
            return self.builder.gep(base, [number(i)])

        def call_task(self, step: Any, i: Any, worker: Any) -> None:
            b = self.builder
            task = b.inttoptr(b.load(self.word_at(step, 0)), task_type.as_pointer())
            b.call(task, [i, worker, b.load(self.word_at(step, 2))])

    team = Function(team_type, "minires_team")
    team.function.linkage = "internal"
    b = team.builder
    args, dims, _, data = team.function.args
    step = b.bitcast(data, words)
    first, pieces, counter = b.load(args), b.load(team.word_at(step, 1)), team.word_at(step, 3)
    with (
        team.while_below(lambda turn: turn, b.load(dims)) as share,
        team.while_below(lambda _: b.atomic_rmw("add", counter, number(1), "monotonic"), pieces) as i,
    ):
        team.call_task(step, i, b.add(first, share))
    b.ret_void()

    run = Function(ir.FunctionType(ir.VoidType(), [word] * 4), "minires_run")
    b = run.builder
    steps, count, workers, pool = run.function.args
    arg, stride, shape = b.alloca(word), b.alloca(word), b.alloca(word, 2)
    b.store(number(0), arg)
    b.store(number(1), stride)
    with run.while_below(lambda turn: turn, count) as s:
        step = b.gep(b.inttoptr(steps, words), [b.mul(s, number(STEP_WORDS))])
        pieces = b.load(run.word_at(step, 1))
        alone = b.or_(b.icmp_signed("<=", workers, number(1)), b.icmp_signed("<=", pieces, number(1)))
        with b.if_else(alone) as (then, otherwise):
            with then, run.while_below(lambda turn: turn, pieces) as i:
                run.call_task(step, i, number(0))
            with otherwise:
                b.store(number(0), run.word_at(step, 3))
                b.store(workers, shape)
                b.store(number(1), run.word_at(shape, 1))
                b.call(
                    b.inttoptr(pool, pool_type.as_pointer()),
                    [
                        b.bitcast(team.function, pointer), arg, shape, stride, b.bitcast(step, pointer),
                        number(1), number(1), b.trunc(workers, ir.IntType(32)),
                    ],
                )  # fmt: skip
    b.ret_void()
    return assemble(module)


# --------------------------------------------------------------------------------------------------------------- pools


class Pool:
    """One of Numba's thread pools.

    Attributes:
        name: "omp", "tbb" or "workqueue".
        parallel_for: the address of its entry.
        guard: held around each parallel run: workqueue cannot serve two threads at a time.
    """

    def __init__(self, name: str, module: Any, threads: int) -> None:
        self.name = name
        self.parallel_for = int(module.parallel_for)
        self.guard: Any = threading.Lock() if name == "workqueue" else contextlib.nullcontext()
        ctypes.CFUNCTYPE(None, ctypes.c_int)(module.launch_threads)(threads)
        ctypes.CFUNCTYPE(None, ctypes.c_int)(module.set_num_threads)(threads)


def load_pool(name: str) -> Any:
    """The compiled module of a pool, loaded from its file.

    Raises:
        ImportError: it is not there, or a library that it needs is not.
    """
    found = importlib.util.find_spec("numba")
    for folder in found.submodule_search_locations or () if found else ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = Path(folder) / "np" / "ufunc" / f"{_FILES[name]}{suffix}"
            if path.exists():
                return _load_extension(path)
    raise ImportError(f"numba has no thread pool {name}")


def _load_extension(path: Path) -> Any:
    name = path.name.partition(".")[0]
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # a loader was given
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def find_tbb() -> None:
    """Load libtbb from where its wheel puts it, which no loader's path names; Numba's tbb pool then finds it."""
    library = {"win32": "Library/bin/tbb12.dll", "darwin": "lib/libtbb.12.dylib"}.get(sys.platform, "lib/libtbb.so.12")
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix)):
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(Path(prefix) / library), mode=ctypes.RTLD_GLOBAL)
            return


_pool: Pool | None = None
_pool_lock = threading.Lock()
_forked = False


def pool(threads: int) -> Pool:
    """The thread pool, started at first use: the first of LAYERS that loads (NUMBA_THREADING_LAYER may name one).

    Raises:
        ImportError: none loads.
    """
    global _pool
    with _pool_lock:
        if _pool is None:
            named = os.environ.get("NUMBA_THREADING_LAYER", "").lower()
            failures = []
            for name in (named,) if named in LAYERS else LAYERS:
                if name == "tbb":
                    find_tbb()
                try:
                    _pool = Pool(name, load_pool(name), threads)
                    break
                except ImportError as error:
                    failures.append(f"{name}: {error}")
            if _pool is None:
                raise ImportError(f"kernels/cpu: no thread pool of Numba's loads ({'; '.join(failures)})")
        return _pool


def layer() -> str:
    """The name of the pool in use, "" before the first parallel run."""
    return "" if _pool is None else _pool.name


def alone() -> bool:
    """Whether this process must work without threads: it was forked from one that had some."""
    return _forked


def _after_fork() -> None:
    global _forked, _pool_lock
    _pool_lock = threading.Lock()  # another thread may have held it
    _forked = _forked or _pool is not None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def driver(address: int) -> Callable[[int, int, int, int], None]:
    """The driver at `address`, to be called from Python; it lets other Python threads run meanwhile."""
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(address)
