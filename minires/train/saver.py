"""Saving within a run: what, when, and in which order, so that a run killed at any moment can go on.

    last.ckpt            everything; at the start, within an epoch every `checkpoint_every` steps or `checkpoint_seconds`,
                         after every epoch, and when a signal ends the run
    best.safetensors     the weights of the best epoch on the validation images, and what `predict` must know

After an epoch the order is: best.safetensors, last.ckpt, metrics.jsonl. last.ckpt carries the rows of metrics.jsonl, so
whichever of the three a kill leaves undone is done again, with the same bits, by the run that goes on from last.ckpt.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from minires.train.checkpoint import BEST, LAST, Checkpoint, data_facts, restore, save_checkpoint, save_weights
from minires.train.run_folder import RunFolder, runtime_facts
from minires.train.setup import Parts

if TYPE_CHECKING:
    from minires.train.loop import State

__all__ = ["Saver"]


class Saver:
    """Writes the checkpoints of one run.

    Args:
        parts: what is saved.
        folder: where to; its rows of metrics.jsonl are part of every checkpoint.
        state: where the run stands; `seconds` is brought up to date with every save.
    """

    def __init__(self, parts: Parts, folder: RunFolder, state: State) -> None:
        self.parts, self.folder, self.state = parts, folder, state
        self.facts = data_facts(parts.loader.dataset, parts.config.data)
        self.runtime = runtime_facts()
        self._earlier, self._began = state.seconds, time.perf_counter()
        self._saved_at, self._steps = time.perf_counter(), 0

    @property
    def kept(self) -> str:
        """The checkpoint that is good whatever comes, for messages."""
        return str(self.folder.path / LAST)

    def last(self, rows: list[dict[str, Any]] | None = None) -> None:
        """Write last.ckpt.

        Args:
            rows: those of metrics.jsonl; default: the folder's.
        """
        parts, state = self.parts, self.state
        state.seconds = self._earlier + time.perf_counter() - self._began
        with self.folder.writing(LAST):
            save_checkpoint(
                self.folder.path / LAST,
                config=parts.config,
                model=parts.model,
                optimizer=parts.optimizer,
                schedule=parts.schedule,
                stateful=parts.stateful,
                data=self.facts,
                progress=asdict(state),
                rows=self.folder.rows if rows is None else rows,
                runtime=self.runtime,
            )
        self._saved_at, self._steps = time.perf_counter(), 0

    def best(self) -> None:
        """Write best.safetensors: the weights as they were measured."""
        with self.folder.writing(BEST):
            save_weights(
                self.folder.path / BEST,
                config=self.parts.config,
                model=self.parts.model,
                data=self.facts,
                progress=asdict(self.state),
            )

    def after_step(self) -> None:
        """Write last.ckpt within an epoch, if so many steps or seconds have passed since it was written."""
        self._steps += 1
        config = self.parts.config
        by_steps = 0 < config.checkpoint_every <= self._steps
        by_time = 0 < config.checkpoint_seconds <= time.perf_counter() - self._saved_at
        if by_steps or by_time:
            self.last()

    def begin(self, resume: Checkpoint | None) -> None:
        """Take over a checkpoint, or write the first: whatever happens in the first epoch, something good is there."""
        if resume is None:
            self.last()
        else:
            restore(resume, self.parts)
