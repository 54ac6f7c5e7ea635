"""Every distinct convolution of every network in the zoo, beside PyTorch's: forward and both gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import minires
from minires import models
from minires.backend import use_kernels
from minires.kernels.cpu import conv, conv_direct, conv_weight
from minires.kernels.cpu.layout import Blocked
from tests.torch_oracle import torch

pytestmark = pytest.mark.slow

WORST = 3.0  # times PyTorch's own error against float64


def layers(name):
    """The geometries of a network's convolutions, one image each."""
    minires.manual_seed(0)
    size = 128 if "small_input" in models.model_options(name) else 32
    with use_kernels("reference"):
        plan = minires.compile(models.build(name, image_size=size), (1, 3, size, size))
    return {replace(s.attributes["geometry"], n=1) for s in plan.graph.steps if s.kind == "conv2d"}


def rms(a):
    return float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))


@cache
def factors():
    """For every distinct layer and pass: our rms error over torch's, of the direct form and of what `conv` chooses."""
    distinct = {g for name in models.list_models() for g in layers(name)}
    assert len(distinct) > 50
    found = []
    for g in distinct:
        rng = np.random.default_rng(0)
        x, w, v = (rng.standard_normal(s, dtype=np.float32) for s in (g.x_shape, g.weight_shape, g.y_shape))
        exact, single = ([torch.tensor(a, dtype=t) for a in (x, w, v)] for t in (torch.float64, torch.float32))
        expected, theirs = (torch_results(g, *tensors) for tensors in (exact, single))
        blocked_x, blocked_v = Blocked.from_plain(x), Blocked.from_plain(v)
        direct = [
            conv_direct.forward(blocked_x, w, None, g).to_plain(),
            conv_direct.backward_x(blocked_v, w, g).to_plain(),
            conv_weight.backward_weight(blocked_v, blocked_x, g),
        ]
        chosen = [
            np.asarray(conv.conv2d_forward(x, w, None, g)),
            np.asarray(conv.conv2d_backward_x(v, w, g)),
            conv.conv2d_backward_weight(v, x, g),
        ]
        for i, what in enumerate(("forward", "backward_x", "backward_weight")):
            floor = 1e-7 * rms(expected[i])  # a rounding: where torch happens to be exact, we may still round once
            scale = max(rms(theirs[i] - expected[i]), floor)
            found.append((rms(direct[i] - expected[i]) / scale, rms(chosen[i] - expected[i]) / scale, what, g))
    return found


def test_direct_convolutions_err_no_more_than_three_times_what_torch_s_do():
    worst = max(factors(), key=lambda found: found[0])
    assert worst[0] <= WORST, worst


@pytest.mark.xfail(
    strict=True,
    reason="F(4x4) errs up to some 5 times what torch's direct gradient does for single images; the goal of 3 is open",
)
def test_chosen_convolutions_err_no_more_than_three_times_what_torch_s_do():
    worst = max(factors(), key=lambda found: found[1])
    assert worst[1] <= WORST, worst


def torch_results(g, x, w, v):
    """y, grad_x and grad_weight as float64 arrays."""
    x, w = x.requires_grad_(), w.requires_grad_()
    padded = torch.nn.functional.pad(x, (g.pad_left, g.pad_right, g.pad_top, g.pad_bottom))
    y = torch.nn.functional.conv2d(padded, w, None, (g.stride_h, g.stride_w), 0, (g.dilation_h, g.dilation_w), g.groups)
    y.backward(v)
    return [t.detach().numpy().astype(np.float64) for t in (y, x.grad, w.grad)]
