"""What each rank does in the tests of this folder: `mpiexec -n 2 python checks.py NAME`.

Ranks share nothing, so each draws the whole of what is needed from one seed, computes with its part through the group, and
compares with what one process gets from the whole.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import numpy as np

import minires
from minires import nn
from minires.distributed import (
    DistributedError,
    GradientReducer,
    SingleProcess,
    all_reduce,
    barrier,
    broadcast,
    get_rank,
    get_world_size,
    start,
    use_group,
)
from minires.distributed.group import check_equal, gather_text
from minires.errors import GradError
from minires.nn import functional as F
from minires.nn.fused import norm_relu
from minires.optim import SGD
from minires.tensor import Tensor

group = start("mpi")
rank, size = group.rank, group.size
RNG = np.random.default_rng(7)


def collectives() -> None:
    assert (get_rank(), get_world_size()) == (rank, size)
    own = np.arange(5, dtype=np.float32) + 10 * rank
    every = [np.arange(5, dtype=np.float32) + 10 * r for r in range(size)]
    total = own.copy()
    group.sum(total)
    np.testing.assert_array_equal(total, sum(every))
    later = own.astype(np.float64)
    pending = group.begin_sum(later)
    pending.test()
    pending.wait()
    np.testing.assert_array_equal(later, sum(every))
    np.testing.assert_array_equal(group.gather(own), every)
    np.testing.assert_array_equal(group.gather(own[::2]), [e[::2] for e in every])  # no matter how it lies
    sent = own.copy()
    group.broadcast(sent, root=size - 1)
    np.testing.assert_array_equal(sent, every[-1])
    assert group.largest(3 * rank) == 3 * (size - 1)
    assert gather_text(group, f"räng {rank}", 64) == [f"räng {r}" for r in range(size)]
    tensor = Tensor(own.copy())
    all_reduce(tensor)
    np.testing.assert_array_equal(tensor.numpy(), sum(every))
    tensor = Tensor(own.copy())
    broadcast(tensor)
    np.testing.assert_array_equal(tensor.numpy(), every[0])
    barrier()


def sums_are_the_same_bits() -> None:
    for count in (1, 1000, 300_000):  # MPI takes another algorithm for each
        own = np.random.default_rng(rank).standard_normal(count).astype(np.float32)
        group.sum(own)
        rows = group.gather(own)
        assert (rows == rows[0]).all()


def drifting_apart_is_noticed() -> None:
    check_equal(group, "weights", "same")
    try:
        check_equal(group, "weights", "same" if rank == 0 else "other")
    except DistributedError as error:
        assert f"weights of rank {', '.join(map(str, range(1, size)))} differ" in str(error)
        assert "--resume" in str(error)
    else:
        raise AssertionError("nobody noticed")


# -------------------------------------------------------------------------------------------------------------- reducer


def _network() -> nn.Module:
    minires.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def _part(n: int) -> slice:
    return slice(n * rank // size, n * (rank + 1) // size)


def reducer_adds_up() -> None:
    x, labels = RNG.standard_normal((11, 6)), RNG.integers(0, 3, 11)
    whole = _network()
    F.cross_entropy(whole(Tensor(x)), Tensor(labels)).backward()
    part, passes = _part(11), 2
    for bucket_bytes in (1, 200, 1 << 20):
        model = _network()
        unused = nn.Parameter(minires.ones(4).double())
        sometimes = nn.Parameter(minires.ones(2).double())
        reducer = GradientReducer([*model.parameters(), unused, sometimes], group, bucket_bytes)
        reducer.begin(passes)
        for piece in np.array_split(np.arange(11)[part], passes):
            (F.cross_entropy(model(Tensor(x[piece])), Tensor(labels[piece])) * (len(piece) / 11)).backward()
        if rank == size - 1:
            (sometimes * 3).sum().backward()
            (sometimes * 2).sum().backward()
        reducer.finish()
        for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
            np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-12, atol=1e-15)
            rows = group.gather(ours.grad.numpy())
            assert (rows == rows[0]).all()
        assert unused.grad is None  # on every rank: the optimiser leaves it alone, as in one process
        np.testing.assert_array_equal(sometimes.grad.numpy(), [5, 5])
        assert reducer.bytes >= sum(p.array.nbytes for p in model.parameters())
        assert 0 < reducer.waited <= reducer.seconds
        # Outside of begin and finish a backward pass is the caller's own; inside, one too many would be lost.
        model.zero_grad()
        model(Tensor(x)).sum().backward()
        reducer.begin(1)
        model(Tensor(x)).sum().backward()
        try:
            model(Tensor(x)).sum().backward()
        except GradError as error:
            assert "begin(passes" in str(error)
        else:
            raise AssertionError("a second backward pass went unnoticed")
        reducer.finish()
        reducer.close()
        model(Tensor(x)).sum().backward()  # no hook is left


def sums_begin_before_backward_ends() -> None:
    model = _network()
    reducer = GradientReducer(model.parameters(), group, bucket_bytes=300)
    begun = []
    first_layer = next(iter(model.parameters()))
    reducer.begin()
    first_layer.register_hook(lambda grad: begun.append(sum(b.pending is not None for b in reducer._buckets)))
    model(Tensor(np.ones((2, 6)))).sum().backward()
    assert len(reducer._buckets) > 2
    assert begun and begun[0] >= len(reducer._buckets) - 2, begun
    reducer.finish()


# ------------------------------------------------------------------------------------------------------ synchronised norm


def _norms(dtype: type) -> tuple[nn.Module, nn.Module]:
    pair = []
    for kind in (nn.BatchNorm2d, nn.SyncBatchNorm):
        norm = kind(5)
        norm.weight.array[...] = np.linspace(0.5, 1.5, 5)
        norm.bias.array[...] = np.linspace(-1, 1, 5)
        pair.append(norm.double() if dtype is np.float64 else norm)
    return pair[0], pair[1]


def _sync_norm(dtype: type, limit: float) -> None:
    for n, mean in ((9, 0.0), (size + 1, 50.0), (2, 0.0), (64, -3.0)):
        for relu, with_shortcut in ((False, False), (True, False), (True, True)):
            _sync_norm_of(n, mean, relu, with_shortcut, dtype, limit)


def _sync_norm_of(n: int, mean: float, relu: bool, with_shortcut: bool, dtype: type, limit: float) -> None:
    shape = (n, 5, 4, 3)
    x = (RNG.standard_normal(shape) + mean).astype(dtype)
    shortcut, g = (RNG.standard_normal(shape).astype(dtype) for _ in range(2))
    part = _part(n)  # of two images a third rank gets none
    norms = _norms(dtype)
    outcome: list[list[np.ndarray]] = []
    for norm, own in zip(norms, (slice(None), part), strict=True):
        inputs = [Tensor(np.ascontiguousarray(a[own]), requires_grad=True) for a in (x, shortcut)]
        given = inputs[1] if with_shortcut else None
        y = norm_relu(norm, inputs[0], given) if relu else norm(inputs[0])
        (y * Tensor(np.ascontiguousarray(g[own]))).sum().backward()
        outcome.append([t.array for t in (y, *(i.grad for i in inputs[: 1 + with_shortcut]))])
    plain, shared = norms
    for wanted, found in zip(*outcome, strict=True):
        np.testing.assert_allclose(found, wanted[part], rtol=0, atol=limit * 20)
    for ours, theirs in zip(shared.parameters(), plain.parameters(), strict=True):
        total = ours.grad.numpy().astype(np.float64)
        group.sum(total)
        np.testing.assert_allclose(total, theirs.grad.numpy(), rtol=0, atol=limit * 400)
    for ours, theirs in zip(shared.buffers(), plain.buffers(), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=limit * 10)
        rows = group.gather(np.atleast_1d(ours.numpy()))
        assert (rows == rows[0]).all()
    shared.eval(), plain.eval()
    own = Tensor(np.ascontiguousarray(x[part]))
    wanted = norm_relu(plain, Tensor(x)).array if relu else plain(Tensor(x)).array
    np.testing.assert_allclose(
        (norm_relu(shared, own) if relu else shared(own)).array, wanted[part], rtol=0, atol=limit * 20
    )


def sync_norm_float64() -> None:
    _sync_norm(np.float64, 1e-13)


def sync_norm_float32() -> None:
    _sync_norm(np.float32, 1e-6)


def sync_norm_refuses() -> None:
    norm = nn.SyncBatchNorm(3)
    part = slice(0, 1) if rank == 0 else slice(0, 0)
    one = Tensor(np.ones((1, 3, 1, 1), np.float32)[part])
    try:
        norm(one)
    except ValueError as error:
        assert "more than one value per channel, over all processes" in str(error)
    else:
        raise AssertionError("one value has no variance")
    x = Tensor(np.ones((2, 3, 2, 2), np.float32), requires_grad=True)
    (grad,) = minires.autograd.grad((norm(x) * norm(x)).sum(), [x], create_graph=True)
    try:
        grad.sum().backward()
    except GradError as error:
        assert "second derivative" in str(error)
    else:
        raise AssertionError("the second derivative is not there")


# ------------------------------------------------------------------------------------------------------------- training


def _train(images: np.ndarray, labels: np.ndarray, own: slice, steps: int, shared: bool) -> nn.Module:
    """A few steps of a small residual network in float64, on images[step][own]."""
    from minires.train.ranks import Ranks

    minires.manual_seed(1)
    model = minires.models.build("resnet8", num_classes=4, in_channels=1, image_size=8, width=4).double()
    if shared:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    ranks = Ranks(model)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True)
    for step in range(steps):
        x, y = images[step][own], labels[step][own]
        optimizer.zero_grad()
        ranks.begin_step(1)
        loss = F.cross_entropy(model(Tensor(np.ascontiguousarray(x))), Tensor(np.ascontiguousarray(y)))
        (loss * (len(x) / len(images[step]))).backward()
        ranks.add_up_gradients()
        optimizer.step()
    ranks.check()
    return model


def steps_are_those_of_one_process() -> None:
    images, labels = RNG.standard_normal((5, 10, 1, 8, 8)), RNG.integers(0, 4, (5, 10))
    together = _train(images, labels, _part(10), 5, shared=True)
    with use_group(SingleProcess()):
        one = _train(images, labels, slice(0, 10), 5, shared=False)
    for (name, ours), theirs in zip(together.state_dict().items(), one.state_dict().values(), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)
    # Each by itself, batch norm sees other statistics: the same test tells them apart.
    apart = _train(images, labels, _part(10), 5, shared=False)
    assert not np.allclose(apart.fc.weight.array, one.fc.weight.array, rtol=1e-3)


def evaluation_is_that_of_one_process() -> None:
    from minires.data import ArrayDataset
    from minires.train.evaluate import evaluate

    images = RNG.integers(0, 256, (53, 1, 8, 8)).astype(np.uint8)
    data = ArrayDataset(images, RNG.integers(0, 4, 53), list("abcd"), "noise")
    minires.manual_seed(1)
    model = minires.models.build("resnet8", num_classes=4, in_channels=1, image_size=8, width=4)
    seen: list[tuple[int, int]] = []
    for flip_tta in (False, True):
        together = evaluate(model, data, batch_size=26, flip_tta=flip_tta, on_batch=lambda *a: seen.append(a))
        with use_group(SingleProcess()):
            one = evaluate(model, data, batch_size=26, flip_tta=flip_tta)
        np.testing.assert_array_equal(together.matrix, one.matrix)
        assert abs(together.loss - one.loss) < 1e-6
        assert together.images == 53
    assert seen == 2 * [(26, 53), (52, 53), (53, 53)]


def a_model_becomes_rank_0s() -> None:
    from minires.train.ranks import Ranks

    minires.manual_seed(rank)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    model[1].running_mean.array[...] = rank
    Ranks(model).check()
    minires.manual_seed(0)
    wanted = nn.Conv2d(1, 2, 3).weight.array
    np.testing.assert_array_equal(model[0].weight.array, wanted)
    np.testing.assert_array_equal(model[1].running_mean.numpy(), 0)


def dropout_draws_differ() -> None:
    from minires.train.ranks import Ranks

    ranks = Ranks(nn.Sequential(nn.Linear(2, 2)))
    minires.manual_seed(0)
    ranks.begin(seed=0, epoch=0, batch=0)
    rows = group.gather(F.dropout(minires.ones(64), 0.5, True).numpy())
    assert len({row.tobytes() for row in rows}) == size


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    try:
        globals()[sys.argv[1]]()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        group.abort(1)
    print(f"{sys.argv[1]} passed", flush=True)
