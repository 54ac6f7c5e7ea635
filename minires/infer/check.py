"""Whether a graph is one: every step of a known kind, complete, and of sizes that fit. Nothing is run.

A graph that `compile` made passes; one from a file may say anything, and is held to the table of kernels/graph.py before a
kernel, which checks nothing, sees it.
"""

from __future__ import annotations

from math import isnan, prod
from typing import Any

import numpy as np

from minires.errors import ArgumentError
from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, Pool2dGeometry
from minires.kernels.graph import KINDS, Graph, Step

Shape = tuple[int, ...]

# More than any network's tensor, and far from where sizes in bytes would overflow 64 bits.
MAX_ELEMENTS = 2**40
MAX_DIMENSIONS = 32
MAX_TAPS = 2**20  # of dilated windows that are looked at one by one

# Of each kind: how many inputs; constants, those in [] may be missing; attributes.
_TABLE: dict[str, tuple[tuple[int, int], str, str]] = {
    "conv2d": ((1, 2), "weight [bias]", "geometry relu"),
    "linear": ((1, 1), "weight [bias]", "relu"),
    "scale_shift": ((1, 1), "scale shift", "relu"),
    "relu": ((1, 1), "", ""),
    "add": ((2, 2), "", "relu"),
    "multiply": ((2, 2), "", ""),
    "sigmoid": ((1, 1), "", ""),
    "clamp": ((1, 1), "", "low high"),
    "softmax": ((1, 1), "", "axis"),
    "max_pool2d": ((1, 1), "", "geometry"),
    "avg_pool2d": ((1, 1), "", "geometry"),
    "adaptive_avg_pool2d": ((1, 1), "", "geometry"),
    "reshape": ((1, 1), "", "shape"),
    "slice": ((1, 1), "", "index"),
    "pad": ((1, 1), "", "amounts value"),
    "concat": ((1, 2**31), "", "axis"),
}


def check_graph(graph: Graph) -> None:
    """Raise unless `graph` is complete and all its sizes fit.

    Raises:
        ArgumentError: what does not fit, and in which step.
    """
    if graph.dtype not in (np.dtype("float32"), np.dtype("float64")):
        raise ArgumentError(f"plan: dtype must be float32 or float64, got {graph.dtype}")
    shapes: dict[int, Shape] = {graph.input: _sizes(graph.shapes.get(graph.input), "the input")}
    if not shapes[graph.input]:
        raise ArgumentError(f"plan: the input needs a batch in front, got shape {shapes[graph.input]}")
    for position, step in enumerate(graph.steps):
        where = f"plan: step {position} ({step.kind})"
        if step.kind not in KINDS:
            raise ArgumentError(f"plan: step {position} is of kind {step.kind!r}; known are {', '.join(KINDS)}")
        if step.output in shapes:
            raise ArgumentError(f"{where}: value {step.output} is written twice")
        missing = [value for value in step.inputs if value not in shapes]
        if missing:
            raise ArgumentError(f"{where}: reads value {missing[0]}, which no step before it writes")
        try:
            _check_names(step, graph.dtype)
            shape = output_shape(step, [shapes[value] for value in step.inputs])
        except ArgumentError as error:
            raise ArgumentError(f"{where}: {error}") from None
        stated = graph.shapes.get(step.output)
        if stated != shape:
            raise ArgumentError(f"{where}: gives shape {shape}, the plan says {stated}")
        shapes[step.output] = _sizes(shape, f"value {step.output}")
    if graph.output not in shapes:
        raise ArgumentError(f"plan: the output, value {graph.output}, is written by no step")
    if graph.shapes.keys() != shapes.keys():
        raise ArgumentError(
            f"plan: shapes of values that no step writes: {sorted(graph.shapes.keys() - shapes.keys())[:5]}"
        )


def _sizes(shape: Any, what: str) -> Shape:
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 1 for size in shape):
        raise ArgumentError(f"plan: {what} needs a shape of positive integers, got {shape!r}")
    if len(shape) > MAX_DIMENSIONS or prod(shape) > MAX_ELEMENTS:
        raise ArgumentError(f"plan: {what} is too large, got shape {shape}")
    return shape


