"""What a model is made of, layer by layer: shapes, parameters, multiply-accumulates, memory and time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.autograd import no_grad
from minires.backend import use_kernels_here
from minires.infer.shapes import ShapeKernels
from minires.nn import Module
from minires.tensor import Tensor
from minires.train.forecast import StepForecast
from minires.train.layers import LayerLog, LayerRow, listening
from minires.train.rehearsal import Loss, left_alone, usual_loss

__all__ = ["LayerRow", "LayerTime", "TrainingRow", "summarize", "summarize_training", "time_layers"]


@dataclass(frozen=True)
class TrainingRow:
    """A layer and what training asks of it.

    Attributes:
        layer: name, kind, output shape, parameters; its `macs` are those of one image.
        saved: bytes that this layer is the first to keep for backward. An array that several layers keep counts once.
        workspace: bytes of scratch memory, at most, forward or backward: what comes and goes within one operation.
    """

    layer: LayerRow
    saved: int
    workspace: int


@dataclass(frozen=True)
class LayerTime:
    """Seconds of a layer in one step; `backward` is 0 where there was none."""

    forward: float
    backward: float


def summarize(model: Module, input_shape: tuple[int, ...]) -> list[LayerRow]:
    """Run shapes, not numbers, through the model once and note every layer.

    Only products with weights are counted as multiply-accumulates (convolutions and linear layers), as is usual in
    papers; 1 MAC = 2 floating-point operations. A module that is used twice has two rows; its parameters count in the
    first. A batch norm and the ReLU behind it run as one operation and have one row.

    Args:
        model: any module that takes one tensor.
        input_shape: (N, C, H, W).

    Returns:
        One row a layer.
    """
    log = LayerLog(model)
    was_training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        kernels = ShapeKernels(0)
        x = Tensor(kernels.unknown(tuple(input_shape), np.float32))
        with no_grad(), use_kernels_here(kernels), listening(log):
            model(x)
    finally:
        for module, mode in was_training:
            module.training = mode
    return log.rows


def summarize_training(forecast: StepForecast, batch: int | None = None) -> list[TrainingRow]:
    """The layers of a step that was rehearsed, with what they need for `batch` images (default: those of the forecast).

    Returns:
        One row a layer; what no layer called, the loss, is the row "(loss)".
    """
    batch = batch or forecast.batch
    images = forecast.samples[-1].images
    rows = []
    for row, saved, workspace in zip(forecast.rows, forecast.saved(batch), forecast.workspace(batch), strict=True):
        shape = (batch, *row.output_shape[1:]) if row.output_shape[:1] == (images,) else row.output_shape
        layer = LayerRow(row.name, row.kind, shape, row.parameters, row.macs // images)
        rows.append(TrainingRow(layer, saved, workspace))
    return rows


class _Clock:
    """A listener at the gate, behind a LayerLog: what passed since the last operation belongs to the layer of this one."""

    def __init__(self, log: LayerLog) -> None:
        self.log = log
        self.seconds: list[list[float]] = []  # by row: forward, backward
        self.last = time.perf_counter()

    def applied(self, op: Any, args: tuple[Any, ...], options: dict[str, Any], outputs: Any) -> None:
        if self.log.deaf:
            return
        row = self.log.row
        self._add(row, 0)
        for tensor in outputs:
            node = tensor.grad_fn
            if node is not None and node.op is op:
                self._time_backward(node, row)
                break

    def written(self, target: Any, value: Any) -> None:
        pass

    def _time_backward(self, node: Any, row: int) -> None:
        def visit(grads: list[Any]) -> Any:
            del node.run_backward  # this function: from here on the node's own
            results = node.run_backward(grads)
            self._add(row, 1)
            return results

        node.run_backward = visit

    def _add(self, row: int, phase: int) -> None:
        now = time.perf_counter()
        while len(self.seconds) <= row:
            self.seconds.append([0.0, 0.0])
        self.seconds[row][phase] += now - self.last
        self.last = now


def time_layers(
    model: Module,
    image_shape: Sequence[int],
    batch: int,
    *,
    train: bool = True,
    repeats: int = 5,
    loss: Loss | None = None,
) -> list[LayerTime]:
    """Seconds of each layer: medians over real runs on the kernel set in use, behind one that is not counted.

    Args:
        model: any module of one tensor. It is left as it was.
        image_shape: (C, H, W) of one image.
        batch: images at once.
        train: forward and backward of a training step; else a forward pass in evaluation mode, without a graph.
        repeats: how many runs.
        loss: of the model's output; default: cross-entropy.

    Returns:
        One time a row of `summarize_training`, or of `summarize`. They add up to the whole run: what Python does between
        two operations belongs to the second.
    """
    x = Tensor(np.zeros((batch, *image_shape), np.float32))
    found: list[list[list[float]]] = []
    with left_alone(model, ()):
        if not train:
            model.eval()
        for _ in range(1 + repeats):
            log = LayerLog(model)
            clock = _Clock(log)
            with listening(log, clock):
                clock.last = time.perf_counter()
                if train:
                    value = (loss or usual_loss)(model(x))
                    log.deaf = True
                    value.backward()
                    del value
                else:
                    with no_grad():
                        model(x)
            for parameter in model.parameters():
                parameter.grad = None
            clock.seconds += [[0.0, 0.0] for _ in range(len(log.rows) - len(clock.seconds))]
            found.append(clock.seconds)
    times = []
    for runs in zip(*found[1:], strict=True):
        forward, backward = (statistics.median(run[phase] for run in runs) for phase in (0, 1))
        times.append(LayerTime(forward, backward))
    return times
