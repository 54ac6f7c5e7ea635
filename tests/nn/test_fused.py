"""norm_relu and Sequential: the fused operation runs where nobody can tell, and nobody can tell where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minires
from minires import models, nn
from minires.autograd import function
from minires.errors import ShapeError
from minires.models.preact import PreActBlock, PreActBottleneck
from minires.models.resnet import conv3x3, projection
from minires.nn import functional as F
from minires.nn.fused import norm_relu
from tests.strategies import values
from tests.tolerances import assert_close


class SyncedBatchNorm(nn.BatchNorm2d):
    """What a user writes on top of ours."""

    def forward(self, input: minires.Tensor) -> minires.Tensor:
        return super().forward(input) + 1


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the operations that pass the gate."""
    names: list[str] = []
    original = function.Context.__init__

    def init(self: Any, op: Any, args: Any, recording: bool) -> None:
        names.append(op.name)
        original(self, op, args, recording)

    monkeypatch.setattr(function.Context, "__init__", init)
    yield names


def tensor(*shape: int, seed: int = 0, requires_grad: bool = False) -> minires.Tensor:
    return minires.tensor(values(shape, seed), requires_grad=requires_grad)


def new_norm(**options: Any) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(3, dtype=minires.float64, **options)
    with minires.no_grad():
        for seed, parameter in enumerate(norm.parameters(), 1):
            parameter.copy_(tensor(3, seed=seed))
    return norm


def apart(norm: nn.Module, x: minires.Tensor, shortcut: minires.Tensor | None) -> minires.Tensor:
    """As a user writes it."""
    y = norm(x)
    return F.relu(y if shortcut is None else y + shortcut)


joins = pytest.mark.parametrize("joined", [True, False])


@joins
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": None},
        {"momentum": 0.3, "eps": 0.1},
        {"affine": False},
        {"bias": False},
        {"track_running_stats": False},
    ],
    ids=str,
)
def test_norm_relu_is_the_module_and_what_follows_it(options, training, joined, ran) -> None:
    """Three batches: outputs, gradients and state, to the last bit on the reference kernels."""
    with minires.backend.use_kernels("reference"):
        results: list[list[np.ndarray]] = []
        for function_ in (norm_relu, apart):
            norm = new_norm(**options)
            found: list[np.ndarray] = []
            for step in range(3):
                norm.train(training if step < 2 else False)
                x, shortcut = (tensor(4, 3, 2, 2, seed=10 * step + k, requires_grad=True) for k in (5, 6))
                ran.clear()
                y = function_(norm, x, shortcut if joined else None)
                assert ("batch_norm_relu" in ran or "batch_norm_relu_eval" in ran) == (function_ is norm_relu)
                (y * tensor(4, 3, 2, 2, seed=8)).sum().backward()
                found += [y.array, x.grad.array, *([shortcut.grad.array] if joined else [])]
                found += [value.array.copy() for value in norm.state_dict().values()]
                found += [p.grad.array.copy() for p in norm.parameters()]
            results.append(found)
    for got, wanted in zip(*results, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_norm_relu_counts_its_batches() -> None:
    norm = new_norm(momentum=None)
    for _ in range(3):
        norm_relu(norm, tensor(2, 3, 2, 2))
    assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 3


@pytest.mark.parametrize("function_", [norm_relu, apart])
def test_statistics_stay_where_tracking_is_switched_off_later(function_) -> None:
    """torch: training with track_running_stats = False set on the object leaves the buffers alone."""
    norm = new_norm()
    norm.track_running_stats = False
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    function_(norm, tensor(4, 3, 2, 2), None)
    for key, value in norm.state_dict().items():
        np.testing.assert_array_equal(value.array, before[key].array, key)


HOOKS: dict[str, Callable[[nn.Module, list[str]], Any]] = {
    "forward": lambda m, seen: m.register_forward_hook(lambda *_: seen.append("called")),
    "forward pre": lambda m, seen: m.register_forward_pre_hook(lambda *_: seen.append("called")),
    "full backward": lambda m, seen: m.register_full_backward_hook(lambda *_: seen.append("called")),
    "full backward pre": lambda m, seen: m.register_full_backward_pre_hook(lambda *_: seen.append("called")),
}


@joins
@pytest.mark.parametrize("kind", HOOKS)
def test_norm_relu_calls_hooks_and_gives_the_same(kind, joined, ran) -> None:
    x, shortcut = tensor(4, 3, 2, 2, requires_grad=True), tensor(4, 3, 2, 2, seed=1) if joined else None
    expected = norm_relu(new_norm(), x, shortcut)
    norm, seen = new_norm(), []
    handle = HOOKS[kind](norm, seen)
    ran.clear()
    y = norm_relu(norm, x, shortcut)
    y.sum().backward()
    assert seen == ["called"] and "batch_norm_relu" not in ran
    assert_close(y.array, expected.array, "float64")
    handle.remove()
    ran.clear()
    norm_relu(norm, x, shortcut)
    assert seen == ["called"] and "batch_norm_relu" in ran, "without its hook it is fused again"


def test_norm_relu_takes_what_a_hook_puts_in_place_of_the_output() -> None:
    norm = new_norm()
    norm.register_forward_hook(lambda module, args, output: output * 0 + 7)
    assert (norm_relu(norm, tensor(4, 3, 2, 2)).array == 7).all()


@joins
@pytest.mark.parametrize("norm", [nn.Identity(), nn.GroupNorm(3, 3, dtype=minires.float64), "subclass"], ids=str)
def test_norm_relu_calls_another_module_as_it_is(norm, joined, ran) -> None:
    norm = SyncedBatchNorm(3, dtype=minires.float64) if norm == "subclass" else norm
    x, shortcut = tensor(4, 3, 2, 2), tensor(4, 3, 2, 2, seed=1) if joined else None
    y = norm_relu(norm, x, shortcut)
    assert "batch_norm_relu" not in ran
    assert_close(y.array, apart(norm, x, shortcut).array, "float64")


@pytest.mark.parametrize("where", ["object", "class"])
def test_norm_relu_respects_a_replaced_forward(where, monkeypatch) -> None:
    norm = new_norm()
    if where == "object":
        norm.forward = lambda input: input * 0 + 5
    else:
        monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, input: input * 0 + 5)
    assert (norm_relu(norm, tensor(4, 3, 2, 2)).array == 5).all()


