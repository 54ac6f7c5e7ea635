"""Operations over windows and pixels: convolution, pooling, interpolation. The rules stand in __init__.py."""

from __future__ import annotations

from typing import Protocol

from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, InterpolateGeometry, Pool2dGeometry
from minires.kernels.interface.arrays import Array


class Convolution(Protocol):
    """conv2d and its adjoints.

    Three maps, each linear in both arguments, and each the adjoint of the others:

        <conv2d_forward(x, weight), v> = <x, conv2d_backward_x(v, weight)> = <weight, conv2d_backward_weight(v, x)>
    """

    def conv2d_forward(self, x: Array, weight: Array, bias: Array | None, g: Conv2dGeometry) -> Array:
        """y = weight * x + bias, a cross-correlation.

            for b, o, r, s:                              # o belongs to group q = o // (c_out / groups)
                y[b, o, r, s] = bias[o]
                for c, i, j:                             # c_in / groups channels, k_h x k_w taps
                    y[b, o, r, s] += weight[o, c, i, j] * x[b, q * c_in / groups + c,
                        r * stride_h - pad_top + i * dilation_h, s * stride_w - pad_left + j * dilation_w]

        Args:
            x: (n, c_in, h, w).
            weight: (c_out, c_in / groups, k_h, k_w).
            bias: (c_out,) or None.

        Returns:
            y: (n, c_out, h_out, w_out).
        """
        ...

    def conv2d_backward_x(self, grad_y: Array, weight: Array, g: Conv2dGeometry) -> Array:
        """The adjoint of conv2d_forward in x; also the forward pass of a transposed convolution.

            for b, o, r, s, c, i, j:                     # the same nest, read the other way
                grad_x[b, q * c_in / groups + c,
                       r * stride_h - pad_top + i * dilation_h, s * stride_w - pad_left + j * dilation_w]
                    += weight[o, c, i, j] * grad_y[b, o, r, s]        # positions in the padding are dropped

        Args:
            grad_y: (n, c_out, h_out, w_out).
            weight: (c_out, c_in / groups, k_h, k_w).

        Returns:
            grad_x: (n, c_in, h, w); zero in rows and columns that no window read.
        """
        ...

    def conv2d_backward_weight(self, grad_y: Array, x: Array, g: Conv2dGeometry) -> Array:
        """The adjoint of conv2d_forward in weight.

            for b, o, r, s, c, i, j:
                grad_weight[o, c, i, j] += grad_y[b, o, r, s] * x[b, q * c_in / groups + c,
                        r * stride_h - pad_top + i * dilation_h, s * stride_w - pad_left + j * dilation_w]

        Args:
            grad_y: (n, c_out, h_out, w_out).
            x: (n, c_in, h, w).

        Returns:
            grad_weight: (c_out, c_in / groups, k_h, k_w).
        """
        ...


