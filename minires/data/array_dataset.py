"""A data set of images that lies in memory as two arrays, and fixed splits of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from minires.data.counter_random import permutation
from minires.data.dataset import Dataset
from minires.errors import ArgumentError, DataError, DTypeError, ShapeError

Array = npt.NDArray[Any]

# How many axes an array of each layout has, and the transposition that makes it (N, C, H, W).
_LAYOUTS = {"NCHW": (4, (0, 1, 2, 3)), "NHWC": (4, (0, 3, 1, 2)), "NHW": (3, None)}


class ArrayDataset(Dataset):
    """Images and labels as two arrays.

    Every image is kept as bytes, 0 .. 255: a quarter of float32's memory, and exactly what the files hold. Items and
    batches come out as float32, normalised:  x = (byte / 255 - mean) / std,  a channel at a time.

    Args:
        images: uint8, (N, C, H, W), or as `layout` says.
        labels: (N,) integers in 0 .. len(classes) - 1.
        classes: the classes' names, in the labels' order; default "0", "1", ... up to the largest label.
        name: for messages.
        mean, std: (C,) in units of 0 .. 1; default: of these images. Give a test set its training set's.
        layout: "NCHW", "NHWC" or "NHW" (one channel). It is never guessed: 3 x 32 x 3 images would decide at random.

    Attributes:
        images: (N, C, H, W) uint8.    labels: (N,) int64.    classes: tuple of str.    mean, std: (C,) float32.

    Raises:
        ShapeError, DTypeError, ArgumentError: an array that does not fit.
        DataError: a label outside the classes, with its place.
    """

    def __init__(
        self,
        images: Array,
        labels: Array | Sequence[int],
        classes: Sequence[str] | None = None,
        name: str = "data",
        mean: Sequence[float] | Array | None = None,
        std: Sequence[float] | Array | None = None,
        *,
        layout: str = "NCHW",
    ) -> None:
        images, labels = np.asarray(images), np.asarray(labels)
        if layout not in _LAYOUTS:
            raise ArgumentError(f"ArrayDataset: layout must be one of {', '.join(_LAYOUTS)}, got {layout!r}")
        ndim, axes = _LAYOUTS[layout]
        if images.ndim != ndim:
            raise ShapeError(f"ArrayDataset: images needs {ndim} axes ({layout}), got images.shape = {images.shape}")
        if images.dtype != np.uint8:
            raise DTypeError(f"ArrayDataset: images must be uint8 (0 .. 255), got {images.dtype}")
        if labels.shape != (len(images),):
            raise ShapeError(
                f"ArrayDataset: labels needs shape ({len(images)},), one for each image, got {labels.shape}"
            )
        if labels.dtype.kind not in "iu":
            raise DTypeError(f"ArrayDataset: labels must be integers, got {labels.dtype}")
        images = images[:, None] if axes is None else images.transpose(axes)
        self.images = np.ascontiguousarray(images)
        self.labels = labels.astype(np.int64)
        if classes is None:
            classes = [str(i) for i in range(int(self.labels.max(initial=-1)) + 1)]
        self.classes = tuple(classes)
        self.name = name
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if outside.size:
            place = int(outside[0])
            raise DataError(
                f"{name}: label {self.labels[place]} of image {place} is outside 0 .. {len(self.classes) - 1} "
                f"({len(self.classes)} classes)"
            )
        own = channel_statistics(self.images) if mean is None or std is None else (mean, std)
        self.mean = self._per_channel("mean", own[0] if mean is None else mean)
        self.std = self._per_channel("std", own[1] if std is None else std)
        if not (self.std > 0).all():
            raise ArgumentError(f"ArrayDataset: std must be positive, got {self.std.tolist()}")

    def _per_channel(self, what: str, values: Sequence[float] | Array) -> Array:
        array = np.asarray(values, dtype=np.float32).reshape(-1)
        if array.shape != (self.images.shape[1],):
            raise ShapeError(
                f"ArrayDataset: {what} needs one value for each of {self.images.shape[1]} channels, got {array.size}"
            )
        return array

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """(the image as a (C, H, W) float32 tensor, normalised; its label)."""
        from minires.tensor import Tensor

        image = normalize(self.images[index][None], self.mean, self.std)[0]
        return Tensor(image), int(self.labels[index])

    def subset(self, indices: Sequence[int] | Array, name: str | None = None) -> ArrayDataset:
        """The images at `indices`, in that order, with this set's classes, mean and std."""
        where = np.asarray(indices, dtype=np.int64)
        return ArrayDataset(
            self.images[where], self.labels[where], self.classes, name or self.name, self.mean, self.std
        )

    def __repr__(self) -> str:
        c, h, w = self.image_shape
        return f"ArrayDataset({self.name!r}, {len(self)} images of {c}x{h}x{w}, {self.num_classes} classes)"


