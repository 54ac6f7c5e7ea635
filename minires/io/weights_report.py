"""What a file of weights is, in the words of people: format, wrappers, whose names, what is beside the weights.

report = examine("best.pth.tar")
report.format          "torch.save, zip form"
report.path            ("state_dict",): where in the file the weights are
report.prefix          "module.": what stood before every name
report.left_out        {"epoch": "90", "optimizer": "dict of 2"}
report.state           the tensors under our names
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minires.errors import CheckpointError
from minires.io.load_model import find_weights, read_tree
from minires.io.names import WRAPPERS, find_state_dict, naming_of, to_minires
from minires.io.pickle_values import Placeholder
from minires.io.safetensors import SafetensorsFile, is_safetensors
from minires.io.shards import INDEX, read_shards

__all__ = ["WeightsReport", "describe_value", "examine"]

LIBRARIES = {
    "torchvision": "torchvision's, which timm and minires share",
    "huggingface": "Hugging Face's ResNetForImageClassification",
    "cifar": "of the CIFAR networks of kuangliu and akamaster",
}


@dataclass
class WeightsReport:
    """Attributes:
    file: that has the weights, or their index.
    files: how many there are.
    format: for people.
    bytes: of all files.
    path: the keys that lead to the weights.
    prefix: taken off every name.
    naming: "torchvision", "huggingface" or "cifar"; see `names`.
    state: tensors by our names, in the order of the file.
    dtypes: how many tensors of each dtype the file has, in its own words.
    left_out: what else is in the file, by key, described.
    metadata: of a safetensors file.
    architecture: the network's name, where the file itself says it.
    chosen: which of several state dicts, for people; or None.
    """

    file: Path
    files: int
    format: str
    bytes: int
    path: tuple[str, ...]
    prefix: str
    naming: str
    state: dict[str, np.ndarray]
    dtypes: dict[str, int]
    left_out: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    architecture: str | None = None
    chosen: str | None = None


def examine(path: str | os.PathLike[str]) -> WeightsReport:
    """Read the weights of a file, or of a folder as `load_model` takes it, and say what they are.

    Raises:
        FileNotFoundError: there is nothing.
        CheckpointError: it is damaged, or holds no state dict.
    """
    file, _, _ = find_weights(Path(path))
    where = f"import: {file}"
    files = [file]
    if file.name.endswith(INDEX):
        parts: list[Path] = []

        def read(part: Path) -> Any:
            parts.append(part)
            return read_tree(part)[0]

        tree: Any = read_shards(file, where, read)
        files = parts
    else:
        tree, _ = read_tree(file)
    kind, metadata, stored = _format(files)
    state, chosen = find_state_dict(tree, where)
    keys, inner, left_out = _walk(tree)
    first, short = next(iter(inner)), next(iter(state))
    if stored is None:
        stored = {}
        for array in state.values():
            stored[array.dtype.name] = stored.get(array.dtype.name, 0) + 1
    return WeightsReport(
        file,
        len(files),
        kind if len(files) == 1 else f"{kind}, in {len(files)} files",
        sum(part.stat().st_size for part in files),
        keys,
        first.removesuffix(short),
        naming_of(state),
        to_minires(state, where),
        stored,
        left_out,
        metadata,
        metadata.get("architecture") or _of_a_run(tree),
        chosen,
    )


def describe_value(value: Any) -> str:
    """What is left out, in a few words: a number or a short text itself, of anything else its kind and size."""
    if isinstance(value, Placeholder):
        return f"an object, {value.module}.{value.name}"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else f"{value[:37]}...")
    if isinstance(value, (Mapping, list, tuple, set)):
        return f"{'dict' if isinstance(value, Mapping) else type(value).__name__} of {len(value)}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"tensor {'x'.join(map(str, shape)) or 'of one number'}"


def _of_a_run(tree: Any) -> str | None:
    """The network that a checkpoint of a training run of ours names."""
    config = tree.get("config") if isinstance(tree, Mapping) and tree.get("format") == "minires-checkpoint" else None
    name = config.get("model") if isinstance(config, Mapping) else None
    return name if isinstance(name, str) else None


def _walk(tree: Any) -> tuple[tuple[str, ...], Mapping[str, Any], dict[str, str]]:
    """The way that `find_state_dict` takes: keys, the innermost dictionary, and what is left aside on the way."""
    keys: list[str] = []
    left_out: dict[str, str] = {}
    while len(keys) < 4:
        inside = [key for key in WRAPPERS if isinstance(tree.get(key), Mapping)]
        if not inside:
            break
        for key, value in tree.items():
            if key != inside[0]:
                left_out[".".join([*keys, str(key)])] = describe_value(value)
        keys.append(inside[0])
        tree = tree[inside[0]]
    return tuple(keys), tree, left_out


def _format(files: list[Path]) -> tuple[str, dict[str, str], dict[str, int] | None]:
    """(name, metadata, dtypes as stored where the arrays do not show them)."""
    from minires.io import archive

    with open(files[0], "rb") as opened:
        head = opened.read(16)
    if is_safetensors(head):
        metadata: dict[str, str] = {}
        stored: dict[str, int] = {}
        for file in files:
            with SafetensorsFile(file) as tensors:
                metadata |= tensors.metadata
                for info in tensors.info.values():
                    stored[info.dtype] = stored.get(info.dtype, 0) + 1
        return "safetensors", metadata, stored
    if head.startswith(b"PK"):
        with zipfile.ZipFile(files[0]) as members:
            names = members.namelist()
        if archive.TREE in names:
            return "minires' archive", {}, None
        if any(name.endswith("data.pkl") for name in names):
            return "torch.save, zip form", {}, None
        return "npz", {}, None
    if head.startswith(b"\x80"):
        return "torch.save, legacy form", {}, None
    raise CheckpointError(
        f"import: {files[0]}: of a format that has no name"
    )  # pragma: no cover  # the reader refused it
