"""`minires predict FILES --checkpoint RUN`: the most probable classes of image files."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from minires.cli.output import FirstLineHelp, print_json, print_next, print_table, require_package

NAMES = ("predict",)


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "predict", help="classify image files", description=__doc__, formatter_class=FirstLineHelp
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="image files (PNG, JPEG, ...)")
    parser.add_argument(
        "--checkpoint", metavar="RUN", required=True, help="a run's folder (its best.safetensors is taken) or a file"
    )
    parser.add_argument("--top", metavar="N", type=int, default=5, help="how many classes to name (default: 5)")
    parser.add_argument(
        "--invert", action="store_true", help="swap dark and light first (ink on paper, for nets trained on MNIST)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Classify; print the top classes."""
    from minires.errors import ArgumentError
    from minires.train.checkpoint import load_checkpoint, load_model
    from minires.train.predict import predict_files

    if args.top < 1:
        raise ArgumentError(f"predict: --top must be at least 1, got {args.top}")
    require_package("pillow", "PIL", "reading image files")
    checkpoint = load_checkpoint(args.checkpoint)
    predictions = predict_files(load_model(checkpoint), checkpoint.data, args.files, top=args.top, invert=args.invert)
    if not args.invert and any(p.looks_inverted for p in predictions):
        print(
            f"note: {checkpoint.data['name']} is light on black, an image here is light at its border; try --invert",
            file=sys.stderr,
        )
    if args.json:
        print_json(
            {
                "checkpoint": str(checkpoint.path),
                "model": checkpoint.config.model,
                "predictions": [
                    {"file": p.file, "top": [{"class": name, "probability": share} for name, share in p.top]}
                    for p in predictions
                ],
            }
        )
        return 0
    rows = []
    for prediction in predictions:
        for place, (name, share) in enumerate(prediction.top):
            rows.append([prediction.file if place == 0 else "", name, f"{100 * share:.2f} %"])
    print_table(
        ["file", "class", "probability"], rows, title=f"{checkpoint.config.model} from {checkpoint.path}", left=(0, 1)
    )
    print_next((f"minires eval {shlex.quote(args.checkpoint)}", "how far such answers can be trusted"))
    return 0
