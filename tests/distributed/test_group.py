"""What ranks do together: sums, gathers, gradients in buckets, batch norm over all, equal steps."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import minires
from minires import distributed, nn
from minires.data import ArrayDataset, BatchLoader
from minires.distributed.sync_norm import merge_moments
from minires.errors import ArgumentError, UnsupportedError
from minires.tensor import Tensor
from tests.distributed.conftest import Check

FAST = ["reference", "cpu"]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(
    "name", ["collectives", "sums_are_the_same_bits", "reducer_adds_up", "steps_are_those_of_one_process"]
)
def test_ranks(check: Check, name: str, ranks: int) -> None:
    if ranks == 1 and name == "steps_are_those_of_one_process":
        pytest.skip("one rank is one process")
    check(name, ranks, MINIRES_KERNELS="reference")


@pytest.mark.parametrize(
    "name",
    [
        "drifting_apart_is_noticed",
        "sums_begin_before_backward_ends",
        "sync_norm_float64",
        "sync_norm_refuses",
        "evaluation_is_that_of_one_process",
        "a_model_becomes_rank_0s",
        "dropout_draws_differ",
    ],
)
def test_three_ranks(check: Check, name: str) -> None:
    check(name, 3, MINIRES_KERNELS="reference")


@pytest.mark.parametrize("kernels", FAST)
def test_sync_batch_norm_is_batch_norm_of_the_whole_batch(check: Check, kernels: str) -> None:
    if kernels == "cpu":
        pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")
    check("sync_norm_float32", 2, MINIRES_KERNELS=kernels)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    x = np.random.default_rng(0).standard_normal((30, 4)) * 1e-3 + 1e4
    parts = [x[:7], x[7:7], x[7:8], x[8:]]
    count = np.array([len(p) for p in parts], float)
    mean = np.array([p.mean(0) if len(p) else np.zeros(4) for p in parts])
    m2 = np.array([((p - m) ** 2).sum(0) for p, m in zip(parts, mean, strict=True)])
    n, merged, var = merge_moments(count, mean, m2)
    assert n == 30
    np.testing.assert_allclose(merged, x.mean(0), rtol=1e-15)
    np.testing.assert_allclose(var, x.var(0), rtol=1e-8)
    assert merge_moments(count * 0, mean * 0, m2 * 0)[0] == 0


def test_alone_a_group_is_a_process() -> None:
    group = distributed.current()
    assert (group.rank, group.size) == (0, 1) == (distributed.get_rank(), distributed.get_world_size())
    array = np.arange(3.0)
    group.sum(array)
    pending = group.begin_sum(array)
    assert pending.test()
    pending.wait()
    np.testing.assert_array_equal(array, [0, 1, 2])
    np.testing.assert_array_equal(group.gather(array), [[0, 1, 2]])
    with pytest.raises(SystemExit) as left:
        group.abort(3)
    assert left.value.code == 3


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ArgumentError, match="must be one of mpi, got 'gloo'"):
        distributed.start("gloo")


def test_without_mpi4py_the_message_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['mpi4py'] = None\n"
        "from minires import distributed\n"
        "try: distributed.start('mpi')\n"
        "except distributed.DistributedError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mpi4py is not installed" in done.stdout
    assert "pip install" in done.stdout


def test_alone_sync_batch_norm_is_batch_norm_bit_for_bit() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32)
    pair = nn.BatchNorm2d(3), nn.SyncBatchNorm(3)
    inputs = [Tensor(x, requires_grad=True) for _ in pair]
    outputs = [norm(each) for norm, each in zip(pair, inputs, strict=True)]
    for y in outputs:
        (y * y * y).sum().backward()
    np.testing.assert_array_equal(outputs[0].array, outputs[1].array)
    np.testing.assert_array_equal(inputs[0].grad.numpy(), inputs[1].grad.numpy())
    for a, b in zip(pair[0].state_dict().values(), pair[1].state_dict().values(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_converting_keeps_parameters_names_and_modes() -> None:
    model = minires.models.build("resnet8", num_classes=3, width=4)
    before = {name: id(p) for name, p in model.named_parameters()}
    keys = list(model.state_dict())
    model.layer1.eval()
    model.layer2[0].bn1.momentum = 0.3
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted is model
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {name: id(p) for name, p in model.named_parameters()} == before
    assert list(model.state_dict()) == keys
    assert not model.layer1[0].bn1.training
    assert model.layer2[0].bn1.training
    assert model.layer2[0].bn1.momentum == 0.3
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(2, affine=False)), nn.SyncBatchNorm)
    again = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert again.layer1[0].bn1 is model.layer1[0].bn1
    plain = minires.models.build("resnet8", num_classes=3, width=4)
    plain.load_state_dict(model.state_dict())
    with pytest.raises(UnsupportedError, match="process_group"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model, object())


def digits(count: int) -> ArrayDataset:
    rng = np.random.default_rng(0)
    return ArrayDataset(
        rng.integers(0, 256, (count, 1, 8, 8)).astype(np.uint8), np.arange(count) % 4, list("abcd"), "d"
    )


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("augment", [["flip", "pad_crop:1"], ["mixup:0.4", "cutmix"]])
def test_the_parts_of_a_batch_are_the_batch(ranks: int, augment: list[str]) -> None:
    def loader(rank: int, ranks: int) -> BatchLoader:
        return BatchLoader(digits(22), 8, shuffle=True, augment=augment, seed=5, rank=rank, ranks=ranks)

    whole = list(loader(0, 1).arrays(3, start=1))
    parts = [list(loader(rank, ranks).arrays(3, start=1)) for rank in range(ranks)]
    for number, batch in enumerate(whole):
        for place in range(3):
            joined = np.concatenate([part[number][place] for part in parts])
            np.testing.assert_array_equal(joined, batch[place])
        sizes = [len(part[number].images) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert loader(0, ranks).images_in(number + 1) == len(batch.images)


def test_a_rank_outside_of_the_group_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"rank must be one of 0 \.\. ranks - 1 = 1, got 2"):
        BatchLoader(digits(4), 2, rank=2, ranks=2)
