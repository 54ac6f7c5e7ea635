"""A pipeline of augmentations, built from a readable list, that ends in normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minires.data.array_dataset import ArrayDataset, normalize
from minires.data.augment.mix import one_hot
from minires.data.augment.step import Array, ImageStep, MixStep, Step, parse_step
from minires.data.counter_random import Draws
from minires.errors import ArgumentError


class Pipeline:
    """Augmentations one after the other, and normalisation at the end.

        Pipeline(["pad_crop:4", "flip", "cutout:8"])

    Every step draws from a stream of its own, named after it (and its count, where a name comes twice), so that adding
    a step changes nothing about what the others draw.

    Args:
        steps: text as `parse_step` reads it, or `Step` objects.

    Raises:
        UnknownNameError, ArgumentError: as `parse_step`.
    """

    def __init__(self, steps: Sequence[str | Step] = ()) -> None:
        if isinstance(steps, str):
            raise ArgumentError(f"Pipeline: steps must be a list, got the text {steps!r}; write [{steps!r}]")
        self.steps = tuple(parse_step(step) if isinstance(step, str) else step for step in steps)
        names = [step.name for step in self.steps]
        self._streams = tuple(f"{name}#{names[:place].count(name)}" for place, name in enumerate(names))

    @property
    def spec(self) -> list[str]:
        """The steps as text, with every option: `Pipeline(p.spec)` is the same pipeline."""
        return [str(step) for step in self.steps]

    def __repr__(self) -> str:
        return f"Pipeline({self.spec})"

    def batch(
        self, dataset: ArrayDataset, indices: Sequence[int] | Array, seed: int, epoch: int
    ) -> tuple[Array, Array]:
        """The samples at `indices`, augmented and normalised: a pure function of all four arguments, sample by sample.

        Returns:
            images: (N, C, H, W) float32.
            labels: (N,) int64, or (N, K) float32 where a step mixes labels.
        """
        images, labels = self._first(len(self.steps), dataset, Draws(seed, epoch, indices))
        return normalize(images, dataset.mean, dataset.std), labels

    def _first(self, count: int, dataset: ArrayDataset, draws: Draws) -> tuple[Array, Array]:
        """The samples after the first `count` steps."""
        images, labels = dataset.images[draws.indices], dataset.labels[draws.indices]
        for place in range(count):
            step, own = self.steps[place], draws.stream(self._streams[place])
            if isinstance(step, MixStep):
                partners = own.stream("partner").integers(0, len(dataset))[:, 0]
                # The partner goes through the same steps before, with its own numbers of this epoch.
                others = self._first(place, dataset, Draws(draws.seed, draws.epoch, partners))
                labels, other_labels = (self._probabilities(each, dataset) for each in (labels, others[1]))
                images, labels = step.mix(images, labels, others[0], other_labels, own)
            elif isinstance(step, ImageStep):
                images = step(images, own, dataset.mean)
            else:
                raise ArgumentError(f"Pipeline: {step!r} is neither an ImageStep nor a MixStep")
        return images, labels

    @staticmethod
    def _probabilities(labels: Array, dataset: ArrayDataset) -> Array:
        return one_hot(labels, dataset.num_classes) if labels.ndim == 1 else np.asarray(labels)
