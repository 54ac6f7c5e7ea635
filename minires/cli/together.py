"""A command run by several processes at once (`mpiexec -n 4 minires train --distributed mpi`): rank 0 speaks, and nobody waits for
one that has failed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable

__all__ = ["run_together"]

GRACE = 5.0  # s that another rank waits for rank 0 to say what went wrong, and then for its own end


def run_together(backend: str, work: Callable[[], int]) -> int:
    """Join the group, do the work on every rank, end together.

    What only one rank meets (its disk is full, its memory) ends all: the others would wait for it in their next sum.

    Args:
        backend: see `minires.distributed.start`.
        work: the command; returns its exit code.
    """
    from minires.cli.main import report_error
    from minires.distributed import start
    from minires.train.guard import LossNotFiniteError

    group = start(backend)
    if group.size == 1:
        return work()
    with contextlib.ExitStack() as stack:
        if group.rank:
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        try:
            return work()
        except LossNotFiniteError as error:  # every rank raises it at the same step
            return report_error(error) if group.rank == 0 else 4
        except BaseException as error:
            if not group.speaks_of_failure(GRACE):
                time.sleep(GRACE)  # rank 0 is about to end this process
                group.abort(1)
            if group.rank:
                print(f"minires: rank {group.rank} of {group.size}:", file=sys.stderr)
            code = report_error(error)
            sys.stderr.flush()
            group.abort(code)
            raise
