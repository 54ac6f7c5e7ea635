"""Every layer against torch's of the same name: signature, text, state-dict keys, outputs, gradients, buffers."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import ArgumentError, LabelError, MiniresError, ShapeError, UnsupportedError
from tests.nn.networks import copy_weights, net, tensor
from tests.tolerances import tolerance
from tests.torch_oracle import torch

IMAGE, ROWS, SEQUENCE = (4, 6, 7, 8), (5, 6), (3, 6, 4)

# (name, positional arguments, keyword arguments, input shape)
LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Conv2d", (6, 4, 3), {}, IMAGE),
    ("Conv2d", (6, 4, (3, 2)), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "bias": False}, IMAGE),
    ("Conv2d", (6, 6, 3), {"groups": 6, "padding": "same"}, IMAGE),
    ("Conv2d", (6, 4, 3), {"groups": 2, "padding": "valid"}, IMAGE),
    ("Conv2d", (6, 4, 3), {"padding": 1, "padding_mode": "reflect"}, IMAGE),
    ("Conv2d", (6, 4, (2, 4)), {"padding": "same", "padding_mode": "replicate"}, IMAGE),
    ("Conv2d", (6, 4, 3), {"padding": (2, 1), "stride": 2, "padding_mode": "circular"}, IMAGE),
    ("Conv2d", (6, 4, 3), {"padding": "valid", "padding_mode": "reflect"}, IMAGE),
    ("ConvTranspose2d", (6, 4, 3), {}, IMAGE),
    ("ConvTranspose2d", (6, 4, (3, 2)), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, IMAGE),
    ("ConvTranspose2d", (6, 4, 3, 1, 0, 0, 1, False, 2), {}, IMAGE),
    ("Linear", (6, 4), {}, ROWS),
    ("Linear", (8, 4), {"bias": False}, IMAGE),
    ("BatchNorm2d", (6,), {}, IMAGE),
    ("BatchNorm2d", (6,), {"momentum": None}, IMAGE),
    ("BatchNorm2d", (6, 1e-3, 0.3), {"affine": False}, IMAGE),
    ("BatchNorm2d", (6,), {"track_running_stats": False}, IMAGE),
    ("BatchNorm2d", (6,), {"bias": False}, IMAGE),
    ("BatchNorm1d", (6,), {}, ROWS),
    ("BatchNorm1d", (6,), {}, SEQUENCE),
    ("InstanceNorm2d", (6,), {}, IMAGE),
    ("InstanceNorm2d", (6,), {"affine": True}, IMAGE[1:]),
    ("GroupNorm", (2, 6), {}, IMAGE),
    ("GroupNorm", (3, 6, 1e-3, False), {}, SEQUENCE),
    ("LayerNorm", (8,), {}, IMAGE),
    ("LayerNorm", ((7, 8), 1e-3), {"bias": False}, IMAGE),
    ("LayerNorm", (6,), {"elementwise_affine": False}, ROWS),
    ("ReLU", (), {}, ROWS),
    ("ReLU", (True,), {}, ROWS),
    ("LeakyReLU", (0.2,), {}, ROWS),
    ("LeakyReLU", (), {"inplace": True}, ROWS),
    ("ELU", (0.7,), {}, ROWS),
    ("ELU", (), {"inplace": True}, ROWS),
    ("GELU", (), {}, ROWS),
    ("GELU", ("tanh",), {}, ROWS),
    ("SiLU", (), {}, ROWS),
    ("SiLU", (True,), {}, ROWS),
    ("Sigmoid", (), {}, ROWS),
    ("Tanh", (), {}, ROWS),
    ("Softplus", (2.0, 1.0), {}, ROWS),
    ("Hardtanh", (-0.5, 0.8), {}, ROWS),
    ("Hardtanh", (), {"inplace": True}, ROWS),
    ("ReLU6", (), {}, ROWS),
    ("ReLU6", (True,), {}, ROWS),
    ("Hardsigmoid", (), {}, ROWS),
    ("Hardswish", (), {}, ROWS),
    ("Hardswish", (True,), {}, ROWS),
    ("Mish", (), {}, ROWS),
    ("Softmax", (1,), {}, SEQUENCE),
    ("LogSoftmax", (-1,), {}, SEQUENCE),
    ("MaxPool2d", (3, 2, 1), {}, IMAGE),
    ("MaxPool2d", ((2, 3),), {"dilation": (1, 2), "ceil_mode": True}, IMAGE),
    ("AvgPool2d", (2,), {}, IMAGE),
    ("AvgPool2d", (3, 2, 1, True, False), {}, IMAGE),
    ("AvgPool2d", ((2, 3),), {"divisor_override": 5}, IMAGE),
    ("AdaptiveAvgPool2d", (1,), {}, IMAGE),
    ("AdaptiveAvgPool2d", ((3, None),), {}, IMAGE),
    ("AdaptiveMaxPool2d", ((3, 2),), {}, IMAGE),
    ("Upsample", (), {"scale_factor": 2}, IMAGE),
    ("Upsample", ((9, 5),), {"mode": "bilinear", "align_corners": True}, IMAGE),
    ("Upsample", (), {"scale_factor": (1.5, 2), "mode": "bilinear"}, IMAGE),
    ("ZeroPad2d", (2,), {}, IMAGE),
    ("ZeroPad2d", ((1, 2, 0, 3),), {}, IMAGE),
    ("ReflectionPad2d", ((1, 2, 0, 3),), {}, IMAGE),
    ("Dropout", (0.3,), {}, ROWS),
    ("Dropout2d", (), {"inplace": True}, IMAGE),
    ("Flatten", (), {}, IMAGE),
    ("Flatten", (2, 3), {}, IMAGE),
    ("Unflatten", (1, (2, -1)), {}, ROWS),
    ("Identity", (1, 2), {"anything": 3}, ROWS),
]
LOSSES: list[tuple[str, dict[str, Any]]] = [
    ("CrossEntropyLoss", {}),
    ("CrossEntropyLoss", {"reduction": "sum", "label_smoothing": 0.1, "ignore_index": 2}),
    ("NLLLoss", {"reduction": "none"}),
    ("MSELoss", {}),
    ("L1Loss", {"reduction": "sum"}),
    ("SmoothL1Loss", {"beta": 0.5}),
    ("BCEWithLogitsLoss", {}),
]


def identify(case: Any) -> str:
    return str(case)


def pair_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """(ours, torch's) in float64 with equal weights, none of them at its initial 0 or 1."""
    theirs = getattr(torch.nn, name)(*args, **kwargs).double()
    ours = getattr(nn, name)(*args, **kwargs).double()
    generator = np.random.default_rng(7)
    with torch.no_grad():
        for value in theirs.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(generator.uniform(0.5, 1.5, tuple(value.shape))))
    copy_weights(ours, theirs)
    return ours, theirs


