"""`minires summary`: what a model is made of and what training it takes, layer by layer; without --model: which there are."""

from __future__ import annotations

import argparse
import re
import textwrap
from typing import TYPE_CHECKING, Any

from minires.cli.output import FirstLineHelp, print_json, print_next, print_table

if TYPE_CHECKING:
    from minires.nn import Module
    from minires.train.memory import MemoryEstimate
    from minires.train.summary import LayerTime, TrainingRow

NAMES = ("summary",)

BATCH = 32


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "summary",
        help="layers, shapes, parameters, MACs, memory and time of a model",
        description=__doc__,
        epilog=textwrap.dedent("""\
            columns:
              MACs        multiply-accumulates of one image
              saved       bytes that the layer is the first to keep for backward; what several keep counts once
              workspace   the most scratch memory that comes and goes within one of its operations
            A batch norm and the ReLU behind it run as one operation and have one row."""),
        formatter_class=FirstLineHelp,
    )
    parser.add_argument("--model", metavar="NAME", help="architecture (without it: a list of all)")
    parser.add_argument("--weights", metavar="FILE", help="the network of a run, or of a file or folder of weights")
    parser.add_argument(
        "--input", metavar="C,H,W", default=None, help="size of one image (default: 3,32,32 or 3,224,224)"
    )
    parser.add_argument(
        "--classes", metavar="N", type=int, default=None, help="number of classes (default: 10 or 1000)"
    )
    parser.add_argument("--batch", metavar="N", type=int, default=BATCH, help=f"images in a step (default: {BATCH})")
    parser.add_argument(
        "--optimizer", metavar="NAME", default="sgd", help="sgd, adam or adamw, for its state (default: sgd)"
    )
    parser.add_argument("--no-memory", action="store_true", help="shapes, parameters and MACs alone, at once")
    parser.add_argument("--time", action="store_true", help="run some steps and give each layer's median time")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from minires.errors import ArgumentError

    if args.model is None and args.weights is None:
        return _list_models(args.json)
    if args.batch < 1:
        raise ArgumentError(f"summary: --batch must be at least 1, got {args.batch}")
    if args.time and args.no_memory:
        raise ArgumentError("summary: --time runs training steps, which --no-memory leaves out; give one of them")
    model, name, shape, classes = _open(args)
    document: dict[str, Any] = {
        "model": name,
        "input": list(shape),
        "classes": classes,
        "parameters": sum(p.array.size for p in model.parameters()),
    }
    if args.no_memory:
        return _print_shapes(args, model, document)
    return _print_training(args, model, document)


def _open(args: argparse.Namespace) -> tuple[Module, str, tuple[int, int, int], int | None]:
    """The model, what it is called, the size of its images and, where it is known, the number of its classes."""
    from minires import models
    from minires.cli.model_source import open_model, parse_shape

    if args.weights is None:
        shape = parse_shape("summary", args.input) if args.input else _usual_input(args.model)
        classes = args.classes or (1000 if shape[1] >= 128 else 10)
        model = models.build(args.model, num_classes=classes, in_channels=shape[0], image_size=max(shape[1:]))
        return model, args.model, shape, classes
    from minires.errors import ArgumentError

    source = open_model("summary", args.weights, args.model, args.input, args.classes)
    if source.module is None:
        raise ArgumentError(
            f"summary: {source.what} has steps and no layers; print(minires.load_plan(FILE)) or print(minires.load_onnx(FILE))"
        )
    c, h, w = source.shape
    classes = next((int(p.shape[0]) for p in reversed(list(source.module.parameters())) if p.ndim == 2), None)
    return source.module, source.what, (c, h, w), classes


def _print_shapes(args: argparse.Namespace, model: Module, document: dict[str, Any]) -> int:
    """Without a training step."""
    from minires.train.summary import summarize

    rows = summarize(model, (1, *document["input"]))
    document["macs"] = sum(row.macs for row in rows)
    if args.json:
        print_json({**document, "layers": [vars(row) for row in rows]})
        return 0
    cells = [[row.name, row.kind, _shape(row.output_shape), _number(row.parameters), _count(row.macs)] for row in rows]
    foot = ["total", f"{len(rows)} layers", "", f"{document['parameters']:,}", _count(document["macs"])]
    columns = ["layer", "kind", "output", "parameters", "MACs"]
    print_table(columns, cells, title=_title(document), left=(0, 1, 2), footer=foot)
    _print_end(args, document)
    return 0


