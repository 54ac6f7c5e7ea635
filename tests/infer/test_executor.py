"""The reference executor against the textbook of the steps, kind by kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minires.infer.executor import ReferenceExecutor
from minires.kernels import reference
from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, Pool2dGeometry
from minires.kernels.steps import compute_graph, sigmoid
from tests.infer.nets import images
from tests.infer.test_rewrite import C, Draft, H, N, W
from tests.tolerances import assert_close

FULL = (N, C, H, W)
POOL = Pool2dGeometry(*FULL, 3, 2, 2, 1, 1, 1, ceil_mode=True, count_include_pad=False)


def check(graph, x=None, dtype="float64"):
    x = images(*graph.shapes[0]) if x is None else x
    executor = ReferenceExecutor(graph, reference)
    executor.block[...] = 255  # NaN: nothing may be read before it is written
    y = executor.run(x)
    assert_close(y, compute_graph(reference, graph, x), dtype)
    np.testing.assert_array_equal(executor.run(x), y, err_msg="the second run")
    assert not np.shares_memory(y, executor.block)
    assert len(executor.profile(x)) == len(executor.notes) == len(graph.steps)


@given(st.data())
def test_conv2d(data):
    small = st.integers(1, 3)
    groups, k_h, k_w = data.draw(st.sampled_from([1, 2])), data.draw(small), data.draw(small)
    pads = [data.draw(st.integers(0, 2)) for _ in range(4)]
    g = Conv2dGeometry(
        2, 4, 5, 6, 6, k_h, k_w, data.draw(small), data.draw(small), *pads, *[data.draw(small)] * 2, groups
    )
    assume(min(g.h_out, g.w_out) >= 1)
    d = Draft()
    d.shapes[0] = g.x_shape
    constants = {"weight": d.rng.standard_normal(g.weight_shape)}
    if data.draw(st.booleans()):
        constants["bias"] = d.rng.standard_normal(g.c_out)
    y = d.add("conv2d", 0, constants=constants, geometry=g, relu=data.draw(st.booleans()))
    if data.draw(st.booleans()):
        y = d.add("conv2d", 0, y, constants=constants, geometry=g, relu=data.draw(st.booleans()))
    check(d.graph(y))


KINDS = {
    "relu": {},
    "sigmoid": {},
    "clamp": {"low": -0.5, "high": 0.25},
    "softmax": {"axis": 2},
    "max_pool2d": {"geometry": POOL},
    "max_pool2d adaptive": {"geometry": AdaptivePool2dGeometry(*FULL, 2, 3)},
    "avg_pool2d": {"geometry": POOL},
    "adaptive_avg_pool2d": {"geometry": AdaptivePool2dGeometry(*FULL, 2, 3)},
    "reshape": {"shape": (W, H * C)},
    "slice": {"index": ((0, 3, 2), (1, 5, 3), (2, 4, 1))},
    "pad": {"amounts": ((1, 0), (0, 2), (3, 1)), "value": -1.5},
}


@pytest.mark.parametrize("read_again", [False, True])
@pytest.mark.parametrize("case", KINDS)
def test_steps_of_one_input(case, read_again):
    """Behind a convolution, so that the input may be written over, or not where it is read again."""
    d = Draft()
    x = d.conv(0)
    y = d.add(case.split()[0], x, **KINDS[case])
    if read_again:
        flat = [d.add("reshape", value, shape=(int(np.prod(d.shapes[value][1:])),)) for value in (x, y)]
        y = d.add("concat", *flat, axis=1)
    check(d.graph(y))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("read_again", [False, True])
def test_steps_with_constants_or_two_inputs(relu, read_again):
    d = Draft()
    x = d.conv(0)
    y = d.norm(x, relu)
    z = d.join(y, x if read_again else 0, relu)
    z = d.add("multiply", z, y) if read_again else z
    gate = d.add("adaptive_avg_pool2d", z, geometry=AdaptivePool2dGeometry(N, C, H, W, 1, 1))
    z = d.add("multiply", z, gate)
    z = d.add("concat", z, z, y, axis=1) if read_again else z
    z = d.add("reshape", z, shape=(int(np.prod(d.shapes[z][1:])),))
    z = d.linear(z)
    check(d.graph(d.norm(z, relu)))


def test_nan_and_infinities_pass_as_in_the_kernels():
    d = Draft()
    x = images(N, C, H, W)
    x[0, 0, 2, 1], x[1, 2, 0, 0], x[0, 1, 4, 3] = np.nan, np.inf, -np.inf
    pooled = d.add("max_pool2d", d.relu(0), geometry=POOL)
    check(d.graph(d.add("sigmoid", pooled)), x)


def test_max_pool_of_minus_infinity_is_minus_infinity():
    d = Draft()
    check(d.graph(d.add("max_pool2d", 0, geometry=POOL)), np.full((N, C, H, W), -np.inf))


def test_sigmoid_does_not_overflow_and_keeps_small_values():
    for dtype in (np.float32, np.float64):
        x = np.array([-1e4, -80.0, -1.0, 0.0, 1.0, 80.0, 1e4], dtype)
        expected = np.array([0.0, 1.8048513878454153e-35, 0.2689414213699951, 0.5, 0.7310585786300049, 1.0, 1.0])
        np.testing.assert_allclose(sigmoid(x), expected, rtol=1e-5 if dtype is np.float32 else 1e-14)


def test_notes_say_how_a_step_runs():
    d = Draft()
    y = d.conv(d.conv(d.relu(d.conv(0)), k=1), 0)
    y = d.add("reshape", y, shape=(C * H * W,))
    assert ReferenceExecutor(d.graph(y), reference).notes == ["im2col", "in place", "matmul", "im2col", "view"]
