"""`minires summary`: what a model is made of, layer by layer; without --model: which models there are."""

from __future__ import annotations

import argparse
import re
import textwrap
from typing import Any

from minires.cli.output import FirstLineHelp, print_json, print_next, print_table

NAMES = ("summary",)


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "summary",
        help="layers, shapes, parameters and MACs of a model",
        description=__doc__,
        formatter_class=FirstLineHelp,
    )
    parser.add_argument("--model", metavar="NAME", help="architecture (without it: a list of all)")
    parser.add_argument(
        "--input", metavar="C,H,W", default=None, help="size of one image (default: 3,32,32 or 3,224,224)"
    )
    parser.add_argument(
        "--classes", metavar="N", type=int, default=None, help="number of classes (default: 10 or 1000)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from minires import models
    from minires.train.summary import summarize

    if args.model is None:
        return _list_models(args.json)
    shape = _parse_shape(args.input) if args.input else _usual_input(args.model)
    classes = args.classes or (1000 if shape[1] >= 128 else 10)
    model = models.build(args.model, num_classes=classes, in_channels=shape[0], image_size=max(shape[1:]))
    rows = summarize(model, (1, *shape))
    parameters = sum(p.array.size for p in model.parameters())
    macs = sum(row.macs for row in rows)
    if args.json:
        layers = [row.__dict__ for row in rows]
        document = {
            "model": args.model,
            "input": list(shape),
            "classes": classes,
            "parameters": parameters,
            "macs": macs,
        }
        print_json({**document, "layers": layers})
        return 0
    print_table(
        ["layer", "kind", "output", "parameters", "MACs"],
        [
            [
                row.name,
                row.kind,
                "x".join(map(str, row.output_shape[1:])),
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.macs:,}" if row.macs else "",
            ]
            for row in rows
        ],
        title=f"{args.model}, one image of {'x'.join(map(str, shape))}, {classes} classes",
        left=(0, 1, 2),
        footer=["total", f"{len(rows)} layers", "", f"{parameters:,}", f"{macs:,}"],
    )
    print(f"\n{parameters * 4 / 2**20:.1f} MiB of float32 weights; {macs / 1e9:.3f} GMACs a forward pass")
    print_next(("minires summary", "all models"), (f"minires train --model {args.model} --data NAME", "train it"))
    return 0


def _list_models(as_json: bool) -> int:
    from minires import models

    if as_json:
        print_json({"models": models.list_models()})
        return 0
    families: dict[str, list[str]] = {}
    for name in sorted(models.list_models(plain=False), key=_by_depth):
        families.setdefault(re.split(r"[0-9_]", name)[0], []).append(name)
    width = max(map(len, families))
    for family, names in families.items():
        lines = textwrap.wrap("  ".join(names), 76)
        print(f"  {family:<{width}}  " + f"\n{'':{width + 4}}".join(lines))
    print("\neach also as plain_NAME: the same layers without shortcuts")
    print_next(("minires summary --model resnet20", "its layers, shapes, parameters, MACs"))
    return 0


def _by_depth(name: str) -> tuple[str, list[int], str]:
    """resnet8 before resnet20: letters first, then the numbers as numbers."""
    return re.split(r"[0-9_]", name)[0], [int(n) for n in re.findall(r"\d+", name)], name


def _usual_input(model: str) -> tuple[int, int, int]:
    """The image size a model is known for: 32 for He's CIFAR family and the wide nets, 224 for the ImageNet family."""
    from minires.models import model_options

    # Only nets made for large images have another stem for small ones.
    return (3, 224, 224) if "small_input" in model_options(model) else (3, 32, 32)


def _parse_shape(text: str) -> tuple[int, int, int]:
    from minires.errors import ArgumentError

    words = text.lower().replace("x", ",").split(",")
    if len(words) != 3 or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ArgumentError(f"summary: --input must be C,H,W, for example 3,224,224; got {text!r}")
    c, h, w = (int(word) for word in words)
    return c, h, w
