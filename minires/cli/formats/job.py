"""What a format's writer gets and gives, and what several of them need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from minires.cli.model_source import ModelSource
    from minires.infer import Plan
    from minires.nn import Module

__all__ = [
    "Format",
    "Job",
    "Written",
    "comes_back",
    "eager",
    "parts_table",
    "size_text",
    "state_arrays",
    "strides_on_1x1",
    "wiped",
]


@dataclass
class Job:
    """What is to be written.

    Attributes:
        source: the network.
        target: the file, or the folder of Hugging Face's layout.
        x: (2, C, H, W), images to compare logits with.
        plan: the network's plan, on the reference kernels.
        c_weights: "inside" or "beside" a C file; None decides by their number.
    """

    source: ModelSource
    target: Path
    x: np.ndarray
    plan: Callable[[], Plan]
    c_weights: str | None = None


@dataclass
class Written:
    """What was written.

    Attributes:
        files: all of them, the one to name first.
        facts: (what, text), for people.
        columns, rows: a table of the content.
        logits: what the files give for the job's images; None if they could not be run.
        reader: who read them back, or why nobody did.
        next: commands, each with what it does.
        notes: what is missing in the files.
    """

    files: list[Path]
    facts: list[tuple[str, str]]
    columns: tuple[str, ...]
    rows: list[list[str]]
    logits: np.ndarray | None
    reader: str
    next: list[tuple[str, str]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Format:
    """Attributes:
    title: for people.
    suffix: of the file's name; "" for a folder.
    needs_module: whether a plan alone does not suffice.
    write: does it.
    """

    title: str
    suffix: str
    needs_module: bool
    write: Callable[[Job], Written]


def size_text(count: int) -> str:
    """44.7 MB"""
    from minires.infer.table import short

    text = short(count) or "0"
    return f"{text}B" if " " in text else f"{text} bytes"


def eager(module: Module, x: np.ndarray) -> np.ndarray:
    """What a model gives in evaluation mode, on the reference kernels: no plan is between."""
    import minires
    from minires.backend import use_kernels

    module.eval()
    with minires.inference_mode(), use_kernels("reference"):
        return module(minires.Tensor(x)).numpy()


def state_arrays(module: Module) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().array for name, value in module.state_dict().items()}


def parts_table(state: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], list[list[str]]]:
    """A table of the tensors by the first part of their names, as columns and rows."""
    parts: dict[str, list[np.ndarray]] = {}
    for name, array in state.items():
        parts.setdefault(name.split(".")[0], []).append(array)
    rows = [
        [part, f"{len(arrays):,}", f"{sum(a.size for a in arrays):,}", f"{sum(a.nbytes for a in arrays):,}"]
        for part, arrays in parts.items()
    ]
    return ("part", "tensors", "numbers", "bytes"), rows


def strides_on_1x1(module: Module) -> bool:
    stage = getattr(module, "layer2", None)
    first = getattr(stage[0], "conv1", None) if stage is not None and hasattr(stage[0], "conv3") else None
    return first is not None and hasattr(module, "bn1") and tuple(first.stride) != (1, 1)


def comes_back(state: Mapping[str, np.ndarray], architecture: str) -> bool:
    """Whether the name describes these weights, so that a file which says it can be loaded."""
    from minires.errors import MiniresError
    from minires.io.architectures import from_name
    from minires.io.structure import read_structure

    try:
        declared = from_name(architecture, "")
        return declared.builder is not None or not declared.differences(read_structure(state))
    except (MiniresError, ValueError):
        return False


def wiped(module: Module) -> Module:
    """The module, with zeros for all weights and buffers: what is right afterwards came from a file."""
    for value in module.state_dict().values():
        value.array[...] = 0
    return module
