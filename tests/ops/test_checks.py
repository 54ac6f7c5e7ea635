"""The checks at an op's boundary: what each says, and that mixed devices are refused before any kernel runs."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import backend
from minires.errors import ArgumentError, DeviceError, DTypeError, LabelError, ShapeError
from minires.nn import functional as F
from minires.ops import checks


class OnGpu(np.ndarray):
    """Stands in for an array of another device: there is no such device yet, but there will be."""


def on_gpu(*shape: int) -> minires.Tensor:
    return minires.Tensor(np.ones(shape, np.float32).view(OnGpu))


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = backend.device("cuda", 0)
    monkeypatch.setattr(backend, "device_of", lambda array: gpu if isinstance(array, OnGpu) else backend.CPU)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: F.conv2d(minires.ones(1, 1, 3, 3), on_gpu(1, 1, 3, 3)), r"conv2d: .*one device.*weight on cuda:0"),
        (lambda: F.linear(minires.ones(2, 3), on_gpu(4, 3)), r"linear: .*one device"),
        (lambda: F.batch_norm(minires.ones(2, 3), None, None, on_gpu(3), None, True), r"batch_norm: .*one device"),
        (
            lambda: F.batch_norm_relu(minires.ones(2, 3), None, None, None, None, True, shortcut=on_gpu(2, 3)),
            r"batch_norm_relu: .*one device.*shortcut on cuda:0",
        ),
        (lambda: F.residual_relu(minires.ones(2), on_gpu(2)), r"residual_relu: .*one device"),
        (
            lambda: F.cross_entropy(minires.ones(1, 2), minires.zeros(1, dtype=minires.int64), on_gpu(2)),
            r"cross_entropy: .*one",
        ),
        (lambda: F.layer_norm(minires.ones(2, 3), (3,), on_gpu(3)), r"layer_norm: .*one device"),
    ],
)
def test_mixed_devices_are_refused(call, text, two_devices) -> None:
    with pytest.raises(DeviceError, match=text):
        call()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: checks.check_tensor("op", "x", [1]), DTypeError, r"^op: x must be a Tensor, got list$"),
        (
            lambda: checks.check_tensor("op", "x", np.ones(1)),
            DTypeError,
            r"got ndarray; wrap it with minires.from_numpy",
        ),
        (
            lambda: checks.check_rank("op", "x", minires.ones(2), (3, 4)),
            ShapeError,
            r"op: x needs 3 or 4 dimensions, got x.shape = \(2,\)",
        ),
        (
            lambda: checks.check_floating("op", "x", minires.tensor([1])),
            DTypeError,
            r"op: x needs a floating dtype, got int64",
        ),
        (
            lambda: checks.check_same_dtype("op", a=minires.ones(1), b=minires.tensor([1]), c=None),
            DTypeError,
            r"a float32, b int64",
        ),
        (
            lambda: checks.pair("op", "stride", 1.5),
            ArgumentError,
            r"op: stride must be an int or a pair of ints, got 1.5",
        ),
        (lambda: checks.pair("op", "stride", (1, 2, 3)), ArgumentError, r"got \(1, 2, 3\)"),
        (lambda: checks.pair("op", "stride", True), ArgumentError, r"got True"),
        (
            lambda: checks.dimension("op", 2, 2),
            LabelError,
            r"op: dim must be from -2 to 1 for a tensor of 2 dimensions, got 2",
        ),
        (lambda: checks.dimensions("op", (0, -2), 2), ArgumentError, r"op: dim names a dimension twice"),
    ],
)
def test_messages(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()


def test_pairs() -> None:
    assert checks.pair("op", "stride", 2) == (2, 2)
    assert checks.pair("op", "stride", [1, 2]) == (1, 2)
    assert checks.pair("op", "stride", (3,)) == (3, 3)
    assert checks.pair("op", "stride", np.int64(4)) == (4, 4)
