"""The trainer's loader: the same samples whatever prepares them, and no thread left behind."""

import threading
import time
import traceback

import numpy as np
import pytest

from minires.data import BatchLoader, Pipeline
from minires.data.prefetch import PrefetchTimeout, background_map
from minires.errors import ArgumentError
from minires.tensor import Tensor
from tests.data.samples import random_dataset

SPEC = ["pad_crop:2", "flip", "random_erasing", "mixup"]


def data_threads():
    return [t for t in threading.enumerate() if t.name.startswith("minires-data")]


def by_index(loader, epoch):
    """{place in the data set: (image, label)} of one epoch."""
    return {
        int(index): (image.tobytes(), label.tobytes())
        for batch in loader.arrays(epoch)
        for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True)
    }


@pytest.mark.parametrize(("batch_size", "workers", "prefetch"), [(7, 0, 1), (7, 3, 4), (64, 1, 2), (1, 2, 2)])
def test_batch_loader_samples_do_not_depend_on_how_they_are_prepared(batch_size, workers, prefetch):
    dataset = random_dataset(40)
    reference = by_index(BatchLoader(dataset, 10, shuffle=True, augment=SPEC, seed=1, workers=0), epoch=2)
    loader = BatchLoader(dataset, batch_size, shuffle=True, augment=SPEC, seed=1, workers=workers, prefetch=prefetch)
    assert by_index(loader, epoch=2) == reference
    assert len(reference) == 40
    assert by_index(loader, epoch=3) != reference


def test_batch_loader_order_changes_with_the_epoch_and_repeats():
    loader = BatchLoader(random_dataset(40), 8, shuffle=True, seed=4)
    orders = [np.concatenate([b.indices for b in loader.arrays(epoch)]) for epoch in (0, 1, 0)]
    assert np.array_equal(orders[0], orders[2]) and not np.array_equal(orders[0], orders[1])
    assert sorted(orders[1].tolist()) == list(range(40))
    plain = BatchLoader(random_dataset(40), 8)
    assert np.concatenate([b.indices for b in plain.arrays(5)]).tolist() == list(range(40))


def test_batch_loader_continues_an_interrupted_epoch():
    loader = BatchLoader(random_dataset(40), 8, shuffle=True, augment=SPEC)
    whole, rest = list(loader.arrays(1)), list(loader.arrays(1, start=3))
    assert len(rest) == 2
    for a, b in zip(whole[3:], rest, strict=True):
        assert np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [16, 16, 8]), (True, [16, 16])])
def test_batch_loader_last_batch(drop_last, sizes):
    loader = BatchLoader(random_dataset(40), 16, drop_last=drop_last)
    assert len(loader) == len(sizes)
    assert [len(batch.labels) for batch in loader.arrays(0)] == sizes


def test_batch_loader_gives_tensors_of_the_set_epoch():
    loader = BatchLoader(random_dataset(12), 5, shuffle=True, augment=Pipeline(["flip"]))
    loader.set_epoch(3)
    for (images, labels), batch in zip(loader, loader.arrays(3), strict=True):
        assert isinstance(images, Tensor) and isinstance(labels, Tensor)
        assert images.numpy().dtype == np.float32 and labels.numpy().dtype == np.int64
        assert np.array_equal(images.numpy(), batch.images) and np.array_equal(labels.numpy(), batch.labels)


def test_batch_loader_abandoned_leaves_no_thread():
    for _ in BatchLoader(random_dataset(40), 4, workers=3).iterate(0):
        assert data_threads()
        break
    assert not data_threads()
    iterator = BatchLoader(random_dataset(40), 4, workers=2).iterate(0)
    next(iterator)
    del iterator
    assert not data_threads()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "BatchLoader: batch_size must be an integer >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be an integer >= 1, got 2.0"),
        ({"batch_size": 2, "workers": -1}, "workers must be an integer >= 0, got -1"),
        ({"batch_size": 2, "prefetch": 0}, "prefetch must be an integer >= 1, got 0"),
    ],
)
def test_batch_loader_errors(options, text):
    with pytest.raises(ArgumentError, match=text):
        BatchLoader(random_dataset(4), **options)


def test_background_map_keeps_the_order():
    def slow_at_first(item):
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item

    assert list(background_map(slow_at_first, range(20), workers=4, depth=6)) == list(range(20))


def test_background_map_prepares_ahead_and_no_further():
    started, iterator = [], None

    def note(item):
        started.append(item)
        return item

    iterator = background_map(note, range(100), workers=2, depth=3)
    assert next(iterator) == 0
    deadline = time.monotonic() + 5
    while len(started) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert sorted(started) == [0, 1, 2, 3]  # the one given, and three ahead
    iterator.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_background_map_raises_at_its_item_with_the_original_traceback(workers):
    def fail_at_five(item):
        if item == 5:
            raise ValueError("corrupt sample 5")
        return item

    seen = []
    with pytest.raises(ValueError, match="corrupt sample 5") as caught:
        for item in background_map(fail_at_five, range(10), workers, depth=3):
            seen.append(item)
    assert seen == [0, 1, 2, 3, 4]
    assert any(frame.name == "fail_at_five" for frame in traceback.extract_tb(caught.value.__traceback__))
    assert not data_threads()


def test_background_map_timeout_names_it_and_does_not_wait():
    release = threading.Event()
    begin = time.monotonic()
    with pytest.raises(PrefetchTimeout, match=r"the next batch was not ready after timeout = 0.05 s"):
        list(background_map(lambda item: release.wait(10), range(2), workers=1, depth=1, timeout=0.05))
    assert time.monotonic() - begin < 5
    release.set()


def test_background_map_functions_own_timeout_error_is_kept():
    def fail(item):
        raise TimeoutError("the disk")

    with pytest.raises(TimeoutError, match="the disk"):
        list(background_map(fail, range(2), workers=1, depth=1, timeout=5))
