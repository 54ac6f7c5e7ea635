"""From an image file to the top classes, by a checkpoint alone: it knows the model, the classes, the size and the
normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minires.autograd import no_grad
from minires.data.array_dataset import normalize
from minires.data.image_files import read_image
from minires.errors import DataError
from minires.nn import Module
from minires.tensor import Tensor

__all__ = ["Prediction", "predict_files", "softmax"]

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one file, first the best."""

    file: str
    top: list[tuple[str, float]]  # (class, probability)
    looks_inverted: bool = False


def predict_files(
    model: Module, facts: dict[str, Any], files: list[str], *, top: int = 5, invert: bool = False
) -> list[Prediction]:
    """Classify image files.

    Args:
        model: in evaluation mode.
        facts: the "data" part of its checkpoint: classes, channels, height, width, mean, std.
        files: image files.
        top: how many classes to name for each.
        invert: swap dark and light first (a model trained on light digits on black, a photograph of ink on paper).

    Returns:
        One Prediction a file, in the same order.

    Raises:
        DataError: no such file, or not a readable image.
    """
    classes = facts["classes"]
    mean, std = np.array(facts["mean"]), np.array(facts["std"])
    pixels = [_pixels(file, facts, invert) for file in files]
    predictions = []
    for start in range(0, len(files), BATCH):
        batch = np.stack(pixels[start : start + BATCH])
        with no_grad():
            probabilities = softmax(model(Tensor(normalize(batch, mean, std))).numpy())
        for file, image, row in zip(files[start:], batch, probabilities, strict=False):
            order = np.argsort(-row, kind="stable")[:top]
            named = [(classes[i], float(row[i])) for i in order]
            predictions.append(Prediction(file, named, _looks_inverted(image, mean)))
    return predictions


def _pixels(file: str, facts: dict[str, Any], invert: bool) -> np.ndarray:
    """The file as (C, H, W) uint8 in the model's size: shorter side resized, the middle cut out."""
    if not Path(file).is_file():
        raise DataError(f"predict: there is no file {file}")
    if facts["height"] != facts["width"]:
        raise DataError(
            f"predict: the model takes {facts['height']}x{facts['width']} pixels; only square ones are cut out"
        )
    pixels = read_image(file, facts["height"], channels=facts["channels"])
    return 255 - pixels if invert else pixels


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(x) / sum exp(x) along the last axis, shifted by the largest so that exp cannot overflow."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _looks_inverted(image: np.ndarray, mean: np.ndarray) -> bool:
    """Grey data sets of digits or clothes are light on black. An image with a light border is probably ink on paper."""
    if len(image) != 1 or mean[0] > 0.45:
        return False
    border = np.concatenate([image[0, 0], image[0, -1], image[0, :, 0], image[0, :, -1]])
    return bool(np.median(border) > 160)
