"""From settings to the parts of a run: data, model, optimiser, schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import minires
from minires import models, nn, optim
from minires.data import ArrayDataset, BatchLoader, load, split_validation
from minires.data.counter_random import permutation
from minires.distributed.group import current
from minires.errors import ConfigError
from minires.models import BasicBlock, Bottleneck
from minires.nn import Module
from minires.optim import lr_scheduler
from minires.train.config import TrainConfig, model_arguments
from minires.train.ema import WeightAverage
from minires.train.probe import fit_probe, put_into
from minires.train.ranks import Ranks
from minires.train.stages import freeze_stages, stage_names, stage_of

__all__ = [
    "Parts",
    "build_model",
    "build_optimizer",
    "build_parts",
    "build_schedule",
    "few_of_each_class",
    "parameter_groups",
    "zero_gamma",
]


@dataclass
class Parts:
    """Everything that training needs, ready to go."""

    config: TrainConfig
    loader: BatchLoader  # training images, shuffled and augmented
    validation: ArrayDataset | None
    test: ArrayDataset
    model: Module
    optimizer: optim.Optimizer
    schedule: Any
    # What else has a state, by name: objects with `state_dict` and `load_state_dict`, part of every checkpoint.
    stateful: dict[str, Any] = field(default_factory=dict)
    frozen: list[Module] = field(default_factory=list)  # kept in evaluation mode while the model trains
    ranks: Ranks = field(default=None)  # type: ignore[assignment]  # the processes that train together

    def __post_init__(self) -> None:
        if self.ranks is None:
            self.ranks = Ranks(self.model)


def build_parts(
    config: TrainConfig,
    *,
    data: tuple[ArrayDataset, ArrayDataset] | None = None,
    facts: dict[str, Any] | None = None,
) -> Parts:
    """Load the data, build the model with weights drawn from the seed or from a file, and the optimiser over them.

    Args:
        config: all settings. Those of the parts may say more: which network given weights are of, how many epochs.
        data: training and test images; default: what `config.data` names.
        facts: of a run that goes on, the "data" part of its checkpoint. Its images are normalised as they were, and weights
            that it began from are not read again.

    Raises:
        UnknownNameError: no such data set or model.
        DataError: the data set is missing or damaged.
        ConfigError: the settings leave no training images.
    """
    # The model's name is checked before any data is read or downloaded: a typing error should not cost minutes.
    given = None
    if config.weights and facts is None:
        from minires.train.finetune import read_weights  # here: it reads checkpoints, which are built on this file

        given = read_weights(config)
        config = given.settle(config)
    models.model_options(config.model)
    train, test = data or load(config.data, config.data_dir or None, size=config.image_size)
    train, test = _normalized_as(facts or vars(given) if given or facts else None, train, test)
    if config.limit:
        train = train.subset(range(min(config.limit, len(train))))
    if config.per_class:
        train = few_of_each_class(train, config.per_class, config.seed)
    validation = None
    if config.val_fraction > 0:
        train, validation = split_validation(train, config.val_fraction, config.seed)
    if not len(train):
        raise ConfigError(f"limit = {config.limit} and val_fraction = {config.val_fraction} leave no image to train on")
    if validation is not None and not len(validation):
        validation = None  # too few images to spare one
    minires.manual_seed(config.seed)
    model = build_model(config, train.num_classes, train.image_shape)
    if config.zero_gamma:
        zero_gamma(model)
    group = current()
    if group.size > 1 and config.sync_bn:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    frozen: list[Module] = []
    if config.weights:
        if given is not None:
            given.put_into(model, config)
        if config.freeze:
            frozen = freeze_stages(model, config.freeze)
        if given is not None and config.head == "probe":
            put_into(model, fit_probe(model, train, validation))
    if config.device != "cpu":
        model.to(config.device)
    # Batch norm cannot take the variance of one value, and every rank needs an image: a last batch of fewer is left out.
    least = max(2, group.size) if config.sync_bn else 2 * group.size
    if config.batch_size < least and group.size > 1:
        raise ConfigError(f"batch_size must be at least {least} with {group.size} processes, got {config.batch_size}")
    rest = len(train) % config.batch_size
    loader = BatchLoader(
        train,
        config.batch_size,
        shuffle=True,
        augment=config.augment,
        seed=config.seed,
        workers=config.workers,
        drop_last=0 < rest < least and rest < len(train),
        rank=group.rank,
        ranks=group.size,
    )
    ranks = Ranks(model, group)
    if config.max_steps:
        config = replace(config, epochs=-(-config.max_steps // len(loader)))
    optimizer = build_optimizer(config, model)
    schedule = build_schedule(config, optimizer, len(loader))
    stateful = {"ema": WeightAverage(model, config.ema_decay)} if config.ema_decay > 0 else {}
    return Parts(config, loader, validation, test, model, optimizer, schedule, stateful, frozen, ranks)


def _normalized_as(
    facts: Mapping[str, Any] | None, train: ArrayDataset, test: ArrayDataset
) -> tuple[ArrayDataset, ArrayDataset]:
    """The images as given weights know them: normalised by their mean and std, where those are of as many channels."""
    mean, std = (None, None) if facts is None else (facts["mean"], facts["std"])
    if mean is None or std is None or len(mean) != train.image_shape[0]:
        return train, test
    return tuple(ArrayDataset(d.images, d.labels, d.classes, d.name, mean, std) for d in (train, test))  # type: ignore[return-value]


def few_of_each_class(dataset: ArrayDataset, count: int, seed: int) -> ArrayDataset:
    """`count` images of each class (all of a class that has fewer), drawn by the seed; in the original order."""
    order = permutation(seed, 0, len(dataset), "few")
    shuffled = dataset.labels[order]
    taken = [order[shuffled == label][:count] for label in range(dataset.num_classes)]
    return dataset.subset(np.sort(np.concatenate(taken)))


def build_model(config: TrainConfig, num_classes: int, image_shape: tuple[int, int, int]) -> Module:
    """The network that the settings name, for images of (C, H, W), with fresh weights."""
    channels, height, width = image_shape
    return models.build(
        config.model,
        num_classes=num_classes,
        in_channels=channels,
        image_size=(height, width),
        **model_arguments(config),
    )


def build_optimizer(config: TrainConfig, model: Module) -> optim.Optimizer:
    """The optimiser that the settings name, over the parameters of the model that are not frozen."""
    groups = parameter_groups(config, model)
    if config.optimizer == "sgd":
        return optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov
        )
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[config.optimizer]
    return kind(groups, lr=config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay)


def parameter_groups(config: TrainConfig, model: Module) -> list[dict[str, Any]]:
    """The parameters that learn, in groups of one learning rate and one weight decay, the fastest group first.

    `stage_lr` = r: a parameter k stages below the head learns at lr r^k. `decay_bn` = false: parameters of one dimension
    (the scale and shift of batch norm, every bias) are not pulled towards zero: they are few, they do not multiply other
    layers' noise, and a scale pulled to zero is made up for by the next layer's weights.

    Source: Howard & Ruder 2018 (arXiv 1801.06146), section 3.2; He et al. 2018 (arXiv 1812.01187), section 3.1.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    names = stage_names(model) if config.stage_lr < 1 else []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        below = len(names) - 1 - names.index(stage_of(name, names)) if names else 0
        spared = not config.decay_bn and parameter.ndim <= 1
        group = groups.setdefault((below, spared), {"params": [], "lr": config.lr * config.stage_lr**below})
        group["params"].append(parameter)
        if spared:
            group["weight_decay"] = 0.0
    return [groups[key] for key in sorted(groups)]


