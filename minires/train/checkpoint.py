"""The two files of a run that hold weights: last.ckpt, from which training goes on, and best.safetensors, for use.

last.ckpt, as a tree (see `minires.io.archive` for the container):

    format, version     "minires-checkpoint", 1
    model               state dict: weights and buffers
    optimizer, schedule their state dicts
    stateful            those of whatever else has a state, by name ("ema", ...)
    random              state of the engine's generator (dropout)
    progress            epochs finished, batches into the next one and the sums over them, best epoch so far
    rows                what metrics.jsonl holds
    config              every setting of the run
    data                name, classes, channels, height, width, mean and std of the data set
    runtime             what the last bits depend on beside the settings: kernel set, threads, processor
    versions            minires, NumPy, Python

Of two runs with the same settings all of it is the same, bit for bit, but for what was measured with a clock:
`progress["seconds"]`, and in the rows the columns `run_folder.CLOCK`.

best.safetensors has the weights and buffers of the best epoch under torchvision's names, which any reader of the format
opens, and in its metadata, as JSON under "minires", what `eval` and `predict` must know: config, data, progress,
versions; and a sha256 of the weights, because the format itself notices no flipped bit. No run can go on from it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import minires
from minires.errors import CheckpointError, MiniresError
from minires.io import archive
from minires.io.safetensors import SafetensorsFile, is_safetensors, save_file
from minires.nn import Module
from minires.train.config import TrainConfig, build_config, model_arguments
from minires.train.run_folder import BEST, LAST, find_checkpoint
from minires.train.setup import Parts, build_model

__all__ = [
    "BEST",
    "LAST",
    "Checkpoint",
    "data_facts",
    "load_checkpoint",
    "load_model",
    "restore",
    "save_checkpoint",
    "save_weights",
    "weights_not_finite",
]

FORMAT = "minires-checkpoint"
VERSION = 1
_FOR_USE = ("model", "progress", "config", "data")  # dicts that both files have
_TO_GO_ON = ("optimizer", "schedule", "random")  # and those that only last.ckpt has


class Checkpoint:
    """What a checkpoint file holds, checked for completeness.

    Attributes:
        complete: whether training can go on from it; else `optimizer`, `schedule` and `random` are empty.
    """

    def __init__(self, path: Path, tree: dict[str, Any]) -> None:
        self.path = path
        self.complete = all(key in tree for key in _TO_GO_ON)
        self.model: Mapping[str, Any] = tree["model"]
        self.optimizer: dict[str, Any] = tree.get("optimizer", {})
        self.schedule: dict[str, Any] = tree.get("schedule", {})
        self.stateful: dict[str, Any] = tree.get("stateful", {})
        self.random: dict[str, Any] = tree.get("random", {})
        self.progress: dict[str, Any] = tree["progress"]
        self.rows: list[dict[str, Any]] | None = tree.get("rows")  # None: written before rows were kept here
        self.data: dict[str, Any] = tree["data"]
        self.runtime: dict[str, Any] = tree.get("runtime", {})
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
    stateful: Mapping[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
    runtime: dict[str, Any] | None = None,
) -> None:
    """Write last.ckpt; an older one at `path` stays as it is until the new one is complete and on the disk.

    Args:
        path: the file.
        config: the settings of the run.
        model, optimizer, schedule, stateful: their state dicts are stored.
        data: what `data_facts` says of the training set.
        progress: where the run stands.
        rows: what metrics.jsonl holds then.
        runtime: what `run_folder.runtime_facts` says.
    """
    archive.save(
        {
            "format": FORMAT,
            "version": VERSION,
            "progress": progress,
            "rows": rows or [],
            "config": asdict(config),
            "data": data,
            "runtime": runtime or {},
            "versions": _versions(),
            "random": minires.random.get_rng_state(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "stateful": {name: part.state_dict() for name, part in (stateful or {}).items()},
        },
        path,
    )


def save_weights(
    path: str | Path, *, config: TrainConfig, model: Module, data: dict[str, Any], progress: dict[str, Any]
) -> None:
    """Write best.safetensors: weights and buffers, and what must be known to use them.

    Args: as `save_checkpoint`'s. `progress` is kept without what a clock measured, so equal runs give equal bytes.
    """
    document = {
        "format": FORMAT,
        "version": VERSION,
        "progress": {key: value for key, value in progress.items() if key != "seconds"},
        "config": asdict(config),
        "data": data,
        "versions": _versions(),
        "sha256": _digest(model.state_dict()),
    }
    # "format": transformers reads no file without it. "architecture": what `minires.load_model` looks for; where another
    # width was asked for, it is not that of the name, and the shapes say it.
    metadata = {"format": "pt", "minires": json.dumps(document)}
    if "width" not in model_arguments(config):
        metadata["architecture"] = config.model
    save_file(model.state_dict(), path, metadata)


def _versions() -> dict[str, str]:
    return {"minires": minires.__version__, "numpy": np.__version__, "python": platform.python_version()}


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, from its file or its run's folder (best.safetensors, an older run's best.ckpt, last.ckpt).

    Raises:
        CheckpointError: there is none, it is damaged, or it holds something else (a bare state dict, for example).
    """
    file = find_checkpoint(path)
    with open(file, "rb") as opened:
        weights_alone = is_safetensors(opened.read(16))
    tree = _read_weights(file) if weights_alone else archive.load(file)
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
    needed = _FOR_USE if weights_alone else _FOR_USE + _TO_GO_ON
    missing = [key for key in needed if not isinstance(tree.get(key), dict)]
    if missing:
        raise CheckpointError(f"checkpoint: {file} is incomplete: {', '.join(missing)} missing or of the wrong kind")
    try:
        return Checkpoint(file, tree)
    except MiniresError as error:
        raise CheckpointError(f"checkpoint: {file}: its settings do not fit this minires: {error}") from error


