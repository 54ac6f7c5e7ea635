"""How images are prepared for a network that `minires.load_model` has read.

    model = minires.load_model("models/resnet50")
    transform = minires.data.preprocess.transform_for(model)
    plan = minires.compile(model, (1, *transform.shape))
    logits = plan(transform("cat.jpg")[None])

What lay beside the weights says it: timm's or Hugging Face's configuration, minires' own checkpoint, the name of a file that
torchvision published. Where nothing does, ImageNet's networks get torchvision's V1 preparation, and that is announced
through the logger "minires"; networks for small images get an error, for their data sets have nothing in common.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minires.data.preprocess import configs
from minires.data.preprocess.transform import ImageTransform, Resize
from minires.errors import ArgumentError, CheckpointError
from minires.io.json_text import parse_json
from minires.io.safetensors import SafetensorsFile

if TYPE_CHECKING:
    from minires.infer.plan import Plan
    from minires.nn import Module

__all__ = ["class_names", "imagenet_class_names", "transform_for"]

logger = logging.getLogger("minires")


def transform_for(
    model: Module | Plan,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> ImageTransform:
    """The `ImageTransform` of a network, class names included.

    Args:
        model: from `minires.load_model`, which keeps what it found beside the weights; or a plan (of an ONNX file), of
            which only the sizes are known.
        image_size: another side of the input than the network's own; the resize follows by the rule of its library.
        mean, std: other values, one for all channels or one a channel, for bytes divided by 255.

    Returns:
        A frozen ImageTransform, whose `source` says where it comes from.

    Raises:
        CheckpointError: a configuration that is unknown or contradicts itself, or the network.
        ArgumentError: nothing says how images are prepared, and nothing can be assumed; says what to give.
    """
    if image_size is not None and (type(image_size) is not int or image_size < 1):
        raise ArgumentError(f"transform_for: image_size must be a positive int, got {image_size!r}")
    network = _network(model)
    if network.side is not None:
        if image_size not in (None, network.side):
            raise ArgumentError(
                f"transform_for: the plan takes {network.side} pixels a side, got image_size = {image_size}"
            )
        image_size = network.side
    transform = _found(model, image_size) or _assumed(network, image_size, mean, std)
    given = (("mean", mean), ("std", std))
    changes: dict[str, Any] = {name: _each(values, network.channels) for name, values in given if values is not None}
    if changes:
        transform = dataclasses.replace(transform, **changes, fill=())
    if transform.channels != network.channels:
        raise CheckpointError(
            f"transform_for: the network takes {network.channels} channel(s), {transform.source} gives values for "
            f"{transform.channels}; give mean and std for {network.channels}"
        )
    names = class_names(model) or transform.class_names or _of_imagenet(network, transform)
    if names is not None and network.classes is not None and len(names) != network.classes:
        logger.warning(
            "transform_for: %d class names are known, the network has %d classes; they are not used",
            len(names),
            network.classes,
        )
        names = None
    return dataclasses.replace(transform, class_names=names)


def class_names(model: Module | Plan) -> tuple[str, ...] | None:
    """The names of a network's outputs from the configuration beside its weights; None if it has none.

    Hugging Face's id2label; timm's label_names, or the descriptions of them where it has those.
    """
    config = getattr(model, "pretrained_config", None)
    if not isinstance(config, Mapping):
        return None
    inner = config.get("pretrained_cfg")
    merged = {**(inner if isinstance(inner, Mapping) else {}), **config}
    names = merged.get("id2label") or merged.get("label_names") or merged.get("labels")
    if isinstance(names, Mapping):  # {"0": "cat", ...}; a gap keeps its number
        if not all(str(key).isdecimal() and int(key) < 1_000_000 for key in names):
            return None
        table = {int(key): value for key, value in names.items()}
        names = [table.get(i, str(i)) for i in range(max(table) + 1)]
    if not isinstance(names, (list, tuple)) or not names:
        return None
    described = merged.get("label_descriptions")
    described = described if isinstance(described, Mapping) else {}
    return tuple(str(described.get(name, name)) for name in names)


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet's challenge of 2012, in the order of every published network: of their WordNet numbers.

    Source: Russakovsky et al. 2015 (arXiv 1409.0575); the first word of each synset, as torchvision gives it.
    """
    return tuple(Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines())


def _of_imagenet(network: _Network, transform: ImageTransform) -> tuple[str, ...] | None:
    """ImageNet's names for a network for large colour images with 1,000 outputs, where its library's preparation is used: timm
    knows its networks' classes by their number as well.
    """
    if (network.channels, network.classes, network.small) != (3, 1000, False) or transform.source == "the caller":
        return None
    if transform.source.startswith("torchvision") and "assumed" not in transform.source:
        return imagenet_class_names()  # known by the name and hash of the file
    if "timm" in transform.source or "assumed" in transform.source:
        logger.warning("transform_for: the 1,000 outputs are taken for the classes of ImageNet's challenge of 2012")
        return imagenet_class_names()
    return None


