"""Pooling of images: the maximum or the mean of windows, or of a given number of regions.

The maximum is piecewise a choice: forward finds which element won, backward sends the gradient there (a scatter), and
the derivative of that, for a fixed choice, fetches from there (a gather); those two are each other's adjoint. The mean
is linear, so two operations that are each other's adjoint give every order of derivative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.errors import ArgumentError, ShapeError
from minires.kernels.geometry import AdaptivePool2dGeometry, Pool2dGeometry
from minires.ops.checks import check_floating, check_rank, check_tensor, pair
from minires.ops.shape import squeeze, unsqueeze

if TYPE_CHECKING:
    from minires.tensor import Tensor


class MaxPool2d(Op):
    """y = x[indices], indices the place of the largest in each window;  dL/dx[indices] += dL/dy."""

    name = "max_pool2d"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, *, geometry: Pool2dGeometry | AdaptivePool2dGeometry) -> Any:
        if isinstance(geometry, Pool2dGeometry):
            y, indices = ctx.kernels.max_pool2d_forward(x, geometry)
        else:
            y, indices = ctx.kernels.adaptive_max_pool2d_forward(x, geometry)
        ctx.geometry = geometry
        ctx.save_for_backward(indices)
        ctx.mark_non_differentiable(indices)
        ctx.set_materialize_grads(False)  # zeros for the indices, int64, would be twice as large as grad_y
        return y, indices

    @staticmethod
    def backward(ctx: Any, grad_y: Any, grad_indices: Any = None) -> Any:
        (indices,) = ctx.saved_tensors
        return apply(MaxPool2dBackward, grad_y, indices, geometry=ctx.geometry)


class MaxPool2dBackward(Op):
    """x'[indices] += v;  dL/dv = dL/dx'[indices]."""

    name = "max_pool2d_backward"
    structured = True

    @staticmethod
    def forward(ctx: Any, grad_y: Any, indices: Any, *, geometry: Pool2dGeometry | AdaptivePool2dGeometry) -> Any:
        ctx.geometry = geometry
        ctx.save_for_backward(indices)
        return ctx.kernels.max_pool2d_backward(grad_y, indices, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (indices,) = ctx.saved_tensors
        return apply(MaxPool2dGather, grad, indices, geometry=ctx.geometry)


class MaxPool2dGather(Op):
    """y = x[indices];  dL/dx[indices] += dL/dy."""

    name = "max_pool2d_gather"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, indices: Any, *, geometry: Pool2dGeometry | AdaptivePool2dGeometry) -> Any:
        ctx.geometry = geometry
        ctx.save_for_backward(indices)
        return ctx.kernels.max_pool2d_gather(x, indices, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (indices,) = ctx.saved_tensors
        return apply(MaxPool2dBackward, grad_y, indices, geometry=ctx.geometry)


class AvgPool2d(Op):
    """y = sum over the window / divisor;  dL/dx = AvgPool2dBackward(dL/dy)."""

    name = "avg_pool2d"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, *, geometry: Pool2dGeometry) -> Any:
        ctx.geometry = geometry
        return ctx.kernels.avg_pool2d_forward(x, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(AvgPool2dBackward, grad_y, geometry=ctx.geometry)


class AvgPool2dBackward(Op):
    """x' = v / divisor, spread over the window;  dL/dv = AvgPool2d(dL/dx')."""

    name = "avg_pool2d_backward"
    structured = True

    @staticmethod
    def forward(ctx: Any, grad_y: Any, *, geometry: Pool2dGeometry) -> Any:
        ctx.geometry = geometry
        return ctx.kernels.avg_pool2d_backward(grad_y, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return apply(AvgPool2d, grad, geometry=ctx.geometry)


class AdaptiveAvgPool2d(Op):
    """y = mean over the region;  dL/dx = AdaptiveAvgPool2dBackward(dL/dy)."""

    name = "adaptive_avg_pool2d"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, *, geometry: AdaptivePool2dGeometry) -> Any:
        ctx.geometry = geometry
        return ctx.kernels.adaptive_avg_pool2d_forward(x, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(AdaptiveAvgPool2dBackward, grad_y, geometry=ctx.geometry)


class AdaptiveAvgPool2dBackward(Op):
    """x' = v / size of the region, spread over it;  dL/dv = AdaptiveAvgPool2d(dL/dx')."""

    name = "adaptive_avg_pool2d_backward"
    structured = True

    @staticmethod
    def forward(ctx: Any, grad_y: Any, *, geometry: AdaptivePool2dGeometry) -> Any:
        ctx.geometry = geometry
        return ctx.kernels.adaptive_avg_pool2d_backward(grad_y, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return apply(AdaptiveAvgPool2d, grad, geometry=ctx.geometry)


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value of each window:

        y[n, c, r, s] = max over i, j of x[n, c, r stride - padding + i dilation, s stride - padding + j dilation]

    where x is -inf outside (zero padding would win over negative values). The first of equal maxima takes the gradient;
    a NaN wins, and takes it, as in torch.

    Args:
        input: (N, C, H, W), or one image (C, H, W); floating.
        kernel_size: an int, or (vertical, horizontal), as the next three.
        stride: step of the window; by default kernel_size.
        padding: at most half of kernel_size.
        dilation: distance between taps.
        ceil_mode: keep a last, incomplete window, if it starts inside the input or the left padding.
        return_indices: return where the maxima stand, too.

    Returns:
        (N, C, H_out, W_out), or without N; with `return_indices` also the int64 indices of the same shape, each the
        flat position in its (H, W) plane. H_out = floor((H + 2 padding - dilation (K_h - 1) - 1) / stride) + 1, or its
        ceiling.

    Saves: the indices.

    Raises:
        ShapeError: a wrong rank, or a window larger than the padded input.
        ArgumentError: sizes, stride or dilation below 1, padding more than half of kernel_size, or a dilated window
        that lies
            in the padding alone.
        DTypeError: not floating.
    """
    op = "max_pool2d"
    x = _images(op, input)
    geometry = _pool_geometry(op, x, kernel_size, stride, padding, dilation, ceil_mode)
    if not geometry.every_window_meets_x:
        raise ArgumentError(
            f"{op}: some window (kernel_size = {kernel_size}, dilation = {dilation}) lies in the padding alone, got "
            f"padding = {padding} for input.shape = {input.raw.shape}; use less padding or dilation"
        )
    return _maximum(input, x, geometry, return_indices)


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window:

        y[n, c, r, s] = sum over i, j of x[n, c, r stride - padding + i, s stride - padding + j] / divisor[r, s]

    where x is zero outside, and divisor[r, s] is how many elements of the window lie in the padded input, or in the
    input.

    Args:
        input: (N, C, H, W), or one image (C, H, W); floating.
        kernel_size: an int, or (vertical, horizontal), as the next two.
        stride: step of the window; by default kernel_size.
        padding: at most half of kernel_size.
        ceil_mode: keep a last, incomplete window; what it reaches beyond the padding never counts.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: divide by this instead.

    Returns:
        (N, C, H_out, W_out), or without N; sizes as for max_pool2d.

    Raises:
        ShapeError: a wrong rank, or a window larger than the padded input.
        ArgumentError: sizes or stride below 1, padding more than half of kernel_size, a divisor of 0.
        DTypeError: not floating.
    """
    op = "avg_pool2d"
    x = _images(op, input)
    if divisor_override is not None and (not isinstance(divisor_override, int) or divisor_override == 0):
        raise ArgumentError(f"{op}: divisor_override must be None or an int other than 0, got {divisor_override!r}")
    geometry = _pool_geometry(
        op, x, kernel_size, stride, padding, 1, ceil_mode, bool(count_include_pad), divisor_override or 0
    )
    y = apply(AvgPool2d, x, geometry=geometry)
    return y if input.raw.ndim == 4 else squeeze(y, 0)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """The mean of each of H_out x W_out regions that cover the input; (1, 1) is global average pooling.

        y[n, c, r, s] = mean of x[n, c, i, j],  floor(r H / H_out) <= i < ceil((r + 1) H / H_out), and j alike

    Args:
        input: (N, C, H, W), or one image (C, H, W); floating.
        output_size: an int, or (H_out, W_out); None keeps the input's size.

    Returns:
        (N, C, H_out, W_out), or without N.

    Raises:
        ShapeError: a wrong rank or an empty image.
        ArgumentError: an output size below 1.
        DTypeError: not floating.
    """
    op = "adaptive_avg_pool2d"
    x = _images(op, input)
    y = apply(AdaptiveAvgPool2d, x, geometry=_adaptive_geometry(op, x, output_size))
    return y if input.raw.ndim == 4 else squeeze(y, 0)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest value of each of H_out x W_out regions; regions as in adaptive_avg_pool2d, ties and NaN as in
    max_pool2d.

    Args:
        input: (N, C, H, W), or one image (C, H, W); floating.
        output_size: an int, or (H_out, W_out); None keeps the input's size.
        return_indices: return where the maxima stand, too.

    Returns:
        (N, C, H_out, W_out), or without N; with `return_indices` also their flat positions (int64).

    Raises: as adaptive_avg_pool2d.
    """
    op = "adaptive_max_pool2d"
    x = _images(op, input)
    return _maximum(input, x, _adaptive_geometry(op, x, output_size), return_indices)


