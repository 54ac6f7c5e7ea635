"""What a data set is, with the names of `torch.utils.data`."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np

from minires import random
from minires.errors import ArgumentError, ShapeError

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """A map from 0 .. len - 1 to items. Subclasses write `__getitem__` and `__len__`."""

    def __getitem__(self, index: Any) -> T_co:
        raise NotImplementedError(f"{type(self).__name__} is a Dataset and must define __getitem__")

    def __add__(self, other: Dataset[T_co]) -> ConcatDataset[T_co]:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co]):
    """A stream of items. Subclasses write `__iter__`."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"{type(self).__name__} is an IterableDataset and must define __iter__")

    def __add__(self, other: Dataset[T_co]) -> ChainDataset[T_co]:  # type: ignore[override]
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Any, ...]]):
    """Tensors side by side: item i is the tuple of their i-th rows.

    Args:
        tensors: all with the same size along the first axis.
    """

    def __init__(self, *tensors: Any) -> None:
        if not tensors:
            raise ArgumentError("TensorDataset: needs at least one tensor")
        if len({t.shape[0] for t in tensors}) != 1:
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
            raise ShapeError(f"TensorDataset: all tensors need the same first size, got shapes {shapes}")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])


class Subset(Dataset[T_co]):
    """The items of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: Dataset[T_co], indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index: Any) -> T_co:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset[T_co]):
    """Data sets one after the other."""

    def __init__(self, datasets: Iterable[Dataset[T_co]]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ArgumentError("ConcatDataset: needs at least one data set")
        for dataset in self.datasets:
            if isinstance(dataset, IterableDataset):
                raise ArgumentError("ConcatDataset: an IterableDataset has no length; use ChainDataset")
        self.cumulative_sizes = list(itertools.accumulate(_length(d) for d in self.datasets))

    def __getitem__(self, index: int) -> T_co:
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"ConcatDataset: index {index} is outside {len(self)} items")
        which = bisect.bisect_right(self.cumulative_sizes, place)
        return self.datasets[which][place - (self.cumulative_sizes[which - 1] if which else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


class ChainDataset(IterableDataset[T_co]):
    """Streams one after the other."""

    def __init__(self, datasets: Iterable[Dataset[T_co]]) -> None:
        self.datasets = list(datasets)

    def __iter__(self) -> Iterator[T_co]:
        for dataset in self.datasets:
            if not isinstance(dataset, IterableDataset):
                raise ArgumentError(f"ChainDataset: takes IterableDatasets only, got {type(dataset).__name__}")
            yield from dataset

    def __len__(self) -> int:
        return sum(_length(d) for d in self.datasets)


def random_split(dataset: Dataset[T_co], lengths: Sequence[int | float], generator: Any = None) -> list[Subset[T_co]]:
    """Divide a data set at random into parts that do not overlap.

    Args:
        lengths: whole numbers that add up to len(dataset), or fractions that add up to 1 (floor of each; what is left
            over goes to the parts in turn, one item each).
        generator: a `minires.random.Generator`; default: the engine's own.
    """
    total, sizes = _length(dataset), list(lengths)
    if math.isclose(sum(sizes), 1) and sum(sizes) <= 1 and not all(isinstance(n, int) for n in sizes):
        if not all(0 <= fraction <= 1 for fraction in sizes):
            raise ArgumentError(f"random_split: fractions must be in 0 .. 1, got {list(lengths)}")
        sizes = [math.floor(total * fraction) for fraction in sizes]
        for i in range(total - int(sum(sizes))):
            sizes[i % len(sizes)] += 1
    if sum(sizes) != total:
        raise ArgumentError(f"random_split: lengths must add up to the data set's {total}, got {list(lengths)}")
    order = as_numpy_generator("random_split", generator).permutation(total).tolist()
    ends = [int(end) for end in itertools.accumulate(sizes)]
    return [Subset(dataset, order[end - int(size) : end]) for end, size in zip(ends, sizes, strict=True)]


def as_numpy_generator(where: str, generator: Any) -> np.random.Generator:
    """NumPy's generator behind what a user gave: None, a `minires.random.Generator` or NumPy's own."""
    if generator is None:
        return random.generator()
    if isinstance(generator, np.random.Generator):
        return generator
    if isinstance(generator, random.Generator):
        return generator.numpy
    raise ArgumentError(f"{where}: generator must be a minires.Generator, got {type(generator).__name__}")


def _length(dataset: Any) -> int:
    if not isinstance(dataset, Sized):
        raise ArgumentError(f"{type(dataset).__name__}: needs __len__ here")
    return len(dataset)
