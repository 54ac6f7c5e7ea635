"""Who takes part, and what they can do together.

Every method but `test`, `speaks_of_failure` and `abort` is *collective*: all ranks must call it, in the same order, or they wait
for each other for ever. So nothing that one rank alone knows (a signal, a clock, a NaN in its images) may decide whether a
collective is called; it is first made common knowledge by `largest` or `sum`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from minires.errors import ArgumentError, MiniresError

Array = npt.NDArray[Any]
BACKENDS = ("mpi",)


class DistributedError(MiniresError, RuntimeError):
    """The processes cannot work together: no MPI, or they have drifted apart."""


class Pending(Protocol):
    """A sum on its way."""

    def test(self) -> bool:
        """Whether it has arrived; a library that moves data only when it is called gets its chance here."""
        ...

    def wait(self) -> None:
        """Return when it has arrived."""
        ...


class Group(Protocol):
    """The processes of one training. Arrays are C-contiguous; all ranks give the same shape and dtype.

    Attributes:
        rank: this process, 0 .. size - 1. Rank 0 writes files and speaks.
        size: how many there are.
    """

    rank: int
    size: int

    def sum(self, array: Array) -> None:
        """array = its sum over all ranks, in place; the same bits on every rank."""
        ...

    def begin_sum(self, array: Array) -> Pending:
        """Begin `sum`; `array` may not be touched until it has arrived."""
        ...

    def gather(self, array: Array) -> Array:
        """(size, *array.shape): every rank's array, in the order of the ranks."""
        ...

    def broadcast(self, array: Array, root: int = 0) -> None:
        """array = that of rank `root`, in place."""
        ...

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        ...

    def barrier(self) -> None:
        """Wait until every rank is here."""
        ...

    def speaks_of_failure(self, patience: float) -> bool:
        """Whether this rank, which has failed, is the one to say so: where all fail alike, one message is enough. Rank 0 speaks;
        another one does if rank 0 has not within `patience` seconds. Not collective.
        """
        ...

    def abort(self, code: int) -> None:
        """End every process of the group with this exit code. Not collective: for a rank that cannot go on."""
        ...


class _Done:
    """What was finished before it began."""

    def test(self) -> bool:
        return True

    def wait(self) -> None:
        pass


class SingleProcess:
    """The group of a process on its own: every sum is what it was."""

    rank, size = 0, 1

    def sum(self, array: Array) -> None:
        pass

    def begin_sum(self, array: Array) -> Pending:
        return _Done()

    def gather(self, array: Array) -> Array:
        return np.array(array)[None]

    def broadcast(self, array: Array, root: int = 0) -> None:
        pass

    def largest(self, number: int) -> int:
        return number

    def barrier(self) -> None:
        pass

    def speaks_of_failure(self, patience: float) -> bool:
        return True

    def abort(self, code: int) -> None:
        raise SystemExit(code)


_current: Group = SingleProcess()


def current() -> Group:
    """The group that this process belongs to."""
    return _current


@contextmanager
def use_group(group: Group) -> Iterator[Group]:
    """Inside, `current()` is `group`."""
    global _current
    before, _current = _current, group
    try:
        yield group
    finally:
        _current = before


def alone() -> Any:
    """Inside `with alone():`, this process computes without the others, for what they do not do at the same time."""
    return use_group(SingleProcess())


def start(backend: str) -> Group:
    """Join the processes that a launcher started, for the rest of this process' life.

    Args:
        backend: "mpi": those of `mpiexec`.

    Raises:
        ArgumentError: no such backend.
        DistributedError: it is not installed, or no MPI library loads.
    """
    global _current
    if backend not in BACKENDS:
        raise ArgumentError(f"distributed: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if not isinstance(_current, SingleProcess):
        return _current
    from minires.distributed.mpi import MPIGroup

    _current = MPIGroup()
    return _current


def gather_text(group: Group, text: str, limit: int = 1000) -> list[str]:
    """Every rank's text, cut to `limit` bytes, in the order of the ranks."""
    padded = np.zeros(limit, np.uint8)
    data = text.encode()[:limit]
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in group.gather(padded)]


def check_equal(group: Group, what: str, digest: str) -> None:
    """Check that every rank has the same digest of something.

    Raises:
        DistributedError: they differ: a kernel, a library or a machine gave one rank other bits, and from then on the ranks
            train different models. Every rank raises it.
    """
    digests = gather_text(group, digest)
    if len(set(digests)) > 1:
        apart = [str(rank) for rank, each in enumerate(digests) if each != digests[0]]
        raise DistributedError(
            f"distributed: the {what} of rank {', '.join(apart)} differ from those of rank 0. Ranks must compute alike: the same "
            "minires, NumPy and kernel set everywhere. Go on from the last checkpoint with --resume"
        )
