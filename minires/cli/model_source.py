"""What the verbs that take a model accept: a run, a foreign file or folder of weights, a plan, an ONNX file, or a name alone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from minires.data.preprocess import ImageTransform
    from minires.infer import Plan
    from minires.nn import Module
    from minires.train.checkpoint import Checkpoint

__all__ = [
    "ModelSource",
    "announcements",
    "declared_name",
    "kind_of_file",
    "likely_name",
    "open_model",
    "parse_shape",
    "side_of",
]


@dataclass
class ModelSource:
    """A network, and what is known about it.

    Attributes:
        what: for people: "resnet18, weights of net.pth".
        stem: for file names: "resnet18".
        module: None where there is a plan alone.
        plan: None where there is a module.
        shape: (C, H, W) of one image.
        architecture: a name that `minires.load_model` takes for it, if somebody said it; None where it was guessed.
        transform: how images are prepared, if known.
        class_names: of the outputs, if known.
        checkpoint: of a training run.
        notes: what was assumed or left out, to be told.
    """

    what: str
    stem: str
    module: Module | None = None
    plan: Plan | None = None
    shape: tuple[int, ...] = ()
    architecture: str | None = None
    transform: ImageTransform | None = None
    class_names: tuple[str, ...] | None = None
    checkpoint: Checkpoint | None = None
    notes: list[str] = field(default_factory=list)


def open_model(
    verb: str, path: str | None, name: str | None, input_text: str | None, classes: int | None
) -> ModelSource:
    """Find out what `path` is and read it.

    Args:
        verb: begins the messages.
        path: a file or a folder; None for a fresh network.
        name: which architecture it is, where the file does not say.
        input_text: C,H,W; None takes what is known or usual.
        classes: another number of outputs than the file's, or the fresh network's.

    Raises:
        ArgumentError: an option that does not go with what the path is.
        CheckpointError: nothing there, or something damaged or of another kind.
    """
    from minires.errors import ArgumentError, CheckpointError

    if classes is not None and classes < 1:
        raise ArgumentError(f"{verb}: --classes must be at least 1, got {classes}")
    shape = parse_shape(verb, input_text) if input_text else None
    if path is None:
        if name is None:
            raise ArgumentError(
                f"{verb}: what shall be written? Name a run, a file or folder of weights, a plan or an ONNX file; or "
                "--model NAME for fresh weights"
            )
        return _fresh(name, shape, classes)
    file = Path(path)
    if not file.exists():
        raise CheckpointError(f"{verb}: there is no file or folder {path}{_hint(path)}")
    kind = "run" if file.is_dir() and _is_run(file) else "weights" if file.is_dir() else kind_of_file(file)
    if kind in ("plan", "onnx"):
        for option, value in (("--model", name), ("--classes", classes)):
            if value is not None:
                raise ArgumentError(f"{verb}: {option} goes with weights; {path} is a whole network already")
        return _whole(verb, file, kind, shape)
    if kind == "run":
        return _from_run(verb, path, name, shape, classes)
    return _from_weights(verb, path, name, shape, classes)


def kind_of_file(file: Path) -> str:
    """ "plan", "onnx", "run" (a checkpoint of a training run of ours) or "weights", by what is in it."""
    import zipfile

    from minires.infer.saved import KEY
    from minires.io import archive
    from minires.io.safetensors import SafetensorsFile, is_safetensors
    from minires.io.sniff import is_onnx

    with open(file, "rb") as opened:
        head = opened.read(16)
    if is_safetensors(head):
        with SafetensorsFile(file) as tensors:
            return "plan" if KEY in tensors.metadata else "run" if "minires" in tensors.metadata else "weights"
    if is_onnx(head):
        return "onnx"
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(file) as members:
        if archive.TREE in members.namelist():
            tree = archive.load(file)
            return "run" if isinstance(tree, dict) and tree.get("format") == "minires-checkpoint" else "weights"
    return "weights"


@contextlib.contextmanager
def announcements() -> Iterator[list[str]]:
    """What the logger "minires" warns of inside, collected: guesses and assumptions, to be shown with the rest."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, handler = logging.getLogger("minires"), Collector(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def parse_shape(verb: str, text: str) -> tuple[int, int, int]:
    """C,H,W or CxHxW.

    Raises:
        ArgumentError: it is something else.
    """
    from minires.errors import ArgumentError

    words = text.lower().replace("x", ",").split(",")
    if len(words) != 3 or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ArgumentError(f"{verb}: --input must be C,H,W, for example 3,224,224; got {text!r}")
    c, h, w = (int(word) for word in words)
    return c, h, w


def _is_run(folder: Path) -> bool:
    from minires.train.run_folder import BEST, LAST

    return any((folder / name).is_file() for name in (BEST, "best.ckpt", LAST))


def _hint(path: str) -> str:
    """Somebody may have meant a fresh network."""
    from minires import models

    return f"; for fresh weights: --model {path}" if path in models.list_models() else ""


def _fresh(name: str, shape: tuple[int, ...] | None, classes: int | None) -> ModelSource:
    from minires import models

    small = "small_input" not in models.model_options(name)
    shape = shape or ((3, 32, 32) if small else (3, 224, 224))
    module = models.build(name, num_classes=classes, in_channels=shape[0], image_size=shape[1:]).eval()  # type: ignore[arg-type]
    return ModelSource(
        f"{name}, fresh weights",
        name,
        module,
        shape=shape,
        architecture=name,
        notes=["the weights are fresh, drawn at random: good for trying, useless for images"],
    )