def zero_gamma(model: Module) -> None:
    """Set the scale of the last batch norm of every residual block to 0: each block begins as its shortcut.

    Only where that norm stands behind the last convolution. In pre-activation blocks a ReLU and a convolution follow, and
    a scale of 0 in front of a ReLU has gradient 0: it would stay there.

    Raises:
        ConfigError: a network of other blocks.

    Source: Goyal et al. 2017 (arXiv 1706.02677), section 5.1.
    """
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)]
    if not blocks or any(block.plain for block in blocks):
        raise ConfigError(
            f"zero_gamma: {type(model).__name__} has no residual blocks that end in a batch norm; leave zero_gamma out"
        )
    for block in blocks:
        last: Any = block.bn3 if isinstance(block, Bottleneck) else block.bn2
        nn.init.zeros_(last.weight)


def build_schedule(config: TrainConfig, optimizer: optim.Optimizer, steps_per_epoch: int) -> Any:
    """The learning rate over the steps of the run; `step()` is called after every batch.

    Args:
        config: settings.
        optimizer: its "lr" is moved.
        steps_per_epoch: batches in an epoch.

    Returns:
        An lr_scheduler.
    """
    total = config.max_steps or config.epochs * steps_per_epoch
    if config.schedule == "onecycle":
        # cycle_momentum=False: the momentum stays what the settings say. A fifth of the run rises, the rest falls.
        peaks = [group["lr"] for group in optimizer.param_groups]
        return lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=total, pct_start=0.2, cycle_momentum=False)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    rest = total - warmup
    if config.schedule == "cosine":
        main: Any = lr_scheduler.CosineAnnealingLR(optimizer, T_max=rest)
    elif config.schedule == "linear":
        main = lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=rest)
    elif config.schedule == "step":
        main = lr_scheduler.StepLR(optimizer, config.step_epochs * steps_per_epoch, config.gamma)
    elif config.schedule == "multistep":
        # Milestones count from the beginning of the run, also behind a warm-up.
        steps = config.milestone_steps or [m * steps_per_epoch for m in config.milestones]
        main = lr_scheduler.MultiStepLR(optimizer, [s - warmup for s in steps if s > warmup], config.gamma)
    else:
        main = lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=1)
    if not warmup:
        return main
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (warmup + 1), end_factor=1.0, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, main], milestones=[warmup])
