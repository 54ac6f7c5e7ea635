"""Named recipes: one TOML file each beside this one, with a comment at its head that says where it is from and what it
reached here.

    for recipe in all_recipes():
        print(recipe.name, recipe.title)

A recipe says only what differs from the defaults of `TrainConfig`. One without `data` lays itself over the recipe that
its data set takes by itself (`DEFAULTS`).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from minires.errors import UnknownNameError

__all__ = ["DEFAULTS", "Recipe", "all_recipes", "load_recipe", "recipe_names"]

# What `--data NAME` takes where no recipe is named. Fashion-MNIST's long recipe would be hours for a first try.
DEFAULTS = {"digits": "digits", "mnist": "mnist", "fashion-mnist": "fashion-mnist-fast", "cifar10": "cifar10"}
SOURCE, REACHED = "Source:", "Reached here:"


@dataclass(frozen=True)
class Recipe:
    """What one file says."""

    name: str
    title: str  # the first line of the comment
    source: str
    reached: str  # the figure with seeds and machine, or "not run yet"
    settings: dict[str, Any]


def recipe_names() -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str) -> Recipe:
    """Read one recipe.

    Raises:
        UnknownNameError: there is none of that name; lists the nearest.
    """
    if name not in recipe_names():
        raise UnknownNameError.for_name("recipe", name, recipe_names())
    text = (_folder() / f"{name}.toml").read_text(encoding="utf-8")
    head = _head(text)
    title, _, rest = head.partition("\n")
    return Recipe(name, title.strip(), _part(rest, SOURCE), _part(rest, REACHED), tomllib.loads(text))


def all_recipes() -> list[Recipe]:
    """Every recipe, by name."""
    return [load_recipe(name) for name in recipe_names()]


def _folder() -> Any:
    return resources.files(__name__)


def _head(text: str) -> str:
    """The comment lines at the top, without their signs."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].strip())
    return "\n".join(lines)


def _part(text: str, label: str) -> str:
    """The paragraph behind `label`, as one line; empty where there is none."""
    _, _, behind = text.partition(label)
    return " ".join(behind.partition("\n\n")[0].split())
