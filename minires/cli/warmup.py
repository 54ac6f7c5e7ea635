"""`minires warmup`: compile the CPU kernels that models need, so that the first real run does not wait for a compiler."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from minires.cli.output import FirstLineHelp, print_json, print_next, print_table

NAMES = ("warmup",)


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "warmup", help="compile the kernels of a model ahead", description=__doc__, formatter_class=FirstLineHelp
    )
    parser.add_argument(
        "--model", metavar="NAME", action="append", help="architecture, may be repeated (default: resnet18)"
    )
    parser.add_argument("--image-size", metavar="N", type=int, help="height and width (default: what the model is for)")
    parser.add_argument("--batch", metavar="N", type=int, default=1, help="images in a batch (default: 1)")
    parser.add_argument("--train", action="store_true", help="a training step too, with SGD and with Adam")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run each model once and watch what is compiled."""
    from minires import backend
    from minires.errors import ArgumentError

    for option in ("batch", "image_size"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ArgumentError(f"warmup: --{option.replace('_', '-')} must be at least 1, got {value}")
    kernels = backend.kernel_set("cpu")
    names = args.model or ["resnet18"]
    before = kernels.report()
    began = time.perf_counter()
    compiled: list[tuple[str, float]] = []

    def note(kernel: str, seconds: float) -> None:
        compiled.append((kernel, seconds))
        if not args.json:
            print(f"  {len(compiled):3d}  {seconds:5.2f} s  {kernel.partition('(')[0]}", file=sys.stderr, flush=True)

    rows = []
    stop = kernels.on_compile(note)
    try:
        with backend.use_kernels("cpu"):
            for name in names:
                start, known = time.perf_counter(), len(compiled)
                shape = _run_model(name, args)
                rows.append([name, "x".join(map(str, shape)), len(compiled) - known, time.perf_counter() - start])
    finally:
        stop()
    after = kernels.report()
    seconds = time.perf_counter() - began
    if args.json:
        models = [dict(zip(("model", "input", "compiled", "seconds"), row, strict=True)) for row in rows]
        print_json({"models": models, "seconds": seconds, **after})
        return 0
    print_table(
        ["model", "input", "kernels compiled", "time"],
        [[name, shape, count, f"{took:.1f} s"] for name, shape, count, took in rows],
        title=f"minires warmup ({after['instruction_set']}, {after['threads']} threads)",
        left=(0, 1),
    )
    if after["cache"] is None:
        print("\nno folder can be written to: the kernels were kept in memory, and are gone with this process")
    else:
        new = after["cached_kernels"] - before["cached_kernels"]
        size = f"{after['cached_kernels']} kernels, {after['cached_bytes'] / 1024:.0f} KB"
        print(f"\n{after['cache']}: {size}, {new} of them new")
    print_next(
        ("minires doctor", "this machine, and what is cached"),
        (f"minires bench infer --model {names[0]}", "how fast the model runs here"),
    )
    return 0


def _run_model(name: str, args: argparse.Namespace) -> tuple[int, int, int, int]:
    """One prediction, through a plan and operation by operation, and, if asked for, a training step with each optimiser."""
    import numpy as np

    from minires import infer, models, no_grad, optim
    from minires.cli.summary import _usual_input
    from minires.nn import functional as F
    from minires.tensor import Tensor

    channels, height, width = _usual_input(name)
    if args.image_size is not None:
        height = width = args.image_size
    classes = 1000 if height >= 128 else 10
    model = models.build(name, num_classes=classes, in_channels=channels, image_size=height)
    shape = (args.batch, channels, height, width)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    model.eval()
    infer.compile(model, shape)(x)
    with no_grad():
        model(Tensor(x)).numpy()
    if args.train:
        model.train()
        x = x if args.batch > 1 else np.concatenate([x, -x])  # batch norm wants more than one value a channel
        labels = Tensor(np.arange(len(x)) % classes)
        for optimizer in (
            optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4),
            optim.Adam(model.parameters(), lr=1e-3),
        ):
            optimizer.zero_grad()
            F.cross_entropy(model(Tensor(x)), labels).backward()
            optimizer.step()
    return shape
