"""Augmentations that change the resolution: smaller images in the first epochs, crops of random size and shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minires.data.augment.step import Array, ImageStep, register, to_unit
from minires.data.counter_random import Draws


def resampling_matrix(start: Array, length: Array, size_in: int, size_out: int) -> Array:
    """How each of `size_out` pixels is a mean of those of a window start .. start + length of `size_in`.

    Pixel i lies at c = start + (i + 1/2) s of the input, s = length / size_out, and takes input pixel j, in the window
    alone, by max(0, 1 - |j + 1/2 - c| / max(s, 1)): a triangle as wide as the step where the image shrinks (so that no
    pixel is left out, "antialias"), bilinear interpolation where it grows. The weights of a pixel sum to 1.

    Args:
        start, length: (N,) integers, the windows.
        size_in, size_out: pixels.

    Returns:
        (N, size_out, size_in) float32.
    """
    start, length = (np.asarray(values, np.float64)[:, None, None] for values in (start, length))
    step = length / size_out
    j = np.arange(size_in)
    center = start + (np.arange(size_out)[:, None] + 0.5) * step
    weights = np.maximum(0.0, 1.0 - np.abs(j + 0.5 - center) / np.maximum(step, 1.0))
    weights = np.where((j >= start) & (j < start + length), weights, 0.0)
    return (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)


def resample(images: Array, rows: Array, columns: Array) -> Array:
    """rows_n x_n columns_n^T for every channel.

    Args:
        images: (N, C, H, W) float32.    rows: (N or 1, H', H).    columns: (N or 1, W', W).

    Returns:
        (N, C, H', W') float32.
    """
    return rows[:, None] @ images @ columns[:, None].transpose(0, 1, 3, 2)


@register
@dataclass(frozen=True)
class Shrink(ImageStep):
    """Show smaller images in the first epochs: they cost less, and teach the coarse shapes first.

    `shrink:14,4` and `shrink:20,8` behind one another: 14 pixels in epochs 1 to 4, 20 in 5 to 8, then the whole. An image
    that is no larger than `pixels` is left as it is. The network must take any size (a mean over the map in front of its
    last layer does); test images are never shrunk.

    Options:
        pixels: of the shorter side.
        epochs: how many of the first epochs.

    Source: Howard et al. 2018, the DAWNBench entry of fast.ai (progressive resizing); Tan & Le 2021 (arXiv 2104.00298),
    section 4.
    """

    name: ClassVar[str] = "shrink"
    pixels: int = 14
    epochs: int = 4

    def __post_init__(self) -> None:
        self._require(self.pixels >= 1, "pixels", "at least 1")
        self._require(self.epochs >= 0, "epochs", "at least 0")

    def __call__(self, images: Array, draws: Draws, mean: Array) -> Array:
        h, w = images.shape[2:]
        if draws.epoch >= self.epochs or min(h, w) <= self.pixels:
            return images
        zero = np.zeros(1, np.int64)
        new_h, new_w = (max(1, round(side * self.pixels / min(h, w))) for side in (h, w))
        return resample(
            to_unit(images), resampling_matrix(zero, zero + h, h, new_h), resampling_matrix(zero, zero + w, w, new_w)
        )


@register
@dataclass(frozen=True)
class RandomResizedCrop(ImageStep):
    """Cut a window of random area, shape and place, and bring it to the image's own size.

    Area H W * U(low, 1), aspect ratio W' / H' = exp(U(ln ratio, -ln ratio)); a window that is larger than the image is
    drawn again, up to 10 times; then the whole image is taken.

    Options:
        low: the area's smallest share.
        ratio: the smallest aspect ratio; the largest is 1 / ratio.

    Source: Szegedy et al. 2014 (arXiv 1409.4842), section 6; the limits are torchvision's.
    """

    name: ClassVar[str] = "random_resized_crop"
    low: float = 0.08
    ratio: float = 0.75

    def __post_init__(self) -> None:
        self._require(0 < self.low <= 1, "low", "in 0 .. 1, and not 0")
        self._require(0 < self.ratio <= 1, "ratio", "in 0 .. 1, and not 0")

    def __call__(self, images: Array, draws: Draws, mean: Array) -> Array:
        h, w = images.shape[2:]
        top, left, tall, wide = self.windows(h, w, draws)
        return resample(to_unit(images), resampling_matrix(top, tall, h, h), resampling_matrix(left, wide, w, w))

    def windows(self, h: int, w: int, draws: Draws) -> tuple[Array, Array, Array, Array]:
        """top, left, height, width of each sample's window: (N,) int64."""
        area = h * w * draws.stream("area").uniform(10, self.low, 1.0)
        aspect = np.exp(draws.stream("aspect").uniform(10, np.log(self.ratio), -np.log(self.ratio)))
        tall, wide = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
        fits = (tall <= h) & (wide <= w) & (tall > 0) & (wide > 0)
        first = fits.argmax(axis=1)[:, None]  # the first of the ten that fits
        any_fits = fits.any(axis=1)
        tall, wide = (
            np.where(any_fits, np.take_along_axis(side, first, 1)[:, 0], whole).astype(np.int64)
            for side, whole in ((tall, h), (wide, w))
        )
        place = draws.stream("place").uniform(2)
        top, left = (np.floor(place[:, k] * (size + 1)).astype(np.int64) for k, size in enumerate((h - tall, w - wide)))
        return top, left, tall, wide
