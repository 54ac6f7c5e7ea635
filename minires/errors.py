"""Every error that minires raises for what a user gave.

A message names the operation, the argument, what was expected, what came and, where it is known, the way out:

    conv2d: weight needs 16 input channels (C_in / groups = 32 / 2), got weight.shape = (64, 8, 3, 3)

All derive from `MiniresError` and from the built-in error that torch users expect in the same place, so that both
`except minires.MiniresError` and `except ValueError` work.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MiniresError(Exception):
    """The base of all errors of minires."""


class ShapeError(MiniresError, ValueError, RuntimeError):
    """A wrong rank, size or number of channels.

    Both a ValueError (what it is) and a RuntimeError (what torch raises for it), so that code written for torch catches it.
    """


class DTypeError(MiniresError, TypeError, RuntimeError):
    """A dtype that an operation does not take, or two that do not go together."""


class ArgumentError(MiniresError, ValueError):
    """A value of an option that is outside what is allowed."""


class LabelError(MiniresError, IndexError):
    """A class label outside [0, number of classes), or an index outside its dimension."""


class DeviceError(MiniresError, RuntimeError):
    """A device that is not there, or arrays of two devices in one operation."""


class GradError(MiniresError, RuntimeError):
    """A derivative that cannot be computed: graph freed, value overwritten, nothing requires grad."""


class ModuleError(MiniresError, AttributeError, TypeError, NotImplementedError):
    """A module put together wrongly: an attribute it does not have, a layer assigned before `super().__init__()`, the wrong
    kind of object under a registered name, no `forward`.

    Derives from each built-in error that torch raises in these places; `hasattr` needs the AttributeError.
    """


class StateDictError(MiniresError, RuntimeError):
    """A state dict that does not fit the module."""


class DataError(MiniresError, RuntimeError):
    """A data set that is missing or corrupt."""


class CheckpointError(MiniresError, RuntimeError):
    """A checkpoint that cannot be read."""


class ConfigError(MiniresError, ValueError):
    """A setting, from the environment or a configuration file, that is unknown or has a bad value."""


class KernelError(MiniresError, RuntimeError):
    """A kernel that gave something else than the reference, found with MINIRES_CHECK=1."""


class UnsupportedError(MiniresError, NotImplementedError, AttributeError):
    """Something of torch's that minires does not have. The message names it and what to use instead."""


class UnknownNameError(MiniresError, ValueError):
    """An unknown model, data set, optimiser, ...: the message lists the nearest names."""

    @classmethod
    def for_name(cls, kind: str, got: str, known: Iterable[str]) -> UnknownNameError:
        """`unknown model 'resnet19': did you mean resnet18, resnet110? Known: ...`"""
        names = sorted(known)
        near = difflib.get_close_matches(got, names, n=3, cutoff=0.5)
        hint = f": did you mean {', '.join(near)}?" if near else "."
        return cls(f"unknown {kind} {got!r}{hint} Known: {', '.join(names)}")
