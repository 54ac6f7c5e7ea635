"""What timm, Hugging Face and torchvision write beside weights (or publish) about images, as an `ImageTransform`.

    from_timm(config["pretrained_cfg"], "config.json")
    from_huggingface(json.load(open("preprocessor_config.json")), "preprocessor_config.json")
    torchvision("resnet50", "V2")

A configuration is another program's: what it says that is unknown here and would change the pixels is refused, not
passed over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from minires.data.preprocess.transform import ImageTransform, Resize
from minires.errors import ArgumentError, CheckpointError, UnknownNameError

__all__ = ["TORCHVISION_V2", "from_huggingface", "from_run", "from_timm", "torchvision"]

Config = Mapping[str, Any]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, std
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

# torchvision's published weights, by the first 8 digits of their files' SHA-256, which end the files' names.
# V1: shorter side 256, crop 224, bilinear. These, trained later with a longer recipe, take 232. ResNeXt-101 64x4d has no
# other. Source: torchvision/models/resnet.py, 0.28.
TORCHVISION_V2 = {
    "11ad3fa6": "resnet50",
    "cd907fc2": "resnet101",
    "f82ba261": "resnet152",
    "1a0047aa": "resnext50_32x4d",
    "110c445d": "resnext101_32x8d",
    "173b62eb": "resnext101_64x4d",
    "9ba9bcbe": "wide_resnet50_2",
    "d733dc28": "wide_resnet101_2",
}
TORCHVISION_V1 = {
    "f37072fd": "resnet18",
    "b627a593": "resnet34",
    "0676ba61": "resnet50",
    "63fe2227": "resnet101",
    "394f9c45": "resnet152",
    "7cdf4587": "resnext50_32x4d",
    "8ba56ff5": "resnext101_32x8d",
    "95faca4d": "wide_resnet50_2",
    "32ee1156": "wide_resnet101_2",
}


def torchvision(model: str, weights: str = "V1") -> ImageTransform:
    """How torchvision prepares images for its published ImageNet weights.

    Args:
        model: a name of torchvision's ResNets.
        weights: "V1" or "V2" (IMAGENET1K_V1, IMAGENET1K_V2).

    Raises:
        UnknownNameError: torchvision published no such weights.
    """
    short = weights.upper().removeprefix("IMAGENET1K_")
    # The one network whose first weights came with the second recipe.
    new = set(TORCHVISION_V2.values()) - {"resnext101_64x4d"}
    known = {"V1": {*TORCHVISION_V1.values(), "resnext101_64x4d"}, "V2": new}
    if short not in known:
        raise UnknownNameError.for_name("weights of torchvision", weights, known)
    if model not in known[short]:
        raise UnknownNameError.for_name(f"model with weights {short} of torchvision", model, known[short])
    resize = 232 if model in TORCHVISION_V2.values() and (short == "V2" or model not in new) else 256
    return ImageTransform((224, 224), Resize("shorter", resize, resize), source=f"torchvision's {model}, {short}")


def from_timm(config: Config, where: str, *, image_size: int | None = None) -> ImageTransform:
    """timm's `pretrained_cfg`: what `timm.data.create_transform(**resolve_data_config(...))` does in evaluation.

    Args:
        config: input_size (C, H, W), interpolation, crop_pct, crop_mode, mean, std; timm's own defaults where one is
            missing.
        where: begins the error messages.
        image_size: another side of the input; the resize follows by timm's rule.

    Raises:
        CheckpointError: a value that means nothing here; names it.
    """
    reader = _Reader(config, where)
    channels, height, width = reader.sizes("input_size", (3, 224, 224))
    if image_size is not None:
        height = width = image_size
    share = reader.number("crop_pct", 0.875)
    mode = reader.text("crop_mode", "center", ("center", "squash", "border"))
    mean, std = (reader.channels(name, IMAGENET[i], channels) for i, name in enumerate(("mean", "std")))
    scaled = math.floor(height / share), math.floor(width / share)
    if mode == "squash":
        resize = reader.resize("exact", *scaled)
    elif mode == "border":
        resize = reader.resize("contain", *scaled)
    else:
        resize = reader.resize("shorter" if height == width else "cover", *scaled)
    return reader.build(
        size=(height, width),
        resize=resize,
        interpolation=reader.text("interpolation", "bicubic"),
        mean=mean,
        std=std,
        fill=tuple(round(255 * value) for value in mean) if mode == "border" else (),
    )


class _Processor(NamedTuple):
    """A class of Hugging Face's, by the defaults that it does not write down everywhere."""

    resample: int
    normal: tuple[tuple[float, ...], tuple[float, ...]]
    size: Any
    square: bool  # what an integer for `size` means
    crop: int | None = None


