"""Each rewriting alone: the graph before, the graph after, and the same numbers from both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minires.infer import rewrite
from minires.infer.check import check_graph, output_shape
from minires.kernels import reference
from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.graph import Graph, Step
from minires.kernels.steps import compute_graph
from tests.infer.nets import images

N, C, H, W = 2, 3, 5, 4


class Draft:
    """A graph written by hand: each method adds a step and gives the number of its output; 0 is the input."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.shapes = {0: (N, C, H, W)}
        self.rng = np.random.default_rng(0)

    def add(self, kind, *inputs, constants=None, **attributes):
        step = Step(kind, inputs, len(self.shapes), attributes, constants or {})
        self.steps.append(step)
        self.shapes[step.output] = output_shape(step, [self.shapes[value] for value in inputs])
        return step.output

    def conv(self, x, *shortcut, c_out=C, bias=False, relu=False, k=3):
        n, c, h, w = self.shapes[x]
        p = k // 2
        g = Conv2dGeometry(n, c, h, w, c_out, k, k, pad_top=p, pad_bottom=p, pad_left=p, pad_right=p)
        constants = {"weight": self.rng.standard_normal(g.weight_shape)}
        if bias:
            constants["bias"] = self.rng.standard_normal(c_out)
        return self.add("conv2d", x, *shortcut, constants=constants, geometry=g, relu=relu)

    def norm(self, x, relu=False):
        scale, shift = self.rng.standard_normal((2, self.shapes[x][1]))
        return self.add("scale_shift", x, constants={"scale": scale, "shift": shift}, relu=relu)

    def linear(self, x, out=4):
        weight = self.rng.standard_normal((out, self.shapes[x][1]))
        return self.add("linear", x, constants={"weight": weight}, relu=False)

    def relu(self, x):
        return self.add("relu", x)

    def join(self, a, b, relu=False):
        return self.add("add", a, b, relu=relu)

    def graph(self, output):
        graph = Graph(tuple(self.steps), self.shapes, 0, output, np.dtype("float64"))
        check_graph(graph)
        return graph


def outline(graph):
    """`conv2d+s+r` for each step: its kind, whether it has a shortcut, whether it has a ReLU."""
    marks = [
        step.kind
        + "+b" * ("bias" in step.constants)
        + "+s" * (step.kind == "conv2d" and len(step.inputs) == 2)
        + "+r" * step.attributes.get("relu", False)
        for step in graph.steps
    ]
    return " ".join(marks)


def check(rewriting, graph, after):
    """The rewritten graph has this outline, is complete, and computes the same; the first one is as it was."""
    before, x = outline(graph), images(N, C, H, W)
    expected = compute_graph(reference, graph, x)
    rewritten = rewriting(graph)
    check_graph(rewritten)
    assert outline(rewritten) == after
    np.testing.assert_allclose(compute_graph(reference, rewritten, x), expected, rtol=1e-12, atol=1e-12)
    assert outline(graph) == before
    return rewritten


def test_drop_reshapes_removes_what_changes_nothing():
    d = Draft()
    y = d.add("reshape", 0, shape=(C, H, W))
    y = d.add("slice", y, index=((0, C, 1), (0, H, 1), (0, W, 1)))
    y = d.relu(y)
    y = d.add("pad", y, amounts=((0, 0),) * 3, value=1.0)
    check(rewrite.drop_reshapes, d.graph(y), "relu")


def test_drop_reshapes_keeps_what_changes_something():
    d = Draft()
    y = d.add("slice", 0, index=((0, C, 1), (0, H, 2), (0, W, 1)))
    y = d.add("pad", y, amounts=((0, 0), (1, 0), (0, 0)), value=1.0)
    y = d.add("reshape", y, shape=(C * 4 * W,))
    check(rewrite.drop_reshapes, d.graph(y), "slice pad reshape")


