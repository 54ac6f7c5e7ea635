"""`as_torch`: minires' modules under torch's names in `sys.modules`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from minires.compat.hints import explain
from minires.compat.stand_in import StandIn, Switches
from minires.errors import MiniresError

# Packages that are built on the real torch's C++ and would fail somewhere inside.
NEED_TORCH = ("torchvision", "torchaudio", "torchtext", "torchmetrics")


class TorchImportError(MiniresError, ImportError):
    """An import of a part of torch (or of a library built on it) that minires does not have; or torch is there already."""


class _Finder:
    """Asked by Python for every module that is not in `sys.modules` yet; answers for torch's alone, with an error.

    Python's own finders come after it, so that an installed torch is not found either. `from torch import x` asks it
    too, for `torch.x`, where `x` is no name of the module: that is how the hint reaches the script.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        root = name.partition(".")[0]
        if root == "torch" or root in NEED_TORCH:
            parent = sys.modules.get(name.rpartition(".")[0])
            raise TorchImportError(explain(name, getattr(parent, "__all__", ())), name=name)


class Replacement:
    """The minires modules in torch's place. Also a context manager: leaving it puts back what was there before.

    Attributes:
        torch: the module that `import torch` gives.
    """

    def __init__(self, torch: ModuleType, before: dict[str, Any] | None) -> None:
        self.torch = torch
        self._before = before  # None: torch's place was taken by an earlier call, which gives it back

    def restore(self) -> None:
        """Take the modules out again. Modules that imported them keep what they got."""
        global _active
        if self._before is None or _active is not self:
            return
        for name in [n for n in sys.modules if n == "torch" or n.startswith("torch.")]:
            del sys.modules[name]
        sys.modules.update(self._before)
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not _Finder]
        _active = None

    def __enter__(self) -> ModuleType:
        return self.torch

    def __exit__(self, *exc: object) -> None:
        self.restore()


_active: Replacement | None = None


def as_torch() -> Replacement:
    """Put minires in the place of torch: from now on `import torch`, `from torch import nn`, ... give minires.

    Works whether torch is installed or not, and any number of times. In a `with` statement it holds for the block.

    Returns:
        What can undo it (`restore()`, or leaving the `with` block) and has the module as `.torch`.

    Raises:
        TorchImportError: the real torch is imported already; its tensors would meet minires'.
    """
    global _active
    if _active is not None and sys.modules.get("torch") is _active.torch:
        return Replacement(_active.torch, None)
    names = [n for n in sys.modules if n.partition(".")[0] in ("torch", *NEED_TORCH)]
    real = [n for n in names if sys.modules[n] is not None]  # None: a test forbids the import
    if real:
        raise TorchImportError(
            f"as_torch: {min(real, key=len)} is imported already, and half of the program would keep it; call minires.as_torch() "
            "before anything imports torch, or start the script with `minires run-torch FILE`",
            name=min(real, key=len),
        )
    before = {n: sys.modules.pop(n) for n in names}
    modules = _modules()
    sys.modules.update(modules)
    sys.meta_path.insert(0, _Finder)  # a class with a static find_spec is a finder
    _active = Replacement(modules["torch"], before)
    return _active


def _modules() -> dict[str, ModuleType]:
    from minires.compat.contents import table  # loads every room: only when torch's place is taken

    modules: dict[str, ModuleType] = {}
    for name, contents in table().items():
        kind = Switches if name.startswith("torch.backends") else StandIn
        parent, _, last = name.rpartition(".")
        module = kind(name, contents)
        if parent:
            modules[parent].__dict__[last] = module
        modules[name] = module
    return modules
