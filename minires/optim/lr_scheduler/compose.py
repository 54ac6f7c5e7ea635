"""Schedules made of schedules: one after another, or all at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from minires.errors import ArgumentError
from minires.optim.lr_scheduler.base import LRScheduler
from minires.optim.lr_scheduler.plateau import ReduceLROnPlateau
from minires.optim.optimizer import Optimizer


class _Composed(LRScheduler):
    """Saves and loads its parts with itself."""

    _schedulers: list[LRScheduler]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._check_keys(state_dict)
        self.__dict__.update({key: value for key, value in state_dict.items() if key != "_schedulers"})
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)


class SequentialLR(_Composed):
    """The first schedule until milestones[0], the second until milestones[1], ...; each begins at its own epoch 0.

    Args:
        optimizer: the one that all schedules belong to.
        schedulers: in the order of their use.
        milestones: epochs of change, one fewer than the schedules.
        last_epoch: index of the last finished epoch.
    Raises:
        ArgumentError: no schedule, one of another optimizer, a ReduceLROnPlateau, a wrong number of milestones, a
            composed schedule that is not the first (it has no formula by which a milestone could restart it).
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ) -> None:
        _check_parts("SequentialLR", schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ArgumentError(
                f"SequentialLR: {len(schedulers)} schedulers need {len(schedulers) - 1} milestones, "
                f"got {len(milestones)}"
            )
        for i, scheduler in enumerate(schedulers[1:], 1):
            if isinstance(scheduler, _Composed):
                name = type(scheduler).__name__
                raise ArgumentError(f"SequentialLR: schedulers[{i}] is a {name}, which only works in the first place")
        self._schedulers = list(schedulers)
        self._milestones = milestones
        self.last_epoch = last_epoch + 1
        self.optimizer = optimizer
        # Each part wrote its first rate when it was made, over the one before: go back and enter only the right one.
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        _undo_first_step(self)
        first = self._schedulers[bisect_right(milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch, in the schedule whose turn it is."""
        _refuse_epoch("SequentialLR", epoch)
        self.last_epoch += 1
        index = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[index]
        if index > 0 and self._milestones[index - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(_Composed):
    """All schedules step together; as each multiplies the rate it finds, the effect is their product.

    Args:
        schedulers: all of one optimizer.
        optimizer: that optimizer; the first schedule's by default.
    Raises:
        ArgumentError: no schedule, one of another optimizer, a ReduceLROnPlateau.
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        _check_parts("ChainedScheduler", schedulers, optimizer)
        self._schedulers = list(schedulers)
        self.optimizer = optimizer or self._schedulers[0].optimizer
        self._last_lr = self._present()

    def step(self, epoch: int | None = None) -> None:
        """Step every schedule."""
        _refuse_epoch("ChainedScheduler", epoch)
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self._present()


def _check_parts(op: str, schedulers: Sequence[Any], optimizer: Optimizer | None) -> None:
    if len(schedulers) == 0:
        raise ArgumentError(f"{op}: needs at least one scheduler, got none")
    for i, scheduler in enumerate(schedulers):
        if not isinstance(scheduler, LRScheduler):
            raise ArgumentError(f"{op}: schedulers[{i}] must be a scheduler, got {type(scheduler).__name__}")
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ArgumentError(
                f"{op}: schedulers[{i}] is a ReduceLROnPlateau, whose step needs a metric; step it apart"
            )
        if scheduler.optimizer is not (optimizer or schedulers[0].optimizer):
            raise ArgumentError(f"{op}: schedulers[{i}], a {type(scheduler).__name__}, belongs to another optimizer")


def _refuse_epoch(op: str, epoch: int | None) -> None:
    if epoch is not None:
        raise ArgumentError(f"{op}: step takes no epoch, got {epoch}")


def _undo_first_step(scheduler: LRScheduler) -> None:
    if isinstance(scheduler, _Composed):
        for part in scheduler._schedulers:
            _undo_first_step(part)
    else:
        scheduler.last_epoch -= 1