def test_drop_reshapes_reads_past_a_reshape():
    d = Draft()
    a = d.add("reshape", 0, shape=(C * H * W,))
    b = d.add("reshape", a, shape=(C, H * W))
    graph = check(rewrite.drop_reshapes, d.graph(b), "reshape reshape")
    assert [step.inputs for step in graph.steps] == [(0,), (0,)]
    check(rewrite.drop_unread, graph, "reshape")


def test_drop_unread_removes_what_the_output_does_not_need():
    d = Draft()
    d.relu(d.conv(0))
    y = d.add("sigmoid", 0)
    check(rewrite.drop_unread, d.graph(y), "sigmoid")


def test_merge_scale_shifts():
    d = Draft()
    check(rewrite.merge_scale_shifts, d.graph(d.norm(d.norm(d.norm(0)), relu=True)), "scale_shift+r")


def test_merge_scale_shifts_stops_at_a_relu():
    d = Draft()
    check(rewrite.merge_scale_shifts, d.graph(d.norm(d.norm(0, relu=True))), "scale_shift+r scale_shift")


@pytest.mark.parametrize("bias", [False, True])
def test_fold_scale_shift_into_a_convolution(bias):
    d = Draft()
    y = d.norm(d.conv(0, c_out=6, bias=bias), relu=True)
    graph = check(rewrite.fold_scale_shift, d.graph(y), "conv2d+b+r")
    assert {constant.dtype for constant in graph.steps[0].constants.values()} == {np.dtype("float64")}


def test_fold_scale_shift_into_a_linear_layer():
    d = Draft()
    y = d.add("reshape", 0, shape=(C * H * W,))
    check(rewrite.fold_scale_shift, d.graph(d.norm(d.linear(y))), "reshape linear+b")


def test_fold_scale_shift_leaves_a_norm_in_front_of_a_padded_convolution():
    d = Draft()
    check(rewrite.simplify, d.graph(d.conv(d.norm(0))), "scale_shift conv2d")


def test_fold_scale_shift_leaves_an_output_that_others_read():
    d = Draft()
    y = d.conv(0)
    check(rewrite.fold_scale_shift, d.graph(d.join(d.norm(y), y)), "conv2d scale_shift add")
    d = Draft()
    y = d.conv(0)
    d.norm(y)
    check(rewrite.fold_scale_shift, d.graph(y), "conv2d scale_shift")


def test_fold_scale_shift_stops_at_a_relu_and_at_a_shortcut():
    d = Draft()
    check(rewrite.fold_scale_shift, d.graph(d.norm(d.conv(0, relu=True))), "conv2d+r scale_shift")
    d = Draft()
    check(rewrite.fold_scale_shift, d.graph(d.norm(d.conv(0, 0))), "conv2d+s scale_shift")


@pytest.mark.parametrize("first", [True, False])
def test_fuse_add_makes_the_other_branch_the_shortcut(first):
    d = Draft()
    y = d.conv(0)
    y = d.join(y, 0, relu=True) if first else d.join(0, y, relu=True)
    graph = check(rewrite.fuse_add, d.graph(y), "conv2d+s+r")
    assert graph.steps[0].inputs == (0, 0)


def test_fuse_add_of_two_convolutions_takes_the_later():
    d = Draft()
    a, b = d.conv(0), d.conv(0, k=1)
    graph = check(rewrite.fuse_add, d.graph(d.join(a, b)), "conv2d conv2d+s")
    assert graph.steps[1].attributes["geometry"].k_h == 1


def test_fuse_add_moves_the_convolution_behind_its_shortcut():
    d = Draft()
    a = d.conv(0)
    b = d.add("sigmoid", 0)
    check(rewrite.fuse_add, d.graph(d.join(a, b)), "sigmoid conv2d+s")


