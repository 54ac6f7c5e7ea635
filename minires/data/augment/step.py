"""What an augmentation is, and how its text form is read: `"pad_crop:4"`, `"random_erasing:p=0.25,value=noise"`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from minires.data.counter_random import Draws
from minires.errors import ArgumentError, UnknownNameError

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One augmentation; its fields are its options, in the order in which the text form takes them."""

    name: ClassVar[str]

    def __str__(self) -> str:
        """The text form, with every option named."""
        options = ",".join(f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self))
        return f"{self.name}:{options}" if options else self.name

    def _require(self, condition: bool, option: str, expected: str) -> None:
        if not condition:
            raise ArgumentError(f"{self.name}: {option} must be {expected}, got {getattr(self, option)!r}")


class ImageStep(Step):
    """Changes images alone."""

    def __call__(self, images: Array, draws: Draws, mean: Array) -> Array:
        """
        Args:
            images: (N, C, H, W) uint8 in 0 .. 255 or float32 in 0 .. 1; not changed.
            draws: the random numbers of these samples, in a stream of this step's own.
            mean: (C,) the data set's mean in units of 0 .. 1, for what is painted over.
        """
        raise NotImplementedError


class MixStep(Step):
    """Mixes every sample with another one of the data set."""

    def mix(
        self, images: Array, labels: Array, other_images: Array, other_labels: Array, draws: Draws
    ) -> tuple[Array, Array]:
        """
        Args:
            images, other_images: (N, C, H, W), as for `ImageStep`.
            labels, other_labels: (N, K) float32 probabilities.
        """
        raise NotImplementedError


S = TypeVar("S", bound=type[Step])
_known: dict[str, type[Step]] = {}


def register(step: S) -> S:
    """Class decorator: give a step its place in the text form."""
    _known[step.name] = step
    return step


def known_steps() -> list[str]:
    """Names of all augmentations."""
    return sorted(_known)


def usage(name: str) -> str:
    """`name:option=default,...`"""
    return str(_known[name]())


def parse_step(text: str) -> Step:
    """Read one step: `name`, `name:value,value`, `name:option=value`, or both forms, positions first.

    Raises:
        UnknownNameError: no such augmentation, with the nearest names.
        ArgumentError: an option that the step does not have, given twice, or of the wrong type or range.
    """
    name, _, rest = text.strip().partition(":")
    if name not in _known:
        raise UnknownNameError.for_name("augmentation", name, _known)
    fields = {f.name: f for f in dataclasses.fields(_known[name])}
    values: dict[str, Any] = {}
    for place, part in enumerate(filter(None, (p.strip() for p in rest.split(",")))):
        option, equals, value = part.partition("=")
        if not equals:
            if place >= len(fields):
                raise ArgumentError(f"{name}: too many options in {text!r}; it takes {usage(name)!r}")
            option, value = list(fields)[place], part
        if option not in fields or option in values:
            what = "twice the option" if option in values else "no option"
            raise ArgumentError(f"{name}: {what} {option!r} in {text!r}; it takes {usage(name)!r}")
        values[option] = _convert(name, option, value, type(fields[option].default))
    return _known[name](**values)


def _convert(name: str, option: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError:
        expected = {int: "a whole number", float: "a number"}[kind]
        raise ArgumentError(f"{name}: {option} must be {expected}, got {value!r}") from None


def fill_value(images: Array, mean: Array) -> Array:
    """(C, 1, 1) the data set's mean colour, in the units of `images`: nearly 0 once normalised."""
    if images.dtype == np.uint8:
        return np.rint(255.0 * mean).astype(np.uint8)[:, None, None]
    return mean.astype(images.dtype)[:, None, None]


def to_unit(images: Array) -> Array:
    """float32 in 0 .. 1, a copy only where the images are bytes."""
    return np.multiply(images, np.float32(1 / 255), dtype=np.float32) if images.dtype == np.uint8 else images


def choices(values: Iterable[str]) -> str:
    return "one of " + ", ".join(values)
