"""`minires doctor`: what is installed, what is missing and how to get it, and whether the engine computes correctly
here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.cli.output import FirstLineHelp, print_json, print_next, print_table

NAMES = ("doctor",)
GOOD, NOTE, BAD = "ok", "--", "BAD"
# package on the index, module, what it is for; numba and cupy only once their kernel sets are there
OPTIONAL = (
    ("numba", "numba", "kernel set cpu"),
    ("cupy", "cupy", "kernel set cuda"),
    ("threadpoolctl", "threadpoolctl", "MINIRES_THREADS"),
    ("rich", "rich", "live progress bars and tables"),
    ("pillow", "PIL", "predict, image folders"),
    ("matplotlib", "matplotlib", "curves.png"),
)


@dataclass
class Finding:
    """One line of the report."""

    what: str
    state: str  # GOOD, NOTE (works without) or BAD
    detail: str
    way_out: str = ""


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "doctor", help="check this installation", description=__doc__, formatter_class=FirstLineHelp
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine everything; 0 when nothing is bad, 1 otherwise."""
    findings = [*_machine(), *_packages(), *_kernel_sets(), *_data_sets(), self_check()]
    bad = [f for f in findings if f.state == BAD]
    if args.json:
        print_json({"ok": not bad, "findings": [f.__dict__ for f in findings]})
        return 1 if bad else 0
    print_table(
        ["", "what", "found"], [[f.state, f.what, f.detail] for f in findings], title="minires doctor", left=(0, 1, 2)
    )
    ways = [f for f in findings if f.way_out]
    if ways:
        print("\nwhat could be better:")
        for finding in ways:
            print(f"  {finding.what}: {finding.way_out}")
    if bad:
        print(f"\n{len(bad)} problem(s): {', '.join(f.what for f in bad)}")
        return 1
    print("\nall well: this machine can train")
    print_next(("minires train", "a small ResNet on the digits, under a minute"))
    return 0


def _machine() -> list[Finding]:
    import minires
    from minires.train.run_folder import available_cores, busy_advice

    findings = [
        Finding("minires", GOOD, minires.__version__),
        Finding("python", GOOD, f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"),
        Finding("system", GOOD, f"{platform.system()} {platform.release()}, {platform.machine()}"),
    ]
    findings.append(Finding("numpy", GOOD, f"{np.__version__}, linear algebra: {_blas()}"))
    cores = available_cores()
    limits = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.endswith("_NUM_THREADS") or k == "MINIRES_THREADS"]
    busy = busy_advice()
    detail = f"{cores} usable of {os.cpu_count()}; thread limits: {' '.join(limits) or 'none'}"
    findings.append(Finding("cores", NOTE if busy else GOOD, detail, busy))
    memory = _memory()
    if memory is not None:
        little = memory[1] < 2**30
        findings.append(
            Finding(
                "memory",
                NOTE if little else GOOD,
                f"{memory[1] / 2**30:.1f} GiB free of {memory[0] / 2**30:.1f}",
                "less than 1 GiB is free: take a smaller --batch-size" if little else "",
            )
        )
    return findings


def _blas() -> str:
    """The library under NumPy's matrix products."""
    try:
        found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{found['name']} {found.get('version', '')}".strip()
    except (KeyError, TypeError):
        return "unknown"


def _memory() -> tuple[int, int] | None:
    """(total, available) bytes; None where the system does not say (only Linux's /proc is read)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            table = dict(line.split(":", 1) for line in file)
        return tuple(int(table[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))  # type: ignore[return-value]
    except (OSError, KeyError, ValueError):
        return None


def _packages() -> list[Finding]:
    from minires.config import KERNEL_SETS

    findings = []
    for package, module, purpose in OPTIONAL:
        if purpose.startswith("kernel set") and purpose.removeprefix("kernel set ") not in KERNEL_SETS:
            here = "installed" if importlib.util.find_spec(module) is not None else "not installed"
            findings.append(Finding(package, NOTE, f"{here}; not used yet ({purpose} is not in this version)"))
            continue
        if importlib.util.find_spec(module) is None:
            name = "cupy-cuda12x (or cupy-cuda13x)" if package == "cupy" else package
            findings.append(Finding(package, NOTE, f"not installed ({purpose})", f"pip install {name}, for {purpose}"))
            continue
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "version unknown"
        findings.append(Finding(package, GOOD, f"{version} ({purpose})"))
    return findings


def _kernel_sets() -> list[Finding]:
    from minires import backend
    from minires.config import KERNEL_SETS
    from minires.errors import ConfigError, MiniresError

    findings = []
    for name in KERNEL_SETS:
        if name == "auto":
            continue
        try:
            kernels = backend.kernel_set(name)
            report = getattr(kernels, "report", None)
            findings.append(Finding(f"kernels: {name}", GOOD, "loads" if report is None else _describe(report())))
            if report is not None:
                findings.append(_kernel_cache(report()))
        except ConfigError as error:  # needs a package that is not installed, which is no fault
            findings.append(Finding(f"kernels: {name}", NOTE, str(error)))
        except (MiniresError, ImportError) as error:
            findings.append(Finding(f"kernels: {name}", BAD, f"{type(error).__name__}: {error}"))
    return findings


def _describe(report: dict[str, Any]) -> str:
    """A kernel set's report in a line."""
    caches = f"{report['l1_bytes'] >> 10} KB and {report['l2_bytes'] >> 10} KB of cache a core"
    threads = f"{report['threads']} threads ({report['layer']})"
    return f"{report['instruction_set']} ({report['cpu']}), tile {report['tile']}, {threads}, {caches}"


