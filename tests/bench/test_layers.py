"""The layers of a network, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from minires.backend import kernel_set
from minires.bench.compare import Result
from minires.bench.layers import PASSES, Layer, layers_of
from minires.bench.ops import totals
from minires.bench.rounds import Timing
from minires.models import build
from minires.nn import functional as F
from minires.tensor import Tensor
from minires.train.summary import summarize

CONV = Layer("conv2d", "forward", 4, 7, 6, 6, (3, 3), (2, 2), (1, 1), groups=2)


def test_layers_of_a_network_hold_all_of_its_work() -> None:
    model = build("resnet20", in_channels=1)
    found = layers_of(model, (1, 1, 28, 28))
    flops = sum(count * layer.work(1)[0] for layer, count in found if layer.op == "conv2d")
    macs = sum(row.macs for row in summarize(model, (1, 1, 28, 28)) if row.kind == "Conv2d")
    assert flops == 2 * macs
    assert sum(count for layer, count in found if layer.op == "batch_norm") == 19
    assert str(found[0][0]) == "conv 3x3 1 -> 16, 28x28"
    assert len({layer for layer, _ in found}) == len(found) < 20


@pytest.mark.usefixtures("reference_kernels")
def test_layer_computes_what_autograd_computes() -> None:
    arrays = CONV.arrays(3, seed=1)
    x, weight = (Tensor(arrays[name], requires_grad=True) for name in ("x", "weight"))
    y = F.conv2d(x, weight, stride=2, padding=1, groups=2)
    y.backward(Tensor(arrays["grad_y"]))
    kernels = kernel_set("reference")
    assert x.grad is not None and weight.grad is not None
    expected = {"y": y.detach().numpy(), "grad_x": x.grad.numpy(), "grad_weight": weight.grad.numpy()}
    for direction in PASSES["conv2d"]:
        layer = Layer(**{**CONV.as_dict(), "direction": direction})
        ((name, got),) = layer.compute(kernels, 3, arrays).items()
        np.testing.assert_array_equal(got, expected.pop(name))
    assert not expected


@pytest.mark.parametrize("op", ["conv2d", "batch_norm"])
@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
def test_torch_computes_the_same_layers(op: str, layout: str) -> None:
    from minires.bench.verify import LIMITS, error_of
    from minires.bench.workload import Workload
    from tests.torch_oracle import torch

    from minires.bench.peers.torch_ops import LayerPass  # isort: skip  # needs torch

    for direction in PASSES[op]:
        layer = Layer(**{**CONV.as_dict(), "op": op, "direction": direction})
        task = LayerPass(Workload("resnet8", 3, 8, layer=layer.as_dict()), getattr(torch, layout))
        task.run()
        arrays = {name: array.astype(np.float64) for name, array in layer.arrays(3, 0).items()}
        expected = layer.compute(kernel_set("reference"), 3, arrays)
        assert error_of(task.outcome(), expected)[0] < LIMITS["ops"]


def test_totals_count_each_layer_as_often_as_the_network_has_it() -> None:
    def results(seconds: float) -> list[Result]:
        return [Result("minires", "timed", timing=Timing((seconds,))), Result("torch", "wrong")]

    rows = [(CONV, 2, results(1.0)), (CONV, 3, results(10.0))]
    assert totals(rows) == {"conv2d forward": {"minires": 32.0, "torch": None}}