def test_norm_relu_speaks_as_the_module() -> None:
    with pytest.raises(ShapeError, match=r"BatchNorm2d: expected 4D input, got shape \(4, 3\)"):
        norm_relu(new_norm(), tensor(4, 3))
    with pytest.raises(ShapeError, match=r"shortcut must have input's shape \(4, 3, 2, 2\), got \(1, 3, 2, 2\)"):
        norm_relu(new_norm(), tensor(4, 3, 2, 2), tensor(1, 3, 2, 2))


# ---- Sequential -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "wanted"),
    [
        (lambda: [new_norm(), nn.ReLU()], ["batch_norm_relu"]),
        (lambda: [new_norm(), nn.ReLU(inplace=True)], ["batch_norm_relu"]),
        (lambda: [new_norm(), new_norm(), nn.ReLU(), nn.ReLU()], ["batch_norm", "batch_norm_relu", "relu"]),
        (lambda: [nn.ReLU(), new_norm()], ["relu", "batch_norm"]),
        (lambda: [new_norm(), nn.Identity(), nn.ReLU()], ["batch_norm", "relu"]),
        (lambda: [new_norm(), nn.Sequential(nn.ReLU())], ["batch_norm", "relu"]),
        (lambda: [SyncedBatchNorm(3, dtype=minires.float64), nn.ReLU()], ["batch_norm", "relu"]),
        (lambda: [new_norm(), type("Mine", (nn.ReLU,), {})()], ["batch_norm", "relu"]),
        (list, []),
    ],
)
def test_sequential_fuses_batch_norm_with_the_relu_behind_it(modules, wanted, ran) -> None:
    x = tensor(4, 3, 2, 2)
    chain = nn.Sequential(*modules())
    ran.clear()
    y = chain(x)
    assert [name for name in ran if name in ("batch_norm", "batch_norm_relu", "relu")] == wanted
    expected = x
    for module in modules():
        expected = module(expected)
    assert_close(y.array, expected.array, "float64")


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", HOOKS)
def test_sequential_calls_the_hooks_of_both(kind, place, ran) -> None:
    x = tensor(4, 3, 2, 2, requires_grad=True)
    chain = nn.Sequential(new_norm(), nn.ReLU())
    expected = chain(x)
    seen: list[str] = []
    HOOKS[kind](chain[place], seen)
    ran.clear()
    y = chain(x)
    y.sum().backward()
    assert seen == ["called"] and "batch_norm_relu" not in ran
    assert_close(y.array, expected.array, "float64")


