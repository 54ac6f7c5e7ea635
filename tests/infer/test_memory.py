"""Memory by lifetime: what lives at the same time never overlaps, and a run never reads what is dead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minires
from minires.infer.executor import ReferenceExecutor
from minires.infer.memory import ALIGNMENT, Block, last_uses, place, plan_memory, share
from minires.kernels import reference
from tests.infer.nets import eager, images, small
from tests.infer.test_rewrite import Draft
from tests.tolerances import assert_close

TIMES = st.integers(-1, 9)
BLOCKS = st.lists(st.builds(lambda a, b, size: Block(min(a, b), max(a, b), size), TIMES, TIMES, st.integers(0, 500)))


@given(BLOCKS)
def test_place_keeps_blocks_that_live_together_apart(blocks):
    offsets, size = place(blocks)
    assert all(offset % ALIGNMENT == 0 and offset + b.size <= size for offset, b in zip(offsets, blocks, strict=True))
    for i, a in enumerate(blocks):
        for j, b in enumerate(blocks[:i]):
            together = a.first <= b.last and b.first <= a.last
            if together and a.size and b.size:
                assert offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i]


def test_place_reuses_what_is_free():
    """A chain: each value lives with the next one only, so two places serve any length."""
    blocks = [Block(i, i + 1, 640) for i in range(10)]
    assert place(blocks)[1] == 2 * 640


def test_last_uses_looks_through_reshapes():
    d = Draft()
    a = d.relu(0)
    b = d.add("reshape", a, shape=(60,))
    c = d.relu(b)
    uses = last_uses(d.graph(d.join(c, b)))
    assert uses[0] == 0
    assert uses[a] == uses[b] == 3


def test_the_output_lives_to_the_end():
    d = Draft()
    y = d.relu(0)
    d.norm(d.conv(y))  # read by nobody
    assert last_uses(d.graph(y))[y] == 3


def test_share_writes_over_an_input_that_dies():
    d = Draft()
    a = d.relu(0)
    b = d.add("sigmoid", a)
    c = d.join(b, a)
    owner = share(d.graph(c))
    assert owner[a] == 0  # the input's copy is ours to write over
    assert owner[b] == b  # a is read again
    assert owner[c] == b


def test_share_sees_readers_behind_a_reshape():
    d = Draft()
    a = d.conv(0)
    b = d.add("reshape", a, shape=(60,))
    c = d.relu(a)
    e = d.relu(b)
    f = d.add("reshape", c, shape=(60,))
    owner = share(d.graph(d.join(f, e)))
    assert owner[b] == a
    assert owner[c] == c  # b, which is a, is read behind this step
    assert owner[e] == a
    assert owner[f] == c


def test_a_block_lives_as_long_as_any_value_in_it():
    d = Draft()
    a = d.conv(0)
    b = d.add("reshape", a, shape=(60,))
    d.add("softmax", b, axis=1)  # the last to read b
    c = d.add("softmax", 0, axis=1)
    graph = d.graph(d.join(c, a))
    lifetimes = plan_memory(graph, [0] * len(graph.steps)).lifetimes
    assert lifetimes[a] == lifetimes[b] == (0, 4)


def poisoned_run(graph, x):
    """Run with every byte that holds no living value turned to NaN before each step."""
    executor = ReferenceExecutor(graph, reference)
    executor._values[graph.input][...] = x
    for position, call in enumerate(executor.calls):
        alive = np.zeros(len(executor.block), bool)
        for value, (first, last) in executor.memory.lifetimes.items():
            written = value == graph.input or any(step.output == value for step in graph.steps[:position])
            if written and first < position <= last:
                start = executor.memory.offsets[value]
                alive[start : start + executor._values[value].nbytes] = True
        executor.block[~alive] = 255  # all bits set: NaN in float32 and float64
        call()
    return executor._values[graph.output].copy()


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "resnet18d", "seresnet18", "preact_resnet18", "wrn_16_4"])
def test_no_step_reads_dead_memory(name):
    net = small(name).double()
    graph = minires.compile(net, (2, 3, 16, 16), kernels="reference").graph
    x = images(2, 3, 16, 16)
    y = poisoned_run(graph, x)
    assert_close(y, eager(net, x), "float64")


def test_values_take_little_more_than_what_lives_at_once():
    graph = minires.compile(small("resnet50"), (1, 3, 64, 64), kernels="reference").graph
    size = plan_memory(graph, [0] * len(graph.steps)).size
    uses = last_uses(graph)
    written = {graph.input: -1, **{step.output: position for position, step in enumerate(graph.steps)}}
    nbytes = {value: 4 * int(np.prod(shape)) for value, shape in graph.shapes.items()}
    at_once = max(
        sum(nbytes[value] for value in graph.shapes if written[value] <= position <= uses[value])
        for position in range(len(graph.steps))
    )
    assert size < 1.1 * at_once
    assert size < sum(nbytes.values()) / 5
