"""A graph lowered to the cpu set gives what its steps compute on the reference: every kind, every network, any batch."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import nn
from minires.backend import kernel_set, use_kernels
from minires.kernels import reference
from minires.kernels.cpu import tasks
from minires.kernels.cpu.plan import CpuExecutor, lower
from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, Pool2dGeometry
from minires.kernels.graph import KINDS, Graph, Step
from minires.kernels.steps import compute_graph
from tests.infer.nets import small
from tests.kernels.cpu.blocked import numbers
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("workers", "poisoned_pool")

N, C, H, W = 3, 20, 9, 7


def image_graph(kind, c_out=C, size=(H, W), inputs=(1,), constants=None, **attributes):
    """A convolution, so that the value is blocked, then the step in question."""
    first = Step("conv2d", (0,), 1, {"geometry": Conv2dGeometry(N, C, H, W, C, 1, 1), "relu": False}, weights(C, C, 1))
    step = Step(kind, inputs, 2, attributes, constants or {})
    return Graph((first, step), {0: (N, C, H, W), 1: (N, C, H, W), 2: (N, c_out, *size)}, 0, 2, np.dtype(np.float32))


def weights(c_out, c_in, k):
    return {"weight": numbers((c_out, c_in, k, k), 1) / np.float32(c_in * k * k) ** 0.5, "bias": numbers((c_out,), 2)}


def conv(c_out, k, stride=1, pad=0, dilation=1):
    return Conv2dGeometry(N, C, H, W, c_out, k, k, stride, stride, pad, pad, pad, pad, dilation, dilation)


GRAPHS = {
    "conv2d": image_graph("conv2d", 33, constants=weights(33, C, 3), geometry=conv(33, 3, pad=1), relu=True),
    "conv2d, shortcut": image_graph(
        "conv2d", inputs=(1, 0), constants=weights(C, C, 3), geometry=conv(C, 3, pad=1), relu=True
    ),
    "conv2d, wide halo": image_graph(
        "conv2d", 5, (5, 4), constants=weights(5, C, 3), geometry=conv(5, 3, 2, 2, 2), relu=False
    ),
    "scale_shift": image_graph(
        "scale_shift", constants={"scale": numbers((C,), 3), "shift": numbers((C,), 4)}, relu=True
    ),
    "relu": image_graph("relu"),
    "add": image_graph("add", inputs=(1, 0), relu=True),
    "multiply": image_graph("multiply", inputs=(1, 0)),
    "sigmoid": image_graph("sigmoid"),
    "clamp": image_graph("clamp", low=-0.5, high=0.25),
    "softmax": image_graph("softmax", axis=1),
    "max_pool2d": image_graph("max_pool2d", size=(5, 4), geometry=Pool2dGeometry(N, C, H, W, 3, 3, 2, 2, 1, 1)),
    "max_pool2d, adaptive": image_graph("max_pool2d", size=(2, 3), geometry=AdaptivePool2dGeometry(N, C, H, W, 2, 3)),
    "avg_pool2d": image_graph("avg_pool2d", size=(4, 3), geometry=Pool2dGeometry(N, C, H, W, 2, 2, 2, 2)),
    "adaptive_avg_pool2d": image_graph(
        "adaptive_avg_pool2d", size=(1, 1), geometry=AdaptivePool2dGeometry(N, C, H, W, 1, 1)
    ),
    "adaptive_avg_pool2d, regions": image_graph(
        "adaptive_avg_pool2d", size=(4, 2), geometry=AdaptivePool2dGeometry(N, C, H, W, 4, 2)
    ),
    "slice": image_graph("slice", size=(5, 7), index=((0, C, 1), (0, H, 2), (0, W, 1))),
    "pad": image_graph("pad", C + 3, amounts=((1, 2), (0, 0), (0, 0)), value=0.5),
    "concat": image_graph("concat", 2 * C, inputs=(1, 0), axis=1),
}
FLAT = Graph(
    (
        *image_graph("relu").steps,
        Step("reshape", (2,), 3, {"shape": (C * H * W,)}),
        Step("linear", (3,), 4, {"relu": True}, {"weight": numbers((21, C * H * W), 5), "bias": numbers((21,), 6)}),
    ),
    {**image_graph("relu").shapes, 3: (N, C * H * W), 4: (N, 21)},
    0,
    4,
    np.dtype(np.float32),
)


def check(graph, executor=None):
    x = numbers(graph.shapes[0], 7)
    before = x.copy()
    executor = executor or lower(graph)
    expected = compute_graph(reference, graph, x)
    first, second = executor.run(x), executor.run(x)
    assert_close(first, expected, "float32", n=256)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(x, before)
    assert first.shape == graph.shapes[graph.output] and not np.shares_memory(first, second)
    return executor


def test_every_kind_of_step_is_tested_here():
    tested = {step.kind for graph in (*GRAPHS.values(), FLAT) for step in graph.steps}
    assert tested == set(KINDS)


@pytest.mark.parametrize("graph", [*GRAPHS.values(), FLAT], ids=[*GRAPHS, "reshape, linear"])
def test_step_equals_the_reference(graph):
    executor = check(graph)
    assert len(executor.notes) == len(graph.steps) and executor.buffer_bytes > 0
    seconds = executor.profile(numbers(graph.shapes[0]))
    assert len(seconds) == len(graph.steps) and min(seconds) >= 0


@pytest.mark.parametrize("pixels", [16, 33])
@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "resnet20", "resnet18d", "seresnet18", "preact_resnet18", "wrn_16_4", "resnext50_32x4d"],
)
def test_network_equals_the_reference(name, pixels):
    with use_kernels("reference"):
        graph = minires.compile(small(name), (2, 3, pixels, pixels)).graph
    check(graph)


def test_executors_of_other_batch_sizes_share_weights():
    graph = GRAPHS["conv2d"]
    first = check(graph)
    second = check(graph.with_batch(1), lower(graph.with_batch(1), first))
    assert second.constants is first.constants
    check(graph.with_batch(7), lower(graph.with_batch(7), second))


def test_float64_is_left_to_the_reference():
    double = Graph(GRAPHS["relu"].steps, GRAPHS["relu"].shapes, 0, 2, np.dtype(np.float64))
    assert lower(double) is None
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    plan = minires.compile(net, (1, 3, 8, 8), kernels="cpu")
    assert plan(np.ones((1, 3, 8, 8))).dtype == np.float64


def test_a_plan_outlives_a_change_of_the_number_of_workers(monkeypatch):
    """Scratch is for as many workers as there were: a plan never runs on more."""
    graph = GRAPHS["conv2d, shortcut"].with_batch(24)
    monkeypatch.setattr(tasks, "_workers", 1)
    executor = CpuExecutor(graph, {})
    executor.run(numbers(graph.shapes[0]))
    seen = []
    real = tasks._call
    monkeypatch.setattr(
        tasks, "_call", lambda steps, count, team, pool: (seen.append(team), real(steps, count, team, pool))
    )
    monkeypatch.setattr(tasks, "_workers", 4)
    executor.run(numbers(graph.shapes[0]))
    assert set(seen) == {1}


def test_steps_without_a_task_follow_ieee_754_in_silence():
    graph = GRAPHS["multiply"]
    x = np.full(graph.shapes[0], 3e38, np.float32)
    assert not np.isfinite(lower(graph).run(x)).all()  # warnings are errors in tests


def test_compile_uses_the_lowering():
    plan = minires.compile(small("resnet20"), (1, 3, 16, 16), kernels="cpu")
    plan(np.zeros((1, 3, 16, 16), np.float32))
    assert plan.kernels is kernel_set("cpu")
    assert isinstance(plan._executors[1], CpuExecutor) and "direct, stem" in plan._executors[1].notes
