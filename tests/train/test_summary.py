"""Tables of layers: who an operation belongs to, what is counted, and how often."""

from __future__ import annotations

import numpy as np
import pytest

from minires import models, nn
from minires.nn import functional as F
from minires.tensor import Tensor
from minires.train.forecast import StepForecast
from minires.train.layers import LOSS, LayerLog, listening
from minires.train.summary import summarize, summarize_training, time_layers

pytestmark = pytest.mark.usefixtures("reference_kernels")


class Block(nn.Module):
    """Uses a layer twice, and functions of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.scale = nn.Parameter(np.ones((1, 4, 1, 1), np.float32))
        self.idle = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.idle(self.conv(x) * self.scale)


def test_rows_follow_the_run():
    model = nn.Sequential(Block(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    rows = summarize(model, (1, 4, 6, 6))
    assert [(row.name, row.kind) for row in rows] == [
        ("0.conv", "Conv2d"),
        ("0", "Block"),  # F.relu
        ("0.conv", "Conv2d"),
        ("0", "Block"),  # * scale
        ("0.idle", "Identity"),
        ("1", "Flatten"),
        ("2", "Linear"),
    ]
    assert [row.parameters for row in rows] == [144, 4, 0, 0, 0, 0, 4 * 36 * 3 + 3]
    assert sum(row.parameters for row in rows) == sum(p.array.size for p in model.parameters())
    assert [row.macs for row in rows] == [144 * 36, 0, 144 * 36, 0, 0, 0, 4 * 36 * 3]
    assert rows[-1].output_shape == (1, 3)


def test_listening_changes_nothing_that_runs():
    """Hooks would take a fused batch norm and ReLU apart."""
    model = models.build("resnet8", num_classes=10, in_channels=1, image_size=8)
    heard: list[str] = []

    class Names:
        def applied(self, op, args, options, outputs):
            heard.append(op.name)

        def written(self, target, value):
            pass

    with listening(LayerLog(model), Names()):
        model(Tensor(np.zeros((2, 1, 8, 8), np.float32)))
    assert heard.count("batch_norm_relu") == 7
    assert "relu" not in heard and "residual_relu" not in heard


def test_a_module_with_hooks_is_listened_to_as_it_runs():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    assert [row.kind for row in summarize(model, (2, 1, 4, 4))] == ["Conv2d", "BatchNorm2d + ReLU"]
    model[1].register_forward_hook(lambda *_: None)
    assert [row.kind for row in summarize(model, (2, 1, 4, 4))] == ["Conv2d", "BatchNorm2d", "ReLU"]


def test_a_summary_leaves_modes_alone():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout(0.5), nn.BatchNorm2d(2))
    model[2].eval()
    summarize(model, (1, 1, 4, 4))
    assert model.training and model[1].training and not model[2].training


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet20", "wrn_16_4", "seresnet18", "resnet50d"])
def test_training_has_the_rows_of_a_summary_and_the_loss(name):
    model = models.build(name, num_classes=10, in_channels=3, image_size=32)
    plain = summarize(model, (1, 3, 32, 32))
    training = [row.layer for row in summarize_training(StepForecast(model, (3, 32, 32), 2))]
    assert training[-1].name == LOSS
    assert [(r.name, r.kind, r.parameters, r.macs, r.output_shape[1:]) for r in plain] == [
        (r.name, r.kind, r.parameters, r.macs, r.output_shape[1:]) for r in training[:-1]
    ]
    assert sum(row.parameters for row in plain) == sum(p.array.size for p in model.parameters())


def test_saved_bytes_are_those_of_the_graph():
    """Counted another way: walk the graph behind the loss and add up each memory once."""
    model, batch = models.build("resnet8", num_classes=10, in_channels=1, image_size=8), 3
    rows = summarize_training(StepForecast(model, (1, 8, 8), batch))
    loss = F.cross_entropy(model(Tensor(np.zeros((batch, 1, 8, 8), np.float32))), Tensor(np.zeros(batch, np.int64)))
    known = {id(p.array) for p in model.parameters()}
    memory: dict[int, int] = {}
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        nodes += [edge[0] for edge in node.next_functions if edge is not None]
        kept = [saved.array for saved in getattr(node, "saved", None) or () if saved is not None]
        kept += [
            *getattr(node, "statistics", ()),
            *(a for a in getattr(node, "labels", ()) if isinstance(a, np.ndarray)),
        ]
        kept += [node.log_p] if hasattr(node, "log_p") else []
        for array in kept:
            while isinstance(array.base, np.ndarray):
                array = array.base
            if id(array) not in known:
                memory[id(array)] = array.nbytes
    assert sum(row.saved for row in rows) == sum(memory.values())


def test_times_are_one_a_row_and_leave_the_model_alone():
    model = models.build("resnet8", num_classes=10, in_channels=1, image_size=8)
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    times = time_layers(model, (1, 8, 8), 4, repeats=2)
    rows = summarize_training(StepForecast(model, (1, 8, 8), 4))
    assert len(times) == len(rows)
    assert all(time.forward > 0 for time in times)
    assert all(time.backward > 0 for time, row in zip(times, rows, strict=True) if row.layer.parameters)
    assert all(np.array_equal(tensor.numpy(), before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    forward = time_layers(model, (1, 8, 8), 4, train=False, repeats=1)
    assert len(forward) == len(summarize(model, (4, 1, 8, 8))) and all(time.backward == 0 for time in forward)
