"""Goals and series: what is made of results, without measuring anything."""

from __future__ import annotations

import math

import pytest

from minires.bench import grow, suite
from minires.bench.compare import Result
from minires.bench.rounds import Timing
from minires.bench.suite import GOALS, Goal, judge_goal
from minires.bench.workload import Workload
from minires.errors import ArgumentError
from minires.models import list_models

SPEED = Goal("infer", "resnet18", 224, 3, 1, 1.15, 1.4)
MEMORY = Goal("train", "resnet18", 224, 3, 32, 0.8, 0.5, "memory")


def timed(name: str, ratio: float, memory: int = 0) -> Result:
    return Result(name, "timed", timing=Timing((ratio,)), ratio=ratio, memory=memory)


@pytest.mark.parametrize(("ratio", "word"), [(1.0, "not reached"), (1.2, "reached"), (1.5, "aim reached")])
def test_goal_of_speed_counts_the_fastest_peer(ratio: float, word: str) -> None:
    absent = Result("openvino", "not installed")
    slow_reference = timed("minires-reference", 0.5)  # is no peer
    verdict = judge_goal(
        SPEED, [timed("minires", 1.0), slow_reference, timed("torch", 3.0), timed("onnxruntime", ratio), absent]
    )
    assert (verdict.word, verdict.figure, verdict.peer) == (word, ratio, "onnxruntime")


@pytest.mark.parametrize(("memory", "word"), [(90, "not reached"), (80, "reached"), (50, "aim reached")])
def test_goal_of_memory_counts_eager_torch_at_its_best(memory: int, word: str) -> None:
    others = [timed("torch", 2, 120), timed("torch-channels-last", 2, 100), timed("torch-compile", 2, 10)]
    verdict = judge_goal(MEMORY, [timed("minires", 1, memory), *others])
    assert (verdict.word, verdict.figure, verdict.peer) == (word, memory / 100, "torch-channels-last")


def test_goal_without_figures_says_so() -> None:
    assert judge_goal(SPEED, [Result("minires", "wrong"), timed("torch", 2)]).word == "not measured"
    assert judge_goal(SPEED, [timed("minires", 1), Result("torch", "not installed")]).word == "no peer"
    assert judge_goal(MEMORY, [timed("minires", 1, 5), timed("torch", 2)]).word == "no peer"


def test_goals_can_be_run() -> None:
    assert {goal.model for goal in GOALS} <= set(list_models())
    assert {goal.work for goal in GOALS if goal.measure == "memory"} <= {
        goal.work for goal in GOALS if goal.measure == "speed"
    }
    for goal in GOALS:
        better = goal.aim < goal.at_least if goal.measure == "memory" else goal.aim > goal.at_least
        assert better, goal
        assert len(suite.judge_goal(goal, []).cells()) == 8


def point(value: int, work: int, seconds: float) -> grow.Point:
    return grow.Point(value, work, [Result("minires", "timed", timing=Timing((seconds,)))])


def test_growth_rows_show_time_against_work() -> None:
    points = [point(1, 10**9, 1.0), point(2, 2 * 10**9, 2.0), point(4, 4 * 10**9, 16.0)]
    assert grow.growth_rows(points, "minires") == [
        ["1", "1.000", "1.00 s", "1.00", ""],
        ["2", "2.000", "2.00 s", "1.00", "1.00"],
        ["4", "4.000", "16.0 s", "4.00", "3.00"],
    ]
    of_value, of_work = grow.overall_slope(points, "minires")
    assert of_value == pytest.approx(2.0)
    assert of_work == pytest.approx(2.0)


def test_growth_with_a_gap_goes_on() -> None:
    points = [point(1, 10, 1.0), grow.Point(2, 20, [Result("minires", "failed")]), point(4, 40, 4.0)]
    assert grow.growth_rows(points, "minires")[1][2:] == ["not timed", "", ""]
    assert grow.overall_slope(points, "minires")[0] == pytest.approx(1.0)
    assert math.isnan(grow.overall_slope(points[:2], "minires")[0])


def test_growth_in_threads_has_no_slope_of_work() -> None:
    of_value, of_work = grow.overall_slope([point(1, 10, 2.0), point(2, 10, 1.0)], "minires")
    assert of_value == pytest.approx(-1.0)
    assert math.isnan(of_work)


def test_growth_changes_one_quantity_only() -> None:
    workload = Workload("resnet18", 4, 224)
    assert grow.at(workload, "batch", 9).batch == 9
    assert grow.at(workload, "threads", 2).threads == 2
    small = grow.at(workload, "image-size", 32)
    assert (small.image_size, small.options) == (32, {"small_input": False})
    wide = grow.at(workload, "width", 8)
    assert wide.options == {"widths": [8, 16, 32, 64], "stem_width": 8}
    assert wide.build().fc.in_features == 64
    assert grow.multiply_accumulates(grow.at(Workload("resnet8", 4, 8), "width", 4)) % 4 == 0


def test_growth_of_a_model_without_width_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"bench grow: wrn_16_4 has no width to vary; these have: .*resnet20"):
        grow.default_values("width", Workload("wrn_16_4", 1, 32), 2)
