"""Where a value that is no number began: the layer, and whether forward or backward."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires import nn
from minires.models import build
from minires.nn import Module
from minires.tensor import Tensor
from minires.train import loop, session
from minires.train.config import build_config
from minires.train.diagnose import first_in_backward, first_in_forward
from minires.train.guard import LossNotFiniteError
from minires.train.session import run_training


class Spoil(Module):
    """Leaves its input as it is, and does something to it that shows in one direction only."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def net(*, spoiled: Callable[[Tensor], Tensor] | None = None, dropout: float = 0.0) -> Module:
    middle = nn.Identity() if spoiled is None else Spoil(spoiled)
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(dropout), middle, nn.Linear(4, 3))


def x() -> Tensor:
    return Tensor(np.ones((2, 4), np.float32))


def where(model: Module, images: Tensor | None = None, backward: bool = False) -> str:
    images = x() if images is None else images
    drawn = minires.random.get_rng_state()
    run = lambda: (model(images) ** 2).sum()  # noqa: E731
    return first_in_backward(model, run, drawn) if backward else first_in_forward(model, run, images, drawn)


def test_first_in_forward_names_the_layer_whose_output_is_not_finite() -> None:
    assert where(net(spoiled=lambda x: x * math.inf)) == (
        "in the forward pass of 2 (Spoil): all before it is finite, its output is not"
    )
    model = build("resnet8", num_classes=10, in_channels=1)
    model.layer2[0].conv1.weight.array[...] = 3e38
    assert where(model, Tensor(np.ones((2, 1, 8, 8), np.float32))).startswith(
        "in the forward pass of layer2.0.conv1 (Conv2d)"
    )


def test_first_in_forward_names_a_weight_that_is_not_finite() -> None:
    model = net()
    model[3].bias.array[1] = math.nan
    assert where(model) == "in 3 (Linear): its bias holds a value that is no number, left by the step before"


def test_first_in_forward_tells_the_data_and_the_loss_from_the_layers() -> None:
    bad = x()
    bad.array[1, 2] = math.inf
    assert where(net(), bad) == "in the data: the images of this batch hold a value that is no number"
    model = net()
    drawn = minires.random.get_rng_state()
    found = first_in_forward(model, lambda: model(x()).sum() * math.inf, x(), drawn)
    assert found == "in the loss itself: every layer's output is finite"
    assert where(net()).startswith("in a rounding that did not come again")


def test_first_in_forward_of_a_parents_own_code_names_the_parent() -> None:
    class Parent(Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * math.inf

    assert where(nn.Sequential(nn.Linear(4, 4), Parent())).startswith("in the forward pass of 1 (Parent)")
    assert where(Parent()).startswith("in the forward pass of the model's own code (Parent)")


def test_first_in_backward_names_what_the_gradient_meets_first() -> None:
    # sqrt(0) is 0, its slope is infinite: the loss is finite, the gradient is not.
    found = where(net(spoiled=lambda x: x + (x * 0).sqrt(), dropout=0.5), backward=True)
    assert found == "in the backward pass, with the gradient of the output of 1 (Dropout)"
    # A weight's own gradient can overflow where those of all outputs are finite: here 1e30 times 1e30.
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    huge = Tensor(np.full((2, 4), 1e30, np.float32))
    loss = lambda: (model(huge) * 1e30).sum() * 0 + (model(huge) * 1e30).mean()  # noqa: E731
    model[0].weight.array[...] = 0
    assert first_in_backward(model, loss, minires.random.get_rng_state()) == (
        "in the backward pass, with the gradient of 0.weight"
    )


def test_diagnosis_draws_the_same_dropout_and_leaves_the_random_numbers_and_hooks_alone() -> None:
    masks: list[bytes] = []
    model = net(dropout=0.5)
    model[1].register_forward_hook(lambda m, i, o: masks.append(o.detach().numpy().tobytes()))
    drawn = minires.random.get_rng_state()
    model(x())
    after = minires.random.get_rng_state()
    first_in_forward(model, lambda: model(x()).sum(), x(), drawn)
    first_in_backward(model, lambda: model(x()).sum(), drawn)
    assert masks[0] == masks[1] == masks[2]
    assert minires.random.get_rng_state() == after
    assert not model[0]._has_hooks() and not model[3]._has_hooks()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: x + (x * 0).sqrt(),
            r"a gradient is nan at step 3 .*It began in the backward pass, with the gradient of ",
        ),
        (lambda x: x * math.nan, r"training loss is nan at step 3 .*It began in the forward pass of bn1 \(Spoil\)"),
    ],
)
def test_training_stops_before_the_weights_are_ruined(
    reference_kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any, message: str
) -> None:
    """In the third step something goes wrong in the stem. The second's weights are saved, and under suspicion: what
    stays is the checkpoint after the first.
    """
    steps, loss_of = [1], loop.loss_of  # the step whose forward pass is next

    def count(*args: Any) -> Tensor:
        steps[0] += 1
        return loss_of(*args)

    monkeypatch.setattr(loop, "loss_of", count)

    def spoiled(value: Tensor) -> Tensor:
        return function(value) if steps[0] >= 3 else value

    def spoil(*args: Any, original: Any = session.build_parts, **kwargs: Any) -> Any:
        parts = original(*args, **kwargs)
        parts.model.bn1 = Spoil(spoiled)
        return parts

    monkeypatch.setattr(session, "build_parts", spoil)
    settings = {"limit": 64, "batch_size": 16, "model_options": ["width=2"], "run_dir": str(tmp_path), "name": "a"}
    with pytest.raises(LossNotFiniteError, match=message):
        run_training(build_config({**settings, "checkpoint_every": 1}), io.StringIO())
    from minires.train.checkpoint import load_checkpoint

    kept = load_checkpoint(tmp_path / "a" / "last.ckpt")
    assert kept.progress["batch"] == 1
    assert not (tmp_path / "a" / "before.ckpt").exists()
    assert all(np.isfinite(tensor.numpy()).all() for tensor in kept.model.values())
    assert "stopped: train: " in (tmp_path / "a" / "log.txt").read_text()
