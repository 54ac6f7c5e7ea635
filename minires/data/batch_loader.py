"""`BatchLoader`: the trainer's loader. Whole batches, prepared in the background, the same ones every time.

Order and augmentation are pure functions of (seed, epoch, index in the data set): batch size, number of workers and
where a run was interrupted change nothing about what a sample looks like in an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minires.data.array_dataset import ArrayDataset
from minires.data.augment import Pipeline
from minires.data.counter_random import permutation
from minires.data.prefetch import background_map
from minires.errors import ArgumentError

Array = npt.NDArray[Any]


class Batch(NamedTuple):
    """Arrays of one batch.

    images: (N, C, H, W) float32, normalised.    indices: (N,) int64, the samples' places in the data set.
    labels: (N,) int64 classes, or (N, K) float32 probabilities after mixup or cutmix.
    """

    images: Array
    labels: Array
    indices: Array


class BatchLoader:
    """Iterate over an `ArrayDataset` in whole batches.

        loader = BatchLoader(train, 128, shuffle=True, augment=["pad_crop:4", "flip"], seed=0)
        for epoch in range(epochs):
            for images, labels in loader.iterate(epoch):
                ...

    Args:
        shuffle: a new order in each epoch.
        augment: a `Pipeline`, or its steps as text (see `minires.data.augment`); None: only normalisation.
        seed: of order and augmentation.
        drop_last: leave out the last batch where it is shorter.
        workers: threads that prepare batches; 0: each is made when asked for.
        prefetch: batches prepared ahead.
        rank, ranks: of several processes that share every batch, this is number `rank` of `ranks`: it gets its part, cut in
            order, and together they get what one process would.
    """

    def __init__(
        self,
        dataset: ArrayDataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: Pipeline | Sequence[str] | None = None,
        seed: int = 0,
        drop_last: bool = False,
        workers: int = 1,
        prefetch: int = 2,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0), ("prefetch", prefetch, 1)):
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
                raise ArgumentError(f"BatchLoader: {name} must be an integer >= {least}, got {value!r}")
        self.dataset, self.batch_size, self.shuffle, self.drop_last = dataset, int(batch_size), shuffle, drop_last
        if not 0 <= rank < ranks:
            raise ArgumentError(f"BatchLoader: rank must be one of 0 .. ranks - 1 = {ranks - 1}, got {rank}")
        self.seed, self.workers, self.prefetch, self.epoch = seed, workers, prefetch, 0
        self.rank, self.ranks = rank, ranks
        self.pipeline = augment if isinstance(augment, Pipeline) else Pipeline(augment or ())

    def __len__(self) -> int:
        """Batches in one epoch."""
        n = len(self.dataset)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def images_in(self, batch: int) -> int:
        """How many images batch number `batch` has, over all ranks."""
        return min(self.batch_size, len(self.dataset) - batch * self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that `iter(loader)` gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self.iterate(self.epoch)

    def iterate(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """(images, labels) as tensors, a batch at a time.

        Args:
            start: the first batch to give: an interrupted epoch continues with exactly what it would have seen.
        """
        from minires.tensor import Tensor

        for batch in self.arrays(epoch, start):
            yield Tensor(batch.images), Tensor(batch.labels)

    def arrays(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The same batches as plain arrays, with the samples' places."""
        order = self.order(epoch)
        slices = [self._own(order[b * self.batch_size : (b + 1) * self.batch_size]) for b in range(start, len(self))]

        def prepare(indices: Array) -> Batch:
            images, labels = self.pipeline.batch(self.dataset, indices, self.seed, epoch)
            return Batch(images, labels, indices)

        return background_map(prepare, slices, self.workers, self.prefetch)

    def _own(self, indices: Array) -> Array:
        """This rank's part of a batch; the parts' sizes differ by at most one."""
        n = len(indices)
        return indices[n * self.rank // self.ranks : n * (self.rank + 1) // self.ranks]

    def order(self, epoch: int) -> Array:
        """(len(dataset),) int64: in which order `epoch` visits the samples."""
        n = len(self.dataset)
        return permutation(self.seed, epoch, n) if self.shuffle else np.arange(n)
