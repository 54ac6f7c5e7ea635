"""ONNX's operations that give constants: they are computed while a file is read, and are no steps of a plan.

Exporters compute with sizes in the graph: `x.view(x.size(0), -1)` is Shape, Gather, Unsqueeze, Concat, Reshape. Here they
are known, the batch among them (see load), and the numbers are small; what a file could make of them is bounded by
`Node.take`, before memory is taken.
"""

from __future__ import annotations

import math

import numpy as np

from minires.infer.onnx.rules import Node, Operand, core, rule
from minires.infer.trace import Ref
from minires.io.onnx_tensor import DTYPE_NAMES, MAX_RANK

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")


@rule(
    "Constant",
    inputs=(0, 0),
    attributes="value value_float value_floats value_int value_ints value_string value_strings sparse_value",
)
def _constant(node: Node) -> np.ndarray:
    names = node.attribute_names()
    if names == ["value"]:
        return node.get_tensor("value")
    if names == ["value_int"]:
        return np.array(node.get_int("value_int"), np.int64)
    if names == ["value_ints"]:
        return np.array(node.get_ints("value_ints"), np.int64)
    if names == ["value_float"]:
        return np.array(node.get_float("value_float"), np.float32)
    if names == ["value_floats"]:
        return np.array(node.get_floats("value_floats"), np.float32)
    raise ValueError(f"a constant of the form {', '.join(names) or 'nothing'} is not read")


@rule("Shape", inputs=(1, 1), attributes="start end")
def _shape(node: Node) -> np.ndarray:
    shape = node.shape(node.operand(0))
    return np.array(shape[node.get_int("start", 0) : node.get_int("end", len(shape))], np.int64)


@rule("Size", inputs=(1, 1))
def _size(node: Node) -> np.ndarray:
    return np.array(math.prod(node.shape(node.operand(0))), np.int64)


@rule("ConstantOfShape", inputs=(1, 1), attributes="value")
def _constant_of_shape(node: Node) -> np.ndarray:
    """One number everywhere; memory for one."""
    shape = node.integers(0)
    value = node.get_tensor("value") if node.has("value") else np.zeros(1, np.float32)
    if value.size != 1:
        raise ValueError(f"its value must be one number, got shape {value.shape}")
    if len(shape) > MAX_RANK or min(shape, default=1) < 0:
        raise ValueError(f"{shape} is no shape")
    return np.broadcast_to(value.reshape(()), shape)


@rule("Cast", inputs=(1, 1), attributes="to saturate round_mode")
def _cast(node: Node) -> Operand:
    """Values are of the plan's dtype from end to end: half precision becomes float32, and more precise for it."""
    x, name = node.operand(0), DTYPE_NAMES.get(node.get_int("to"), "unknown")
    if isinstance(x, Ref):
        if name not in _FLOATS:
            raise ValueError(f"a value cannot become {name} in a plan")
        return x
    if name not in _FLOATS + _INTEGERS:
        raise ValueError(f"a constant cannot become {name}")
    return node.cast(x, "float32" if name == "bfloat16" else name)


_UNARY = {
    "Sqrt": np.sqrt,
    "Abs": np.abs,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Exp": np.exp,
    "Log": np.log,
    "Reciprocal": np.reciprocal,
}


@rule(*_UNARY, inputs=(1, 1))
def _unary(node: Node) -> np.ndarray:
    x = node.constant(0)
    if x.dtype.kind != "f" and node.op != "Abs":
        raise ValueError(f"of floats only, got {x.dtype}")
    small = core(x)
    node.take(small.size, x.itemsize)
    return np.broadcast_to(_UNARY[node.op](small), x.shape)


@rule("Not", inputs=(1, 1))
def _not(node: Node) -> np.ndarray:
    x = node.constant(0)
    if x.dtype.kind != "b":
        raise ValueError(f"of bools only, got {x.dtype}")
    node.take(x.size, 1)
    return ~x


_COMPARE = {"Equal": np.equal, "Less": np.less, "Greater": np.greater}


@rule(*_COMPARE, inputs=(2, 2))
def _compare(node: Node) -> np.ndarray:
    a, b = node.constant(0), node.constant(1)
    node.take(math.prod(np.broadcast_shapes(a.shape, b.shape)), 1)
    return np.asarray(_COMPARE[node.op](a, b))


@rule("Where", inputs=(3, 3))
def _where(node: Node) -> np.ndarray:
    condition, a, b = (node.constant(i) for i in range(3))
    if condition.dtype.kind != "b" or a.dtype != b.dtype:
        raise ValueError(f"needs bools and two of one dtype, got {condition.dtype}, {a.dtype} and {b.dtype}")
    node.take(math.prod(np.broadcast_shapes(condition.shape, a.shape, b.shape)), a.itemsize)
    return np.where(condition, a, b)


@rule("ReduceProd", "ReduceSum", inputs=(1, 2), attributes="axes keepdims noop_with_empty_axes")
def _reduce(node: Node) -> np.ndarray:
    x = node.constant(0)
    axes = node.axes_from(1, x.ndim)
    if not axes:
        axes = [] if node.get_int("noop_with_empty_axes", 0) else list(range(x.ndim))
    node.take(x.size, x.itemsize)
    function = np.prod if node.op == "ReduceProd" else np.sum
    return np.asarray(function(x, axis=tuple(axes), keepdims=bool(node.get_int("keepdims", 1)), dtype=x.dtype))


@rule("Range", inputs=(3, 3))
def _range(node: Node) -> np.ndarray:
    bounds = [node.constant(i) for i in range(3)]
    if any(bound.dtype.kind not in "iu" or bound.size != 1 for bound in bounds):
        raise ValueError("of single integers only")
    numbers = range(*(int(bound.reshape(())) for bound in bounds))
    node.take(len(numbers))
    return np.array(numbers, bounds[0].dtype)
