"""Several processes that train one model: each takes its part of every batch, gradients are added up, weights stay equal.

    mpiexec -n 4 minires train --distributed mpi

One process (a *rank*) works as every other does; only the sums are common. The files of this package:

    group       who takes part, and what they can do together: sums, broadcasts, gathers. Alone: `SingleProcess`
    mpi         the same over MPI (extra `mpi`: mpi4py, and an MPI library)
    reducer     gradients added up in buckets, while the backward pass still computes
    sync_norm   batch norm with the statistics of the whole batch: `nn.SyncBatchNorm`'s operation

`current()` is the group that a process belongs to; without `start` it is a group of one, in which every sum is what it was.
The names of `torch.distributed` that people know are here as well: get_rank, get_world_size, all_reduce, broadcast, barrier.
"""

from __future__ import annotations

from typing import Any

from minires.distributed.group import (
    BACKENDS,
    DistributedError,
    Group,
    SingleProcess,
    alone,
    current,
    start,
    use_group,
)
from minires.distributed.reducer import GradientReducer

__all__ = [
    "BACKENDS",
    "DistributedError",
    "GradientReducer",
    "Group",
    "SingleProcess",
    "all_reduce",
    "alone",
    "barrier",
    "broadcast",
    "current",
    "get_rank",
    "get_world_size",
    "start",
    "use_group",
]


def get_rank() -> int:
    """This process' number, 0 .. get_world_size() - 1."""
    return current().rank


def get_world_size() -> int:
    """How many processes take part."""
    return current().size


def all_reduce(tensor: Any) -> None:
    """Put the sum over all ranks into `tensor`, in place, the same bits on each."""
    current().sum(tensor.array)
    tensor._bump_version()


def broadcast(tensor: Any, src: int = 0) -> None:
    """Put the values of rank `src` into `tensor` on every rank, in place."""
    current().broadcast(tensor.array, src)
    tensor._bump_version()


def barrier() -> None:
    """Wait until every rank is here."""
    current().barrier()
