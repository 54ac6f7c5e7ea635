"""What a run asks of the other processes that train with it. Alone, each answer is what this process knows itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

import minires
from minires import nn
from minires.distributed.group import Group, alone, check_equal, current, gather_text
from minires.distributed.reducer import GradientReducer
from minires.nn import Module
from minires.nn.norm import _BatchNorm
from minires.train.diagnose import NOT_HERE

__all__ = ["Ranks"]


class Ranks:
    """The processes of one training run, and the model that they share.

    Its weights and buffers become those of rank 0; from then on they stay equal, because every rank takes the same steps.

    Args:
        model: each rank's own, of one shape.
        group: default: `distributed.current()`.
    """

    def __init__(self, model: Module, group: Group | None = None) -> None:
        self.group = current() if group is None else group
        self.model = model
        self.reducer: GradientReducer | None = None
        if self.group.size > 1:
            self.reducer = GradientReducer(model.parameters(), self.group)
            self._share(list(model.state_dict().values()))
        # Batch norms that know their own part only keep different running statistics: then rank 0's count.
        self._apart = [m for m in model.modules() if isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm)]

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.group.rank == 0

    def begin(self, seed: int, epoch: int, batch: int) -> None:
        """Before the first step, and before that with which an interrupted run goes on: ranks other than 0 draw random numbers
        (dropout's) of their own, or each part of a batch would lose the same units.
        """
        if self.group.size > 1:
            if not self.first:
                words = np.random.SeedSequence([seed, epoch, batch, self.group.rank]).generate_state(2, np.uint32)
                minires.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
            self.group.barrier()  # nobody may write what another still reads

    def begin_step(self, passes: int) -> None:
        """Before the backward passes whose gradients make one step."""
        if self.reducer is not None:
            self.reducer.begin(passes)

    def add_up_gradients(self) -> None:
        """After them: every gradient becomes the sum over all ranks."""
        if self.reducer is not None:
            self.reducer.finish()
            self._share([b for norm in self._apart for b in norm.buffers()])

    def add_up(self, *numbers: float) -> tuple[float, ...]:
        """The sum of each number over all ranks."""
        if self.group.size == 1:
            return numbers
        sums = np.array(numbers, np.float64)
        self.group.sum(sums)
        return tuple(map(float, sums))

    def told(self, find: Callable[[], str]) -> str:
        """Let every rank search, each for itself, and give all the answer of the first that found something."""
        if self.group.size == 1:
            return find()
        with alone():
            own = find()
        answers = gather_text(self.group, own)
        rank = next((r for r, answer in enumerate(answers) if not answer.startswith(NOT_HERE)), 0)
        return f"on rank {rank} {answers[rank]}"

    def _share(self, tensors: list[Any]) -> None:
        """Let them be rank 0's, in one message for each dtype."""
        for dtype in sorted({t.array.dtype for t in tensors}, key=str):
            alike = [t for t in tensors if t.array.dtype == dtype]
            together = np.concatenate([t.array.reshape(-1) for t in alike])
            self.group.broadcast(together)
            ends = np.cumsum([t.array.size for t in alike])[:-1]
            for tensor, part in zip(alike, np.split(together, ends), strict=True):
                tensor.array[...] = part.reshape(tensor.array.shape)
                tensor._bump_version()

    def check(self) -> None:
        """Check that all ranks have the same weights and buffers, bit for bit.

        Raises:
            DistributedError: they have not.
        """
        if self.group.size == 1:
            return
        digest = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            digest.update(np.ascontiguousarray(tensor.array).tobytes())
        check_equal(self.group, "weights", digest.hexdigest())
