"""Convolution layers: `Conv2d` and `ConvTranspose2d`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minires.creation import empty
from minires.errors import ArgumentError
from minires.nn import functional as F
from minires.nn import init
from minires.nn.module import Module
from minires.nn.parameter import Parameter
from minires.ops.checks import pair
from minires.tensor import Tensor

IntOrPair = int | tuple[int, int]
_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv2d(Module):
    """What both convolutions have: sizes, weight, bias, their initialisation and their text."""

    padding: tuple[int, int] | str
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair,
        padding: str | IntOrPair,
        dilation: IntOrPair,
        output_padding: IntOrPair,
        groups: int,
        bias: bool,
        padding_mode: str,
        weight_channels: tuple[int, int],
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(op, "kernel_size", kernel_size)
        self.stride = pair(op, "stride", stride)
        self.padding = padding if isinstance(padding, str) else pair(op, "padding", padding)
        self.dilation = pair(op, "dilation", dilation)
        self.output_padding = pair(op, "output_padding", output_padding)
        self.groups = groups
        self.padding_mode = padding_mode
        self._check_options(op)
        c_0, c_1 = weight_channels
        self.weight = Parameter(empty(c_0, c_1, *self.kernel_size, device=device, dtype=dtype))
        self.register_parameter("bias", Parameter(empty(out_channels, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def _check_options(self, op: str) -> None:
        if self.padding_mode not in _PADDING_MODES:
            raise ArgumentError(f"{op}: padding_mode must be one of {_PADDING_MODES}, got {self.padding_mode!r}")
        if isinstance(self.padding, str):
            if self.padding not in ("same", "valid"):
                raise ArgumentError(f"{op}: padding as text must be 'same' or 'valid', got {self.padding!r}")
            if self.padding == "same" and self.stride != (1, 1):
                raise ArgumentError(f"{op}: padding='same' needs stride 1, got stride={self.stride}")

    def reset_parameters(self) -> None:
        """Draw new weights, uniform in +-1/sqrt(fan_in) as torch's: fan_in = weight.shape[1] * k_h * k_w."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in > 0:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding != (0, 0):
            # torch prints a text without quotes here.
            parts.append(f"padding={self.padding}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != (0, 0):
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


def _check_channels(op: str, in_channels: int, out_channels: int, groups: int) -> None:
    if not isinstance(groups, int) or groups <= 0:
        raise ArgumentError(f"{op}: groups must be a positive integer, got {groups!r}")
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
        if value % groups:
            raise ArgumentError(f"{op}: {name} must be divisible by groups, got {name}={value}, groups={groups}")


class Conv2d(_Conv2d):
    """y[n, o, i, j] = b[o] + sum_{c, p, q} w[o, c, p, q] * x[n, g(o) + c, i*s_h + p*d_h - p_h, j*s_w + q*d_w - p_w].

    Args:
        in_channels, out_channels: C_in and C_out.
        kernel_size: (k_h, k_w), or one int for both.
        stride, dilation: steps between windows, and between the taps of one window.
        padding: rows and columns added on each side; "same" (output of the input's size, stride 1) or "valid" (none).
        groups: the channels are cut into this many groups that do not see each other; in_channels makes it depthwise.
        bias: whether b is there.
        padding_mode: what the added border holds: "zeros", "reflect", "replicate" or "circular".

    Shapes: input (N, C_in, H, W) or (C_in, H, W); weight (C_out, C_in / groups, k_h, k_w); bias (C_out,); output
    (N, C_out, H_out, W_out) with H_out = floor((H + 2 p_h - d_h (k_h - 1) - 1) / s_h) + 1.

    Raises:
        ArgumentError: channels not divisible by groups, an unknown padding or padding_mode.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: str | IntOrPair = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _check_channels("Conv2d", in_channels, out_channels, groups)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            bias,
            padding_mode,
            (out_channels, in_channels // groups),
            device,
            dtype,
        )

    def forward(self, input: Tensor) -> Tensor:
        if self.padding_mode == "zeros":
            return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        padded = F.pad(input, self._border(), mode=self.padding_mode)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _border(self) -> tuple[int, int, int, int]:
        """(left, right, top, bottom), in the order that `pad` takes: last dimension first."""
        border: list[int] = []
        for axis in (1, 0):
            if self.padding == "same":
                # An odd total leaves one more on the far side, as torch's.
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                border += [total // 2, total - total // 2]
            elif self.padding == "valid":
                border += [0, 0]
            else:
                border += [int(self.padding[axis])] * 2
        left, right, top, bottom = border
        return left, right, top, bottom


class ConvTranspose2d(_Conv2d):
    """The adjoint of `Conv2d` with respect to its input: every input value adds its kernel into the output.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as `Conv2d`, seen from this layer.
        padding: rows and columns cut off each side of the output.
        output_padding: rows and columns added at the bottom and right: a strided convolution maps several sizes to
            one, and this chooses among them.

    Shapes: input (N, C_in, H, W); weight (C_in, C_out / groups, k_h, k_w); output (N, C_out, H_out, W_out) with
    H_out = (H - 1) s_h - 2 p_h + d_h (k_h - 1) + output_padding_h + 1.
    """

    padding: tuple[int, int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrPair = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ArgumentError(f"ConvTranspose2d: only padding_mode='zeros' is there, got {padding_mode!r}")
        _check_channels("ConvTranspose2d", in_channels, out_channels, groups)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            groups,
            bias,
            padding_mode,
            (in_channels, out_channels // groups),
            device,
            dtype,
        )

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """`output_size`: (H_out, W_out), or the whole shape, in place of `output_padding`."""
        output_padding = self.output_padding if output_size is None else self._padding_for(input, output_size)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )

    def _padding_for(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, int]:
        if len(output_size) not in (2, input.ndim):
            raise ArgumentError(
                f"ConvTranspose2d: output_size needs 2 or {input.ndim} sizes for an input of shape "
                f"{tuple(input.shape)}, got {tuple(output_size)}"
            )
        extra = []
        for axis, wanted in enumerate(output_size[-2:]):
            smallest = (
                (input.shape[axis - 2] - 1) * self.stride[axis]
                - 2 * self.padding[axis]
                + self.dilation[axis] * (self.kernel_size[axis] - 1)
                + 1
            )
            if not smallest <= wanted < smallest + self.stride[axis]:
                largest = smallest + self.stride[axis] - 1
                raise ArgumentError(
                    f"ConvTranspose2d: output_size[{axis - 2}] must be in [{smallest}, {largest}] "
                    f"for an input of shape {tuple(input.shape)}, got {wanted}"
                )
            extra.append(wanted - smallest)
        return extra[0], extra[1]
