"""How good is a model on a set of images? Loss, accuracy, and who is taken for whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.autograd import no_grad
from minires.backend import release_memory
from minires.data import ArrayDataset, BatchLoader
from minires.distributed.group import Group, current
from minires.nn import Module
from minires.nn import functional as F
from minires.tensor import Tensor
from minires.train.metrics import RunningMean, confusion_matrix, per_class_accuracy, worst_confusions

__all__ = ["Evaluation", "evaluate"]

FLIP_TTA = "mean over each image and its mirror"
BATCH = 256  # images at once: enough to keep the matrix products busy
PIXELS = (
    64 * 64
)  # of larger images fewer: 20 of 224 x 224, of whose first layers 256 would take more than a training step


@dataclass(frozen=True)
class Evaluation:
    """The figures of one evaluation."""

    loss: float  # mean cross-entropy
    matrix: np.ndarray  # (C, C): label, prediction
    classes: Sequence[str]
    flip_tta: bool = False

    @property
    def accuracy(self) -> float:
        """Share of images that were recognised, in [0, 1]."""
        return float(np.trace(self.matrix) / max(self.matrix.sum(), 1))

    @property
    def images(self) -> int:
        """How many images were looked at."""
        return int(self.matrix.sum())

    @property
    def how(self) -> str:
        """What must be said beside the figure: nothing, or that mirrored images were averaged."""
        return FLIP_TTA if self.flip_tta else ""

    def class_rows(self) -> list[dict[str, Any]]:
        """One dict a class: name, accuracy, images, and the class it was most often taken for."""
        shares = per_class_accuracy(self.matrix)
        rows = []
        for i, name in enumerate(self.classes):
            wrong = worst_confusions(self.matrix * (np.arange(len(self.classes)) == i)[:, None], 1)
            rows.append(
                {
                    "class": name,
                    "accuracy": float(shares[i]),
                    "images": int(self.matrix[i].sum()),
                    "taken_for": self.classes[wrong[0][1]] if wrong else None,
                    "taken_for_times": wrong[0][2] if wrong else 0,
                }
            )
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "images": self.images,
            "flip_tta": self.flip_tta,
            "per_class": self.class_rows(),
            "confusion_matrix": self.matrix.tolist(),
        }


def images_at_once(image_shape: Sequence[int]) -> int:
    """How many images (C, H, W) are looked at together: a function of their size alone, so figures agree to the last bit."""
    _, height, width = image_shape
    return max(1, min(BATCH, BATCH * PIXELS // (height * width)))


def evaluate(
    model: Module,
    dataset: ArrayDataset,
    *,
    batch_size: int | None = None,
    workers: int = 1,
    flip_tta: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run the model, in evaluation mode, over every image once. Of several ranks each looks at its part; all get the result.

    The model is left in the mode it was in.

    Args:
        model: (N, C, H, W) float32 -> (N, K) logits.
        dataset: images with labels; its mean and std must be those of the training set.
        batch_size: images at once; the result does not depend on it (but for rounding). None: see `images_at_once`.
        workers: threads that prepare batches.
        flip_tta: judge by the mean of the logits of each image and its mirror; the Evaluation says so.
        on_batch: is told, after each batch, how many images of how many are done.

    Returns:
        An Evaluation.
    """
    was_training = model.training
    model.eval()
    if batch_size is None:
        batch_size = images_at_once(dataset.image_shape)
    # Buffers of a training step, which wait in the kernel set's pool, make room for those of other sizes; and these, behind.
    release_memory()
    loss, done = RunningMean(), 0
    group = current()
    loader = BatchLoader(dataset, batch_size, workers=workers, rank=group.rank, ranks=group.size)
    matrix = np.zeros((dataset.num_classes, dataset.num_classes), np.int64)
    try:
        with no_grad():
            for number, (images, labels) in enumerate(loader):
                if len(images):  # of a last batch smaller than the group some ranks have nothing
                    logits = model(images)
                    if flip_tta:
                        logits = (logits + model(Tensor(images.array[..., ::-1].copy()))) / 2
                    loss.add(F.cross_entropy(logits, labels).item(), len(labels))
                    matrix += confusion_matrix(logits.numpy().argmax(axis=1), labels.numpy(), dataset.num_classes)
                done += loader.images_in(number)
                if on_batch is not None:
                    on_batch(done, len(dataset))
    finally:
        model.train(was_training)
        release_memory()
    return Evaluation(loss.over(group), _added_up(matrix, group), dataset.classes, flip_tta)


def _added_up(matrix: np.ndarray, group: Group) -> np.ndarray:
    """The sum of all ranks' matrices."""
    group.sum(matrix)
    return matrix
