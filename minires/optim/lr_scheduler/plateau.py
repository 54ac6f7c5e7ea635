"""Reduce the rate when a measured value stops improving."""

from __future__ import annotations

import math
import warnings
from typing import Any

from minires.errors import ArgumentError
from minires.optim.lr_scheduler.base import LRScheduler, check_optimizer, per_group
from minires.optim.optimizer import Optimizer


class ReduceLROnPlateau(LRScheduler):
    """lr <- max(factor lr, min_lr) after more than ``patience`` epochs without improvement.

    An improvement on ``best`` is (mode min; max alike): value < best (1 - threshold) in threshold_mode "rel",
    value < best - threshold in "abs". NaN never is one.

    Args:
        optimizer: whose groups are written.
        mode: "min" for a loss, "max" for an accuracy.
        factor: below 1.
        patience: epochs without improvement that are let pass.
        threshold, threshold_mode: see above.
        cooldown: epochs after a reduction in which nothing is counted.
        min_lr: a number, or one for each group.
        eps: reductions by no more than this are not made.
    Raises:
        ArgumentError: a factor of 1 or more, an unknown mode, a wrong number of ``min_lr``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        op = type(self).__name__
        check_optimizer(op, optimizer)
        if not factor < 1.0:
            raise ArgumentError(f"{op}: factor must be below 1, got {factor}")
        if mode not in ("min", "max"):
            raise ArgumentError(f"{op}: mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ArgumentError(f"{op}: threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        self.optimizer = optimizer
        self.factor = factor
        self.default_min_lr = None if isinstance(min_lr, list | tuple) else min_lr
        self.min_lrs: list[float] = per_group(op, "min_lr", optimizer, min_lr)
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.last_epoch = 0
        self._last_lr = self._present()
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    @property
    def in_cooldown(self) -> bool:
        return self.cooldown_counter > 0

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Look at the epoch's value and reduce the rate if it is time.

        Args:
            metrics: a number, or a tensor of one element.
            epoch: torch's discouraged way to set the epoch's number.
        """
        if epoch is not None:
            warnings.warn("ReduceLROnPlateau.step(metrics, epoch): leave epoch out.", UserWarning, stacklevel=2)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        value = float(metrics)
        if self._is_better(value, self.best):
            self.best = value
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1

        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce_lr()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = self._present()

    def _reduce_lr(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise ArgumentError(
                    f"ReduceLROnPlateau: the optimizer has {len(groups)} parameter groups by now, min_lrs has "
                    f"{len(self.min_lrs)} values; extend scheduler.min_lrs when you add a group"
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, low in zip(groups, self.min_lrs, strict=True):
            new = max(group["lr"] * self.factor, low)
            if group["lr"] - new > self.eps:
                group["lr"] = new

    def _is_better(self, value: float, best: float) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        if self.threshold_mode == "abs":
            return sign * value > sign * best + self.threshold
        return sign * value > sign * (best * (1.0 + sign * self.threshold))
