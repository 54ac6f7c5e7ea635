"""`DataLoader`: batches of any data set, with the interface of `torch.utils.data.DataLoader`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from minires.data.collate import default_collate, default_convert
from minires.data.dataset import Dataset, IterableDataset
from minires.data.prefetch import background_map
from minires.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler
from minires.errors import ArgumentError, UnsupportedError

_END = object()  # what a stream's reader returns when the stream has ended


class DataLoader:
    """Iterate over a data set in batches.

        for images, labels in DataLoader(dataset, batch_size=128, shuffle=True, num_workers=2):
            ...

    Args: as torch's. What differs:
        num_workers: background **threads** that prepare the next batches, in order; the data set is shared, not
            copied. 0: each batch is made when it is asked for.
        shuffle, generator: the order comes from a `minires.random.Generator`, by default the engine's own
            (`minires.manual_seed`); the orders differ from torch's for the same seed.
        prefetch_factor: batches prepared ahead for each worker; 2 unless given.
        timeout: seconds to wait for one batch; 0: as long as it takes.
        pin_memory: accepted and without effect: an array that stays in host memory is not copied anywhere.
        persistent_workers: accepted and without effect: threads start in microseconds, nothing is lost by ending them.
        worker_init_fn, multiprocessing_context, pin_memory_device, in_order=False: not supported, an UnsupportedError.

    Raises:
        ArgumentError: options that exclude each other, or a value out of range.
        UnsupportedError: see above; also more than one worker for an IterableDataset.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        _refuse_unsupported(dataset, num_workers, worker_init_fn, multiprocessing_context, pin_memory_device, in_order)
        stream = isinstance(dataset, IterableDataset)
        if stream and (shuffle or sampler is not None or batch_sampler is not None):
            raise ArgumentError(
                "DataLoader: an IterableDataset sets its own order: no shuffle, sampler or batch_sampler"
            )
        if sampler is not None and shuffle:
            raise ArgumentError("DataLoader: sampler and shuffle=True exclude each other")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ArgumentError("DataLoader: batch_sampler excludes batch_size, shuffle, sampler and drop_last")
        if batch_sampler is None and batch_size is None and drop_last:
            raise ArgumentError("DataLoader: batch_size=None makes no batches, so there is no last one to drop")
        self.dataset, self.num_workers, self.timeout, self.generator = dataset, num_workers, timeout, generator
        self.prefetch_factor = prefetch_factor if prefetch_factor is not None or num_workers == 0 else 2
        self.pin_memory, self.persistent_workers, self.drop_last = pin_memory, persistent_workers, drop_last
        self.worker_init_fn = worker_init_fn
        if sampler is None and not stream:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)  # type: ignore[arg-type]
        if batch_sampler is not None:
            batch_size = None
        elif batch_size is not None:
            # A stream is cut by its reader, but the sampler's checks of batch_size and drop_last serve both.
            batch_sampler = BatchSampler(sampler if sampler is not None else (), batch_size, drop_last)
        self.batch_size, self.sampler, self.batch_sampler = batch_size, sampler, batch_sampler
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate
        self.collate_fn: Callable[[Any], Any] = collate_fn

    def __iter__(self) -> Iterator[Any]:
        depth = (self.prefetch_factor or 0) * self.num_workers
        timeout = self.timeout or None
        if isinstance(self.dataset, IterableDataset):
            read = self._reader(iter(self.dataset))
            return _until_end(background_map(read, itertools.repeat(None), self.num_workers, depth, timeout))
        places = self.sampler if self.batch_sampler is None else self.batch_sampler
        assert places is not None  # __init__ has set one of them
        return background_map(self._fetch, places, self.num_workers, depth, timeout)

    def __len__(self) -> int:
        """Batches in one pass."""
        if isinstance(self.dataset, IterableDataset):
            n = len(self.dataset)  # type: ignore[arg-type]
            if self.batch_size is None:
                return n
            return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]

    def _fetch(self, where: Any) -> Any:
        """One batch of a data set with places: `where` is a list of them, or one place where there are no batches."""
        if self.batch_sampler is None:
            return self.collate_fn(self.dataset[where])
        if hasattr(self.dataset, "__getitems__"):  # torch's protocol for data sets that are faster in bulk
            return self.collate_fn(self.dataset.__getitems__(where))
        return self.collate_fn([self.dataset[index] for index in where])

    def _reader(self, items: Iterator[Any]) -> Callable[[None], Any]:
        """What reads the next batch of a stream."""

        def read(_: None) -> Any:
            if self.batch_size is None:
                item = next(items, _END)
                return _END if item is _END else self.collate_fn(item)
            batch = list(itertools.islice(items, self.batch_size))
            if not batch or (self.drop_last and len(batch) < self.batch_size):
                return _END
            return self.collate_fn(batch)

        return read


def _until_end(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        if batch is _END:
            return  # drops `batches`, which ends its threads
        yield batch


def get_worker_info() -> None:
    """None, as in torch's main process: the workers are threads that share the data set, nothing is to be divided."""


def _check_workers(num_workers: int, timeout: float, prefetch_factor: int | None, persistent: bool) -> None:
    if not isinstance(num_workers, int) or isinstance(num_workers, bool) or num_workers < 0:
        raise ArgumentError(f"DataLoader: num_workers must be an integer >= 0, got {num_workers!r}")
    if timeout < 0:
        raise ArgumentError(f"DataLoader: timeout must be >= 0 seconds, got {timeout}")
    if num_workers == 0 and prefetch_factor is not None:
        raise ArgumentError("DataLoader: prefetch_factor needs num_workers > 0")
    if num_workers == 0 and persistent:
        raise ArgumentError("DataLoader: persistent_workers needs num_workers > 0")
    if prefetch_factor is not None and prefetch_factor < 1:
        raise ArgumentError(f"DataLoader: prefetch_factor must be at least 1, got {prefetch_factor}")


def _refuse_unsupported(
    dataset: Any, num_workers: int, worker_init_fn: Any, context: Any, pin_memory_device: str, in_order: bool
) -> None:
    if worker_init_fn is not None and num_workers > 0:
        raise UnsupportedError(
            "DataLoader: worker_init_fn is not supported: workers are threads that share the process's state; "
            "seed the data set itself, or use minires.data.BatchLoader, whose draws depend on (seed, epoch, index) only"
        )
    if context is not None:
        raise UnsupportedError(
            "DataLoader: multiprocessing_context is not supported: workers are threads; leave it out"
        )
    if pin_memory_device:
        raise UnsupportedError("DataLoader: pin_memory_device is not supported; leave it out")
    if not in_order:
        raise UnsupportedError("DataLoader: in_order=False is not supported: batches always keep the sampler's order")
    if isinstance(dataset, IterableDataset) and num_workers > 1:
        raise UnsupportedError(
            f"DataLoader: num_workers = {num_workers} is not supported for an IterableDataset: a stream has one "
            "reader; use num_workers=1"
        )