# Source: transformers/models/*/image_processing_pil_*.py, 5.24.
_PROCESSORS = {
    "ConvNext": _Processor(3, HALF, {"shortest_edge": 384}, False),
    "ViT": _Processor(2, HALF, {"height": 224, "width": 224}, True),
    "Siglip": _Processor(3, HALF, {"height": 224, "width": 224}, True),
    "Beit": _Processor(3, HALF, {"height": 224, "width": 224}, True),
    "DeiT": _Processor(3, HALF, {"height": 256, "width": 256}, True, 224),
    "Bit": _Processor(3, CLIP, {"shortest_edge": 224}, False, 224),
    "CLIP": _Processor(3, CLIP, {"shortest_edge": 224}, False, 224),
    "MobileNetV1": _Processor(2, HALF, {"shortest_edge": 256}, False, 224),
    "MobileNetV2": _Processor(2, HALF, {"shortest_edge": 256}, False, 224),
}
_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
_ENDINGS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
# Switches that leave a classified RGB image alone.
_HARMLESS = {"do_convert_rgb", "do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_reduce_labels"}


def from_huggingface(config: Config, where: str, *, image_size: int | None = None) -> ImageTransform:
    """Hugging Face's preprocessor_config.json: what the processor does, on its Pillow backend, with one RGB image.

    ConvNextImageProcessor, which its ResNets have, resizes the shorter side to int(size / crop_pct) and crops, below 384
    pixels; from there on it warps. The others resize to `size`, then crop to `crop_size` if do_center_crop.

    Args:
        config: as the processor's to_dict() gives it, or an older version's.
        where: begins the error messages.
        image_size: another side of the input; ConvNext's resize follows by its rule, others' in proportion.

    Raises:
        CheckpointError: a processor, a switch or a value that means nothing here; names it.
    """
    reader = _Reader(config, where)
    name = config.get("image_processor_type", config.get("feature_extractor_type"))
    kind = next((name.removesuffix(end) for end in _ENDINGS if str(name).endswith(end)), None) if name else None
    processor = _PROCESSORS.get(kind or "")
    if processor is None:
        raise CheckpointError(
            f"{where}: says its images are prepared by {name!r:.80}, which minires does not know. It knows "
            f"{', '.join(f'{known}ImageProcessor' for known in _PROCESSORS)}; or give an ImageTransform of your own"
        )
    switches = sorted(key for key, value in config.items() if key.startswith("do_") and value and key not in _HARMLESS)
    if switches or config.get("rescale_offset"):
        shown = ", ".join([*switches, *(["rescale_offset"] if config.get("rescale_offset") else [])])
        raise CheckpointError(f"{where}: {name} with {shown}, which minires does not do")
    resample = config.get("resample", processor.resample)
    if type(resample) is not int or not 0 <= resample < len(_RESAMPLE):
        raise CheckpointError(f"{where}: resample must be one of Pillow's numbers 0 .. 5, got {resample!r:.80}")
    mean, std = processor.normal
    if reader.flag("do_normalize", True):
        mean, std = reader.channels("image_mean", mean, 3), reader.channels("image_std", std, 3)
    else:
        mean, std = (0.0,) * 3, (1.0,) * 3
    size, resize = _huggingface_sizes(reader, kind == "ConvNext", processor, None if kind != "ConvNext" else image_size)
    transform = reader.build(
        size=size,
        resize=resize,
        interpolation=_RESAMPLE[resample],
        crop="huggingface",
        mean=mean,
        std=std,
        rescale=reader.number("rescale_factor", 1 / 255) if reader.flag("do_rescale", True) else 1.0,
    )
    return transform if image_size is None or kind == "ConvNext" else transform.at(image_size)


