"""What a training step will do with memory, written down before it is spent.

The step runs with two and with three images, every operation's memory is noted, and each note is continued along a straight
line: the bytes that an operation takes are a number (of its weights) plus a number an image. What is not a straight line, the
choice of algorithm, the kernel set answers for the batch that is meant: its kernels *rehearse*, they go through all that
concerns memory and compute nothing (kernels/cpu/rehearsal.py). The reference set has no such choices; there the steps are real.

Two kinds of memory are watched:

    plain arrays     NumPy tells tracemalloc of each; what was there at most is known for every operation
    pooled buffers   the kernel set's, by name of the pool they return to: they are replayed at the size that is meant, in
                     an empty pool with the same rules, for a pool that keeps what dies holds more than what lives

The step is that of a training loop: forward, loss, backward; the optimiser updates in place and adds its state alone.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import minires
from minires.autograd import set_detect_anomaly
from minires.backend import current_kernels, use_kernels_here
from minires.errors import ArgumentError
from minires.kernels.private import PrivateArray
from minires.nn import Module
from minires.nn import functional as F
from minires.tensor import Tensor
from minires.train.layers import LayerLog, LayerRow, listening

__all__ = ["END", "Kept", "Loss", "Mark", "Sample", "rehearse_step", "sample_sizes"]

Loss = Callable[[Any], Any]
END = -1  # the row of the last mark, when all is done


@dataclass(frozen=True)
class Mark:
    """What was seen at the end of an operation.

    Attributes:
        row: the layer it belongs to, or END.
        phase: "forward" or "backward".
        plain: bytes of plain arrays that are there now, beyond what was before the step; `plain_peak`: most since the mark before.
        events: how many events of pooled buffers there were so far.
        gradients: bytes of parameters' gradients.
    """

    row: int
    phase: str
    plain: int
    plain_peak: int
    events: int
    gradients: int


@dataclass(frozen=True)
class Kept:
    """An array that the graph keeps for backward.

    Attributes:
        size: bytes.
        row: the layer that was the first to keep it.
        begin, end: it is kept during the marks begin, ..., end - 1.
        plain: whether it is a plain array, and not the kernel set's own.
    """

    size: int
    row: int
    begin: int
    end: int
    plain: bool


@dataclass(frozen=True)
class Sample:
    """One step with few images.

    Attributes:
        images: how many.
        rows: the layers.
        marks: in the order of the run.
        events: of pooled buffers, each (number of the buffer, key or None, bytes; 0: it goes).
        kept: what the graph keeps for backward, each memory once.
        new_pool: makes an empty pool with the kernel set's rules, or None.
    """

    images: int
    rows: list[LayerRow]
    marks: list[Mark]
    events: list[tuple[int, Any, int]]
    kept: list[Kept]
    new_pool: Callable[[], Any] | None


def sample_sizes(batch: int) -> tuple[int, ...]:
    """With how many images to rehearse. Not one: batch norm may need two values a channel."""
    return (2, 3) if batch > 3 else (batch,)


class _Recorder:
    """A listener at the gate, behind a LayerLog."""

    def __init__(self, model: Module, log: LayerLog, events: Sequence[Any]) -> None:
        self.log, self.events = log, events
        self.marks: list[tuple[int, str, int, int, int, int]] = []
        self.nodes: list[tuple[Any, int]] = []
        self.visited: dict[int, int] = {}  # by position in `nodes`, the number of marks when its backward was done
        self.parameters = list(model.parameters())
        self.known = {id(_owner(t.raw)) for t in (*self.parameters, *model.buffers())}
        self.before = 0

    def begin(self) -> None:
        tracemalloc.reset_peak()
        self.before = tracemalloc.get_traced_memory()[0]

    def mark(self, row: int, phase: str) -> None:
        now, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        grads = 0
        if phase == "backward":
            grads = sum(p.grad.raw.nbytes for p in self.parameters if p.grad is not None)
        self.marks.append((row, phase, now - self.before, peak - self.before, len(self.events), grads))

    def applied(self, op: Any, args: tuple[Any, ...], options: dict[str, Any], outputs: Any) -> None:
        if self.log.deaf:
            return
        self.mark(self.log.row, "forward")
        node = next((t.grad_fn for t in outputs if t.grad_fn is not None and t.grad_fn.op is op), None)
        if node is not None:
            position = len(self.nodes)
            self.nodes.append((node, self.log.row))
            node.run_backward = lambda grads: self._visit(position, grads)

    def written(self, target: Any, value: Any) -> None:
        pass

    def _visit(self, position: int, grads: list[Any]) -> tuple[Any, ...]:
        node, row = self.nodes[position]
        del node.run_backward  # the lambda: from here on the node's own
        results = node.run_backward(grads)
        self.mark(row, "backward")
        self.visited[position] = len(self.marks)
        return tuple(results)

    def kept(self) -> list[tuple[Kept, list[int]]]:
        """What the graph keeps, with the positions of all nodes that do: its `end` is not known yet."""
        first: dict[int, int] = {}
        for k, mark in enumerate(self.marks):
            first.setdefault(mark[0], k)
        found: dict[int, tuple[Kept, list[int]]] = {}
        for position, (node, row) in enumerate(self.nodes):
            for array in _saved_arrays(node):
                owner = _owner(array)
                if id(owner) not in self.known:
                    here = Kept(int(owner.nbytes), row, first[row], 0, isinstance(owner, np.ndarray))
                    found.setdefault(id(owner), (here, []))[1].append(position)
        return list(found.values())


def _owner(array: Any) -> Any:
    """Whose memory an array looks at."""
    while isinstance(array, np.ndarray) and isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _saved_arrays(node: Any) -> Iterator[Any]:
    """What a node keeps by `save_for_backward`, and arrays that its forward left in attributes of ctx."""
    for saved in node.saved or ():
        if saved is not None and saved.array is not None:
            yield saved.array
    for name, value in vars(node).items():
        if name not in ("saved", "_to_save"):
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, (np.ndarray, PrivateArray)):
                    yield item


def rehearse_step(
    model: Module,
    image_shape: Sequence[int],
    batch: int,
    *,
    loss: Loss | None = None,
    frozen: Sequence[Module] = (),
    dtype: Any = np.float32,
) -> list[Sample]:
    """Steps with few images, as a step with `batch` would do them. The model is left as it was: weights, gradients,
    running statistics, modes, and the state of the random numbers.

    Args:
        model: any module of one tensor; it runs in training mode.
        image_shape: (C, H, W) of one image.
        batch: images in the step that is meant.
        loss: of the model's output; default: cross-entropy of class 0, or the mean where the output is not (N, classes).
        frozen: modules that stay in evaluation mode.

    Returns:
        One sample, of `batch` images, or two to draw a line through.

    Raises:
        ArgumentError: batch below 1.
    """
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise ArgumentError(f"rehearse_step: batch must be an integer >= 1, got {batch!r}")
    kernels = current_kernels()
    kernels = getattr(kernels, "kernels", kernels)  # MINIRES_CHECK: a rehearsal has no numbers to check
    rehearse = getattr(kernels, "rehearse", None)
    samples = []
    with left_alone(model, frozen), use_kernels_here(kernels), set_detect_anomaly(False):
        for number, images in enumerate(sample_sizes(batch)):
            x = Tensor(np.zeros((images, *image_shape), dtype))
            # Once before it counts: imports and tables that are made once are no part of a step.
            for counted in (False, True):
                if counted or rehearse is not None or number == 0:
                    with nullcontext() if rehearse is None else rehearse(images, batch) as rehearsal:
                        sample = _step(model, x, loss or usual_loss, rehearsal)
                    for parameter in model.parameters():
                        parameter.grad = None
            samples.append(sample)
    return samples


def _step(model: Module, x: Tensor, loss: Loss, rehearsal: Any) -> Sample:
    """One step with everything noted."""
    events = [] if rehearsal is None else rehearsal.events
    log = LayerLog(model)
    recorder = _Recorder(model, log, events)
    first_event = len(events)
    gc.collect()
    gc.disable()  # what dies shall die where the loop lets go of it, as it nearly always does
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        recorder.begin()
        with listening(log, recorder):
            value = loss(model(x))
            kept = recorder.kept()
            log.deaf = True
            value.backward()
        recorder.mark(END, "backward")
        del value
    finally:
        if not tracing:
            tracemalloc.stop()
        gc.enable()
    # Until the last backward that wants it is done; what no backward asks for lives as long as the graph.
    held = [
        replace(one, end=max(recorder.visited.get(p, len(recorder.marks)) for p in positions))
        for one, positions in kept
    ]
    marks = [Mark(*mark) for mark in recorder.marks]
    plain_events = [(event.buffer, event.key, event.size) for event in events[first_event:]]
    new_pool = None if rehearsal is None else rehearsal.new_pool
    return Sample(len(x), log.rows, marks, plain_events, held, new_pool)


def usual_loss(output: Any) -> Any:
    if output.ndim == 2:
        return F.cross_entropy(output, Tensor(np.zeros(output.shape[0], np.int64)))
    return output.mean()


@contextmanager
def left_alone(model: Module, frozen: Sequence[Module]) -> Iterator[None]:
    """Inside, the model is in training mode and without gradients; behind, it is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer.array, buffer.array.copy()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    drawn = minires.random.get_rng_state()
    with ExitStack() as stack:
        stack.callback(minires.random.set_rng_state, drawn)
        for parameter, gradient in gradients:
            stack.callback(setattr, parameter, "grad", gradient)
            parameter.grad = None
        for array, before in buffers:
            stack.callback(np.copyto, array, before)
        for module, mode in modes:
            stack.callback(setattr, module, "training", mode)
        model.train()
        for module in frozen:
            module.eval()
        yield
