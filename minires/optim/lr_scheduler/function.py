"""Schedules given by a function of the epoch."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from minires.errors import ArgumentError
from minires.optim.lr_scheduler.base import LRScheduler, check_optimizer, per_group
from minires.optim.optimizer import Optimizer

Factor = Callable[[int], float]


class _FunctionLR(LRScheduler):
    """Keeps one function for each group. Plain functions are not saved (they are code); objects' attributes are."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Factor | list[Factor], last_epoch: int = -1) -> None:
        op = type(self).__name__
        check_optimizer(op, optimizer)
        self.lr_lambdas: list[Factor] = per_group(op, "lr_lambda", optimizer, lr_lambda)
        for i, function in enumerate(self.lr_lambdas):
            if not callable(function):
                raise ArgumentError(f"{op}: lr_lambda[{i}] must be callable, got {type(function).__name__}")
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        functions = [None if isinstance(f, types.FunctionType) else vars(f).copy() for f in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": functions}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._check_keys(state_dict)
        self.__dict__.update({key: value for key, value in state_dict.items() if key != "lr_lambdas"})
        for function, attributes in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if attributes is not None:
                vars(function).update(attributes)


class LambdaLR(_FunctionLR):
    """eta_t = eta_base lr_lambda(t).

    Args:
        optimizer: whose groups are written.
        lr_lambda: a function of the epoch, or one for each group.
        last_epoch: see LRScheduler.
    """

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        return [base * f(self.last_epoch) for f, base in zip(self.lr_lambdas, self.base_lrs, strict=True)]


class MultiplicativeLR(_FunctionLR):
    """eta_t = eta_{t-1} lr_lambda(t), from t = 1 on. Arguments as LambdaLR's."""

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        if self._is_initial:
            return self._present()
        return [lr * f(self.last_epoch) for f, lr in zip(self.lr_lambdas, self._present(), strict=True)]
