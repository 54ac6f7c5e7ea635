"""The steps of a graph as text of C: each becomes a loop or a call, with all its sizes written as numbers.

The text speaks of `block`, the memory of all values; of `weight_3` and the like, the constants of step 3; and of functions in
kernels.c. Convolutions that differ in nothing but their constants share one function, so that it is compiled once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from minires.infer.c.order import (
    Program,
    channels_last,
    in_memory,
    is_depthwise,
    joins_taps,
    lanes,
    pack_weight,
    padded_row,
    padding,
)
from minires.infer.c.text import number
from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, Pool2dGeometry
from minires.kernels.graph import Step
from minires.kernels.interface import Array


@dataclass
class Text:
    """Attributes:
    sections: of kernels.c that are called.
    functions: each with its name; behind a comment, but for the static void in front.
    constants: by name; as they lie in C's memory.
    calls: the body of `run`.
    """

    sections: set[str] = field(default_factory=set)
    functions: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)


def write_steps(program: Program) -> Text:
    """All steps of `program`.

    Each is a call of a function that is not inlined: the time to compile grows with the number of steps, not with its square.
    """
    text = Text()
    for position, step in enumerate(program.graph.steps):
        writer = _Writer(program, text, position, step)
        getattr(writer, step.kind)()
        if writer.lines:
            lines = "".join(f"    {line}\n" for line in writer.lines)
            # Two steps may do the very same: the same memory, used again.
            writer.call = text.functions.setdefault(f"(void)\n{{\n{lines}}}", f"step_{position}") + "();"
        y = "x".join(map(str, program.graph.shapes[step.output][1:]))
        text.calls.append(f"{writer.call:<40}/* {_describe(step)} -> {y} */")
    return text


def _describe(step: Step) -> str:
    """`layer1.0.conv1: conv2d +relu`, for a comment: of a name only what cannot end one."""
    name = re.sub(r"[^0-9A-Za-z_. -]", "_", step.name)
    return f"{name}: " * bool(name) + step.kind + " +relu" * step.attributes.get("relu", False)


class _Writer:
    """One step: the method of its kind writes it, as `lines` of a function of its own or as a `call` of a shared one."""

    def __init__(self, program: Program, text: Text, position: int, step: Step) -> None:
        self.program, self.text, self.position, self.step = program, text, position, step
        self.given = step.attributes
        self.dtype = program.graph.dtype
        self.shapes = [program.graph.shapes[value] for value in step.inputs]
        self.inputs = [program.offsets[value] for value in step.inputs]
        self.output = program.offsets[step.output]
        self.y_shape = program.graph.shapes[step.output]
        self.lines: list[str] = []
        self.call = ""

    # ------------------------------------------------------------------------------------- convolution, linear

    def conv2d(self) -> None:
        g: Conv2dGeometry = self.given["geometry"]
        padded = any(padding(g))
        row, dtype = padded_row(g), self.dtype
        steps = {
            "tap_h": g.dilation_h * row,
            "tap_w": g.dilation_w * g.c_in,
            "step_h": g.stride_h * row,
            "step_w": g.stride_w * g.c_in,
            "relu": int(self.given["relu"]),
        }
        weight = self.step.constants["weight"]
        if is_depthwise(g):
            kernel = "depthwise"
            sizes: dict[str, Any] = {"c": g.c_out, "h_out": g.h_out, "w_out": g.w_out, "k_h": g.k_h, "k_w": g.k_w}
            packed = np.ascontiguousarray(weight.reshape(g.c_out, -1).T)
        else:
            kernel = "conv2d"
            joined = joins_taps(g)
            sizes = {
                "c_in": g.c_in,
                "c_out": g.c_out,
                "groups": g.groups,
                "h_out": g.h_out,
                "w_out": g.w_out,
                "taps_h": g.k_h,
                "taps_w": 1 if joined else g.k_w,
                "run": g.k_w * g.c_in if joined else g.c_in // g.groups,
                "lanes": lanes(g.c_out // g.groups, dtype),
                "tile": "TILE" if g.h_out * g.w_out > 1 else 1,
            }
            packed = pack_weight(weight, g.groups)
        before = ""
        if padded:
            self._use("pad_image")
            pads = ", ".join(map(str, padding(g)))
            before = f"    pad_image(x, padded, {g.h}, {g.w}, {g.c_in}, {pads});\n"
        self._convolve(kernel, {**sizes, **steps}, packed, before)

    def linear(self) -> None:
        """A convolution of one pixel."""
        weight = self.step.constants["weight"]
        out, depth = weight.shape
        sizes = {
            "c_in": depth,
            "c_out": out,
            "groups": 1,
            "h_out": 1,
            "w_out": 1,
            "taps_h": 1,
            "taps_w": 1,
            "run": depth,
            "lanes": lanes(out, self.dtype),
            "tile": 1,
            "tap_h": 0,
            "tap_w": 0,
            "step_h": 0,
            "step_w": 0,
            "relu": int(self.given["relu"]),
        }
        self._convolve("conv2d", sizes, pack_weight(weight.reshape(out, depth, 1, 1)), "")

    def _convolve(self, kernel: str, sizes: dict[str, Any], weight: Array, before: str) -> None:
        """A call of the function that calls `kernel` with these sizes, which is written if it is not there yet.

        before: what this function does first, to a padded image; "" without padding.
        """
        self._use(kernel)
        x, *shortcut = self.inputs
        # What the function takes, by its parameters' names; the kernel takes the same, or NULL.
        given = {"x": self._at(x), "weight": self._constant("weight", weight)}
        if "bias" in self.step.constants:
            given["bias"] = self._constant("bias", self.step.constants["bias"])
        if shortcut:
            given["shortcut"] = self._at(shortcut[0])
        if before:
            given["padded"] = self._at(self.program.workspace[self.position])
        given["y"] = self._at(self.output)
        parameters = ", ".join(f"{'real' if name in ('padded', 'y') else 'const real'} *{name}" for name in given)
        arguments = ["padded" if before else "x"]
        arguments += [name if name in given else "NULL" for name in ("weight", "bias", "shortcut", "y")]
        fields = ",\n        ".join(
            ", ".join(f".{name} = {size}" for name, size in list(sizes.items())[i : i + 6])
            for i in range(0, len(sizes), 6)
        )
        body = f"({parameters})\n{{\n{before}    {kernel}({', '.join(arguments)}, (struct {kernel}){{\n        {fields}}});\n}}"
        function = self.text.functions.setdefault(body, f"{kernel}_{len(self.text.functions)}")
        self.call = f"{function}({', '.join(given.values())});"

    # ------------------------------------------------------------------------------------- number by number

    def relu(self) -> None:
        self._use("relu")
        self._each("relu({})")

    def sigmoid(self) -> None:
        self._use("sigmoid")
        self._each("sigmoid({})")

    def clamp(self) -> None:
        self._use("clamp")
        low, high = (number(self.given[name], self.dtype) for name in ("low", "high"))
        self._each(f"clamp({{}}, {low}, {high})")

    def add(self) -> None:
        self._each(self._maybe_relu("{} + {}"))

    def multiply(self) -> None:
        if self.shapes[0] == self.shapes[1]:
            self._each("{} * {}")
            return
        _, c, h, w = self.shapes[0]
        x, gate = self.inputs
        self._loops([h * w, c], f"{{y}} = {{x}} * block[{_index(gate, [(1, 1)])}];", {"x": x, "y": self.output})

    def scale_shift(self) -> None:
        """The channel is dimension 1: the last in memory of images, the first of others."""
        shape = self.y_shape
        scale, shift = (self._constant(name, self.step.constants[name]) for name in ("scale", "shift"))
        if len(shape) == 4:
            sizes, channel = [shape[2] * shape[3], shape[1]], "i1"
        else:
            sizes, channel = [shape[1], prod(shape[2:])], "i0"
        value = self._maybe_relu(f"{{x}} * {_of(scale, channel)} + {_of(shift, channel)}")
        self._loops(sizes, f"{{y}} = {value};", {"x": self.inputs[0], "y": self.output})

    def _each(self, expression: str) -> None:
        """y[i] = expression of the inputs' numbers i."""
        values = expression.format(*(f"block[{_index(offset, [(0, 1)])}]" for offset in self.inputs))
        self._loops([prod(self.y_shape)], f"{{y}} = {values};", {"y": self.output})

    def _maybe_relu(self, expression: str) -> str:
        if not self.given["relu"]:
            return expression
        self._use("relu")
        return f"relu({expression})"

    # ------------------------------------------------------------------------------------- pools, softmax

    def max_pool2d(self) -> None:
        self._pool("max_pool2d", "adaptive_max_pool2d")

    def avg_pool2d(self) -> None:
        g = self.given["geometry"]
        self._pool("avg_pool2d", "", int(g.count_include_pad), number(g.divisor_override, self.dtype))

    def adaptive_avg_pool2d(self) -> None:
        self._pool("", "adaptive_avg_pool2d")

    def _pool(self, windows: str, regions: str, *more: Any) -> None:
        g = self.given["geometry"]
        if isinstance(g, AdaptivePool2dGeometry):
            self._call(regions, g.c, g.h, g.w, g.h_out, g.w_out)
        else:
            self._call(windows, _pool_sizes(g), *more)

    def softmax(self) -> None:
        shape, axis = self.y_shape, self.given["axis"]
        if len(shape) == 4:  # (h, w, c) in memory
            axis = {1: 3, 2: 1, 3: 2}[axis]
            shape = (1, *in_memory(shape[1:]))
        self._call("softmax", prod(shape[1:axis]), shape[axis], prod(shape[axis + 1 :]))

    # ------------------------------------------------------------------------------------- moving numbers

    def reshape(self) -> None:
        """The same numbers in the same order: nothing to do."""

    def reorder(self) -> None:
        self._call("reorder", *channels_last(self.shapes[0]), *channels_last(self.y_shape))

    def slice(self) -> None:
        index = in_memory(self.given["index"])
        steps = _strides(in_memory(self.shapes[0][1:]))
        start = sum(bounds[0] * step for bounds, step in zip(index, steps, strict=True))
        from_steps = [bounds[2] * step for bounds, step in zip(index, steps, strict=True)]
        sizes = in_memory(self.y_shape[1:])
        self._copy(sizes, self.inputs[0] + start, from_steps, self.output, _strides(sizes))

    def pad(self) -> None:
        value = number(self.given["value"], self.dtype)
        self._loops([prod(self.y_shape)], f"{{y}} = {value};", {"y": self.output})
        amounts, sizes = in_memory(self.given["amounts"]), in_memory(self.shapes[0][1:])
        steps = _strides(in_memory(self.y_shape[1:]))
        start = sum(before * step for (before, _), step in zip(amounts, steps, strict=True))
        self._copy(sizes, self.inputs[0], _strides(sizes), self.output + start, steps)

    def concat(self) -> None:
        steps = _strides(in_memory(self.y_shape[1:]))
        along = in_memory(tuple(range(1, len(self.y_shape)))).index(self.given["axis"])
        to = self.output
        for shape, x in zip(self.shapes, self.inputs, strict=True):
            sizes = in_memory(shape[1:])
            self._copy(sizes, x, _strides(sizes), to, steps)
            to += sizes[along] * steps[along]

    def _copy(self, sizes: Sequence[int], x: int, x_steps: Sequence[int], y: int, y_steps: Sequence[int]) -> None:
        """y[i, j, ...] = x[i, j, ...], each with its own step a dimension."""
        axes: list[list[int]] = []
        for size, a, b in zip(sizes, x_steps, y_steps, strict=True):
            if size == 1:
                continue
            # Two dimensions that follow each other without a gap in both memories are one.
            if axes and axes[-1][1] == a * size and axes[-1][2] == b * size:
                axes[-1] = [axes[-1][0] * size, a, b]
            else:
                axes.append([size, a, b])
        source = _index(x, [(axis, step) for axis, (_, step, _) in enumerate(axes)])
        target = _index(y, [(axis, step) for axis, (_, _, step) in enumerate(axes)])
        self._loops([size for size, _, _ in axes], f"block[{target}] = block[{source}];", {})

    # ------------------------------------------------------------------------------------- parts of lines

    def _use(self, section: str) -> None:
        self.text.sections.add(section)

    def _line(self, line: str) -> None:
        self.lines.append(line)

    def _at(self, offset: int) -> str:
        return f"block + {offset}"

    def _call(self, kernel: str, *sizes: Any) -> None:
        self._use(kernel)
        self._line(f"{kernel}({', '.join([self._at(self.inputs[0]), self._at(self.output), *map(str, sizes)])});")

    def _constant(self, name: str, array: Array) -> str:
        label = f"{name}_{self.position}"
        self.text.constants[label] = array
        return label

    def _loops(self, sizes: Sequence[int], statement: str, contiguous: dict[str, int]) -> None:
        """Nested loops i0, i1, ... over `sizes` around `statement`.

        contiguous: names in the statement, in {}, of values that lie in C order in these sizes, and where they begin.
        """
        steps = _strides(sizes)
        numbers = {name: f"block[{_index(offset, list(enumerate(steps)))}]" for name, offset in contiguous.items()}
        for depth, size in enumerate(sizes):
            self._line("    " * depth + f"for (size_t i{depth} = 0; i{depth} < {size}; i{depth}++)")
        self._line("    " * len(sizes) + (statement.format(**numbers) if contiguous else statement))


