"""Devices, array modules and kernel sets: what stands between an op and the machine.

An op never asks where it runs. The gate (`autograd.apply`) looks at the arrays, takes the array module (`numpy` or `cupy`)
for one-line formulas and a *kernel set* for whole operations. A set is a module that satisfies
`minires.kernels.interface.KernelSet`; `reference` is plain NumPy. A set that is asked for and missing is an error.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from minires.config import KERNEL_SETS, settings
from minires.errors import ConfigError, DeviceError


class device:
    """Where a tensor lives: `device("cpu")`, `device("cuda", 0)`, `device("cuda:0")`."""

    __slots__ = ("index", "type")
    type: str
    index: int | None

    def __init__(self, type: Any, index: int | None = None) -> None:
        if isinstance(type, device):
            index = type.index if index is None else index
            type = type.type
        if isinstance(type, int):  # torch: device(0) is the first GPU
            type, index = "cuda", type
        if not isinstance(type, str):
            raise DeviceError(f"device: type must be 'cpu' or 'cuda', got {type!r}")
        name, colon, number = type.partition(":")
        if name not in ("cpu", "cuda") or (colon and not number.isdecimal()):
            raise DeviceError(f"device: type must be 'cpu', 'cuda' or 'cuda:N', got {type!r}")
        self.type = name
        self.index = int(number) if number else index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{index})"


CPU = device("cpu")


def as_device(value: Any) -> device:
    """`value` as a device that can be used.

    Raises:
        DeviceError: 'cuda', which has no kernel set yet.
    """
    wanted = value if isinstance(value, device) else device(value)
    if wanted.type == "cuda":
        raise DeviceError(
            f"device: {wanted} has no kernel set in this version of minires (kernels/cuda is not there yet); use 'cpu'"
        )
    return wanted


def device_of(array: Any) -> device:
    """The device that holds `array`."""
    return CPU


def array_module(array: Any) -> ModuleType:
    """The module whose functions work on `array`: numpy."""
    return np


# Whether `auto` takes the cpu set where numba is installed.
AUTO_TAKES_CPU = True


def _installed(package: str) -> bool:
    """Whether `package` can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # an import hook forbids it
        return False


@cache
def kernel_set(name: str = "auto") -> Any:
    """The kernel set called `name`, imported at first use.

    Raises:
        ConfigError: no set of that name, or one that needs a package which is not installed.
    """
    if name == "auto":
        name = "cpu" if AUTO_TAKES_CPU and _installed("numba") else "reference"
    if name not in KERNEL_SETS:
        raise ConfigError(f"kernel_set: name must be one of {', '.join(KERNEL_SETS)}, got {name!r}")
    if name == "cpu" and not _installed("numba"):
        raise ConfigError(
            "kernel_set: the cpu set needs the package numba, which is not installed; pip install minires[cpu], or use the "
            "reference set (MINIRES_KERNELS=reference, or auto, which takes what is there)"
        )
    kernels = importlib.import_module(f"minires.kernels.{name}")
    if settings.threads is not None and hasattr(kernels, "set_workers"):
        kernels.set_workers(settings.threads)
    if settings.debug and hasattr(kernels, "set_debug"):
        kernels.set_debug(settings.debug)
    return kernels


def _served(kernels: Any, check: bool) -> Any:
    """`kernels`, or the set that runs them beside the reference."""
    if not check:
        return kernels
    from minires.checked import CheckedKernels

    return CheckedKernels(kernels)


_current: Any = None  # the set in use; None before the first operation, so that importing minires imports no kernels
_here = threading.local()  # `kernels`: the set of this thread alone, where one is


def _switch(kernels: Any) -> None:
    """`kernels` serve from now on. A set may have functions `leave` and `enter`, to claim what it needs meanwhile."""
    global _current
    getattr(_current, "leave", _nothing)()
    _current = kernels
    getattr(_current, "enter", _nothing)()


def _nothing() -> None:
    pass


def current_kernels() -> Any:
    """The kernel set that serves ops now; with MINIRES_CHECK=1 a `minires.checked.CheckedKernels` around it."""
    here = getattr(_here, "kernels", None)
    if here is not None:
        return here
    if _current is None:
        _switch(_served(kernel_set(settings.kernels), settings.check))
    return _current


def release_memory() -> None:
    """Memory that the kernel set in use keeps for later goes back to the system: a set may have a function `release`."""
    getattr(current_kernels(), "release", _nothing)()


class use_kernels:
    """`with use_kernels("reference"): ...` runs the ops inside on that kernel set.

    Args:
        kernels: a name, or a module or object that satisfies `minires.kernels.interface.KernelSet`.
        check: whether to run each kernel beside the reference; None: as MINIRES_CHECK says.
    """

    def __init__(self, kernels: Any, check: bool | None = None) -> None:
        # A missing set is an error here, not at the first op.
        found = kernel_set(kernels) if isinstance(kernels, str) else kernels
        self.kernels = _served(found, settings.check if check is None else check)

    def __enter__(self) -> use_kernels:
        self._before = _current
        _switch(self.kernels)
        return self

    def __exit__(self, *exc: object) -> None:
        _switch(self._before)


@contextmanager
def use_kernels_here(kernels: Any) -> Iterator[None]:
    """Inside, this thread's operations run on `kernels`, unchecked; those of other threads on the set in use."""
    before = getattr(_here, "kernels", None)
    _here.kernels = kernels
    try:
        yield
    finally:
        _here.kernels = before