@pytest.mark.parametrize("name", sorted({case[0] for case in LAYERS} | {case[0] for case in LOSSES} | {"ModuleList"}))
def test_signature_has_torchs_names_order_and_defaults(name: str) -> None:
    def described(cls: type) -> list[tuple[str, Any, Any]]:
        named = inspect.signature(cls).parameters.values()
        fixed = [p for p in named if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return [(p.name, p.kind, p.default) for p in fixed]

    assert described(getattr(nn, name)) == described(getattr(torch.nn, name))


@pytest.mark.parametrize("case", LAYERS, ids=identify)
def test_layer_text_and_keys_equal_torchs(case: Any) -> None:
    name, args, kwargs, _ = case
    ours, theirs = getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
    assert repr(ours) == repr(theirs)
    assert [(key, tuple(value.shape)) for key, value in ours.state_dict().items()] == [
        (key, tuple(value.shape)) for key, value in theirs.state_dict().items()
    ]
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", LAYERS, ids=identify)
def test_layer_computes_and_differentiates_as_torchs(case: Any, training: bool) -> None:
    name, args, kwargs, shape = case
    if name.startswith("Dropout") and training:
        pytest.skip("random: compared by its statistics in test_dropout_keeps_the_mean")
    ours, theirs = pair_of(name, args, kwargs)
    ours.train(training)
    theirs.train(training)
    generator = np.random.default_rng(3)
    for _ in range(2):  # twice, so that running statistics meet running statistics
        x = generator.normal(size=shape)
        a, b = tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, expected = ours(a * 1), theirs(b * 1)  # * 1: an in-place layer may not write into a leaf
        np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), **tolerance("float64", 64))
        grad = generator.normal(size=tuple(expected.shape))
        y.backward(tensor(grad))
        expected.backward(torch.from_numpy(grad))
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), **tolerance("float64", 256))
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), err_msg=key, **tolerance("float64", 1024))
    for (key, value), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(value.numpy(), other.numpy(), err_msg=key, **tolerance("float64", 256))