def normalize(images: Array, mean: Array, std: Array) -> Array:
    """(x - mean) / std, a channel at a time, in float32.

    Computed as x * (1 / (255 std)) - mean / std: one multiplication and one subtraction a pixel.

    Args:
        images: (N, C, H, W), uint8 in 0 .. 255 or floating in 0 .. 1.
        mean, std: (C,) in units of 0 .. 1.

    Returns:
        (N, C, H, W) float32, a new array.
    """
    unit = 255.0 if images.dtype == np.uint8 else 1.0
    scale = (1.0 / (unit * np.asarray(std, np.float64))).astype(np.float32)
    shift = (np.asarray(mean, np.float64) / np.asarray(std, np.float64)).astype(np.float32)
    out = np.multiply(images, scale[:, None, None], dtype=np.float32)
    out -= shift[:, None, None]
    return out


def channel_statistics(images: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each channel, over all images and pixels, in units of 0 .. 1.

    From the histogram of the 256 byte values, so it is exact and needs no float copy of the images. A channel of one
    value only gets std 1.

    Args:
        images: (N, C, H, W) uint8.

    Returns:
        mean, std: (C,) float64.
    """
    values = np.arange(256) / 255.0
    counts = np.stack([np.bincount(images[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])])
    weights = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mean = weights @ values
    variance = (weights * (values[None, :] - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.sqrt(np.where(variance > 1e-12, variance, 1.0))


def stratified_indices(labels: Array, count: int, seed: int) -> tuple[Array, Array]:
    """Divide the places of `labels` into (rest, taken), with `count` taken, each class in its proportion.

    Class c gives floor(count * n_c / n); what is missing to `count` goes to the classes with the largest remainders
    (equal ones: the lower class). Within a class a random order decides, a pure function of the seed.

    Returns:
        rest, taken: int64, each ascending.
    """
    if not 0 <= count <= len(labels):
        raise ArgumentError(f"stratified_indices: count must be in 0 .. {len(labels)}, got {count}")
    order = permutation(seed, 0, len(labels), "split")
    sizes = np.bincount(labels)
    quota, remainder = np.divmod(count * sizes, max(len(labels), 1))
    quota[np.argsort(-remainder, kind="stable")[: count - quota.sum()]] += 1
    shuffled = labels[order]
    taken = np.sort(np.concatenate([order[shuffled == c][:q] for c, q in enumerate(quota)] or [order[:0]]))
    return np.setdiff1d(np.arange(len(labels)), taken), taken


def split_validation(dataset: ArrayDataset, fraction: float = 0.1, seed: int = 0) -> tuple[ArrayDataset, ArrayDataset]:
    """Take a validation set out of a training set, fixed by the seed.

    Stratified: each class gives the same fraction. The test set is then looked at once, at the end; choosing the best
    epoch on it, as many published figures did, overstates the accuracy.

    Args:
        fraction: of the images, in (0, 1); round(fraction * N) are taken.
        seed: the same seed gives the same split, on any machine.

    Returns:
        (training, validation), both in the original order.
    """
    if not 0 < fraction < 1:
        raise ArgumentError(f"split_validation: fraction must be between 0 and 1, got {fraction}")
    rest, taken = stratified_indices(dataset.labels, round(fraction * len(dataset)), seed)
    return dataset.subset(rest, f"{dataset.name}/train"), dataset.subset(taken, f"{dataset.name}/validation")
