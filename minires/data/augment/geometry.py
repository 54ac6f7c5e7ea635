"""Augmentations that move pixels: pad-and-crop, translation, flips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minires.data.augment.step import Array, ImageStep, choices, fill_value, register
from minires.data.counter_random import Draws


def crop(padded: Array, top: Array, left: Array, height: int, width: int) -> Array:
    """Cut one window out of each image:  y[n, c, i, j] = padded[n, c, top_n + i, left_n + j].

    All windows exist as a view; one fancy index copies the N that are wanted.

    Args:
        padded: (N, C, H + 2 p, W + 2 p).    top, left: (N,) integers in 0 .. 2 p.

    Returns:
        (N, C, height, width).
    """
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return windows[np.arange(len(padded)), :, top, left]


@register
@dataclass(frozen=True)
class PadCrop(ImageStep):
    """Pad every side by `padding` pixels, then cut the original size at a random place, uniform over (2 p + 1)^2.

    Options:
        padding: pixels.
        mode: "zeros" (black, as in most CIFAR recipes), "mean", or "reflect" (mirrored without the edge pixel).

    Source: He et al. 2015 (arXiv 1512.03385), section 4.2: 4 pixels, 32 x 32 crops.
    """

    name: ClassVar[str] = "pad_crop"
    padding: int = 4
    mode: str = "zeros"

    def __post_init__(self) -> None:
        self._require(self.padding >= 0, "padding", "at least 0")
        self._require(self.mode in ("zeros", "mean", "reflect"), "mode", choices(("zeros", "mean", "reflect")))

    def __call__(self, images: Array, draws: Draws, mean: Array) -> Array:
        (n, c, h, w), p = images.shape, self.padding
        if self.mode == "reflect":
            self._require(p < min(h, w), "padding", f"less than the image's {h}x{w} for reflect")
            padded = np.pad(images, ((0, 0), (0, 0), (p, p), (p, p)), mode="reflect")
        else:
            padded = np.zeros((n, c, h + 2 * p, w + 2 * p), images.dtype)
            if self.mode == "mean":
                padded[:] = fill_value(images, mean)
            padded[:, :, p : p + h, p : p + w] = images
        place = draws.integers(0, 2 * p + 1, 2)
        return crop(padded, place[:, 0], place[:, 1], h, w)


@register
@dataclass(frozen=True)
class Translate(ImageStep):
    """Move the image by whole pixels, uniform in -pixels .. pixels along each axis; the uncovered border is the mean.

    y[i, j] = x[i - dy, j - dx].   Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """

    name: ClassVar[str] = "translate"
    pixels: int = 2

    def __post_init__(self) -> None:
        self._require(self.pixels >= 0, "pixels", "at least 0")

    def __call__(self, images: Array, draws: Draws, mean: Array) -> Array:
        return PadCrop(self.pixels, "mean")(images, draws, mean)  # a crop at p - d of the padded image is a move by d


def horizontal_flip(images: Array, mask: Array) -> Array:
    """Mirror left and right where `mask`, (N,) bool, is True:  y[i, j] = x[i, W - 1 - j]."""
    return np.where(mask[:, None, None, None], images[..., ::-1], images)


@register
@dataclass(frozen=True)
class Flip(ImageStep):
    """Mirror left and right with probability p.  Source: Krizhevsky et al. 2012, section 4.1.

    Not for digits and letters: a mirrored 2 is no digit.
    """

    name: ClassVar[str] = "flip"
    p: float = 0.5

    def __post_init__(self) -> None:
        self._require(0 <= self.p <= 1, "p", "in 0 .. 1")

    def __call__(self, images: Array, draws: Draws, mean: Array) -> Array:
        return horizontal_flip(images, draws.bernoulli(self.p))


@register
@dataclass(frozen=True)
class AlternatingFlip(ImageStep):
    """A fair coin decides for each sample in epoch 0; from then on it is mirrored in every other epoch.

    Two epochs in a row always show both sides, where independent coins show the same side twice half of the time.
    Source: Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv 2404.00498).
    """

    name: ClassVar[str] = "alternating_flip"

    def __call__(self, images: Array, draws: Draws, mean: Array) -> Array:
        return horizontal_flip(images, draws.at_epoch(0).bernoulli(0.5) ^ (draws.epoch % 2 == 1))