def _kernel_cache(report: dict[str, Any]) -> Finding:
    """Where compiled kernels lie."""
    if report["cache"] is None:
        way_out = "make a folder writable for you alone, e.g. ~/.cache: kernels are compiled anew in every process now"
        return Finding("kernel cache", NOTE, "no folder can be written to", way_out)
    count, size = report["cached_kernels"], report["cached_bytes"] / 1024
    way_out = "" if count > 1 else "minires warmup, so that the first run need not wait for a compiler"
    return Finding("kernel cache", GOOD, f"{report['cache']}: {count} kernels, {size:.0f} KB", way_out)


def _data_sets() -> list[Finding]:
    from minires.data import describe

    findings = []
    for row in describe():
        here = row.found is not None
        findings.append(
            Finding(
                f"data: {row.name}",
                GOOD if here else NOTE,
                str(row.found) if here else "not here",
                "" if here else f"minires data {row.name} --download",
            )
        )
    return findings


def self_check() -> Finding:
    """A small convolution, forward and backward, against loops written out here.

    y[n, o, i, j] = b[o] + sum_{c, p, q} x[n, c, i + p - 1, j + q - 1] w[o, c, p, q],  loss = sum(y g), so
    dw[o, c, p, q] = sum_{n, i, j} g[n, o, i, j] x[...]  and  dx[...] += g[n, o, i, j] w[o, c, p, q].
    """
    began = time.perf_counter()
    try:
        from minires.nn import functional as F
        from minires.tensor import Tensor

        rng = np.random.default_rng(0)
        x, w, g = (rng.standard_normal(shape) for shape in ((2, 3, 5, 4), (4, 3, 3, 3), (2, 4, 5, 4)))
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        y, grad_w, grad_padded = np.zeros(g.shape), np.zeros(w.shape), np.zeros(padded.shape)
        for n, o, i, j in np.ndindex(g.shape):
            for c, p, q in np.ndindex(w.shape[1:]):
                y[n, o, i, j] += padded[n, c, i + p, j + q] * w[o, c, p, q]
                grad_w[o, c, p, q] += g[n, o, i, j] * padded[n, c, i + p, j + q]
                grad_padded[n, c, i + p, j + q] += g[n, o, i, j] * w[o, c, p, q]
        tensor_x, tensor_w = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
        out = F.conv2d(tensor_x, tensor_w, padding=1)
        (out * Tensor(g)).sum().backward()
        pairs = ((out.detach(), y), (tensor_x.grad, grad_padded[:, :, 1:-1, 1:-1]), (tensor_w.grad, grad_w))
        worst = max(float(np.abs(ours.numpy() - loop).max()) for ours, loop in pairs if ours is not None)
    except Exception as error:  # whatever is wrong with the engine is what this line reports
        return Finding(
            "self-check",
            BAD,
            f"{type(error).__name__}: {error}",
            "reinstall minires: pip install --force-reinstall minires",
        )
    took = 1e3 * (time.perf_counter() - began)
    detail = f"conv2d forward and backward against loops: largest difference {worst:.1e} ({took:.0f} ms)"
    if not worst < 1e-12:  # float64, sums of at most 60 terms near 1
        return Finding(
            "self-check", BAD, detail, "NumPy's linear algebra may be broken here: pip install --force-reinstall numpy"
        )
    return Finding("self-check", GOOD, detail)