def _check_names(step: Step, dtype: np.dtype[Any]) -> None:
    """The right number of inputs, the right names of constants and attributes, the right types."""
    (fewest, most), constants, attributes = _TABLE[step.kind]
    if not fewest <= len(step.inputs) <= most:
        raise ArgumentError(f"takes {fewest} to {most} inputs, got {len(step.inputs)}")
    known = {name.strip("[]"): name.startswith("[") for name in constants.split()}
    if not {name for name, optional in known.items() if not optional} <= step.constants.keys() <= known.keys():
        raise ArgumentError(f"needs the constants {constants or 'none'}, got {', '.join(step.constants) or 'none'}")
    if step.attributes.keys() != set(attributes.split()):
        raise ArgumentError(f"needs the attributes {attributes or 'none'}, got {', '.join(step.attributes) or 'none'}")
    for name, constant in step.constants.items():
        if constant.dtype != dtype:
            raise ArgumentError(f"{name} has dtype {constant.dtype}, the plan {dtype}")
    for name, value in step.attributes.items():
        if name == "relu" and type(value) is not bool:
            raise ArgumentError(f"relu must be a bool, got {value!r}")
        if name == "axis" and type(value) is not int:
            raise ArgumentError(f"axis must be an int, got {value!r}")
        if name in ("low", "high", "value") and (type(value) is not float or isnan(value)):
            raise ArgumentError(f"{name} must be a number, got {value!r}")


def output_shape(step: Step, inputs: list[Shape]) -> Shape:
    """The shape that a step with complete attributes gives.

    Raises:
        ArgumentError: inputs, attributes and constants do not go together.
    """
    x = inputs[0]
    match step.kind:
        case "conv2d":
            return _conv2d(step, inputs)
        case "linear":
            return _linear(step, x)
        case "scale_shift":
            if len(x) < 2:
                raise ArgumentError(f"needs an input with channels, got shape {x}")
            _need(step, "scale", (x[1],))
            _need(step, "shift", (x[1],))
        case "add":
            if inputs[1] != x:
                raise ArgumentError(f"needs two inputs of one shape, got {x} and {inputs[1]}")
        case "multiply":
            if inputs[1] != x and not (len(x) == 4 and inputs[1] == (*x[:2], 1, 1)):
                raise ArgumentError(f"needs a second input of shape {x} or a gate a channel, got {inputs[1]}")
        case "softmax":
            _axis(step, x)
        case "max_pool2d" | "avg_pool2d" | "adaptive_avg_pool2d":
            return _pool(step, x)
        case "reshape":
            shape = _tuple(step.attributes["shape"], "shape")
            if prod(shape) != prod(x[1:]):
                raise ArgumentError(f"cannot give {x[1:]} the shape {shape}")
            return (x[0], *shape)
        case "slice":
            return _slice(step, x)
        case "pad":
            amounts = _pairs(step.attributes["amounts"], "amounts", 2, len(x) - 1)
            return (x[0], *(size + before + after for size, (before, after) in zip(x[1:], amounts, strict=True)))
        case "concat":
            axis = _axis(step, x)
            if any(other[:axis] + other[axis + 1 :] != x[:axis] + x[axis + 1 :] for other in inputs):
                raise ArgumentError(f"cannot join {inputs} along axis {axis}")
            return (*x[:axis], sum(other[axis] for other in inputs), *x[axis + 1 :])
    return x


def _need(step: Step, name: str, shape: Shape) -> None:
    if name in step.constants and step.constants[name].shape != shape:
        raise ArgumentError(f"needs {name} of shape {shape}, got {step.constants[name].shape}")


def _axis(step: Step, x: Shape) -> int:
    axis: int = step.attributes["axis"]
    if not 1 <= axis < len(x):
        raise ArgumentError(f"axis must be from 1 to {len(x) - 1}, got {axis}")
    return axis


def _tuple(value: Any, name: str) -> Shape:
    if not isinstance(value, tuple) or len(value) > MAX_DIMENSIONS:
        raise ArgumentError(f"{name} must be a list of at most {MAX_DIMENSIONS} integers")
    if not all(type(size) is int and 0 <= size <= MAX_ELEMENTS for size in value):
        raise ArgumentError(f"{name} must be integers from 0 to {MAX_ELEMENTS}, got {value!r}")
    return value


