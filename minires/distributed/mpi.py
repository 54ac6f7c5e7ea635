"""A group over MPI, by mpi4py's buffer interface: arrays go as they lie, nothing is pickled."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from minires.distributed.group import Array, DistributedError, Pending

_SAID = 1  # the tag of rank 0's word that it has failed
HOW = "pip install 'minires[mpi]' mpich (or your system's MPI), then: mpiexec -n 4 minires train --distributed mpi"


class _Request:
    """An MPI request that keeps its array alive."""

    def __init__(self, request: Any, array: Array) -> None:
        self._request, self._array = request, array

    def test(self) -> bool:
        return bool(self._request.Test())

    def wait(self) -> None:
        self._request.Wait()


class MPIGroup:
    """The processes that `mpiexec` started.

    Raises:
        DistributedError: mpi4py is not installed or finds no MPI library.

    Source: MPI: A Message-Passing Interface Standard, version 4.0, chapter 6 (collective communication). An implementation
    should, and MPICH and Open MPI do, give every rank of an all-reduce the same bits.
    """

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except ImportError as error:
            raise DistributedError(f"distributed: mpi4py is not installed ({error}): {HOW}") from None
        except RuntimeError as error:
            raise DistributedError(f"distributed: mpi4py finds no MPI library ({error}): {HOW}") from None
        self._mpi, self._comm = MPI, MPI.COMM_WORLD
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()

    def sum(self, array: Array) -> None:
        self._comm.Allreduce(self._mpi.IN_PLACE, array, op=self._mpi.SUM)

    def begin_sum(self, array: Array) -> Pending:
        return _Request(self._comm.Iallreduce(self._mpi.IN_PLACE, array, op=self._mpi.SUM), array)

    def gather(self, array: Array) -> Array:
        every = np.empty((self.size, *array.shape), array.dtype)
        self._comm.Allgather(np.ascontiguousarray(array), every)
        return every

    def broadcast(self, array: Array, root: int = 0) -> None:
        self._comm.Bcast(array, root=root)

    def largest(self, number: int) -> int:
        found = np.array([number], np.int64)
        self._comm.Allreduce(self._mpi.IN_PLACE, found, op=self._mpi.MAX)
        return int(found[0])

    def barrier(self) -> None:
        self._comm.Barrier()

    def speaks_of_failure(self, patience: float) -> bool:
        if self.rank == 0:  # a byte to each, which arrives whether or not they ever look for it
            self._said = [self._comm.Isend(np.zeros(1, np.uint8), rank, _SAID) for rank in range(1, self.size)]
            return True
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if self._comm.Iprobe(0, _SAID):
                return False
            time.sleep(0.01)
        return True

    def abort(self, code: int) -> None:
        self._comm.Abort(code)
