"""`minires train`: train a model. With no argument: a small ResNet on the digits that come with the package."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from minires.cli.output import FirstLineHelp, bold, print_json, print_next, print_table

if TYPE_CHECKING:
    from minires.train.config import TrainConfig

NAMES = ("train",)
EPILOG = """\
examples:
  minires train
  minires train --recipe fashion-mnist-fast
  minires train --data fashion-mnist --model resnet20 --epochs 8
  minires train --data cifar10 --augment pad_crop:4,flip,cutout:8 --schedule cosine --warmup-epochs 1
  minires train --seeds 0,1,2
  minires train --print-config > my.toml; minires train --config my.toml --set lr=0.05
  minires train --resume runs/digits-resnet8
  mpiexec -n 4 minires train --distributed mpi

Ctrl-C (or SIGTERM) saves and stops; twice stops at once. After that, or after a crash: --resume."""
METAVARS = {int: "N", float: "X", str: "NAME", bool: "true|false"}
GROUPS = {
    "recipe": ("recipe",),
    "data": ("data", "data_dir", "limit", "per_class", "image_size", "val_fraction", "augment"),
    "model": ("model", "model_options", "zero_gamma", "weights", "head", "freeze"),
    "optimisation": (
        "epochs", "max_steps", "batch_size", "accumulate", "optimizer", "lr", "momentum", "nesterov", "weight_decay",
        "decay_bn", "sync_bn", "clip_norm", "label_smoothing", "ema_decay", "patience",
    ),
    "learning rate": (
        "schedule", "warmup_epochs", "milestones", "milestone_steps", "step_epochs", "gamma", "stage_lr",
    ),
    "judging": ("flip_tta", "tensorboard", "test_every"),
    "run": (
        "seed", "workers", "device", "run_dir", "name", "checkpoint_every", "checkpoint_seconds",
    ),
}  # fmt: skip


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "train",
        help="train a model",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=FirstLineHelp,
        allow_abbrev=False,
    )
    add_options(parser)
    parser.add_argument(
        "--distributed",
        metavar="BACKEND",
        choices=("mpi",),
        help="mpi: train with all processes that `mpiexec -n N` started, each on its part of every batch",
    )
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Declare the arguments: one option for every setting of TrainConfig, and where settings come from.

    Args:
        without: settings that the verb takes in another way.
    """
    from minires.train.config import FIELDS, TYPES

    parser.set_defaults(distributed=None)  # an option of `train` alone
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in (each for each in names if each not in without):
            kind = "DIR" if name.endswith("_dir") else METAVARS.get(TYPES[name], "A,B,...")
            text = FIELDS[name].metadata["text"].replace("%", "%%")
            group.add_argument("--" + name.replace("_", "-"), metavar=kind, default=None, help=text)
    how = parser.add_argument_group("settings from elsewhere")
    how.add_argument("--config", metavar="FILE", help="read settings from a TOML file; options given here go over it")
    how.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="one setting, value in TOML; may be repeated"
    )
    how.add_argument("--list-recipes", action="store_true", help="the named recipes, where each is from, and stop")
    how.add_argument("--print-config", action="store_true", help="print all settings as TOML and stop")
    how.add_argument("--resume", metavar="RUN", help="go on with an interrupted run, from its last.ckpt")
    how.add_argument(
        "--json", action="store_true", help="print the result as one JSON document; progress goes to standard error"
    )
    how.add_argument(
        "--seeds", metavar="N,N,...", help="one run after the other with each seed; the mean and spread at the end"
    )


def run(args: argparse.Namespace) -> int:
    """Train, alone or together; print the report."""
    if args.distributed is None:
        return _train(args)
    from minires.cli.together import run_together

    return run_together(args.distributed, lambda: _train(args))


def _train(args: argparse.Namespace) -> int:
    from minires.errors import ArgumentError
    from minires.train.config import to_toml

    if args.list_recipes:
        return _list_recipes(args.json)
    options, assignments = _given(args)
    if args.resume and (options or assignments or args.config):
        given = ", ".join(
            "--" + name.replace("_", "-") for name in [*options, *assignments, *(["config"] if args.config else [])]
        )
        raise ArgumentError(f"minires train: --resume goes on with the settings of the run; leave out {given}")
    stream = sys.stderr if args.json else sys.stdout
    if args.seeds and (args.resume or "seed" in options or "seed" in assignments):
        raise ArgumentError(
            "minires train: --seeds begins new runs, each with its own seed; leave out --resume and --seed"
        )
    if args.resume:
        from minires.train.session import resume_training

        result = resume_training(args.resume, stream)
    else:
        config = settings(args)
        if args.print_config:
            print(to_toml(config), end="")
            return 0
        if args.seeds:
            return _run_seeds(config, args.seeds, stream, args.json)
        from minires.train.session import run_training

        result = run_training(config, stream)
    document = result.as_dict()
    if args.json:
        print_json(document)
    else:
        _report(document)
    return result.exit_code


