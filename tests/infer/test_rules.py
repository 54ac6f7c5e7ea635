"""Each operation becomes the steps that compute it; forms that no step has are refused."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import UnsupportedError
from minires.infer.convert import convert
from minires.infer.rules import batch_norm_constants
from minires.infer.trace import trace
from minires.kernels import reference
from minires.kernels.steps import compute_graph
from minires.nn import functional as F
from tests.infer.nets import Lambda, eager, images, randomize
from tests.tolerances import assert_close


def graph_of(net, *shape):
    return convert(trace(net, shape))


def channels(*values):
    return minires.tensor(np.array(values, np.float32).reshape(1, -1, 1, 1))


C = (2.0, -0.5, 3.0)

# operation, input shape, kinds of the steps
CASES = {
    "add": (lambda x: x + F.relu(x), (2, 3, 4, 4), ["relu", "add"]),
    "add twice": (lambda x: x + x, (2, 3, 4, 4), ["add"]),
    "add number": (lambda x: 1.5 + x, (2, 3, 4, 4), ["scale_shift"]),
    "add channels": (lambda x: x + channels(*C), (2, 3, 4, 4), ["scale_shift"]),
    "sub": (lambda x: x - channels(*C), (2, 3, 4, 4), ["scale_shift"]),
    "sub from": (lambda x: channels(*C) - x, (2, 3, 4, 4), ["scale_shift"]),
    "mul": (lambda x: channels(*C) * x, (2, 3, 4, 4), ["scale_shift"]),
    "div": (lambda x: x / channels(*C), (2, 3, 4, 4), ["scale_shift"]),
    "neg": (lambda x: -x, (2, 3, 4, 4), ["scale_shift"]),
    "normalise matrix": (lambda x: (x - minires.tensor(C)) / 2.0, (2, 3), ["scale_shift", "scale_shift"]),
    "multiply": (lambda x: x * F.relu(x), (2, 3, 4, 4), ["relu", "multiply"]),
    "gate": (
        lambda x: x.mean((2, 3), keepdim=True) * x,
        (2, 3, 4, 5),
        ["adaptive_avg_pool2d", "multiply"],
    ),
    "residual_relu": (lambda x: F.residual_relu(x, x * x), (2, 3, 4, 4), ["multiply", "add", "relu"]),
    "sigmoid": (lambda x: (100 * x).sigmoid(), (2, 3, 4, 4), ["scale_shift", "sigmoid"]),
    "relu6": (lambda x: F.relu6(x * 5), (2, 3, 4, 4), ["scale_shift", "clamp"]),
    "clamp": (lambda x: x.clamp(min=0.1), (2, 3, 4, 4), ["clamp"]),
    "softmax": (lambda x: x.softmax(-1), (2, 5), ["softmax"]),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), (2, 3, 6, 7), ["max_pool2d"]),
    "max_pool2d dilated": (lambda x: F.max_pool2d(x, 2, 1, 1, dilation=2), (2, 3, 6, 7), ["max_pool2d"]),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), (2, 3, 5, 7), ["max_pool2d"]),
    "amax": (lambda x: x.amax((2, 3)), (2, 3, 5, 7), ["max_pool2d", "reshape"]),
    "avg_pool2d": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        (2, 3, 6, 7),
        ["avg_pool2d"],
    ),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (2, 3)), (2, 3, 5, 7), ["adaptive_avg_pool2d"]),
    "mean": (lambda x: x.mean((3, 2)), (2, 3, 5, 7), ["adaptive_avg_pool2d", "reshape"]),
    "mean keepdim": (lambda x: x.mean((-2, -1), keepdim=True), (2, 3, 5, 7), ["adaptive_avg_pool2d"]),
    "flatten": (lambda x: x.flatten(1), (2, 3, 2, 2), ["reshape"]),
    "unchanged": (
        lambda x: x.clone().float().expand(x.shape).permute(0, 1, 2, 3),
        (2, 3, 2, 2),
        ["reshape"] * 3,
    ),
    "slice": (lambda x: x[:, 1:, ::2, -3:-1], (2, 3, 5, 6), ["slice"]),
    "number": (lambda x: x[..., -1], (2, 3, 5, 6), ["slice", "reshape"]),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 3), value=1.5), (2, 3, 5, 6), ["pad"]),
    "pad and cut": (lambda x: F.pad(x, (-1, 2, 1, -2)), (2, 3, 5, 6), ["slice", "pad"]),
    "cat": (lambda x: minires.cat([x, F.relu(x), x], -3), (2, 3, 5, 6), ["relu", "concat"]),
    "matmul": (lambda x: x @ minires.tensor(np.eye(3, 4, dtype=np.float32)), (2, 3), ["linear"]),
}


@pytest.mark.parametrize("case", CASES)
def test_operation_becomes_steps(case):
    function, shape, kinds = CASES[case]
    net = Lambda(function)
    graph = graph_of(net, *shape)
    assert [step.kind for step in graph.steps] == kinds
    x = images(*shape, dtype="float32", seed=7)
    expected = eager(net, x)
    assert_close(compute_graph(reference, graph, x).astype(np.float32), expected, "float32", what="unrewritten")
    plan = minires.compile(net, shape, kernels="reference")
    for n in (1, 3):  # no size of the traced batches is left in the steps
        x = images(n, *shape[1:], dtype="float32", seed=n)
        assert_close(plan(x), eager(net, x), "float32", what=f"plan, batch {n}")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_convolution_and_linear_become_steps(groups, bias):
    net = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups, bias),
        nn.Conv2d(6, 4, 3, padding="same", bias=bias),
        nn.Flatten(),
        nn.Linear(4 * 4 * 5, 3, bias=bias),
    )
    graph = graph_of(net, 2, 4, 8, 7)
    assert [step.kind for step in graph.steps] == ["conv2d", "conv2d", "reshape", "linear"]
    assert [sorted(step.constants) for step in graph.steps if step.constants] == [["bias", "weight"][1 - bias :]] * 3
    x = images(2, 4, 8, 7, dtype="float32")
    assert_close(compute_graph(reference, graph, x), eager(net, x), "float32", n=80)


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_becomes_scale_and_shift_in_float64(affine):
    net = randomize(nn.Sequential(nn.BatchNorm2d(3, affine=affine)))
    graph = graph_of(net, 2, 3, 4, 4)
    (step,) = graph.steps
    assert step.kind == "scale_shift"
    assert {constant.dtype for constant in step.constants.values()} == {np.dtype("float64")}
    x = images(2, 3, 4, 4, dtype="float32")
    assert_close(compute_graph(reference, graph, x).astype(np.float32), eager(net, x), "float32")


def test_fused_batch_norm_is_taken_apart():
    norm = randomize(nn.BatchNorm2d(3))

    def forward(x, norm):
        given = (norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps)
        alone = F.batch_norm_relu(x, *given)
        return F.batch_norm_relu(x, *given, shortcut=alone)

    net = Lambda(forward, norm=norm)
    graph = graph_of(net, 2, 3, 4, 4)
    assert [step.kind for step in graph.steps] == ["scale_shift", "relu", "scale_shift", "add", "relu"]
    x = images(2, 3, 4, 4, dtype="float32")
    assert_close(compute_graph(reference, graph, x).astype(np.float32), eager(net, x), "float32")


def test_batch_norm_constants_are_the_formula():
    mean, var = np.array([1.0, -2.0]), np.array([4.0, 0.25])
    constants = batch_norm_constants(np.array([3.0, 1.0]), np.array([0.5, 0.0]), mean, var, 0.0)
    np.testing.assert_array_equal(constants["scale"], [1.5, 2.0])
    np.testing.assert_array_equal(constants["shift"], [-1.0, 4.0])


REFUSED = {
    "with weights that depend on the input": lambda x: F.conv2d(x, x[:, :, :1, :1].reshape(x.shape[0], 3, 1, 1)),
    r"except on \(N, features\)": lambda x: F.linear(x, minires.ones(2, 4)),
    r"except of \(N, features\) by a constant matrix": lambda x: x @ minires.ones(4, 4),
    r"with another value of shape \(1, 3, 4, 1\)": lambda x: x * x[..., :1],
    r"with another value of shape \(1, 3, 1, 1\)": lambda x: x + x.mean((2, 3), keepdim=True),
    r"with a constant of shape \(1, 1, 4, 4\), which is not one number a channel": lambda x: (
        x + minires.ones(1, 1, 4, 4)
    ),
    "with two values": lambda x: x - F.relu(x),
    "of a constant by a value": lambda x: 1 / x,
    "over the batch": lambda x: x.softmax(0),
    r"except over rows and columns of \(N, C, H, W\)": lambda x: x.mean(1),
    r"with these arguments: \(\(0, 2, 3, 1\),\)": lambda x: x.permute(0, 2, 3, 1),
    r"with these arguments: \(.*float64.*\)": lambda x: x.double().float(),
    "except for slices and numbers behind the batch": lambda x: x[:, [0, 1]],
    "of the batch": lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))[:1],
    "of batches": lambda x: minires.cat([x, x], 0)[:1],
    "with a constant among its parts": lambda x: minires.cat([x, minires.ones(x.shape[0], 1, 4, 4)], 1),
    "with a constant shortcut": lambda x: F.residual_relu(x, minires.ones(*x.shape)),
    r"to \(3, 16\), which does not keep the batch in front": lambda x: x.reshape(3, -1).reshape(x.shape),
}


@pytest.mark.parametrize("why", REFUSED)
def test_forms_without_a_step_are_refused(why):
    with pytest.raises(
        UnsupportedError, match=rf"compile: \w+ has no step in a plan {why}.*, got input of shape \(1, 3, 4"
    ):
        graph_of(Lambda(REFUSED[why]), 1, 3, 4, 4)
