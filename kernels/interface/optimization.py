"""The steps of the optimisers. Unlike all other kernels they write to their arguments; the rest of __init__.py holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from minires.kernels.interface.arrays import Array


class Optimization(Protocol):
    """One step over a list of parameters in one call: a network has many small ones.

    Where a list holds arrays, parameter k is `params[k]`, its gradient `grads[k]` of equal shape and dtype, and so on.
    """

    def sgd_step(
        self,
        params: Sequence[Array],
        grads: Sequence[Array],
        buffers: Sequence[Array],
        first: Sequence[bool],
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
        maximize: bool,
    ) -> None:
        """Stochastic gradient descent with momentum.

            for k, i: p, g, b = params[k][i], grads[k][i], buffers[k][i]
                g = (-g if maximize else g) + weight_decay * p
                b = g if first[k] else momentum * b + (1 - dampening) * g
                p = p - lr * (g + momentum * b if nesterov else b)
            without momentum (momentum = 0; buffers and first are empty): p = p - lr * g

        Args:
            params: written to.
            grads: read.
            buffers: written to; where first[k], not read.

        Returns:
            Nothing.

        Source: Sutskever et al. 2013, equations 1 to 4, as torch arranges them.
        """
        ...

    def adam_step(
        self,
        params: Sequence[Array],
        grads: Sequence[Array],
        means: Sequence[Array],
        squares: Sequence[Array],
        largest: Sequence[Array],
        steps: Sequence[float],
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
        maximize: bool,
    ) -> None:
        """Adam, AdamW (decoupled) and AMSGrad (where `largest` is not empty).

            for k, i: t = steps[k];  p, g, m, v = params[k][i], grads[k][i], means[k][i], squares[k][i]
                g = -g if maximize else g
                if decoupled: p = p - lr * weight_decay * p    else: g = g + weight_decay * p
                m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
                if largest: v_hat = largest[k][i] = max(largest[k][i], v)    else: v_hat = v
                p = p - lr / (1 - beta1^t) * m / (sqrt(v_hat) / sqrt(1 - beta2^t) + eps)

        Args:
            params, means, squares, largest: written to.
            grads: read.
            steps: t of each parameter, from 1.

        Returns:
            Nothing.

        Sources: Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2; Reddi et al. 2018.
        """
        ...
