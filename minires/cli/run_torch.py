"""`minires run-torch FILE [ARGS]`: run a script written for torch with minires in torch's place."""

from __future__ import annotations

import argparse
from typing import Any

from minires.cli.output import FirstLineHelp

NAMES = ("run-torch",)


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "run-torch",
        help="run a script written for torch",
        description=__doc__,
        formatter_class=FirstLineHelp,
        add_help=True,
    )
    parser.add_argument("file", metavar="FILE", help="a Python script that imports torch")
    parser.add_argument(
        "args", metavar="ARGS", nargs=argparse.REMAINDER, help="what the script gets as its own arguments"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the script; its own exit code is ours."""
    from minires.compat import run_torch

    return int(run_torch.run(args.file, args.args) or 0)
