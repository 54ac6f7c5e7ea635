"""Stochastic gradient descent with momentum: the optimiser of the ResNet papers."""

from __future__ import annotations

import numpy as np

from minires.backend import current_kernels
from minires.errors import ArgumentError
from minires.optim.optimizer import Group, Optimizer, Params, check_number, check_variants
from minires.tensor import Tensor


class SGD(Optimizer):
    r"""Stochastic gradient descent, optionally with (Nesterov) momentum and weight decay.

    With gradient g, parameter p, buffer b (mu momentum, tau dampening, lambda weight decay), in this order::

        g <- -g                          if maximize
        g <- g + lambda p
        b <- g                           at a parameter's first step
        b <- mu b + (1 - tau) g          afterwards
        g <- g + mu b  if nesterov  else b
        p <- p - lr g

    The learning rate multiplies the buffer on its way out, not the gradient on its way in, so changing ``lr`` acts at
    once on the whole accumulated velocity (Sutskever's papers write it the other way).

    Args:
        params: see Optimizer.
        lr: learning rate, at least 0.
        momentum: mu; 0 keeps no buffer.
        dampening: tau; part of each gradient that the buffer does not take.
        weight_decay: lambda; an L2 penalty's gradient, added before momentum.
        nesterov: look ahead by one momentum step; needs momentum > 0 and dampening 0.
        maximize: go uphill.
        foreach, differentiable, fused: torch's choices of implementation; only off.
    State: ``momentum_buffer`` of the parameter's shape.
    Raises:
        ArgumentError: a value out of range. UnsupportedError: a switch that is not supported.
    Source: Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013, eq. 1-4.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_number("SGD", "lr", lr)
        check_number("SGD", "momentum", momentum)
        check_number("SGD", "dampening", dampening, low=float("-inf"))
        check_number("SGD", "weight_decay", weight_decay)
        check_variants("SGD", foreach=foreach, differentiable=differentiable, fused=fused)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ArgumentError(
                f"SGD: nesterov needs momentum > 0 and dampening = 0, got momentum {momentum}, dampening {dampening}"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _update(self, group: Group) -> None:
        # float(): a NumPy scalar that came in as an option would lift the float32 formulas to float64
        lr, momentum, weight_decay = float(group["lr"]), float(group["momentum"]), float(group["weight_decay"])
        params = [p for p in group["params"] if p.grad is not None]
        states = [self.state[p] for p in params] if momentum != 0 else []
        first = [state.get("momentum_buffer") is None for state in states]
        for p, state in zip(params, states, strict=False):
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = Tensor(np.empty_like(p.array))
        current_kernels().sgd_step(
            [p.array for p in params],
            [p.grad.array for p in params],
            [state["momentum_buffer"].array for state in states],
            first,
            lr,
            momentum,
            float(group["dampening"]),
            weight_decay,
            bool(group["nesterov"]),
            bool(group["maximize"]),
        )
        for p in params:
            p._bump_version()
