"""`minires bench`: measured comparisons with peers, each in a process of its own, outputs checked before anything is timed."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from minires.cli.output import FirstLineHelp, bold, print_next, print_table

NAMES = ("bench",)
EPILOG = """\
examples:
  minires bench infer --model resnet18 --batch 1,8,32
  minires bench train --model resnet20 --image-size 28 --in-channels 1 --batch 128 --against torch,torch-channels-last
  minires bench ops --model resnet18 --batch 32 --against torch,torch-channels-last
  minires bench grow --model resnet20 --vary batch
  minires bench scaling --model resnet20 --image-size 28 --in-channels 1 --ranks 2
  minires bench suite --quick                          every goal of the project, reached or not"""
ROUNDS = 9
QUICK = 3  # rounds of suite --quick


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "bench",
        help="measure against torch, onnxruntime, OpenVINO",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=FirstLineHelp,
    )
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", title="what to measure", required=True)

    infer = _kind(kinds, "infer", run_compare, "one batch through a network")
    _network(infer, "resnet18")
    _batch(infer, "1", "images at once, one table each")
    train = _kind(
        kinds, "train", run_compare, "a training step: zero_grad, forward, loss, backward, SGD; and its memory"
    )
    _network(train, "resnet20")
    _batch(train, "128", "images at once, one table each")
    ops = _kind(kinds, "ops", run_ops, "single convolutions and batch norms of a network, forward and backward")
    _network(ops, "resnet18")
    _batch(ops, "32", "images at once")
    ops.add_argument("--op", choices=("conv2d", "batch_norm"), action="append", help="only this (default: both)")
    start = _kind(kinds, "start", run_start, "from nothing to a first prediction, in a second process")
    _network(start, "resnet18")
    grow = _kind(kinds, "grow", run_grow, "time against batch, image size, width or threads")
    _network(grow, "resnet20")
    _batch(grow, "8", "images at once, where another quantity varies")
    grow.add_argument("--vary", metavar="WHAT", required=True, help="batch, image-size, width or threads")
    grow.add_argument("--values", metavar="N,N,...", help="the series (default: a usual one)")
    grow.add_argument("--step", choices=("infer", "train"), default="infer", help="what is timed (default: infer)")
    scaling = _kind(kinds, "scaling", run_scaling, "a training step over the number of processes (MPI)", against=False)
    _network(scaling, "resnet20")
    _batch(scaling, "128", "images at once, over all processes")
    scaling.add_argument("--ranks", metavar="N,...", help="numbers of processes (default: 1 and the cores there are)")
    scaling.add_argument("--seconds", metavar="X", type=float, default=3.0, help="of training, each time (default: 3)")
    scaling.add_argument(
        "--sync-bn", action=argparse.BooleanOptionalAction, default=True, help="batch norm over all (default)"
    )
    suite = _kind(kinds, "suite", run_suite_, "the project's goals, each reached or not", against=False)
    suite.add_argument("--quick", action="store_true", help=f"{QUICK} rounds in place of {ROUNDS}")
    suite.add_argument("--only", metavar="WORD,...", help="goals that have these words, for example train or resnet20")


def _kind(
    kinds: Any, name: str, run: Callable[[argparse.Namespace], int], what: str, against: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(name, help=what, description=what, formatter_class=FirstLineHelp)
    if against:
        parser.add_argument("--against", metavar="NAME,...", help="contenders beside minires (default: all peers)")
    parser.add_argument("--threads", metavar="N", type=int, help="of each contender (default: the cores there are)")
    parser.add_argument(
        "--rounds", metavar="N", type=int, help=f"each contender has one turn in each (default: {ROUNDS})"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of weights and images (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="write everything, every round's time included")
    parser.set_defaults(run=run)
    return parser


def _network(parser: argparse.ArgumentParser, model: str) -> None:
    parser.add_argument("--model", metavar="NAME", default=model, help=f"a network of minires (default: {model})")
    parser.add_argument("--image-size", metavar="N", type=int, help="pixels a side (default: the network's own)")
    parser.add_argument("--in-channels", metavar="N", type=int, default=3, help="3 colour, 1 grey (default: 3)")
    parser.add_argument("--classes", metavar="N", type=int, help="outputs (default: the network's own)")


def _batch(parser: argparse.ArgumentParser, default: str, what: str) -> None:
    parser.add_argument("--batch", metavar="N,...", default=default, help=f"{what} (default: {default})")


def run_compare(args: argparse.Namespace) -> int:
    """`bench infer` and `bench train`."""
    from minires.bench.compare import measure

    batches = _integers("--batch", args.batch)
    report = _Report(args)
    failed = False
    for workload, results in measure(
        args.kind, _workload(args), batches, _contenders(args, args.kind), rounds=report.rounds, say=report.say
    ):
        failed |= report.results(args.kind, workload, results)
    return report.finish(
        failed,
        ("minires bench ops --model " + args.model, "the same network, layer by layer"),
        ("minires bench suite --quick", "every goal of the project"),
    )


def run_ops(args: argparse.Namespace) -> int:
    """`bench ops`."""
    from minires.bench.compare import failures
    from minires.bench.contenders import CONTENDERS
    from minires.bench.ops import cells, measure_layers, totals
    from minires.bench.report import format_seconds

    if args.against is None:
        args.against = ",".join(c.name for c in CONTENDERS if c.name in ("torch", "torch-channels-last"))
    contenders = _contenders(args, "ops")
    (batch,) = _integers("--batch", args.batch, many=False)
    workload = _workload(args, batch)
    report = _Report(args)
    rows = []
    for row in measure_layers(
        workload, contenders, ops=args.op or ("conv2d", "batch_norm"), rounds=report.rounds, say=report.say
    ):
        layer, count, results = row
        rows.append(row)
        entry = {"kind": "ops", "layer": layer.as_dict(), "count": count, "work": layer.work(batch)}
        report.add({**entry, "results": [r.as_dict() for r in results]})
    names = [c.name for c in contenders]
    report.clear()
    print_table(
        ["layer", "times", "pass", *(f"{name}: time, rate, error" for name in names), "times minires"],
        [cells(*row, batch) for row in rows],
        title=f"{args.model}, batch {batch}: GFLOP/s of convolutions, GB/s of batch norms",
        left=(0, 2),
    )
    print()
    print_table(
        ["all layers together", *names],
        [
            [what, *("" if t is None else format_seconds(t) for t in line.values())]
            for what, line in totals(rows).items()
        ],
        left=(0,),
    )
    failed = [(layer, r) for layer, _, results in rows for r in failures(results)]
    for layer, result in failed:
        print(f"{layer}, {layer.direction}: {result.name}: {result.detail}")
    return report.finish(bool(failed), (f"minires bench train --model {args.model}", "whole training steps"))


def run_start(args: argparse.Namespace) -> int:
    """`bench start`."""
    from minires.bench.start import measure_start

    report = _Report(args)
    workload = _workload(args, 1)
    results = measure_start(workload, _contenders(args, "start"), rounds=report.rounds, say=report.say)
    failed = report.results("start", workload, results)
    return report.finish(failed, (f"minires bench infer --model {args.model}", "the time of every prediction after it"))


def run_grow(args: argparse.Namespace) -> int:
    """`bench grow`."""
    from minires.bench import grow
    from minires.bench.compare import failures
    from minires.errors import UnknownNameError
    from minires.train.run_folder import available_cores

    if args.vary not in grow.VARY:
        raise UnknownNameError.for_name("quantity to vary", args.vary, grow.VARY)
    (batch,) = _integers("--batch", args.batch, many=False)
    workload = _workload(args, batch)
    values = grow.default_values(args.vary, workload, available_cores())
    if args.values:
        values = sorted(set(_integers("--values", args.values)))
    args.against = args.against or "minires"
    contenders = _contenders(args, args.step)
    report = _Report(args)
    points = []
    for point in grow.measure_growth(
        args.step, workload, args.vary, values, contenders, rounds=report.rounds, say=report.say
    ):
        points.append(point)
        entry = {"kind": "grow", "step": args.step, "vary": args.vary, "value": point.value, "work": point.work}
        report.add({**entry, "results": [r.as_dict() for r in point.results]})
    report.clear()
    for contender in contenders:
        print_table(
            [args.vary, "GMACs", "time", "time / work", "slope"],
            grow.growth_rows(points, contender.name),
            title=f"{contender.name}: {args.model}, {args.step}, time against {args.vary}",
            left=(),
        )
        of_value, of_work = grow.overall_slope(points, contender.name)
        if of_work == of_work:  # not NaN: the work varies
            print(f"time ~ {args.vary}^{of_value:.2f} ~ work^{of_work:.2f}")
        else:
            print(f"time ~ {args.vary}^{of_value:.2f} (the work stays the same; -1 would be perfect)")
        print()
    failed = [(point.value, r) for point in points for r in failures(point.results)]
    for value, result in failed:
        print(f"{args.vary} {value}: {result.name}: {result.detail}")
    return report.finish(bool(failed), ("minires bench suite --quick", "every goal of the project"))


def run_suite_(args: argparse.Namespace) -> int:
    """`bench suite`."""
    from minires.bench.suite import GOALS, judge_goal, run_suite
    from minires.errors import UnknownNameError

    words = [word.strip() for word in args.only.split(",")] if args.only else [""]
    goals = [goal for goal in GOALS if any(word in str(goal) for word in words)]
    if not goals:
        raise UnknownNameError.for_name("goal", args.only, [str(goal) for goal in GOALS])
    report = _Report(args, QUICK if args.quick else ROUNDS)
    verdicts, shown, failed = [], [], False
    for goal, workload, results in run_suite(
        threads=report.threads, rounds=report.rounds, seed=args.seed, say=report.say, goals=goals
    ):
        verdict = judge_goal(goal, results)
        verdicts.append(verdict)
        if results not in shown:
            shown.append(results)
            failed |= report.results(goal.kind, workload, results)
        report.add({"kind": "goal", "goal": {**goal.__dict__}, "verdict": verdict.word, "figure": verdict.figure})
    report.clear()
    print_table(
        ["goal", "minires", "peer's", "best peer", "times (memory: part)", "at least", "aim", ""],
        [verdict.cells() for verdict in verdicts],
        title="the project's goals",
        left=(0, 3, 7),
    )
    reached = sum(v.word in ("reached", "aim reached") for v in verdicts)
    print(f"\n{bold(f'{reached} of {len(verdicts)} goals reached')}")
    return report.finish(failed, ("minires bench ops --model resnet18", "where the time goes, layer by layer"))


def run_scaling(args: argparse.Namespace) -> int:
    """`bench scaling`."""
    from minires.bench.scaling import measure_scaling, scaling_rows
    from minires.train.run_folder import available_cores

    (batch,) = _integers("--batch", args.batch, many=False)
    ranks = _integers("--ranks", args.ranks) if args.ranks else [available_cores()]
    workload = _workload(args, batch)
    report = _Report(args, 5)
    work = {
        "model": args.model, "image_size": workload.image_size, "in_channels": args.in_channels, "batch": batch,
        "seconds": args.seconds, "sync_bn": args.sync_bn, "seed": args.seed,
    }  # fmt: skip
    points: list[Any] = []
    for points in measure_scaling(work, ranks, rounds=report.rounds, say=report.say):
        report.rows = [{"kind": "scaling", "work": work, **point.as_dict()} for point in points]
        report.add({"kind": "scaling", "rounds": len(points[0].steps)})
    report.clear()
    print_table(
        ["ranks", "threads", "step", "images/s", "speed-up", "efficiency", "communication", "gradients"],
        scaling_rows(points, batch),
        title=f"{args.model}, batch {batch} over all ranks: training step",
        left=(),
    )
    print()
    return report.finish(False, ("mpiexec -n 2 minires train --distributed mpi", "train with two processes"))


class _Report:
    """Progress on standard error, tables on standard output, everything in --json's file after each row."""

    def __init__(self, args: argparse.Namespace, rounds: int = ROUNDS) -> None:
        from minires.bench.machine import describe_machine, headline
        from minires.errors import ArgumentError
        from minires.train.run_folder import available_cores

        self.rounds = rounds if args.rounds is None else args.rounds
        self.threads = args.threads or available_cores()
        for name, value in (("--rounds", self.rounds), ("--threads", self.threads)):
            if value < 1:
                raise ArgumentError(f"bench: {name} must be at least 1, got {value}")
        self.file: str | None = args.json
        self.rows: list[dict[str, Any]] = []
        self.machine = describe_machine(self.threads, sys.argv[1:])
        self.live = sys.stderr.isatty()
        self.began = time.perf_counter()
        self._write(complete=False)  # a folder that is not there is an error now, not after an hour
        print(headline(self.machine) + "\n", flush=True)

    def say(self, text: str, fleeting: bool = False) -> None:
        """What goes on: one line that changes on a terminal; elsewhere a line each, without the fleeting ones."""
        if self.live:
            print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)
        elif not fleeting:
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the changing line away."""
        if self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def results(self, kind: str, workload: Any, results: Sequence[Any]) -> bool:
        """Show one table and keep it; returns whether a contender that is installed gave no figure."""
        from minires.bench.compare import failures
        from minires.bench.report import columns, result_row

        self.clear()
        what = {"infer": "inference", "train": "training step", "start": "start to first prediction"}[kind]
        size = "x".join(map(str, workload.input_shape[1:]))
        print_table(
            columns(kind),
            [result_row(result, workload.batch, kind) for result in results],
            title=f"{workload.model}, {size}, batch {workload.batch}: {what}",
            left=(0, len(columns(kind)) - 1),
        )
        print(flush=True)
        described = {k: v for k, v in workload.as_dict().items() if k not in ("folder", "layer")}
        self.add({"kind": kind, "workload": described, "results": [r.as_dict() for r in results]})
        return any(True for _ in failures(results))

    def add(self, row: dict[str, Any]) -> None:
        """Keep one row, on the disk too."""
        self.rows.append(row)
        self._write(complete=False)

    def _write(self, *, complete: bool) -> None:
        from minires.bench.report import write_json

        if self.file:
            write_json(self.file, self.machine, self.rows, complete=complete)

    def finish(self, failed: bool, *following: tuple[str, str]) -> int:
        """The last lines; the exit code: 1 if a contender failed or was wrong."""
        self.clear()
        self._write(complete=True)
        print(
            f"median of {self.rounds} rounds, in turn, each contender in its own process; ratios round by round; errors "
            f"against float64, before timing ({time.perf_counter() - self.began:.0f} s)"
        )
        if self.file:
            print(f"written: {self.file}")
        print_next(*following)
        return 1 if failed else 0


def _workload(args: argparse.Namespace, batch: int = 1) -> Any:
    """The work that the options name.

    Raises:
        UnknownNameError: no such model. ArgumentError: a size that is not positive.
    """
    from minires.bench.workload import Workload
    from minires.cli.summary import _usual_input
    from minires.errors import ArgumentError
    from minires.models import model_options
    from minires.train.run_folder import available_cores

    model_options(args.model)  # a model that is not there is an error here, not in a process that makes its weights
    size = _usual_input(args.model)[1] if args.image_size is None else args.image_size
    numbers = (("--image-size", size), ("--in-channels", args.in_channels), ("--classes", args.classes))
    for name, value in numbers:
        if value is not None and value < 1:
            raise ArgumentError(f"bench: {name} must be at least 1, got {value}")
    return Workload(
        args.model,
        batch,
        size,
        args.in_channels,
        args.classes,
        seed=args.seed,
        threads=args.threads or available_cores(),
    )


def _contenders(args: argparse.Namespace, kind: str) -> list[Any]:
    from minires.bench.contenders import default_peers, select

    names = default_peers(kind) if args.against is None else [n.strip() for n in args.against.split(",") if n.strip()]
    return select(names, kind)


def _integers(option: str, text: str, many: bool = True) -> list[int]:
    """`1,8,32` as numbers.

    Raises:
        ArgumentError: something else, or a number below 1; several where one is wanted.
    """
    from minires.errors import ArgumentError

    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words) or (len(words) > 1 and not many):
        form = "whole numbers from 1, for example 1,8,32" if many else "one whole number from 1"
        raise ArgumentError(f"bench: {option} must be {form}; got {shlex.quote(text)}")
    return [int(word) for word in words]
