"""Augmentations that mix two samples and their labels: mixup and cutmix.

The usual form mixes a batch with a shuffled copy of itself, under one ratio for all. Here every sample draws its own
partner, from the whole data set, and its own ratio: the distribution of one sample is the same, and what it looks like
does not depend on who else is in the batch. The partner appears as this epoch augments it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minires.data.augment.erase import rectangles
from minires.data.augment.step import Array, MixStep, register, to_unit
from minires.data.counter_random import Draws


def mix(first: Array, second: Array, ratio: Array) -> Array:
    """ratio first + (1 - ratio) second, in float32; ratio: (N,)."""
    ratio = ratio.astype(np.float32).reshape(-1, *(1,) * (first.ndim - 1))
    return ratio * first + (1 - ratio) * second


def one_hot(labels: Array, num_classes: int) -> Array:
    """(N, K) float32: 1 at the label."""
    return (labels[:, None] == np.arange(num_classes)).astype(np.float32)


@register
@dataclass(frozen=True)
class Mixup(MixStep):
    """x = l x1 + (1 - l) x2,  y = l y1 + (1 - l) y2,  l from Beta(alpha, alpha).

    Options:
        alpha: small: nearly one of the two; 1: uniform.
        p: the probability to mix at all.

    Source: Zhang et al. 2017 (arXiv 1710.09412), section 2.
    """

    name: ClassVar[str] = "mixup"
    alpha: float = 0.2
    p: float = 1.0

    def __post_init__(self) -> None:
        self._require(self.alpha > 0, "alpha", "positive")
        self._require(0 <= self.p <= 1, "p", "in 0 .. 1")

    def mix(
        self, images: Array, labels: Array, other_images: Array, other_labels: Array, draws: Draws
    ) -> tuple[Array, Array]:
        ratio = np.where(draws.stream("mix").bernoulli(self.p), draws.stream("ratio").beta(self.alpha), 1.0)
        return mix(to_unit(images), to_unit(other_images), ratio), mix(labels, other_labels, ratio)


@register
@dataclass(frozen=True)
class CutMix(MixStep):
    """Put a rectangle of the partner into the image:  x = M x1 + (1 - M) x2, the labels by the areas.

    l from Beta(alpha, alpha); the rectangle has height H sqrt(1 - l) and width W sqrt(1 - l) (whole pixels, downwards)
    around a centre that is uniform over the pixels; what lies outside is cut off, and the label's share is what is
    really seen:  y = l' y1 + (1 - l') y2,  l' = 1 - area / (H W).

    Options: as for mixup.

    Source: Yun et al. 2019 (arXiv 1905.04899), section 3.1 and algorithm A1.
    """

    name: ClassVar[str] = "cutmix"
    alpha: float = 1.0
    p: float = 1.0

    def __post_init__(self) -> None:
        self._require(self.alpha > 0, "alpha", "positive")
        self._require(0 <= self.p <= 1, "p", "in 0 .. 1")

    def mix(
        self, images: Array, labels: Array, other_images: Array, other_labels: Array, draws: Draws
    ) -> tuple[Array, Array]:
        _, _, h, w = images.shape
        ratio = np.where(draws.stream("mix").bernoulli(self.p), draws.stream("ratio").beta(self.alpha), 1.0)
        tall, wide = (np.floor(side * np.sqrt(1 - ratio)).astype(np.int64) for side in (h, w))
        top = draws.stream("y").integers(0, h)[:, 0] - tall // 2
        left = draws.stream("x").integers(0, w)[:, 0] - wide // 2
        patch = rectangles(h, w, top, left, top + tall, left + wide)
        seen = 1.0 - patch.mean(axis=(1, 2, 3))
        if images.dtype != other_images.dtype:
            images, other_images = to_unit(images), to_unit(other_images)
        return np.where(patch, other_images, images), mix(labels, other_labels, seen)
