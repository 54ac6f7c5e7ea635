"""The sizes of an operation, frozen: an op validates and builds one, a kernel reads it and checks nothing.

The legend of size names, used in every kernel set:

    n             images in the batch                      c            channels (of a pooling or interpolation)
    c_in, c_out   channels of a convolution's x and y      groups       independent convolutions side by side
    h, w          rows and columns of x                    h_out, w_out rows and columns of y
    k_h, k_w      rows and columns of the window           stride_*     step of the window in x
    dilation_*    step between two taps of the window      span_*       rows or columns a dilated window covers
    pad_top, pad_bottom, pad_left, pad_right               rows and columns added around x

"Tap" (i, j) is one element of the window. In one dimension, output r and tap i meet the input at

    r * stride - pad_top + i * dilation

and a position outside [0, h) is padding: 0 for sums, -inf for maxima.
"""

from __future__ import annotations

from dataclasses import dataclass


def span(k: int, dilation: int) -> int:
    """How many rows a window of `k` taps covers when they are `dilation` apart."""
    return (k - 1) * dilation + 1


@dataclass(frozen=True)
class Conv2dGeometry:
    """Sizes of y = conv2d(x, weight) and, equally, of its two adjoints.

    Rows of x below the last window (the stride's remainder) are read by no output: their gradient is zero.
    """

    n: int
    c_in: int
    h: int
    w: int
    c_out: int
    k_h: int
    k_w: int
    stride_h: int = 1
    stride_w: int = 1
    pad_top: int = 0
    pad_bottom: int = 0
    pad_left: int = 0
    pad_right: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    groups: int = 1

    @property
    def span_h(self) -> int:
        return span(self.k_h, self.dilation_h)

    @property
    def span_w(self) -> int:
        return span(self.k_w, self.dilation_w)

    @property
    def h_out(self) -> int:
        return (self.h + self.pad_top + self.pad_bottom - self.span_h) // self.stride_h + 1

    @property
    def w_out(self) -> int:
        return (self.w + self.pad_left + self.pad_right - self.span_w) // self.stride_w + 1

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c_in, self.h, self.w)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.c_out, self.c_in // self.groups, self.k_h, self.k_w)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c_out, self.h_out, self.w_out)


def pooled_size(size: int, k: int, stride: int, pad: int, dilation: int, ceil_mode: bool) -> int:
    """Windows along one dimension of a pooling with padding `pad` on both sides.

    With `ceil_mode` a last, incomplete window counts too, but only if it starts inside the input or the left padding:
    one that starts in the right padding would see nothing.
    """
    room = size + 2 * pad - span(k, dilation)
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad else count


@dataclass(frozen=True)
class Pool2dGeometry:
    """Sizes of max_pool2d and avg_pool2d. The last two fields serve averages only; `divisor_override` 0 means none."""

    n: int
    c: int
    h: int
    w: int
    k_h: int
    k_w: int
    stride_h: int
    stride_w: int
    pad_top: int = 0
    pad_left: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int = 0

    @property
    def span_h(self) -> int:
        return span(self.k_h, self.dilation_h)

    @property
    def span_w(self) -> int:
        return span(self.k_w, self.dilation_w)

    @property
    def h_out(self) -> int:
        return pooled_size(self.h, self.k_h, self.stride_h, self.pad_top, self.dilation_h, self.ceil_mode)

    @property
    def w_out(self) -> int:
        return pooled_size(self.w, self.k_w, self.stride_w, self.pad_left, self.dilation_w, self.ceil_mode)

    @property
    def pad_bottom(self) -> int:
        """Rows the last window reaches below x; above pad_top in ceil_mode, negative where rows of x are left over."""
        return (self.h_out - 1) * self.stride_h + self.span_h - self.h - self.pad_top

    @property
    def pad_right(self) -> int:
        """Columns the last window reaches right of x, as pad_bottom."""
        return (self.w_out - 1) * self.stride_w + self.span_w - self.w - self.pad_left

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.h, self.w)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.h_out, self.w_out)

    @property
    def every_window_meets_x(self) -> bool:
        """False where all taps of some window lie in the padding: a dilated window can step over a small x."""
        return _every_window_meets(self.h, self.k_h, self.stride_h, self.pad_top, self.dilation_h, self.h_out) and (
            _every_window_meets(self.w, self.k_w, self.stride_w, self.pad_left, self.dilation_w, self.w_out)
        )


def _every_window_meets(size: int, k: int, stride: int, pad: int, dilation: int, outputs: int) -> bool:
    starts = (r * stride - pad for r in range(outputs))
    return all(any(0 <= start + i * dilation < size for i in range(k)) for start in starts)


@dataclass(frozen=True)
class AdaptivePool2dGeometry:
    """Sizes of an adaptive pooling: y has h_out x w_out regions that cover x, and may overlap by a row or column.

    Region r of one dimension is [floor(r h / h_out), ceil((r + 1) h / h_out)).
    """

    n: int
    c: int
    h: int
    w: int
    h_out: int
    w_out: int

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.h, self.w)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.h_out, self.w_out)

    def rows(self, r: int) -> slice:
        """The rows of x in region r."""
        return slice(r * self.h // self.h_out, -(-(r + 1) * self.h // self.h_out))

    def columns(self, s: int) -> slice:
        """The columns of x in region s."""
        return slice(s * self.w // self.w_out, -(-(s + 1) * self.w // self.w_out))


@dataclass(frozen=True)
class InterpolateGeometry:
    """Sizes of a resize of the last two dimensions.

    `scale_h`, `scale_w` are pixels of x a pixel of y: h / h_out, or 1 / scale_factor where the user gave a factor, or
    (h - 1) / (h_out - 1) with `align_corners`, which puts the corner pixels' centres on each other.
    """

    n: int
    c: int
    h: int
    w: int
    h_out: int
    w_out: int
    scale_h: float
    scale_w: float
    align_corners: bool = False

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.h, self.w)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.h_out, self.w_out)
