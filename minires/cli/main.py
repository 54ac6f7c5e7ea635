"""`minires VERB ...`: finds the verb, runs it, and turns every error into one message and an exit code.

| code | meaning                                                                    |
|------|----------------------------------------------------------------------------|
| 0    | done                                                                       |
| 1    | something unforeseen: a fault of minires (or of a script under run-torch)  |
| 2    | usage: an unknown option, setting, model or data set, or a bad value       |
| 3    | bad data, a bad checkpoint, a run folder that is full, read-only or in use |
| 4    | the loss, a gradient or a weight was not finite                            |
| 130  | interrupted (Ctrl-C); a training run has saved                             |
| 141  | nobody reads the output any more (`minires ... | head`)                    |
| 143  | ended by SIGTERM; a training run has saved                                 |
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from minires.cli import (
    bench,
    data,
    doctor,
    evaluate,
    export,
    finetune,
    import_,
    predict,
    report,
    run_torch,
    summary,
    train,
    tune,
    warmup,
)
from minires.cli.output import FirstLineHelp
from minires.errors import (
    ArgumentError,
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    MiniresError,
    UnknownNameError,
)

__all__ = ["main"]

VERBS = (
    train,
    finetune,
    evaluate,
    predict,
    export,
    import_,
    report,
    tune,
    summary,
    data,
    doctor,
    warmup,
    bench,
    run_torch,
)
EPILOG = """\
examples:
  minires train                                         a small ResNet on the digits that come with minires
  minires train --data fashion-mnist --model resnet20   the real job
  minires eval runs/digits-resnet8                      test accuracy of a run
  minires predict photo.png --checkpoint runs/digits-resnet8
  minires predict photos/ --weights models/resnet-50    other libraries' weights
  minires export runs/digits-resnet8 --format onnx      the same network for other programs
  minires doctor                                        what is installed, and what could be faster

`minires VERB --help` explains one verb."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    import minires

    parser = argparse.ArgumentParser(
        prog="minires",
        description="Train residual networks with an engine written from scratch.",
        epilog=EPILOG,
        formatter_class=FirstLineHelp,
    )
    parser.add_argument("--version", action="version", version=f"minires {minires.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its words without the program's name; default: those of this process.

    Returns:
        The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(argv)
    except BrokenPipeError:  # `minires ... | head`: the reader has gone; say nothing, and nothing again while closing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (KeyboardInterrupt, Exception) as error:
        return report_error(error)


def report_error(error: BaseException) -> int:
    """Say on standard error what went wrong; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        print("minires: interrupted", file=sys.stderr)
        return 130
    if isinstance(error, SystemExit):  # a second signal: who sent it knows
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, (MiniresError, OSError)):
        return _report(error, _exit_code(error), f"minires: error: {error}")
    return _report(
        error,
        1,
        f"minires: this should not have happened: {type(error).__name__}: {error}\n"
        "  It is a fault of minires, not of yours. `MINIRES_DEBUG=4 minires ...` shows where; please report it.",
    )


def _run(argv: list[str]) -> int:
    parser = build_parser()
    known = {name: verb for verb in VERBS for name in verb.NAMES}
    if argv and not argv[0].startswith("-") and argv[0] not in known:
        raise UnknownNameError.for_name("command", argv[0], list(known))
    if not argv:
        parser.print_help()
        return 2
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        raise ArgumentError(_unknown_arguments(parser, args.verb, unknown))
    return int(args.run(args))


def _unknown_arguments(parser: argparse.ArgumentParser, verb: str, unknown: list[str]) -> str:
    """`minires train: unknown option --epcohs: did you mean --epochs?`"""
    word = unknown[0]
    (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    options = list(_option_strings(subparsers.choices[verb]))
    near = difflib.get_close_matches(word.split("=")[0], options, n=2, cutoff=0.5)
    kind = "option" if word.startswith("-") else "argument"
    hint = f": did you mean {' or '.join(near)}?" if near else f". `minires {verb} --help` lists what there is."
    return f"minires {verb}: unknown {kind} {word}{hint}"


def _option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every option of a verb, and of what follows it (`minires bench infer`)."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _option_strings(inner)


def _exit_code(error: Exception) -> int:
    from minires.errors import StateDictError
    from minires.train.guard import LossNotFiniteError

    if isinstance(error, LossNotFiniteError):
        return 4
    if isinstance(error, (ConfigError, UnknownNameError, ArgumentError, DeviceError)):
        return 2
    if isinstance(error, (DataError, CheckpointError, StateDictError, OSError)):
        return 3
    return 1


def _report(error: BaseException, code: int, message: str) -> int:
    from minires.config import read_settings

    try:
        debug = read_settings(os.environ).debug
    except ConfigError:
        debug = 0
    if debug >= 4:
        traceback.print_exception(error)
    print(message, file=sys.stderr)
    return code
