"""The kernel set of traces: right shapes, no work, made-up numbers where numbers are wanted."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import minires
from minires import backend, nn
from minires.infer import shapes
from minires.infer.shapes import ShapeKernels, Unknown
from minires.infer.trace import trace
from minires.kernels import reference
from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, Pool2dGeometry
from minires.nn import functional as F
from tests.infer.nets import Lambda, eager, images
from tests.tolerances import assert_close

CONV = Conv2dGeometry(2, 3, 9, 8, 5, 3, 3, 2, 1, 1, 0, 1, 2)
POOL = Pool2dGeometry(2, 3, 9, 8, 3, 3, 2, 2, 1, 1)
ADAPTIVE = AdaptivePool2dGeometry(2, 3, 9, 8, 4, 3)
X, CHANNEL = np.ones((2, 3, 9, 8), np.float32), np.ones(3, np.float32)

CALLS = {
    "conv2d_forward": (np.ones((5, 3, 3, 3), np.float32), None, CONV),
    "avg_pool2d_forward": (POOL,),
    "adaptive_avg_pool2d_forward": (ADAPTIVE,),
    "max_pool2d_forward": (POOL,),
    "adaptive_max_pool2d_forward": (ADAPTIVE,),
    "batch_norm_eval": (CHANNEL, CHANNEL, CHANNEL, CHANNEL, 1e-5),
    "batch_norm_relu_eval": (CHANNEL, CHANNEL, CHANNEL, CHANNEL, 1e-5, None),
    "relu_forward": (),
    "residual_relu_forward": (X,),
}


@pytest.mark.parametrize("name", shapes._RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rules_give_the_shapes_that_the_reference_gives(name, dtype):
    kernels = ShapeKernels(0)
    rest = [a.astype(dtype) if isinstance(a, np.ndarray) else a for a in CALLS[name]]
    expected = getattr(reference, name)(X.astype(dtype), *rest)
    got = getattr(kernels, name)(kernels.unknown(X.shape, dtype), *rest)
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, expected)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_what_meets_no_unknown_is_computed():
    got = ShapeKernels(0).conv2d_forward(X, *CALLS["conv2d_forward"])
    np.testing.assert_array_equal(got, reference.conv2d_forward(X, *CALLS["conv2d_forward"]))


def test_numbers_differ_from_seed_to_seed_and_are_announced():
    told = []
    kernels = [ShapeKernels(seed) for seed in (1, 1, 2)]
    kernels[0].on_numbers.append(lambda unknown, plain: told.append((unknown, plain)))
    unknown = [k.unknown((3, 4), np.float32) for k in kernels]
    a, b, c = (u.to_plain() for u in unknown)
    assert np.array_equal(a, b) and not np.array_equal(a, c) and a.dtype == np.float32
    assert told[0][0] is unknown[0] and told[0][1] is a


def test_a_trace_computes_no_convolution(monkeypatch):
    def refuse(*args):
        raise AssertionError("a kernel ran")

    for name in shapes._RULES:
        monkeypatch.setattr(reference, name, refuse)
    net = minires.models.build("resnet20")  # with option A's slice and pad, between which numbers are made up
    assert len([call for call in trace(net, (1, 3, 32, 32)).calls if call.name == "conv2d"]) == 19


def test_values_keep_their_identity_when_they_get_numbers():
    """`a` is read as numbers by a view, and then used again as an image."""

    def forward(x, conv):
        a = conv(x)
        return F.relu(a).flatten(1)[:, :4] * a.mean((2, 3)) + a.flatten(1)[:, 4:8]

    net = Lambda(forward, conv=nn.Conv2d(4, 4, 3)).double()
    x = images(2, 4, 6, 6)
    assert_close(minires.compile(net, x.shape)(x), eager(net, x), "float64")


def test_a_trace_leaves_other_threads_alone():
    entered, leave = threading.Event(), threading.Event()

    def forward(x, conv):
        entered.set()
        assert leave.wait(20)
        return conv(x)

    net = Lambda(forward, conv=nn.Conv2d(4, 4, 1)).double()
    x = images(1, 4, 3, 3)
    made = []
    compiling = threading.Thread(target=lambda: made.append(minires.compile(net, x.shape)))
    compiling.start()
    assert entered.wait(20)
    assert not isinstance(backend.current_kernels(), ShapeKernels)
    y = F.relu(net.conv(minires.tensor(x)))
    assert not isinstance(y.raw, Unknown)
    leave.set()
    compiling.join()
    assert_close(made[0](x), net.conv(minires.tensor(x)).detach().numpy(), "float64")
