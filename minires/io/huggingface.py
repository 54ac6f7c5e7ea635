"""A ResNet of ours as a folder that transformers opens: the way back of `names`.

    save_huggingface(model, "out", class_names=("cat", "dog"), transform=transform)
    transformers.AutoModelForImageClassification.from_pretrained("out")

    out/model.safetensors           weights under Hugging Face's names
    out/config.json                 ResNetConfig: depths, widths, kind of block, class names
    out/preprocessor_config.json    how images are prepared, where it is known and their processors can do it

Their ResNet is the plain family: a 7x7 stem, basic blocks or bottlenecks in four stages, 1x1 shortcuts. What has more than
that (groups, squeeze-excitation, other stems and shortcuts) is refused.

Source: transformers/models/resnet/modeling_resnet.py, models/bit/image_processing_bit.py, 5.24.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.errors import ArgumentError
from minires.io.files import write_atomically
from minires.io.safetensors import save_file
from minires.io.structure import Structure, read_structure
from minires.nn import Module

if TYPE_CHECKING:
    from minires.data.preprocess import ImageTransform

__all__ = ["huggingface_config", "huggingface_preprocessor", "save_huggingface", "to_huggingface"]

_FACTOR = {"conv": "convolution", "bn": "normalization"}
_STEM = re.compile(r"(conv|bn)1\.(\w+)")
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(?:(conv|bn)([1-3])|downsample\.([01]))\.(\w+)")
_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers


def save_huggingface(
    model: Module,
    folder: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    transform: ImageTransform | None = None,
) -> list[Path]:
    """Write a model as transformers lays it out.

    Args:
        model: one of the ImageNet family, for 7x7 stems and 1x1 shortcuts.
        folder: it is made; files of these names in it are replaced.
        class_names: one for each output.
        transform: how images are prepared.

    Returns:
        The files. preprocessor_config.json is not among them where `transform` is None or is none that a processor of
        theirs can do.

    Raises:
        ArgumentError: the model is none that ResNetForImageClassification can be, or has another number of classes.
        OSError: a file cannot be written.
    """
    state = {name: value.detach().cpu().array for name, value in model.state_dict().items()}
    config = huggingface_config(model, class_names)
    processor = None if transform is None else huggingface_preprocessor(transform)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    save_file(to_huggingface(state), weights, {"format": "pt"})
    written = [weights]
    for name, tree in (("config.json", config), ("preprocessor_config.json", processor)):
        if tree is not None:
            with write_atomically(folder / name, "w") as file:
                file.write(json.dumps(tree, indent=2, ensure_ascii=False) + "\n")
            written.append(folder / name)
    return written


def to_huggingface(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tensors under Hugging Face's names.

    Raises:
        ArgumentError: a name that theirs have no place for.
    """
    return {_rename(name): array for name, array in state.items()}


def _rename(name: str) -> str:
    if match := _STEM.fullmatch(name):
        return f"resnet.embedder.embedder.{_FACTOR[match[1]]}.{match[2]}"
    if match := _BLOCK.fullmatch(name):
        stage, block, factor, number, shortcut, kind = match.groups()
        where = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}"
        if shortcut is not None:
            return f"{where}.shortcut.{('convolution', 'normalization')[int(shortcut)]}.{kind}"
        return f"{where}.layer.{int(number) - 1}.{_FACTOR[factor]}.{kind}"
    if name in ("fc.weight", "fc.bias"):
        return f"classifier.1.{name.removeprefix('fc.')}"
    raise ArgumentError(f"save_huggingface: ResNetForImageClassification has no place for {name}")


def huggingface_config(model: Module, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """config.json of a model.

    Raises:
        ArgumentError: as `save_huggingface`.
    """
    structure = _structure(model)
    if class_names is not None and len(class_names) != structure.num_classes:
        raise ArgumentError(
            f"save_huggingface: the model has {structure.num_classes} classes, got {len(class_names)} names"
        )
    labels = list(class_names) if class_names is not None else [f"LABEL_{i}" for i in range(structure.num_classes)]
    factor = 4 if structure.bottleneck else 1
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": structure.in_channels,
        "embedding_size": structure.stem_widths[0],
        "hidden_sizes": [factor * width for width in structure.widths],
        "depths": list(structure.layers),
        "layer_type": "bottleneck" if structure.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": structure.bottleneck and _stride_on_1x1(model),
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": "single_label_classification",
        "dtype": "float32",
    }


def huggingface_preprocessor(transform: ImageTransform) -> dict[str, Any] | None:
    """preprocessor_config.json; None where no processor of theirs does the same.

    BitImageProcessor resizes the shorter side and crops the centre, ViTImageProcessor warps. Neither fills an image that
    is smaller than the crop with anything but zeros, and both make RGB of any image.
    """
    resize, (height, width) = transform.resize, transform.size
    if len(transform.mean) != 3 or any(transform.fill) or resize is None or resize.how not in ("shorter", "exact"):
        return None
    common = {
        "do_resize": True,
        "resample": _RESAMPLE.index(transform.interpolation),
        "do_rescale": True,
        "rescale_factor": transform.rescale,
        "do_normalize": True,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
    }
    if resize.how == "exact":
        if (resize.height, resize.width) != (height, width):
            return None
        return {"image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width}, **common}
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": resize.height},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_convert_rgb": True,
        **common,
    }


def _structure(model: Module) -> Structure:
    """Of a model that theirs can be."""
    from minires.models import ResNet

    name = type(model).__name__
    if not isinstance(model, ResNet):
        raise ArgumentError(f"save_huggingface: transformers has no {name}; its ResNet is the ImageNet family's")
    try:
        structure = read_structure({key: value.detach().cpu().array for key, value in model.state_dict().items()})
    except ValueError as error:
        raise ArgumentError(f"save_huggingface: transformers has no such {name}: {error}") from None
    wanted = {"stem": "7x7", "shortcut": "conv", "groups": 1, "width_per_group": 64, "squeeze_excitation": False}
    differing = [
        f"{key} {getattr(structure, key)}" for key, value in wanted.items() if getattr(structure, key) != value
    ]
    if differing:
        raise ArgumentError(f"save_huggingface: transformers has no ResNet with {', '.join(differing)}")
    return structure


def _stride_on_1x1(model: Module) -> bool:
    """Whether bottlenecks halve the map in their first convolution."""
    stride: Sequence[int] = model.get_submodule("layer2.0.conv1").stride
    return tuple(stride) != (1, 1)
