"""Inference: a graph of steps (kernels/graph.py) as one program for all cores.

Weights are packed or transformed once, values live in blocked buffers that are shared by those whose lives do not meet, and a
run is one call from Python for every stretch of steps that this set has tasks for. The few kinds that need no speed are
computed by the reference, between two stretches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from minires.kernels import reference
from minires.kernels.cpu import conv_direct, conv_stem, conv_winograd
from minires.kernels.cpu.choose import choose_algorithm
from minires.kernels.cpu.elementwise import coefficients_for, scale_shift_step
from minires.kernels.cpu.layout import BLOCK, PIXEL, Blocked, step_block, step_unblock
from minires.kernels.cpu.memory import aligned
from minires.kernels.cpu.pool import pool_steps
from minires.kernels.cpu.product import Place, Step, Tables, product_step, tiled
from minires.kernels.cpu.tasks import Program
from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, Pool2dGeometry
from minires.kernels.graph import Executor, Graph
from minires.kernels.graph import Step as GraphStep
from minires.kernels.steps import compute


def lower(graph: Graph, previous: Executor | None = None) -> Executor | None:
    """An executor for `graph`; None for float64, which the reference serves. See kernels/graph.py."""
    if graph.dtype != np.float32:
        return None
    return CpuExecutor(graph, previous.constants if isinstance(previous, CpuExecutor) else {})


class CpuExecutor:
    """See minires.kernels.graph.Executor.

    Each value has up to two forms, blocked and plain; a step asks for the form it wants and a conversion is inserted where
    that form is not there yet.

    Attributes:
        constants: packed weights by (position of the step, name), to be shared with executors of other batch sizes.
    """

    def __init__(self, graph: Graph, constants: dict[tuple[int, str], Any], profiled: bool = False) -> None:
        self.graph = graph
        self.profiled = profiled  # every step of the graph ends its stretch, so that it can be timed
        self.constants = constants
        self.notes: Sequence[str] = []
        self.buffer_bytes = 0
        self._inlets: list[np.ndarray] = []  # frames whose first word is the address of the input
        self._calls: list[Callable[[], None]] = []  # what a run does, in order
        self._ends: list[int] = []  # for each step of the graph, how many calls belong to it and those before
        self._program: Program | None = None  # the stretch under construction
        self._blocked: dict[int, Blocked] = {}
        self._plain: dict[int, np.ndarray] = {}
        self._free: dict[Any, list[Any]] = {}
        self._kept: list[Any] = []
        self._scratch = np.zeros(0, np.float32)
        self._x = np.zeros(0, np.float32)
        self._build()

    # --- building ----------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        graph = self.graph
        readers = graph.readers()
        last = {value: max(positions, default=-1) for value, positions in readers.items()}
        last[graph.output] = len(graph.steps)
        self._scratch = aligned(max([0, *(self._scratch_bytes(step) for step in graph.steps)]) // 4)
        self.buffer_bytes += self._scratch.nbytes
        notes: list[str] = []
        for position, step in enumerate(graph.steps):
            notes.append(self._lower(position, step))
            for value in {*step.inputs, step.output}:
                if last[value] <= position and value != graph.input:
                    self._release(value)
            if self.profiled:
                self._program = None
            self._ends.append(len(self._calls))
        self.notes = notes
        self.plain(graph.output)
        if self._ends:  # turning the output around, where it is an image, counts with the last step
            self._ends[-1] = len(self._calls)

    def _lower(self, position: int, step: GraphStep) -> str:
        match step.kind:
            case "conv2d":
                return self._conv2d(position, step)
            case "linear":
                return self._linear(position, step)
            case "max_pool2d" if isinstance(step.attributes["geometry"], Pool2dGeometry):
                return self._pool(step)
            case "avg_pool2d" | "adaptive_avg_pool2d":
                return self._pool(step)
            case "add" | "relu" | "scale_shift" if self._is_image(step.output):
                return self._elementwise(position, step)
            case "reshape" if step.inputs[0] in self._plain or self.graph.shapes[step.inputs[0]][2:] == (1, 1):
                source = self.plain(step.inputs[0])
                self._plain[step.output] = source.reshape(self.graph.shapes[step.output])
                return "view"
        return self._fallback(step)

    def add(self, *steps: Step) -> None:
        """Append tasks to the stretch."""
        for step in steps:
            if self._program is None:
                self._program = Program()
                self._calls.append(self._program.run)
            self._program.add(step.task, step.pieces, step.frame, step.kept)

    def call(self, function: Callable[[], None]) -> None:
        """End the stretch with a call into Python."""
        self._program = None
        self._calls.append(function)

    def _scratch_bytes(self, step: GraphStep) -> int:
        if step.kind != "conv2d":
            return 0
        g = step.attributes["geometry"]
        algorithm = self._algorithm(g)
        return conv_winograd.scratch_bytes(g, algorithm) if algorithm else 0

    def _algorithm(self, g: Conv2dGeometry) -> int:
        """Width of the Winograd tile, 0 for the direct form."""
        return choose_algorithm(g, g.n, "inference").m

    # --- values ------------------------------------------------------------------------------------------------------

    def new_blocked(self, value: int) -> Blocked:
        """A buffer for a value: of a dead one of the same shape, or new."""
        shape = self.graph.shapes[value]
        waiting = self._free.get(shape)
        if waiting:
            self._blocked[value] = waiting.pop()
        else:
            self._blocked[value] = Blocked(shape)
            self.buffer_bytes += self._blocked[value].data.nbytes
        return self._blocked[value]

    def new_plain(self, value: int) -> np.ndarray:
        """Plain memory for a value; it is small wherever speed matters."""
        shape = self.graph.shapes[value]
        self._plain[value] = aligned(prod(shape)).reshape(shape)
        self.buffer_bytes += self._plain[value].nbytes
        return self._plain[value]

    def _release(self, value: int) -> None:
        buffer = self._blocked.pop(value, None)
        if buffer is not None:
            self._free.setdefault(buffer.shape, []).append(buffer)

    def blocked(self, value: int) -> Blocked:
        """A value in its blocked form."""
        if value not in self._blocked:
            is_input = value == self.graph.input
            plain = None if is_input else self._plain[value]
            target = self.new_blocked(value)
            step = step_block(target, 0 if plain is None else plain.ctypes.data)
            if is_input:
                self._inlets.append(step.frame)
            self.add(Step(step.task, step.pieces, step.frame, (*step.kept, plain)))
        return self._blocked[value]

    def plain(self, value: int) -> np.ndarray:
        """A value in its plain form. The input's is copied: only kinds that need no speed ask for it."""
        if value not in self._plain:
            if value == self.graph.input:
                target = self.new_plain(value)
                self.call(lambda: np.copyto(target, self._x))
            else:
                source = self._blocked[value]
                self.add(step_unblock(source, self.new_plain(value)))
        return self._plain[value]

    # --- steps -------------------------------------------------------------------------------------------------------

    def constant(self, position: int, name: str, make: Callable[[], Any]) -> Any:
        """Something made of a step's weights, once for all batch sizes."""
        key = (position, name)
        if key not in self.constants:
            self.constants[key] = make()
        return self.constants[key]

    def _conv2d(self, position: int, step: GraphStep) -> str:
        g: Conv2dGeometry = step.attributes["geometry"]
        relu, weight = step.attributes["relu"], step.constants["weight"]
        tile = conv_direct.tile_for(g.c_out)
        bias = self.constant(position, "bias", lambda: conv_direct.pack_bias(step.constants.get("bias"), g.c_out, tile))
        residual = self.blocked(step.inputs[1]) if len(step.inputs) == 2 else None
        if step.inputs[0] == self.graph.input and conv_stem.suits(g):
            rows = conv_stem.Rows(g)
            self.buffer_bytes += g.n * rows.image_bytes
            fill = rows.step_fill(0)
            self._inlets.append(fill.frame)
            packed = self.constant(position, "stem", lambda: conv_stem.pack_stem(weight, tile))
            y = self.new_blocked(step.output)
            self.add(fill, conv_stem.step_forward(rows, packed, bias, y, g, residual, relu))
            return "direct, stem"
        x = self.blocked(step.inputs[0])
        halo = conv_direct.needed_halo(g)
        m = self._algorithm(g)
        if m:
            u = self.constant(position, f"winograd{m}", lambda: conv_winograd.transform_weights(weight, m))
            y = self.new_blocked(step.output)
            self.add(*conv_winograd.steps_forward(x, u, bias, y, residual, relu, g, m, self._scratch))
            return f"winograd F({m}x{m})"
        if halo > x.halo:
            wider = Blocked(x.shape, halo)
            self.buffer_bytes += wider.data.nbytes
            self.add(x.step_copy(wider))
            x = wider
        taps = conv_direct.positions(g)
        packed = self.constant(position, "direct", lambda: conv_direct.pack(weight, g.groups, tile, taps))
        y = self.new_blocked(step.output)
        self.add(conv_direct.step_forward(x, packed, bias, y, g, residual, relu))
        return "direct"

    def _linear(self, position: int, step: GraphStep) -> str:
        """A gathered product whose pixels are the rows of x: one tap, as long as a row."""
        weight = step.constants["weight"]
        c_out, c_in = weight.shape
        n = self.graph.batch
        tile = conv_direct.tile_for(c_out)
        shape = (c_out, c_in, 1, 1)
        packed = self.constant(position, "linear", lambda: conv_stem.pack_stem(weight.reshape(shape), tile))
        bias = self.constant(position, "bias", lambda: conv_direct.pack_bias(step.constants.get("bias"), c_out, tile))
        x = self.plain(step.inputs[0])
        panels = len(bias) // (tile.vectors * BLOCK)
        padded = aligned(n * len(bias)).reshape(n, -1)  # the micro-kernel writes whole panels
        self.buffer_bytes += padded.nbytes
        tables = Tables(
            tiled(np.arange(n) * 4 * c_in, tile),
            tiled(np.arange(n) * padded.strides[0], tile),
            np.zeros(1, np.int64),
            np.zeros(panels, np.int64),
        )
        place = Place(padded.ctypes.data, 0, PIXEL, padded)
        work = product_step(x.ctypes.data, 0, 1, c_in, packed, bias, place, tile, tables, None, step.attributes["relu"])
        self.add(Step(work.task, work.pieces, work.frame, (*work.kept, x)))
        if len(bias) == c_out:
            self._plain[step.output] = padded
        else:
            y = self.new_plain(step.output)
            self.call(lambda: np.copyto(y, padded[:, :c_out]))
        return "product"

    def _is_image(self, value: int) -> bool:
        return len(self.graph.shapes[value]) == 4

    def _pool(self, step: GraphStep) -> str:
        g = step.attributes["geometry"]
        x = self.blocked(step.inputs[0])
        if isinstance(g, AdaptivePool2dGeometry) and g.h_out == g.w_out == 1 and step.kind == "adaptive_avg_pool2d":
            means = Blocked(g.y_shape, halo=0)  # (n, blocks, 1, 1, 16) is (n, channels), and whole blocks of them
            self.add(*pool_steps(step.kind, x, means, g))
            rows = means.data.reshape(g.n, -1)
            if rows.shape[1] == g.c:
                self._plain[step.output] = rows.reshape(g.y_shape)
            else:
                y = self.new_plain(step.output)
                self.call(lambda: np.copyto(y.reshape(g.n, g.c), rows[:, : g.c]))
            self._kept.append(means)
        else:
            self.add(*pool_steps(step.kind, x, self.new_blocked(step.output), g))
        return "one pass"

    def _elementwise(self, position: int, step: GraphStep) -> str:
        """y = max(x * scale + shift [+ other], floor): all three kinds."""
        x = self.blocked(step.inputs[0])
        other = self.blocked(step.inputs[1]) if step.kind == "add" else None
        channels = x.shape[1]

        def coefficients() -> np.ndarray:
            table = coefficients_for(channels, 3)  # centre, scale, shift
            flat = table.transpose(1, 0, 2).reshape(3, -1)
            flat[1, :channels] = step.constants.get("scale", 1.0)
            flat[2, :channels] = step.constants.get("shift", 0.0)
            table[...] = flat.reshape(3, -1, BLOCK).transpose(1, 0, 2)
            return table

        table = self.constant(position, "coefficients", coefficients)
        relu = step.kind == "relu" or step.attributes["relu"]
        self.add(scale_shift_step(x, self.new_blocked(step.output), table, relu, other))
        return "one pass"

    def _fallback(self, step: GraphStep) -> str:
        inputs = [self.plain(value) for value in step.inputs]
        y = self.new_plain(step.output)
        self.call(lambda: np.copyto(y, compute(reference, step, inputs)))
        return "reference"

    # --- running -----------------------------------------------------------------------------------------------------

    def _enter(self, x: np.ndarray) -> None:
        self._x = x
        for frame in self._inlets:
            frame[0] = x.ctypes.data

    def run(self, x: np.ndarray) -> np.ndarray:
        """The output for `x`; see Executor.run."""
        self._enter(x)
        with np.errstate(all="ignore"):  # the reference's steps follow IEEE 754 in silence, as ours do
            for call in self._calls:
                call()
        return self._plain[self.graph.output].copy()

    def profile(self, x: np.ndarray) -> list[float]:
        """Seconds of each step; see Executor.profile."""
        if not self.profiled:
            return CpuExecutor(self.graph, self.constants, profiled=True).profile(x)
        self.run(x)  # compiles, and warms the caches as a run does
        seconds = []
        begin = 0
        with np.errstate(all="ignore"):
            for end in self._ends:
                start = time.perf_counter()
                for call in self._calls[begin:end]:
                    call()
                seconds.append(time.perf_counter() - start)
                begin = end
        return seconds
