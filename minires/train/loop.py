"""The training loop.

    for epoch: for batch: forward, loss, backward, step
    after each epoch: measure, write down, save

`train_epoch` is the loop itself, on one screen. `fit` puts the epochs in a row. What is around them (folders, signals,
tables) lives in the files beside this one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import minires
from minires.data import ArrayDataset
from minires.nn import functional as F
from minires.nn.utils import clip_grad_norm_
from minires.tensor import Tensor
from minires.train.checkpoint import Checkpoint, weights_not_finite
from minires.train.config import TrainConfig
from minires.train.diagnose import first_in_backward, first_in_forward
from minires.train.evaluate import Evaluation, evaluate
from minires.train.grad_norm import gradient_norms
from minires.train.guard import InterruptGuard, LossNotFiniteError, StopRequested, check_finite
from minires.train.progress import Progress, Step
from minires.train.run_folder import RunFolder
from minires.train.saver import Saver
from minires.train.setup import Parts

__all__ = ["State", "fit", "train_epoch"]


@dataclass
class State:
    """Where a run stands: all that must be known, beside weights and optimiser, to go on exactly from here."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches done in the unfinished one, and the sums over them:
    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    grad_norms: dict[str, float] = field(default_factory=dict)  # of each part of the network, before clipping
    lr: float = 0.0  # of the last step
    seconds: float = 0.0  # spent so far, over all sessions
    best_epoch: int = 0  # 0: none yet
    best_val_accuracy: float = 0.0
    best_val_loss: float = 0.0

    def begin_epoch(self) -> None:
        """Count an epoch as finished and forget its sums."""
        self.epoch += 1
        self.batch, self.images, self.loss_sum, self.correct, self.grad_norms = 0, 0, 0.0, 0, {}

    def ended(self, config: TrainConfig) -> bool:
        """Whether all epochs are done, or so many in a row without a better validation that patience is at its end."""
        waited = self.epoch - self.best_epoch if self.best_epoch else 0
        return self.epoch >= config.epochs or 0 < config.patience <= waited

    def note_validation(self, row: dict[str, Any]) -> bool:
        """Whether this epoch is the best so far; if so, remember it.

        Accuracy comes first; on a small validation set many epochs have the same, and then the loss decides.
        """
        accuracy, loss = row["val_accuracy"], row["val_loss"]
        if accuracy is None:
            return False
        if self.best_epoch and (accuracy, -loss) <= (self.best_val_accuracy, -self.best_val_loss):
            return False
        self.best_epoch, self.best_val_accuracy, self.best_val_loss = self.epoch, accuracy, loss
        return True


