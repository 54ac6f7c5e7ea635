"""Saving within a run: what, when, and in which order, so that a run killed at any moment can go on.

    last.ckpt            everything; at the start, within an epoch every `checkpoint_every` steps or `checkpoint_seconds`,
                         after every epoch, and when a signal ends the run
    before.ckpt          the one before last.ckpt, for the length of a step: until that step has shown that the weights in
                         last.ckpt give a finite loss. If it shows the opposite, before.ckpt takes the place of last.ckpt
    best.safetensors     the weights of the best epoch on the validation images, and what `predict` must know

After an epoch the order is: best.safetensors, last.ckpt, metrics.jsonl. last.ckpt carries the rows of metrics.jsonl, so
whichever of the three a kill leaves undone is done again, with the same bits, by the run that goes on from last.ckpt.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minires.train.checkpoint import BEST, LAST, Checkpoint, data_facts, restore, save_checkpoint, save_weights
from minires.train.run_folder import RunFolder, runtime_facts
from minires.train.setup import Parts

if TYPE_CHECKING:
    from minires.train.loop import State

__all__ = ["BEFORE", "Saver"]

BEFORE = "before.ckpt"


class Saver:
    """Writes the checkpoints of one run.

    Args:
        parts: what is saved.
        folder: where to; its rows of metrics.jsonl are part of every checkpoint.
        state: where the run stands; `seconds` is brought up to date with every save.
    """

    def __init__(self, parts: Parts, folder: RunFolder, state: State) -> None:
        self.parts, self.folder, self.state = parts, folder, state
        self._writes = parts.ranks.first  # of several processes one; the others have the same to write
        self.facts = data_facts(parts.loader.dataset, parts.config.data)
        self.runtime = runtime_facts()
        self._before = folder.path / BEFORE
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
        parts, state, last = self.parts, self.state, self.folder.path / LAST
        if not self._writes:
            return
        state.seconds = self._earlier + time.perf_counter() - self._began
        with self.folder.writing(LAST):
            if last.exists() and not self._before.exists():
                _second_name(last, self._before)
            save_checkpoint(
                last,
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
        if not self._writes:
            return
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
        self.trust()  # the step began with the weights in last.ckpt or later ones, and its loss was finite
        self._steps += 1
        config = self.parts.config
        by_steps = 0 < config.checkpoint_every <= self._steps
        by_time = 0 < config.checkpoint_seconds <= time.perf_counter() - self._saved_at
        if by_steps or by_time:
            self.last()

    def trust(self) -> None:
        """The weights in last.ckpt are good: the one before it is not needed any more."""
        if not self._writes:
            return
        with self.folder.writing(BEFORE):
            self._before.unlink(missing_ok=True)

    def take_back(self) -> None:
        """The weights in last.ckpt may have led to what is no number: the one before it takes its place, if there is one."""
        if not self._writes:
            return
        with self.folder.writing(LAST), contextlib.suppress(FileNotFoundError):
            os.replace(self._before, self.folder.path / LAST)

    def begin(self, resume: Checkpoint | None) -> None:
        """Take over a checkpoint, or write the first: whatever happens in the first epoch, something good is there."""
        if resume is None:
            self.last()
        else:
            restore(resume, self.parts)


def _second_name(file: Path, name: Path) -> None:
    """Let `name` be the same file as `file`, which will soon be replaced; a copy where a file has but one name."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
