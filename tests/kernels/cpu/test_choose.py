"""choose_algorithm: pure, printable, and right about the layers it was measured on."""

from __future__ import annotations

import pytest

from minires.kernels.cpu.choose import PURPOSES, choose_algorithm, is_winograd
from minires.kernels.geometry import Conv2dGeometry


def square(c_in, c_out, size, k=3, stride=1, pad=1, **more):
    return Conv2dGeometry(1, c_in, size, size, c_out, k, k, stride, stride, pad, pad, pad, pad, **more)


@pytest.mark.parametrize(
    ("g", "batch", "expected"),
    [
        (square(64, 64, 56), 1, "winograd4"),
        (square(64, 64, 56), 32, "winograd4"),
        (square(256, 256, 14), 32, "winograd4"),
        (square(16, 16, 32), 128, "winograd4"),
        (square(512, 512, 7), 32, "winograd4"),
        (square(64, 128, 56, stride=2), 32, "direct"),
        (square(64, 256, 56, k=1, pad=0), 32, "direct"),
        (square(64, 64, 14, dilation_h=2, dilation_w=2, pad=2), 32, "direct"),
        (square(64, 64, 14, groups=2), 32, "direct"),
        (square(3, 16, 32), 128, "direct"),
        (square(64, 64, 3, pad=0), 1, "direct"),  # one pixel of output: nothing to share
    ],
)
def test_choose_algorithm_takes_what_was_fastest(g, batch, expected):
    assert choose_algorithm(g, batch, "forward").algorithm == expected


def test_one_image_does_not_pay_for_the_large_weights_of_the_wide_tile():
    deep = square(512, 512, 7)
    assert choose_algorithm(deep, 1, "inference").algorithm != "winograd4"
    assert choose_algorithm(deep, 64, "inference").algorithm == "winograd4"


def test_choice_lists_every_price_cheapest_first_and_prints_them():
    choice = choose_algorithm(square(64, 64, 28), 8, "inference")
    prices = [price for _, price in choice.prices]
    assert prices == sorted(prices) and choice.prices[0][0] == choice.algorithm and len(prices) == 3
    assert str(choice).startswith("winograd4 (winograd4 ") and "direct" in str(choice) and choice.m == 4


def test_choice_is_a_function_of_its_arguments_alone():
    g = square(48, 80, 19)
    for purpose in PURPOSES:
        assert choose_algorithm(g, 7, purpose) == choose_algorithm(g, 7, purpose)
    assert choose_algorithm(g, 7, "forward") == choose_algorithm(square(48, 80, 19), 7, "forward")


def test_choose_algorithm_names_the_purposes_it_knows():
    with pytest.raises(
        ValueError, match="purpose must be one of inference, forward, backward_x, backward_weight, got 'fast'"
    ):
        choose_algorithm(square(16, 16, 8), 1, "fast")


def test_is_winograd_wants_three_by_three_at_stride_one():
    assert is_winograd(square(16, 16, 8)) and is_winograd(square(16, 16, 8, pad=0))
    assert not is_winograd(square(16, 16, 8, stride=2)) and not is_winograd(square(16, 16, 8, k=5, pad=2))
    assert not is_winograd(square(16, 16, 8, pad=3))
