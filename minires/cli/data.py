"""`minires data`: which data sets there are and where they lie; with a name, one of them; with --download, fetch it.

`minires data check FOLDER`: what is wrong with your own images: corrupt files, copies, imbalance, sizes.
"""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from minires.cli.output import FirstLineHelp, bold, print_json, print_next, print_table, require_package

NAMES = ("data",)
SHOWN = 20  # lines of each kind of finding


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "data", help="list, describe, download data sets", description=__doc__, formatter_class=FirstLineHelp
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="one data set: counts, classes, normalisation (reads it); or check"
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="after check: a folder of images to look through")
    parser.add_argument("--download", action="store_true", help="fetch it if it is not here")
    parser.add_argument("--data-dir", metavar="DIR", help="where its files lie, or shall lie")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List or describe."""
    from minires.errors import ArgumentError

    if args.name == "check":
        return _check(args)
    if args.folder is not None:
        raise ArgumentError(
            f"data: {args.folder!r} is one word too many; `minires data check FOLDER` looks through images"
        )
    if args.name is None:
        if args.download:
            raise ArgumentError(
                "data: --download needs the name of a data set, for example `minires data mnist --download`"
            )
        return _list(args)
    return _describe(args)


def _list(args: argparse.Namespace) -> int:
    from minires.data import describe

    rows = describe(args.data_dir)
    if args.json:
        print_json({"data": [row.__dict__ for row in rows]})
        return 0
    print_table(
        ["name", "images", "size", "classes", "here?"],
        [
            [
                row.name,
                f"{row.train:,} + {row.test:,}",
                "x".join(map(str, row.image_shape)),
                row.classes,
                row.found or f"no ({row.download_bytes / 1e6:.0f} MB to fetch)",
            ]
            for row in rows
        ],
        title="data sets (training + test images)",
        left=(0, 2, 4),
    )
    print("\nfolder:PATH   your own images: a subfolder for each class, in train/ and test/ or without")
    missing = [row.name for row in rows if row.found is None]
    steps = [("minires data digits", "classes, counts, licence"), ("minires train --data digits", "train on it")]
    if missing:
        steps.append((f"minires data {missing[0]} --download", "fetch one"))
    print_next(*steps)
    return 0


def _describe(args: argparse.Namespace) -> int:
    import numpy as np

    from minires.data import describe, load

    train, test = load(args.name, args.data_dir, download=args.download)
    counts = (
        np.bincount(train.labels, minlength=train.num_classes),
        np.bincount(test.labels, minlength=train.num_classes),
    )
    licence = next((row.licence for row in describe(args.data_dir) if row.name == args.name), None)
    channels, height, width = train.image_shape
    if args.json:
        print_json(
            {
                "name": args.name,
                "train": len(train),
                "test": len(test),
                "channels": channels,
                "height": height,
                "width": width,
                "classes": list(train.classes),
                "train_per_class": counts[0].tolist(),
                "test_per_class": counts[1].tolist(),
                "mean": [float(v) for v in train.mean],
                "std": [float(v) for v in train.std],
                "licence": licence,
            }
        )
        return 0
    print_table(
        ["class", "training images", "test images"],
        [[name, f"{a:,}", f"{b:,}"] for name, a, b in zip(train.classes, *counts, strict=True)],
        title=f"{args.name}: images of {channels}x{height}x{width}",
        footer=["total", f"{len(train):,}", f"{len(test):,}"],
    )
    numbers = [" ".join(f"{v:.4f}" for v in values) for values in (train.mean, train.std)]
    print(f"\nnormalisation: mean {numbers[0]}, standard deviation {numbers[1]} (of values in 0 .. 1)")
    if licence is not None:
        print(f"licence: {licence}")
    print_next((f"minires train --data {args.name}", "train on it"))
    return 0


def _check(args: argparse.Namespace) -> int:
    """Look through a folder; exit code 3 if something is wrong with it."""
    from minires.cli.counter import Counter
    from minires.data.check import check_folder
    from minires.errors import ArgumentError

    if args.folder is None:
        raise ArgumentError("data check: name a folder, for example `minires data check photos`")
    require_package("pillow", "PIL", "reading image files")
    folder = args.folder.removeprefix("folder:")
    with Counter("data check", 0, "images") as counter:

        def tell(done: int, total: int) -> None:
            counter.total = total
            counter.add(1)

        report = check_folder(folder, on_image=tell)
    code = 3 if report.faults else 0
    if args.json:
        print_json(report.as_dict())
        return code
    splits = report.splits
    total = [sum(counts[split] for counts in report.counts.values()) for split in splits]
    print_table(
        ["class", *(split or "images" for split in splits)],
        [[label, *(f"{counts[split]:,}" for split in splits)] for label, counts in report.counts.items()],
        title=f"{folder}: {len(report.images):,} images in {len(report.counts)} classes",
        footer=["total", *(f"{count:,}" for count in total)],
    )
    for name, found in report.sizes().items():
        print(f"{name}: {found['least']} to {found['largest']} pixels, median {found['median']:g}")
    for title, lines in (("wrong", report.faults), ("worth knowing", report.notes)):
        if lines:
            print(f"\n{bold(title)}")
            for line in lines[:SHOWN]:
                print(f"  {line}")
            if len(lines) > SHOWN:
                print(f"  and {len(lines) - SHOWN:,} more: `minires data check {shlex.quote(folder)} --json` has all")
    if not report.faults:
        print("\nnothing is wrong with it")
        print_next((f"minires train --data folder:{shlex.quote(folder)}", "train on it"))
    return code
