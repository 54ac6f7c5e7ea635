"""ONNX's operations on each element: activations, sums, products, limits.

A constant on one side must be one number, or one for each channel: then the operation is scale[c] x + shift[c], which
folds into the convolution before it.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from minires.infer.onnx.rules import Node, Operand, core, rule, uniform
from minires.infer.trace import Ref


@rule("Relu", inputs=(1, 1))
def _relu(node: Node) -> Ref:
    return node.add("relu", node.value(0))


@rule("Sigmoid", inputs=(1, 1))
def _sigmoid(node: Node) -> Ref:
    return node.add("sigmoid", node.value(0))


@rule("HardSigmoid", inputs=(1, 1), attributes="alpha beta")
def _hard_sigmoid(node: Node) -> Ref:
    """max(0, min(1, alpha x + beta))."""
    return _hard_gate(node, node.get_float("alpha", 0.2), node.get_float("beta", 0.5))


@rule("HardSwish", inputs=(1, 1))
def _hard_swish(node: Node) -> Ref:
    """x max(0, min(1, x / 6 + 1 / 2))."""
    return node.add("multiply", node.value(0), _hard_gate(node, 1 / 6, 0.5))


def _hard_gate(node: Node, alpha: float, beta: float) -> Ref:
    x = node.value(0)
    return node.add("clamp", affine(node, x, np.array(alpha), np.array(beta)), low=0.0, high=1.0)


def affine(node: Node, x: Ref, scale: np.ndarray, shift: np.ndarray) -> Ref:
    """scale x + shift, each one number or one a channel."""
    shape = node.shape(x)
    if len(shape) < 2:
        raise ValueError("a value without channels cannot be scaled or shifted")
    constants = {}
    for name, array in (("scale", scale), ("shift", shift)):
        if np.broadcast_shapes(array.shape, shape) != shape:
            raise ValueError(f"a constant of shape {array.shape} would make the value larger")
        small, same = core(array), uniform(array)
        if same is not None:
            small = np.full((1,) * small.ndim, same)
        padded = (1,) * (len(shape) - small.ndim) + small.shape
        if padded[0] != 1 or math.prod(padded[2:]) != 1:
            raise ValueError(
                f"a constant of shape {array.shape} is not one number, nor one for each of {shape[1]} channels"
            )
        node.take(shape[1])
        constants[name] = np.broadcast_to(small.reshape(-1), shape[1]).astype(np.float64)
    return node.add("scale_shift", x, constants=constants, relu=False)


_ONE, _ZERO = np.ones(()), np.zeros(())
_UFUNCS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Sum": np.add}


@rule("Add", "Sub", "Mul", "Div", inputs=(2, 2))
def _arithmetic(node: Node) -> Operand:
    return _binary(node, node.op, node.operand(0), node.operand(1))


@rule("Sum", inputs=(1, 4096))
def _sum(node: Node) -> Operand:
    operands = [node.operand(i) for i in range(len(node.inputs))]
    return reduce(lambda a, b: _binary(node, "Add", a, b), operands)


@rule("Neg", inputs=(1, 1))
def _neg(node: Node) -> Operand:
    return _binary(node, "Mul", node.operand(0), np.array(-1, node.constant(0).dtype if node.all_constant else float))


def _binary(node: Node, op: str, a: Operand, b: Operand) -> Operand:
    """a op b."""
    if isinstance(a, Ref) and isinstance(b, Ref):
        return _of_values(node, op, a, b)
    if isinstance(a, Ref) and isinstance(b, np.ndarray):
        c = _floats(b)
        match op:
            case "Add":
                return affine(node, a, _ONE, c)
            case "Sub":
                return affine(node, a, _ONE, _small(c, np.negative))
            case "Mul":
                return affine(node, a, c, _ZERO)
        return affine(node, a, _small(c, np.reciprocal), _ZERO)
    if isinstance(b, Ref) and isinstance(a, np.ndarray):
        match op:
            case "Sub":
                return affine(node, b, -_ONE, _floats(a))
            case "Div":
                raise ValueError("division of a constant by a value has no step")
        return _binary(node, op, b, a)
    assert isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return _of_constants(node, op, a, b)


def _of_values(node: Node, op: str, a: Ref, b: Ref) -> Ref:
    full, other = node.shape(a), node.shape(b)
    match op:
        case "Sub":
            return _of_values(node, "Add", a, affine(node, b, -_ONE, _ZERO))
        case "Div":
            raise ValueError("division by a value has no step")
        case "Mul" if math.prod(full) < math.prod(other):
            return node.add("multiply", b, a)
        case "Mul":
            return node.add("multiply", a, b)
    if full != other:
        raise ValueError(f"a sum of values needs two of one shape, got {full} and {other}")
    return node.add("add", a, b, relu=False)


def _of_constants(node: Node, op: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype != b.dtype or a.dtype.kind not in "iuf":
        raise ValueError(f"constants must be numbers of one dtype, got {a.dtype} and {b.dtype}")
    node.take(math.prod(np.broadcast_shapes(a.shape, b.shape)), a.itemsize)
    if op == "Div" and a.dtype.kind in "iu":
        if not b.all():
            raise ValueError("division of integers by zero")
        quotient = np.floor_divide(np.abs(a), np.abs(b))  # towards zero, as in C
        return np.asarray(quotient * np.sign(a) * np.sign(b), a.dtype)
    return np.asarray(_UFUNCS[op](a, b), a.dtype)


def _floats(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        raise ValueError(f"a constant that meets a value must be floats, got {array.dtype}")
    return array


def _small(array: np.ndarray, function: np.ufunc) -> np.ndarray:
    """function(array) in float64, of what is not repeated."""
    return np.broadcast_to(function(core(array).astype(np.float64)), array.shape)


@rule("Clip", inputs=(1, 3), attributes="min max")
def _clip(node: Node) -> Ref:
    """Limits are attributes before opset 11, inputs since; either may be missing."""
    low = node.number(1) if node.given(1) else node.get_float("min", -math.inf)
    high = node.number(2) if node.given(2) else node.get_float("max", math.inf)
    return clamp(node, node.value(0), low, high)


@rule("Max", "Min", inputs=(1, 4096))
def _limit(node: Node) -> Operand:
    """Of a value and numbers: a limit."""
    values = [i for i in range(len(node.inputs)) if isinstance(node.operand(i), Ref)]
    if not values:
        return reduce(np.maximum if node.op == "Max" else np.minimum, _all_small(node))
    if len(values) > 1:
        raise ValueError("of several values it has no step")
    limits = [node.number(i) for i in range(len(node.inputs)) if i not in values]
    x = node.value(values[0])
    for limit in limits:
        x = clamp(node, x, limit, math.inf) if node.op == "Max" else clamp(node, x, -math.inf, limit)
    return x


def _all_small(node: Node) -> list[np.ndarray]:
    arrays = [node.constant(i) for i in range(len(node.inputs))]
    for array in arrays:
        node.take(math.prod(np.broadcast_shapes(array.shape, arrays[0].shape)))
    return arrays


def clamp(node: Node, x: Ref, low: float, high: float) -> Ref:
    """max(low, min(high, x)); the ReLU that it is where it is one."""
    if math.isnan(low) or math.isnan(high):
        raise ValueError("a limit is not a number")
    if (low, high) == (0, math.inf):
        return node.add("relu", x)
    return x if (low, high) == (-math.inf, math.inf) else node.add("clamp", x, low=low, high=high)
