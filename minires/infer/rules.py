"""From one call of a trace to steps of a graph: one small function an operation, and the table that says which.

What a step cannot say is refused, with the operation's name. Batch norm becomes scale_shift here, fused operations become
their parts; constants are float64 where they were computed, until `rewrite.round_constants`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minires.errors import UnsupportedError
from minires.infer.trace import EAGER, Call, Ref, Trace
from minires.kernels.geometry import AdaptivePool2dGeometry
from minires.kernels.graph import Step


class Converter:
    """The graph so far. `add` appends a step; a call's last step writes the call's own output.

    Attributes:
        layer: the module whose weights the present call has, "" if none; the name of its step with constants.
    """

    def __init__(self, trace: Trace) -> None:
        self.steps: list[Step] = []
        self.shapes = dict(trace.shapes)
        self.dtype = trace.dtype
        self.layer = ""

    def add(
        self,
        kind: str,
        inputs: Sequence[int],
        output: int | tuple[int, ...],
        constants: dict[str, np.ndarray] | None = None,
        **attributes: Any,
    ) -> int:
        """Append a step; `output` is the value it writes, or the shape of a new one. Returns the value's number."""
        number = output if isinstance(output, int) else len(self.shapes)
        if isinstance(output, tuple):
            self.shapes[number] = output
        self.steps.append(
            Step(kind, tuple(inputs), number, attributes, constants or {}, self.layer if constants else "")
        )
        return number

    def refuse(self, call: Call, why: str = "") -> UnsupportedError:
        shapes = [self.shapes[a.value] if isinstance(a, Ref) else None for a in call.args]
        given = ", ".join(str(tuple(shape)) for shape in shapes if shape is not None)
        return UnsupportedError(
            f"compile: {call.name} has no step in a plan{' ' + why if why else ''}, got input of shape {given}; {EAGER}"
        )


def _only_first(converter: Converter, call: Call) -> int:
    """The number of argument 0, where all other arguments are constants."""
    first, *rest = call.args
    if not isinstance(first, Ref) or any(isinstance(argument, Ref) for argument in rest):
        raise converter.refuse(call, "with weights that depend on the input")
    return first.value


def _weights(weight: np.ndarray, bias: np.ndarray | None) -> dict[str, np.ndarray]:
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def _conv2d(converter: Converter, call: Call) -> None:
    x = _only_first(converter, call)
    bias = call.args[2] if len(call.args) > 2 else None
    converter.add(
        "conv2d", [x], call.outputs[0], _weights(call.args[1], bias), geometry=call.options["geometry"], relu=False
    )


def _linear(converter: Converter, call: Call) -> None:
    x = _only_first(converter, call)
    if len(converter.shapes[x]) != 2:
        raise converter.refuse(call, "except on (N, features)")
    converter.add("linear", [x], call.outputs[0], _weights(call.args[1], call.args[2]), relu=False)


def _matmul(converter: Converter, call: Call) -> None:
    x = _only_first(converter, call)
    if len(converter.shapes[x]) != 2 or call.args[1].ndim != 2:
        raise converter.refuse(call, "except of (N, features) by a constant matrix")
    converter.add("linear", [x], call.outputs[0], {"weight": call.args[1].T}, relu=False)


