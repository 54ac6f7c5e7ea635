"""What is measured: a network, its input, a batch. Plain data that travels to other processes as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["LEARNING_RATE", "MOMENTUM", "WEIGHT_DECAY", "Workload"]

# Of the training step. The rate is small: a run repeats one batch hundreds of times, and the loss must stay finite. The
# decay is a hundred times the usual: a step that forgets it is then seen beside the rounding of float32.
LEARNING_RATE = 0.01
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True)
class Workload:
    """A network and a batch.

    Attributes:
        model: a name of `minires.models`.
        batch: images at once.
        image_size: pixels a side.
        in_channels: 3 for colour, 1 for grey images.
        num_classes: outputs; None is the model's own number.
        options: of the model (`width=32`).
        seed: of weights, images and labels.
        threads: that each contender may use.
        folder: where the judge puts weights, input and expected results.
        layer: bench ops: the layer measured (see layers.Layer); empty for whole networks.
    """

    model: str
    batch: int
    image_size: int
    in_channels: int = 3
    num_classes: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    threads: int = 1
    folder: str = ""
    layer: dict[str, Any] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)"""
        return (self.batch, self.in_channels, self.image_size, self.image_size)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def path(self, name: str) -> Path:
        """A file of the judge's folder."""
        return Path(self.folder) / name

    def build(self) -> Any:
        """The network with fresh weights.

        Raises:
            UnknownNameError, ArgumentError: no such model, or it does not take these options.
        """
        from minires import models

        return models.build(self.model, self.num_classes, self.in_channels, image_size=self.image_size, **self.options)

    def images(self) -> np.ndarray:
        """(N, C, H, W) float32. The judge may have made more: smaller batches are the first images of larger ones."""
        return np.ascontiguousarray(np.load(self.path("input.npy"), mmap_mode="r")[: self.batch])

    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return np.ascontiguousarray(np.load(self.path("labels.npy"))[: self.batch])

    def weights(self) -> dict[str, np.ndarray]:
        """The state dict that every contender starts from."""
        from minires.io.safetensors import load_file

        return load_file(self.path("weights.safetensors"))
