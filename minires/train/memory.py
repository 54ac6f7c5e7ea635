"""How much memory training takes, told before it is spent.

    estimate = predict_training_memory(model, (3, 224, 224), batch=32)
    print(estimate)

The peak of a step is seldom the sum of what is kept for backward. It is reached at one operation, mostly early in the backward
pass, when all kept values are still there and gradients of activations come on top. So the step is replayed, operation by
operation, with the bytes of the batch that is meant (see minires.train.forecast), and the highest moment is taken apart:

    baseline          the interpreter, libraries, data: what the process takes now, but for the weights
    weights           parameters and buffers
    gradients         of parameters, as far as they are there at that moment
    optimizer_state   momentum and the like: there from the second step on
    input             the batch, and those that the loader prepares meanwhile
    saved             what the graph keeps for backward, at most
    workspace         the rest: gradients of activations, kernels' scratch memory, buffers that wait in the kernel set's pool
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.distributed.group import alone
from minires.errors import ArgumentError, MiniresError
from minires.nn import Module
from minires.optim import Optimizer
from minires.train.forecast import HEAP_SPARE, StepForecast
from minires.train.rehearsal import END, Loss

if TYPE_CHECKING:
    from minires.train.setup import Parts

__all__ = [
    "MemoryEstimate",
    "available_memory",
    "memory_line",
    "predict_training_memory",
    "size_text",
]

# Numbers that an optimiser keeps for each that it trains.
STATE = {"sgd": 1, "adam": 2, "adamw": 2}


@dataclass(frozen=True)
class MemoryEstimate:
    """The peak of training and its parts, in bytes; see the head of this file.

    Attributes:
        batch: images in a step.
        where: at which operation the peak is.
    """

    batch: int
    where: str
    baseline: int
    weights: int
    gradients: int
    optimizer_state: int
    input: int
    saved: int
    workspace: int

    @property
    def total(self) -> int:
        """What the process takes at its peak."""
        return self.baseline + self.growth

    @property
    def growth(self) -> int:
        """The same without what is there already: interpreter, libraries, data."""
        return sum(getattr(self, name) for name in PARTS if name != "baseline")

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**asdict(self), "total": self.total}

    def __str__(self) -> str:
        rows = [(name.replace("_", " "), getattr(self, name)) for name in PARTS]
        lines = [f"  {name:<16} {size_text(size):>10}" for name, size in [*rows, ("total", self.total)]]
        return "\n".join([f"peak memory of training, batch {self.batch}, at the {self.where}:", *lines])


PARTS = tuple(field.name for field in fields(MemoryEstimate) if field.type == "int" and field.name != "batch")


def predict_training_memory(
    model: Module,
    input_shape: Sequence[int],
    batch: int,
    optimizer: str | Optimizer = "sgd",
    *,
    loss: Loss | None = None,
    frozen: Sequence[Module] = (),
    batches_ahead: int = 0,
) -> MemoryEstimate:
    """The peak of training with batches of `batch` images.

    Args:
        model: any module of one tensor. It is left as it was.
        input_shape: (C, H, W) of one image.
        batch: images in a step.
        optimizer: "sgd" (with momentum), "adam", "adamw", or an optimiser over the model.
        loss: of the model's output; default: cross-entropy.
        frozen: modules that stay in evaluation mode while the model trains.
        batches_ahead: how many batches the data loader prepares meanwhile.

    Returns:
        The estimate. On the CPU sets it is within a tenth of what is measured then (tests/train/test_memory.py).

    Raises:
        ArgumentError: an unknown optimiser, a batch below 1, or a model that does other things with other batches.
    """
    _check_optimizer(optimizer)
    forecast = StepForecast(model, input_shape, batch, loss, frozen)
    return estimate(forecast, model, input_shape, batch, optimizer, batches_ahead)


def estimate(
    forecast: StepForecast,
    model: Module,
    input_shape: Sequence[int],
    batch: int,
    optimizer: str | Optimizer = "sgd",
    batches_ahead: int = 0,
) -> MemoryEstimate:
    """The estimate for one batch size from a step that was rehearsed for it or for another. See predict_training_memory."""
    _check_optimizer(optimizer)
    weights = sum(tensor.raw.nbytes for tensor in (*model.parameters(), *model.buffers()))
    there = weights + sum(p.grad.raw.nbytes for p in model.parameters() if p.grad is not None)
    if isinstance(optimizer, Optimizer):
        there += sum(t.nbytes for state in optimizer.state.values() for t in _arrays(state))
    image = 4 * math.prod(input_shape) * batch
    moments = forecast.moments(batch)
    heap = round((1 + HEAP_SPARE) * max(moment.small for moment in moments))
    most = heap + max(moment.large + moment.pooled for moment in moments)
    peak = max(moments, key=lambda moment: moment.small + moment.large + moment.pooled)
    # At most, whenever that was: neither heap nor pool has shrunk since. The first layer keeps the images, which count as input.
    saved = max(0, max(moment.saved for moment in moments) - image)
    saved = min(saved, most - peak.mark.gradients)
    where = "end of the backward pass"
    if peak.mark.row != END:
        where = f"{peak.mark.phase} pass of {forecast.rows[peak.mark.row].name}"
    return MemoryEstimate(
        batch=batch,
        where=where,
        baseline=max(0, resident_memory() - there),
        weights=weights,
        gradients=peak.mark.gradients,
        optimizer_state=_state_bytes(model, optimizer),
        input=image * (1 + batches_ahead),
        saved=saved,
        workspace=max(0, most - saved - peak.mark.gradients),
    )


def _check_optimizer(optimizer: str | Optimizer) -> None:
    if isinstance(optimizer, str) and optimizer not in STATE:
        raise ArgumentError(f"predict_training_memory: optimizer must be one of {', '.join(STATE)}, got {optimizer!r}")


def _arrays(state: Any) -> list[np.ndarray]:
    return [value.array for value in state.values() if hasattr(value, "array")] if isinstance(state, dict) else []


def _state_bytes(model: Module, optimizer: str | Optimizer) -> int:
    """What the optimiser will keep from its first step on."""
    if isinstance(optimizer, str):
        trained: list[Any] = [p for p in model.parameters() if p.requires_grad]
        return STATE[optimizer] * sum(p.raw.nbytes for p in trained)
    total = 0
    for group in optimizer.param_groups:
        each = int(group["momentum"] != 0) if "momentum" in group else 2
        total += each * sum(p.raw.nbytes for p in group["params"] if p.requires_grad)
    return total


# ------------------------------------------------------------------------------------------------------- the machine


def resident_memory() -> int:
    """Bytes of memory that this process takes now; 0 where Linux's /proc is not."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_memory() -> int | None:
    """Bytes that this process may still take before the machine, or its container, is full; None where nobody says."""
    found = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(int(_lines(limit)[0]) - int(_lines(used)[0]))
        except (ValueError, IndexError):  # no such file, or "max"
            continue
    return max(0, min(found)) if found else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def size_text(size: int) -> str:
    """1.2 GiB, 34 MiB, 512 B."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            amount = size / unit
            return f"{amount:.0f} {name}" if amount >= (10 if name == "GiB" else 100) else f"{amount:.1f} {name}"
    return f"{size} B"


def memory_line(parts: Parts) -> str:
    """What a run tells before it begins: "memory  about 1.2 GiB at the peak", and more where that does not fit.

    Args:
        parts: of the run, whose model is left as it is.

    Returns:
        One line, or "" where nothing can be told of the model.
    """
    with alone():  # the rehearsal is of this process' share, and by itself
        return _memory_line(parts)


def _memory_line(parts: Parts) -> str:
    config, loader = parts.config, parts.loader
    # A step takes its batch in pieces; batch norm sees at least two images.
    batch = max(1, min(config.batch_size, len(loader.dataset)) // loader.ranks // max(1, config.accumulate))
    shape = loader.dataset.image_shape
    ahead = loader.prefetch if loader.workers else 0
    try:
        forecast = StepForecast(parts.model, shape, batch, frozen=parts.frozen)
        told = estimate(forecast, parts.model, shape, batch, parts.optimizer, ahead)
    except MiniresError:
        return ""
    line = f"memory  about {size_text(told.total)} at the peak"
    free = available_memory()
    there = resident_memory()
    if free is None or told.total - there <= free:
        return line
    fits = _largest(
        lambda n: estimate(forecast, parts.model, shape, n, parts.optimizer, ahead).total - there <= free, batch
    )
    advice = f"about {fits} images at once would fit" if fits else "not even one image at once would fit"
    pieces = -(-config.batch_size // fits) if fits else 0
    how = f" (batch_size = {fits}, or accumulate = {pieces})" if fits else ""
    return f"{line}, but {size_text(free)} are free on this machine: {advice}{how}"


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest n of 1, ..., most for which `fits(n)`; 0 if there is none."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
