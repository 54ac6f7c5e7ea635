"""Batch, layer and group normalisation, and batch norm with the ReLU behind it. The rules stand in __init__.py."""

from __future__ import annotations

from typing import Protocol

from minires.kernels.interface.arrays import Array


class BatchNorm(Protocol):
    """Batch normalisation of x (n, c, *), any rank from 2 on; count = n * (product of the sizes behind c).

    The statistics are float64 whatever x is: they are c numbers, and in float32 a mean far larger than the spread would
    spoil every value.
    """

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


class BatchNormReLU(Protocol):
    """y = relu(batch_norm(x) [+ shortcut]): what stands behind almost every convolution of a residual network.

    Written apart, the three make three arrays and read five; fused they make one, y, and backward needs x and y alone:
    y > 0 exactly where the ReLU let through, so no mask is kept. A NaN in y lets the gradient through, as in relu_backward.
    """

    def batch_norm_relu_train(
        self, x: Array, weight: Array | None, bias: Array | None, eps: float, shortcut: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Normalise with the statistics of the batch, add, cut off.

            for ch:  mean[ch], var[ch] as in batch_norm_train
                for b, i:
                    z = (x[b, ch, i] - mean[ch]) / sqrt(var[ch] + eps) * weight[ch] + bias[ch]
                    y[b, ch, i] = relu(z + shortcut[b, ch, i])

        Args:
            x: (n, c, *).
            weight, bias: (c,) or None (1 and 0).
            shortcut: (n, c, *) or None (0).

        Returns:
            y: (n, c, *).
            mean, var: (c,) float64; zeros where count = 0.

        Sources: Ioffe and Szegedy 2015, algorithm 1; He, Zhang, Ren and Sun 2015, figure 2.
        """
        ...

    def batch_norm_relu_train_backward(
        self,
        grad_y: Array,
        y: Array,
        x: Array,
        weight: Array | None,
        mean: Array,
        var: Array,
        eps: float,
        has_shortcut: bool,
    ) -> tuple[Array, Array, Array, Array | None]:
        """The adjoint of batch_norm_relu_train.

            for b, ch, i: g[b, ch, i] = 0 if y[b, ch, i] <= 0 else grad_y[b, ch, i]
            grad_x, grad_weight, grad_bias: batch_norm_train_backward of g;  grad_shortcut = g

        Args:
            grad_y, y, x: (n, c, *); y of batch_norm_relu_train.
            weight: (c,) or None (1).
            mean, var: (c,) float64, of batch_norm_relu_train.
            has_shortcut: whether the gradient of a shortcut is wanted.

        Returns:
            grad_x: (n, c, *).
            grad_weight, grad_bias: (c,) of x's dtype, also where weight is None.
            grad_shortcut: (n, c, *), or None without has_shortcut.
        """
        ...

    def batch_norm_relu_eval(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        mean: Array,
        var: Array,
        eps: float,
        shortcut: Array | None = None,
    ) -> Array:
        """batch_norm_relu_train's nest with given statistics.

        Args:
            x: (n, c, *).
            weight, bias: (c,) or None.
            mean, var: (c,), constants.
            shortcut: (n, c, *) or None.

        Returns:
            y: (n, c, *).
        """
        ...

    def batch_norm_relu_eval_backward(
        self,
        grad_y: Array,
        y: Array,
        x: Array,
        weight: Array | None,
        mean: Array,
        var: Array,
        eps: float,
        has_shortcut: bool,
    ) -> tuple[Array, Array, Array, Array | None]:
        """The adjoint of batch_norm_relu_eval: batch_norm_eval_backward of the g of batch_norm_relu_train_backward.

        Args and Returns: as batch_norm_relu_train_backward.
        """
        ...


class RowNorm(Protocol):
    """Layer and group normalisation. Both normalise rows: m of them over the last dimensions, or n * num_groups of
    c / num_groups channels each.
    """

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
