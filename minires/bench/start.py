"""Cold start: from nothing to a first prediction, in a second process (caches on disk are warm, as after a first use); and
what it takes: the imports' share of that time, the process' peak of memory, and the bytes that were installed for it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minires.bench.compare import Result, Say, expected_results, export, judge
from minires.bench.contenders import OURS, Contender
from minires.bench.footprint import installed_size, peak_memory
from minires.bench.process import end_group, pinned_environment
from minires.bench.rounds import Timing, ratio, turn_order
from minires.bench.verify import LIMITS, error_of
from minires.bench.workload import Workload

__all__ = ["measure_start"]

COLD = Path(__file__).resolve().parent / "cold"
SCRIPTS = {
    OURS: ("minires_start.py",),
    "minires-reference": ("minires_start.py", "reference"),
    "torch": ("torch_start.py",),
    "onnxruntime": ("onnxruntime_start.py",),
    "openvino": ("openvino_start.py",),
}


@dataclass(frozen=True)
class _Start:
    """One run: seconds until the prediction, seconds of that for imports, bytes of memory at the peak."""

    seconds: float
    imported: float
    memory: int


def measure_start(workload: Workload, contenders: Sequence[Contender], *, rounds: int, say: Say) -> list[Result]:
    """Start each contender's script in turn; the time from before the process exists until its prediction is printed.

    Every prediction is compared with float64. A first run of each, which fills the caches on disk, is not counted.

    Returns:
        One result a contender; `setup` is that first run, `imported` and `memory` are medians of the others.
    """
    with tempfile.TemporaryDirectory(prefix="minires-bench-") as name:
        folder = Path(name)
        workload = judge(workload, "start", folder, say)
        (folder / "network.json").write_text(json.dumps(workload.as_dict()), encoding="utf-8")
        expected = expected_results(workload, "start")
        results = {c.name: Result(c.name, "timed") for c in contenders}
        exported: dict[str, str] = {}  # what torch wrote: "" or why not
        for contender in contenders:
            missing = contender.missing()
            result = results[contender.name]
            if missing:
                result.state, result.detail = "not installed", f"not installed (pip install {' '.join(missing)})"
            elif contender.packages:
                kind = "onnx" if contender.exports else "weights"
                if kind not in exported:
                    exported[kind] = export(workload, kind, say)
                if exported[kind]:
                    result.state, result.detail = "failed", exported[kind]
        able = {c.name: c for c in contenders if results[c.name].state == "timed"}
        starts: dict[str, list[_Start]] = {name: [] for name in able}
        for number in range(-1, rounds):
            for each in turn_order(list(able), number + 1):
                result = results[each]
                if result.state != "timed":
                    continue
                say(f"{workload.model}: start {max(0, number + 1)} of {rounds}, {each}", fleeting=True)
                took = _run_once(able[each], workload, expected, result)
                if number < 0:
                    result.setup = took.seconds
                else:
                    starts[each].append(took)
        for each, contender in able.items():
            result = results[each]
            result.installed = installed_size(contender.installs)
            if result.state == "timed":
                result.timing = Timing(tuple(start.seconds for start in starts[each]))
                result.imported = statistics.median(start.imported for start in starts[each])
                result.memory = int(statistics.median(start.memory for start in starts[each]))
                result.memory_by = "VmHWM" if result.memory else "unknown"
        ours = results[OURS].timing if OURS in results else None
        for result in results.values():
            if result.timing and ours:
                result.ratio = ratio(result.timing, ours)
        return list(results.values())


def _run_once(contender: Contender, workload: Workload, expected: dict[str, np.ndarray], result: Result) -> _Start:
    """One start; a failure or a wrong prediction is noted in `result`."""
    script, *words = SCRIPTS[contender.name]
    log = workload.path(f"{contender.name}.log")
    with open(log, "wb") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-P", str(COLD / script), workload.folder, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=pinned_environment(workload.threads, **contender.environment),
            start_new_session=True,
        )
        try:
            assert process.stdin is not None and process.stdout is not None
            line = process.stdout.readline()
            took = time.perf_counter() - began
            memory = peak_memory(process.pid)
            process.stdin.close()  # it has waited for this
            code = process.wait()
            process.stdout.close()
        finally:
            end_group(process)
    if code != 0 or not line:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        result.state, result.detail = "failed", last[-1] if last else f"ended with exit code {code}"
        return _Start(took, float("nan"), memory)
    answer = json.loads(line)
    error, _ = error_of({"output": np.array(answer["output"])}, expected)
    result.error = max(error, 0.0 if np.isnan(result.error) else result.error)
    if not error <= LIMITS["start"]:
        result.state = "wrong"
        result.detail = f"wrong, not timed: its prediction differs from float64 by {error:.1e}"
    return _Start(took, answer["import"], memory)
