"""A recipe of `minires train`, run by torch: what the same training takes there, and where it arrives.

    python -m minires.bench.recipe_torch --recipe fashion-mnist-fast --json torch.json

torch computes: forward, loss, backward, optimiser, running mean of the weights, evaluation. From minires come the settings,
the images (the same ones in the same order, augmented alike, by a thread beside the steps, as in `minires train`), the
learning rate of every step and the weights at the start. So two runs differ in who computes, and in nothing else but
rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from minires.bench import torch_models
from minires.bench.structure import describe
from minires.data import ArrayDataset, BatchLoader
from minires.errors import UnsupportedError
from minires.io.files import write_atomically
from minires.train.config import TrainConfig, build_config, parse_assignment
from minires.train.evaluate import images_at_once
from minires.train.run_folder import available_cores
from minires.train.setup import Parts, build_parts

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


class Average:
    """`minires.train.ema.WeightAverage` in torch: average += (1 - d)(w - average), d = min(decay, (1 + t) / (10 + t))."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.floats = [t for t in model.state_dict().values() if t.is_floating_point()]
        self.values = [t.clone() for t in self.floats]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        d = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, self.floats, 1 - d)

    @torch.no_grad()
    def exchange(self) -> None:
        """The model gets the average and gives its own weights in return; twice is as if nothing had been."""
        for own, average in zip(self.floats, self.values, strict=True):
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)


def check_supported(config: TrainConfig) -> None:
    """Refuse what this twin does not do; a silent difference would make the comparison worthless."""
    wrong = [name for name in ("weights", "freeze", "zero_gamma", "patience", "max_steps") if getattr(config, name)]
    wrong += ["optimizer"] * (config.optimizer != "sgd") + ["accumulate"] * (config.accumulate > 1)
    if wrong:
        raise UnsupportedError(
            f"bench: the twin in torch does not know the settings {', '.join(wrong)}; leave them out"
        )


def twin_optimizer(parts: Parts, twin: torch.nn.Module) -> torch.optim.SGD:
    """torch's SGD over the twin's parameters, in the groups and with the settings of `parts.optimizer`."""
    named = dict(twin.named_parameters())
    names = {id(p): name for name, p in parts.model.named_parameters()}
    groups = [
        {"params": [named[names[id(p)]] for p in group["params"]], "weight_decay": group["weight_decay"]}
        for group in parts.optimizer.param_groups
    ]
    config = parts.config
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def accuracy(model: torch.nn.Module, dataset: ArrayDataset, layout: torch.memory_format, flip_tta: bool) -> float:
    """Share of images that the model recognises, judged as `minires.train.evaluate` does."""
    model.eval()
    right = 0
    with torch.inference_mode():
        for batch in BatchLoader(dataset, images_at_once(dataset.image_shape)).arrays(0):
            images = torch.from_numpy(batch.images).contiguous(memory_format=layout)
            logits = model(images)
            if flip_tta:
                logits = logits + model(images.flip(3))
            right += int((logits.argmax(1) == torch.from_numpy(batch.labels)).sum())
    model.train()
    return right / len(dataset)


def train(config: TrainConfig, layout: torch.memory_format) -> dict[str, Any]:
    """Train by the recipe; prints a line an epoch.

    Returns:
        test_accuracy, of the last epoch; seconds, training and validation, without the building of the parts; train_seconds,
        the training steps alone; the rest says what was run.
    """
    check_supported(config)
    parts = build_parts(config)
    twin = torch_models.build(describe(parts.model))
    state = {name: torch.from_numpy(t.array.copy()) for name, t in parts.model.state_dict().items()}
    twin.load_state_dict(state)
    twin = twin.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = twin_optimizer(parts, twin)
    average = Average(twin, config.ema_decay) if config.ema_decay else None
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    test = trained = 0.0
    for epoch in range(config.epochs):
        epoch_began = time.perf_counter()
        images_seen, loss_sum = 0, 0.0
        for batch in parts.loader.arrays(epoch):
            for theirs, ours in zip(optimizer.param_groups, parts.optimizer.param_groups, strict=True):
                theirs["lr"] = ours["lr"]
            optimizer.zero_grad()
            images = torch.from_numpy(batch.images).contiguous(memory_format=layout)
            labels = torch.from_numpy(batch.labels)
            loss = F.cross_entropy(twin(images), labels, label_smoothing=config.label_smoothing)
            loss.backward()
            if config.clip_norm > 0:
                torch.nn.utils.clip_grad_norm_(twin.parameters(), config.clip_norm)
            optimizer.step()
            parts.optimizer.step()  # of parameters without gradients: nothing but what the schedule waits for
            parts.schedule.step()
            if average is not None:
                average.update()
            images_seen, loss_sum = images_seen + len(images), loss_sum + loss.item() * len(images)
        trained += time.perf_counter() - epoch_began
        rate = images_seen / (time.perf_counter() - epoch_began)
        if average is not None:
            average.exchange()
        found = accuracy(twin, parts.validation, layout, config.flip_tta) if parts.validation is not None else None
        if epoch + 1 == config.epochs:
            test = accuracy(twin, parts.test, layout, config.flip_tta)
        if average is not None:
            average.exchange()
        loss_mean = loss_sum / images_seen
        rows.append({"epoch": epoch + 1, "train_loss": loss_mean, "val_accuracy": found, "images_per_second": rate})
        shown = "-" if found is None else f"{100 * found:.2f} %"
        print(
            f"{epoch + 1:4}/{config.epochs}  loss {loss_mean:.4f}  validation {shown}  {rate:,.0f} images/s", flush=True
        )
    seconds = time.perf_counter() - began
    return {
        "framework": f"torch {torch.__version__}",
        "recipe": config.recipe,
        "seed": config.seed,
        "threads": torch.get_num_threads(),
        "flip_tta": config.flip_tta,
        "test_accuracy": test,
        "seconds": seconds,
        "train_seconds": trained,
        "rows": rows,
    }


def main() -> None:
    """Parse the arguments, train, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", required=True, help="a named recipe of `minires train --list-recipes`")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting over the recipe's")
    parser.add_argument("--layout", choices=LAYOUTS, default="channels-last", help="of torch's images and weights")
    parser.add_argument("--threads", type=int, default=available_cores(), help="of torch")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = build_config({"recipe": args.recipe}, dict(parse_assignment(text) for text in args.set))
    result = {**train(config, LAYOUTS[args.layout]), "layout": args.layout, "command": sys.argv[1:]}
    print(f"test accuracy {100 * result['test_accuracy']:.2f} % in {result['seconds']:.0f} s")
    if args.json:
        with write_atomically(Path(args.json), "w") as file:
            file.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
