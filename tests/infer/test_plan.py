"""The plan as a user holds it: any batch size, arrays of its own, errors at the boundary, no tensors at run time."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import ArgumentError, ConfigError, DTypeError, ShapeError
from minires.infer import plan as plan_module
from minires.infer.executor import ReferenceExecutor
from minires.kernels import reference
from tests.infer.nets import eager, images, small
from tests.test_packaging import BLOCKER, ROOT
from tests.tolerances import assert_close


@pytest.fixture
def net():
    return small("resnet8").double()


@pytest.fixture
def plan(net):
    return minires.compile(net, (2, 3, 8, 8), kernels="reference")


def test_any_batch_size(net, plan):
    for n in (1, 2, 5, 1, 7):
        x = images(n, 3, 8, 8, seed=n)
        assert_close(plan(x), eager(net, x), "float64", what=f"batch {n}")


def test_an_empty_batch_gives_an_empty_result(plan):
    y = plan(images(0, 3, 8, 8))
    assert (y.shape, y.dtype) == ((0, 5), np.float64)


def test_executors_are_kept_by_batch_size_up_to_a_limit(plan):
    for n in (1, 2, 3, 4, 1, 5):
        plan(images(n, 3, 8, 8))
    assert list(plan._executors) == [3, 4, 1, 5]
    kept = plan._executors[3]
    plan(images(3, 3, 8, 8))
    assert plan._executors[3] is kept


def test_the_result_is_an_array_of_its_own(plan):
    a, b = images(2, 3, 8, 8), images(2, 3, 8, 8, seed=2)
    first = plan(a)
    copy = first.copy()
    second = plan(b)
    np.testing.assert_array_equal(first, copy)
    assert not np.shares_memory(first, second)
    assert first.flags.writeable


def test_the_input_is_not_written_to_and_may_lie_as_it_likes(plan):
    x = images(2, 3, 8, 8)
    expected = plan(x)
    strided = np.asfortranarray(x)[:, ::-1][:, ::-1]
    strided.flags.writeable = False
    np.testing.assert_array_equal(plan(strided), expected)
    np.testing.assert_array_equal(x, images(2, 3, 8, 8))


def test_no_tensor_is_made_at_run_time(plan, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a tensor was made, or an operation passed the gate")

    x = images(3, 3, 8, 8)
    monkeypatch.setattr(minires.Tensor, "__init__", fail)
    monkeypatch.setattr("minires.autograd.function.Context.__init__", fail)
    with pytest.raises(AssertionError, match="a tensor was made"):
        minires.Tensor(x)
    assert plan(x).shape == (3, 5)


def test_threads_take_turns(plan):
    inputs = [images(1 + i % 3, 3, 8, 8, seed=i) for i in range(12)]
    expected = [plan(x) for x in inputs]
    results: list = [None] * len(inputs)

    def work(first):
        for i in range(first, len(inputs), 4):
            results[i] = plan(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (images(1, 3, 8, 8, dtype="float32"), DTypeError, r"got float32; convert with .astype\('float64'\)"),
        (images(1, 3, 8, 8).astype(">f8"), DTypeError, "expected dtype float64, got >f8"),
        (images(1, 3, 8, 9), ShapeError, r"expected shape \(n, 3, 8, 8\), as it was compiled, got \(1, 3, 8, 9\)"),
        (images(3, 8, 8), ShapeError, r"expected shape \(n, 3, 8, 8\), as it was compiled, got \(3, 8, 8\)"),
        (minires.Tensor(images(1, 3, 8, 8)), DTypeError, r"expected a NumPy array, got Tensor; of a tensor, give .numpy\(\)"),
        ([[1.0]], DTypeError, "expected a NumPy array, got list"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(plan, array, error, message):
    with pytest.raises(error, match=f"plan: .*{message}"):
        plan(array)
    with pytest.raises(error, match=f"plan: .*{message}"):
        plan.profile(array)


def test_profile_checks_its_arguments(plan):
    with pytest.raises(ArgumentError, match="profile: repeats and the batch must be at least 1, got 0 and 1"):
        plan.profile(images(1, 3, 8, 8), repeats=0)
    with pytest.raises(ArgumentError, match="profile: repeats and the batch must be at least 1, got 5 and 0"):
        plan.profile(images(0, 3, 8, 8))


def test_unknown_kernel_sets_are_refused(net):
    with pytest.raises(ConfigError, match="kernel_set: name must be one of"):
        minires.compile(net, (1, 3, 8, 8), kernels="fortran")


def test_counts(plan):
    conv = 16 * 3 * 9 * 64 + 2 * 16 * 16 * 9 * 64  # at 8x8, then 4x4 and 2x2 with twice the channels
    conv += (16 * 32 + 32 * 32) * 9 * 16 + (32 * 64 + 64 * 64) * 9 * 4
    assert plan.macs == 2 * (conv + 64 * 5)  # two images
    weights = 16 * 3 * 9 + 2 * 16 * 16 * 9 + (16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) * 9 + 64 * 5
    biases = 3 * 16 + 2 * 32 + 2 * 64 + 5
    assert plan.weight_bytes == 8 * (weights + biases)
    assert plan.bytes == plan.weight_bytes + plan.buffer_bytes
    assert plan.buffer_bytes == ReferenceExecutor(plan.graph, reference).buffer_bytes


def test_printed_plan(plan):
    lines = str(plan).splitlines()
    assert lines[0].startswith("2x3x8x8 -> 2x5 float64, 14 steps, weights ")
    assert lines[1].split() == ["step", "kind", "reads", "gives", "MACs", "bytes", "ms", "runs", "as"]
    assert lines[2].split()[:7] == ["0", "conv2d", "3x3", "+bias", "+relu", "in", "2x16x8x8"]
    assert "conv2d 3x3 +bias +shortcut +relu" in lines[4]
    assert "conv2d 3x3/2 +bias +relu" in lines[5]
    assert lines[-1].split()[0] == "total"
    assert len(lines) == 14 + 3
    assert "times of a batch" not in lines[0]
    seconds = plan.profile(images(3, 3, 8, 8), repeats=2)
    assert len(seconds) == 14
    assert min(seconds) > 0
    lines = str(plan).splitlines()
    assert lines[0].endswith("times of a batch of 3")
    assert f"{seconds[0] * 1e3:.3f}" in lines[2]
    assert f"{sum(seconds) * 1e3:.3f}" in lines[-1]
    assert repr(plan) == "<Plan of 14 steps, (2, 3, 8, 8) -> (2, 5), on reference kernels>"


class Lowering:
    """A kernel set's lowering that notes what it is given."""

    def __init__(self, takes=True):
        self.__name__ = "sets.lowering"
        self.takes, self.seen = takes, []

    def lower(self, graph, previous=None):
        def run(x):
            assert x.flags.c_contiguous
            return x[:, 0, 0, :5] + graph.batch

        self.seen.append((graph.batch, previous))
        return SimpleNamespace(run=run, notes=[], buffer_bytes=7) if self.takes else None


