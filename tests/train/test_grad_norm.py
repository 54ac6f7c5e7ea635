"""Norms of gradients, part by part, beside NumPy's; finite exactly where every gradient is."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import models
from minires.nn import functional as F
from minires.train.grad_norm import gradient_norms

pytestmark = pytest.mark.usefixtures("reference_kernels")


def trained_net():
    minires.manual_seed(0)
    net = models.build("resnet8", in_channels=1)
    x = minires.tensor(np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32))
    F.cross_entropy(net(x), minires.tensor([0, 1, 2, 3])).backward()
    return net


def test_norms_are_those_of_the_parts_in_order():
    net = trained_net()
    norms = gradient_norms(net)
    assert list(norms) == [name for name, child in net.named_children() if list(child.parameters())]
    for part, norm in norms.items():
        grads = [p.grad.numpy().astype(np.float64).ravel() for p in net.get_submodule(part).parameters()]
        assert norm == pytest.approx(np.linalg.norm(np.concatenate(grads)), rel=1e-5)


def test_frozen_parameters_do_not_count():
    net = trained_net()
    for parameter in net.layer1.parameters():
        parameter.grad = None
    assert "layer1" not in gradient_norms(net)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_shows_in_its_part_alone(bad):
    net = trained_net()
    net.layer2[0].conv1.weight.grad.numpy()[0, 0, 0, 0] = bad
    norms = gradient_norms(net)
    assert np.isnan(norms.pop("layer2"))
    assert np.isfinite(list(norms.values())).all()


def test_huge_gradients_are_numbers_still():
    net = trained_net()
    net.fc.weight.grad.numpy()[:] = 1e30
    assert gradient_norms(net)["fc"] == pytest.approx(1e30 * np.sqrt(net.fc.weight.array.size), rel=1e-5)
