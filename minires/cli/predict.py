"""`minires predict IMAGES --weights FILE`: the most probable classes of images, of files and of whole folders.

  minires predict cat.jpg --weights resnet50-0676ba61.pth          torchvision's file
  minires predict photos/ --weights models/resnet-50 --json        a folder as timm or Hugging Face lay it out
  minires predict photo.png --checkpoint runs/digits-resnet8       a run of `minires train`

How images are prepared (size, crop, normalisation) and what the classes are called is read from beside the weights; --labels,
--image-size, --mean and --std say it where nothing does. Weights are safetensors, .pth, .npz, .onnx or a saved plan.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minires.cli.output import FirstLineHelp, print_json, print_next, print_table, require_package

if TYPE_CHECKING:
    from minires.data.preprocess.transform import ImageTransform
    from minires.infer.plan import Plan
    from minires.infer.predict import Prediction

NAMES = ("predict",)


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "predict", help="classify image files", description=__doc__, formatter_class=FirstLineHelp
    )
    parser.add_argument(
        "files",
        metavar="IMAGE",
        nargs="+",
        help="image files (PNG, JPEG, ...), .npy arrays, or folders, which are searched for them",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", metavar="PATH", help="a file of weights, or a folder with one and its config.json")
    source.add_argument("--checkpoint", metavar="RUN", help="a run's folder (its best.ckpt is taken) or a file")
    parser.add_argument(
        "--model", metavar="NAME", help="which network the weights are of, where nothing beside them says it"
    )
    parser.add_argument("--labels", metavar="FILE", help="class names: one a line, or JSON (a list, or index to name)")
    parser.add_argument("--top", metavar="N", type=int, default=5, help="how many classes to name (default: 5)")
    parser.add_argument("--image-size", metavar="N", type=int, help="pixels a side of the network's input")
    parser.add_argument(
        "--mean", metavar="M,M,M", help="of the normalisation, for values in 0 .. 1; one a channel or one"
    )
    parser.add_argument("--std", metavar="S,S,S", help="the same")
    parser.add_argument("--batch-size", metavar="N", type=int, default=16, help="images at once (default: 16)")
    parser.add_argument(
        "--invert", action="store_true", help="swap dark and light first (ink on paper, for nets trained on MNIST)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Classify; print the top classes. 3 if a file could not be used."""
    from minires.cli.counter import Counter
    from minires.errors import ArgumentError
    from minires.infer.predict import predict

    for name in ("top", "batch_size"):
        if getattr(args, name) < 1:
            raise ArgumentError(f"predict: --{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    files = _gather(args.files)
    if any(not file.lower().endswith(".npy") for file in files):
        require_package("pillow", "PIL", "reading image files")
    with _notes():
        network = _load(args, min(args.batch_size, len(files)))
        if args.labels is not None:
            network = network.named(_read_labels(args.labels, network.plan.output_shape[-1]))
        with Counter("predict", len(files), "images") as counter:
            options = {"top": args.top, "batch_size": args.batch_size, "invert": args.invert, "report": counter.add}
            predictions = list(predict(network.plan, network.transform, files, **options))
    failed = [p for p in predictions if p.error is not None]
    if any(p.looks_inverted for p in predictions):
        print(
            f"note: {network.knows} light on black, an image here is light at its border; try --invert", file=sys.stderr
        )
    if args.json:
        _print_json(args, network, predictions)
    elif len(failed) < len(predictions):
        _print_answers(args, network, predictions)
    if failed:
        count = f"{len(failed):,} of {len(predictions):,} images" if len(predictions) > 1 else "the image"
        print(f"minires: error: {count} could not be classified:", file=sys.stderr)
        for prediction in failed:
            print(f"  {prediction.error}", file=sys.stderr)
    return 3 if failed else 0


class _Network(NamedTuple):
    plan: Plan
    transform: ImageTransform
    name: str
    file: Path
    knows: str  # begins the sentence about light and dark

    def named(self, names: tuple[str, ...]) -> _Network:
        import dataclasses

        return self._replace(transform=dataclasses.replace(self.transform, class_names=names))


def _gather(arguments: list[str]) -> list[str]:
    """The files, folders replaced by what is in them."""
    from minires.data.preprocess.decode import find_images
    from minires.errors import DataError

    files = []
    for argument in arguments:
        if not Path(argument).is_dir():
            files.append(argument)
            continue
        found = [str(path) for path in find_images(argument, (".npy",))]
        if not found:
            raise DataError(f"predict: the folder {argument} holds no images (looked for *.jpg, *.png, ... and *.npy)")
        files += found
    return files


def _load(args: argparse.Namespace, batch: int) -> _Network:
    """The network of --weights or --checkpoint, ready to run."""
    import minires
    from minires.data.preprocess import transform_for
    from minires.errors import ArgumentError

    given = {"image_size": args.image_size, "mean": _numbers("mean", args.mean), "std": _numbers("std", args.std)}
    if args.checkpoint is not None:
        from minires.train.checkpoint import load_checkpoint, load_model

        if args.model is not None:
            raise ArgumentError("predict: --model goes with --weights; a checkpoint says which model it is of")
        checkpoint = load_checkpoint(args.checkpoint)
        model = load_model(checkpoint)
        model.pretrained_config, model.preprocess_config = None, checkpoint.data
        transform = transform_for(model, **given)
        plan = minires.compile(model, (batch, *transform.shape))
        knows = f"{checkpoint.data['name']} is"
        return _Network(plan, transform, checkpoint.config.model, Path(checkpoint.path), knows)
    plan_of_file = _read_plan(args)
    if plan_of_file is not None:
        transform = transform_for(plan_of_file, **given)
        return _Network(plan_of_file, transform, Path(args.weights).stem, Path(args.weights), "the network knows")
    model = minires.load_model(args.weights, model=args.model)
    transform = transform_for(model, **given)
    config: dict[str, Any] = model.pretrained_config or {}
    declared = [args.model, config.get("architecture"), *(config.get("architectures") or [])]
    name = next((str(name) for name in declared if name), type(model).__name__)
    plan = minires.compile(model, (batch, *transform.shape))
    return _Network(plan, transform, name, Path(str(model.weights_file)), "the network knows")


def _read_plan(args: argparse.Namespace) -> Plan | None:
    """The plan of an ONNX file, or of one that `Plan.save` wrote; None for anything else."""
    import minires
    from minires.errors import ArgumentError

    path, size = Path(args.weights), args.image_size
    if path.suffix == ".onnx":
        plan = minires.load_onnx(path, None if size is None else (1, 3, size, size))
    elif path.suffix == ".safetensors" and path.is_file() and _holds_plan(path):
        plan = minires.load_plan(path)
    else:
        return None
    if args.model is not None:
        raise ArgumentError(f"predict: --model goes with bare weights; {path} says itself what it computes")
    return plan


def _holds_plan(path: Path) -> bool:
    from minires.errors import CheckpointError
    from minires.infer.saved import KEY
    from minires.io.safetensors import SafetensorsFile

    try:
        with SafetensorsFile(path) as file:
            return KEY in file.metadata
    except CheckpointError:
        return False  # load_model says what is wrong with it


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    from minires.errors import ArgumentError

    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ArgumentError(
            f"predict: --{name} must be numbers with commas between them, for example 0.485,0.456,0.406; got {text!r}"
        ) from None


def _read_labels(file: str, classes: int) -> tuple[str, ...]:
    """Class names: lines of text, or JSON: a list, or {"0": "cat"}, {"0": ["n02123045", "tabby"]} as ImageNet's index."""
    from minires.errors import ArgumentError
    from minires.io.json_text import parse_json

    data = Path(file).read_bytes()
    try:
        if data.lstrip()[:1] in (b"[", b"{"):
            tree = parse_json(data)
            values = [tree[str(i)] for i in range(len(tree))] if isinstance(tree, dict) else tree
            names = [str(value[-1] if isinstance(value, list) else value) for value in values]
        else:
            names = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
            while names and not names[-1]:
                names.pop()
    except (ValueError, KeyError, IndexError) as error:
        raise ArgumentError(f"predict: --labels {file}: not a list of names ({error})") from None
    if len(names) != classes:
        raise ArgumentError(f"predict: --labels {file} has {len(names):,} names, the network {classes:,} classes")
    return tuple(names)


def _print_json(args: argparse.Namespace, network: _Network, predictions: list[Prediction]) -> None:
    rows: list[dict[str, Any]] = []
    for prediction in predictions:
        if prediction.error is not None:
            rows.append({"file": prediction.file, "error": prediction.error})
            continue
        top = [{"index": c.index, "class": c.name, "probability": c.probability} for c in prediction.top]
        rows.append({"file": prediction.file, "top": top})
    print_json(
        {
            "weights" if args.checkpoint is None else "checkpoint": str(network.file),
            "model": network.name,
            "preprocessing": network.transform.as_dict(),
            "predictions": rows,
        }
    )


def _print_answers(args: argparse.Namespace, network: _Network, predictions: list[Prediction]) -> None:
    print(f"images: {network.transform} ({network.transform.source})\n")
    rows = []
    for prediction in predictions:
        for place, found in enumerate(prediction.top):
            share = f"{100 * found.probability:.2f} %"
            rows.append([prediction.file if place == 0 else "", found.name, share])
    print_table(["image", "class", "probability"], rows, title=f"{network.name} from {network.file}", left=(0, 1))
    if args.checkpoint is not None:
        print_next((f"minires eval {shlex.quote(args.checkpoint)}", "how far such answers can be trusted"))
        return
    files = " ".join(map(shlex.quote, args.files)) if len(args.files) < 3 else "IMAGES"
    command = f"minires predict {files} --weights {shlex.quote(args.weights)}"
    if network.transform.class_names is None:
        print_next((f"{command} --labels NAMES.txt", "names for the classes, one a line, instead of their numbers"))
    else:
        print_next((f"{command} --json", "the same for a program"))


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """What the library announces, as notes."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    logger = logging.getLogger("minires")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
