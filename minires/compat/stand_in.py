"""A module object that stands for one of torch's."""

from __future__ import annotations

import importlib.machinery
import types
from collections.abc import Mapping
from typing import Any

from minires.compat.hints import explain
from minires.errors import UnsupportedError


class StandIn(types.ModuleType):
    """`torch`, `torch.nn`, ...: a module with the given names; any other is an UnsupportedError with the way out.

    UnsupportedError is an AttributeError, so `hasattr(torch, "compile")` and `getattr(torch, "compile", None)` work as
    scripts expect.
    """

    def __init__(self, name: str, contents: Mapping[str, Any], doc: str = "") -> None:
        super().__init__(name, doc or f"minires in the place of {name}.")
        self.__dict__.update(contents)
        self.__path__: list[str] = []  # a package, so that the import of an unknown submodule reaches our finder
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        self.__all__ = [key for key in contents if not key.startswith("_")]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        raise UnsupportedError(explain(f"{self.__name__}.{name}", self.__all__))

    def __repr__(self) -> str:
        return f"<module {self.__name__!r} (minires in its place)>"


class Switches(StandIn):
    """A module of settings: those it has may be set, any other is an error, not a setting that does nothing."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("__") and name not in self.__dict__:
            raise UnsupportedError(explain(f"{self.__name__}.{name}", self.__all__))
        super().__setattr__(name, value)