def batch_norm_constants(
    weight: np.ndarray | None, bias: np.ndarray | None, mean: np.ndarray, var: np.ndarray, eps: float
) -> dict[str, np.ndarray]:
    """(x - mean) / sqrt(var + eps) * weight + bias as scale x + shift, in float64."""
    scale = 1 / np.sqrt(var.astype(np.float64) + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean.astype(np.float64) * scale
    return {"scale": scale, "shift": shift if bias is None else shift + bias}


def _batch_norm(converter: Converter, call: Call) -> None:
    x = _only_first(converter, call)
    converter.add("scale_shift", [x], call.outputs[0], batch_norm_constants(*call.args[1:6]), relu=False)


def _batch_norm_relu(converter: Converter, call: Call) -> None:
    """Taken apart, so that the rewritings see what they know: batch norm, the shortcut's addition, the ReLU."""
    x, weight, bias, shortcut, mean, var, eps = call.args
    if not isinstance(x, Ref) or any(isinstance(argument, Ref) for argument in (weight, bias, mean, var)):
        raise converter.refuse(call, "with weights that depend on the input")
    shape = converter.shapes[x.value]
    constants = batch_norm_constants(weight, bias, mean, var, eps)
    y = converter.add("scale_shift", [x.value], shape, constants, relu=False)
    if isinstance(shortcut, Ref):
        y = converter.add("add", [y, shortcut.value], shape, relu=False)
    elif shortcut is not None:
        raise converter.refuse(call, "with a constant shortcut")
    converter.add("relu", [y], call.outputs[0])


def _relu(converter: Converter, call: Call) -> None:
    converter.add("relu", [_only_first(converter, call)], call.outputs[0])


def _residual_relu(converter: Converter, call: Call) -> None:
    if not all(isinstance(argument, Ref) for argument in call.args):
        raise converter.refuse(call, "with a constant shortcut")
    a, b = (argument.value for argument in call.args)
    total = converter.add("add", [a, b], converter.shapes[a], relu=False)
    converter.add("relu", [total], call.outputs[0])


def _add(converter: Converter, call: Call) -> None:
    a, b = call.args
    if not (isinstance(a, Ref) and isinstance(b, Ref)):
        _affine(converter, call)
    elif converter.shapes[a.value] != converter.shapes[b.value]:
        raise converter.refuse(call, f"with another value of shape {converter.shapes[b.value]}")
    else:
        converter.add("add", [a.value, b.value], call.outputs[0], relu=False)


def _mul(converter: Converter, call: Call) -> None:
    if not all(isinstance(argument, Ref) for argument in call.args):
        _affine(converter, call)
        return
    a, b = sorted((argument.value for argument in call.args), key=lambda value: -np.prod(converter.shapes[value]))
    full, gate = converter.shapes[a], converter.shapes[b]
    if gate != full and not (len(full) == len(gate) == 4 and gate == (*full[:2], 1, 1)):
        raise converter.refuse(call, f"with another value of shape {gate}")
    converter.add("multiply", [a, b], call.outputs[0])


def _affine(converter: Converter, call: Call) -> None:
    """x + c, x - c, c - x, x c, x / c, -x with a constant for each channel: scale x + shift."""
    place = next(i for i, argument in enumerate(call.args) if isinstance(argument, Ref))
    x = call.args[place].value
    shape = converter.shapes[x]
    if len(call.args) == 1:
        other: Any = np.zeros(())
    else:
        other = call.args[1 - place]
    if isinstance(other, Ref):
        raise converter.refuse(call, "with two values")
    other = np.asarray(other, np.float64)
    padded = (1,) * (len(shape) - other.ndim) + other.shape
    if len(shape) < 2 or padded[:1] + padded[2:] != (1,) * (len(shape) - 1) or padded[1] not in (1, shape[1]):
        raise converter.refuse(call, f"with a constant of shape {other.shape}, which is not one number a channel")
    c = np.broadcast_to(other.reshape(-1), shape[1]).copy()
    with np.errstate(all="ignore"):
        match call.op.__name__, place:
            case "Add", _:
                scale, shift = np.ones_like(c), c
            case "Sub", 0:
                scale, shift = np.ones_like(c), -c
            case "Sub", _:
                scale, shift = -np.ones_like(c), c
            case "Mul", _:
                scale, shift = c, np.zeros_like(c)
            case "Div", 0:
                scale, shift = 1 / c, np.zeros_like(c)
            case "Neg", _:
                scale, shift = -np.ones_like(c), np.zeros_like(c)
            case _:
                raise converter.refuse(call, "of a constant by a value")
    converter.add("scale_shift", [x], call.outputs[0], {"scale": scale, "shift": shift}, relu=False)


def _sigmoid(converter: Converter, call: Call) -> None:
    converter.add("sigmoid", [_only_first(converter, call)], call.outputs[0])


def _clamp(converter: Converter, call: Call) -> None:
    x = _only_first(converter, call)
    low, high = call.args[1:3]
    if any(np.ndim(limit) for limit in (low, high)):
        raise converter.refuse(call, "with limits that are not numbers")
    converter.add(
        "clamp",
        [x],
        call.outputs[0],
        low=-np.inf if low is None else float(low),
        high=np.inf if high is None else float(high),
    )


def _softmax(converter: Converter, call: Call) -> None:
    x = _only_first(converter, call)
    axis = call.args[1] % len(converter.shapes[x])
    if axis == 0:
        raise converter.refuse(call, "over the batch")
    converter.add("softmax", [x], call.outputs[0], axis=axis)


def _pool(kind: str) -> Callable[[Converter, Call], None]:
    def rule(converter: Converter, call: Call) -> None:
        converter.add(kind, [_only_first(converter, call)], call.outputs[0], geometry=call.options["geometry"])

    return rule


def _global(kind: str) -> Callable[[Converter, Call], None]:
    """The mean or maximum of whole maps, (N, C, H, W) over (2, 3)."""

    def rule(converter: Converter, call: Call) -> None:
        x = _only_first(converter, call)
        shape = converter.shapes[x]
        dims, keepdim, *smallest = call.args[1:]
        if len(shape) != 4 or sorted(dims) != [2, 3] or any(smallest):
            raise converter.refuse(call, "except over rows and columns of (N, C, H, W)")
        n, c, h, w = shape
        output = call.outputs[0]
        pooled = converter.add(
            kind, [x], output if keepdim else (n, c, 1, 1), geometry=AdaptivePool2dGeometry(n, c, h, w, 1, 1)
        )
        if not keepdim:
            converter.add("reshape", [pooled], output, shape=(c,))

    return rule


def _reshape(converter: Converter, call: Call) -> None:
    """All that keeps the order of the elements; what keeps the shape too is dropped later."""
    x = _only_first(converter, call)
    before, after = converter.shapes[x], converter.shapes[call.outputs[0]]
    if after[:1] != before[:1]:
        raise converter.refuse(call, f"to {after}, which does not keep the batch in front")
    converter.add("reshape", [x], call.outputs[0], shape=tuple(after[1:]))


def _unchanged(converter: Converter, call: Call) -> None:
    """clone, to, expand, permute: where they change nothing."""
    x = _only_first(converter, call)
    after = converter.shapes[call.outputs[0]]
    changed = after != converter.shapes[x]
    if call.op.__name__ == "Cast":
        changed = np.dtype(call.args[1]) != converter.dtype
    elif call.op.__name__ == "Permute":
        changed = tuple(call.args[1]) != tuple(range(len(after)))
    if changed:
        raise converter.refuse(call, f"with these arguments: {call.args[1:]}")
    converter.add("reshape", [x], call.outputs[0], shape=tuple(after[1:]))


def _getitem(converter: Converter, call: Call) -> None:
    """x[:, a:b:c, i, ...]: a slice, and a reshape for the dimensions that a number takes away."""
    x = _only_first(converter, call)
    shape = converter.shapes[x]
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    rest = len(shape) - sum(item is not Ellipsis for item in index)
    full: list[Any] = []
    for item in index:
        full.extend([slice(None)] * rest if item is Ellipsis else [item])
    full.extend([slice(None)] * (len(shape) - len(full)))
    if not all(isinstance(item, (slice, int)) for item in full) or full[0] != slice(None):
        raise converter.refuse(call, "except for slices and numbers behind the batch")
    bounds = []
    for item, size in zip(full[1:], shape[1:], strict=True):
        piece = item if isinstance(item, slice) else slice(item, item + 1 or None)
        start, stop, step = piece.indices(size)
        if step < 1 or start >= stop:
            raise converter.refuse(call, f"with the index {item}")
        bounds.append((start, stop, step))
    sizes = tuple(len(range(*bound)) for bound in bounds)
    output = call.outputs[0]
    if (shape[0], *sizes) == converter.shapes[output]:
        converter.add("slice", [x], output, index=tuple(bounds))
    else:
        cut = converter.add("slice", [x], (shape[0], *sizes), index=tuple(bounds))
        converter.add("reshape", [cut], output, shape=tuple(converter.shapes[output][1:]))


def _pad(converter: Converter, call: Call) -> None:
    """Negative amounts cut off: a slice."""
    x = _only_first(converter, call)
    shape = converter.shapes[x]
    amounts, value = call.args[1], call.args[2] if len(call.args) > 2 else call.options.get("value", 0.0)
    if tuple(amounts[0]) != (0, 0):
        raise converter.refuse(call, "of the batch")
    behind = [(int(before), int(after)) for before, after in amounts[1:]]
    if min(min(pair) for pair in behind) < 0:
        index = tuple((max(-b, 0), size - max(-a, 0), 1) for size, (b, a) in zip(shape[1:], behind, strict=True))
        x = converter.add("slice", [x], (shape[0], *(stop - start for start, stop, _ in index)), index=index)
    converter.add(
        "pad",
        [x],
        call.outputs[0],
        amounts=tuple((max(b, 0), max(a, 0)) for b, a in behind),
        value=0.0 if value is None else float(value),
    )


def _cat(converter: Converter, call: Call) -> None:
    if not all(isinstance(argument, Ref) for argument in call.args):
        raise converter.refuse(call, "with a constant among its parts")
    axis = call.options["dim"] % len(converter.shapes[call.args[0].value])
    if axis == 0:
        raise converter.refuse(call, "of batches")
    converter.add("concat", [argument.value for argument in call.args], call.outputs[0], axis=axis)


# By class name, not by class: operations that a module does not use need not be imported to be known.
RULES: dict[str, Callable[[Converter, Call], None]] = {
    "Conv2d": _conv2d,
    "Linear": _linear,
    "MatMul": _matmul,
    "BatchNormEval": _batch_norm,
    "BatchNormReLUEval": _batch_norm_relu,
    "ReLU": _relu,
    "ResidualReLU": _residual_relu,
    "Add": _add,
    "Sub": _affine,
    "Mul": _mul,
    "Div": _affine,
    "Neg": _affine,
    "Sigmoid": _sigmoid,
    "Clamp": _clamp,
    "Hardtanh": _clamp,
    "Softmax": _softmax,
    "MaxPool2d": _pool("max_pool2d"),
    "AvgPool2d": _pool("avg_pool2d"),
    "AdaptiveAvgPool2d": _pool("adaptive_avg_pool2d"),
    "Mean": _global("adaptive_avg_pool2d"),
    "Amax": _global("max_pool2d"),
    "Reshape": _reshape,
    "Clone": _unchanged,
    "Cast": _unchanged,
    "Expand": _unchanged,
    "Permute": _unchanged,
    "GetItem": _getitem,
    "ConstantPad": _pad,
    "Concatenate": _cat,
}
