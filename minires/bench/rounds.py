"""The arithmetic of a comparison: whose turn it is, medians, quartiles, ratios, slopes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Timing", "ratio", "slope", "turn_order"]


def turn_order(names: Sequence[str], number: int) -> list[str]:
    """The order of round `number`: one place further each time, so that nobody always follows the same neighbour.

    What a contender finds in the caches, and how warm the cores are, depends on who ran before it.
    """
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]


@dataclass(frozen=True)
class Timing:
    """Seconds a repetition, one value a round (the mean of the round's repetitions)."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """(first, third), interpolated; the value itself where there is one round."""
        if len(self.rounds) < 2:
            return self.rounds[0], self.rounds[0]
        first, _, third = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return first, third

    def as_dict(self) -> dict[str, Any]:
        """For JSON; seconds."""
        return {"median": self.median, "quartiles": list(self.quartiles), "rounds": list(self.rounds)}


def ratio(theirs: Timing, ours: Timing) -> float:
    """How many times longer they take: the median of the ratios round by round.

    The two of one round ran within a second or so of each other; a machine that slows down for a minute slows both.
    """
    return statistics.median(a / b for a, b in zip(theirs.rounds, ours.rounds, strict=True))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent p of y ~ x^p: the least-squares slope of log y over log x. NaN where x does not vary."""
    log_x, log_y = [math.log(v) for v in x], [math.log(v) for v in y]
    mean_x, mean_y = statistics.fmean(log_x), statistics.fmean(log_y)
    spread = sum((a - mean_x) ** 2 for a in log_x)
    if spread == 0:
        return math.nan
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(log_x, log_y, strict=True)) / spread
