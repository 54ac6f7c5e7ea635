"""ReLU, the residual join, softmax and cross entropy. The rules stand in __init__.py."""

from __future__ import annotations

from typing import Protocol

from minires.kernels.interface.arrays import Array


class Activation(Protocol):
    """ReLU and the residual join."""

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


class Classification(Protocol):
    """Softmax and cross entropy."""

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
