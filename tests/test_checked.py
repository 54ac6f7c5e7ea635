"""MINIRES_CHECK: kernels judged by the reference as they run. Right ones pass, each kind of wrong one is named."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import minires
from minires.autograd import checkpoint
from minires.backend import current_kernels, use_kernels
from minires.checked import CheckedKernels
from minires.errors import KernelError
from minires.kernels import reference
from minires.kernels.geometry import Conv2dGeometry
from minires.nn import functional as F
from tests.autograd import channels_last
from tests.strategies import values

RIGHT = {name: getattr(reference, name) for name in reference.__all__}


def checked(**planted: Any) -> CheckedKernels:
    """The reference with `planted` kernels in the place of some, checked."""
    return CheckedKernels(SimpleNamespace(**RIGHT | planted, __name__="planted", PRIVATE=(), version=3))


def image(shape: tuple[int, ...] = (2, 3, 5, 4), seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return values(shape, seed).astype(dtype)


G = Conv2dGeometry(2, 3, 5, 4, 3, 3, 3, 1, 1, 1, 1, 1, 1)
WEIGHT = image((3, 3, 3, 3), 1)
MEAN, VAR = np.zeros(3), np.ones(3)


def test_a_set_is_checked_where_the_reference_can_and_passes_the_rest() -> None:
    kernels = checked(warmup=lambda: "warm")
    assert (kernels.warmup(), kernels.version, kernels.PRIVATE, kernels.__name__) == ("warm", 3, (), "planted")
    assert kernels.relu_forward is kernels.relu_forward
    assert kernels.relu_forward is not RIGHT["relu_forward"]
    x = image()
    assert np.array_equal(kernels.relu_forward(x), np.maximum(x, 0))
    with pytest.raises(AttributeError, match="conv3d_forward"):
        _ = kernels.conv3d_forward


def test_the_result_is_the_kernels_own() -> None:
    mine = np.zeros((2, 2), np.float32)
    assert checked(relu_forward=lambda x: mine).relu_forward(-np.ones((2, 2), np.float32)) is mine


def test_a_wrong_kernel_is_named_with_shapes_error_and_tolerance() -> None:
    def one_pixel_off(x: Any, weight: Any, bias: Any, g: Any) -> Any:
        y = reference.conv2d_forward(x, weight, bias, g)
        y[1, 2, 4, 3] += 0.01
        return y

    with pytest.raises(KernelError) as caught:
        checked(conv2d_forward=one_pixel_off).conv2d_forward(image(), WEIGHT, None, G)
    text = str(caught.value)
    assert text.startswith(
        "MINIRES_CHECK: conv2d_forward of planted: output 0 differs from the reference in 1 of 120 elements; the greatest "
        "error is 0.01 at (1, 2, 4, 3) (got "
    )
    limit = float(text.split("the tolerance there ")[1].split(". ")[0])
    assert 1e-6 < limit < 1e-3
    assert "Arguments: x (2, 3, 5, 4) float32, weight (3, 3, 3, 3) float32, bias = None, g = Conv2dGeometry(n=2" in text


def test_a_kernel_that_writes_into_its_input_is_named() -> None:
    def in_place(grad_y: Any, y: Any) -> Any:
        grad_y[y <= 0] = 0
        return grad_y

    with pytest.raises(
        KernelError, match=r"MINIRES_CHECK: relu_backward of planted wrote to its argument grad_y\. Arg"
    ):
        checked(relu_backward=in_place).relu_backward(image(), image(seed=1))


def test_a_private_input_that_is_written_to_is_noticed() -> None:
    def in_place(x: Any) -> Any:
        x.nhwc[0] = 7
        return x

    x = channels_last.ChannelsLast.of(image())
    with pytest.raises(KernelError, match="relu_forward of planted wrote to its argument x"):
        checked(relu_forward=in_place).relu_forward(x)


@pytest.mark.parametrize(
    ("name", "args", "spoil", "text"),
    [
        ("relu_forward", (image(),), lambda y: y[:1], r"output 0 is \(1, 3, 5, 4\) float32, expected \(2, 3, 5, 4\) float32"),
        ("relu_forward", (image(),), lambda y: y.astype(np.float64), r"output 0 is .* float64, expected .* float32"),
        ("relu_forward", (image(),), lambda y: (y, y), "returned 2 values, the reference 1"),
        ("relu_forward", (image(),), lambda y: None, r"output 0 is = None, expected \(2, 3, 5, 4\) float64"),
        ("batch_norm_train", (image(), None, None, 1e-5), lambda r: (r[0], r[1] + 1e-3, r[2]), "output 1 differs .* 3 of 3"),
        ("batch_norm_train", (image(), None, None, 1e-5), lambda r: (r[0], r[1], r[2] * 1.001), "output 2 differs"),
        ("batch_norm_eval", (image(), None, None, MEAN, VAR, 0.1), lambda y: y * np.float32(1.0005), "output 0 differs"),
        ("relu_forward", (np.full((2, 2), np.nan, np.float32),), lambda y: np.zeros_like(y), "error is inf at"),
        ("relu_forward", (image(),), lambda y: np.where(y > 1, np.nan, y).astype(np.float32), "error is inf at"),
        ("softmax_forward", (image((4, 5)), 1), lambda y: y[::-1], "output 0 differs"),
    ],
)  # fmt: skip
def test_each_way_to_be_wrong_is_seen(name: str, args: tuple[Any, ...], spoil: Any, text: str) -> None:
    planted = {name: lambda *a: spoil(RIGHT[name](*a))}
    with pytest.raises(KernelError, match=f"{name} of planted.*{text}"):
        getattr(checked(**planted), name)(*args)
    getattr(checked(), name)(*args)


def test_integer_outputs_are_compared_exactly() -> None:
    from minires.kernels.geometry import Pool2dGeometry

    g = Pool2dGeometry(2, 3, 5, 4, 2, 2, 2, 2)

    def off_by_one(x: Any, g: Any) -> Any:
        y, indices = reference.max_pool2d_forward(x, g)
        return y, indices + (np.arange(indices.size).reshape(indices.shape) == 5)

    with pytest.raises(
        KernelError, match=r"max_pool2d_forward .*output 1 differs from the reference in 1 of 24 elements"
    ):
        checked(max_pool2d_forward=off_by_one).max_pool2d_forward(image(), g)


def test_nan_in_a_convolutions_input_may_spread_within_it() -> None:
    x = image()
    x[0, 0, 2, 2] = np.nan

    def by_tiles(x: Any, weight: Any, bias: Any, g: Any) -> Any:
        y = reference.conv2d_forward(x, weight, bias, g)
        y[0] = np.nan
        return y

    checked(conv2d_forward=by_tiles).conv2d_forward(x, WEIGHT, None, G)
    with pytest.raises(KernelError, match="conv2d_forward"):
        checked(conv2d_forward=by_tiles).conv2d_forward(image(), WEIGHT, None, G)


def half_precision_sum(x: Any, *_: Any) -> Any:
    """The mean of each channel as a naive float32 loop would have it, and what batch_norm_train returns beside."""
    y, _, var = reference.batch_norm_train(x, None, None, 1e-5)
    n, c, h, w = x.shape
    running = np.zeros(c, np.float32)
    for row in np.moveaxis(x, 1, -1).reshape(-1, c):
        running += row
    return y, (running / np.float32(n * h * w)).astype(np.float64), var


def test_rounding_alone_is_never_an_error() -> None:
    """Sums in another order, also where they cancel: means of centred data are nothing but rounding."""
    x = values((4, 3, 32, 32), 3)
    x = (x - x.mean((0, 2, 3), keepdims=True)).astype(np.float32)
    checked(batch_norm_train=half_precision_sum).batch_norm_train(x, None, None, 1e-5)
    g = Conv2dGeometry(2, 64, 9, 9, 8, 3, 3, 1, 1, 1, 1, 1, 1)
    x, weight = image((2, 64, 9, 9)), image((8, 64, 3, 3), 1)

    def reversed_channels(x: Any, weight: Any, bias: Any, g: Any) -> Any:
        return reference.conv2d_forward(x[:, ::-1], np.ascontiguousarray(weight[:, ::-1]), bias, g)

    checked(conv2d_forward=reversed_channels).conv2d_forward(x, weight, None, g)


def test_an_element_that_cancels_may_carry_its_terms_rounding() -> None:
    """x - x is 0 however x is rounded, but not where a fast algorithm transforms x first: its neighbours tell the scale."""
    x = np.repeat(image((1, 1, 16, 16)), 2, axis=1)
    weight = np.array([1, -1], np.float32).reshape(1, 2, 1, 1)

    def transformed(x: Any, weight: Any, bias: Any, g: Any) -> Any:
        return reference.conv2d_forward(x, weight, bias, g) + np.finfo(np.float32).eps * x[:, :1]

    g = Conv2dGeometry(1, 2, 16, 16, 1, 1, 1)
    checked(conv2d_forward=transformed).conv2d_forward(x, weight, None, g)


def test_the_tolerance_follows_an_elements_own_size() -> None:
    """One huge number among small ones is rounded as a huge number is."""
    x = np.concatenate([np.full(2_000_000, 1e-3), [1e6]]).astype(np.float32)
    checked(relu_forward=lambda x: x * np.float32(1 + 1e-5)).relu_forward(x)
    with pytest.raises(KernelError, match=r"relu_forward .* 1 of 2000001 elements"):
        checked(relu_forward=lambda x: np.where(x > 1, x * np.float32(1 + 1e-3), x)).relu_forward(x)


def test_a_training_step_under_the_check() -> None:
    """Forward and backward, private arrays, a checkpoint: everything passes through the checked set and is right."""
    x = minires.Tensor(image((2, 3, 8, 8)), requires_grad=True)
    w = minires.Tensor(WEIGHT.copy(), requires_grad=True)

    def net(x: Any, w: Any) -> Any:
        h = F.batch_norm(F.conv2d(x, w, padding=1), None, None, None, None, True)
        return F.avg_pool2d(F.residual_relu(h, x), 2)

    with use_kernels(channels_last.kernels, check=True):
        assert isinstance(current_kernels(), CheckedKernels)
        y = checkpoint(net, x, w)
        assert isinstance(y.raw, channels_last.ChannelsLast)
        y.backward(minires.Tensor(image((2, 3, 4, 4), 5)))
    assert np.isfinite(w.grad.array).all()


def test_a_wrong_backward_kernel_is_found_in_a_training_step() -> None:
    broken = SimpleNamespace(
        **RIGHT | {"conv2d_backward_x": lambda v, w, g: 1.01 * RIGHT["conv2d_backward_x"](v, w, g)}
    )
    x = minires.Tensor(image(), requires_grad=True)
    with use_kernels(broken, check=True):
        y = F.conv2d(x, minires.Tensor(WEIGHT), padding=1)
        with pytest.raises(
            KernelError, match="conv2d_backward_x of SimpleNamespace: output 0 differs from the reference"
        ):
            y.sum().backward()


def test_the_setting_switches_it_on() -> None:
    code = "import minires; from minires import backend; minires.relu(minires.ones(2)); print(type(backend.current_kernels()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MINIRES_CHECK": "1"},
    )
    assert "CheckedKernels" in done.stdout