class Pooling(Protocol):
    """The largest value, or the mean, of every window."""

    def max_pool2d_forward(self, x: Array, g: Pool2dGeometry) -> tuple[Array, Array]:
        """The largest value of each window, and where it stands. Padding is -inf.

            for b, c, r, s:
                y = -inf; index = the first tap inside x
                for i, j inside x:                       # row-major, so the first of equal maxima stays
                    v = x[b, c, r * stride_h - pad_top + i * dilation_h, s * stride_w - pad_left + j * dilation_w]
                    if v > y or isnan(v): y, index = v, (row of v) * w + (column of v)

        A NaN therefore wins, and of several the last, as in PyTorch; a window of -inf points at its first element.
        Every window meets x (g.every_window_meets_x).

        Args:
            x: (n, c, h, w).

        Returns:
            y: (n, c, h_out, w_out).
            indices: (n, c, h_out, w_out) int64, flat position in the (h, w) plane.
        """
        ...

    def max_pool2d_backward(self, grad_y: Array, indices: Array, g: Pool2dGeometry | AdaptivePool2dGeometry) -> Array:
        """Each gradient goes back to the element that won; windows may overlap, so they add up (a scatter).

            for b, c, r, s:
                grad_x[b, c].flat[indices[b, c, r, s]] += grad_y[b, c, r, s]

        Args:
            grad_y: (n, c, h_out, w_out).
            indices: (n, c, h_out, w_out) int64, of max_pool2d_forward or adaptive_max_pool2d_forward.

        Returns:
            grad_x: (n, c, h, w).
        """
        ...

    def max_pool2d_gather(self, x: Array, indices: Array, g: Pool2dGeometry | AdaptivePool2dGeometry) -> Array:
        """The adjoint of max_pool2d_backward in grad_y, for fixed indices.

            for b, c, r, s:
                y[b, c, r, s] = x[b, c].flat[indices[b, c, r, s]]

        Args:
            x: (n, c, h, w).
            indices: (n, c, h_out, w_out) int64.

        Returns:
            y: (n, c, h_out, w_out).
        """
        ...

    def avg_pool2d_forward(self, x: Array, g: Pool2dGeometry) -> Array:
        """The mean of each window.

            for b, c, r, s:
                for i, j: y[b, c, r, s] += x[b, c, r * stride_h - pad_top + i, s * stride_w - pad_left + j]
                y[b, c, r, s] /= divisor[r, s]

        divisor[r, s] is `divisor_override` if not 0; else the number of window elements inside the input and its
        padding of pad_top, pad_left on both sides (`count_include_pad`); else of those inside the input. What a
        ceil_mode window reaches beyond the padding never counts.

        Args:
            x: (n, c, h, w).

        Returns:
            y: (n, c, h_out, w_out).
        """
        ...

    def avg_pool2d_backward(self, grad_y: Array, g: Pool2dGeometry) -> Array:
        """The adjoint of avg_pool2d_forward.

            for b, c, r, s, i, j:
                grad_x[b, c, r * stride_h - pad_top + i, s * stride_w - pad_left + j]
                    += grad_y[b, c, r, s] / divisor[r, s]

        Args:
            grad_y: (n, c, h_out, w_out).

        Returns:
            grad_x: (n, c, h, w).
        """
        ...

    def adaptive_avg_pool2d_forward(self, x: Array, g: AdaptivePool2dGeometry) -> Array:
        """The mean of each of h_out x w_out regions.

            for b, c, r, s:
                y[b, c, r, s] = mean of x[b, c, i, j] over i in rows(r), j in columns(s)

        Args:
            x: (n, c, h, w).

        Returns:
            y: (n, c, h_out, w_out).
        """
        ...

    def adaptive_avg_pool2d_backward(self, grad_y: Array, g: AdaptivePool2dGeometry) -> Array:
        """The adjoint of adaptive_avg_pool2d_forward.

            for b, c, r, s, i in rows(r), j in columns(s):
                grad_x[b, c, i, j] += grad_y[b, c, r, s] / (len(rows(r)) * len(columns(s)))

        Args:
            grad_y: (n, c, h_out, w_out).

        Returns:
            grad_x: (n, c, h, w).
        """
        ...

    def adaptive_max_pool2d_forward(self, x: Array, g: AdaptivePool2dGeometry) -> tuple[Array, Array]:
        """The largest value of each region and its place; ties and NaN as in max_pool2d_forward, whose adjoint serves.

        Args:
            x: (n, c, h, w).

        Returns:
            y: (n, c, h_out, w_out).
            indices: (n, c, h_out, w_out) int64, flat position in the (h, w) plane.
        """
        ...


class Interpolation(Protocol):
    """Resizing of (h, w) planes."""

    def interpolate_nearest_forward(self, x: Array, g: InterpolateGeometry) -> Array:
        """The pixel that the output pixel's upper left corner falls in.

            for b, c, r, s:
                y[b, c, r, s] = x[b, c, min(floor(r * scale_h), h - 1), min(floor(s * scale_w), w - 1)]

        The products are rounded to float32 whatever x is, as in PyTorch.

        Args:
            x: (n, c, h, w).

        Returns:
            y: (n, c, h_out, w_out).
        """
        ...

    def interpolate_nearest_backward(self, grad_y: Array, g: InterpolateGeometry) -> Array:
        """The adjoint of interpolate_nearest_forward: the same nest, `grad_x[...] += grad_y[b, c, r, s]`.

        Args:
            grad_y: (n, c, h_out, w_out).

        Returns:
            grad_x: (n, c, h, w).
        """
        ...

    def interpolate_bilinear_forward(self, x: Array, g: InterpolateGeometry) -> Array:
        """The weighted mean of the four pixels around the output pixel's centre.

            for b, c, r, s:                              # in one dimension; rows and columns alike
                p = r * scale_h                          if align_corners
                    max((r + 1/2) * scale_h - 1/2, 0)    otherwise: pixel centres are at halves
                i0 = min(floor(p), h - 1); i1 = min(i0 + 1, h - 1); t = p - i0, in [0, 1]
                y[r] = (1 - t) * x[i0] + t * x[i1]

        Args:
            x: (n, c, h, w).

        Returns:
            y: (n, c, h_out, w_out).
        """
        ...

    def interpolate_bilinear_backward(self, grad_y: Array, g: InterpolateGeometry) -> Array:
        """The adjoint of interpolate_bilinear_forward: `grad_x[i0] += (1 - t) grad_y[r]; grad_x[i1] += t grad_y[r]`.

        Args:
            grad_y: (n, c, h_out, w_out).

        Returns:
            grad_x: (n, c, h, w).
        """
        ...
