"""Single layers of a network: each pass of each, ours beside torch's, with GFLOP/s and errors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minires.bench.compare import REFERENCE, Field, Result, Say
from minires.bench.contenders import Contender
from minires.bench.layers import PASSES, Layer, layers_of
from minires.bench.process import WorkerProcess
from minires.bench.report import format_error, format_ratio, format_seconds
from minires.bench.workload import Workload

__all__ = ["cells", "measure_layers", "totals"]

Row = tuple[Layer, int, list[Result]]


def measure_layers(
    workload: Workload, contenders: Sequence[Contender], *, ops: Sequence[str], rounds: int, say: Say
) -> Iterator[Row]:
    """Measure every pass of every distinct layer.

    Args:
        workload: the network and the batch.
        ops: "conv2d", "batch_norm" or both.

    Yields:
        (layer and pass, how often the network has it, results), as soon as they are there.
    """
    one_image = (1, *workload.input_shape[1:])
    found = [(layer, count) for layer, count in layers_of(workload.build(), one_image) if layer.op in ops]
    with tempfile.TemporaryDirectory(prefix="minires-bench-") as name:
        folder = Path(name)
        judge = WorkerProcess("judge", threads=workload.threads, folder=folder, environment=REFERENCE)
        with judge, Field(contenders, "ops", workload.threads, folder, say) as field:
            for number, (layer, count) in enumerate(found, 1):
                say(f"layer {number} of {len(found)}: {layer}", fleeting=True)
                for direction in PASSES[layer.op]:
                    present = replace(layer, direction=direction)
                    work = replace(workload, folder=name, layer=present.as_dict())
                    judge.ask("open", module="minires.bench.judge", kind="ops", variant="", workload=work.as_dict())
                    with np.load(work.path("reference.npz")) as file:
                        expected = dict(file)
                    yield present, count, field.measure(work, expected, rounds)


def cells(layer: Layer, count: int, results: Sequence[Result], batch: int) -> list[str]:
    """One row of the table: layer, how often, pass, then for each contender `time, GFLOP/s (or GB/s), error`."""
    work, _ = layer.work(batch)
    row = [str(layer), str(count), layer.direction]
    for result in results:
        if result.timing is None:
            row.append(result.state)
            continue
        rate = work / result.timing.median / 1e9
        row.append(f"{format_seconds(result.timing.median)}  {rate:,.0f} G/s  {format_error(result.error)}")
    peers = [r.ratio for r in results[1:] if r.timing is not None]
    return [*row, format_ratio(min(peers)) if peers else ""]


def totals(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """For each op and pass, the seconds that all of a network's layers take together, by contender; layers that a
    contender did not do leave it out.
    """
    sums: dict[str, dict[str, Any]] = {}
    for layer, count, results in rows:
        line = sums.setdefault(f"{layer.op} {layer.direction}", {r.name: 0.0 for r in results})
        for result in results:
            if result.timing is None or line[result.name] is None:
                line[result.name] = None
            else:
                line[result.name] += count * result.timing.median
    return sums