def test_a_set_that_lowers_gets_the_graph_and_its_earlier_work(plan):
    kernels = Lowering()
    lowered = plan_module.Plan(plan.graph, kernels)
    x = images(3, 3, 8, 8)
    np.testing.assert_array_equal(lowered(x), x[:, 0, 0, :5] + 3)
    lowered(np.asfortranarray(images(1, 3, 8, 8)))
    assert [batch for batch, _ in kernels.seen] == [3, 1]
    assert kernels.seen[0][1] is None
    assert kernels.seen[1][1] is lowered._executors[3]


def test_a_set_that_does_not_lower_a_graph_is_served_by_the_reference_executor(plan):
    kernels = Lowering(takes=False)
    vars(kernels).update({name: getattr(reference, name) for name in reference.__all__})
    x = images(2, 3, 8, 8)
    np.testing.assert_array_equal(plan_module.Plan(plan.graph, kernels)(x), plan(x))
    assert len(kernels.seen) == 1


def test_one_dimension_per_image():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(1))
    plan = minires.compile(net, (1, 4), kernels="reference")
    assert [step.kind for step in plan.graph.steps] == ["linear", "linear", "softmax"]
    x = images(3, 4, dtype="float32")
    assert_close(plan(x), eager(net, x), "float32")


def test_numpy_alone_loads_a_file_and_classifies(tmp_path, plan):
    """A process in which nothing but NumPy can be imported, and which loads no model's code."""
    plan.save(tmp_path / "plan.safetensors")
    np.save(tmp_path / "x.npy", images(2, 3, 8, 8))
    code = f"""{BLOCKER}
import numpy as np, minires
plan = minires.load_plan({str(tmp_path / "plan.safetensors")!r})
np.save({str(tmp_path / "y.npy")!r}, plan(np.load({str(tmp_path / "x.npy")!r})))
print([name for name in ("minires.models", "numba", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), plan(images(2, 3, 8, 8)))
