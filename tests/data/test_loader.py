"""torch.utils.data's interface: DataLoader, samplers, data sets, collation; with torch as judge where it is there."""

import collections
import threading
import time

import numpy as np
import pytest

from minires import random
from minires.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
    get_worker_info,
    random_split,
)
from minires.errors import ArgumentError, DataError, DTypeError, ShapeError, UnsupportedError
from minires.tensor import Tensor

Point = collections.namedtuple("Point", "x y")


class Squares(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return np.float32(index**2), index


class Stream(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(range(self.count))

    def __len__(self):
        return self.count


def flat(loader):
    return [value for batch in loader for value in np.atleast_1d(batch.numpy()).tolist()]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_data_loader_batches_in_order(num_workers, drop_last, sizes):
    loader = DataLoader(Squares(10), batch_size=4, num_workers=num_workers, drop_last=drop_last)
    batches = list(loader)
    assert len(loader) == len(batches) == len(sizes)
    assert [len(labels.numpy()) for _, labels in batches] == sizes
    squares = np.concatenate([x.numpy() for x, _ in batches])
    assert squares.dtype == np.float32 and squares.tolist() == [i**2 for i in range(sum(sizes))]


def test_data_loader_shuffle_follows_the_generator():
    def order(generator):
        return [
            int(i)
            for _, labels in DataLoader(Squares(50), 8, shuffle=True, generator=generator)
            for i in labels.numpy()
        ]

    first = order(random.Generator().manual_seed(1))
    assert sorted(first) == list(range(50)) != first
    assert order(random.Generator().manual_seed(1)) == first != order(random.Generator().manual_seed(2))
    random.manual_seed(5)
    default = order(None)
    random.manual_seed(5)
    assert order(None) == default
    assert order(np.random.default_rng(3)) == order(np.random.default_rng(3))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("drop_last", "expected"), [(False, [[0, 1, 2], [3, 4, 5], [6]]), (True, [[0, 1, 2], [3, 4, 5]])]
)
def test_data_loader_stream(num_workers, drop_last, expected):
    loader = DataLoader(Stream(7), 3, num_workers=num_workers, drop_last=drop_last)
    assert [batch.numpy().tolist() for batch in loader] == expected
    assert len(loader) == len(expected)
    assert not [t for t in threading.enumerate() if t.name.startswith("minires-data")]


def test_data_loader_without_batches():
    assert [(float(x.numpy()), i) for x, i in DataLoader(Squares(3), batch_size=None)] == [(0, 0), (1, 1), (4, 2)]
    assert list(DataLoader(Stream(3), batch_size=None)) == [0, 1, 2]
    assert len(DataLoader(Squares(3), batch_size=None)) == len(DataLoader(Stream(3), batch_size=None)) == 3


def test_data_loader_takes_samplers_and_collate_fn():
    assert flat(DataLoader(range(10), 2, sampler=[5, 1, 7], collate_fn=lambda b: Tensor(np.array(b)))) == [5, 1, 7]
    batches = DataLoader(range(10), batch_sampler=[[1, 2], [9]], collate_fn=tuple)
    assert list(batches) == [(1, 2), (9,)] and len(batches) == 2

    class Bulk(Squares):
        def __getitems__(self, places):
            return [-i for i in places]

    assert flat(DataLoader(Bulk(3), 3)) == [0, -1, -2]


def test_data_loader_accepts_hints_that_change_nothing():
    plain = flat(DataLoader(range(5), 2))
    assert (
        flat(DataLoader(range(5), 2, pin_memory=True, num_workers=2, persistent_workers=True, prefetch_factor=1))
        == plain
    )
    assert flat(DataLoader(range(5), 2, worker_init_fn=print)) == plain  # as in torch: no worker, no call
    assert get_worker_info() is None


def test_data_loader_prepares_prefetch_factor_batches_a_worker():
    asked = set()

    class Noting(Squares):
        def __getitem__(self, index):
            asked.add(index)
            return index

    iterator = iter(DataLoader(Noting(100), num_workers=2, prefetch_factor=3))
    next(iterator)
    deadline = time.monotonic() + 5
    while len(asked) < 7 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert asked == set(range(7))  # the one given, and three ahead for each of the two


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_loader_error_of_a_sample_arrives(num_workers):
    class Corrupt(Squares):
        def __getitem__(self, index):
            if index == 5:
                raise OSError("cannot read sample 5")
            return index

    iterator = iter(DataLoader(Corrupt(8), 2, num_workers=num_workers))
    assert next(iterator).numpy().tolist() == [0, 1] and next(iterator).numpy().tolist() == [2, 3]
    with pytest.raises(OSError, match="cannot read sample 5"):
        next(iterator)
    assert not [t for t in threading.enumerate() if t.name.startswith("minires-data")]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"num_workers": -1}, ArgumentError, "num_workers must be an integer >= 0, got -1"),
        ({"timeout": -1}, ArgumentError, "timeout must be >= 0 seconds, got -1"),
        ({"prefetch_factor": 2}, ArgumentError, "prefetch_factor needs num_workers > 0"),
        ({"prefetch_factor": 0, "num_workers": 1}, ArgumentError, "prefetch_factor must be at least 1, got 0"),
        ({"persistent_workers": True}, ArgumentError, "persistent_workers needs num_workers > 0"),
        ({"shuffle": True, "sampler": [0]}, ArgumentError, "sampler and shuffle=True exclude each other"),
        ({"batch_sampler": [[0]], "batch_size": 2}, ArgumentError, "batch_sampler excludes batch_size"),
        ({"batch_size": None, "drop_last": True}, ArgumentError, "batch_size=None makes no batches"),
        ({"batch_size": 0}, ArgumentError, "BatchSampler: batch_size must be a positive integer, got 0"),
        ({"worker_init_fn": print, "num_workers": 1}, UnsupportedError, "worker_init_fn is not supported"),
        ({"multiprocessing_context": "fork"}, UnsupportedError, "multiprocessing_context is not supported"),
        ({"pin_memory_device": "cuda"}, UnsupportedError, "pin_memory_device is not supported"),
        ({"in_order": False}, UnsupportedError, "in_order=False is not supported"),
        ({"shuffle": True, "generator": 3}, ArgumentError, "generator must be a minires.Generator, got int"),
    ],
)
def test_data_loader_errors(options, error, text):
    with pytest.raises(error, match=text):
        list(DataLoader(Squares(4), **options))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"shuffle": True}, ArgumentError, "an IterableDataset sets its own order"),
        ({"num_workers": 2}, UnsupportedError, "num_workers = 2 is not supported for an IterableDataset"),
        ({"batch_size": -1}, ArgumentError, "batch_size must be a positive integer, got -1"),
    ],
)
def test_data_loader_stream_errors(options, error, text):
    with pytest.raises(error, match=text):
        DataLoader(Stream(4), **options)