def settings(args: argparse.Namespace) -> TrainConfig:
    """The settings that the command line asks for."""
    from minires.train.config import build_config, read_toml

    return build_config(read_toml(args.config) if args.config else {}, *_given(args))


def _given(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the options say, and what `--set` says."""
    from minires.train.config import FIELDS, parse_assignment

    given = {name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None}
    options = dict(parse_assignment(f"{name}={value}") for name, value in given.items())
    return options, dict(parse_assignment(text) for text in args.set)


def _run_seeds(config: TrainConfig, text: str, stream: TextIO, as_json: bool) -> int:
    """One run for each seed; the spread at the end."""
    from minires.train.repeat import parse_seeds, run_seeds

    result = run_seeds(config, parse_seeds(text), stream)
    if as_json:
        print_json(result.as_dict())
    else:
        print("\n" + "\n".join(result.lines()))
        runs = " ".join(shlex.quote(str(run.path)) for run in result.runs)
        print_next((f"minires compare {runs}", "the runs side by side"))
    return result.runs[-1].exit_code


def _list_recipes(as_json: bool) -> int:
    """Every named recipe: what it trains, where it is from, what it reached here."""
    from minires.train.recipes import all_recipes

    recipes = all_recipes()
    if as_json:
        print_json([asdict(recipe) for recipe in recipes])
        return 0
    for recipe in recipes:
        print(f"{bold(recipe.name)}\n    {recipe.title}\n    source  {recipe.source}\n    reached {recipe.reached}")
    print_next(
        ("minires train --recipe NAME", "train by it"),
        ("minires train --recipe NAME --print-config", "all its settings"),
    )
    return 0


def _report(document: dict[str, Any]) -> None:
    """The closing table and the commands that come next."""
    from minires.train.evaluate import FLIP_TTA
    from minires.train.progress import format_duration

    path = shlex.quote(document["run"])
    if document["interrupted"]:
        print(f"\ninterrupted after {document['epochs']} whole epochs; saved {document['last_checkpoint']}")
        print_next((f"minires train --resume {path}", "go on exactly there"))
        return
    print()
    show_classes(document["test"])
    figure = bold(f"test accuracy {100 * document['test_accuracy']:.2f} %")
    took = f"{document['epochs']} epochs in {format_duration(document['seconds'])}"
    if document["test"]["flip_tta"]:
        figure += f" ({FLIP_TTA})"
    if document["stopped_early"]:
        took += ", then no better validation"
    print(f"\n{figure} after the last epoch ({document['test']['images']:,} images; {took})")
    best = document["best"]
    if best:
        seen = f", test {100 * best['test_accuracy']:.2f} %" if best["test_accuracy"] is not None else ""
        print(
            f"best.safetensors: epoch {best['epoch']}, chosen by validation ({100 * best['val_accuracy']:.2f} %){seen}"
        )
    if document["curves"]:
        print(f"curves: {document['curves']}")
    if document["report"]:
        print(f"report: {document['report']}, a page for your browser")
    print_next(
        (f"minires eval {path}", "test accuracy and confusions of the best epoch"),
        (f"minires predict IMAGE.png --checkpoint {path}", "classify your own image"),
        (f"minires train --config {path}/config.toml --set seed=1", "the same again, other random numbers"),
    )


def show_classes(evaluation: dict[str, Any]) -> None:
    """Per-class accuracy as a table; with many classes, only the ten worst."""
    rows = evaluation["per_class"]
    title = "test accuracy by class"
    if len(rows) > 20:
        rows = sorted((r for r in rows if r["images"]), key=lambda r: r["accuracy"])[:10]
        title = "the ten classes with the lowest test accuracy"
    print_table(
        ["class", "accuracy", "", "images", "most often taken for"],
        [
            [
                row["class"],
                f"{100 * row['accuracy']:.1f} %" if row["images"] else "-",
                bar(row["accuracy"] if row["images"] else 0.0),
                row["images"],
                f"{row['taken_for']} ({row['taken_for_times']}x)" if row["taken_for"] is not None else "",
            ]
            for row in rows
        ],
        title=title,
        left=(0, 2, 4),
    )


def bar(share: float, width: int = 20) -> str:
    """A bar of `width` characters for 100 %."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    block = "█" if "utf" in encoding else "#"
    return block * round(share * width)
