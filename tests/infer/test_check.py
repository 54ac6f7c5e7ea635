"""A graph that is none is refused, whatever made it; what a file can say wrong is in test_saved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minires.errors import ArgumentError
from minires.infer.check import check_graph
from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, Pool2dGeometry
from minires.kernels.graph import KINDS, Graph, Step

F64 = np.dtype("float64")
IMAGE = (2, 3, 5, 4)
ROW = (2, 6)


def zeros(*shape, dtype="float64"):
    return np.zeros(shape, dtype)


def step(kind, *inputs, constants=None, **attributes):
    return Step(kind, inputs or (0,), 2, attributes, constants or {})


def graph(step, shapes, output, dtype=F64):
    """A graph of one step, whose inputs are 0 and, made by a ReLU, 1."""
    first, second = shapes if isinstance(shapes, list) else (shapes, shapes)
    steps = [Step("reshape", (0,), 1, {"shape": second[1:]}, {}), step]
    return Graph(tuple(steps), {0: first, 1: second, 2: output}, 0, 2, dtype)


CONV = Conv2dGeometry(*IMAGE, 6, 3, 3, pad_top=1, pad_left=1)
POOL = Pool2dGeometry(*IMAGE, 3, 2, 2, 1, 1, 1)
REGIONS = AdaptivePool2dGeometry(*IMAGE, 1, 1)
W, B = zeros(6, 3, 3, 3), zeros(6)

GOOD = {
    "conv2d": (step("conv2d", constants={"weight": W, "bias": B}, geometry=CONV, relu=True), IMAGE, CONV.y_shape),
    "linear": (step("linear", constants={"weight": zeros(4, 6), "bias": zeros(4)}, relu=False), ROW, (2, 4)),
    "scale_shift": (step("scale_shift", constants={"scale": zeros(3), "shift": zeros(3)}, relu=True), IMAGE, IMAGE),
    "relu": (step("relu"), IMAGE, IMAGE),
    "add": (step("add", 0, 1, relu=False), IMAGE, IMAGE),
    "multiply": (step("multiply", 0, 1), IMAGE, IMAGE),
    "sigmoid": (step("sigmoid"), IMAGE, IMAGE),
    "clamp": (step("clamp", low=-np.inf, high=6.0), IMAGE, IMAGE),
    "softmax": (step("softmax", axis=1), ROW, ROW),
    "max_pool2d": (step("max_pool2d", geometry=POOL), IMAGE, POOL.y_shape),
    "avg_pool2d": (step("avg_pool2d", geometry=POOL), IMAGE, POOL.y_shape),
    "adaptive_avg_pool2d": (step("adaptive_avg_pool2d", geometry=REGIONS), IMAGE, (2, 3, 1, 1)),
    "reshape": (step("reshape", shape=(15, 4)), IMAGE, (2, 15, 4)),
    "slice": (step("slice", index=((0, 3, 2), (1, 5, 1), (3, 4, 1))), IMAGE, (2, 2, 4, 1)),
    "pad": (step("pad", amounts=((0, 1), (2, 0), (0, 0)), value=1.0), IMAGE, (2, 4, 7, 4)),
    "concat": (step("concat", 0, 1, 0, axis=2), IMAGE, (2, 3, 15, 4)),
}


def test_every_kind_is_in_the_table():
    assert set(GOOD) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_step_passes_at_any_batch_size(kind):
    good = graph(*GOOD[kind])
    check_graph(good)
    check_graph(good.with_batch(7))


@pytest.mark.parametrize("kind", KINDS)
def test_another_output_shape_is_refused(kind):
    one, shapes, output = GOOD[kind]
    with pytest.raises(ArgumentError, match=rf"plan: step 1 \({kind}\): gives shape .*, the plan says"):
        check_graph(graph(one, shapes, (*output[:-1], output[-1] + 1)))


def bad(kind, *inputs, constants=None, **attributes):
    """GOOD's step with something changed."""
    one = GOOD[kind][0]
    return replace(
        one,
        inputs=inputs or one.inputs,
        constants={**one.constants, **(constants or {})},
        attributes={**one.attributes, **attributes},
    )


