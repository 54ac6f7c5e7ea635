"""Pooling layers. The arguments are kept as they were given, so that `repr` shows what was written, as torch's does."""

from __future__ import annotations

from typing import Any

from minires.nn import functional as F
from minires.nn.module import Module
from minires.tensor import Tensor

IntOrPair = int | tuple[int, int]
OutputSize = int | None | tuple[int | None, int | None]


class MaxPool2d(Module):
    """y = the largest value of each window. Padding counts as -inf; of equal values the first one gets the gradient.

    Args:
        kernel_size, stride, padding, dilation: int or pair; `stride` None means `kernel_size` (windows side by side).
        return_indices: also return where in H * W each maximum stood.
        ceil_mode: keep the last, incomplete window.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Any:
        return F.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """y = the mean of each window.

    Args:
        kernel_size, stride, padding: int or pair; `stride` None means `kernel_size`.
        ceil_mode: keep the last, incomplete window.
        count_include_pad: whether padded zeros count in the divisor.
        divisor_override: divide by this instead.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """y = means over windows chosen so that the output has `output_size`; 1 is the global mean before a classifier.

    Args:
        output_size: (H_out, W_out), or one int for both; None keeps the input's size.
    """

    def __init__(self, output_size: OutputSize) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool2d(Module):
    """y = maxima over the windows that `AdaptiveAvgPool2d` would average.

    Args:
        output_size: (H_out, W_out), or one int for both; None keeps the input's size.
        return_indices: also return where in H * W each maximum stood.
    """

    def __init__(self, output_size: OutputSize, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class Upsample(Module):
    """Enlarge (N, C, H, W) to `size`, or by `scale_factor`.

    Args:
        size: (H_out, W_out), or one int for both.
        scale_factor: a number or a pair; give this or `size`.
        mode: "nearest" or "bilinear".
        align_corners: for "bilinear": whether the corner values keep their place.
        recompute_scale_factor: compute the scale again from the rounded output size.
    """

    def __init__(
        self,
        size: IntOrPair | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.scale_factor: Any = None
        if isinstance(scale_factor, tuple):
            self.scale_factor = tuple(float(factor) for factor in scale_factor)
        elif scale_factor is not None:
            self.scale_factor = float(scale_factor)
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        what = f"size={self.size!r}" if self.scale_factor is None else f"scale_factor={self.scale_factor!r}"
        return f"{what}, mode={self.mode!r}"