def _huggingface_sizes(
    reader: _Reader, convnext: bool, processor: _Processor, image_size: int | None
) -> tuple[tuple[int, int], Resize | None]:
    """(size of the input, resize before the crop)."""
    config, where = reader.config, reader.where
    size = config.get("size", processor.size)
    if type(size) is int:
        size = {"height": size, "width": size} if processor.square else {"shortest_edge": size}
    given = {key: value for key, value in size.items() if value is not None} if isinstance(size, Mapping) else {}
    if set(given) not in ({"shortest_edge"}, {"height", "width"}) or not all(type(v) is int for v in given.values()):
        raise CheckpointError(
            f"{where}: size must be an integer, a shortest_edge, or height and width, got {size!r:.80}"
        )
    resizes = reader.flag("do_resize", True)
    if convnext:
        edge = image_size if image_size is not None else given.get("shortest_edge")
        if not resizes or edge is None:
            raise CheckpointError(
                f"{where}: ConvNextImageProcessor without a shortest_edge to resize to; the network's input has no "
                "size then: give one"
            )
        if edge >= 384:
            return (edge, edge), reader.resize("exact", edge, edge)
        shorter = int(edge / reader.number("crop_pct", 224 / 256))
        return (edge, edge), reader.resize("shorter", shorter, shorter)
    edge = given.get("shortest_edge")
    target = (edge, edge) if edge is not None else (given["height"], given["width"])
    resize = reader.resize("shorter" if edge is not None else "exact", *target) if resizes else None
    if reader.flag("do_center_crop", processor.crop is not None):
        crop = config.get("crop_size", processor.crop or 224)
        crop = {"height": crop, "width": crop} if type(crop) is int else crop
        if not isinstance(crop, Mapping) or not {"height", "width"} <= set(crop):
            raise CheckpointError(f"{where}: crop_size must be an integer, or height and width, got {crop!r:.80}")
        return (crop["height"], crop["width"]), resize
    if resize is None or resize.how != "exact":
        raise CheckpointError(
            f"{where}: images keep their proportions and are not cropped; a network here takes one size only: give an "
            "ImageTransform of your own"
        )
    return target, resize


def from_run(facts: Config, where: str) -> ImageTransform:
    """A training run of minires: the images' own size, `read_image`'s rules, the statistics of its training set.

    Args:
        facts: the "data" part of its checkpoint.
        where: begins the error messages.
    """
    reader = _Reader(facts, where)
    channels, height, width = (facts.get(name) for name in ("channels", "height", "width"))
    if not all(type(value) is int for value in (channels, height, width)):
        raise CheckpointError(f"{where}: channels, height and width must be integers")
    names = facts.get("classes")
    mean, std = (reader.channels(name, None, channels) for name in ("mean", "std"))  # type: ignore[arg-type]
    how = "shorter" if height == width else "cover"
    return reader.build(
        size=(height, width),
        resize=reader.resize(how, height, width),  # type: ignore[arg-type]
        mean=mean,
        std=std,
        class_names=tuple(map(str, names)) if isinstance(names, list) else None,
    )


class _Reader:
    """Values of a configuration, each checked for its kind."""

    def __init__(self, config: Config, where: str) -> None:
        self.config, self.where = config, where

    def build(self, **values: Any) -> ImageTransform:
        try:
            return ImageTransform(**values, source=self.where)
        except (ArgumentError, UnknownNameError) as error:
            raise CheckpointError(f"{self.where}: {error}") from None

    def resize(self, how: str, height: int, width: int) -> Resize:
        try:
            return Resize(how, height, width)
        except ArgumentError as error:
            raise CheckpointError(f"{self.where}: {error}") from None

    def _refuse(self, name: str, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {name} must be {expected}, got {self.config.get(name)!r:.80}")

    def number(self, name: str, default: float) -> float:
        value = self.config.get(name)
        value = default if value is None else value
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise self._refuse(name, "a number above 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.config.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._refuse(name, "true or false")
        return default if value is None else value

    def text(self, name: str, default: str, allowed: tuple[str, ...] | None = None) -> str:
        value = self.config.get(name) or default
        if not isinstance(value, str) or (allowed is not None and value not in allowed):
            raise self._refuse(name, f"one of {', '.join(allowed)}" if allowed else "a name")
        return value

    def sizes(self, name: str, default: tuple[int, int, int]) -> tuple[int, int, int]:
        value = self.config.get(name) or default
        if (
            not isinstance(value, (list, tuple))
            or len(value) != 3
            or not all(type(v) is int and 1 <= v <= 16_384 for v in value)
        ):
            raise self._refuse(name, "three sizes, channels, height and width")
        return value[0], value[1], value[2]

    def channels(self, name: str, default: tuple[float, ...] | None, count: int) -> tuple[float, ...]:
        """One number a channel; one for all stands for as many."""
        value = self.config.get(name)
        value = default if value is None else value
        value = [value] if type(value) in (int, float) else value
        if not isinstance(value, (list, tuple)) or not all(type(v) in (int, float) for v in value):
            raise self._refuse(name, "numbers, one a channel")
        value = tuple(value) * count if len(value) == 1 and count in (1, 3) else tuple(value)
        if len(value) != count:
            raise self._refuse(name, f"{count} number{'s' * (count != 1)}, one a channel")
        return value
