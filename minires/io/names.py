"""State dicts of other libraries under our names, which are torchvision's.

    state = to_minires(find_state_dict(tree))

What the libraries call the first convolution of the second block of stage 3, its shortcut, and the last layer:

    torchvision, timm, minires   layer3.1.conv1                                         layer3.0.downsample.0  fc
    Hugging Face                 resnet.encoder.stages.2.layers.1.layer.0.convolution   ....shortcut.convolution  classifier.1
    pytorch-cifar (kuangliu)     layer3.1.conv1                                         layer3.0.shortcut.0    linear
    akamaster's CIFAR nets       layer3.1.conv1                                         none (option A)        linear

Training scripts save more than a state dict: it lies under a key of a dictionary, and its names begin with what wrapped
the network (DataParallel: `module.`, torch.compile: `_orig_mod.`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minires.errors import CheckpointError
from minires.io.messages import shorten
from minires.io.pickle_values import Placeholder
from minires.tensor import Tensor

__all__ = ["find_state_dict", "naming_of", "strip_prefixes", "to_minires"]

# In the order in which they are taken: an averaged copy of the weights is what its author evaluates. As timm has it.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "timm_model.")

_FACTOR = {"convolution": "conv", "normalization": "bn"}
_N = "[0-9]{1,6}"  # a number that int() takes, whatever the file
_HF_STEM = re.compile(r"(?:resnet\.)?embedder\.embedder\.(convolution|normalization)\.(\w+)")
_HF_BLOCK = re.compile(
    rf"(?:resnet\.)?encoder\.stages\.({_N})\.layers\.({_N})\.(?:layer\.({_N})|shortcut)\."
    r"(convolution|normalization)\.(\w+)"
)
_HF_HEAD = re.compile(r"classifier\.1\.(weight|bias)")
_CIFAR_SHORTCUT = re.compile(rf"(layer{_N}\.{_N})\.shortcut\.({_N}\.\w+)")
_CIFAR_HEAD = re.compile(r"linear\.(weight|bias)")


def find_state_dict(tree: Any, where: str) -> tuple[dict[str, np.ndarray], str | None]:
    """The state dict in what a file holds, without wrappers.

    Args:
        tree: what `minires.load` or `read_torch_file` gives.
        where: begins the error messages, for instance "load_model: net.pth".

    Returns:
        Names to arrays, prefixes stripped; and what was chosen where there was a choice ("state_dict_ema, not
        state_dict"), for an announcement, or None.

    Raises:
        CheckpointError: there is none, or something in it is not a tensor.
    """
    chosen = None
    for _ in range(4):  # {"net": {"state_dict": {...}}} is as deep as it gets
        if isinstance(tree, Placeholder):
            raise CheckpointError(
                f"{where}: holds a {tree.module}.{tree.name}, a whole object, whose code only the program that saved it "
                "has. There, save its state_dict: torch.save(model.state_dict(), FILE)"
            )
        if not isinstance(tree, Mapping):
            raise CheckpointError(f"{where}: holds a {type(tree).__name__}, not a state dict of names and tensors")
        inside = [key for key in WRAPPERS if isinstance(tree.get(key), (Mapping, Placeholder))]
        if not inside:
            break
        if len(inside) > 1:
            chosen = f"{inside[0]}, not {' or '.join(inside[1:])}"
        tree = tree[inside[0]]
    state: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        array = value.detach().cpu().array if isinstance(value, Tensor) else value
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            keys = ", ".join(str(key)[:40] for key in list(tree)[:8])
            raise CheckpointError(
                f"{where}: not a state dict: {str(name)[:80]!r} is a {type(value).__name__}, not a tensor. It has the keys "
                f"{keys}; a state dict under another one than {', '.join(WRAPPERS)} must be taken out: "
                "model.load_state_dict(minires.load(FILE)[KEY])"
            )
        state[name] = array
    if not state:
        raise CheckpointError(f"{where}: holds no tensors")
    return strip_prefixes(state), chosen


def strip_prefixes(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take off, as often as all names begin with one of them: `module.`, `_orig_mod.`, `model.`, `net.`, `timm_model.`."""
    result = dict(state)
    while True:
        prefix = next((p for p in PREFIXES if result and all(name.startswith(p) for name in result)), None)
        if prefix is None:
            return result
        result = {name.removeprefix(prefix): array for name, array in result.items()}


def naming_of(state: Mapping[str, np.ndarray]) -> str:
    """Whose names these are: "huggingface", "cifar" (pytorch-cifar's and akamaster's) or "torchvision" (all others)."""
    if any(_HF_STEM.fullmatch(name) or _HF_BLOCK.fullmatch(name) for name in state):
        return "huggingface"
    if "linear.weight" in state or any(_CIFAR_SHORTCUT.fullmatch(name) for name in state):
        return "cifar"
    return "torchvision"


def to_minires(state: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The same tensors under our names. Names that belong to no library stay: the model will say what it did not expect.

    Raises:
        CheckpointError: two names become one.
    """
    rename = _RENAME[naming_of(state)]
    result: dict[str, np.ndarray] = {}
    for name, array in state.items():
        ours = rename(name)
        if ours in result:
            raise CheckpointError(
                f"{where}: two of its tensors are {shorten(ours, 80)} here, one of them {shorten(name, 80)}"
            )
        result[ours] = array
    return result


def _from_huggingface(name: str) -> str:
    if match := _HF_STEM.fullmatch(name):
        return f"{_FACTOR[match[1]]}1.{match[2]}"
    if match := _HF_BLOCK.fullmatch(name):
        stage, block, layer, factor, kind = match.groups()
        inner = (
            f"downsample.{'01'[factor == 'normalization']}" if layer is None else f"{_FACTOR[factor]}{int(layer) + 1}"
        )
        return f"layer{int(stage) + 1}.{block}.{inner}.{kind}"
    if match := _HF_HEAD.fullmatch(name):
        return f"fc.{match[1]}"
    return name


def _from_cifar(name: str) -> str:
    if match := _CIFAR_SHORTCUT.fullmatch(name):
        return f"{match[1]}.downsample.{match[2]}"
    if match := _CIFAR_HEAD.fullmatch(name):
        return f"fc.{match[1]}"
    return name


_RENAME: dict[str, Callable[[str], str]] = {"huggingface": _from_huggingface, "cifar": _from_cifar, "torchvision": str}
