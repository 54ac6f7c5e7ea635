"""A checkpoint of a training run: one file from which training goes on, and from which `predict` works without
anything else.

Its content, as a tree (see `minires.io.archive` for the container):

    format, version     "minires-checkpoint", 1
    model               state dict: weights and buffers
    optimizer, schedule their state dicts
    random              state of the engine's generator (dropout)
    progress            epochs finished, batches into the next one and the sums over them, best epoch so far
    config              every setting of the run
    data                name, classes, channels, height, width, mean and std of the data set
    versions            minires, NumPy, Python
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import minires
from minires.errors import CheckpointError, MiniresError
from minires.io import archive
from minires.nn import Module
from minires.train.config import TrainConfig, build_config
from minires.train.run_folder import find_checkpoint
from minires.train.setup import build_model

__all__ = ["Checkpoint", "data_facts", "load_checkpoint", "load_model", "save_checkpoint", "weights_are_finite"]

FORMAT = "minires-checkpoint"
VERSION = 1
_KEYS = {
    "model": dict,
    "optimizer": dict,
    "schedule": dict,
    "random": dict,
    "progress": dict,
    "config": dict,
    "data": dict,
}


class Checkpoint:
    """What a checkpoint file holds, checked for completeness."""

    def __init__(self, path: Path, tree: dict[str, Any]) -> None:
        self.path = path
        self.model: OrderedDict[str, Any] = tree["model"]
        self.optimizer: dict[str, Any] = tree["optimizer"]
        self.schedule: dict[str, Any] = tree["schedule"]
        self.random: dict[str, Any] = tree["random"]
        self.progress: dict[str, Any] = tree["progress"]
        self.data: dict[str, Any] = tree["data"]
        self.versions: dict[str, Any] = tree.get("versions", {})
        self.config: TrainConfig = build_config(tree["config"])


def save_checkpoint(
    path: str | Path,
    *,
    config: TrainConfig,
    model: Module,
    optimizer: Any,
    schedule: Any,
    data: dict[str, Any],
    progress: dict[str, Any],
) -> None:
    """Write a checkpoint; an older one at `path` stays as it is until the new one is complete.

    Args:
        path: the file.
        config: the settings of the run.
        model, optimizer, schedule: their state dicts are stored.
        data: what `data_facts` says of the training set.
        progress: where the run stands.
    """
    import platform

    archive.save(
        {
            "format": FORMAT,
            "version": VERSION,
            "progress": progress,
            "config": asdict(config),
            "data": data,
            "versions": {"minires": minires.__version__, "numpy": np.__version__, "python": platform.python_version()},
            "random": minires.random.get_rng_state(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        },
        path,
    )


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, from its file or its run's folder (best.ckpt, else last.ckpt).

    Raises:
        CheckpointError: there is none, it is damaged, or it holds something else (a bare state dict, for example).
    """
    file = find_checkpoint(path)
    tree = archive.load(file)
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        what = "a state dict (weights alone)" if _is_state_dict(tree) else f"a {type(tree).__name__}"
        raise CheckpointError(
            f"checkpoint: {file} holds {what}, not a training run; only what `minires train` saves says which model "
            "and which classes it is. In Python: model.load_state_dict(minires.load(FILE))"
        )
    if tree.get("version") != VERSION:
        raise CheckpointError(
            f"checkpoint: {file} has version {tree.get('version')!r}; this minires reads version {VERSION}"
        )
    missing = [key for key, kind in _KEYS.items() if not isinstance(tree.get(key), kind)]
    if missing:
        raise CheckpointError(f"checkpoint: {file} is incomplete: {', '.join(missing)} missing or of the wrong kind")
    try:
        return Checkpoint(file, tree)
    except MiniresError as error:
        raise CheckpointError(f"checkpoint: {file}: its settings do not fit this minires: {error}") from error


def load_model(checkpoint: Checkpoint) -> Module:
    """Build the model that a checkpoint describes and give it its weights; it comes in evaluation mode.

    Raises:
        CheckpointError: the weights do not fit the model that the checkpoint names.
    """
    facts = checkpoint.data
    try:
        shape = (facts["channels"], facts["height"], facts["width"])
        model = build_model(checkpoint.config, len(facts["classes"]), shape)
        model.load_state_dict(checkpoint.model)
    except (MiniresError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint: {checkpoint.path} does not fit model {checkpoint.config.model}: {error}"
        ) from error
    return model.eval()


def data_facts(dataset: Any, name: str) -> dict[str, Any]:
    """What must be known of the training set to use the model on another image.

    Args:
        dataset: an ArrayDataset.
        name: how the data set is asked for.
    """
    channels, height, width = dataset.images.shape[1:]
    return {
        "name": name,
        "classes": list(dataset.classes),
        "channels": int(channels),
        "height": int(height),
        "width": int(width),
        "mean": [float(v) for v in np.ravel(dataset.mean)],
        "std": [float(v) for v in np.ravel(dataset.std)],
    }


def weights_are_finite(model: Module) -> bool:
    """Whether no weight and no buffer is NaN or infinite: a checkpoint with one would be no good to anybody."""
    # One reduction an array: a sum of finite values is finite (or overflows, which float64 makes impossible here).
    return all(math.isfinite(float(np.sum(t.numpy(), dtype=np.float64))) for t in model.state_dict().values())


def _is_state_dict(tree: Any) -> bool:
    return (
        isinstance(tree, dict)
        and bool(tree)
        and all(isinstance(k, str) and hasattr(v, "shape") for k, v in tree.items())
    )