def train_epoch(parts: Parts, state: State, progress: Progress, pause: Callable[[], bool], kept: str) -> None:
    """One pass over the training images, from batch `state.batch` on.

    Args:
        parts: model, data, optimiser, schedule.
        state: counts batches, images, loss and right answers; after an interruption it says where to go on.
        progress: is told about every step.
        pause: called after every step, where the weights are whole; true ends the pass there.
        kept: the checkpoint that is still good, for the message if something is not finite.
    """
    model, optimizer, schedule, config = parts.model, parts.optimizer, parts.schedule, parts.config
    loader, ranks = (
        parts.loader,
        parts.ranks,
    )  # the loader gives this rank's part of each batch; mostly there is one rank
    average = parts.stateful.get("ema")
    model.train()
    for module in parts.frozen:  # their batch norm neither looks at the batch nor learns from it
        module.eval()
    for images, labels in loader.iterate(state.epoch, start=state.batch):
        step = state.epoch * len(loader) + state.batch + 1
        if 0 < config.max_steps < step:  # the run goes on from the save after its last step
            break
        state.lr = float(optimizer.param_groups[0]["lr"])
        where: dict[str, Any] = {"epoch": state.epoch + 1, "step": step, "lr": state.lr, "kept": kept}
        optimizer.zero_grad()
        whole = loader.images_in(state.batch)  # of all ranks
        count = piece_count(config.accumulate, whole // loader.ranks)
        ranks.begin_step(count)
        for some, theirs, share in pieces(images, labels, count, whole):
            drawn = minires.random.get_rng_state()  # to run this very piece again, should it go wrong
            logits = model(some)
            loss = loss_of(parts, logits, theirs)
            value = loss.item()
            total, right, seen = ranks.add_up(value * len(some), right_answers(logits, theirs), len(some))
            # Before backward: a loss that is no number must not reach the weights. Nor must a gradient.
            again = partial(_loss_again, parts, some, theirs)
            find = partial(first_in_forward, model, again, some, drawn)
            check_finite(total / seen, "training loss", find=partial(ranks.told, find), **where)
            (loss if share == 1 else loss * share).backward()  # gradients add up to those of the whole batch's mean
            state.loss_sum, state.correct = state.loss_sum + total, state.correct + int(right)
        ranks.add_up_gradients()
        norms = gradient_norms(model)
        find = partial(first_in_backward, model, again, drawn)
        check_finite(sum(norms.values()), "a gradient", find=partial(ranks.told, find), **where)
        if config.clip_norm > 0:
            clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update(model)

        for part, norm in norms.items():
            state.grad_norms[part] = state.grad_norms.get(part, 0.0) + norm
        state.images += whole
        state.batch += 1
        progress.step(
            Step(
                state.epoch + 1,
                state.batch,
                len(loader),
                state.loss_sum / state.images,
                state.correct / state.images,
                state.images,
            )
        )
        if pause() or step == config.max_steps:
            break


def piece_count(wanted: int, n: int) -> int:
    """In how many pieces to take n images, so that none has a single one, of which batch norm could take no variance."""
    return max(1, min(wanted, n // 2))


def pieces(images: Tensor, labels: Tensor, count: int, whole: int) -> Iterator[tuple[Tensor, Tensor, float]]:
    """The images that this rank has of a batch of `whole`, in `count` pieces whose sizes differ by at most one, each with its
    share of the batch.

    Of the mean loss L = sum_i (n_i / n) L_i the gradient is the same sum of gradients: what is computed piece by piece
    is the step of the whole batch, in 1 / count of the memory. Batch norm alone differs: it sees a piece at a time.
    """
    n = len(images)
    if count == 1:
        yield images, labels, n / whole
        return
    edges = [n * k // count for k in range(count + 1)]
    for begin, end in pairwise(edges):
        yield images[begin:end], labels[begin:end], (end - begin) / whole


def right_answers(logits: Tensor, labels: Tensor) -> int:
    """How many images were recognised. After mixup or cutmix a label is a row of probabilities; the larger part counts."""
    targets = labels.numpy() if labels.ndim == 1 else labels.numpy().argmax(axis=1)
    return int((logits.detach().numpy().argmax(axis=1) == targets).sum())


def loss_of(parts: Parts, logits: Tensor, labels: Tensor) -> Tensor:
    """What training makes small: mean cross-entropy, with smoothed labels where the settings say so."""
    return F.cross_entropy(logits, labels, label_smoothing=parts.config.label_smoothing)


def _loss_again(parts: Parts, images: Tensor, labels: Tensor) -> Tensor:
    return loss_of(parts, parts.model(images), labels)


def fit(
    parts: Parts, folder: RunFolder, progress: Progress, guard: InterruptGuard, resume: Checkpoint | None = None
) -> tuple[State, Evaluation | None]:
    """All epochs; after each one measure, save last.ckpt and, if validation is the best so far, best.safetensors, and
    write the row.

    Args:
        parts: what `build_parts` made.
        folder: where everything is written.
        progress: what the person sees.
        guard: says when a signal has come: the run then saves, once, and ends.
        resume: a checkpoint to go on from. The run then ends with the bits it would have had without a break.

    Returns:
        The final state, and the evaluation on the test set after the last epoch (None if a signal ended the run before
        it).

    Raises:
        LossNotFiniteError: last.ckpt is then the last one that was good.
        StorageError: something could not be written; last.ckpt is the one before.
    """
    state = State() if resume is None else State(**resume.progress)
    saver = Saver(parts, folder, state)
    saver.begin(resume)
    parts.ranks.begin(parts.config.seed, state.epoch, state.batch)

    def pause() -> bool:
        if not guard.agree():  # else the save that ends the run comes at once
            saver.after_step()
        return guard.requested

    try:
        return _epochs(parts, state, folder, saver, progress, guard, pause)
    except LossNotFiniteError:
        saver.take_back()
        raise


def _epochs(
    parts: Parts,
    state: State,
    folder: RunFolder,
    saver: Saver,
    progress: Progress,
    guard: InterruptGuard,
    pause: Callable[[], bool],
) -> tuple[State, Evaluation | None]:
    """The epochs in a row."""
    config = parts.config
    test: Evaluation | None = None
    progress.start(config.epochs, state.epoch + 1)
    while not state.ended(config) and not guard.requested:
        epoch_began, images_before = time.perf_counter(), state.images
        progress.epoch_start(images_before)
        train_epoch(parts, state, progress, pause, saver.kept)
        train_seconds = time.perf_counter() - epoch_began
        try:
            guard.check()
            with measured_weights(parts):
                row, test = measure(parts, state, progress, saver.kept, guard)
                row["images_per_second"] = (state.images - images_before) / max(train_seconds, 1e-9)
                row["seconds"] = time.perf_counter() - epoch_began
                state.begin_epoch()
                better = state.note_validation(row)
                if better:
                    saver.best()
        except StopRequested:  # in the epoch or while it was measured: going on does the rest of it
            saver.last()
            return state, None
        saver.last([*folder.rows, row])
        folder.add_epoch(row)
        progress.epoch_end(row, better)
    if not state.ended(config):
        return state, None
    if test is None:  # patience ended between two looks, or the run was killed after its last save, before its report
        with suppress(StopRequested), measured_weights(parts):
            test = look(parts, parts.test, progress, "test", state.epoch, guard)
    saver.trust()
    return state, test


@contextmanager
def measured_weights(parts: Parts) -> Iterator[None]:
    """Inside, the model has the weights that are measured and kept as the best: its own, unless it says otherwise."""
    average = parts.stateful.get("ema")
    if average is None:
        yield
        return
    with average.applied_to(parts.model):
        yield


def measure(
    parts: Parts, state: State, progress: Progress, kept: str, guard: InterruptGuard
) -> tuple[dict[str, Any], Evaluation | None]:
    """The row of a finished epoch, and the evaluation on the test set if one was due.

    Args:
        parts: model and data.
        state: with the sums of the epoch's training batches.
        progress: is told how far it is.
        kept: the checkpoint that is still good, for the message if something is not finite.
        guard: a signal ends the evaluation.

    Returns:
        The columns of metrics.jsonl, with None where nothing was measured; the evaluation or None.

    Raises:
        LossNotFiniteError: a weight or the validation loss is no number.
        StopRequested: a signal came.
        DistributedError: the ranks' weights are not the same.
    """
    config, epoch = parts.config, state.epoch + 1
    parts.ranks.check()
    where: dict[str, Any] = {"epoch": epoch, "step": epoch * len(parts.loader), "lr": state.lr, "kept": kept}
    bad = weights_not_finite(parts.model)  # the last step's update: no later loss would show it
    check_finite(math.nan if bad else 0.0, f"weight {bad}", find=lambda: "in the update of that step", **where)
    row: dict[str, Any] = {
        "epoch": epoch,
        "train_loss": state.loss_sum / state.images,
        "train_accuracy": state.correct / state.images,
        "val_loss": None,
        "val_accuracy": None,
        "test_loss": None,
        "test_accuracy": None,
        "lr": state.lr,
        **{f"grad_norm/{part}": total / state.batch for part, total in state.grad_norms.items()},
    }
    if parts.validation is not None:
        val = look(parts, parts.validation, progress, "validation", epoch, guard)
        check_finite(val.loss, "validation loss", **where)
        row |= {"val_loss": val.loss, "val_accuracy": val.accuracy}
    if epoch < config.epochs and (config.test_every == 0 or epoch % config.test_every):
        return row, None
    test = look(parts, parts.test, progress, "test", epoch, guard)  # only reported: nothing is chosen by it
    row |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
    return row, test


def look(
    parts: Parts, dataset: ArrayDataset, progress: Progress, what: str, epoch: int, guard: InterruptGuard
) -> Evaluation:
    """Evaluate the model as it is on a whole set of images; a signal ends it between two batches."""
    tell = progress.looker(epoch, what)

    def on_batch(done: int, total: int) -> None:
        guard.check()
        tell(done, total)

    config = parts.config
    found = evaluate(parts.model, dataset, workers=config.workers, flip_tta=config.flip_tta, on_batch=on_batch)
    guard.agree()
    guard.check()
    return found
