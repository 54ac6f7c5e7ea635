"""Parameter groups, zero gamma, few images of each class, a run that is counted in steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minires
from minires import models, nn
from minires.data import ArrayDataset
from minires.errors import ConfigError
from minires.tensor import Tensor
from minires.train.config import TrainConfig, build_config
from minires.train.setup import (
    build_optimizer,
    build_parts,
    build_schedule,
    few_of_each_class,
    parameter_groups,
    zero_gamma,
)
from minires.train.stages import freeze_stages, stage_names, stage_of
from tests.tolerances import assert_close


def names_of(model: nn.Module, group: dict[str, Any]) -> set[str]:
    ids = {id(p) for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def test_groups_are_one_by_default() -> None:
    model = models.resnet8()
    (group,) = parameter_groups(TrainConfig(), model)
    assert len(group["params"]) == len(list(model.parameters()))
    assert build_optimizer(TrainConfig(weight_decay=0.3), model).param_groups[0]["weight_decay"] == 0.3


def test_groups_without_decay_are_batch_norms_and_biases() -> None:
    model = models.resnet8()
    decayed, spared = build_optimizer(TrainConfig(decay_bn=False, weight_decay=0.3), model).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    expected = {
        f"{n}.{p}" for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) for p in ("weight", "bias")
    }
    assert names_of(model, spared) == expected | {"fc.bias"}
    assert names_of(model, decayed) == {name for name, _ in model.named_parameters()} - expected - {"fc.bias"}


def test_step_without_decay_of_batch_norms_is_torchs() -> None:
    """Ten steps of two groups under one-cycle: a gradient of zero, so that only the decay acts."""
    torch = pytest.importorskip("torch", reason="PyTorch judges the update")
    model = models.resnet8()
    model.bn1.weight.array[...] = 2.0
    config = TrainConfig(decay_bn=False, weight_decay=0.1, epochs=10)
    optimizer = build_optimizer(config, model)
    schedule = build_schedule(config, optimizer, 1)
    theirs = [torch.nn.Parameter(torch.tensor(model.conv1.weight.array.copy()))]
    judge = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    rate = torch.optim.lr_scheduler.OneCycleLR(judge, 0.1, total_steps=10, pct_start=0.2, cycle_momentum=False)
    for _ in range(10):
        for p in [*model.parameters(), *theirs]:
            p.grad = torch.zeros_like(p) if isinstance(p, torch.Tensor) else Tensor(np.zeros_like(p.array))
        optimizer.step()
        schedule.step()
        judge.step()
        rate.step()
    assert_close(model.conv1.weight.array, theirs[0].detach().numpy(), "float32", 10)
    assert (model.bn1.weight.array == 2.0).all()


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "step"])
def test_groups_by_stage_learn_at_a_part_of_the_rate_above_through_the_schedule(schedule: str) -> None:
    model = models.resnet8()
    config = TrainConfig(stage_lr=0.5, lr=0.8, schedule=schedule, epochs=4, step_epochs=1, warmup_epochs=1.0)
    optimizer = build_optimizer(config, model)
    rates = build_schedule(config, optimizer, 3)
    groups = optimizer.param_groups
    assert [sorted(names_of(model, g))[0].split(".")[0] for g in groups] == ["fc", "layer3", "layer2", "layer1", "bn1"]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    for p in model.parameters():
        p.grad = Tensor(np.zeros_like(p.array))
    for _ in range(11):
        assert groups[0]["lr"] > 0
        np.testing.assert_allclose(
            [g["lr"] / groups[0]["lr"] for g in groups], [1, 0.5, 0.25, 0.125, 0.0625], rtol=1e-12
        )
        optimizer.step()
        rates.step()


def test_groups_leave_frozen_parameters_out() -> None:
    model = models.resnet8()
    frozen = freeze_stages(model, "layer1")
    groups = parameter_groups(TrainConfig(stage_lr=0.5, decay_bn=False), model)
    names = {name.split(".")[0] for group in groups for name in names_of(model, group)}
    assert names == {"layer2", "layer3", "fc"}
    assert frozen == [model.conv1, model.bn1, model.layer1]


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "wrn_16_4", "preact_resnet20"])
def test_stages_cover_every_parameter_from_bottom_to_top(name: str) -> None:
    model = models.build(name, image_size=28)
    names = stage_names(model)
    order = [names.index(stage_of(parameter, names)) for parameter, _ in model.named_parameters()]
    assert order == sorted(order)
    assert set(order) == set(range(len(names)))


def test_stages_of_another_network_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"stages: Sequential has no layer1, .* it has 0, 1"):
        stage_names(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(
        ConfigError, match=r"freeze must be one of stem, layer1, layer2, layer3 \(or empty\), got 'head'"
    ):
        freeze_stages(models.resnet8(), "head")


@pytest.mark.parametrize(("name", "norm"), [("resnet8", "bn2"), ("resnet18", "bn2"), ("resnet50", "bn3")])
def test_zero_gamma_makes_each_block_its_shortcut(name: str, norm: str) -> None:
    model = models.build(name, num_classes=4, image_size=16)
    before = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    zero_gamma(model)
    changed = {key for key, value in model.state_dict().items() if (value.numpy() != before[key]).any()}
    assert changed == {f"{key}.{norm}.weight" for key, m in model.named_modules() if hasattr(m, norm) and key}
    block = model.layer1[1] if name != "resnet8" else model.layer1[0]
    x = Tensor(np.random.default_rng(0).random((2, block.conv1.weight.shape[1], 4, 4), np.float32))
    np.testing.assert_array_equal(block(x).array, x.numpy())


@pytest.mark.parametrize("name", ["wrn_16_4", "plain_resnet8"])
def test_zero_gamma_is_refused_where_it_would_stay_zero(name: str) -> None:
    with pytest.raises(ConfigError, match="has no residual blocks that end in a batch norm; leave zero_gamma out"):
        zero_gamma(models.build(name))


def test_build_parts_zeroes_gammas_where_asked() -> None:
    parts = build_parts(build_config({"zero_gamma": True}))
    assert not parts.model.layer1[0].bn2.weight.array.any()
    assert build_parts(build_config()).model.layer1[0].bn2.weight.array.all()


def test_few_of_each_class_draws_by_the_seed_and_keeps_small_classes() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 4])
    data = ArrayDataset(np.arange(84, dtype=np.uint8).reshape(84, 1, 1, 1), labels)
    few = few_of_each_class(data, 10, 0)
    assert np.bincount(few.labels).tolist() == [10, 10, 4]
    places = few.images.reshape(-1)
    assert (np.diff(places.astype(int)) > 0).all()
    np.testing.assert_array_equal(labels[places], few.labels)
    assert (few_of_each_class(data, 10, 0).images == few.images).all()
    assert (few_of_each_class(data, 10, 1).images != few.images).any()
    assert few.mean == data.mean, "the normalisation is the whole set's"
    parts = build_parts(build_config({"per_class": 20, "val_fraction": 0.2}))
    assert np.bincount(parts.loader.dataset.labels).tolist() == [16] * 10
    assert len(parts.test) == 360


def test_steps_set_the_epochs_and_the_schedule() -> None:
    settings = {
        "recipe": "cifar10",
        "data": "digits",
        "max_steps": 50,
        "milestone_steps": [20, 40],
        "warmup_epochs": 0.5,
    }
    parts = build_parts(build_config(settings))
    assert len(parts.loader) == 11  # 1,293 images
    assert parts.config.epochs == 5
    rates = []
    for p in parts.model.parameters():
        p.grad = Tensor(np.zeros_like(p.array))
    for _ in range(50):
        rates.append(parts.optimizer.param_groups[0]["lr"])
        parts.optimizer.step()
        parts.schedule.step()
    np.testing.assert_allclose(rates[6:], [0.1] * 14 + [0.01] * 20 + [0.001] * 10, rtol=1e-9)


def test_average_is_part_of_what_a_checkpoint_holds() -> None:
    minires.manual_seed(0)
    assert build_parts(build_config()).stateful == {}
    assert build_parts(build_config({"ema_decay": 0.99})).stateful["ema"].decay == 0.99
