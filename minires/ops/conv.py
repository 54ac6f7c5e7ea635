"""Convolution and transposed convolution of images.

Three operations, each linear in both of its arguments and each the adjoint of the others:

    y  = Conv2d(x, w)                    <y, v> = <x, Conv2dBackwardX(v, w)> = <w, Conv2dBackwardWeight(v, x)>

so each one's derivatives are the other two, and derivatives of every order exist without another formula. A transposed
convolution is Conv2dBackwardX under its own name. How each is computed: `minires.kernels.reference.conv`.

Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.errors import ArgumentError, ShapeError
from minires.kernels.geometry import Conv2dGeometry, span
from minires.ops.checks import (
    check_floating,
    check_rank,
    check_same_device,
    check_same_dtype,
    check_tensor,
    pair,
)
from minires.ops.pad import constant_pad
from minires.ops.shape import reshape, squeeze, unsqueeze

if TYPE_CHECKING:
    from minires.tensor import Tensor


class Conv2d(Op):
    """y = w * x + b;  dL/dx = Conv2dBackwardX(dL/dy, w), dL/dw = Conv2dBackwardWeight(dL/dy, x), dL/db = sum of dL/dy."""

    name = "conv2d"
    structured = True

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any = None, *, geometry: Conv2dGeometry) -> Any:
        ctx.geometry = geometry
        # x is kept for weight's gradient only, weight for x's: a frozen layer holds on to less.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        return ctx.kernels.conv2d_forward(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, *needs_bias = ctx.needs_input_grad
        return (
            apply(Conv2dBackwardX, grad_y, weight, geometry=ctx.geometry) if needs_x else None,
            apply(Conv2dBackwardWeight, grad_y, x, geometry=ctx.geometry) if needs_weight else None,
            grad_y.sum((0, 2, 3)) if any(needs_bias) else None,
        )


class Conv2dBackwardX(Op):
    """x' = w^T v;  dL/dv = Conv2d(dL/dx', w),  dL/dw = Conv2dBackwardWeight(v, dL/dx')."""

    name = "conv2d_backward_x"
    structured = True

    @staticmethod
    def forward(ctx: Any, grad_y: Any, weight: Any, *, geometry: Conv2dGeometry) -> Any:
        ctx.geometry = geometry
        ctx.save_for_backward(grad_y if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        return ctx.kernels.conv2d_backward_x(grad_y, weight, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        grad_y, weight = ctx.saved_tensors
        needs_grad_y, needs_weight = ctx.needs_input_grad
        return (
            apply(Conv2d, grad, weight, geometry=ctx.geometry) if needs_grad_y else None,
            apply(Conv2dBackwardWeight, grad_y, grad, geometry=ctx.geometry) if needs_weight else None,
        )


class Conv2dBackwardWeight(Op):
    """w' = v x^T;  dL/dv = Conv2d(x, dL/dw'),  dL/dx = Conv2dBackwardX(v, dL/dw')."""

    name = "conv2d_backward_weight"
    structured = True

    @staticmethod
    def forward(ctx: Any, grad_y: Any, x: Any, *, geometry: Conv2dGeometry) -> Any:
        ctx.geometry = geometry
        ctx.save_for_backward(grad_y if ctx.needs_input_grad[1] else None, x if ctx.needs_input_grad[0] else None)
        return ctx.kernels.conv2d_backward_weight(grad_y, x, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        grad_y, x = ctx.saved_tensors
        needs_grad_y, needs_x = ctx.needs_input_grad
        return (
            apply(Conv2d, x, grad, geometry=ctx.geometry) if needs_grad_y else None,
            apply(Conv2dBackwardX, grad_y, grad, geometry=ctx.geometry) if needs_x else None,
        )


class ConvTranspose2d(Conv2dBackwardX):
    """The same map under the name a user called."""

    name = "conv_transpose2d"


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """2-d cross-correlation, as deep learning's "convolution" is:

        y[n, o, r, s] = bias[o] + sum over c, i, j of
                        weight[o, c, i, j] x[n, q C_in/groups + c, r stride - padding + i dilation, s stride - padding +
                        ...]

    where q = o // (C_out / groups) is the group of output channel o, and x is zero outside.

    Args:
        input: (N, C_in, H, W), or one image (C_in, H, W); floating.
        weight: (C_out, C_in / groups, K_h, K_w), of input's dtype.
        bias: (C_out,) or None.
        stride: step of the window; an int, or (vertical, horizontal), as the next two.
        padding: zeros around the input; or 'valid' for none, or 'same' for an output of the input's size (stride 1
        only; an
            odd row or column goes to the bottom and the right, as in torch).
        dilation: distance between taps.
        groups: independent convolutions side by side; C_in of them is a depthwise convolution.

    Returns:
        (N, C_out, H_out, W_out), or without N; H_out = floor((H + 2 padding - dilation (K_h - 1) - 1) / stride) + 1.

    Saves: input if weight requires grad, weight if input does.

    Raises:
        ShapeError: ranks or channels that do not fit, or a window larger than the padded input.
        ArgumentError: stride, dilation or groups below 1, negative padding, 'same' with a stride.
        DTypeError: not floating, or of several dtypes.
    """
    op = "conv2d"
    _check_tensors(op, input, weight, bias)
    c_out, c_per_group, k_h, k_w = weight.raw.shape
    stride_h, stride_w = _at_least(op, "stride", stride, 1)
    dilation_h, dilation_w = _at_least(op, "dilation", dilation, 1)
    _check_groups(op, groups, "weight's output channels", c_out)
    batched = input.raw.ndim == 4
    x = input if batched else unsqueeze(input, 0)
    n, c_in, h, w = x.raw.shape
    if c_in % groups:
        raise ShapeError(
            f"{op}: input channels must divide into groups = {groups}, got input.shape = {input.raw.shape}"
        )
    if c_in // groups != c_per_group:
        rule = f"C_in / groups = {c_in} / {groups}" if groups > 1 else "C_in"
        raise ShapeError(
            f"{op}: weight needs {c_in // groups} input channels ({rule}), got weight.shape = {weight.raw.shape}"
        )
    top, bottom, left, right = _paddings(op, padding, (k_h, k_w), (stride_h, stride_w), (dilation_h, dilation_w))
    geometry = Conv2dGeometry(
        n, c_in, h, w, c_out, k_h, k_w, stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, groups
    )
    _check_bias(op, bias, c_out)
    if min(h, w) < 1 or geometry.h_out < 1 or geometry.w_out < 1:
        raise ShapeError(
            f"{op}: the window covers {geometry.span_h} x {geometry.span_w} (kernel {k_h} x {k_w}, dilation "
            f"{dilation_h} x {dilation_w}), which the padded input of {h + top + bottom} x {w + left + right} does not hold, got "
            f"input.shape = {input.raw.shape}; pad more or use a smaller kernel"
        )
    y = apply(Conv2d, x, weight, bias, geometry=geometry)
    return y if batched else squeeze(y, 0)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """The adjoint of conv2d in its input, plus a bias; also called fractionally strided convolution.

        y[n, q C_out/groups + c, r stride - padding + i dilation, s stride - padding + j dilation]
            += weight[o, c, i, j] x[n, o, r, s]          for all n, o, c, r, s, i, j;  q = o // (C_in / groups)

    Args:
        input: (N, C_in, H, W), or one image (C_in, H, W); floating.
        weight: (C_in, C_out / groups, K_h, K_w), of input's dtype.
        bias: (C_out,) or None.
        stride, padding, dilation: of the convolution whose adjoint this is; an int or a pair.
        output_padding: rows and columns more at the bottom and right, less than stride or dilation: which of the sizes
        that
            the convolution maps to H is meant.
        groups: as for conv2d.

    Returns:
        (N, C_out, H_out, W_out), or without N;
        H_out = (H - 1) stride - 2 padding + dilation (K_h - 1) + output_padding + 1.

    Raises:
        ShapeError: ranks or channels that do not fit, or an empty result.
        ArgumentError: stride, dilation or groups below 1, negative padding, output_padding too large.
        DTypeError: not floating, or of several dtypes.

    Source: M. Zeiler et al., "Deconvolutional networks", 2010.
    """
    op = "conv_transpose2d"
    _check_tensors(op, input, weight, bias)
    c_in, c_out_per_group, k_h, k_w = weight.raw.shape
    strides = _at_least(op, "stride", stride, 1)
    dilations = _at_least(op, "dilation", dilation, 1)
    paddings = _at_least(op, "padding", padding, 0)
    extras = _at_least(op, "output_padding", output_padding, 0)
    if any(e >= max(s, d) for e, s, d in zip(extras, strides, dilations, strict=True)):
        raise ArgumentError(
            f"{op}: output_padding must be smaller than stride or dilation, got output_padding = {extras}, "
            f"stride = {strides}, dilation = {dilations}"
        )
    _check_groups(op, groups, "weight's input channels", c_in)
    batched = input.raw.ndim == 4
    x = input if batched else unsqueeze(input, 0)
    if x.raw.shape[1] != c_in:
        raise ShapeError(
            f"{op}: weight needs {x.raw.shape[1]} input channels (its first dimension), "
            f"got weight.shape = {weight.raw.shape}"
        )
    c_out = c_out_per_group * groups
    _check_bias(op, bias, c_out)
    h, w = x.raw.shape[2:]
    # One window an input pixel, before padding is cut off and output_padding added.
    full = tuple(
        (size - 1) * s + span(k, d) for size, k, s, d in zip((h, w), (k_h, k_w), strides, dilations, strict=True)
    )
    h_out, w_out = (f - 2 * p + e for f, p, e in zip(full, paddings, extras, strict=True))
    if min(h, w) < 1 or min(k_h, k_w) < 1 or min(h_out, w_out) < 1:
        raise ShapeError(
            f"{op}: the output would have {h_out} x {w_out} pixels, got input.shape = {input.raw.shape}, "
            f"kernel {k_h} x {k_w}, padding = {paddings}; pad less"
        )
    # A convolution that maps h_out rows to h leaves up to stride - 1 of them unread: that is output_padding. More of it
    # (allowed where the dilation is larger) means rows that no convolution of this stride has: added and cut off by hand.
    by_hand = any(e >= s for e, s in zip(extras, strides, strict=True))
    geometry = Conv2dGeometry(
        n=x.raw.shape[0],
        c_in=c_out,
        h=full[0] if by_hand else h_out,
        w=full[1] if by_hand else w_out,
        c_out=c_in,
        k_h=k_h,
        k_w=k_w,
        stride_h=strides[0],
        stride_w=strides[1],
        pad_top=0 if by_hand else paddings[0],
        pad_bottom=0 if by_hand else paddings[0],
        pad_left=0 if by_hand else paddings[1],
        pad_right=0 if by_hand else paddings[1],
        dilation_h=dilations[0],
        dilation_w=dilations[1],
        groups=groups,
    )
    y = apply(ConvTranspose2d, x, weight, geometry=geometry)
    if by_hand:
        y = constant_pad(y, (0, extras[1], 0, extras[0]))
        y = constant_pad(y, (-paddings[1], -paddings[1], -paddings[0], -paddings[0]))
    if bias is not None:
        y = y + reshape(bias, (1, c_out, 1, 1))
    return y if batched else squeeze(y, 0)


def _check_tensors(op: str, input: Any, weight: Any, bias: Any) -> None:
    check_tensor(op, "input", input)
    check_tensor(op, "weight", weight)
    if bias is not None:
        check_tensor(op, "bias", bias)
    check_rank(op, "input", input, (3, 4))
    check_rank(op, "weight", weight, 4)
    check_floating(op, "input", input)
    check_same_dtype(op, input=input, weight=weight, bias=bias)
    check_same_device(op, input=input, weight=weight, bias=bias)


def _check_bias(op: str, bias: Any, c_out: int) -> None:
    if bias is not None and bias.raw.shape != (c_out,):
        raise ShapeError(f"{op}: bias needs one value an output channel, ({c_out},), got bias.shape = {bias.raw.shape}")


def _check_groups(op: str, groups: Any, what: str, channels: int) -> None:
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
        raise ArgumentError(f"{op}: groups must be an int of at least 1, got {groups!r}")
    if channels % groups:
        raise ShapeError(f"{op}: {what} must divide into groups = {groups}, got {channels}")


def _at_least(op: str, name: str, value: Any, least: int) -> tuple[int, int]:
    values = pair(op, name, value)
    if min(values) < least:
        raise ArgumentError(f"{op}: {name} must be at least {least}, got {value!r}")
    return values


def _paddings(
    op: str, padding: Any, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a `padding` argument."""
    if min(kernel) < 1:
        raise ShapeError(f"{op}: weight needs a kernel of at least 1 x 1, got {kernel[0]} x {kernel[1]}")
    if not isinstance(padding, str):
        vertical, horizontal = _at_least(op, "padding", padding, 0)
        return vertical, vertical, horizontal, horizontal
    if padding == "valid":
        return 0, 0, 0, 0
    if padding != "same":
        raise ArgumentError(f"{op}: padding must be an int, a pair, 'same' or 'valid', got {padding!r}")
    if stride != (1, 1):
        raise ArgumentError(f"{op}: padding 'same' needs stride 1, got stride = {stride}; give the padding as a number")
    vertical, horizontal = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    return vertical // 2, vertical - vertical // 2, horizontal // 2, horizontal - horizontal // 2
