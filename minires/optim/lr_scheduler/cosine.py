"""Cosine annealing, with and without restarts.

Source: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017, eq. 5.
"""

from __future__ import annotations

import math

from minires.errors import ArgumentError
from minires.optim.lr_scheduler.base import LRScheduler
from minires.optim.optimizer import Optimizer


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from eta_base down to ``eta_min`` over ``T_max`` epochs (and up again, if steps go on).

    eta_t = eta_min + (eta_base - eta_min) (1 + cos(pi t / T_max)) / 2; recursively,
    eta_t - eta_min = (eta_{t-1} - eta_min) (1 + cos(pi t / T_max)) / (1 + cos(pi (t - 1) / T_max)).
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        t, low = self.last_epoch, self.eta_min
        if self._is_initial:
            return self._present()
        if (t - 1 - self.T_max) % (2 * self.T_max) == 0:
            # One past the valley: the recursion would divide 0 by 0, so the first rise is added instead.
            rise = (1 - math.cos(math.pi / self.T_max)) / 2
            return [lr + (base - low) * rise for lr, base in zip(self._present(), self.base_lrs, strict=True)]
        now, before = 1 + math.cos(math.pi * t / self.T_max), 1 + math.cos(math.pi * (t - 1) / self.T_max)
        return [now / before * (lr - low) + low for lr in self._present()]

    def _get_closed_form_lr(self) -> list[float]:
        t, low = self.last_epoch, self.eta_min
        return [low + (base - low) * (1 + math.cos(math.pi * t / self.T_max)) / 2 for base in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """The half cosine again and again: periods T_0, T_0 T_mult, T_0 T_mult^2, ...

    eta = eta_min + (eta_base - eta_min) (1 + cos(pi T_cur / T_i)) / 2, with T_cur epochs since the last restart and
    T_i the length of the present period. ``step`` takes fractions of epochs: ``step(epoch + batch / batches)``.

    Raises:
        ArgumentError: T_0 not a positive int, T_mult not an int >= 1, eta_min no number, a negative epoch.
    """

    T_cur: float

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        op = type(self).__name__
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ArgumentError(f"{op}: T_0 must be a positive int, got {T_0!r}")
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ArgumentError(f"{op}: T_mult must be an int of at least 1, got {T_mult!r}")
        if not isinstance(eta_min, float | int):
            raise ArgumentError(f"{op}: eta_min must be a number, got {eta_min!r} of type {type(eta_min).__name__}")
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Go to the next epoch, or to any epoch, fractions included."""
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        elif epoch < 0:
            raise ArgumentError(f"{type(self).__name__}: epoch must not be negative, got {epoch}")
        elif epoch < self.T_0:
            self.T_i, self.T_cur = self.T_0, epoch
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            # n whole periods lie behind: their lengths sum to T_0 (T_mult^n - 1) / (T_mult - 1).
            n = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self.T_0 * (self.T_mult**n - 1) / (self.T_mult - 1)
            self.T_i = self.T_0 * self.T_mult**n
        self.last_epoch = math.floor(epoch)
        with self._inside_step():
            rates = self.get_lr()
        self._write(rates)