def _of(array: str, index: str) -> str:
    return f"{array}[{index}]"


def _strides(sizes: Iterable[int]) -> list[int]:
    """In numbers, C order."""
    steps = [1]
    for size in reversed(list(sizes)):
        steps.append(steps[-1] * size)
    return steps[-2::-1]


def _index(offset: int, axes: Sequence[tuple[int, int]]) -> str:
    """`7 + i0 * 12 + i1`: the place of an element whose loops are `axes`, each with its step."""
    terms = [f"i{axis} * {step}" if step > 1 else f"i{axis}" for axis, step in axes]
    return " + ".join([str(offset)] * bool(offset or not terms) + terms)


def _pool_sizes(g: Pool2dGeometry) -> str:
    sizes = {
        "c": g.c,
        "h": g.h,
        "w": g.w,
        "h_out": g.h_out,
        "w_out": g.w_out,
        "k_h": g.k_h,
        "k_w": g.k_w,
        "stride_h": g.stride_h,
        "stride_w": g.stride_w,
        "pad_h": g.pad_top,
        "pad_w": g.pad_left,
        "dilation_h": g.dilation_h,
        "dilation_w": g.dilation_w,
    }
    return f"(struct pool2d){{{', '.join(f'.{name} = {size}' for name, size in sizes.items())}}}"
