"""Cold start: from nothing to a first prediction, in a second process (caches on disk are warm, as after a first use)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minires.bench.compare import Result, Say, expected_results, export, judge
from minires.bench.contenders import OURS, Contender
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
}


def measure_start(workload: Workload, contenders: Sequence[Contender], *, rounds: int, say: Say) -> list[Result]:
    """Start each contender's script in turn; the time from before the process exists until its prediction is printed.

    Every prediction is compared with float64. A first run of each, which fills the caches on disk, is not counted.

    Returns:
        One result a contender; `setup` is that first run.
    """
    with tempfile.TemporaryDirectory(prefix="minires-bench-") as name:
        folder = Path(name)
        workload = judge(workload, "start", folder, say)
        (folder / "network.json").write_text(json.dumps(workload.as_dict()), encoding="utf-8")
        expected = expected_results(workload, "start")
        results = {c.name: Result(c.name, "timed") for c in contenders}
        for contender in contenders:
            missing = contender.missing()
            result = results[contender.name]
            if missing:
                result.state, result.detail = "not installed", f"not installed (pip install {' '.join(missing)})"
            elif contender.packages:
                why_not = export(workload, "onnx" if contender.exports else "weights", say)
                if why_not:
                    result.state, result.detail = "failed", why_not
        able = {c.name: c for c in contenders if results[c.name].state == "timed"}
        seconds: dict[str, list[float]] = {name: [] for name in able}
        for number in range(-1, rounds):
            for each in turn_order(list(able), number + 1):
                result = results[each]
                if result.state != "timed":
                    continue
                say(f"{workload.model}: start {max(0, number + 1)} of {rounds}, {each}", fleeting=True)
                took = _run_once(able[each], workload, expected, result)
                if number < 0:
                    result.setup = took
                else:
                    seconds[each].append(took)
        for each in able:
            if results[each].state == "timed":
                results[each].timing = Timing(tuple(seconds[each]))
        ours = results[OURS].timing if OURS in results else None
        for result in results.values():
            if result.timing and ours:
                result.ratio = ratio(result.timing, ours)
        return list(results.values())


def _run_once(contender: Contender, workload: Workload, expected: dict[str, np.ndarray], result: Result) -> float:
    """Seconds until the prediction; a failure or a wrong prediction is noted in `result`."""
    script, *words = SCRIPTS[contender.name]
    log = workload.path(f"{contender.name}.log")
    with open(log, "wb") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-P", str(COLD / script), workload.folder, *words],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=pinned_environment(workload.threads, **contender.environment),
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            took = time.perf_counter() - began
            code = process.wait()
            process.stdout.close()
        finally:
            end_group(process)
    if code != 0 or not line:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        result.state, result.detail = "failed", last[-1] if last else f"ended with exit code {code}"
        return took
    error, _ = error_of({"output": np.array(json.loads(line))}, expected)
    result.error = max(error, 0.0 if np.isnan(result.error) else result.error)
    if not error <= LIMITS["start"]:
        result.state = "wrong"
        result.detail = f"wrong, not timed: its prediction differs from float64 by {error:.1e}"
    return took