@pytest.mark.parametrize("case", LOSSES, ids=identify)
def test_loss_computes_and_differentiates_as_torchs(case: Any) -> None:
    name, kwargs = case
    generator = np.random.default_rng(5)
    scores = generator.normal(size=(6, 4))
    if name == "NLLLoss":
        scores = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    target = generator.integers(0, 4, 6) if name in ("CrossEntropyLoss", "NLLLoss") else generator.uniform(size=(6, 4))
    weights = {}
    if name in ("CrossEntropyLoss", "NLLLoss", "BCEWithLogitsLoss"):
        weights["weight"] = generator.uniform(0.5, 2, 4)
    if name == "BCEWithLogitsLoss":
        weights["pos_weight"] = generator.uniform(0.5, 2, 4)
    ours = getattr(nn, name)(**kwargs, **{key: tensor(value) for key, value in weights.items()})
    theirs = getattr(torch.nn, name)(**kwargs, **{key: torch.from_numpy(value) for key, value in weights.items()})
    assert repr(ours) == repr(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
    a, b = tensor(scores, requires_grad=True), torch.tensor(scores, requires_grad=True)
    y, expected = ours(a, tensor(target)), theirs(b, torch.from_numpy(target))
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), **tolerance("float64", 64))
    y.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), **tolerance("float64", 64))


def test_max_pool_returns_indices_where_asked() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6))
    values, indices = nn.MaxPool2d(2, return_indices=True)(tensor(x))
    expected, places = torch.nn.MaxPool2d(2, return_indices=True)(torch.from_numpy(x))
    np.testing.assert_array_equal(values.numpy(), expected.numpy())
    np.testing.assert_array_equal(indices.numpy(), places.numpy())


def test_conv_transpose_output_size_chooses_the_padding() -> None:
    ours, theirs = pair_of("ConvTranspose2d", (2, 3, 3), {"stride": 2, "padding": 1})
    x = np.random.default_rng(0).normal(size=(2, 2, 4, 5))
    for size in ([8, 9], [7, 10], (2, 3, 8, 10)):
        y, expected = ours(tensor(x), output_size=size), theirs(torch.from_numpy(x), output_size=size)
        np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), **tolerance("float64", 64))
    with pytest.raises(
        ArgumentError, match=r"output_size\[-2\] must be in \[7, 8\] for an input of shape \(2, 2, 4, 5\), got 9"
    ):
        ours(tensor(x), output_size=(9, 9))
    with pytest.raises(ArgumentError, match=r"output_size needs 2 or 4 sizes for an input of shape"):
        ours(tensor(x), output_size=(9,))


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d"])
def test_dropout_keeps_the_mean(name: str) -> None:
    minires.manual_seed(0)
    x = minires.ones(200, 50, 4, 4)
    y = getattr(nn, name)(0.25)(x).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    draws = y[:, :, 0, 0] if name == "Dropout2d" else y
    # Six standard errors of the share that is kept.
    share = (draws > 0).mean()
    assert abs(share - 0.75) < 6 * np.sqrt(0.75 * 0.25 / draws.size)
    whole_channels = (y == y[:, :, :1, :1]).all()
    assert whole_channels == (name == "Dropout2d")


