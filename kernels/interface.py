"""The contract of a kernel set: one method a whole operation, its loop nest as docstring.

A set is a module (`minires.kernels.reference`, ...) whose functions satisfy `KernelSet`. The rules for all of them:

- arrays in, arrays out; inputs are never written to and may be read-only, strided, or of foreign byte order;
- floating outputs have the (native) dtype of the first argument: float32 or float64 (statistics: float64 always);
- nothing is checked: the op that calls has validated, and sizes come in a frozen object of `geometry.py`, which also
  holds the legend of size names. An empty batch (n = 0) is legal everywhere.

In the loop nests every output starts at zero, indices run over their whole range, and a read outside x gives the
padding value. `grad_y` is the gradient of the loss with respect to y, and so on.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, InterpolateGeometry, Pool2dGeometry

Array: TypeAlias = npt.NDArray[Any]


class KernelSet(Protocol):
    """What every kernel set offers."""

    # ---------------------------------------------------------------------------------------------------- convolution
    # Three maps, each linear in both arguments, and each the adjoint of the others:
    #   <conv2d_forward(x, weight), v> = <x, conv2d_backward_x(v, weight)> = <weight, conv2d_backward_weight(v, x)>

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

    # -------------------------------------------------------------------------------------------------------- pooling

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

    # -------------------------------------------------------------------------------------------------- interpolation

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

    # ------------------------------------------------------------------------------------------- batch normalisation
    # x is (n, c, *), any rank from 2 on; count = n * (product of the sizes behind c). The statistics are float64
    # whatever x is: they are c numbers, and in float32 a mean far larger than the spread would spoil every value.

    def batch_norm_train(
        self, x: Array, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        """Normalise each channel with the statistics of the batch.

            for ch:
                mean[ch] = sum over b, i of x[b, ch, i] / count
                var[ch] = sum over b, i of (x[b, ch, i] - mean[ch])^2 / count    # biased; about the mean: two passes
                for b, i: y[b, ch, i] = (x[b, ch, i] - mean[ch]) / sqrt(var[ch] + eps) * weight[ch] + bias[ch]

        Args:
            x: (n, c, *).
            weight, bias: (c,) or None (1 and 0).

        Returns:
            y: (n, c, *).
            mean, var: (c,) float64; zeros where count = 0.

        Source: Ioffe and Szegedy 2015, algorithm 1.
        """
        ...

    def batch_norm_train_backward(
        self, grad_y: Array, x: Array, weight: Array | None, mean: Array, var: Array, eps: float
    ) -> tuple[Array, Array, Array]:
        """The adjoint of batch_norm_train. mean and var depend on x, which gives the two subtracted means.

            for ch:  inv_std = 1 / sqrt(var[ch] + eps);  x_hat[b, i] = (x[b, ch, i] - mean[ch]) * inv_std
                grad_bias[ch] = sum over b, i of grad_y[b, ch, i]
                grad_weight[ch] = sum over b, i of grad_y[b, ch, i] * x_hat[b, i]
                for b, i: grad_x[b, ch, i] = weight[ch] * inv_std
                              * (grad_y[b, ch, i] - grad_bias[ch] / count - x_hat[b, i] * grad_weight[ch] / count)

        Args:
            grad_y, x: (n, c, *).
            weight: (c,) or None (1).
            mean, var: (c,) float64, of batch_norm_train.

        Returns:
            grad_x: (n, c, *).
            grad_weight, grad_bias: (c,) of x's dtype, also where weight is None.
        """
        ...

    def batch_norm_eval(
        self, x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, eps: float
    ) -> Array:
        """Normalise with given statistics: evaluation, and training with frozen statistics.

            for b, ch, i: y[b, ch, i] = (x[b, ch, i] - mean[ch]) / sqrt(var[ch] + eps) * weight[ch] + bias[ch]

        Args:
            x: (n, c, *).
            weight, bias: (c,) or None.
            mean, var: (c,), constants.

        Returns:
            y: (n, c, *).
        """
        ...

    def batch_norm_eval_backward(
        self, grad_y: Array, x: Array, weight: Array | None, mean: Array, var: Array, eps: float
    ) -> tuple[Array, Array, Array]:
        """The adjoint of batch_norm_eval: y is linear in x, for the statistics stand still.

            for ch:
                for b, i: grad_x[b, ch, i] = grad_y[b, ch, i] * weight[ch] / sqrt(var[ch] + eps)
                grad_weight[ch] = sum over b, i of grad_y[b, ch, i] * (x[b, ch, i] - mean[ch]) / sqrt(var[ch] + eps)
                grad_bias[ch] = sum over b, i of grad_y[b, ch, i]

        Args and Returns: as batch_norm_train_backward.
        """
        ...

    # ------------------------------------------------------------------------------------ layer and group normalisation
    # Both normalise rows: m of them over the last dimensions, or n * num_groups of c / num_groups channels each.

    def layer_norm_forward(
        self, x: Array, normalized_ndim: int, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        """Normalise over the last normalized_ndim dimensions.

            for row in (leading positions):
                mean[row], var[row] = mean and biased variance of x[row, :]
                for j: y[row, j] = (x[row, j] - mean[row]) / sqrt(var[row] + eps) * weight[j] + bias[j]

        Args:
            x: (*, normalized shape).
            weight, bias: (normalized shape) or None.

        Returns:
            y: as x.
            mean, var: (m,) float64.

        Source: Ba, Kiros and Hinton 2016, equations 3 and 4.
        """
        ...

    def layer_norm_backward(
        self, grad_y: Array, x: Array, normalized_ndim: int, weight: Array | None, mean: Array, var: Array, eps: float
    ) -> tuple[Array, Array, Array]:
        """The adjoint of layer_norm_forward.

            for row:  x_hat[j] = (x[row, j] - mean[row]) * inv_std;  g[j] = grad_y[row, j] * weight[j]
                for j: grad_x[row, j] = inv_std * (g[j] - mean of g - x_hat[j] * mean of (g * x_hat))
                       grad_weight[j] += grad_y[row, j] * x_hat[j];  grad_bias[j] += grad_y[row, j]

        Returns:
            grad_x: as x.
            grad_weight, grad_bias: (normalized shape), also where weight is None.
        """
        ...

    def group_norm_forward(
        self, x: Array, num_groups: int, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        """Normalise each sample's groups of c / num_groups neighbouring channels.

            for b, group:
                mean, var = mean and biased variance of x[b, channels of group, :]
                for ch in group, i: y[b, ch, i] = (x[b, ch, i] - mean) / sqrt(var + eps) * weight[ch] + bias[ch]

        Args:
            x: (n, c, *).
            weight, bias: (c,) or None.

        Returns:
            y: as x.
            mean, var: (n * num_groups,) float64.

        Source: Wu and He 2018, equation 7.
        """
        ...

    def group_norm_backward(
        self, grad_y: Array, x: Array, num_groups: int, weight: Array | None, mean: Array, var: Array, eps: float
    ) -> tuple[Array, Array, Array]:
        """The adjoint of group_norm_forward: layer_norm_backward's nest over the groups, weight and bias per channel.

        Returns:
            grad_x: as x.
            grad_weight, grad_bias: (c,), also where weight is None.
        """
        ...

    # ------------------------------------------------------------------------------------------- ReLU and residual join

    def relu_forward(self, x: Array) -> Array:
        """for i: y[i] = x[i] if x[i] > 0 or isnan(x[i]) else 0

        Args:
            x: any shape.

        Returns:
            y: as x.
        """
        ...

    def relu_backward(self, grad_y: Array, y: Array) -> Array:
        """for i: grad_x[i] = 0 if y[i] <= 0 else grad_y[i]

        The output is all it needs. At 0 the gradient is 0; a NaN in y lets the gradient through, as in PyTorch. A
        selection, not a product, for grad_y may be infinite.

        Args:
            grad_y, y: any shape, equal.

        Returns:
            grad_x: as y.
        """
        ...

    def residual_relu_forward(self, x: Array, shortcut: Array) -> Array:
        """for i: y[i] = relu(x[i] + shortcut[i])

        Args:
            x, shortcut: any shape, equal.

        Returns:
            y: as x.

        Source: He, Zhang, Ren and Sun 2015, figure 2.
        """
        ...

    def residual_relu_backward(self, grad_y: Array, y: Array) -> Array:
        """for i: grad[i] = 0 if y[i] <= 0 else grad_y[i], the gradient of x and of shortcut alike

        Args:
            grad_y, y: any shape, equal.

        Returns:
            grad: as y.
        """
        ...

    # ---------------------------------------------------------------------------------------- softmax and cross entropy

    def softmax_forward(self, x: Array, axis: int) -> Array:
        """Shares of 1.

            for each line along axis:
                m = max x;  y[j] = exp(x[j] - m) / sum over i of exp(x[i] - m)

        Args:
            x: any shape of rank >= 1.

        Returns:
            y: as x.
        """
        ...

    def softmax_backward(self, grad_y: Array, y: Array, axis: int) -> Array:
        """for each line along axis: grad_x[j] = y[j] * (grad_y[j] - sum over i of grad_y[i] * y[i])

        Args:
            grad_y, y: equal shapes; y of softmax_forward.

        Returns:
            grad_x: as y.
        """
        ...

    def log_softmax_forward(self, x: Array, axis: int) -> Array:
        """for each line along axis: m = max x;  y[j] = (x[j] - m) - log(sum over i of exp(x[i] - m))

        Args:
            x: any shape of rank >= 1.

        Returns:
            y: as x.
        """
        ...

    def log_softmax_backward(self, grad_y: Array, y: Array, axis: int) -> Array:
        """for each line along axis: grad_x[j] = grad_y[j] - exp(y[j]) * sum over i of grad_y[i]

        Args:
            grad_y, y: equal shapes; y of log_softmax_forward.

        Returns:
            grad_x: as y.
        """
        ...

    def cross_entropy_forward(
        self, x: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
    ) -> tuple[Array, Array]:
        """The cross entropy of each sample between a smoothed label and softmax(x), classes along axis 1.

            for b, i (positions behind the classes):
                t = target[b, i];  log_p[b, :, i] = log_softmax(x[b, :, i])
                q[k] = weight[k] * ((1 - label_smoothing) * [k = t] + label_smoothing / c)
                loss[b, i] = 0 if t = ignore_index else -sum over k of q[k] * log_p[b, k, i]

        Args:
            x: (n, c, *), logits.
            target: (n, *) integer, in [0, c) or ignore_index.
            weight: (c,) or None (1).

        Returns:
            loss: (n, *).
            log_p: (n, c, *).

        Source: Szegedy et al. 2015 (arXiv:1512.00567), section 7, for the smoothing.
        """
        ...

    def cross_entropy_backward(
        self,
        grad_loss: Array,
        log_p: Array,
        target: Array,
        weight: Array | None,
        ignore_index: int,
        label_smoothing: float,
    ) -> Array:
        """The adjoint of cross_entropy_forward in x.

            for b, k, i:
                grad_x[b, k, i] = 0 if target[b, i] = ignore_index
                                  else grad_loss[b, i] * (exp(log_p[b, k, i]) * (sum of q) - q[k])

        Args:
            grad_loss: (n, *).
            log_p: (n, c, *), of cross_entropy_forward.
            target, weight: as there.

        Returns:
            grad_x: (n, c, *).
        """
        ...
