"""ONNX's layers: convolution, batch norm, matrix products, pooling, means, softmax.

Padding in ONNX is a list of all beginnings, then all ends: (top, left, bottom, right). `auto_pad` says it in words:
SAME_UPPER and SAME_LOWER pad until there is an output for every stride-th input, the odd row at the end or the beginning.

Source: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minires.infer.onnx.rules import Node, Operand, Shape, rule, uniform
from minires.infer.rules import batch_norm_constants
from minires.infer.trace import Ref
from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, Pool2dGeometry, span

MAX_WINDOW = 1 << 24  # of a stride, dilation, padding or window: far more than any image


class Window(NamedTuple):
    """Where a window goes, (rows, columns) each."""

    k: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    begin: tuple[int, int]
    end: tuple[int, int]

    def room(self, i: int, size: int) -> int:
        """How far the window can move in dimension i."""
        return size + self.begin[i] + self.end[i] - span(self.k[i], self.dilation[i])


def _image(node: Node) -> tuple[Ref, tuple[int, int, int, int]]:
    x = node.value(0)
    shape = node.shape(x)
    if len(shape) != 4:
        raise ValueError("only images, (N, C, H, W), have a step in a plan")
    n, c, h, w = shape
    return x, (n, c, h, w)


def _window(node: Node, size: tuple[int, ...], kernel: tuple[int, ...] | None = None) -> Window:
    """A node's window over images of `size` (rows, columns); `kernel` is the weight's, where there is one."""
    k = tuple(node.get_ints("kernel_shape", kernel))
    if kernel is not None and k != kernel:
        raise ValueError(f"kernel_shape is {k}, its weight says {kernel}")
    stride, dilation = node.get_ints("strides", (1, 1)), node.get_ints("dilations", (1, 1))
    pads = node.get_ints("pads", (0, 0, 0, 0))
    if (len(k), len(stride), len(dilation), len(pads)) != (2, 2, 2, 4):
        raise ValueError("kernel_shape, strides and dilations need 2 numbers, pads 4")
    if min(*k, *stride, *dilation) < 1 or min(pads) < 0 or max(*k, *stride, *dilation, *pads) > MAX_WINDOW:
        raise ValueError(f"a window that is none: {k}, strides {stride}, dilations {dilation}, pads {pads}")
    begin, end = pads[:2], pads[2:]
    auto = node.get_text("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(2):
            last = (-(-size[i] // stride[i]) - 1) * stride[i]
            total = max(last + span(k[i], dilation[i]) - size[i], 0)
            begin[i] = total // 2 if auto == "SAME_UPPER" else total - total // 2
            end[i] = total - begin[i]
    elif auto == "VALID":
        begin, end = [0, 0], [0, 0]
    elif auto != "NOTSET":
        raise ValueError(f"auto_pad {auto!r} is none")
    window = Window((k[0], k[1]), *((pair[0], pair[1]) for pair in (stride, dilation, begin, end)))
    if min(window.room(0, size[0]), window.room(1, size[1])) < 0:
        raise ValueError(f"the window does not fit into the padded image: {window}")
    return window


@rule("Conv", inputs=(2, 3), attributes="auto_pad dilations group kernel_shape pads strides")
def _conv(node: Node) -> Ref:
    x, shape = _image(node)
    weight = node.weights(1)
    if weight.ndim != 4:
        raise ValueError(f"its weight must have 4 dimensions, got shape {weight.shape}")
    window = _window(node, shape[2:], weight.shape[2:])
    begin, end = list(window.begin), list(window.end)
    padding = node.maker(x)
    if padding is not None and padding.kind == "pad" and padding.attributes["value"] == 0:
        channels, *sides = padding.attributes["amounts"]
        if channels == (0, 0):  # a Pad node of zeros in front of it: the convolution's own padding
            x = Ref(padding.inputs[0])
            n, c, h, w = node.shape(x)
            shape = (n, c, h, w)
            begin, end = [[a + side[i] for a, side in zip(p, sides, strict=True)] for i, p in enumerate((begin, end))]
    groups = node.get_int("group", 1)
    if groups < 1:
        raise ValueError(f"group must be at least 1, got {groups}")
    pads = (begin[0], end[0], begin[1], end[1])
    geometry = Conv2dGeometry(*shape, weight.shape[0], *window.k, *window.stride, *pads, *window.dilation, groups)
    constants = {"weight": weight}
    if node.given(2):
        constants["bias"] = node.weights(2, (weight.shape[0],))
    return node.add("conv2d", x, constants=constants, geometry=geometry, relu=False)


@rule("BatchNormalization", inputs=(5, 5), attributes="epsilon momentum spatial training_mode")
def _batch_norm(node: Node) -> Ref:
    x = node.value(0)
    shape = node.shape(x)
    if node.get_int("training_mode", 0):
        raise ValueError("it is in training mode; export the model in evaluation mode, model.eval()")
    if not node.get_int("spatial", 1):
        raise ValueError("spatial=0, statistics for each pixel, has no step")
    if len(shape) < 2:
        raise ValueError("its input needs channels")
    weight, bias, mean, var = (node.weights(i, shape[1:2]) for i in range(1, 5))
    constants = batch_norm_constants(weight, bias, mean, var, node.get_float("epsilon", 1e-5))
    return node.add("scale_shift", x, constants=constants, relu=False)


def linear(node: Node, x: Ref, matrix: np.ndarray, bias: np.ndarray | None = None) -> Ref:
    """x (n, in) times a constant matrix (in, out), plus a bias (out,)."""
    constants = {"weight": matrix.T} if bias is None else {"weight": matrix.T, "bias": bias}
    return node.add("linear", x, constants=constants, relu=False)


@rule("Gemm", inputs=(2, 3), attributes="alpha beta transA transB")
def _gemm(node: Node) -> Ref:
    """alpha A' B' + beta C."""
    x, matrix = node.value(0), node.weights(1)
    alpha, beta = node.get_float("alpha", 1.0), node.get_float("beta", 1.0)
    if len(node.shape(x)) != 2 or matrix.ndim != 2:
        raise ValueError("only a product of (N, features) by a matrix has a step")
    if node.get_int("transA", 0):
        raise ValueError("transA turns the batch into features")
    if node.get_int("transB", 0):
        matrix = matrix.T
    if alpha != 1:
        node.take(matrix.size, matrix.itemsize)
        matrix = matrix * matrix.dtype.type(alpha)
    if not node.given(2):
        return linear(node, x, matrix)
    other = node.operand(2)
    if isinstance(other, Ref):
        product = linear(node, x, matrix)
        if beta != 1:
            raise ValueError("beta must be 1 where C depends on the network's input")
        return node.add("add", product, other, relu=False)
    bias = node.weights(2)
    padded = (1,) * (2 - bias.ndim) + bias.shape
    columns = matrix.shape[1]
    if len(padded) != 2 or padded[0] != 1 or padded[1] not in (1, columns):
        raise ValueError(f"C must be one number or one for each of {columns} columns, got shape {bias.shape}")
    node.take(columns)
    return linear(node, x, matrix, np.broadcast_to(bias.reshape(-1), columns) * bias.dtype.type(beta))


@rule("MatMul", inputs=(2, 2))
def _matmul(node: Node) -> Operand:
    if node.all_constant:
        a, b = node.constant(0), node.constant(1)
        if min(a.ndim, b.ndim) < 1 or max(a.ndim, b.ndim) > 2:
            raise ValueError("of constants only products of matrices are computed")
        node.take(math.prod(a.shape[:-1]) * math.prod(b.shape[1:]), a.itemsize)
        return a @ b
    x, matrix = node.value(0), node.weights(1)
    shape = node.shape(x)
    if len(shape) < 2 or matrix.ndim != 2 or any(size != 1 for size in shape[1:-1]):
        raise ValueError("only a product of (N, features) by a matrix has a step")
    product = linear(node, node.reshape(x, (node.n, shape[-1])), matrix)
    return node.reshape(product, (*shape[:-1], matrix.shape[1]))


def _windows(room: int, stride: int, size: int, begin: int, ceil: bool) -> int:
    """Outputs of a pooling; with `ceil` a last, incomplete window counts if it begins within the image or before it."""
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + begin else count


@rule("MaxPool", inputs=(1, 1), attributes="auto_pad ceil_mode dilations kernel_shape pads storage_order strides")
def _max_pool(node: Node) -> Ref:
    x, shape = _image(node)
    window = _window(node, shape[2:])
    out = _pooled(node, window, shape)
    if window.dilation != (1, 1):
        node.take_taps(out[0] * window.k[0] + out[1] * window.k[1])
    # Taps beyond the image are -inf, wherever the padding ends: only where windows begin and how many there are counts.
    for ceil in (False, True):
        g = _pool_geometry(shape, window, ceil)
        if (g.h_out, g.w_out) == out and 2 * g.pad_top <= g.k_h and 2 * g.pad_left <= g.k_w:
            return node.add("max_pool2d", x, geometry=g)
    return _max_pool_padded(node, x, shape, window, out)


def _max_pool_padded(node: Node, x: Ref, shape: Shape, window: Window, out: tuple[int, int]) -> Ref:
    """A maximum whose padding no geometry has: a step that pads with -inf, then one that pools."""
    amounts = [(0, 0)]
    for i in range(2):
        first, last = span(window.k[i], window.dilation[i]) - window.begin[i], (out[i] - 1) * window.stride[i]
        if first < 1 or last - window.begin[i] >= shape[2 + i] or window.dilation[i] > 1:
            raise ValueError("some window may lie in the padding alone, where there is no maximum")
        amounts.append((window.begin[i], max(last + window.k[i] - shape[2 + i] - window.begin[i], 0)))
    padded = node.add("pad", x, amounts=tuple(amounts), value=-math.inf)
    bare = window._replace(begin=(0, 0), end=(0, 0))
    return node.add("max_pool2d", padded, geometry=_pool_geometry(node.shape(padded), bare, False))


def _pooled(node: Node, window: Window, shape: Shape) -> tuple[int, int]:
    auto = node.get_text("auto_pad", "NOTSET")
    ceil = bool(node.get_int("ceil_mode", 0))
    if auto.startswith("SAME") and (window.k[0] < window.stride[0] or window.k[1] < window.stride[1]):
        raise ValueError(f"auto_pad {auto} of a window smaller than its stride: runtimes do not agree on what it means")
    h, w = (
        _windows(window.room(i, shape[2 + i]), window.stride[i], shape[2 + i], window.begin[i], ceil) for i in range(2)
    )
    return h, w


def _pool_geometry(shape: Shape, window: Window, ceil: bool, count_include_pad: bool = True) -> Pool2dGeometry:
    n, c, h, w = shape
    return Pool2dGeometry(
        n, c, h, w, *window.k, *window.stride, *window.begin, *window.dilation, ceil, count_include_pad
    )


@rule(
    "AveragePool",
    inputs=(1, 1),
    attributes="auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides",
)
def _average_pool(node: Node) -> Ref:
    x, shape = _image(node)
    window = _window(node, shape[2:])
    if window.dilation != (1, 1):
        raise ValueError("dilations of an average have no step")
    out = _pooled(node, window, shape)
    include = bool(node.get_int("count_include_pad", 0)) and any(window.begin + window.end)
    if include and window.begin != window.end:
        # Zeros on both sides first; then they count as any other pixel does.
        amounts = ((0, 0), *zip(window.begin, window.end, strict=True))
        x = node.add("pad", x, amounts=amounts, value=0.0)
        window, include = window._replace(begin=(0, 0), end=(0, 0)), False
    for ceil in (False, True):
        g = _pool_geometry(node.shape(x), window, ceil, include)
        if (g.h_out, g.w_out) == out and 2 * g.pad_top <= g.k_h and 2 * g.pad_left <= g.k_w:
            return node.add("avg_pool2d", x, geometry=g)
    raise ValueError(f"this padding of an average has no step: {window}, {out} outputs")


def reduce(node: Node, kind: str, axes: list[int], keep: bool) -> Ref:
    """The mean ("adaptive_avg_pool2d") or maximum ("max_pool2d") over neighbouring dimensions behind the batch."""
    x = node.value(0)
    shape = node.shape(x)
    axes = sorted(set(axes))
    if not axes:
        return x
    if axes[0] == 0 or axes != list(range(axes[0], axes[-1] + 1)):
        raise ValueError(f"over dimensions {axes}: only neighbours behind the batch have a step")
    lead, size, trail = (
        math.prod(part) for part in (shape[1 : axes[0]], shape[axes[0] : axes[-1] + 1], shape[axes[-1] + 1 :])
    )
    if len(shape) == 4 and axes == [2, 3]:
        geometry = AdaptivePool2dGeometry(*shape, 1, 1)
    else:
        x = node.reshape(x, (node.n, lead, size, trail))
        geometry = AdaptivePool2dGeometry(node.n, lead, size, trail, 1, trail)
    pooled = node.add(kind, x, geometry=geometry)
    kept = [1 if i in axes else size for i, size in enumerate(shape) if keep or i not in axes]
    return node.reshape(pooled, kept)


@rule("GlobalAveragePool", "GlobalMaxPool", inputs=(1, 1))
def _global_pool(node: Node) -> Ref:
    kind = "adaptive_avg_pool2d" if node.op == "GlobalAveragePool" else "max_pool2d"
    return reduce(node, kind, list(range(2, len(node.shape(node.value(0))))), keep=True)


@rule("ReduceMean", "ReduceMax", inputs=(1, 2), attributes="axes keepdims noop_with_empty_axes")
def _reduce(node: Node) -> Operand:
    x = node.operand(0)
    rank = len(node.shape(x))
    axes = node.axes_from(1, rank)
    if not axes:
        axes = [] if node.get_int("noop_with_empty_axes", 0) else list(range(rank))
    keep = bool(node.get_int("keepdims", 1))
    if isinstance(x, Ref):
        return reduce(node, "adaptive_avg_pool2d" if node.op == "ReduceMean" else "max_pool2d", axes, keep)
    node.take(x.size, x.itemsize)
    return np.asarray((np.mean if node.op == "ReduceMean" else np.max)(x, axis=tuple(axes), keepdims=keep), x.dtype)


@rule("Softmax", inputs=(1, 1), attributes="axis")
def _softmax(node: Node) -> Ref:
    x = node.value(0)
    shape = node.shape(x)
    axis = node.axis(node.get_int("axis", -1 if node.opset >= 13 else 1), len(shape))
    if axis == 0:
        raise ValueError("over the batch it has no step")
    if node.opset >= 13 or axis == len(shape) - 1:
        return node.add("softmax", x, axis=axis)
    # Before opset 13 all dimensions from `axis` on are one.
    flat = node.reshape(x, (node.n, math.prod(shape[1:axis]), math.prod(shape[axis:])))
    return node.reshape(node.add("softmax", flat, axis=2), shape)


@rule("Dropout", inputs=(1, 3), attributes="ratio seed")
def _dropout(node: Node) -> Operand:
    if node.given(2) and uniform(node.constant(2)) != 0:
        raise ValueError("it is in training mode; export the model in evaluation mode, model.eval()")
    return node.operand(0)
