"""The arithmetic of a comparison."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from minires.bench.rounds import Timing, ratio, slope, turn_order


def test_turn_order_gives_everybody_every_place_equally_often() -> None:
    names = ["a", "b", "c"]
    orders = [turn_order(names, number) for number in range(6)]
    assert orders[0] == names
    for place in range(3):
        assert Counter(order[place] for order in orders) == Counter({"a": 2, "b": 2, "c": 2})
    assert turn_order([], 4) == []


def test_timing_median_and_quartiles() -> None:
    timing = Timing((5.0, 1.0, 2.0, 4.0, 3.0))
    assert timing.median == 3.0
    assert timing.quartiles == (2.0, 4.0)
    assert Timing((7.0,)).quartiles == (7.0, 7.0)
    assert timing.as_dict() == {"median": 3.0, "quartiles": [2.0, 4.0], "rounds": [5.0, 1.0, 2.0, 4.0, 3.0]}


def test_ratio_is_taken_round_by_round() -> None:
    # The machine is ten times slower in the second round; both medians would mix the two states.
    ours, theirs = Timing((1.0, 10.0, 1.0, 10.0)), Timing((2.0, 20.0, 2.0, 20.0))
    assert ratio(theirs, ours) == 2.0
    with pytest.raises(ValueError):
        ratio(Timing((1.0,)), ours)


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 1.0, 2.5])
def test_slope_finds_the_exponent(exponent: float) -> None:
    x = [1, 2, 4, 8]
    assert slope(x, [3 * v**exponent for v in x]) == pytest.approx(exponent)


def test_slope_of_one_place_is_nan() -> None:
    assert math.isnan(slope([4, 4], [1.0, 2.0]))
