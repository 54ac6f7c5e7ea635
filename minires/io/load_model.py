"""Weights in: a file or a folder of torchvision, timm, Hugging Face, a training script or minires becomes a module.

    model = minires.load_model("resnet50-0676ba61.pth", model="resnet50")
    model = minires.load_model("models/resnet18.a1_in1k")       # a folder with config.json and model.safetensors
    model = minires.load_model("models/large")                  # ..., model.safetensors.index.json and the files it names
    state = minires.load_state_dict_file("best.pth.tar")        # names and arrays, as the file has them

Any format that `minires.load` knows, found by its first bytes; names of the libraries of `names`. A state dict does not
say which network it is of: timm's resnetblur50 has exactly resnet50's names and shapes. So the architecture comes from the
user or from the configuration beside the weights; without either it is guessed from the shapes, and the guess is announced
through the logger "minires".
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minires.errors import ArgumentError, CheckpointError, StateDictError, UnknownNameError
from minires.io import archive
from minires.io.architectures import Declared, from_config, from_name, refuse_others
from minires.io.messages import shorten
from minires.io.names import find_state_dict, to_minires
from minires.io.safetensors import SafetensorsFile, is_safetensors
from minires.io.shards import INDEX, read_json_object, read_shards
from minires.io.structure import Structure, read_structure
from minires.nn import Module, init

__all__ = ["find_weights", "load_model", "load_state_dict_file", "read_tree"]

logger = logging.getLogger("minires")

# What the libraries call the weights of a folder, in the order in which they are looked for.
WEIGHTS = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
    "model.bin",
    "open_clip_pytorch_model.bin",
    "pytorch_model.pth",
    "best.safetensors",  # in the folder of a training run of ours
)
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz")
MAX_FAULTS = 4_000  # characters of a message about what does not fit; a file may have thousands of foreign tensors


def load_state_dict_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The state dict of a file: safetensors, torch's two forms, npz or minires' own, found by the first bytes.

    Args:
        path: a file.

    Returns:
        Names, as the file has them without wrappers ("state_dict", `module.`; see `names`), to arrays.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, of another kind, or holds no state dict.
    """
    return _read(Path(path), f"load_state_dict_file: {os.fspath(path)}").state


def load_model(
    path: str | os.PathLike[str],
    *,
    model: str | Module | None = None,
    num_classes: int | None = None,
    stride_on_1x1: bool | None = None,
) -> Module:
    """Build the network of a checkpoint and give it its weights.

    Args:
        path: a file, or a folder with one and a config.json, as timm and Hugging Face lay it out.
        model: which network it is: a name of ours or of timm's ResNets; or a module, which is filled. None: the
            configuration says it, else it is guessed and announced. Stem, groups, image channels and classes are read
            from the shapes in any case.
        num_classes: None takes the file's classifier; another number than the file's gives a fresh one, announced.
        stride_on_1x1: the paper's first form of the bottleneck. None: what the configuration says, else False.

    Returns:
        The module, in evaluation mode, float32, in main memory. Three attributes keep what lay beside the weights, as it
        was: `pretrained_config` (config.json), `preprocess_config` (timm's pretrained_cfg, Hugging Face's
        preprocessor_config.json, the data set's facts of a training run of ours), None where there is none; and
        `weights_file`. `minires.data.preprocess.transform_for(model)` makes use of them.

    Raises:
        FileNotFoundError: there is no such file or folder.
        CheckpointError: the file is damaged; it is of a network that minires does not have; configuration, name and
            weights do not go together. The message says which and why.
        UnknownNameError: no network has the name `model`.
        ArgumentError: `num_classes` or `stride_on_1x1` beside a module, which has them already.
    """
    path = Path(path)
    file, config, preprocess = find_weights(path)
    where = f"load_model: {file}"
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise ArgumentError(f"load_model: num_classes must be a positive int, got {num_classes!r}")
    content = _read(file, where)
    state = to_minires(content.state, where)
    if isinstance(model, Module):
        if num_classes is not None or stride_on_1x1 is not None:
            raise ArgumentError(
                "load_model: num_classes and stride_on_1x1 go with a name; the module given has its own"
            )
        net = model
    else:
        declared = _declared(model, config, content, file, where)
        # Another number of classes means a fresh classifier; otherwise every weight comes from the file.
        with init.skipped() if num_classes is None else contextlib.nullcontext():
            net = _build(declared, state, where, num_classes, stride_on_1x1)
    if content.chosen is not None:
        logger.warning("%s: took %s", where, content.chosen)
    _fill(net, state, where, num_classes)
    net.eval()
    net.pretrained_config, net.preprocess_config = config, preprocess if preprocess is not None else content.data
    net.weights_file = file
    return net


