"""Augmentations of colour: brightness, contrast, saturation. They compute in float32, 0 .. 1, and clip to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minires.data.augment.step import Array, ImageStep, register, to_unit
from minires.data.counter_random import Draws
from minires.errors import ShapeError

# Luma of ITU-R BT.601, which Pillow and torchvision use for "grey".
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def grey(images: Array) -> Array:
    """(N, 1, H, W): 0.299 R + 0.587 G + 0.114 B; one channel is grey already."""
    if images.shape[1] == 1:
        return images
    if images.shape[1] != 3:
        raise ShapeError(f"color_jitter: images need 1 or 3 channels, got images.shape = {images.shape}")
    return np.tensordot(images, _LUMA, axes=(1, 0))[:, None].astype(np.float32)


def blend(images: Array, other: Array | float, factor: Array) -> Array:
    """clip(factor x + (1 - factor) other, 0, 1): factor 1 is the image, 0 is `other`, above 1 goes away from it."""
    factor = factor.astype(np.float32)[:, None, None, None]
    return np.clip(factor * images + (1 - factor) * other, 0.0, 1.0, dtype=np.float32)


def adjust_brightness(images: Array, factor: Array) -> Array:
    """Blend with black.  images: (N, C, H, W) float32 in 0 .. 1;  factor: (N,) >= 0."""
    return blend(images, 0.0, factor)


def adjust_contrast(images: Array, factor: Array) -> Array:
    """Blend with each image's own mean grey."""
    return blend(images, grey(images).mean(axis=(1, 2, 3), keepdims=True), factor)


def adjust_saturation(images: Array, factor: Array) -> Array:
    """Blend each pixel with its own grey."""
    return blend(images, grey(images), factor)


@register
@dataclass(frozen=True)
class ColorJitter(ImageStep):
    """Brightness, contrast and saturation, each with a factor uniform in max(0, 1 - s) .. 1 + s, in this order.

    Options:
        brightness, contrast, saturation: the s of each; 0 leaves it.

    Source: Howard 2013 (arXiv 1312.5402); the formulas of torchvision's ColorJitter, which shuffles the three for each
    image. Here the order is fixed, so that the whole batch is one array operation.
    """

    name: ClassVar[str] = "color_jitter"
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    def __post_init__(self) -> None:
        for option in ("brightness", "contrast", "saturation"):
            self._require(getattr(self, option) >= 0, option, "at least 0")

    def __call__(self, images: Array, draws: Draws, mean: Array) -> Array:
        images = to_unit(images)
        for option, adjust in (
            ("brightness", adjust_brightness),
            ("contrast", adjust_contrast),
            ("saturation", adjust_saturation),
        ):
            strength = getattr(self, option)
            if strength > 0:
                factor = draws.stream(option).uniform(1, max(0.0, 1 - strength), 1 + strength)[:, 0]
                images = adjust(images, factor)
        return images