def test_network_trains_one_step_as_torchs() -> None:
    ours, theirs = net(nn).double(), net(torch.nn).double()
    copy_weights(ours, theirs)
    generator = np.random.default_rng(1)
    x, labels = generator.normal(size=(4, 3, 6, 6)), generator.integers(0, 5, 4)
    loss = nn.CrossEntropyLoss()(ours(tensor(x)), tensor(labels))
    expected = torch.nn.CrossEntropyLoss()(theirs(torch.from_numpy(x)), torch.from_numpy(labels))
    loss.backward()
    expected.backward()
    np.testing.assert_allclose(loss.item(), expected.item(), **tolerance("float64", 1024))
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if q.grad is None:
            assert p.grad is None, name
        else:
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), err_msg=name, **tolerance("float64", 4096))
    for (name, value), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(value.numpy(), other.numpy(), err_msg=name, **tolerance("float64", 1024))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=0), ArgumentError, r"Conv2d: groups must be a positive integer, got 0"),
        (
            lambda: nn.Conv2d(3, 4, 3, groups=2),
            ArgumentError,
            r"in_channels must be divisible by groups, got in_channels=3",
        ),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), ArgumentError, r"out_channels must be divisible by groups, got out_ch"),
        (
            lambda: nn.Conv2d(4, 3, 3, padding="big"),
            ArgumentError,
            r"padding as text must be 'same' or 'valid', got 'big'",
        ),
        (lambda: nn.Conv2d(4, 3, 3, 2, "same"), ArgumentError, r"padding='same' needs stride 1, got stride=\(2, 2\)"),
        (lambda: nn.Conv2d(4, 3, 3, padding_mode="x"), ArgumentError, r"padding_mode must be one of .*, got 'x'"),
        (lambda: nn.Conv2d(4, 3, (3, 3, 3)), ArgumentError, r"Conv2d: kernel_size must be an int or a pair"),
        (
            lambda: nn.ConvTranspose2d(4, 3, 3, padding_mode="reflect"),
            ArgumentError,
            r"only padding_mode='zeros' is there",
        ),
        (
            lambda: nn.GroupNorm(4, 6),
            ArgumentError,
            r"num_channels must be divisible by num_groups, got num_channels=6",
        ),
        (lambda: nn.InstanceNorm2d(4, track_running_stats=True), UnsupportedError, r"use BatchNorm2d"),
        (
            lambda: nn.InstanceNorm2d(4)(minires.ones(2, 4)),
            ShapeError,
            r"InstanceNorm2d: expected 3D or 4D input, got shape",
        ),
        (
            lambda: nn.BatchNorm2d(4)(minires.ones(2, 4)),
            ShapeError,
            r"BatchNorm2d: expected 4D input, got shape \(2, 4\)",
        ),
        (
            lambda: nn.BatchNorm1d(4)(minires.ones(2)),
            ShapeError,
            r"BatchNorm1d: expected 2D or 3D input, got shape \(2,\)",
        ),
        (lambda: nn.Hardtanh(1, 1), ArgumentError, r"Hardtanh: max_val must be above min_val = 1, got 1"),
        (lambda: nn.Dropout(1.5), ArgumentError, r"Dropout: p must be in \[0, 1\], got 1.5"),
        (
            lambda: nn.ZeroPad2d((1, 2)),
            ArgumentError,
            r"ZeroPad2d: padding must be an int or \(left, right, top, bottom\)",
        ),
        (
            lambda: nn.Unflatten(1, (4, -1))(minires.ones(2, 6)),
            ShapeError,
            r"unflatten: shape \(4, -1\) does not hold",
        ),
        (
            lambda: nn.Unflatten(2, (1,))(minires.ones(2, 6)),
            LabelError,
            r"unflatten: dim must be from -2 to 1",
        ),
        (
            lambda: nn.MSELoss(size_average=True),
            UnsupportedError,
            r"size_average and reduce are not supported; use reduction",
        ),
        (lambda: nn.MSELoss(reduction="avg"), ArgumentError, r"reduction must be 'mean', 'sum' or 'none', got 'avg'"),
    ],
)
def test_layer_errors_say_what_is_wrong(make: Any, error: type[MiniresError], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
