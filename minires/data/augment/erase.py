"""Augmentations that paint over a rectangle: cutout and random erasing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minires.data.augment.step import Array, ImageStep, choices, fill_value, register
from minires.data.counter_random import Draws


def rectangles(height: int, width: int, top: Array, left: Array, bottom: Array, right: Array) -> Array:
    """(N, 1, height, width) bool: True where top <= i < bottom and left <= j < right; what lies outside is cut off."""
    i, j = np.arange(height)[:, None], np.arange(width)[None, :]
    top, left, bottom, right = (edge[:, None, None, None] for edge in (top, left, bottom, right))
    return (i >= top) & (i < bottom) & (j >= left) & (j < right)


@register
@dataclass(frozen=True)
class Cutout(ImageStep):
    """Paint one square of `size` pixels with the mean colour, in every image.

    The square's centre is uniform over the pixels, so that it may lie partly outside; the paper found this to matter.
    Source: DeVries & Taylor 2017 (arXiv 1708.04552): 16 pixels for CIFAR-10, 8 for CIFAR-100.
    """

    name: ClassVar[str] = "cutout"
    size: int = 8

    def __post_init__(self) -> None:
        self._require(self.size >= 1, "size", "at least 1")

    def __call__(self, images: Array, draws: Draws, mean: Array) -> Array:
        _, _, h, w = images.shape
        top = draws.stream("y").integers(0, h)[:, 0] - self.size // 2
        left = draws.stream("x").integers(0, w)[:, 0] - self.size // 2
        hole = rectangles(h, w, top, left, top + self.size, left + self.size)
        return np.where(hole, fill_value(images, mean), images)


@register
@dataclass(frozen=True)
class RandomErasing(ImageStep):
    """With probability p, paint over a rectangle of random area, shape and place.

    Area S = H W * U(low, high), aspect ratio r = exp(U(ln ratio, -ln ratio)), height sqrt(S r), width sqrt(S / r), the
    place uniform among those where it fits. A rectangle larger than the image is drawn again, up to 10 times; then the
    image stays.

    Options:
        p: probability.
        low, high: the area's share of the image.
        ratio: the smallest aspect ratio; the largest is 1 / ratio.
        value: "mean" (the data set's), or "noise": every pixel uniform, the paper's best.

    Source: Zhong et al. 2017 (arXiv 1708.04896), algorithm 1. The paper draws r uniformly, which favours tall
    rectangles; the logarithm is torchvision's, and fair to both.
    """

    name: ClassVar[str] = "random_erasing"
    p: float = 0.5
    low: float = 0.02
    high: float = 0.33
    ratio: float = 0.3
    value: str = "mean"

    def __post_init__(self) -> None:
        self._require(0 <= self.p <= 1, "p", "in 0 .. 1")
        self._require(0 < self.low <= 1, "low", "in 0 .. 1, and not 0")
        self._require(self.low <= self.high <= 1, "high", f"in {self.low} .. 1")
        self._require(0 < self.ratio <= 1, "ratio", "in 0 .. 1, and not 0")
        self._require(self.value in ("mean", "noise"), "value", choices(("mean", "noise")))

    def __call__(self, images: Array, draws: Draws, mean: Array) -> Array:
        _, _, h, w = images.shape
        area = h * w * draws.stream("area").uniform(10, self.low, self.high)
        aspect = np.exp(draws.stream("aspect").uniform(10, np.log(self.ratio), -np.log(self.ratio)))
        tall, wide = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (tall < h) & (wide < w) & (tall > 0) & (wide > 0)
        first = fits.argmax(axis=1)  # the first of the ten that fits
        tall, wide = (np.take_along_axis(side, first[:, None], 1)[:, 0].astype(np.int64) for side in (tall, wide))
        erased = fits.any(axis=1) & draws.stream("erase").bernoulli(self.p)
        place = draws.stream("place").uniform(2)
        top, left = (np.floor(place[:, k] * (size + 1)).astype(np.int64) for k, size in enumerate((h - tall, w - wide)))
        hole = rectangles(h, w, top, left, top + tall, left + wide) & erased[:, None, None, None]
        if self.value == "mean":
            return np.where(hole, fill_value(images, mean), images)
        out = images.copy()
        out[erased] = np.where(hole[erased], _noise(images[erased], draws.where(erased)), images[erased])
        return out


def _noise(images: Array, draws: Draws) -> Array:
    """Uniform pixels of the images' shape and dtype."""
    count = int(np.prod(images.shape[1:]))
    if images.dtype == np.uint8:
        return draws.stream("noise").integers(0, 256, count).astype(np.uint8).reshape(images.shape)
    return draws.stream("noise").uniform(count).astype(images.dtype).reshape(images.shape)