@pytest.mark.parametrize(
    ("one", "shapes", "message"),
    [
        (bad("conv2d", constants={"bias": zeros(5)}), IMAGE, r"needs bias of shape \(6,\), got \(5,\)"),
        (bad("conv2d", constants={"weight": zeros(6, 3, 3)}), IMAGE, "needs weight of shape"),
        (bad("conv2d", constants={"extra": B}), IMAGE, "needs the constants weight .bias., got weight, bias, extra"),
        (bad("conv2d", constants={"bias": zeros(6, dtype="float32")}), IMAGE, "bias has dtype float32, the plan float64"),
        (bad("conv2d", 0, 1), IMAGE, r"needs a shortcut of shape \(2, 6, 4, 3\), got \(2, 3, 5, 4\)"),
        (bad("conv2d", geometry=POOL), IMAGE, "geometry must be a Conv2dGeometry, got Pool2dGeometry"),
        (bad("linear", constants={"bias": zeros(5)}), ROW, r"needs bias of shape \(4,\), got \(5,\)"),
        (bad("linear", constants={"weight": zeros(4, 5)}), ROW, r"weight of shape \(4, 5\) does not fit"),
        (bad("linear"), (2, 6, 6), r"does not fit an input of shape \(2, 6, 6\)"),
        (bad("scale_shift", constants={"scale": zeros(4)}), IMAGE, r"needs scale of shape \(3,\), got \(4,\)"),
        (bad("scale_shift", constants={"shift": zeros(1)}), IMAGE, r"needs shift of shape \(3,\), got \(1,\)"),
        (bad("scale_shift"), (2,), r"needs an input with channels, got shape \(2,\)"),
        (bad("add", 0, 1), [IMAGE, (2, 3, 4, 5)], "needs two inputs of one shape"),
        (bad("add", 0), IMAGE, "takes 2 to 2 inputs, got 1"),
        (bad("multiply", 0, 1), [IMAGE, (2, 60)], "needs a second input of shape .* or a gate a channel, got"),
        (bad("clamp", low=float("nan")), IMAGE, "low must be a number, got nan"),
        (bad("clamp", high=6), IMAGE, "high must be a number, got 6"),
        (bad("softmax", axis=0), ROW, "axis must be from 1 to 1, got 0"),
        (bad("softmax", axis=True), ROW, "axis must be an int, got True"),
        (bad("softmax", axis=-1), ROW, "axis must be from 1 to 1, got -1"),
        (bad("concat", 0, 1), [IMAGE, (2, 60)], "cannot join .* along axis 2"),
        (bad("concat", axis=4), IMAGE, "axis must be from 1 to 3, got 4"),
        (bad("avg_pool2d", geometry=REGIONS), IMAGE, "geometry must be a Pool2dGeometry, got Adaptive"),
        (bad("adaptive_avg_pool2d", geometry=POOL), IMAGE, "geometry must be a AdaptivePool2dGeometry, got Pool"),
        (bad("max_pool2d", geometry=replace(POOL, h=6)), IMAGE, "needs an input of shape"),
        (bad("max_pool2d", geometry=replace(POOL, pad_left=2)), IMAGE, "padding is more than half of the window"),
        (bad("max_pool2d", geometry=replace(POOL, k_h=9, pad_top=0)), IMAGE, "the window does not fit"),
        (
            bad("max_pool2d", geometry=Pool2dGeometry(2, 3, 1, 60, 2, 1, 1, 1, pad_top=1, dilation_h=2)),
            (2, 3, 1, 60),
            "some window lies in the padding alone",
        ),
        (
            bad("max_pool2d", geometry=Pool2dGeometry(2, 3, 2**20, 4, 2, 1, 1, 1, dilation_h=2)),
            (2, 3, 2**20, 4),
            "or there are too many to say",
        ),
        (bad("slice", index=((0, 3, 1), (0, 6, 1), (0, 4, 1))), IMAGE, "does not lie inside"),
        (bad("slice", index=((0, 3, 1), (2, 2, 1), (0, 4, 1))), IMAGE, "does not lie inside"),
        (bad("slice", index=((0, 3, 1), (0, 5, 0), (0, 4, 1))), IMAGE, "does not lie inside"),
        (bad("slice", index=((0, 3, 1), (0, 5, 1))), IMAGE, "index needs an entry for each of 3 dimensions"),
        (bad("slice", index=((0, 3), (0, 5), (0, 4))), IMAGE, "index needs 3 integers a dimension"),
        (bad("pad", amounts=((0, 1), (2, 0))), IMAGE, "amounts needs an entry for each of 3 dimensions"),
        (bad("pad", amounts=((0, 1), (-1, 0), (0, 0))), IMAGE, "amounts must be integers from 0"),
        (bad("pad", value=1), IMAGE, "value must be a number, got 1"),
        (bad("reshape", shape=[15, 4]), IMAGE, "shape must be a list of at most 32 integers"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(one, shapes, message):
    with pytest.raises(ArgumentError, match=rf"plan: step 1 \({one.kind}\): .*{message}"):
        check_graph(graph(one, shapes, IMAGE))


def test_other_dtypes_are_refused():
    with pytest.raises(ArgumentError, match="plan: dtype must be float32 or float64, got float16"):
        check_graph(graph(*GOOD["relu"], np.dtype("float16")))


def test_a_value_written_twice_is_refused():
    one, shapes, output = GOOD["relu"]
    with pytest.raises(ArgumentError, match=r"plan: step 1 \(relu\): value 1 is written twice"):
        check_graph(graph(replace(one, output=1), shapes, output))