def test_fuse_add_in_a_chain_of_blocks():
    d = Draft()
    x = 0
    for _ in range(3):
        x = d.join(d.conv(d.conv(x, relu=True)), x, relu=True)
    check(rewrite.fuse_add, d.graph(x), " ".join(["conv2d+r conv2d+s+r"] * 3))


def test_fuse_add_leaves_what_others_read():
    d = Draft()
    y = d.conv(0)
    check(rewrite.fuse_add, d.graph(d.join(d.join(y, 0), y)), "conv2d add add")
    d = Draft()
    y = d.conv(0)
    check(rewrite.fuse_add, d.graph(d.join(y, y)), "conv2d add")
    d = Draft()
    y = d.conv(0)
    d.join(y, 0)
    check(rewrite.fuse_add, d.graph(y), "conv2d add")


def test_fuse_add_stops_at_a_relu_and_at_a_second_shortcut():
    d = Draft()
    check(rewrite.fuse_add, d.graph(d.join(d.conv(0, relu=True), 0)), "conv2d+r add")
    d = Draft()
    check(rewrite.fuse_add, d.graph(d.join(d.conv(0, 0), 0)), "conv2d+s add")


def test_fuse_relu():
    d = Draft()
    y = d.relu(d.conv(0, 0))
    y = d.relu(d.norm(y))
    y = d.relu(d.join(y, 0))
    y = d.relu(d.linear(d.add("reshape", y, shape=(C * H * W,))))
    check(rewrite.fuse_relu, d.graph(y), "conv2d+s+r scale_shift+r add+r reshape linear+r")


def test_fuse_relu_leaves_what_others_read():
    d = Draft()
    y = d.conv(0)
    check(rewrite.fuse_relu, d.graph(d.join(d.relu(y), y)), "conv2d relu add")


def test_fuse_relu_leaves_other_kinds():
    d = Draft()
    check(rewrite.fuse_relu, d.graph(d.relu(d.add("sigmoid", 0))), "sigmoid relu")


def test_a_block_becomes_two_steps():
    """Basic block: conv bn relu conv bn, plus x, relu."""
    d = Draft()
    y = d.norm(d.conv(d.relu(d.norm(d.conv(0)))))
    check(rewrite.simplify, d.graph(d.relu(d.join(y, 0))), "conv2d+b+r conv2d+b+s+r")


def test_round_constants_rounds_once_copies_and_orders():
    weight = np.asfortranarray(np.random.default_rng(0).standard_normal((4, 3)))
    step = Step("linear", (0,), 1, {"relu": False}, {"weight": weight})
    graph = rewrite.round_constants(Graph((step,), {0: (1, 3), 1: (1, 4)}, 0, 1, np.dtype("float32")), set())
    rounded = graph.steps[0].constants["weight"]
    assert rounded.dtype == np.float32
    assert rounded.flags.c_contiguous
    np.testing.assert_array_equal(rounded, weight.astype(np.float32))
    same = Graph((step,), {0: (1, 3), 1: (1, 4)}, 0, 1, np.dtype("float64"))
    assert not np.shares_memory(rewrite.round_constants(same, {id(weight)}).steps[0].constants["weight"], weight)


def test_simplify_shares_no_memory_with_the_model_and_copies_nothing_twice():
    d = Draft()
    graph = d.graph(d.norm(d.conv(d.conv(0))))
    short = rewrite.simplify(graph)
    assert [step.kind for step in short.steps] == ["conv2d", "conv2d"]
    theirs = [constant for step in graph.steps for constant in step.constants.values()]
    for step in short.steps:
        for ours in step.constants.values():
            assert not any(np.shares_memory(ours, array) for array in theirs)
    made = rewrite.fold_scale_shift(graph).steps[1].constants["weight"]
    step = Step("conv2d", (0,), 1, short.steps[1].attributes, {"weight": made.astype(graph.dtype)})
    own = rewrite.round_constants(replace(short, steps=(step,)), set()).steps[0].constants["weight"]
    assert own is step.constants["weight"]