def _pairs(value: Any, name: str, width: int, count: int) -> list[Shape]:
    if not isinstance(value, tuple) or len(value) != count:
        raise ArgumentError(f"{name} needs an entry for each of {count} dimensions, got {value!r}")
    entries = [_tuple(entry, name) for entry in value]
    if any(len(entry) != width for entry in entries):
        raise ArgumentError(f"{name} needs {width} integers a dimension, got {value!r}")
    return entries


def _conv2d(step: Step, inputs: list[Shape]) -> Shape:
    g = _geometry(step, Conv2dGeometry)
    if min(g.h_out, g.w_out) < 1:
        raise ArgumentError(f"the window does not fit into the padded input: {g}")
    if g.c_in % g.groups or g.c_out % g.groups:
        raise ArgumentError(f"{g.c_in} and {g.c_out} channels do not divide into {g.groups} groups")
    if inputs[0] != g.x_shape:
        raise ArgumentError(f"needs an input of shape {g.x_shape}, got {inputs[0]}")
    if len(inputs) == 2 and inputs[1] != g.y_shape:
        raise ArgumentError(f"needs a shortcut of shape {g.y_shape}, got {inputs[1]}")
    _need(step, "weight", g.weight_shape)
    _need(step, "bias", (g.c_out,))
    return g.y_shape


def _linear(step: Step, x: Shape) -> Shape:
    weight = step.constants["weight"]
    if len(x) != 2 or weight.ndim != 2 or weight.shape[1] != x[1]:
        raise ArgumentError(f"weight of shape {weight.shape} does not fit an input of shape {x}")
    _need(step, "bias", (weight.shape[0],))
    return (x[0], weight.shape[0])


def _pool(step: Step, x: Shape) -> Shape:
    windows, regions = Pool2dGeometry, AdaptivePool2dGeometry
    allowed = {"max_pool2d": (windows, regions), "avg_pool2d": (windows,), "adaptive_avg_pool2d": (regions,)}[step.kind]
    g = _geometry(step, *allowed)
    if x != g.x_shape:
        raise ArgumentError(f"needs an input of shape {g.x_shape}, got {x}")
    if min(g.h_out, g.w_out) < 1:
        raise ArgumentError(f"the window does not fit into the padded input: {g}")
    if isinstance(g, Pool2dGeometry):
        if 2 * g.pad_top > g.k_h or 2 * g.pad_left > g.k_w:
            raise ArgumentError(f"padding is more than half of the window: {g}")
        # Windows that are not dilated do meet x, with so little padding.
        dilated = step.kind == "max_pool2d" and max(g.dilation_h, g.dilation_w) > 1
        if dilated and (g.h_out * g.k_h + g.w_out * g.k_w > MAX_TAPS or not g.every_window_meets_x):
            raise ArgumentError(f"some window lies in the padding alone, or there are too many to say: {g}")
    return g.y_shape


def _slice(step: Step, x: Shape) -> Shape:
    bounds = _pairs(step.attributes["index"], "index", 3, len(x) - 1)
    if not all(start < stop <= size and by >= 1 for (start, stop, by), size in zip(bounds, x[1:], strict=True)):
        raise ArgumentError(f"index {bounds} does not lie inside {x[1:]}")
    return (x[0], *(len(range(*bound)) for bound in bounds))


# Of a geometry: the fields that may be 0 and those that are bools. All others are at least 1.
_FROM_ZERO = ("pad_top", "pad_bottom", "pad_left", "pad_right", "divisor_override")
_BOOLS = ("ceil_mode", "count_include_pad")


def _geometry(step: Step, *allowed: type[Any]) -> Any:
    g = step.attributes["geometry"]
    if type(g) not in allowed:
        names = " or ".join(kind.__name__ for kind in allowed)
        raise ArgumentError(f"geometry must be a {names}, got {type(g).__name__}")
    for name, value in vars(g).items():
        if name in _BOOLS:
            good = type(value) is bool
        elif name == "divisor_override":
            good = type(value) is int and abs(value) <= MAX_ELEMENTS
        else:
            good = type(value) is int and (0 if name in _FROM_ZERO else 1) <= value <= MAX_ELEMENTS
        if not good:
            raise ArgumentError(f"geometry.{name} cannot be {value!r}")
    return g
