"""`plan = minires.compile(model, input_shape)`, then `plan(array) -> array`: a model made ready to run.

    trace -> convert -> simplify -> check -> lower (a kernel set's, or the reference executor)

At run time there are no tensors, no graph of derivatives and no modules: a list of steps, and memory that was planned before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from minires import backend
from minires.errors import ArgumentError, DTypeError, ShapeError, UnsupportedError
from minires.infer import cost
from minires.infer.check import check_graph
from minires.infer.convert import convert, same
from minires.infer.executor import ReferenceExecutor
from minires.infer.rewrite import simplify
from minires.infer.table import format_plan
from minires.infer.trace import EAGER, trace
from minires.kernels.graph import Executor, Graph
from minires.nn import Module

KEPT = 4  # executors, one a batch size: a server meets few sizes, and each holds its buffers


class Plan:
    """A compiled model. `compile` and `load_plan` make it.

    Call it with a NumPy array (n, ...) of the dtype it was compiled for; n is free. Buffers are planned for each n at its
    first call and kept for the last KEPT sizes; weights are shared by all where the kernel set shares them. The result is
    an array of its own. Several threads may call one plan: they take turns.

    Attributes:
        graph: the steps (see minires.kernels.graph), for the batch that was given to `compile`.
        kernels: the kernel set it runs on.
        times: seconds of each step, from the last `profile`; None before.
        times_batch: how many images it had.
    """

    def __init__(self, graph: Graph, kernels: Any) -> None:
        check_graph(graph)
        self.graph = graph
        self.kernels = kernels
        self.times: list[float] | None = None
        self.times_batch = 0
        self._executors: dict[int, Executor] = {}
        self._lock = threading.Lock()

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The model's output for `array`.

        Args:
            array: (n, ...) as `input_shape` says behind the batch; not written to.

        Returns:
            (n, ...) of the same dtype, an array of its own.

        Raises:
            ShapeError, DTypeError: the array is not what the plan was made for.
        """
        self._check(array)
        if len(array) == 0:
            return np.empty((0, *self.output_shape[1:]), self.graph.dtype)
        with self._lock:
            return self._executor(len(array)).run(np.ascontiguousarray(array))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """As it was given to `compile`."""
        return self.graph.shapes[self.graph.input]

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.graph.shapes[self.graph.output]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers, for a batch of input_shape[0]."""
        return sum(cost.macs(step, self.graph) for step in self.graph.steps)

    @property
    def weight_bytes(self) -> int:
        return sum(cost.constant_bytes(step) for step in self.graph.steps)

    @property
    def buffer_bytes(self) -> int:
        """Memory for values and workspace, for a batch of input_shape[0]."""
        with self._lock:
            return self._executor(self.graph.batch).buffer_bytes

    @property
    def bytes(self) -> int:
        """Weights and buffers, for a batch of input_shape[0]."""
        return self.weight_bytes + self.buffer_bytes

    @property
    def notes(self) -> Sequence[str]:
        """How each step runs, in the kernel set's words."""
        with self._lock:
            return self._executor(self.graph.batch).notes

    def profile(self, array: np.ndarray, repeats: int = 5) -> list[float]:
        """Seconds of each step, the least of `repeats` runs after one to warm up; printed with the plan from then on.

        Raises:
            ArgumentError: repeats below 1, or an empty batch.
            ShapeError, DTypeError: as a call.
        """
        self._check(array)
        if repeats < 1 or len(array) == 0:
            raise ArgumentError(f"profile: repeats and the batch must be at least 1, got {repeats} and {len(array)}")
        x = np.ascontiguousarray(array)
        with self._lock:
            executor = self._executor(len(x))
            executor.run(x)
            runs = [executor.profile(x) for _ in range(repeats)]
        self.times, self.times_batch = [min(times) for times in zip(*runs, strict=True)], len(x)
        return self.times

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to one safetensors file: weights as tensors, steps in its metadata. See `load_plan`."""
        from minires.infer.saved import save_plan

        save_plan(self.graph, path)

    def __str__(self) -> str:
        return format_plan(self)

    def __repr__(self) -> str:
        name = self.kernels.__name__.rpartition(".")[2]
        return f"<Plan of {len(self.graph.steps)} steps, {self.input_shape} -> {self.output_shape}, on {name} kernels>"

    def _check(self, array: Any) -> None:
        if not isinstance(array, np.ndarray):
            raise DTypeError(f"plan: expected a NumPy array, got {type(array).__name__}; of a tensor, give .numpy()")
        if array.dtype != self.graph.dtype:
            raise DTypeError(
                f"plan: expected dtype {self.graph.dtype}, got {array.dtype}; convert with .astype({str(self.graph.dtype)!r}), "
                "or compile a model of that dtype"
            )
        if array.ndim != len(self.input_shape) or array.shape[1:] != self.input_shape[1:]:
            sizes = ", ".join(map(str, self.input_shape[1:]))
            raise ShapeError(
                f"plan: expected shape (n, {sizes}), as it was compiled, got {array.shape}; compile again for other sizes"
            )

    def _executor(self, n: int) -> Executor:
        """The executor for n images, made at the first call with n; the lock is held."""
        executor = self._executors.pop(n, None)
        if executor is None:
            previous = next(reversed(self._executors.values()), None)
            graph = self.graph if n == self.graph.batch else self.graph.with_batch(n)
            lower = getattr(self.kernels, "lower", None)
            executor = None if lower is None else lower(graph, previous)
            if executor is None:  # a set without a lowering, or without one for this dtype
                executor = ReferenceExecutor(graph, self.kernels)
        self._executors[n] = executor  # at the end: the one used last
        while len(self._executors) > KEPT:
            del self._executors[next(iter(self._executors))]
        return executor


def compile(model: Module, input_shape: Sequence[int], *, kernels: str | None = None) -> Plan:
    """Make a model ready to run without tensors.

    The model is run twice, in evaluation mode, on one and on two images of which nothing is known but their shape, and must
    do the same on both: what it does must depend neither on the numbers in its input nor on the batch size. Weights are
    copied: the model may train on.

    Args:
        model: any module from one tensor to one tensor, made of the operations in minires/infer/rules.py.
        input_shape: (N, C, H, W), or another shape with the batch in front. N is only the size that `print(plan)` and the
            byte counts speak of; the plan runs any.
        kernels: the kernel set by name ("reference", "cpu"); None takes the one in use.

    Returns:
        A Plan: plan(array) -> array.

    Raises:
        UnsupportedError: the model does something that has no step, or that a plan cannot repeat; names it.
        ArgumentError: a bad input_shape, a model of several or of other dtypes than float32 and float64.
    """
    shape = tuple(input_shape)
    if not shape or not all(isinstance(size, (int, np.integer)) and size >= 1 for size in shape):
        raise ArgumentError(f"compile: input_shape must be (N, ...), positive integers, got {input_shape!r}")
    shape = tuple(int(size) for size in shape)
    dtype = _dtype(model)
    graphs = [convert(trace(model, (images, *shape[1:]), dtype, seed=images)) for images in (1, 2)]
    if not same(*graphs):
        raise UnsupportedError(
            "compile: two runs of the model did not do the same; what it does depends on the numbers in its input, on the "
            f"batch size, or on chance; {EAGER}"
        )
    graph = simplify(graphs[0])
    return Plan(
        graph.with_batch(shape[0]), backend.current_kernels() if kernels is None else backend.kernel_set(kernels)
    )


def load_plan(path: str | os.PathLike[str], *, kernels: str | None = None) -> Plan:
    """Read a plan that `Plan.save` wrote; the model's code is not needed, and nothing of the file is run to read it.

    Args:
        path: a safetensors file; or an ONNX file, which `minires.load_onnx` reads.
        kernels: as for `compile`; a plan may be made on one set and run on another.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file holds no plan, or one that does not fit together; says what is wrong.
    """
    from minires.infer.saved import read_plan
    from minires.io.sniff import is_onnx

    if os.path.isfile(path):
        with open(path, "rb") as file:
            head = file.read(16)
        if is_onnx(head) and head[8:9] != b"{":  # where safetensors' header begins
            from minires.infer.onnx.load import load_onnx

            return load_onnx(path, kernels=kernels)
    return Plan(read_plan(path), backend.current_kernels() if kernels is None else backend.kernel_set(kernels))


def _dtype(model: Module) -> np.dtype[Any]:
    """float32 or float64: that of the parameters, or float32 without any."""
    found = {parameter.array.dtype for parameter in model.parameters()} or {np.dtype(np.float32)}
    if len(found) > 1 or next(iter(found)) not in (np.dtype(np.float32), np.dtype(np.float64)):
        names = ", ".join(sorted(map(str, found)))
        raise ArgumentError(f"compile: the model's parameters must all be float32 or all float64, got {names}")
    return next(iter(found))
