"""What a rule for one of ONNX's operations sees and may do: a node with its inputs known, and the graph so far.

An input is a `Ref`, a value that depends on the network's input and is known by its number and shape, or a NumPy array, a
constant. A rule computes what depends on constants alone, and appends steps for the rest:

    @rule("Sigmoid", inputs=(1, 1))
    def _sigmoid(node):
        return node.add("sigmoid", node.value(0))

The rules stand in `layers` (convolutions, pooling, ...), `elementwise`, `shapes` and `constants`. What a rule refuses is a
ValueError, to which `load` adds which node it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.infer.check import MAX_ELEMENTS, output_shape
from minires.infer.rules import Converter
from minires.infer.trace import Ref, Trace
from minires.io.onnx_node import OnnxNode
from minires.io.onnx_tensor import OnnxTensor
from minires.kernels.graph import Step

Operand = Ref | np.ndarray
Shape = tuple[int, ...]

SPARE = 8 << 20  # bytes that computed constants may take beyond what follows from the file's size
MAX_TAPS = (
    1 << 17
)  # of dilated poolings, which `check` looks at one by one; of an image of 224 x 224 there are some 700
MAX_INTEGERS = 4096  # in a list of sizes, axes or indices


@dataclass(frozen=True)
class Rule:
    """How an operation is taken over. `fewest` and `most` count its inputs."""

    function: Callable[[Node], Operand | list[Operand]]
    fewest: int
    most: int
    attributes: frozenset[str]


RULES: dict[str, Rule] = {}


def rule(
    *ops: str, inputs: tuple[int, int], attributes: str = ""
) -> Callable[[Callable[[Node], Any]], Callable[[Node], Any]]:
    """Enter a function in RULES under the names of operations."""

    def enter(function: Callable[[Node], Any]) -> Callable[[Node], Any]:
        for op in ops:
            RULES[op] = Rule(function, *inputs, frozenset(attributes.split()))
        return function

    return enter


class Builder:
    """The graph so far, for a batch of n images.

    Attributes:
        converter: the steps and shapes (see rules.Converter).
        makers: the step that writes a value.
        left: bytes that constants may still take; those of the file itself do not count.
        taps: of dilated windows that may still be looked at.
    """

    def __init__(self, input_shape: Shape, dtype: np.dtype[Any], file_bytes: int) -> None:
        self.converter = Converter(Trace([], {0: input_shape}, 0, dtype))
        self.makers: dict[int, Step] = {}
        self.left = 8 * file_bytes + SPARE
        self.taps = MAX_TAPS

    def take(self, count: int, itemsize: int) -> None:
        """Account for memory, before it is taken."""
        self.left -= count * itemsize
        if self.left < 0:
            raise ValueError("its constants grow far beyond the file's own size")


class Node:
    """One node, as its rule sees it.

    Attributes:
        op: its operation's name.
        opset: the version of ONNX's operations that the file uses.
        inputs: None for an optional one that is not there.
        outputs: how many it has.
        n: images in the batch.
    """

    def __init__(self, node: OnnxNode, inputs: list[Operand | None], opset: int, builder: Builder) -> None:
        self.op, self.inputs, self.opset = node.op, inputs, opset
        self.outputs = len(node.outputs)
        self._attributes = node.attributes
        self._builder = builder
        self.n = builder.converter.shapes[0][0]
        self.dtype = builder.converter.dtype

    # --- inputs ---

    def given(self, i: int) -> bool:
        """Whether there is an input i."""
        return i < len(self.inputs) and self.inputs[i] is not None

    @property
    def all_constant(self) -> bool:
        return not any(isinstance(operand, Ref) for operand in self.inputs)

    def operand(self, i: int) -> Operand:
        operand = self.inputs[i] if i < len(self.inputs) else None
        if operand is None:
            raise ValueError(f"input {i} is missing")
        return operand

    def value(self, i: int) -> Ref:
        """Input i, which must depend on the network's input."""
        operand = self.operand(i)
        if not isinstance(operand, Ref):
            raise ValueError(f"input {i} is a constant of shape {operand.shape}, for which there is no step")
        return operand

    def constant(self, i: int) -> np.ndarray:
        """Input i, which must be a constant."""
        operand = self.operand(i)
        if isinstance(operand, Ref):
            raise ValueError(f"input {i} depends on the network's input; a plan needs a constant there")
        return operand

    def weights(self, i: int, shape: Shape | None = None) -> np.ndarray:
        """Input i, constant floats of the graph's dtype.

        Args:
            shape: which it must have.
        """
        array = self.constant(i)
        if array.dtype.kind != "f":
            raise ValueError(f"input {i} must be floats, got {array.dtype}")
        if shape is not None and array.shape != shape:
            raise ValueError(f"input {i} must have shape {shape}, got {array.shape}")
        return self.cast(array, self.dtype)

    def integers(self, i: int) -> list[int]:
        """Input i, a constant list of integers (or one)."""
        array = self.constant(i)
        if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > MAX_INTEGERS:
            raise ValueError(f"input {i} must be a list of integers, got {array.dtype} of shape {array.shape}")
        return [int(number) for number in array.reshape(-1)]

    def number(self, i: int) -> float:
        """Input i, a constant with one value."""
        value = uniform(self.constant(i))
        if value is None:
            raise ValueError(f"input {i} must be one number, got shape {self.constant(i).shape}")
        return value

    # --- attributes ---

    def has(self, name: str) -> bool:
        return name in self._attributes

    def _attribute(self, name: str, kind: type, default: Any) -> Any:
        value = self._attributes.get(name, default)
        if value is None:
            raise ValueError(f"attribute {name!r} is missing")
        if type(value) is not kind:
            raise ValueError(f"attribute {name!r} must be {kind.__name__}, got {type(value).__name__}")
        return value

    def get_int(self, name: str, default: int | None = None) -> int:
        found: int = self._attribute(name, int, default)
        return found

    def get_float(self, name: str, default: float | None = None) -> float:
        found: float = self._attribute(name, float, default)
        return found

    def get_ints(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        found = self._attribute(name, list, None if default is None else list(default))
        if not all(type(number) is int for number in found):
            raise ValueError(f"attribute {name!r} must be a list of integers")
        return list(found)

    def get_floats(self, name: str) -> list[float]:
        return list(self._attribute(name, list, None))

    def get_text(self, name: str, default: str) -> str:
        if name not in self._attributes:
            return default
        return str(self._attribute(name, memoryview, None), "utf-8", "replace")

    def get_tensor(self, name: str) -> np.ndarray:
        found: OnnxTensor = self._attribute(name, OnnxTensor, None)
        return found.array()

    def attribute_names(self) -> list[str]:
        return list(self._attributes)

    def axes_from(self, i: int, rank: int) -> list[int] | None:
        """`axes`, an attribute in old opsets and input i in new ones, as dimensions from 0; None where not given."""
        if self.has("axes"):
            axes = self.get_ints("axes")
        elif self.given(i):
            axes = self.integers(i)
        else:
            return None
        return [self.axis(axis, rank) for axis in axes]

    def axis(self, axis: int, rank: int) -> int:
        """A dimension, which may count from behind, from 0."""
        if not -rank <= axis < rank:
            raise ValueError(f"axis {axis} does not exist in {rank} dimensions")
        return axis % rank

    # --- constants ---

    def take(self, count: int, itemsize: int = 8) -> None:
        """Account for memory of `count` numbers, before a constant of that size is computed."""
        self._builder.take(count, itemsize)

    def take_taps(self, count: int) -> None:
        """Account for the time that a dilated pooling's check takes."""
        self._builder.taps -= count
        if self._builder.taps < 0:
            raise ValueError("the windows of its dilated poolings are too many to be checked")

    def cast(self, array: np.ndarray, dtype: Any) -> np.ndarray:
        """A constant as another dtype; itself where it has it."""
        dtype = np.dtype(dtype)
        if array.dtype == dtype:
            return array
        small = core(array)
        self.take(small.size, dtype.itemsize)
        return np.broadcast_to(small.astype(dtype), array.shape)

    # --- the graph ---

    def shape(self, operand: Operand) -> Shape:
        return self._builder.converter.shapes[operand.value] if isinstance(operand, Ref) else operand.shape

    def maker(self, value: Ref) -> Step | None:
        """The step that writes a value; None for the network's input."""
        return self._builder.makers.get(value.value)

    def add(self, kind: str, *inputs: Ref, constants: dict[str, np.ndarray] | None = None, **attributes: Any) -> Ref:
        """Append a step and return its output. Raises ValueError where sizes do not fit."""
        constants = constants or {}
        for array in constants.values():
            if not array.flags.c_contiguous:
                self.take(array.size, array.itemsize)  # it will be copied
        numbers = tuple(value.value for value in inputs)
        shapes = self._builder.converter.shapes
        shape = output_shape(Step(kind, numbers, -1, attributes, constants), [shapes[number] for number in numbers])
        if min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"it would give a value of shape {shape}")
        output = self._builder.converter.add(kind, numbers, shape, constants, **attributes)
        self._builder.makers[output] = self._builder.converter.steps[-1]
        return Ref(output)

    def reshape(self, value: Ref, shape: Sequence[int]) -> Ref:
        """A value with its elements, in order, in another shape; the batch stays in front."""
        shape = tuple(shape)
        before = self.shape(value)
        if shape[:1] != before[:1] or math.prod(shape) != math.prod(before):
            raise ValueError(
                f"cannot give {before} the shape {shape}, or it would not keep the batch in front; a plan's steps work "
                "on each image alone"
            )
        return value if shape == before else self.add("reshape", value, shape=shape[1:])

    def describe(self) -> str:
        """The inputs, for messages."""
        parts = []
        for operand in self.inputs[:6]:
            if operand is None:
                parts.append("none")
            else:
                parts.append(f"{'value' if isinstance(operand, Ref) else 'constant'} {self.shape(operand)}")
        return ", ".join(parts) or "none"


def core(array: np.ndarray) -> np.ndarray:
    """A constant without what it only repeats: dimensions of stride 0 have size 1."""
    return array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]


def uniform(array: np.ndarray) -> float | None:
    """The one value of a constant whose elements are all the same; None where they are not, or where there are none."""
    small = core(array).reshape(-1)
    if small.size == 0 or small.dtype.kind not in "fiub" or not (small == small[0]).all():
        return None
    return float(small[0])