def _print_training(args: argparse.Namespace, model: Module, document: dict[str, Any]) -> int:
    """With what a training step takes."""
    from minires.train.forecast import StepForecast
    from minires.train.memory import estimate
    from minires.train.summary import summarize_training, time_layers

    shape = tuple(document["input"])
    forecast = StepForecast(model, shape, args.batch)
    memory = estimate(forecast, model, shape, args.batch, args.optimizer)
    rows = summarize_training(forecast)
    times = time_layers(model, shape, args.batch) if args.time else None
    document |= {"macs": sum(row.layer.macs for row in rows), "batch": args.batch, "memory": memory.as_dict()}
    if args.json:
        layers = [vars(row.layer) | {"saved": row.saved, "workspace": row.workspace} for row in rows]
        for k, layer in enumerate(layers):
            if times is not None:
                layer |= {"forward_seconds": times[k].forward, "backward_seconds": times[k].backward}
        print_json({**document, "layers": layers})
        return 0
    _print_rows(rows, times, document)
    _print_memory(memory)
    _print_end(args, document)
    return 0


def _print_rows(rows: list[TrainingRow], times: list[LayerTime] | None, document: dict[str, Any]) -> None:
    from minires.train.layers import LOSS
    from minires.train.memory import size_text

    cells = []
    for k, row in enumerate(rows):
        layer = row.layer
        cells.append(
            [
                layer.name,
                layer.kind,
                _shape(layer.output_shape),
                _number(layer.parameters),
                _count(layer.macs),
                size_text(row.saved) if row.saved else "",
                size_text(row.workspace) if row.workspace else "",
                *([f"{1e3 * t:.2f}" for t in (times[k].forward, times[k].backward)] if times else []),
            ]
        )
    foot = [
        "total",
        f"{sum(row.layer.name != LOSS for row in rows)} layers",
        "",
        f"{document['parameters']:,}",
        _count(document["macs"]),
        size_text(sum(row.saved for row in rows)),
        "",
    ]
    if times:
        foot += [f"{1e3 * sum(t.forward for t in times):.1f}", f"{1e3 * sum(t.backward for t in times):.1f}"]
    columns = ["layer", "kind", "output", "parameters", "MACs", "saved", "workspace"]
    columns += ["fwd ms", "bwd ms"] if times else []
    print_table(columns, cells, title=f"{_title(document)}, batch {document['batch']}", left=(0, 1, 2), footer=foot)


def _print_memory(memory: MemoryEstimate) -> None:
    from minires.train.memory import PARTS, size_text

    parts = [f"{size_text(getattr(memory, name))} {name.replace('_', ' ')}" for name in PARTS]
    print(f"\ntraining takes about {size_text(memory.total)} at its peak ({memory.where}):")
    print(textwrap.fill(", ".join(parts), 100, initial_indent="  ", subsequent_indent="  "))


def _print_end(args: argparse.Namespace, document: dict[str, Any]) -> None:
    parameters, macs = document["parameters"], document["macs"]
    print(f"\n{parameters * 4 / 2**20:.1f} MiB of float32 weights; {macs / 1e9:.3f} GMACs an image and forward pass")
    if args.weights is None:
        print_next(("minires summary", "all models"), (f"minires train --model {args.model} --data NAME", "train it"))


def _title(document: dict[str, Any]) -> str:
    classes = f", {document['classes']} classes" if document["classes"] else ""
    return f"{document['model']}, images of {'x'.join(map(str, document['input']))}{classes}"


def _shape(output_shape: tuple[int, ...]) -> str:
    return "x".join(map(str, output_shape[1:]))


def _number(value: int) -> str:
    return f"{value:,}" if value else ""


def _count(value: int) -> str:
    """118 M: three digits say enough of a product of sizes."""
    for unit, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}" if value < 1000 * unit else f"{value / unit:,.0f}{name}"
    return str(value) if value else ""


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
    print_next(("minires summary --model resnet20", "its layers, shapes, parameters, MACs, memory"))
    return 0


def _by_depth(name: str) -> tuple[str, list[int], str]:
    """resnet8 before resnet20: letters first, then the numbers as numbers."""
    return re.split(r"[0-9_]", name)[0], [int(n) for n in re.findall(r"\d+", name)], name


def _usual_input(model: str) -> tuple[int, int, int]:
    """The image size a model is known for: 32 for He's CIFAR family and the wide nets, 224 for the ImageNet family."""
    from minires.models import model_options

    # Only nets made for large images have another stem for small ones.
    return (3, 224, 224) if "small_input" in model_options(model) else (3, 32, 32)