def _whole(verb: str, file: Path, kind: str, shape: tuple[int, ...] | None) -> ModelSource:
    import minires
    from minires.errors import ArgumentError

    if kind == "onnx":
        plan = minires.load_onnx(file, None if shape is None else (1, *shape), kernels="reference")
    else:
        plan = minires.load_plan(file, kernels="reference")
    if shape is not None and plan.input_shape[1:] != shape:
        raise ArgumentError(f"{verb}: {file} takes images of {plan.input_shape[1:]}, got --input {shape}")
    what = f"{'an ONNX file' if kind == 'onnx' else 'a plan'}, {file}"
    return ModelSource(what, file.stem, plan=plan, shape=plan.input_shape[1:])


def _from_run(
    verb: str, path: str, name: str | None, shape: tuple[int, ...] | None, classes: int | None
) -> ModelSource:
    from minires.data.preprocess import configs
    from minires.errors import ArgumentError
    from minires.train.checkpoint import load_checkpoint, load_model

    checkpoint = load_checkpoint(path)
    config, facts = checkpoint.config, checkpoint.data
    if name not in (None, config.model):
        raise ArgumentError(f"{verb}: {checkpoint.path} is of {config.model}, got --model {name}")
    if classes not in (None, len(facts["classes"])):
        raise ArgumentError(f"{verb}: {checkpoint.path} has {len(facts['classes'])} classes, got --classes {classes}")
    module = load_model(checkpoint)
    transform = configs.from_run(facts, str(checkpoint.path))
    own = (facts["channels"], facts["height"], facts["width"])
    return ModelSource(
        f"{config.model} trained on {facts['name']}, {checkpoint.path}",
        f"{facts['name']}-{config.model}",
        module,
        shape=shape or own,
        architecture=config.model,
        transform=transform if shape in (None, own) else None,
        class_names=transform.class_names,
        checkpoint=checkpoint,
    )


def _from_weights(
    verb: str, path: str, name: str | None, shape: tuple[int, ...] | None, classes: int | None
) -> ModelSource:
    import minires

    with announcements() as notes:
        module: Any = minires.load_model(path, model=name, num_classes=classes)
    guessed = any("Guessed from their names and shapes" in note for note in notes)
    architecture = None if guessed else name or declared_name(module)
    channels = side_of(module)[0]
    transform = _transform(module, shape, notes)
    if shape is None and transform is not None:
        shape = (channels, *transform.size)
    elif shape is None:
        side = side_of(module)[1]
        shape = (channels, side, side)
        notes.append(f"nothing says which size its images have: took {side}x{side}; --input C,H,W for another")
    return ModelSource(
        f"{architecture or 'a network'}, weights of {path}",
        Path(path).name.split(".")[0] or "model",
        module,
        shape=shape,
        architecture=architecture,
        transform=transform,
        class_names=None if classes is not None else _class_names(module, transform),
        notes=notes,
    )


def _class_names(module: Any, transform: ImageTransform | None) -> tuple[str, ...] | None:
    """From beside the weights, if there is one for each output."""
    from minires.data.preprocess.for_model import class_names

    names = transform.class_names if transform is not None else class_names(module)
    outputs = module.state_dict()["fc.weight"].shape[0]
    return names if names is not None and len(names) == outputs else None


def declared_name(module: Any) -> str | None:
    """The name of a network of `load_model`'s that something beside the weights says, if `load_model` takes it again.

    Hugging Face's configuration gives no name: the network of that name is told by its structure.
    """
    from minires.cli.formats.job import comes_back, state_arrays, strides_on_1x1

    config = module.pretrained_config or {}
    state = state_arrays(module)
    if config.get("model_type") == "resnet":
        return None if strides_on_1x1(module) else likely_name(state)
    name = config.get("architecture") or _in_metadata(module.weights_file)
    return name if isinstance(name, str) and comes_back(state, name) else None


def _in_metadata(file: Any) -> str | None:
    from minires.io.safetensors import SafetensorsFile, is_safetensors

    with open(file, "rb") as opened:
        if not is_safetensors(opened.read(16)):
            return None
    with SafetensorsFile(file) as tensors:
        return tensors.metadata.get("architecture")


def likely_name(state: Mapping[str, np.ndarray]) -> str | None:
    """The network of ours that has these names and shapes, if it has a name."""
    from minires.io.architectures import from_name
    from minires.io.structure import read_structure
    from minires.models import list_models

    try:
        structure = read_structure(state)
    except ValueError:
        return None
    declared = (from_name(name, "") for name in list_models(plain=False))
    return next((one.name for one in declared if one.builder is None and not one.differences(structure)), None)


def side_of(module: Any) -> tuple[int, int]:
    """(channels, pixels a side) of images for a network: those for CIFAR keep the size in their first layer."""
    first = _first_convolution(module)
    return first.in_channels, 32 if tuple(first.stride) == (1, 1) else 224


def _first_convolution(module: Any) -> Any:
    from minires.nn import Conv2d

    return next(layer for layer in module.modules() if isinstance(layer, Conv2d))


def _transform(module: Any, shape: tuple[int, ...] | None, notes: list[str]) -> ImageTransform | None:
    """How images are prepared, if something beside the weights says it; what is only assumed is not handed on."""
    from minires.data.preprocess import transform_for
    from minires.errors import ArgumentError, CheckpointError

    side = shape[1] if shape is not None and shape[1] == shape[2] else None
    with announcements() as said:
        try:
            transform = transform_for(module, image_size=side)
        except ArgumentError:  # nothing says it, and nothing can be assumed
            return None
        except CheckpointError as error:
            notes.append(str(error))
            return None
    if said or (shape is not None and transform.size != shape[1:]):
        return None
    return transform
