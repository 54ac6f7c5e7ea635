"""How tensors print: as torch's do, and `set_printoptions`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import minires
from minires import printing
from minires.errors import ArgumentError
from minires.printing import set_printoptions


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Options are of the process: each test starts and leaves with the usual ones."""
    monkeypatch.setattr(printing, "_options", printing.PROFILES["default"])
    yield


# (array, options): what minires and torch print in the same way.
CASES = [
    (np.array([[1.0, 2.5], [-3.25, 4.0]], np.float32), {}),
    (np.array([0.123456789, 1.0], np.float32), {"precision": 2}),
    (np.array([0.123456789, 1.0], np.float32), {"precision": 6}),
    (np.arange(12).reshape(3, 4), {}),
    (np.arange(2000), {}),
    (np.arange(2000), {"edgeitems": 1}),
    (np.arange(30), {"threshold": 10}),
    (np.arange(30), {"threshold": 30}),
    (np.array([1, 1, 1, 10000, 1, 1, 1, 1]), {"threshold": 8}),
    (np.array([1, 1, 1, 10000, 1, 1, 1, 1]), {"threshold": 7}),
    (np.arange(30), {"profile": "short", "threshold": 5}),
    (np.arange(60), {"linewidth": 40}),
    (np.array([True, False]), {}),
    (np.array([0.5, 1.5], np.float32), {"sci_mode": True}),
    (np.array([1000000.0, 0.5], np.float32), {"sci_mode": False}),
    (np.array(2.0, np.float32), {}),
    (np.array([1e-5, 1.0], np.float32), {}),
    (np.array([1.0, 5000.0], np.float32), {}),
    (np.array([1.0, 900.0, np.nan, np.inf, -np.inf, 0.0], np.float32), {}),
    (np.array([0.5, np.nan, -np.inf, 0.0], np.float32), {}),
    (np.zeros((2, 2), np.float32), {}),
    (np.full(3, np.nan, np.float32), {}),
    (np.linspace(-3, 7, 24, dtype=np.float32).reshape(2, 3, 4), {}),
    (np.arange(40, dtype=np.float32), {}),
    (np.arange(5000, dtype=np.int64).reshape(10, 50, 10), {}),
    (np.zeros((0, 3), np.float32), {}),
    (np.array([], np.float32), {}),
    (np.linspace(0, 1, 2000, dtype=np.float32).reshape(40, 50), {"precision": 3, "linewidth": 60}),
    (np.array(True), {}),
]


@pytest.mark.parametrize(("array", "options"), CASES)
def test_a_tensor_prints_as_in_torch(array: np.ndarray, options: dict[str, object]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the judge of this test, is not installed")
    try:
        torch.set_printoptions(profile="default")
        torch.set_printoptions(**options)
        set_printoptions(**options)  # type: ignore[arg-type]
        assert repr(minires.tensor(array)) == repr(torch.from_numpy(array))
    finally:
        torch.set_printoptions(profile="default")


def test_a_tensor_says_what_is_not_as_usual() -> None:
    assert repr(minires.ones(2, requires_grad=True)) == "tensor([1., 1.], requires_grad=True)"
    assert repr(minires.ones(2, dtype=minires.float64)) == "tensor([1., 1.], dtype=minires.float64)"
    assert repr(minires.zeros(0, 3)) == "tensor([], size=(0, 3))"
    product = minires.ones(2, requires_grad=True) * 2
    assert repr(product) == f"tensor([2., 2.], grad_fn={product.grad_fn!r})"
    assert repr(minires.zeros(0, dtype=minires.int64)) == "tensor([], dtype=minires.int64)"


def test_what_does_not_fit_the_line_comes_below_as_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the judge of this test, is not installed")
    ours, theirs = minires.full((5,), 0.5, requires_grad=True), torch.full((5,), 0.5, requires_grad=True)
    try:
        for linewidth in range(20, 80):  # the line ends at every place, also just before and just after the words
            set_printoptions(linewidth=linewidth)
            torch.set_printoptions(linewidth=linewidth)
            assert repr(ours) == repr(theirs), linewidth
    finally:
        torch.set_printoptions(profile="default")


def test_set_printoptions_keeps_what_is_not_given_and_full_shows_all() -> None:
    set_printoptions(precision=1)
    set_printoptions(edgeitems=2)
    assert repr(minires.tensor([0.25])) == "tensor([0.2])"
    set_printoptions(profile="full")
    assert "..." not in repr(minires.arange(3000))
    assert repr(minires.tensor([0.25])) == "tensor([0.2500])"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "long"}, "profile must be one of default, short, full, got 'long'"),
        ({"precision": -1}, "precision must be a whole number >= 0, got -1"),
        ({"edgeitems": 1.5}, "edgeitems must be a whole number >= 0, got 1.5"),
        ({"linewidth": 0}, "linewidth must be a whole number >= 1, got 0"),
        ({"precision": True}, "precision must be a whole number >= 0, got True"),
    ],
)
def test_set_printoptions_refuses_what_is_no_count(options: dict[str, object], message: str) -> None:
    before = printing._options
    with pytest.raises(ArgumentError, match=f"^set_printoptions: {message}"):
        set_printoptions(**options)  # type: ignore[arg-type]
    assert printing._options is before
