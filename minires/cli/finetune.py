"""`minires finetune WEIGHTS --data NAME`: begin from weights that are there, with a new head and few labels."""

from __future__ import annotations

import argparse
import time
from typing import Any

from minires.cli import train
from minires.cli.output import FirstLineHelp, bold, print_json, print_next

NAMES = ("finetune",)
EPILOG = """\
examples:
  minires finetune runs/digits-resnet8 --data folder:photos
  minires finetune resnet50.pth --model resnet50 --data folder:photos --per-class 20
  minires finetune resnet18.safetensors --model resnet18 --data cifar10 --probe

WEIGHTS: a run, or a file or folder that `minires.load_model` reads (torch, safetensors, timm, Hugging Face).
The settings are those of the recipe `finetune`; every option of `minires train` goes over them."""


def add_parser(verbs: Any) -> None:
    """Declare the arguments: the weights, and train's."""
    parser = verbs.add_parser(
        "finetune",
        help="train on from given weights, with a new head",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=FirstLineHelp,
        allow_abbrev=False,
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="a run's folder, or a file or folder of weights")
    parser.add_argument(
        "--probe", action="store_true", help="only fit a linear layer on the features, and stop: seconds, no run folder"
    )
    train.add_options(parser, without=("weights",))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fine-tune, or probe; print the report."""
    args.recipe = args.recipe or "finetune"
    return _probe(args) if args.probe else train.run(args)


def _probe(args: argparse.Namespace) -> int:
    """Fit the head alone and look at the test images once."""
    from minires.errors import ArgumentError
    from minires.train.evaluate import evaluate
    from minires.train.setup import build_parts

    for option in ("resume", "seeds", "print_config", "list_recipes"):
        if getattr(args, option):
            raise ArgumentError(f"minires finetune: --probe trains nothing; leave out --{option.replace('_', '-')}")
    began = time.perf_counter()
    args.head = "probe"
    parts = build_parts(train.settings(args))
    validation = evaluate(parts.model, parts.validation).accuracy if parts.validation is not None else None
    test = evaluate(parts.model, parts.test, flip_tta=parts.config.flip_tta)
    seconds = time.perf_counter() - began
    if args.json:
        print_json({"weights": args.weights, "val_accuracy": validation, "seconds": seconds, "test": test.as_dict()})
        return 0
    train.show_classes(test.as_dict())
    how = f" ({test.how})" if test.how else ""
    print(f"\n{bold(f'test accuracy {100 * test.accuracy:.2f} %')}{how} of a linear layer on the features")
    seen = f", validation {100 * validation:.2f} %" if validation is not None else ""
    print(f"{len(parts.loader.dataset):,} labelled images{seen}, {seconds:.1f} s")
    print_next((f"minires finetune {args.weights} --data {parts.config.data}", "all stages, from there"))
    return 0
