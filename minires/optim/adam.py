"""Adam and AdamW: steps scaled by running averages of the gradient and of its square."""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.backend import current_kernels
from minires.errors import ArgumentError
from minires.optim.optimizer import Group, Optimizer, Params, check_number, check_variants
from minires.tensor import Tensor


class Adam(Optimizer):
    r"""Adam: each element's step is its mean gradient over its root mean square, both as running averages.

    With gradient g, parameter p, step count t (from 1), weight decay lambda::

        g <- -g                                   if maximize
        g <- g + lambda p                         (AdamW instead: p <- p - lr lambda p)
        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        v_max <- max(v_max, v), used for v below  if amsgrad
        p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    m and v start at 0, hence too small; the two divisions by 1 - beta^t undo exactly that bias.

    Args:
        params: see Optimizer.
        lr: learning rate, at least 0.
        betas: (beta1, beta2), each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: lambda; here an L2 penalty's gradient, which the division scales too (AdamW: it does not).
        amsgrad: divide by the largest v so far, so that an element's step length never grows again.
        maximize: go uphill.
        decoupled_weight_decay: AdamW's form of weight decay.
        foreach, capturable, differentiable, fused: torch's choices of implementation; only off.
    State: ``step`` (float32 scalar), ``exp_avg`` = m, ``exp_avg_sq`` = v, and ``max_exp_avg_sq`` with amsgrad.
    Raises:
        ArgumentError: a value out of range. UnsupportedError: a switch that is not supported.
    Source: Kingma and Ba, Adam, ICLR 2015, algorithm 1; Reddi et al., On the convergence of Adam and beyond, ICLR 2018.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        op = type(self).__name__
        check_number(op, "lr", lr)
        check_number(op, "eps", eps)
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ArgumentError(f"{op}: betas must be two numbers (beta1, beta2), got {betas!r}")
        for i, beta in enumerate(betas):
            check_number(op, f"betas[{i}]", beta, below=1.0)
        check_number(op, "weight_decay", weight_decay)
        check_variants(op, foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused)
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def _update(self, group: Group) -> None:
        lr, weight_decay, eps = float(group["lr"]), float(group["weight_decay"]), float(group["eps"])
        beta1, beta2 = map(float, group["betas"])
        params = [p for p in group["params"] if p.grad is not None]
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if not state:
                # A tensor, not an int: this is how torch's checkpoints hold it.
                state["step"] = Tensor(np.zeros((), dtype=np.float32))
                for name in ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * group["amsgrad"]:
                    state[name] = Tensor(np.zeros_like(p.array))
            state["step"].array[...] += 1
        current_kernels().adam_step(
            [p.array for p in params],
            [p.grad.array for p in params],
            [state["exp_avg"].array for state in states],
            [state["exp_avg_sq"].array for state in states],
            [state["max_exp_avg_sq"].array for state in states] if group["amsgrad"] else [],
            [float(state["step"].array) for state in states],
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
            bool(group["decoupled_weight_decay"]),
            bool(group["maximize"]),
        )
        for p in params:
            p._bump_version()


class AdamW(Adam):
    r"""Adam with decoupled weight decay: ``p <- p - lr lambda p`` beside the gradient step, not inside it.

    In Adam the penalty's gradient is divided by sqrt(v) like any other, so weights with large gradients decay less;
    here all decay alike. Arguments as Adam's, but ``weight_decay`` is 0.01.

    Source: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019, algorithm 2.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group in self.param_groups:  # an Adam checkpoint loaded here is still to decay AdamW's way
            group["decoupled_weight_decay"] = True