class _Content(NamedTuple):
    state: dict[str, np.ndarray]
    chosen: str | None  # which of several state dicts
    architecture: str | None  # what the file itself says
    data: dict[str, Any] | None = None  # what a training run of ours says of its images


def _read(file: Path, where: str) -> _Content:
    if not file.is_file():
        if file.is_dir():
            raise CheckpointError(f"{where}: a folder, not a file; load_model reads folders")
        raise FileNotFoundError(f"{where}: there is no such file")
    architecture = data = None
    if file.name.endswith(INDEX):
        tree: Any = read_shards(file, where, lambda shard: read_tree(shard)[0])
    else:
        tree, architecture = read_tree(file)
    if (
        isinstance(tree, Mapping)
        and tree.get("format") == "minires-checkpoint"
        and isinstance(tree.get("config"), Mapping)
    ):
        architecture, data = tree["config"].get("model"), tree.get("data")  # a training run of ours
    state, chosen = find_state_dict(tree, where)
    return _Content(
        state,
        chosen,
        architecture if isinstance(architecture, str) else None,
        data if isinstance(data, dict) else None,
    )


def read_tree(file: Path) -> tuple[Any, Any]:
    """(what one file holds, the architecture that the metadata of a safetensors file names)."""
    with open(file, "rb") as opened:
        head = opened.read(16)
    if is_safetensors(head):
        with SafetensorsFile(file) as tensors:
            return dict(tensors), tensors.metadata.get("architecture")
    return archive.load(file), None


def find_weights(path: Path) -> tuple[Path, dict[str, Any] | None, dict[str, Any] | None]:
    """(the file of the weights, config.json, how images are prepared); the last two may not be there."""
    if not path.exists():
        raise FileNotFoundError(f"load_model: there is no file or folder {path}")
    folder, file = path.parent, path
    if path.is_dir():
        folder = path
        names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
        candidates = (
            [name for name in WEIGHTS if name in names]
            or [name for name in names if name.endswith(tuple(suffix + INDEX for suffix in SUFFIXES))]
            or [name for name in names if name.endswith(SUFFIXES)]
        )
        if not candidates:
            raise CheckpointError(
                f"load_model: {path}: no weights in this folder; looked for {', '.join(WEIGHTS)}, *.pth"
            )
        if candidates[0] not in WEIGHTS and len(candidates) > 1:
            raise CheckpointError(
                f"load_model: {path}: several files of weights, {', '.join(candidates[:8])}; name one"
            )
        file = path / candidates[0]
    config = _read_json(folder / "config.json")
    if config is not None and file is path and "architecture" not in config and "model_type" not in config:
        config = None  # a file's neighbour that is about something else
    preprocess = None
    if config is not None:
        own = config.get("pretrained_cfg")
        preprocess = own if isinstance(own, dict) else _read_json(folder / "preprocessor_config.json")
        if preprocess is None and "architecture" in config and "mean" in config:
            preprocess = config  # timm's older form: all on one level
    return file, config, preprocess


def _read_json(file: Path) -> dict[str, Any] | None:
    return read_json_object(file, f"load_model: {file}") if file.is_file() else None


def _declared(
    name: str | None, config: dict[str, Any] | None, content: _Content, file: Path, where: str
) -> Declared | None:
    """Who says what the network is; None where nobody does."""
    found = from_config(config, where, "config.json") if config is not None else None
    if found is None and content.architecture is not None:
        refuse_others(content.architecture, where, "the file")
        try:
            found = from_name(content.architecture, "the file")
        except UnknownNameError as error:
            raise CheckpointError(
                f"{where}: the file says architecture {content.architecture[:80]!r}: {error}"
            ) from None
    if name is None:
        if found is None:
            refuse_others(file.stem, where, "the file's name")
        return found
    asked = from_name(name, "the caller")
    if found is None:
        return asked
    if (asked.builder or found.builder) and asked.name != found.name:
        raise CheckpointError(f"{where}: {found.source} says {found.name}, the caller {name}")
    for key in asked.facts.keys() & found.facts.keys():
        if not set(asked.facts[key]) & set(found.facts[key]):
            raise CheckpointError(
                f"{where}: {found.source} says {found.name} with {key} {found.facts[key][0]}, the caller {name}, which has "
                f"{asked.facts[key][0]}"
            )
    # What the two say together: the configuration knows the stride that no name and no shape shows.
    return Declared(
        name,
        f"{found.source} and the caller",
        {**found.facts, **asked.facts},
        {**found.options, **asked.options},
        asked.builder,
    )