def _maximum(input: Any, x: Any, geometry: Pool2dGeometry | AdaptivePool2dGeometry, return_indices: bool) -> Any:
    results = apply(MaxPool2d, x, geometry=geometry)
    if input.raw.ndim == 3:
        results = tuple(squeeze(result, 0) for result in results)
    return results if return_indices else results[0]


def _images(op: str, input: Any) -> Any:
    """input as a batch (N, C, H, W)."""
    check_tensor(op, "input", input)
    check_rank(op, "input", input, (3, 4))
    check_floating(op, "input", input)
    if min(input.raw.shape[-3:]) < 1:
        raise ShapeError(f"{op}: input needs at least one channel, row and column, got input.shape = {input.raw.shape}")
    return input if input.raw.ndim == 4 else unsqueeze(input, 0)


def _pool_geometry(
    op: str,
    x: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    count_include_pad: bool = True,
    divisor_override: int = 0,
) -> Pool2dGeometry:
    kernel = pair(op, "kernel_size", kernel_size)
    step = kernel if stride is None or stride in ((), []) else pair(op, "stride", stride)
    pads = pair(op, "padding", padding)
    spread = pair(op, "dilation", dilation)
    for name, values in (("kernel_size", kernel), ("stride", step), ("dilation", spread)):
        if min(values) < 1:
            raise ArgumentError(f"{op}: {name} must be at least 1, got {values}")
    if any(p < 0 or 2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise ArgumentError(
            f"{op}: padding must be from 0 to half of kernel_size = {kernel}, got padding = {pads}; "
            "for more, pad the input first"
        )
    n, c, h, w = x.raw.shape
    geometry = Pool2dGeometry(
        n=n,
        c=c,
        h=h,
        w=w,
        k_h=kernel[0],
        k_w=kernel[1],
        stride_h=step[0],
        stride_w=step[1],
        pad_top=pads[0],
        pad_left=pads[1],
        dilation_h=spread[0],
        dilation_w=spread[1],
        ceil_mode=bool(ceil_mode),
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )
    if geometry.h_out < 1 or geometry.w_out < 1:
        raise ShapeError(
            f"{op}: the window covers {geometry.span_h} x {geometry.span_w}, which the padded input "
            f"of {h + 2 * pads[0]} x {w + 2 * pads[1]} does not hold, got input.shape = {x.raw.shape}; "
            "use a smaller kernel_size or more padding"
        )
    return geometry


def _adaptive_geometry(op: str, x: Any, output_size: Any) -> AdaptivePool2dGeometry:
    n, c, h, w = x.raw.shape
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if len(wanted) == 2:
        wanted = tuple(size if asked is None else asked for asked, size in zip(wanted, (h, w), strict=True))
    h_out, w_out = pair(op, "output_size", wanted)
    if min(h_out, w_out) < 1:
        raise ArgumentError(f"{op}: output_size must be at least 1, got {output_size!r}")
    return AdaptivePool2dGeometry(n, c, h, w, h_out, w_out)
