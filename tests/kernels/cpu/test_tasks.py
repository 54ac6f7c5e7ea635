"""Tasks, steps and workers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from minires.kernels.cpu import tasks, threads
from minires.kernels.cpu.intrinsics import load_f64, load_word, store_f64, store_word

ROOT = Path(__file__).resolve().parents[3]


@tasks.task
def add_index(index: int, worker: int, frame: int) -> None:
    """y[index] += index; seen[index] = worker, of the arrays whose addresses the frame holds."""
    y, seen = load_word(frame, 0), load_word(frame, 1)
    store_f64(y, index, load_f64(y, index) + index)
    store_word(seen, index, worker)


@tasks.helper
def twice(x: float) -> float:
    return x + x


@tasks.task
def double(index: int, worker: int, frame: int) -> None:
    y = load_word(frame, 0)
    store_f64(y, index, twice(load_f64(y, index)))


def arrays(pieces: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, seen = np.zeros(max(pieces, 1)), np.full(max(pieces, 1), -1)
    return y, seen, np.array([y.ctypes.data, seen.ctypes.data], np.int64)


@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 7, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_run_takes_each_piece_once_with_a_worker_that_exists(pieces, count, monkeypatch):
    monkeypatch.setattr(tasks, "_workers", count)
    y, seen, frame = arrays(pieces)
    tasks.run(add_index, pieces, frame)
    np.testing.assert_array_equal(y[:pieces], np.arange(pieces))
    assert (seen[:pieces] >= 0).all() and (seen[:pieces] < count).all()


def test_program_runs_its_steps_in_order_and_again(workers):
    y, _seen, frame = arrays(50)
    program = tasks.Program()
    program.run()  # no steps: nothing happens
    program.add(add_index, 50, frame)
    program.add(double, 50, frame)
    program.run()
    np.testing.assert_array_equal(y, 2 * np.arange(50))
    program.run()
    np.testing.assert_array_equal(y, 2 * (2 * np.arange(50) + np.arange(50)))
    assert len(program) == 2


def test_program_keeps_its_frames_alive(workers):
    y = np.zeros(10)
    program = tasks.Program()
    seen = np.zeros(10, np.int64)
    program.add(add_index, 10, np.array([y.ctypes.data, seen.ctypes.data], np.int64), seen)
    rubbish = [np.full(2, -1, np.int64) for _ in range(100)]  # would take the frame's memory
    program.run()
    assert len(rubbish) == 100
    np.testing.assert_array_equal(y, np.arange(10))


def test_threads_may_run_tasks_at_the_same_time(workers):
    """Each Python thread its own arrays: the results are those of one after another."""
    shared = tasks.Program()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            y, _seen, frame = arrays(100)
            for _ in range(50):
                tasks.run(add_index, 100, frame)
                shared.run()
            np.testing.assert_array_equal(y, 50 * np.arange(100))
        except BaseException as failure:
            failures.append(failure)

    everyone = [threading.Thread(target=work) for _ in range(4)]
    for thread in everyone:
        thread.start()
    for thread in everyone:
        thread.join()
    assert not failures, failures


FORK = """
import os, sys, warnings
import numpy as np
warnings.simplefilter("ignore", DeprecationWarning)
from minires.kernels.cpu import tasks
from minires.kernels.cpu.layout import Blocked
tasks.set_workers(2)
x = np.arange(4 * 40 * 9 * 9, dtype=np.float32).reshape(4, 40, 9, 9)
if sys.argv[1] == "used":
    Blocked.from_plain(x)
if os.fork() == 0:
    right = (Blocked.from_plain(x).to_plain() == x).all() and tasks.workers() == (1 if sys.argv[1] == "used" else 2)
    os._exit(0 if right else 1)
code = os.waitstatus_to_exitcode(os.wait()[1])
assert (Blocked.from_plain(x).to_plain() == x).all() and tasks.workers() == 2  # the parent goes on as before
sys.exit(code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("before", ["used", "unused"])
def test_a_forked_process_computes_too(before):
    """With GNU OpenMP a child of a process whose threads ran would wait for them forever, or be ended."""
    done = subprocess.run([sys.executable, "-c", FORK, before], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("layer", ["omp", "tbb", "workqueue"])
def test_every_thread_pool_that_loads_serves(layer):
    code = (
        "import numpy as np\n"
        "from minires.kernels.cpu import tasks, threads\n"
        "from minires.kernels.cpu.layout import Blocked\n"
        "import threading, sys\n"
        "try: threads.pool(2)\n"
        "except ImportError: sys.exit(77)\n"
        "tasks.set_workers(2)\n"
        "x = np.arange(4 * 40 * 9 * 9, dtype=np.float32).reshape(4, 40, 9, 9)\n"
        "def work():\n"
        "    for _ in range(20): assert (Blocked.from_plain(x).to_plain() == x).all()\n"
        "many = [threading.Thread(target=work) for _ in range(3)]\n"
        "[t.start() for t in many]; [t.join() for t in many]; work()\n"
        "print(threads.layer())\n"
    )
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(f"Numba's pool {layer} does not load here")
    assert done.returncode == 0 and done.stdout.strip() == layer, done.stderr


def test_without_any_pool_the_error_says_which_were_tried(monkeypatch):
    monkeypatch.setattr(threads, "_pool", None)

    def missing(name: str) -> None:
        raise ImportError("libnone.so is missing")

    monkeypatch.setattr(threads, "load_pool", missing)
    with pytest.raises(ImportError, match=r"no thread pool of Numba's loads .*libnone\.so is missing"):
        threads.pool(2)


def test_names_tell_tasks_apart_and_are_the_same_elsewhere():
    def make(k: int, names: tuple[str, ...], inner: object) -> tasks.Task:
        def body(index: int, worker: int, frame: int) -> None:
            store_word(load_word(frame, 0), k, len(names))
            inner(frame)  # type: ignore[operator]

        return tasks.Task(body)

    a = make(1, ("x",), twice).name
    assert a == make(1, ("x",), twice).name
    assert len({a, make(2, ("x",), twice).name, make(1, ("y",), twice).name, make(1, ("x",), load_word).name}) == 4
    assert "0x" not in a  # no address of this process
    with pytest.raises(TypeError, match="only numbers, strings, tuples and functions can be cached"):
        _ = make(1, ("x",), [1, 2]).name


def test_compiling_is_told_once_or_each_time(capsys, monkeypatch):
    monkeypatch.setattr(tasks, "_announced", False)
    monkeypatch.setattr(tasks.cache, "load", lambda key: None)
    monkeypatch.setattr(tasks.cache, "store", lambda key, code: None)
    monkeypatch.setattr(tasks.ahead, "start", lambda cores: 0)
    code = threads.driver_code()
    for _ in range(2):
        tasks.compiled("k", "the driver", lambda: code, "minires_run")
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("compiling") == 1 and "minires warmup" in said.err
    monkeypatch.setattr(tasks, "_debug", 1)
    for _ in range(2):
        tasks.compiled("k", "the driver", lambda: code, "minires_run")
    assert capsys.readouterr().err.count("compiling the driver\n") == 2
    heard: list[str] = []
    stop = tasks.on_compile(lambda name, seconds: heard.append(name))
    tasks.compiled("k", "the driver", lambda: code, "minires_run")
    stop()
    assert heard == ["the driver"] and capsys.readouterr().err == ""


def test_report_names_the_machine_and_the_cache(workers):
    report = tasks.report()
    assert report["threads"] == workers
    assert report["instruction_set"] in ("avx512", "avx2", "neon", "sse")
    assert report["layer"] == ("one thread" if workers == 1 else threads.layer())