def _build(
    declared: Declared | None, state: dict[str, np.ndarray], where: str, num_classes: int | None, on_1x1: bool | None
) -> Module:
    if declared is not None and declared.builder is not None:
        return _build_by_name(declared.builder, state, where, num_classes, on_1x1)
    try:
        structure = read_structure(state)
    except ValueError as error:
        what = f" of {declared.name}" if declared is not None else ""
        hint = "" if declared is not None else ". If it is another network of minires, say which: model=NAME"
        raise CheckpointError(
            f"{where}: not the weights{what}, nor of a ResNet that minires has: {error}{hint}"
        ) from None
    options: dict[str, Any] = {"num_classes": num_classes}
    if declared is None:
        _announce(structure, where, on_1x1)
    else:
        faults = declared.differences(structure)
        if faults:
            raise CheckpointError(
                f"{where}: {declared.source} says {declared.name}, but the weights are of another network: {'; '.join(faults)}"
            )
        options.update(declared.options)
    if on_1x1 is not None and len(structure.layers) == 4:
        options["stride_on_1x1"] = on_1x1
    if on_1x1 and not structure.bottleneck:
        raise CheckpointError(f"{where}: stride_on_1x1 needs bottlenecks, the weights have {structure}")
    return structure.build(**options)


def _announce(structure: Structure, where: str, on_1x1: bool | None) -> None:
    if structure.shortcut == "none" and len(structure.layers) == 4:
        raise CheckpointError(
            f"{where}: {structure}: a plain network? Say which one: model='plain_resnet18', for instance"
        )
    assumed = []
    if structure.bottleneck:
        assumed.append("the stride on the 1x1" if on_1x1 else "the stride on the 3x3")
    if structure.shortcut == "none":
        assumed.append("shortcuts of kind A")
    logger.warning(
        "%s: nothing beside the weights says which network they are of. Guessed from their names and shapes: %s%s. Others "
        "have the same (timm's resnetblur50 has resnet50's): give model=NAME to be sure",
        where,
        structure,
        f"; assumed: {', '.join(assumed)}" if assumed else "",
    )


def _build_by_name(
    name: str, state: dict[str, np.ndarray], where: str, num_classes: int | None, on_1x1: bool | None
) -> Module:
    """Pre-activation and wide networks: image channels, classes and the stem for small images are read from the shapes."""
    from minires import models

    first, head = state.get("conv1.weight", np.empty(0)), state.get("fc.weight", np.empty(0))
    if first.ndim != 4 or head.ndim != 2 or 0 in first.shape + head.shape:
        raise CheckpointError(
            f"{where}: not the weights of {name}: conv1.weight or fc.weight is missing or has no such shape"
        )
    if on_1x1 is not None:
        raise ArgumentError(f"load_model: {name} has no stride_on_1x1")
    options: dict[str, Any] = {}
    if "small_input" in models.model_options(name):
        options["small_input"] = first.shape[2] == 3
    if name.endswith("resnet9"):  # by its largest tensor: no file claims a width whose weights it does not hold
        options["width"] = max(1, state.get("layer3.1.conv2.weight", np.empty(8)).shape[0] // 8)
    with init.skipped():  # how wide it is, before memory is taken for as many classes and channels as the file claims
        narrow = models.build(name, 1, 1, **options)
    widths = [narrow.get_submodule("conv1").weight.shape[0], narrow.get_submodule("fc").weight.shape[1]]
    if [first.shape[0], head.shape[1]] != widths:
        raise CheckpointError(
            f"{where}: not the weights of {name}: conv1.weight has shape {first.shape} and fc.weight {head.shape}, expected "
            f"{widths[0]} filters and {widths[1]} features"
        )
    return models.build(name, num_classes or head.shape[0], first.shape[1], **options)


def _fill(net: Module, state: dict[str, np.ndarray], where: str, num_classes: int | None) -> None:
    """Copy the weights in; without the classifier, where another number of classes is asked for."""
    head = state.get("fc.weight")
    fresh = num_classes is not None and head is not None and head.shape[:1] != (num_classes,)
    if fresh:
        state = {name: array for name, array in state.items() if name not in ("fc.weight", "fc.bias")}
        state |= {f"fc.{name}": parameter.array for name, parameter in net.get_submodule("fc").named_parameters()}
        logger.warning(
            "%s: a classifier for %s classes is not in the file; it begins with fresh weights", where, num_classes
        )
    floating = {name for name, value in net.state_dict().items() if value.array.dtype.kind == "f"}
    for name in sorted(floating & state.keys()):
        if state[name].dtype.kind != "f":  # load_state_dict would convert them, as torch does
            raise CheckpointError(
                f"{where}: {name} has dtype {state[name].dtype}; the weights of a quantised network? minires' are real numbers"
            )
    try:
        net.load_state_dict(state)
    except StateDictError as error:
        raise CheckpointError(f"{where}: its tensors do not fit: {shorten(str(error), MAX_FAULTS)}") from None
