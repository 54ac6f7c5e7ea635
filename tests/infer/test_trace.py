"""Tracing: values are followed through in-place writes and views, and what a trace cannot repeat is refused by name."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest

import minires
from minires import nn
from minires.autograd import function as gate
from minires.autograd import run_inplace, variable
from minires.backend import use_kernels
from minires.errors import ArgumentError, ShapeError, UnsupportedError
from minires.infer.trace import trace
from minires.nn import functional as F
from tests.infer.nets import Lambda, eager, images
from tests.tolerances import assert_close


def plan_of(net, shape=(1, 4, 6, 6)):
    return minires.compile(net, shape, kernels="reference")


def check(function, shape=(2, 4, 6, 6), **modules):
    """Compile, in both dtypes (for float32 the set in use may have arrays of its own), and compare with the eager run."""
    for dtype in ("float32", "float64") if modules else ("float32",):  # without parameters, a plan is float32
        net = Lambda(function, **modules)
        net = net.double() if dtype == "float64" else net
        x = images(*shape, dtype=dtype)
        assert_close(plan_of(net, shape)(x), eager(net, x), dtype, n=36)


def conv(c_in=4, c_out=4):
    return nn.Conv2d(c_in, c_out, 3, padding=1)


def test_in_place_relu_and_addition_are_followed():
    def forward(x, a, b):
        y = a(x)
        y.relu_()
        z = b(y)
        z += y
        return F.relu(z, inplace=True)

    check(forward, a=conv(), b=conv())


def test_an_input_overwritten_in_place_is_followed():
    check(lambda x, a: a(x.clone().mul_(2.0)) + x, a=conv())


def test_detach_and_data_keep_the_value():
    check(lambda x, a: a(x).detach() + a(x).data, a=conv())


def test_a_custom_function_is_followed_through_its_operations():
    class Twice(minires.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x + x

    check(lambda x, a: Twice.apply(a(x)), a=conv())


def test_constants_made_in_the_model_are_constants():
    check(lambda x, a: a(x) * (minires.ones(1, 4, 1, 1, dtype=x.dtype) * 3.0), a=conv())


@pytest.mark.usefixtures("reference_kernels")  # plain arrays: a write into a view of one can be followed
def test_a_constant_written_into_a_value_is_a_constant():
    def forward(x, a):
        y = a(x)
        run_inplace("three", lambda old: minires.full(old.shape, 3.0, dtype=minires.float64), y)
        return a(x) + y

    net = Lambda(forward, a=conv()).double()
    add = trace(net, (1, 4, 6, 6), "float64").calls[-1]
    assert add.name == "add"
    np.testing.assert_array_equal(add.args[1], np.full((1, 4, 6, 6), 3.0))


def test_a_constant_that_the_model_changes_is_noticed():
    weights = minires.ones(4, 4)

    def forward(x):
        y = x @ weights
        weights.mul_(2.0)
        return y

    with pytest.raises(UnsupportedError, match="two runs of the model did not do the same"):
        plan_of(Lambda(forward), (1, 4))


def test_dropout_and_identity_leave_no_step():
    net = nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.Conv2d(4, 4, 1), nn.Dropout2d(0.5))
    assert [step.kind for step in plan_of(net).graph.steps] == ["conv2d"]


def test_an_identity_model_copies():
    plan = plan_of(nn.Identity())
    x = images(3, 4, 6, 6, dtype="float32")
    y = plan(x)
    np.testing.assert_array_equal(y, x)
    assert not np.shares_memory(x, y)


def test_compiling_leaves_the_model_as_it_was():
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net.train()
    net[1].eval()
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    state = minires.get_rng_state()
    plan_of(net)
    assert [module.training for module in net.modules()] == [True, True, False]
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    assert repr(minires.get_rng_state()) == repr(state)
    assert gate.listeners == []
    assert variable.tensor_type is minires.Tensor


def test_a_failed_trace_stops_listening():
    def fail(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        plan_of(Lambda(fail))
    assert gate.listeners == []
    assert variable.tensor_type is minires.Tensor


def test_other_threads_are_not_overheard():
    def forward(x, a):
        other = threading.Thread(target=lambda: F.relu(x))
        other.start()
        other.join()
        return a(x)

    net = Lambda(forward, a=conv()).double()
    assert [call.name for call in trace(net, (1, 4, 6, 6), "float64").calls] == ["conv2d"]


def test_weights_are_copied():
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(144, 3))
    plan = plan_of(net)
    x = images(1, 4, 6, 6, dtype="float32")
    before = plan(x)
    for parameter in net.parameters():
        parameter.array[...] = 0
    np.testing.assert_array_equal(plan(x), before)


# -------------------------------------------------------------------------------------------------------------- refused


def stale(x):
    y = F.relu(x)
    view = y.reshape(x.shape[0], -1)
    y.mul_(2.0)
    return view


def assigned(x):
    y = F.relu(x)
    y[:, 0] = 0.0
    return F.relu(y)


def nonzero_branch(x):
    return x if x.sum() > 0 else -x


def through_numpy(x):
    return x * minires.Tensor(x.array.mean(axis=(0, 2, 3)).reshape(1, -1, 1, 1))


READS = r"compile: the model reads a value that depends on its input as numbers \({}\)"
EXP = re.escape(
    "compile: exp has no step in a plan, got input of shape (1, 4, 6, 6); run the model itself, model(x), instead of a plan"
)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (nonzero_branch, UnsupportedError, READS.format("bool")),
        (lambda x: x if F.relu(x)[:, :1, :1, :1] else -x, UnsupportedError, READS.format("bool")),
        (lambda x: x * F.relu(x).mean((2, 3))[:, :1].item(), UnsupportedError, READS.format("item")),
        (lambda x: x * len(F.relu(x).tolist()), UnsupportedError, READS.format("tolist")),
        (lambda x: x * F.relu(x).numpy().mean(), UnsupportedError, READS.format("numpy")),
        (lambda x: x * np.asarray(F.relu(x)).mean(), UnsupportedError, READS.format("__array__")),
        (lambda x: x if 3.0 in F.relu(x) else -x, UnsupportedError, READS.format("in")),
        (stale, UnsupportedError, "was changed in place where a trace cannot follow"),
        (assigned, UnsupportedError, "was changed in place where a trace cannot follow"),
        (through_numpy, UnsupportedError, "two runs of the model did not do the same"),
        (lambda x: x + minires.randn(1, 4, 1, 1), UnsupportedError, "two runs of the model did not do the same"),
        (lambda x: F.relu(x) if x.shape[0] == 1 else x, UnsupportedError, "two runs of the model did not do the same"),
        (lambda x: x.reshape(1, -1), ShapeError, r"first size must be the batch, 2, got output.shape = \(1, 288\)"),
        (lambda x: x.reshape(-1, 1), ShapeError, r"first size must be the batch, 1, got output.shape = \(144, 1\)"),
        (lambda x: x.reshape(4, -1).reshape(x.shape), UnsupportedError, r"reshape has no step in a plan to \(4, 36\)"),
        (lambda x: x.exp(), UnsupportedError, EXP),
        (lambda x: (x, x), UnsupportedError, "must return one tensor, got tuple"),
        (lambda x: minires.ones(x.shape[0], 2), UnsupportedError, "does not depend on its input by operations"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[1], UnsupportedError, "as max_pool2d's indices"),
        (lambda x: F.relu(x)[0], ShapeError, r"first size must be the batch, 1, got output.shape = \(4, 6, 6\)"),
    ],
)  # fmt: skip
def test_what_a_plan_cannot_repeat_is_refused(function, error, message):
    with pytest.raises(error, match=message):
        plan_of(Lambda(function))


def test_batch_statistics_are_refused():
    with pytest.raises(UnsupportedError, match="compile: batch_norm has no step in a plan"):
        plan_of(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)))


@pytest.mark.parametrize("shape", [(), (0, 3, 8, 8), (1, 3.0, 8, 8), (1, -1)])
def test_input_shape_is_checked(shape):
    with pytest.raises(ArgumentError, match=r"compile: input_shape must be \(N, ...\), positive integers, got"):
        minires.compile(nn.Identity(), shape)


def test_dtypes_are_checked():
    with pytest.raises(ArgumentError, match="must all be float32 or all float64, got float32, float64"):
        plan_of(nn.Sequential(nn.Conv2d(4, 4, 1).double(), nn.Conv2d(4, 4, 1)))
    with pytest.raises(ArgumentError, match="must all be float32 or all float64, got float16"):
        plan_of(nn.Conv2d(4, 4, 1).half())


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_an_assignment_to_some_elements_is_refused_on_every_set(kernels):
    """A convolution's output may be an array of the set's own, or a plain one; no step says `y[:, :, 0, 0] = 1`."""

    def forward(x, a):
        y = a(x)
        y[:, :, 0, 0] = 1.0
        return y * 2

    with (
        use_kernels(kernels),
        pytest.raises(UnsupportedError, match="was changed in place where a trace cannot follow"),
    ):
        plan_of(Lambda(forward, a=conv()))
