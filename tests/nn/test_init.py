"""Initialisation: torch's distributions, compared over large draws, and the layers' defaults."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import ArgumentError, ShapeError, UnknownNameError
from tests.torch_oracle import torch

SHAPE = (96, 64, 3, 3)
N = math.prod(SHAPE)


def draws(fill: Any, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`fill(init, tensor)` with both libraries."""
    minires.manual_seed(seed)
    torch.manual_seed(seed)
    ours, theirs = minires.empty(*shape), torch.empty(*shape)
    assert fill(nn.init, ours) is ours
    fill(torch.nn.init, theirs)
    return ours.numpy(), theirs.numpy()


def assert_same_distribution(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Shape by the two-sample Kolmogorov-Smirnov distance, which exceeds 2.7 sqrt(1/n + 1/m) with probability below 1e-6
    (Smirnov 1948); mean and variance to six standard errors."""
    a, b = np.sort(ours.ravel().astype(np.float64)), np.sort(theirs.ravel().astype(np.float64))
    for x, y in ((a, b), ((a - a.mean()) ** 2, (b - b.mean()) ** 2)):
        assert abs(x.mean() - y.mean()) < 6 * math.sqrt(x.var() / x.size + y.var() / y.size)
    at = np.concatenate([a, b])
    distance = np.abs(np.searchsorted(a, at, "right") / a.size - np.searchsorted(b, at, "right") / b.size).max()
    assert distance < 2.7 * math.sqrt(1 / a.size + 1 / b.size)


@pytest.mark.parametrize(
    "fill",
    [
        lambda i, t: i.uniform_(t, -0.3, 0.7),
        lambda i, t: i.normal_(t, 0.5, 0.1),
        lambda i, t: i.trunc_normal_(t),
        lambda i, t: i.trunc_normal_(t, std=0.02),
        lambda i, t: i.trunc_normal_(t, 1.0, 0.5, 0.8, 0.9),
        lambda i, t: i.trunc_normal_(t, 0.0, 1.0, 1.5, 4.0),
        lambda i, t: i.xavier_uniform_(t, gain=2.0),
        lambda i, t: i.xavier_normal_(t),
        lambda i, t: i.kaiming_uniform_(t),
        lambda i, t: i.kaiming_uniform_(t, a=math.sqrt(5)),
        lambda i, t: i.kaiming_uniform_(t, mode="fan_out", nonlinearity="tanh"),
        lambda i, t: i.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"),
        lambda i, t: i.kaiming_normal_(t, 0.2),
    ],
)
def test_init_draws_torchs_distribution(fill: Any) -> None:
    ours, theirs = draws(fill)
    assert ours.dtype == np.float32
    assert_same_distribution(ours, theirs)
    # The tails, which the test above is weak on: both reach equally far, to a tenth of the spread.
    spread = theirs.std()
    if abs(theirs.max()) < 3.4 * spread:  # bounded distributions only
        assert abs(ours.max() - theirs.max()) < 0.01 * spread and abs(ours.min() - theirs.min()) < 0.01 * spread


def test_assert_same_distribution_can_fail() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(AssertionError):
        assert_same_distribution(generator.normal(0, 1, N), generator.normal(0, 1.05, N))


@pytest.mark.parametrize("dtype", [minires.float16, minires.float32, minires.float64])
def test_trunc_normal_stays_within_its_bounds_after_rounding(dtype: Any) -> None:
    minires.manual_seed(0)
    values = nn.init.trunc_normal_(minires.empty(100_000, dtype=dtype), 0.0, 1.0, -0.1, 0.1).numpy()
    assert values.dtype == dtype.numpy
    limit = dtype.numpy.type(0.1)
    assert values.max() <= limit and values.min() >= -limit


def test_trunc_normal_warns_where_the_mean_is_far_outside() -> None:
    with pytest.warns(UserWarning, match="mean is more than 2 std from"):
        values = nn.init.trunc_normal_(minires.empty(1000), 10.0, 1.0, 0.0, 1.0).numpy()
    assert values.min() >= 0 and values.max() <= 1 and values.mean() > 0.8


@pytest.mark.parametrize(
    "fill",
    [
        lambda i, t: i.constant_(t, 0.3),
        lambda i, t: i.ones_(t),
        lambda i, t: i.zeros_(t),
    ],
)
def test_init_constants_equal_torchs(fill: Any) -> None:
    minires_value, torch_value = minires.empty(3, 2, 1, 1), torch.empty(3, 2, 1, 1)
    fill(nn.init, minires_value)
    fill(torch.nn.init, torch_value)
    np.testing.assert_array_equal(minires_value.numpy(), torch_value.numpy())


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_eye_equals_torchs(shape: tuple[int, int]) -> None:
    ours, theirs = draws(lambda i, t: i.eye_(t), shape)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("shape", "groups"), [((4, 3, 3, 3), 1), ((6, 2, 3, 5), 3), ((2, 5, 4), 1), ((2, 2, 1, 2, 3), 2)]
)
def test_dirac_equals_torchs(shape: tuple[int, ...], groups: int) -> None:
    ours, theirs = draws(lambda i, t: i.dirac_(t, groups), shape)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 2, 3, 3)])
def test_orthogonal_is_orthogonal_and_uniform_in_sign(shape: tuple[int, ...]) -> None:
    minires.manual_seed(0)
    filled = nn.init.orthogonal_(minires.empty(*shape, dtype=minires.float64), gain=2.0).numpy()
    w = filled.reshape(shape[0], -1)
    product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)
    # Without the sign correction the first entry would always have one sign.
    firsts = [nn.init.orthogonal_(minires.empty(2, 2)).numpy()[0, 0] for _ in range(40)]
    assert min(firsts) < 0 < max(firsts)


def test_calculate_gain_equals_torchs() -> None:
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert nn.init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


def test_fans_equal_torchs() -> None:
    for shape in ((4, 3), (4, 3, 5), (4, 3, 5, 7)):
        expected = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(*shape))
        assert nn.init._calculate_fan_in_and_fan_out(minires.empty(*shape)) == expected


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("Linear", (300, 200), {}),
        ("Conv2d", (64, 128, 3), {}),
        ("Conv2d", (64, 128, (5, 3)), {"groups": 4}),
        ("ConvTranspose2d", (64, 128, 3), {"groups": 2}),
    ],
)
def test_layers_start_from_torchs_distribution(name: str, args: Any, kwargs: Any) -> None:
    minires.manual_seed(0)
    torch.manual_seed(0)
    many = range(30)  # biases are short: gather many
    ours = [getattr(nn, name)(*args, **kwargs) for _ in many]
    theirs = [getattr(torch.nn, name)(*args, **kwargs) for _ in many]
    for part in ("weight", "bias"):
        a = np.concatenate([getattr(layer, part).detach().numpy().ravel() for layer in ours])
        b = np.concatenate([getattr(layer, part).detach().numpy().ravel() for layer in theirs])
        assert_same_distribution(a, b)
        assert abs(np.abs(a).max() / np.abs(b).max() - 1) < 0.01  # the bound


def test_norm_layers_start_at_one_and_zero() -> None:
    for layer in (nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4, affine=True)):
        assert layer.weight.tolist() == [1, 1, 1, 1] and layer.bias.tolist() == [0, 0, 0, 0]
    m = nn.BatchNorm2d(2)
    assert (m.running_mean.tolist(), m.running_var.tolist(), m.num_batches_tracked.item()) == ([0, 0], [1, 1], 0)


def test_init_follows_the_seed_and_a_given_generator() -> None:
    minires.manual_seed(5)
    first = nn.Linear(3, 3).weight.tolist()
    minires.manual_seed(5)
    assert nn.Linear(3, 3).weight.tolist() == first
    generators = [minires.Generator().manual_seed(1) for _ in range(2)]
    a, b = (nn.init.normal_(minires.empty(4), generator=g).tolist() for g in generators)
    assert a == b


def test_init_does_not_record_and_marks_the_write() -> None:
    weight = nn.Parameter(minires.ones(2, 2))
    y = (weight * weight).sum()
    assert nn.init.normal_(weight) is weight and weight.is_leaf and weight.requires_grad
    with pytest.raises(RuntimeError, match="changed by an in-place operation"):
        y.backward()


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (
            lambda t: nn.init.calculate_gain("rellu"),
            UnknownNameError,
            r"unknown nonlinearity 'rellu': did you mean relu",
        ),
        (
            lambda t: nn.init.calculate_gain("leaky_relu", True),
            ArgumentError,
            r"param must be the negative slope, a number",
        ),
        (
            lambda t: nn.init.kaiming_normal_(t, mode="fan"),
            ArgumentError,
            r"mode must be 'fan_in' or 'fan_out', got 'fan'",
        ),
        (
            lambda t: nn.init.xavier_normal_(minires.ones(3)),
            ShapeError,
            r"fan in and fan out need a weight of 2 or more",
        ),
        (lambda t: nn.init.uniform_(t, 1, 0), ArgumentError, r"uniform_: b must be at least a = 1, got 0"),
        (lambda t: nn.init.normal_(t, 0, -1), ArgumentError, r"normal_: std must not be negative, got -1"),
        (
            lambda t: nn.init.trunc_normal_(t, a=1, b=1),
            ArgumentError,
            r"trunc_normal_: needs a < b and std > 0, got a=1",
        ),
        (
            lambda t: nn.init.eye_(minires.ones(3)),
            ShapeError,
            r"eye_: needs a tensor of 2 dimensions, got shape \(3,\)",
        ),
        (lambda t: nn.init.dirac_(t), ShapeError, r"dirac_: needs a convolution's weight, of 3 to 5 dimensions"),
        (
            lambda t: nn.init.dirac_(minires.ones(3, 1, 1), 2),
            ArgumentError,
            r"groups must divide the 3 output channels, got 2",
        ),
        (
            lambda t: nn.init.orthogonal_(minires.ones(3)),
            ShapeError,
            r"orthogonal_: needs a tensor of 2 or more dimensions",
        ),
    ],
)
def test_init_errors_say_what_is_wrong(act: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        act(minires.ones(2, 3))


def test_kaiming_leaves_an_empty_weight_alone() -> None:
    for fill in (nn.init.kaiming_normal_, nn.init.kaiming_uniform_):
        with pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op"):
            fill(minires.empty(0, 3))
