"""The images a model is surest about and wrong: where mislabelled pictures and blind spots show first."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from minires.autograd import no_grad
from minires.data import ArrayDataset, BatchLoader
from minires.infer.predict import softmax
from minires.nn import Module

__all__ = ["Mistake", "Worst", "as_png", "worst_mistakes"]


@dataclass(frozen=True)
class Mistake:
    """One image that was taken for another class.

    Attributes:
        index: in the data set.
        label, prediction: classes by number.
        confidence: the probability that the model gave to its prediction.
        label_probability: what it left for the right class.
    """

    index: int
    label: int
    prediction: int
    confidence: float
    label_probability: float


@dataclass(frozen=True)
class Worst:
    """The most confident mistakes, and the confusion matrix of the same look at the data.

    Attributes:
        mistakes: the most confident first.
        matrix: (C, C) int64: label, prediction.
    """

    mistakes: list[Mistake]
    matrix: np.ndarray


def worst_mistakes(model: Module, dataset: ArrayDataset, count: int = 24, batch_size: int = 256) -> Worst:
    """Look at every image once, in evaluation mode, and keep the `count` most confident mistakes.

    Args:
        model: (N, C, H, W) float32 -> (N, K) logits; left in the mode it was in.
        dataset: with the normalisation of the training set.
        count: how many to keep.
        batch_size: images at once.
    """
    was_training = model.training
    model.eval()
    found: list[Mistake] = []
    matrix = np.zeros((dataset.num_classes, dataset.num_classes), np.int64)
    seen = 0
    try:
        with no_grad():
            for images, labels in BatchLoader(dataset, batch_size):
                shares = softmax(model(images).numpy())
                truth, guess = labels.numpy(), shares.argmax(axis=1)
                np.add.at(matrix, (truth, guess), 1)
                for i in np.flatnonzero(truth != guess):
                    t, g = int(truth[i]), int(guess[i])
                    found.append(Mistake(seen + int(i), t, g, float(shares[i, g]), float(shares[i, t])))
                found = sorted(found, key=lambda mistake: (-mistake.confidence, mistake.index))[:count]
                seen += len(truth)
    finally:
        model.train(was_training)
    return Worst(found, matrix)


def as_png(image: np.ndarray, highest: int = 255) -> bytes:
    """An image of a data set as a PNG.

    Args:
        image: (C, H, W) uint8; with three channels red, green and blue, else the first one in grey.
        highest: the byte that is shown as white; the digits' largest is 16.
    """
    from PIL import Image

    shown = image if len(image) == 3 else image[:1]
    shown = np.minimum(shown.astype(np.uint32) * 255 // max(highest, 1), 255).astype(np.uint8)
    picture = Image.fromarray(shown[0] if len(shown) == 1 else np.ascontiguousarray(shown.transpose(1, 2, 0)))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()