def _found(model: Module | Plan, image_size: int | None) -> ImageTransform | None:
    """From what lies beside the weights; None if nothing does."""
    config, said = getattr(model, "pretrained_config", None), getattr(model, "preprocess_config", None)
    if isinstance(said, Mapping):
        if "height" in said and "channels" in said:
            transform = configs.from_run(said, "the training run")
            return transform if image_size is None else transform.at(image_size)
        if isinstance(config, Mapping) and "architecture" in config:
            return configs.from_timm(said, "config.json (timm)", image_size=image_size)
        return configs.from_huggingface(said, "preprocessor_config.json", image_size=image_size)
    file = getattr(model, "weights_file", None)
    if file is None:
        return None
    facts = _of_run(Path(file))
    if facts is not None:
        transform = configs.from_run(facts, "the training run")
    else:
        name, _, rest = Path(file).name.rpartition("-")
        known = {"V1": configs.TORCHVISION_V1, "V2": configs.TORCHVISION_V2}
        weights = next((w for w, table in known.items() if table.get(rest.removesuffix(".pth")) == name), None)
        if weights is None:
            return None
        transform = configs.torchvision(name, "V1" if name == "resnext101_64x4d" else weights)
    return transform if image_size is None else transform.at(image_size)


def _of_run(file: Path) -> Mapping[str, Any] | None:
    """What the safetensors file of a training run of ours says of its images; None for other files."""
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    with SafetensorsFile(file) as tensors:
        text = tensors.metadata.get("minires")
    try:
        document = parse_json(text.encode()) if text is not None else None
    except ValueError:  # another program's text under our name
        return None
    facts = document.get("data") if isinstance(document, Mapping) else None
    return facts if isinstance(facts, Mapping) else None


def _assumed(network: _Network, image_size: int | None, mean: Any, std: Any) -> ImageTransform:
    """torchvision's V1 for a network of ImageNet's kind; otherwise what the caller gives."""
    if image_size is not None and mean is not None and std is not None:
        square = (image_size, image_size)
        mean, std = _each(mean, network.channels), _each(std, network.channels)
        return ImageTransform(square, Resize("shorter", *square), mean=mean, std=std, source="the caller")
    if network.channels != 3 or network.small:
        why = (
            f"it takes images of {network.channels} channel(s)"
            if network.channels != 3
            else "it is one for small images"
        )
        raise ArgumentError(
            f"transform_for: nothing beside the weights says how images are prepared for this network, and {why}: give "
            "image_size, mean and std as in its training (CIFAR-10's are often 32, 0.4914 0.4822 0.4465 and "
            "0.2470 0.2435 0.2616)"
        )
    transform = ImageTransform((224, 224), Resize("shorter", 256, 256), source="torchvision's V1, assumed")
    transform = transform if image_size is None else transform.at(image_size)
    logger.warning(
        "transform_for: nothing beside the weights says how images are prepared. Assumed, as for torchvision's first "
        "weights: %s. Others differ (timm's are often bicubic, mean and std .5): give a folder with its config.json, or "
        "image_size, mean and std",
        transform,
    )
    return transform


def _each(values: Sequence[float] | float, channels: int) -> tuple[float, ...]:
    """One number a channel; one for all stands for as many."""
    numbers = (values,) if isinstance(values, (int, float)) else tuple(values)
    return numbers * channels if len(numbers) == 1 else numbers


class _Network(NamedTuple):
    """What the network itself says of its input and output."""

    channels: int
    classes: int | None
    small: bool  # made for images of some 32 pixels a side
    side: int | None  # the only size it takes


def _network(model: Any) -> _Network:
    """Of a plan or of a module."""
    shape = getattr(model, "input_shape", None)
    if shape is not None:
        if len(shape) != 4 or shape[2] != shape[3]:
            raise ArgumentError(f"transform_for: the plan takes {shape}, not square images (N, C, H, W)")
        return _Network(shape[1], model.output_shape[-1], shape[2] < 128, shape[2])
    from minires.nn import Conv2d, Linear

    convolutions = [module for module in model.modules() if isinstance(module, Conv2d)]
    linear = [module for module in model.modules() if isinstance(module, Linear)]
    if not convolutions:
        raise ArgumentError("transform_for: the model has no convolution, so it is not known which images it takes")
    # Networks for CIFAR keep the size in their first layer.
    first = convolutions[0]
    classes = int(linear[-1].weight.shape[0]) if linear else None
    return _Network(first.in_channels, classes, tuple(first.stride) == (1, 1), None)
