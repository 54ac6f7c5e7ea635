"""Direct convolutions and their gradients beside the reference in float64: every geometry, halo, tile and worker count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.kernels import reference
from minires.kernels.cpu import conv, conv_direct, conv_stem, conv_weight
from minires.kernels.cpu.layout import Blocked, blocks
from minires.kernels.cpu.product import Tile
from minires.kernels.geometry import Conv2dGeometry
from tests.kernels.cpu.blocked import Unchanged, assert_blocked, blocked, numbers
from tests.kernels.cpu.geometries import conv_geometries, reduction, zoo_layers
from tests.strategies import in_memory_form, memory_forms
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("workers", "poisoned_pool")


def wide(*arrays):
    return [None if a is None else np.asarray(a, np.float64) for a in arrays]


def check_forward(g, halo=1):
    x, weight, bias = numbers(g.x_shape, 1), numbers(g.weight_shape, 2), numbers((g.c_out,), 3)
    expected = reference.conv2d_forward(*wide(x, weight, bias), g)
    given_x = blocked(x, halo)
    with Unchanged(given_x):
        y = conv_direct.forward(given_x, weight, bias, g)
    assert_blocked(y, expected, n=reduction(g, "forward"))


def check_backward_x(g, halo=1):
    grad_y, weight = numbers(g.y_shape, 4), numbers(g.weight_shape, 5)
    expected = reference.conv2d_backward_x(*wide(grad_y, weight), g)
    given_grad = blocked(grad_y, halo)
    with Unchanged(given_grad):
        grad_x = conv_direct.backward_x(given_grad, weight, g)
    assert_blocked(grad_x, expected, n=reduction(g, "backward_x"))


def check_backward_weight(g, halo=1):
    grad_y, x = numbers(g.y_shape, 6), numbers(g.x_shape, 7)
    expected = reference.conv2d_backward_weight(*wide(grad_y, x), g)
    given_grad, given_x = blocked(grad_y), blocked(x, halo)
    with Unchanged(given_grad, given_x):
        grad_weight = conv_weight.backward_weight(given_grad, given_x, g)
    assert_close(grad_weight, expected, "float32", n=reduction(g, "backward_weight"))


@pytest.mark.parametrize("check", [check_forward, check_backward_x, check_backward_weight])
@given(g=conv_geometries(), halo=st.integers(1, 3))
@settings(max_examples=40)
def test_conv_equals_the_reference_for_every_geometry(check, g, halo):
    check(g, halo)


@pytest.mark.parametrize("check", [check_forward, check_backward_x, check_backward_weight])
@pytest.mark.parametrize("g", [pytest.param(g, id=name) for name, g in zoo_layers()])
def test_conv_equals_the_reference_on_the_layers_of_the_zoo(check, g):
    check(g)


@given(g=conv_geometries(max_channels=8))
@settings(max_examples=40)
def test_stem_equals_the_reference_for_every_geometry_it_suits(g):
    if not conv_stem.suits(g):
        g = Conv2dGeometry(g.n, 3, g.h + 6, g.w + 6, g.c_out, g.k_h, g.k_w, g.stride_h, g.stride_w, g.pad_top)
    x, weight, bias, grad_y = (numbers(s, 8) for s in (g.x_shape, g.weight_shape, (g.c_out,), g.y_shape))
    y = conv_stem.forward(x, weight, bias, g)
    assert_blocked(y, reference.conv2d_forward(*wide(x, weight, bias), g), n=reduction(g, "forward"))
    grad_weight = conv_stem.backward_weight(blocked(grad_y), x, g)
    expected = reference.conv2d_backward_weight(*wide(grad_y, x), g)
    assert_close(grad_weight, expected, "float32", n=reduction(g, "backward_weight"))


@pytest.mark.parametrize("tile", [Tile(1, 1), Tile(2, 1), Tile(4, 1), Tile(5, 1), Tile(12, 1), Tile(3, 2), Tile(12, 2)])
def test_every_tile_gives_the_same_convolution(tile, monkeypatch):
    """Tiles of other instruction sets run here too: a compiler splits what the machine has no registers for."""

    def tile_for(c_out):
        return tile if blocks(c_out) % tile.vectors == 0 else Tile(tile.pixels, 1)

    for module in (conv_direct, conv_stem, conv_weight):
        monkeypatch.setattr(module, "tile_for", tile_for)
    for g in (
        Conv2dGeometry(2, 20, 7, 6, 56, 3, 3, 2, 1, 1, 1, 1, 1),
        Conv2dGeometry(2, 64, 5, 5, 64, 3, 3, 1, 1, 1, 1, 1, 1, groups=4),
    ):
        check_forward(g)
        check_backward_x(g)
        check_backward_weight(g)
    g = Conv2dGeometry(2, 3, 9, 8, 56, 3, 3, 1, 1, 1, 1, 1, 1)
    x, weight = numbers(g.x_shape), numbers(g.weight_shape)
    assert_blocked(conv_stem.forward(x, weight, None, g), reference.conv2d_forward(*wide(x, weight, None), g), n=27)


@given(g=conv_geometries(max_size=6), relu=st.booleans(), with_residual=st.booleans(), with_bias=st.booleans())
@settings(max_examples=25)
def test_epilogue_adds_the_residual_then_takes_the_relu(g, relu, with_residual, with_bias):
    x, weight = numbers(g.x_shape, 1), numbers(g.weight_shape, 2)
    bias = numbers((g.c_out,), 3) if with_bias else None
    residual = numbers(g.y_shape, 4) if with_residual else None
    expected = reference.conv2d_forward(*wide(x, weight, bias), g)
    expected = expected + (0 if residual is None else residual)
    expected = np.maximum(expected, 0) if relu else expected
    given_residual = None if residual is None else blocked(residual)
    y = conv_direct.forward(blocked(x), weight, bias, g, given_residual, relu)
    assert_blocked(y, expected, n=reduction(g, "forward"))


def test_relu_of_the_epilogue_keeps_nan():
    g = Conv2dGeometry(1, 16, 3, 3, 16, 1, 1)
    x = numbers(g.x_shape)
    x[0, 3, 1, 1] = np.nan
    y = conv_direct.forward(blocked(x), np.abs(numbers(g.weight_shape)), None, g, relu=True).to_plain()
    assert np.isnan(y[0, :, 1, 1]).all() and np.isfinite(np.delete(y.reshape(16, 9), 4, 1)).all()


@given(form=memory_forms(), seed=st.integers(0, 9))
@settings(max_examples=12)
def test_kernels_take_weights_and_plain_images_in_every_memory_form(form, seed):
    g = Conv2dGeometry(2, 12, 6, 5, 20, 3, 2, 1, 2, 1, 0, 1, 0)
    x, weight, grad_y = numbers(g.x_shape, seed), numbers(g.weight_shape, seed + 1), numbers(g.y_shape, seed + 2)
    odd_x, odd_weight, odd_grad = (in_memory_form(a, form) for a in (x, weight, grad_y))
    same = np.testing.assert_array_equal
    same(
        np.asarray(conv.conv2d_forward(odd_x, odd_weight, None, g)), np.asarray(conv.conv2d_forward(x, weight, None, g))
    )
    same(
        np.asarray(conv.conv2d_backward_x(odd_grad, odd_weight, g)),
        np.asarray(conv.conv2d_backward_x(grad_y, weight, g)),
    )
    same(conv.conv2d_backward_weight(odd_grad, odd_x, g), conv.conv2d_backward_weight(grad_y, x, g))


def test_float64_and_empty_batches_are_served_by_the_reference():
    g = Conv2dGeometry(0, 16, 6, 6, 16, 3, 3)
    x, weight = np.zeros(g.x_shape, np.float32), numbers(g.weight_shape)
    assert np.asarray(conv.conv2d_forward(x, weight, None, g)).shape == g.y_shape
    assert np.asarray(conv.conv2d_backward_x(np.zeros(g.y_shape, np.float32), weight, g)).shape == g.x_shape
    assert not conv.conv2d_backward_weight(np.zeros(g.y_shape, np.float32), x, g).any()
    g = Conv2dGeometry(1, 16, 6, 6, 16, 3, 3)
    y = conv.conv2d_forward(numbers(g.x_shape).astype(np.float64), weight.astype(np.float64), None, g)
    assert not isinstance(y, Blocked) and y.dtype == np.float64


def test_bits_do_not_depend_on_the_number_of_workers(monkeypatch):
    from minires.kernels.cpu import tasks

    g = Conv2dGeometry(5, 20, 9, 8, 40, 3, 3, 2, 1, 1, 1, 1, 1)
    x, weight, grad_y = blocked(numbers(g.x_shape)), numbers(g.weight_shape), blocked(numbers(g.y_shape))
    results = []
    for count in (1, 2, 3):
        monkeypatch.setattr(tasks, "_workers", count)
        results.append(
            (
                conv_direct.forward(x, weight, None, g).to_plain(),
                conv_direct.backward_x(grad_y, weight, g).to_plain(),
                conv_weight.backward_weight(grad_y, x, g),
            )
        )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