def _read_weights(file: Path) -> dict[str, Any]:
    """The tree of a safetensors file of ours; of another's, its tensors."""
    with SafetensorsFile(file) as tensors:
        model: OrderedDict[str, Any] = OrderedDict(tensors)
        text = tensors.metadata.get("minires")
    if text is None:
        return model
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint: {file}: what it says of its run is damaged: {error}") from None
    if not isinstance(document, dict):
        return model
    if document.get("sha256") != _digest(model):
        raise CheckpointError(
            f"checkpoint: {file} is damaged: its weights are not those that were written (sha256). Use another copy"
        )
    return {**document, "model": model}


def _digest(state: Mapping[str, Any]) -> str:
    """sha256 over names, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.asarray(state[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def restore(checkpoint: Checkpoint, parts: Parts) -> None:
    """Put everything where it stood when the checkpoint was written.

    Raises:
        CheckpointError: it holds weights alone, or what it holds does not fit the parts.
    """
    if not checkpoint.complete:
        raise CheckpointError(f"resume: {checkpoint.path} holds weights for use; training goes on from {LAST}")
    if set(checkpoint.stateful) != set(parts.stateful):
        raise CheckpointError(
            f"resume: {checkpoint.path} has a state of {sorted(checkpoint.stateful) or 'nothing'} beside model and "
            f"optimiser, its settings ask for {sorted(parts.stateful) or 'nothing'}"
        )
    try:
        parts.model.load_state_dict(checkpoint.model)
        parts.optimizer.load_state_dict(checkpoint.optimizer)
        parts.schedule.load_state_dict(checkpoint.schedule)
        for name, part in parts.stateful.items():
            part.load_state_dict(checkpoint.stateful[name])
        minires.random.set_rng_state(checkpoint.random)
    except (MiniresError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"resume: {checkpoint.path} does not fit its own settings: {error}") from error


def load_model(checkpoint: Checkpoint) -> Module:
    """Build the model that a checkpoint describes and give it its weights; it comes in evaluation mode.

    Raises:
        CheckpointError: the weights do not fit the model that the checkpoint names.
    """
    facts = checkpoint.data
    try:
        shape = (facts["channels"], facts["height"], facts["width"])
        model = build_model(checkpoint.config, len(facts["classes"]), shape)
        # Where the running mean of the weights is on, it is what was measured: last.ckpt holds both.
        model.load_state_dict(
            checkpoint.stateful["ema"]["average"] if "ema" in checkpoint.stateful else checkpoint.model
        )
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


def weights_not_finite(model: Module) -> str:
    """The first weight or buffer that holds a NaN or an infinity, "" if none does: a checkpoint with one would be no
    good to anybody.
    """
    # One reduction an array: a sum of finite values is finite (or overflows, which float64 makes impossible here).
    bad = (k for k, t in model.state_dict().items() if not np.isfinite(np.sum(t.numpy(), dtype=np.float64)))
    return next(bad, "")


def _is_state_dict(tree: Any) -> bool:
    return (
        isinstance(tree, dict)
        and bool(tree)
        and all(isinstance(k, str) and hasattr(v, "shape") for k, v in tree.items())
    )