def test_datasets_put_together():
    both = Squares(3) + Subset(Squares(10), [9, 4])
    assert isinstance(both, ConcatDataset) and len(both) == 5
    assert [label for _, label in (both[i] for i in range(5))] == [0, 1, 2, 9, 4]
    assert both[-1][1] == 4 and Subset(range(10), [3, 1])[1] == 1
    chain = Stream(2) + Stream(3)
    assert isinstance(chain, ChainDataset) and list(chain) == [0, 1, 0, 1, 2] and len(chain) == 5
    pair = TensorDataset(Tensor(np.arange(6).reshape(3, 2)), Tensor(np.arange(3)))
    x, y = pair[2]
    assert len(pair) == 3 and x.numpy().tolist() == [4, 5] and int(y.numpy()) == 2


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: TensorDataset(), ArgumentError, "TensorDataset: needs at least one tensor"),
        (
            lambda: TensorDataset(Tensor(np.zeros((2, 1))), Tensor(np.zeros(3))),
            ShapeError,
            r"same first size, got shapes \(2, 1\), \(3,\)",
        ),
        (lambda: ConcatDataset([]), ArgumentError, "ConcatDataset: needs at least one data set"),
        (lambda: ConcatDataset([Stream(1)]), ArgumentError, "an IterableDataset has no length; use ChainDataset"),
        (lambda: ConcatDataset([Squares(2)])[2], IndexError, "index 2 is outside 2 items"),
        (lambda: list(ChainDataset([Squares(2)])), ArgumentError, "takes IterableDatasets only, got Squares"),
        (lambda: random_split(Dataset(), [1]), ArgumentError, "Dataset: needs __len__ here"),
        (lambda: Dataset()[0], NotImplementedError, "Dataset is a Dataset and must define __getitem__"),
        (lambda: iter(IterableDataset()), NotImplementedError, "must define __iter__"),
        (lambda: iter(Sampler()), NotImplementedError, "Sampler is a Sampler and must define __iter__"),
        (lambda: random_split(Squares(5), [2, 2]), ArgumentError, r"must add up to the data set's 5, got \[2, 2\]"),
        (lambda: random_split(Squares(5), [1.5, -0.5]), ArgumentError, "fractions must be in 0 .. 1"),
        (
            lambda: RandomSampler(range(3), num_samples=0),
            ArgumentError,
            "num_samples must be a positive integer, got 0",
        ),
        (lambda: RandomSampler(range(3), replacement=1), ArgumentError, "replacement must be True or False, got 1"),
        (lambda: BatchSampler([], 2, 1), ArgumentError, "drop_last must be True or False, got 1"),
        (lambda: WeightedRandomSampler([-1.0, 2], 1), ArgumentError, "weights must be one row of numbers >= 0"),
        (lambda: WeightedRandomSampler([1.0], 0), ArgumentError, "num_samples must be a positive integer, got 0"),
        (
            lambda: WeightedRandomSampler([1.0, 0], 2, replacement=False),
            ArgumentError,
            "num_samples = 2 is more than the 1 indices with a weight above zero",
        ),
    ],
)
def test_datasets_and_samplers_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("lengths", [[7, 3], [0.5, 0.5], [0.33, 0.33, 0.34], [10, 0]])
def test_random_split_covers_everything_once(lengths):
    parts = random_split(Squares(10), lengths, generator=random.Generator().manual_seed(0))
    assert sorted(i for part in parts for i in part.indices) == list(range(10))
    again = random_split(Squares(10), lengths, generator=random.Generator().manual_seed(0))
    assert [part.indices for part in parts] == [part.indices for part in again]


