"""One training session from settings to report: parts, folder, loop, curves, figures."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from minires.config import settings
from minires.distributed.group import current, gather_text
from minires.errors import CheckpointError
from minires.threads import limit_threads
from minires.train.checkpoint import Checkpoint, load_checkpoint
from minires.train.config import TrainConfig
from minires.train.curves import HOW_TO_INSTALL, curves_available, draw_curves
from minires.train.evaluate import FLIP_TTA, Evaluation
from minires.train.guard import InterruptGuard, LossNotFiniteError
from minires.train.loop import State, fit, measured_weights
from minires.train.memory import memory_line
from minires.train.progress import Progress, make_progress
from minires.train.report import REPORT, report_available, write_report
from minires.train.run_folder import (
    BEST,
    LAST,
    Onlooker,
    RunFolder,
    available_cores,
    busy_advice,
    json_safe,
    runtime_facts,
)
from minires.train.setup import Parts, build_parts
from minires.train.tensorboard import EventWriter

__all__ = ["TrainResult", "resume_training", "run_training"]


@dataclass
class TrainResult:
    """What came out of a session."""

    config: TrainConfig
    path: Path
    parameters: int
    state: State
    rows: list[dict[str, Any]]
    test: Evaluation | None  # after the last epoch; None after a signal
    curves: Path | None
    report: Path | None
    exit_code: int = 0  # 130 after Ctrl-C, 143 after SIGTERM

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the session before the end of the run."""
        return self.test is None

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain values, for result.json and `--json`."""
        best = None
        if self.state.best_epoch:
            row = next((r for r in self.rows if r["epoch"] == self.state.best_epoch), {})
            best = {
                "epoch": self.state.best_epoch,
                "val_accuracy": self.state.best_val_accuracy,
                "test_accuracy": row.get("test_accuracy"),
                "checkpoint": str(self.path / BEST),
            }
        return {
            "run": str(self.path),
            "data": self.config.data,
            "model": self.config.model,
            "parameters": self.parameters,
            "interrupted": self.interrupted,
            "seed": self.config.seed,
            "epochs": self.state.epoch,
            "stopped_early": not self.interrupted and self.state.epoch < self.config.epochs,
            "seconds": self.state.seconds,
            "test_accuracy": self.test.accuracy if self.test else None,
            "test": self.test.as_dict() if self.test else None,
            "best": best,
            "last_checkpoint": str(self.path / LAST),
            "curves": str(self.curves) if self.curves else None,
            "report": str(self.report) if self.report else None,
        }


def run_training(config: TrainConfig, stream: TextIO) -> TrainResult:
    """Train from the beginning, in a new folder.

    Args:
        config: all settings.
        stream: where the progress is shown.
    """
    parts = build_parts(config)  # before the folder: a missing data set must not leave an empty one behind
    with _folder(parts, lambda: RunFolder.create(parts.config)) as folder:
        return _run(parts, folder, stream, None)


def resume_training(run: str | Path, stream: TextIO) -> TrainResult:
    """Go on with a run that was interrupted, in its folder, exactly where its last.ckpt stands.

    Raises:
        CheckpointError: there is no such run, or it has ended.
        RunBusyError: another process trains in that folder.
        StorageError: the folder cannot be written to.
    """
    path = Path(run)
    if path.is_dir():
        path = path / LAST
    load_checkpoint(path)  # what is no run gets no lock put into it
    group = current()
    with RunFolder.claim(path.parent) if group.rank == 0 else Onlooker(path.parent) as folder:
        group.barrier()  # nobody reads before rank 0 has the folder
        checkpoint = load_checkpoint(path)  # as whoever had the lock left it
        if not checkpoint.complete:
            raise CheckpointError(f"resume: {path} holds weights for use; training goes on from {LAST}, or the folder")
        config, epoch = checkpoint.config, checkpoint.progress["epoch"]
        if State(**checkpoint.progress).ended(config) and folder.reported:
            raise CheckpointError(f"resume: {path.parent} has finished its {epoch} epochs; a new run takes --epochs N")
        if group.rank == 0:
            folder.go_on(checkpoint.rows, epoch)
        else:
            folder.rows = list(checkpoint.rows or [])
        return _run(build_parts(config, facts=checkpoint.data), folder, stream, checkpoint)


def _folder(parts: Parts, create: Callable[[], RunFolder]) -> RunFolder:
    """The new folder: rank 0 makes it and tells the others where."""
    if parts.ranks.first:
        folder = create()
        gather_text(parts.ranks.group, str(folder.path), 4096)
        return folder
    return Onlooker(Path(gather_text(parts.ranks.group, "", 4096)[0]))


def _run(parts: Parts, folder: RunFolder, stream: TextIO, resume: Checkpoint | None) -> TrainResult:
    config, train, group = parts.config, parts.loader.dataset, parts.ranks.group
    stream = stream if group.rank == 0 else io.StringIO()
    parameters = sum(p.array.size for p in parts.model.parameters())
    progress = make_progress(stream, folder.log)
    val = f", {len(parts.validation):,} validation" if parts.validation is not None else ""
    channels, height, width = train.image_shape
    sets = f"{len(train):,} training{val}, {len(parts.test):,} test"
    progress.line(f"data    {config.data}: {sets}, {channels}x{height}x{width}")
    options = f" ({', '.join(config.model_options)})" if config.model_options else ""
    progress.line(f"model   {config.model}{options}: {parameters:,} parameters, {train.num_classes} classes")
    progress.line(
        f"recipe  {config.recipe + ': ' if config.recipe else ''}{config.optimizer}, lr {config.lr:g} {config.schedule}, "
        f"batch {config.batch_size}, {config.epochs} epochs, seed {config.seed}"
    )
    progress.line(f"        augment {', '.join(config.augment) or 'nothing'}")
    if config.label_smoothing:
        progress.line(f"        label smoothing {config.label_smoothing:g}, counted in the training loss only")
    if config.ema_decay:
        progress.line(f"        judged and kept as best: the running mean of the weights, decay {config.ema_decay:g}")
    if config.flip_tta:
        progress.line(f"        judged by the {FLIP_TTA}")
    if group.size > 1:
        shared = "" if config.sync_bn else ", batch norm each by itself"
        progress.line(
            f"ranks   {group.size} processes, {config.batch_size / group.size:g} images of each batch{shared}"
        )
        if settings.threads is None:
            limit_threads(max(1, available_cores() // group.size))
    for note in [_share_cores() if resume is None and group.size == 1 else "", *_notes(folder, resume)]:
        if note:
            progress.line(f"note    {note}", "yellow")
    if told := memory_line(parts):
        progress.line(told)
    progress.line(f"run     {folder.path}")
    if resume is not None:
        progress.line(f"resumed after {resume.progress['epoch']} epochs and {resume.progress['batch']} batches")
    progress.line()
    events = EventWriter(folder.path, folder.rows) if config.tensorboard and group.rank == 0 else None
    if events is not None:
        folder.watchers.append(events.add)
    with InterruptGuard(group) as guard:
        try:
            state, test = fit(parts, folder, progress, guard, resume)
        except LossNotFiniteError as error:
            folder.log(f"stopped: {error}")
            if group.rank == 0:
                _draw(folder, config, progress, None, 0)
            raise
        finally:
            progress.finish()
            if events is not None:
                events.close()
        curves = _draw(folder, config, progress, test, state.best_epoch) if group.rank == 0 else None
        report = _report(folder, parts, progress, test) if group.rank == 0 else None
        exit_code = guard.exit_code if test is None else 0
        result = TrainResult(config, folder.path, parameters, state, folder.rows, test, curves, report, exit_code)
        folder.write_text("result.json", json.dumps(json_safe(result.as_dict()), indent=2) + "\n")
    return result


def _notes(folder: RunFolder, resume: Checkpoint | None) -> list[str]:
    """What a person should know of the lock that was found and of the machine on which a run goes on."""
    notes = []
    holder = folder.lock.stale if folder.lock is not None else None
    if holder is not None:
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        notes.append(f"took over the lock of {who}, which ended without giving it back")
    if resume is None:
        return notes
    before, now = resume.runtime, runtime_facts()
    threads = before.get("linear_algebra")
    held = importlib.util.find_spec("threadpoolctl") is not None
    if threads and held and threads != now["linear_algebra"]:  # the order of a sum can depend on it
        limit_threads(threads)
        now["linear_algebra"] = threads
    changed = [
        f"{name} {before[name]}, now {now[name]}" for name in now if name in before and before[name] != now[name]
    ]
    if changed:
        notes.append(
            f"the run began with {'; '.join(changed)}: its last bits may differ from those of a run without a break"
        )
    return notes


def _share_cores() -> str:
    """On a busy machine, hold the linear algebra to one thread if that can be done now; gives back what to tell.

    A run that goes on keeps the threads it began with, busy or not: its bits may depend on them.
    """
    advice = busy_advice()
    if advice and importlib.util.find_spec("threadpoolctl") is not None:
        limit_threads(1)
        return "machine busy: one thread for linear algebra (MINIRES_THREADS=N sets it)"
    return advice


def _draw(
    folder: RunFolder, config: TrainConfig, progress: Progress, test: Evaluation | None, best_epoch: int
) -> Path | None:
    """curves.png, where there is something to draw and something to draw with. A picture never costs the run."""
    if not folder.rows:
        return None
    if not curves_available():
        progress.line(HOW_TO_INSTALL)
        return None
    title = f"{config.model} on {config.data}"
    if test is not None:
        title += f": {100 * test.accuracy:.2f} % of {test.images:,} test images after epoch {folder.rows[-1]['epoch']}"
        title += f" ({test.how})" * bool(test.how)
    path = folder.path / "curves.png"
    with contextlib.suppress(ImportError):
        draw_curves(folder.rows, path, title, best_epoch, smoothed=config.label_smoothing > 0)
    return path if path.exists() else None


def _report(folder: RunFolder, parts: Parts, progress: Progress, test: Evaluation | None) -> Path | None:
    """report.html, where what it is made with is installed; without a look at the test set where a signal ended the run."""
    missing = report_available()
    if missing:
        progress.line(missing)
        return None
    with folder.writing(REPORT), measured_weights(parts):
        model, images = (parts.model, parts.test) if test is not None else (None, None)
        return write_report(folder.path, folder.rows, parts.config, model, images, test)
