"""One cycle: warm up to a large rate, anneal far below the start, move momentum the other way.

Source: Smith and Topin, Super-convergence, 2017 (arXiv:1708.07120); the two-phase form and the cosine are fastai's.
"""

from __future__ import annotations

import math
from typing import Any

from minires.errors import ArgumentError
from minires.optim.lr_scheduler.base import LRScheduler, check_optimizer, per_group
from minires.optim.optimizer import Optimizer


class OneCycleLR(LRScheduler):
    """Call ``step`` after every batch; the schedule has ``total_steps`` of them and refuses more.

    Rates: max_lr / div_factor -> max_lr -> max_lr / (div_factor final_div_factor).
    Momentum: max_momentum -> base_momentum -> max_momentum. Three phases insert a way down to the starting rate that is
    as long as the way up.

    Args:
        optimizer: SGD with momentum, or one with betas (beta1 is then cycled).
        max_lr: the peak, a number or one for each group.
        total_steps: batches in all; or give ``epochs`` and ``steps_per_epoch``.
        epochs, steps_per_epoch: their product is the number of steps.
        pct_start: part of the cycle that rises, a float in [0, 1].
        anneal_strategy: "cos" or "linear".
        cycle_momentum: move momentum too.
        base_momentum, max_momentum: its range, numbers or one for each group.
        div_factor, final_div_factor: set the first and the last rate, see above.
        three_phase: see above.
        last_epoch: index of the last batch when resuming.
    Raises:
        ArgumentError: a value out of range, an optimizer without momentum, a step after the last.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer("OneCycleLR", optimizer)
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ArgumentError(f"OneCycleLR: pct_start must be a float between 0 and 1, got {pct_start!r}")
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        self._anneal_func_type = anneal_strategy
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)

        max_lrs = per_group("OneCycleLR", "max_lr", optimizer, max_lr)
        if last_epoch == -1:
            for group, peak in zip(optimizer.param_groups, max_lrs, strict=True):
                group["initial_lr"] = peak / div_factor
                group["max_lr"] = peak
                group["min_lr"] = group["initial_lr"] / final_div_factor

        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            if not {"momentum", "betas"} & set(optimizer.defaults):
                raise ArgumentError(
                    f"OneCycleLR: {type(optimizer).__name__} has neither momentum nor betas; pass cycle_momentum=False"
                )
            self.use_beta1 = "betas" in optimizer.defaults
            tops = per_group("OneCycleLR", "max_momentum", optimizer, max_momentum)
            bottoms = per_group("OneCycleLR", "base_momentum", optimizer, base_momentum)
            if last_epoch == -1:
                for group, top, bottom in zip(optimizer.param_groups, tops, bottoms, strict=True):
                    self._set_momentum(group, top)
                    group["max_momentum"] = top
                    group["base_momentum"] = bottom
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        step = self.last_epoch
        if step > self.total_steps:
            raise ArgumentError(
                f"OneCycleLR: step {step} is past the end of the cycle of total_steps = {self.total_steps}"
            )
        start = 0.0
        for phase in self._schedule_phases:
            end = phase["end_step"]
            if step <= end:
                break
            start = end
        else:  # the one step after the last, which torch allows, runs past the last phase's end
            start = self._schedule_phases[-2]["end_step"]
        part = (step - start) / (end - start) if end > start else 1.0  # a phase of no length is over at once

        rates = []
        for group in self.optimizer.param_groups:
            rates.append(self._anneal_func(group[phase["start_lr"]], group[phase["end_lr"]], part))
            if self.cycle_momentum:
                momentum = self._anneal_func(group[phase["start_momentum"]], group[phase["end_momentum"]], part)
                self._set_momentum(group, momentum)
        return rates

    def _set_momentum(self, group: dict[str, Any], momentum: float) -> None:
        if self.use_beta1:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum

    def _anneal_func(self, start: float, end: float, part: float) -> float:
        """From ``start`` (part 0) to ``end`` (part 1), along half a cosine or a line."""
        if self._anneal_func_type == "cos":
            return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)
        return (end - start) * part + start


def _total_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is None and (epochs is None or steps_per_epoch is None):
        raise ArgumentError("OneCycleLR: give total_steps, or both epochs and steps_per_epoch")
    product = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    given = {"total_steps": total_steps} if total_steps is not None else product
    for name, value in given.items():
        if not isinstance(value, int) or value <= 0:
            raise ArgumentError(f"OneCycleLR: {name} must be a positive int, got {value!r}")
    return math.prod(value for value in given.values() if value is not None)


def _phases(total_steps: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    """Phase ends (steps counted from 0) and which group entries each phase runs between; torch's state-dict form."""

    def phase(end: float, lr: tuple[str, str], momentum: tuple[str, str]) -> dict[str, Any]:
        names = {"start_lr": lr[0], "end_lr": lr[1], "start_momentum": momentum[0], "end_momentum": momentum[1]}
        return {"end_step": end, **names}

    top, bottom = "max_momentum", "base_momentum"
    up = phase(float(pct_start * total_steps) - 1, ("initial_lr", "max_lr"), (top, bottom))
    if not three_phase:
        return [up, phase(total_steps - 1, ("max_lr", "min_lr"), (bottom, top))]
    down = phase(float(2 * pct_start * total_steps) - 2, ("max_lr", "initial_lr"), (bottom, top))
    return [up, down, phase(total_steps - 1, ("initial_lr", "min_lr"), (top, top))]
