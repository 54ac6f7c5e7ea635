"""What every learning-rate schedule shares: counting, writing ``lr`` into the groups, saving and loading.

A schedule writes ``group["lr"]``; the optimiser only reads it. Schedules are written in torch's *recursive* form: the
next rate comes from the present ``group["lr"]``, not from a closed formula of the epoch. That is what lets several of
them act on one optimiser (each multiplies what it finds), and what makes the last digits agree with torch's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from minires.errors import ArgumentError, StateDictError
from minires.optim.optimizer import Optimizer

# Entries that torch's versions have or lack without changing what the schedule does.
_BOOKKEEPING = {"_get_lr_called_within_step", "_is_initial", "verbose"}


def check_optimizer(op: str, optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(f"{op}: optimizer must be an Optimizer, got {type(optimizer).__name__}")


def per_group(op: str, name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One value for each parameter group: a list is checked for its length, anything else is repeated."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * groups
    if len(value) != groups:
        raise ArgumentError(f"{op}: {name} needs one value for each of the {groups} parameter groups, got {len(value)}")
    return list(value)


class LRScheduler:
    """Base class. A subclass sets its options, then calls ``super().__init__``, and defines ``get_lr``.

    Args:
        optimizer: whose groups are written.
        last_epoch: last finished epoch; -1 begins, with each group's present ``lr`` as its ``initial_lr``.
    Raises:
        ArgumentError: not an optimizer; or ``last_epoch >= 0`` and a group has no ``initial_lr``.
    """

    last_epoch: int
    _step_count: int
    _is_initial: bool
    _last_lr: list[float]

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        op = type(self).__name__
        check_optimizer(op, optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise ArgumentError(
                    f"{op}: last_epoch = {last_epoch} resumes a schedule, but param_groups[{i}] has no 'initial_lr'; "
                    "load the optimizer's state dict first, or leave last_epoch out to begin anew"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._get_lr_called_within_step = False
        self._initial_step()

    def _initial_step(self) -> None:
        """Enter epoch ``last_epoch + 1`` without counting it as the user's step."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    # ---- for users ----

    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch (or batch, if the schedule counts batches); call it after ``optimizer.step()``.

        Args:
            epoch: jump there instead, by the closed form where the schedule has one. torch discourages it.
        """
        if self._step_count == 1 and not self.optimizer._opt_called:
            warnings.warn(
                f"{type(self).__name__}.step() was called before optimizer.step(): the first learning rate is skipped. "
                "Call optimizer.step() first.",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        if epoch is not None:
            warnings.warn(
                f"{type(self).__name__}.step(epoch) is discouraged: call step() with no argument.",
                UserWarning,
                stacklevel=2,
            )
        self._update_lr(epoch)

    def get_last_lr(self) -> list[float]:
        """The rates written last, one for each group."""
        return self._last_lr

    def get_lr(self) -> list[float]:
        """The rates of ``last_epoch``, computed from the present ones. Call ``get_last_lr`` instead, outside a step."""
        raise NotImplementedError(f"{type(self).__name__} must define get_lr()")

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, which has a state dict of its own. Save both."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state. The optimizer's ``lr`` comes from the optimizer's own state dict.

        Raises:
            StateDictError: it belongs to another kind of schedule; lists the missing and the unexpected entries.
        """
        self._check_keys(state_dict)
        self.__dict__.update(state_dict)

    # ---- for subclasses ----

    def _check_keys(self, state_dict: dict[str, Any]) -> None:
        ours, theirs = set(self.state_dict()) - _BOOKKEEPING, set(state_dict) - _BOOKKEEPING
        if ours != theirs:
            raise StateDictError(
                f"{type(self).__name__}.load_state_dict: missing entries {sorted(ours - theirs)}, unexpected entries "
                f"{sorted(theirs - ours)}; was it saved from another schedule?"
            )

    def _update_lr(self, epoch: int | None = None) -> None:
        with self._inside_step():
            if epoch is None:
                self.last_epoch += 1
                rates = self.get_lr()
            else:
                self.last_epoch = epoch
                closed_form: Callable[[], list[float]] = getattr(self, "_get_closed_form_lr", self.get_lr)
                rates = closed_form()
        self._write(rates)

    def _write(self, rates: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = self._present()

    def _present(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _times(self, factor: float) -> list[float]:
        return [group["lr"] * factor for group in self.optimizer.param_groups]

    @contextmanager
    def _inside_step(self) -> Iterator[None]:
        self._get_lr_called_within_step = True
        try:
            yield
        finally:
            self._get_lr_called_within_step = False

    def _warn_outside_step(self) -> None:
        """get_lr is recursive: outside a step it would answer with the rate after the next one."""
        if not self._get_lr_called_within_step:
            warnings.warn(
                f"{type(self).__name__}.get_lr() is for step() alone; call get_last_lr() for the last learning rate.",
                UserWarning,
                stacklevel=3,
            )