def test_samplers_give_what_they_promise():
    assert list(SequentialSampler(range(4))) == [0, 1, 2, 3]
    assert sorted(RandomSampler(range(9))) == list(range(9)) and len(RandomSampler(range(9))) == 9
    many = list(RandomSampler(range(4), num_samples=10))
    assert len(many) == 10 and sorted(many[:4]) == sorted(many[4:8]) == [0, 1, 2, 3]
    drawn = list(RandomSampler(range(3), replacement=True, num_samples=300))
    assert len(drawn) == 300 and set(drawn) == {0, 1, 2} and drawn[:3] * 100 != drawn
    assert list(RandomSampler([])) == []
    subset = SubsetRandomSampler([5, 9, 2])
    assert sorted(subset) == [2, 5, 9] and len(subset) == 3
    weighted = list(WeightedRandomSampler([0.0, 3.0, 1.0], 4000))
    assert set(weighted) == {1, 2} and abs(weighted.count(1) / 4000 - 0.75) < 5 * np.sqrt(0.1875 / 4000)
    assert sorted(WeightedRandomSampler([1.0, 1.0, 0.0], 2, replacement=False)) == [0, 1]
    assert len(BatchSampler(range(7), 3, False)) == 3 and len(BatchSampler(range(7), 3, True)) == 2


SAMPLES = {
    "floats": [1.5, 2.0],
    "integers": [1, 2],
    "bools": [True, False],
    "float32 scalars": [np.float32(1), np.float32(2)],
    "arrays": [np.arange(3), np.arange(3, 6)],
    "text": ["a", "b"],
    "tuples": [(1, 2.0), (3, 4.0)],
    "mapping": [{"x": 1, "y": [np.ones(2)]}, {"x": 2, "y": [np.zeros(2)]}],
    "named tuples": [Point(1, 2.0), Point(3, 4.0)],
}


@pytest.mark.parametrize("samples", SAMPLES.values(), ids=SAMPLES)
def test_default_collate_is_torchs(samples):
    torch_data = pytest.importorskip("torch.utils.data", reason="torch, the judge, is not installed")
    _assert_same(default_collate(samples), torch_data.default_collate(samples))


@pytest.mark.parametrize("lengths", [[0.5, 0.5], [0.33, 0.33, 0.34], [0.1, 0.9]])
def test_random_split_sizes_are_torchs(lengths):
    torch_data = pytest.importorskip("torch.utils.data", reason="torch, the judge, is not installed")
    for count in (3, 10, 11):
        theirs = [len(part) for part in torch_data.random_split(range(count), lengths)]
        assert [len(part) for part in random_split(Squares(count), lengths)] == theirs


def _assert_same(ours, theirs):
    if isinstance(ours, Tensor):
        assert ours.numpy().dtype == theirs.numpy().dtype
        assert np.array_equal(ours.numpy(), theirs.numpy())
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            _assert_same(ours[key], theirs[key])
    elif isinstance(ours, (list, tuple)):
        assert type(ours) is type(theirs) and len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            _assert_same(a, b)
    else:
        assert ours == theirs


def test_default_collate_stacks_tensors():
    out = default_collate([Tensor(np.ones(2)), Tensor(np.zeros(2))])
    assert isinstance(out, Tensor) and out.numpy().tolist() == [[1, 1], [0, 0]]


def test_default_convert_goes_inside():
    out = default_convert({"x": [np.arange(2), "text"], "y": Point(np.float64(3), 4)})
    assert isinstance(out["x"][0], Tensor) and out["x"][1] == "text"
    assert isinstance(out["y"], Point) and float(out["y"].x.numpy()) == 3 and out["y"].y == 4
    assert default_convert(np.array(["a"])).dtype.kind == "U"


@pytest.mark.parametrize(
    ("samples", "error", "text"),
    [
        ([], DataError, "the batch is empty"),
        ([np.zeros(2), np.zeros(3)], DataError, r"must have one shape, got \(2,\) at 0 and \(3,\) at 1"),
        ([(1, 2), (1,)], DataError, r"the same number of fields, got lengths \[2, 1\]"),
        ([np.array(["a"])], DTypeError, "an array needs a numeric dtype, got <U1"),
        ([object()], DTypeError, "got object; give the loader a collate_fn"),
        ([Tensor(np.zeros(2), requires_grad=True)], DataError, "a sample requires grad; detach it"),
    ],
)
def test_default_collate_errors(samples, error, text):
    with pytest.raises(error, match=text):
        default_collate(samples)
