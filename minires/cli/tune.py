"""`minires tune`: search for better settings by many short runs; stop it when you like, it goes on where it was.

The validation images judge; the test set chooses nothing. Values: lr=log:0.01..1 (logarithmic), label_smoothing=0..0.2,
batch_size=32..256:32 (a step), optimizer=sgd,adamw (one of these), augment=flip|pad_crop:4,flip (lists between bars).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from minires.cli.output import FirstLineHelp, bold, print_json, print_next, print_table, require_package

NAMES = ("tune",)
# Searched over where nothing else is said: what matters most in most searches.
USUAL = ("lr=log:0.01..1", "weight_decay=log:1e-5..1e-2", "label_smoothing=0..0.2")
SHOWN = 10


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "tune", help="search for better settings", description=__doc__, formatter_class=FirstLineHelp
    )
    parser.add_argument("--data", metavar="NAME", default="digits", help="data set (default: digits)")
    parser.add_argument(
        "--search", metavar="KEY=VALUES", action="append", default=None,
        help=f"a setting that varies; may be given several times (default: {', '.join(USUAL)})",
    )  # fmt: skip
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a setting that does not vary")
    parser.add_argument("--config", metavar="FILE", help="settings from a TOML file")
    parser.add_argument("--trials", metavar="N", type=int, default=20, help="runs that end, in all (default: 20)")
    parser.add_argument("--timeout", metavar="MINUTES", type=float, help="begin no run after so long")
    parser.add_argument(
        "--sampler", choices=("tpe", "random", "grid"), default="tpe", help="who proposes values (default: tpe)"
    )
    parser.add_argument(
        "--pruner",
        choices=("median", "asha", "none"),
        default="median",
        help="who ends poor runs early (default: median)",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the proposals (default: 0)")
    parser.add_argument(
        "--study", metavar="DIR", help="folder of the search: its journal, its runs (default: runs/tune-DATA)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search; show what was found."""
    from minires.errors import ArgumentError
    from minires.train.config import parse_assignment, read_toml
    from minires.train.run_folder import folder_name
    from minires.train.tune import Search, importances, open_study, parse_axis, run_search, write_summary
    from minires.train.tune.summary import best_trials, trial_values

    if args.trials < 1:
        raise ArgumentError(f"tune: --trials must be at least 1, got {args.trials}")
    if args.timeout is not None and not args.timeout > 0:
        raise ArgumentError(f"tune: --timeout must be a positive number of minutes, got {args.timeout}")
    axes = [parse_axis(text) for text in args.search or USUAL]
    keys = [axis.key for axis in axes]
    if len(set(keys)) < len(keys):
        raise ArgumentError(f"tune: --search names a setting twice: {', '.join(keys)}")
    require_package("minires[tune]", "optuna", "the search")
    settings: dict[str, Any] = {"data": args.data}
    settings |= read_toml(args.config) if args.config else {}
    settings |= dict(parse_assignment(text) for text in args.set)
    folder = Path(args.study or f"runs/tune-{folder_name(args.data)}")
    search = Search(folder, axes, settings, args.sampler, args.pruner, args.seed)
    search.config({}, "trial-000")  # bad settings are refused before anything is written
    if args.sampler == "grid":
        for axis in axes:
            axis.grid()
    study = open_study(search)
    earlier = len(best_trials(study))
    if not args.json:
        print(f"search  {'; '.join(map(str, axes))}")
        print(f"        {args.sampler}, {args.pruner} pruning, {args.trials} trials, journal in {folder}")
        if earlier:
            print(f"        {earlier} trials have finished before; going on")
        print(f"\n{'trial':>5}  {'best validation':>15}  {'':7}  settings", flush=True)

    def tell(trial: Any) -> None:
        state = "" if trial.state.name == "COMPLETE" else trial.state.name.lower()
        value = f"{100 * trial.value:.2f} %" if trial.value is not None else "-"
        words = ", ".join(f"{key} {value}" for key, value in zip(keys, trial_values(trial, axes), strict=True))
        print(
            f"{trial.number:>5}  {value:>15}  {state:7}  {words}",
            file=sys.stderr if args.json else sys.stdout,
            flush=True,
        )

    timeout = None if args.timeout is None else 60 * args.timeout
    ended = run_search(search, study, args.trials, timeout, tell)
    best, matter = best_trials(study), importances(study, axes)
    page = write_summary(study, axes, folder) if best and _can_draw() else None
    if args.json:
        trials = [
            {"trial": t.number, "val_accuracy": t.value, "run": t.user_attrs.get("run"), "settings": t.params}
            for t in best
        ]
        print_json(
            {"study": str(folder), "ended": ended, "importance": matter, "trials": trials, "page": page and str(page)}
        )
        return 0 if ended else 130
    again = shlex.join(["minires", *sys.argv[1:]])
    if not ended:
        print(f"\nstopped; {len(best)} trials have finished")
        print_next((again, "go on"))
        return 130
    _show(study, best, matter, axes)
    if page is not None:
        print(f"\n{page}: all trials and pictures, in any browser, offline")
    winner = best[0].user_attrs["run"]
    repeat = f"minires train --config {shlex.quote(winner)}/config.toml --set seed=1 --set run_dir=runs"
    print_next(
        (repeat, "the best, other random numbers"),
        (f"minires report {shlex.quote(winner)}", "the best run in detail"),
    )
    return 0


def _can_draw() -> bool:
    from minires.train.curves import curves_available

    return curves_available()


def _show(study: Any, best: list[Any], matter: dict[str, float], axes: Any) -> None:
    from minires.train.tune.summary import trial_values

    print()
    print_table(
        ["trial", "best validation", *(axis.key for axis in axes), "run"],
        [
            [t.number, f"{100 * t.value:.2f} %", *trial_values(t, axes), t.user_attrs.get("run", "")]
            for t in best[:SHOWN]
        ],
        title="the best trials",
        left=tuple(range(2, len(axes) + 3)),
    )
    if matter:
        print(f"\n{bold('which settings matter')}")
        width = max(map(len, matter))
        for key, share in matter.items():
            print(f"  {key:<{width}}  {100 * share:3.0f} %  {'#' * round(30 * share)}")
    else:
        print("\ntoo few different results to say which settings matter")
