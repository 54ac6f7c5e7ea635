"""Every network by name: `list_models()`, `build("resnet20", num_classes=10)`.

A builder is registered by `@register(Family)`: its name is the model's name, and the keyword-only arguments of the
family's constructor are the options it takes. Every model has a plain twin, the same layers without shortcuts:
`build("plain_resnet20")` is `build("resnet20", plain=True)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from minires import nn
from minires.errors import ArgumentError, UnknownNameError

PLAIN = "plain_"

# Below this many pixels a side, 7x7 stride 2 and max-pool would leave stage 1 a map of 16x16 or less.
SMALL_IMAGE = 64

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])
_builders: dict[str, tuple[Callable[..., nn.Module], type[nn.Module]]] = {}


def register(family: type[nn.Module]) -> Callable[[Builder], Builder]:
    """Decorator: list a builder of this family under its function's name."""

    def enter(builder: Builder) -> Builder:
        _builders[builder.__name__] = (builder, family)
        return builder

    return enter


def list_models(plain: bool = True) -> list[str]:
    """The names that `build` knows, sorted.

    Args:
        plain: list the plain twins too.
    """
    names = list(_builders) + [PLAIN + name for name in _builders] * plain
    return sorted(names)


def model_options(name: str) -> dict[str, Any]:
    """The options of a model and their defaults.

    Raises:
        UnknownNameError: no such model.
    """
    _, family = _find(name)
    parameters = inspect.signature(family.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    *,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> nn.Module:
    """Make a network with fresh weights.

    Args:
        name: see `list_models`.
        num_classes: outputs; None takes the paper's (1000 for ImageNet's family, 10 for CIFAR's).
        in_channels: 3 for colour, 1 for grey images.
        image_size: pixels a side, one int or (height, width). The ImageNet networks take their stem for small images
            below 64; the others have one stem. None keeps the paper's stem.
        options: see `model_options(name)`.
    Raises:
        UnknownNameError: no such model, or no such option; lists the nearest names.
        ArgumentError: an option's value is out of range.
    """
    builder, _ = _find(name)
    known = model_options(name)
    for option in options:
        if option not in known:
            raise UnknownNameError.for_name(f"option of model {name}", option, known)
    if name.startswith(PLAIN):
        options["plain"] = True
    if image_size is not None and "small_input" in known:
        options.setdefault("small_input", _shorter_side(image_size) < SMALL_IMAGE)
    if num_classes is not None:
        options["num_classes"] = num_classes
    return builder(in_channels=in_channels, **options)


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes: the sum of the sizes of all parameters."""
    return sum(p.array.size for p in model.parameters())


def check_sizes(op: str, **sizes: int) -> None:
    """Raise ArgumentError unless every size is a positive int."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ArgumentError(f"{op}: {name} must be a positive int, got {value!r}")


def _find(name: str) -> tuple[Callable[..., nn.Module], type[nn.Module]]:
    known = _builders.get(name.removeprefix(PLAIN))
    if known is None:
        raise UnknownNameError.for_name("model", name, list_models(plain=name.startswith("plain")))
    return known


def _shorter_side(image_size: int | tuple[int, int]) -> int:
    sides = (image_size,) if isinstance(image_size, int) else tuple(image_size)
    for side in sides:
        check_sizes("build", image_size=side)
    return min(sides)