def test_sequential_respects_a_replaced_relu() -> None:
    chain = nn.Sequential(new_norm(), nn.ReLU())
    chain[1].forward = lambda input: input * 0 - 3
    assert (chain(tensor(4, 3, 2, 2)).array == -3).all()


# ---- networks ---------------------------------------------------------------------------------------------------------


class UsersBlock(nn.Module):
    """A basic block as users write it: separate bn, relu and +."""

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(c_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(c_in, width, stride)

    def forward(self, x: minires.Tensor) -> minires.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu(out)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_users_block_gives_the_numbers_of_ours(dtype, stride) -> None:
    """Training and evaluation, gradients, state: the same bits on the reference kernels (others: within rounding)."""
    width = 4 if stride == 1 else 6
    with minires.backend.use_kernels("reference"):
        minires.manual_seed(0)
        ours = models.BasicBlock(4, width, stride, projection(4, width, stride)).to(getattr(minires, dtype))
        theirs = UsersBlock(4, width, stride).to(getattr(minires, dtype))
        theirs.load_state_dict(ours.state_dict())
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for step in range(3):
            x = values((3, 4, 6, 6), step).astype(dtype)
            grads = []
            for block in (ours, theirs):
                block.train(step < 2)
                leaf = minires.tensor(x, requires_grad=True)
                y = block(leaf)
                (y * y).sum().backward()
                grads.append((y, leaf.grad, *(p.grad for p in block.parameters())))
            for a, b in zip(*grads, strict=True):
                np.testing.assert_array_equal(a.array, b.array)
            for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
                np.testing.assert_array_equal(a.array, b.array, name)


NETWORKS = {
    "resnet20": lambda: models.build("resnet20"),
    "bottlenecks": lambda: models.ResNet(models.Bottleneck, [1, 1, 1, 1], 10, small_input=True, widths=(8, 8, 8, 8)),
    "deep stem": lambda: models.ResNet(models.BasicBlock, [1, 1, 1, 1], 10, deep_stem=True, widths=(8, 8, 8, 8)),
    "se": lambda: models.ResNet(
        models.BasicBlock, [1, 1, 1, 1], 10, squeeze_excitation=True, small_input=True, widths=(8, 8, 8, 8)
    ),
    "plain": lambda: models.build("plain_resnet20"),
    "preact basic": lambda: PreActBlock(8, 8, 2, first=True),
    "preact bottleneck": lambda: PreActBottleneck(8, 4, 2),
    "wide": lambda: models.build("wrn_16_4"),
}
IN_CHANNELS = {"preact basic": 8, "preact bottleneck": 8}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_fuses_every_relu_behind_batch_norm(name, ran) -> None:
    """What stays apart: the batch norms of shortcuts, with no ReLU behind them, and those before squeeze-excitation."""
    net = NETWORKS[name]()
    net(minires.randn(2, IN_CHANNELS.get(name, 3), 16, 16))
    norms = [key for key, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    alone = [key for key in norms if "downsample" in key or (name == "se" and key.endswith("bn2"))]
    assert ran.count("batch_norm_relu") == len(norms) - len(alone) > 0
    assert ran.count("batch_norm") == len(alone)
    assert ran.count("relu") == (4 if name == "se" else 0)  # in the four gates


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_under_hooks_gives_the_same_and_every_hook_runs_once(name, ran) -> None:
    net = NETWORKS[name]()
    x = minires.randn(2, IN_CHANNELS.get(name, 3), 16, 16)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    fused = net(x)
    updated = {key: value.clone() for key, value in net.state_dict().items()}
    net.load_state_dict(state)
    seen: list[str] = []
    for key, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_, key=key: seen.append(key))
    ran.clear()
    hooked = net(x)
    assert "batch_norm_relu" not in ran
    assert sorted(seen) == sorted(key for key, m in net.named_modules() if isinstance(m, nn.BatchNorm2d))
    assert_close(hooked.array, fused.array, "float32", 1000)
    for key, value in net.state_dict().items():
        assert_close(value.array, updated[key].array, "float32", 1000, key)


def test_a_network_with_another_norm_in_place_runs() -> None:
    """Transfer learning's usual surgery: every batch norm replaced."""
    net = models.build("resnet20")
    for module in list(net.modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, child_name, nn.GroupNorm(4, child.num_features))
    y = net(minires.randn(2, 3, 8, 8))
    y.sum().backward()
    assert y.shape == (2, 10) and all(p.grad is not None for p in net.parameters())
