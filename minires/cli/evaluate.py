"""`minires eval RUN`: accuracy of a trained model on its test set, class by class."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from minires.cli.output import FirstLineHelp, bold, print_json, print_next, print_table
from minires.cli.train import show_classes

NAMES = ("eval",)


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "eval", help="accuracy of a trained model on its test set", description=__doc__, formatter_class=FirstLineHelp
    )
    parser.add_argument(
        "checkpoint", metavar="RUN", help="a run's folder (its best.safetensors is taken) or a checkpoint file"
    )
    parser.add_argument(
        "--data", metavar="NAME", help="another data set with the same classes (default: the one of training)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where its files lie")
    parser.add_argument(
        "--batch-size", metavar="N", type=int, default=None, help="images at once (default: 256, fewer of large ones)"
    )
    parser.add_argument(
        "--flip-tta",
        action=argparse.BooleanOptionalAction,
        help="judge by the mean of the logits of each image and its mirror (default: as the run was judged)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate; print the figures."""
    from minires.data import load
    from minires.errors import CheckpointError
    from minires.train.checkpoint import load_checkpoint, load_model
    from minires.train.evaluate import evaluate
    from minires.train.metrics import worst_confusions

    checkpoint = load_checkpoint(args.checkpoint)
    model = load_model(checkpoint)
    name = args.data or checkpoint.config.data
    _, test = load(name, args.data_dir or checkpoint.config.data_dir or None)
    facts = checkpoint.data
    if test.image_shape[0] != facts["channels"] or test.num_classes != len(facts["classes"]):
        raise CheckpointError(
            f"eval: the model takes {facts['channels']} channels and knows {len(facts['classes'])} classes; "
            f"{name} has {test.image_shape[0]} and {test.num_classes}"
        )
    # The training set's normalisation belongs to the model, whatever set it is shown.
    test = type(test)(test.images, test.labels, test.classes, test.name, facts["mean"], facts["std"])
    flip_tta = checkpoint.config.flip_tta if args.flip_tta is None else args.flip_tta
    result = evaluate(model, test, batch_size=args.batch_size, flip_tta=flip_tta)
    epoch = checkpoint.progress["epoch"]
    if args.json:
        print_json({"checkpoint": str(checkpoint.path), "epoch": epoch, "data": name, **result.as_dict()})
        return 0
    print(f"{checkpoint.path}: {checkpoint.config.model} after {epoch} epochs, on the test set of {name}\n")
    show_classes(result.as_dict())
    confusions = worst_confusions(result.matrix, 5)
    if confusions:
        rows = [[result.classes[i], result.classes[j], n] for i, j, n in confusions]
        print()
        print_table(["is", "taken for", "times"], rows, title="most frequent confusions", left=(0, 1))
    right = int(result.matrix.trace())
    figure = bold(f"test accuracy {100 * result.accuracy:.2f} %")
    how = f"; {result.how}" if result.how else ""
    print(f"\n{figure} ({right:,} of {result.images:,}{how}), loss {result.loss:.4f}")
    print_next((f"minires predict IMAGE.png --checkpoint {shlex.quote(args.checkpoint)}", "classify your own image"))
    return 0
