"""ONNX's operations that move elements: reshapes, slices, padding, joining.

Of constants they are NumPy's; of values they are reshape, slice, pad and concat steps, which leave the batch alone.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from minires.infer.onnx.rules import Node, Operand, Shape, rule, uniform
from minires.infer.trace import Ref
from minires.io.onnx_tensor import MAX_RANK


def _reshaped(node: Node, shape: tuple[int, ...] | list[int]) -> Operand:
    """Input 0, a value or a constant, in another shape."""
    x = node.operand(0)
    if len(shape) > MAX_RANK:
        raise ValueError(f"more than {MAX_RANK} dimensions")
    if isinstance(x, Ref):
        return node.reshape(x, shape)
    if not x.flags.c_contiguous:
        node.take(x.size, x.itemsize)  # it will be copied
    return x.reshape(shape)


@rule("Identity", inputs=(1, 1))
def _identity(node: Node) -> Operand:
    return node.operand(0)


@rule("Flatten", inputs=(1, 1), attributes="axis")
def _flatten(node: Node) -> Operand:
    shape = node.shape(node.operand(0))
    axis = node.get_int("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise ValueError(f"axis {axis} does not exist in {len(shape)} dimensions")
    axis = axis % len(shape) if axis < 0 else axis
    return _reshaped(node, (math.prod(shape[:axis]), math.prod(shape[axis:])))


@rule("Reshape", inputs=(2, 2), attributes="allowzero")
def _reshape(node: Node) -> Operand:
    """0 keeps a size (unless `allowzero`), -1 is what is left."""
    before = node.shape(node.operand(0))
    wanted = node.integers(1)
    if not node.get_int("allowzero", 0):
        if any(size == 0 and i >= len(before) for i, size in enumerate(wanted)):
            raise ValueError(f"to {wanted}: a 0 keeps a size, and {before} has none there")
        wanted = [before[i] if size == 0 else size for i, size in enumerate(wanted)]
    if wanted.count(-1) > 1 or min(wanted, default=0) < -1:
        raise ValueError(f"to {wanted}, which is no shape")
    if -1 in wanted:
        known = -math.prod(wanted)
        if known == 0 or math.prod(before) % known:
            raise ValueError(f"{before} cannot have the shape {wanted}")
        wanted[wanted.index(-1)] = math.prod(before) // known
    return _reshaped(node, wanted)


@rule("Squeeze", inputs=(1, 2), attributes="axes")
def _squeeze(node: Node) -> Operand:
    shape = node.shape(node.operand(0))
    axes = node.axes_from(1, len(shape))
    if axes is None:
        axes = [i for i, size in enumerate(shape) if size == 1]
    if any(shape[axis] != 1 for axis in axes):
        raise ValueError(f"dimensions {axes} of {shape} are not all of size 1")
    return _reshaped(node, [size for i, size in enumerate(shape) if i not in axes])


@rule("Unsqueeze", inputs=(1, 2), attributes="axes")
def _unsqueeze(node: Node) -> Operand:
    shape = node.shape(node.operand(0))
    count = len(node.get_ints("axes")) if node.has("axes") else len(node.integers(1))
    axes = node.axes_from(1, len(shape) + count) or []
    if len(set(axes)) != count or len(shape) + count > MAX_RANK:
        raise ValueError(f"axes {axes} name a dimension twice, or there are too many")
    sizes = iter(shape)
    return _reshaped(node, [1 if i in axes else next(sizes) for i in range(len(shape) + count)])


@rule("Transpose", inputs=(1, 1), attributes="perm")
def _transpose(node: Node) -> Operand:
    """Of values only where the elements keep their order, because all that moves has size 1."""
    x = node.operand(0)
    shape = node.shape(x)
    perm = node.get_ints("perm", range(len(shape))[::-1])
    if sorted(perm) != list(range(len(shape))):
        raise ValueError(f"perm {perm} is no order of {len(shape)} dimensions")
    if not isinstance(x, Ref):
        return x.transpose(perm)
    moving = [axis for axis in perm if axis == 0 or shape[axis] != 1]
    if any(a > b for a, b in pairwise(moving)):
        raise ValueError(
            f"perm {perm}: a plan has no step that changes the order of elements; export the model with images as (N, C, H, W)"
        )
    return node.reshape(x, [shape[axis] for axis in perm])


@rule("Expand", inputs=(2, 2))
def _expand(node: Node) -> Operand:
    x, wanted = node.operand(0), tuple(node.integers(1))
    if len(wanted) > MAX_RANK or min(wanted, default=1) < 0:
        raise ValueError(f"to {wanted}, which is no shape")
    shape = np.broadcast_shapes(node.shape(x), wanted)
    if not isinstance(x, Ref):
        return np.broadcast_to(x, shape)
    if shape != node.shape(x):
        raise ValueError(f"a value cannot be repeated to {shape}")
    return x


def cut(node: Node, x: Ref, bounds: list[tuple[int, int, int]]) -> Ref:
    """A value between (start, stop, step) of every dimension, the batch whole."""
    shape = node.shape(x)
    if bounds[0] != (0, shape[0], 1):
        raise ValueError("a part of the batch has no step")
    if any(step < 1 or start >= stop for start, stop, step in bounds):
        raise ValueError(f"the slice {bounds[1:]} is empty or runs backwards, which has no step")
    if all(bound == (0, size, 1) for bound, size in zip(bounds, shape, strict=True)):
        return x
    return node.add("slice", x, index=tuple(bounds[1:]))


@rule("Slice", inputs=(1, 5), attributes="starts ends axes")
def _slice(node: Node) -> Operand:
    x = node.operand(0)
    shape = node.shape(x)
    starts = node.get_ints("starts") if node.has("starts") else node.integers(1)
    stops = node.get_ints("ends") if node.has("ends") else node.integers(2)
    axes = node.axes_from(3, len(shape))
    if axes is None:
        axes = [node.axis(i, len(shape)) for i in range(len(starts))]
    steps = node.integers(4) if node.given(4) else [1] * len(starts)
    if not len(starts) == len(stops) == len(axes) == len(steps) == len(set(axes)) or 0 in steps:
        raise ValueError(f"starts {starts}, ends {stops}, axes {axes} and steps {steps} do not go together")
    slices = [slice(None)] * len(shape)
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        slices[axis] = slice(start, stop, step)
    if not isinstance(x, Ref):
        return x[tuple(slices)]
    return cut(node, x, [s.indices(size) for s, size in zip(slices, shape, strict=True)])


@rule("Split", inputs=(1, 2), attributes="axis split num_outputs")
def _split(node: Node) -> list[Operand]:
    x = node.operand(0)
    shape = node.shape(x)
    axis = node.axis(node.get_int("axis", 0), len(shape))
    if node.has("split") or node.given(1):
        sizes = node.get_ints("split") if node.has("split") else node.integers(1)
    else:  # equal parts, the last one smaller where they do not divide
        part = -(-shape[axis] // node.outputs)
        sizes = [part] * (node.outputs - 1) + [shape[axis] - part * (node.outputs - 1)]
    if len(sizes) != node.outputs or sum(sizes) != shape[axis] or min(sizes) < 1:
        raise ValueError(f"{sizes} are no {node.outputs} parts of {shape[axis]}")
    parts: list[Operand] = []
    start = 0
    for size in sizes:
        bounds = [(0, whole, 1) for whole in shape]
        bounds[axis] = (start, start + size, 1)
        parts.append(cut(node, x, bounds) if isinstance(x, Ref) else x[tuple(slice(*bound) for bound in bounds)])
        start += size
    return parts


@rule("Gather", inputs=(2, 2), attributes="axis")
def _gather(node: Node) -> Operand:
    """Of values: one index, which takes its dimension away (or leaves it, where it stands in a list)."""
    x, index = node.operand(0), node.constant(1)
    shape = node.shape(x)
    axis = node.axis(node.get_int("axis", 0), len(shape))
    if index.dtype.kind not in "iu":
        raise ValueError(f"its indices must be integers, got {index.dtype}")
    if not isinstance(x, Ref):
        node.take(index.size * math.prod(shape[:axis] + shape[axis + 1 :]), x.itemsize)
    if index.size and not (-shape[axis] <= int(index.min()) and int(index.max()) < shape[axis]):
        raise ValueError(f"an index outside dimension {axis} of {shape}")
    if not isinstance(x, Ref):
        return np.asarray(np.take(x, index, axis=axis))
    if index.size != 1 or index.ndim > 1:
        raise ValueError(f"of a value only one index has a step, got indices of shape {index.shape}")
    place = int(index.reshape(())) % shape[axis]
    bounds = [(0, size, 1) for size in shape]
    bounds[axis] = (place, place + 1, 1)
    return node.reshape(cut(node, x, bounds), shape[:axis] + index.shape + shape[axis + 1 :])


@rule("Pad", inputs=(1, 4), attributes="mode pads value")
def _pad(node: Node) -> Ref:
    """All beginnings, then all ends; negative amounts cut off."""
    x = node.value(0)
    rank = len(node.shape(x))
    if node.get_text("mode", "constant") != "constant":
        raise ValueError(f"mode {node.get_text('mode', '')!r} has no step; only constant")
    pads = node.integers(1) if node.given(1) else node.get_ints("pads")
    value = node.number(2) if node.given(2) else node.get_float("value", 0.0)
    axes = node.axes_from(3, rank) if node.given(3) else list(range(rank))
    if axes is None or len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise ValueError(f"pads {pads} and axes {axes} do not go together")
    if math.isnan(value):
        raise ValueError("its value is not a number")
    amounts = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        amounts[axis] = (pads[i], pads[i + len(axes)])
    return padded(node, x, amounts, value)


def padded(node: Node, x: Ref, amounts: list[tuple[int, int]], value: float) -> Ref:
    """A value with `amounts` (before, after) around every dimension; the batch gets none."""
    if amounts[0] != (0, 0):
        raise ValueError("padding of the batch has no step")
    shape = node.shape(x)
    bounds = [(max(-before, 0), size + min(after, 0), 1) for size, (before, after) in zip(shape, amounts, strict=True)]
    x = cut(node, x, bounds)
    around = tuple((max(before, 0), max(after, 0)) for before, after in amounts[1:])
    return node.add("pad", x, amounts=around, value=value) if any(map(any, around)) else x


@rule("Concat", inputs=(1, 4096), attributes="axis")
def _concat(node: Node) -> Operand:
    parts = [node.operand(i) for i in range(len(node.inputs))]
    axis = node.axis(node.get_int("axis"), len(node.shape(parts[0])))
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts):
        if len({array.dtype for array in arrays}) > 1:
            raise ValueError("constants of several dtypes cannot be joined")
        node.take(sum(array.size for array in arrays), arrays[0].itemsize)
        return np.concatenate(arrays, axis)
    if axis == 0:
        raise ValueError("joining batches has no step")
    return _joined(node, parts, axis)


def _joined(node: Node, parts: list[Operand], axis: int) -> Ref:
    """Values, and constants at the ends: what is all one number there is padding."""
    first = next(part for part in parts if isinstance(part, Ref))
    shape = node.shape(first)
    for part in parts:
        given: Shape = node.shape(part)
        if given[:axis] + given[axis + 1 :] != shape[:axis] + shape[axis + 1 :]:
            raise ValueError("its parts differ in other dimensions than the one along which they are joined")
    values = [i for i, part in enumerate(parts) if isinstance(part, Ref)]
    inner = parts[values[0] : values[-1] + 1]
    refs = [part for part in inner if isinstance(part, Ref)]
    if len(refs) != len(inner):
        raise ValueError("a constant between values has no step")
    x = refs[0] if len(refs) == 1 else node.add("concat", *refs, axis=axis)
    for side, constants in enumerate((parts[: values[0]][::-1], parts[values[-1] + 1 :])):
        for constant in constants:
            assert isinstance(constant, np.ndarray)
            size, value = constant.shape[axis], uniform(constant)
            if value is None or math.isnan(value):
                raise ValueError("a constant whose elements are not all one number cannot be joined to a value")
            amounts = [(0, 0)] * len(shape)
            amounts[axis] = (0, size) if side else (size, 0)
            x = padded(node, x, amounts, value)
    return x
