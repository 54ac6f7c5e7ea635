"""`minires report RUN`: make a run's report.html again; `minires compare RUN RUN ...`: runs side by side."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from minires.cli.output import FirstLineHelp, print_json, print_next, print_table, require_package

NAMES = ("report", "compare")


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "report",
        help="one page about a run: curves, confusions, mistakes",
        description="Write report.html into a run's folder: one page that opens offline.",
        formatter_class=FirstLineHelp,
    )
    parser.add_argument("run_folder", metavar="RUN", help="a run's folder")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set's files lie (default: as in training)")
    parser.set_defaults(run=run_report)
    parser = verbs.add_parser(
        "compare",
        help="runs side by side",
        description="Lay runs side by side: what differs in their settings, and what came out.",
        formatter_class=FirstLineHelp,
    )
    parser.add_argument("run_folders", metavar="RUN", nargs="+", help="folders of runs, two or more")
    parser.add_argument("--html", metavar="FILE", help="also write a page with their curves")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run_compare)


def run_report(args: argparse.Namespace) -> int:
    """Write the page."""
    from minires.data import load
    from minires.errors import CheckpointError, DataError
    from minires.train.checkpoint import load_checkpoint, load_model
    from minires.train.report import write_report
    from minires.train.run_folder import read_metrics

    folder = Path(args.run_folder)
    if not (folder / "last.ckpt").is_file():
        raise CheckpointError(f"report: {folder} is no run's folder (it has no last.ckpt); `minires train` makes one")
    require_package("matplotlib", "matplotlib", "drawing the curves")
    require_package("pillow", "PIL", "showing the mistakes")
    checkpoint = load_checkpoint(folder / "last.ckpt")
    config, facts = checkpoint.config, checkpoint.data
    model = test = None
    try:
        _, found = load(config.data, args.data_dir or config.data_dir or None)
    except DataError as error:
        print(f"report: without confusions and mistakes, for the test set is not at hand: {error}")
    else:
        model = load_model(checkpoint)
        test = type(found)(found.images, found.labels, found.classes, found.name, facts["mean"], facts["std"])
    path = write_report(folder, read_metrics(folder), config, model, test)
    print(f"{path}: {path.stat().st_size / 1000:,.0f} kB, opens in any browser, offline")
    print_next((f"minires compare {shlex.quote(str(folder))} OTHER_RUN", "beside another run"))
    return 0


def run_compare(args: argparse.Namespace) -> int:
    """Print the tables; write the page if asked."""
    from minires.errors import ArgumentError
    from minires.train.progress import format_duration
    from minires.train.report.comparison import compare_runs, same_but_seed, spread, write_comparison
    from minires.train.report.run_report import percent, shown

    if len(args.run_folders) < 2:
        raise ArgumentError("compare: name two runs or more; `minires report RUN` shows one")
    comparison = compare_runs(args.run_folders)
    runs = comparison.runs
    if args.json:
        print_json(
            {
                "runs": [{"run": str(run.path), **run.figures} for run in runs],
                "differing": comparison.differing,
                "test_accuracy": found.as_dict() if (found := spread(comparison)) else None,
            }
        )
        return 0
    rows = []
    for run in runs:
        f = run.figures
        chosen = f"{percent(f['best_val_accuracy'])} (epoch {f['best_epoch']})" if f["best_epoch"] else "-"
        rows.append(
            [
                run.name,
                percent(f["test_accuracy"]),
                chosen,
                percent(f["best_test_accuracy"]),
                f["epochs"],
                format_duration(f["seconds"]),
            ]
        )
    print_table(["run", "test, last epoch", "best validation", "test, that epoch", "epochs", "time"], rows)
    found = spread(comparison) if same_but_seed(comparison) else None
    if found:
        print(f"\ntest accuracy over {len(runs)} seeds, mean +- standard deviation: {found}")
    print()
    if comparison.differing:
        print_table(
            ["setting", *(run.name for run in runs)],
            [[key, *map(shown, values)] for key, values in comparison.differing.items()],
            title="what differs",
            left=tuple(range(len(runs) + 1)),
        )
    else:
        print("no setting differs: the runs are repetitions of one another")
    words = shlex.join(args.run_folders)
    if args.html:
        require_package("matplotlib", "matplotlib", "drawing the curves")
        print(f"\n{write_comparison(comparison, Path(args.html))}: their curves, in any browser, offline")
        print_next((f"minires report {shlex.quote(args.run_folders[0])}", "one run in detail"))
    else:
        print_next((f"minires compare {words} --html compare.html", "a page with their curves"))
    return 0
