"""What may vary in a search: `KEY=VALUES`, for any setting of a training run.

lr=log:0.01..1          between, on a logarithmic scale
label_smoothing=0..0.2  between
batch_size=32..256      whole numbers between; with a step: 32..256:32
optimizer=sgd,adamw     one of these
augment=flip|pad_crop:4,flip|      lists stand between bars, their steps between commas; the last one here is empty
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minires.errors import ConfigError
from minires.train.config import FIELDS, TYPES, parse_assignment

__all__ = ["Axis", "parse_axis"]

# Where a run lies and what it is judged by is not searched over.
FIXED = ("run_dir", "name", "data_dir", "data", "val_fraction", "seed", "workers", "device", "test_every")


@dataclass(frozen=True)
class Axis:
    """One setting that varies: over `choices`, or from `low` to `high`.

    Attributes:
        key: the setting.
        choices: its values, or () for a range.
        low, high: the ends of a range, both included.
        step: between neighbours of a range, or None for all numbers.
        log: whether a factor counts, not a difference.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return TYPES[self.key] is int

    def suggest(self, trial: Any) -> Any:
        """A value for an Optuna trial."""
        if self.choices:
            return self.value_of(trial.suggest_categorical(self.key, self.grid()))
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def value_of(self, parameter: Any) -> Any:
        """The setting's value, from what Optuna writes down: of a list, its place among the choices."""
        return self.choices[parameter] if self._lists else parameter

    @property
    def _lists(self) -> bool:
        return bool(self.choices) and isinstance(self.choices[0], list)

    def grid(self) -> list[Any]:
        """All its values as Optuna writes them down, for a grid.

        Raises:
            ConfigError: a range without a step has no grid.
        """
        if self.choices:
            return list(range(len(self.choices))) if self._lists else list(self.choices)
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            raise ConfigError(
                f"tune: a grid needs values or a step: {self.key}=0.01,0.1,1 or {self.key}={self.low:g}..{self.high:g}:STEP"
            )
        count = int((self.high - self.low) / step + 1e-9) + 1
        values = [self.low + i * step for i in range(count)]
        return [round(value) for value in values] if self.whole else values

    def __str__(self) -> str:
        if self.choices:
            words = [" + ".join(map(str, c)) or "nothing" if isinstance(c, list) else str(c) for c in self.choices]
            return f"{self.key}: {', '.join(words)}"
        step = f" in steps of {self.step:g}" if self.step else ""
        return f"{self.key}: {self.low:g} to {self.high:g}{step}{', logarithmic' if self.log else ''}"


def parse_axis(text: str) -> Axis:
    """`--search KEY=VALUES`; see the head of this file.

    Raises:
        UnknownNameError: KEY is no setting.
        ConfigError: a setting that is not searched over, a range whose ends are no numbers or in the wrong order, or fewer
            than two values.
    """
    key, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not values:
        raise ConfigError(f"--search {text}: write it as KEY=VALUES, for example lr=log:0.01..1 or optimizer=sgd,adamw")
    if key not in FIELDS:
        parse_assignment(f"{key}=0")  # says which settings there are
    if key in FIXED:
        raise ConfigError(f"--search {key}: this setting is not searched over; fix it with --set {key}=VALUE")
    if ".." in values:
        return _range(key, values, text)
    separator = "|" if TYPES[key] in (list[str], list[int]) else ","
    words = [word.strip() for word in values.split(separator)]
    choices = [parse_assignment(f"{key}={word}")[1] if word else _empty(key, text) for word in words]
    if len(choices) < 2 or any(choices.count(choice) > 1 for choice in choices):
        raise ConfigError(f"--search {text}: needs two different values or more")
    return Axis(key, tuple(choices))


def _empty(key: str, text: str) -> list[Any]:
    if TYPES[key] in (list[str], list[int]):
        return []
    raise ConfigError(f"--search {text}: a value is missing between two commas")


def _range(key: str, values: str, text: str) -> Axis:
    if TYPES[key] not in (int, float):
        raise ConfigError(f"--search {text}: {key} is no number; write its values with commas")
    log = values.startswith("log:")
    ends, _, step = values.removeprefix("log:").partition(":")
    kind = TYPES[key]
    try:
        low, high = (kind(end) for end in ends.split(".."))
        width = kind(step) if step else None
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(
            f"--search {text}: the ends and the step must be {what}, as in {key}=1..8 or {key}=1..8:2"
        ) from None
    if not low < high:
        raise ConfigError(f"--search {text}: the first end must be the smaller one")
    if log and (low <= 0 or width):
        raise ConfigError(f"--search {text}: a logarithmic range begins above 0 and has no step")
    if width is not None and width <= 0:
        raise ConfigError(f"--search {text}: the step must be positive")
    return Axis(key, (), low, high, width, log)
