"""The training loop.

    for epoch: for batch: forward, loss, backward, step
    after each epoch: measure, write down, save

`train_epoch` is the loop itself, on one screen. `fit` puts the epochs in a row. What is around them (folders, signals,
tables) lives in the files beside this one.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import minires
from minires.nn import functional as F
from minires.nn.utils import clip_grad_norm_
from minires.train.checkpoint import Checkpoint, data_facts, save_checkpoint, weights_are_finite
from minires.train.evaluate import Evaluation, evaluate
from minires.train.guard import InterruptGuard, check_finite
from minires.train.progress import Progress, Step
from minires.train.run_folder import RunFolder
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
    seconds: float = 0.0  # spent so far, over all sessions
    best_epoch: int = 0  # 0: none yet
    best_val_accuracy: float = 0.0
    best_val_loss: float = 0.0

    def begin_epoch(self) -> None:
        """Count an epoch as finished and forget its sums."""
        self.epoch += 1
        self.batch, self.images, self.loss_sum, self.correct = 0, 0, 0.0, 0

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


def train_epoch(parts: Parts, state: State, progress: Progress, guard: InterruptGuard, kept: str) -> float:
    """One pass over the training images, from batch `state.batch` on.

    Args:
        parts: model, data, optimiser, schedule.
        state: counts batches, images, loss and right answers; after an interruption it says where to go on.
        progress: is told about every step.
        guard: when it says that Ctrl-C was pressed, the pass ends after the present step.
        kept: the checkpoint that is still good, for the message if the loss is not finite.

    Returns:
        The learning rate of the last step.
    """
    model, optimizer, schedule, config = parts.model, parts.optimizer, parts.schedule, parts.config
    lr = optimizer.param_groups[0]["lr"]
    model.train()
    for images, labels in parts.loader.iterate(state.epoch, start=state.batch):
        lr = optimizer.param_groups[0]["lr"]
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        value = loss.item()
        step = state.epoch * len(parts.loader) + state.batch + 1
        # Before backward: a loss that is no number must not reach the weights.
        check_finite(value, "training loss", epoch=state.epoch + 1, step=step, lr=lr, kept=kept)
        optimizer.zero_grad()
        loss.backward()
        if config.clip_norm > 0:
            clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        schedule.step()

        n = len(images)
        # After mixup or cutmix a label is a row of probabilities; the larger part counts as the answer.
        targets = labels.numpy() if labels.ndim == 1 else labels.numpy().argmax(axis=1)
        state.correct += int((logits.detach().numpy().argmax(axis=1) == targets).sum())
        state.loss_sum += value * n
        state.images += n
        state.batch += 1
        progress.step(
            Step(
                state.epoch + 1,
                state.batch,
                len(parts.loader),
                state.loss_sum / state.images,
                state.correct / state.images,
                state.images,
            )
        )
        if guard.requested:
            break
    return float(lr)


def fit(
    parts: Parts, folder: RunFolder, progress: Progress, resume: Checkpoint | None = None
) -> tuple[State, Evaluation | None]:
    """All epochs; after each one measure, write the row, save last.ckpt and, if validation is the best so far,
    best.ckpt.

    Args:
        parts: what `build_parts` made.
        folder: where everything is written.
        progress: what the person sees.
        resume: a checkpoint to go on from.

    Returns:
        The final state, and the evaluation on the test set after the last epoch (None if Ctrl-C ended the run before
        it).

    Raises:
        LossNotFiniteError: last.ckpt is then the one of the last epoch that ended well.
    """
    config, state = parts.config, State()
    if resume is not None:
        state = State(**resume.progress)
        parts.model.load_state_dict(resume.model)
        parts.optimizer.load_state_dict(resume.optimizer)
        parts.schedule.load_state_dict(resume.schedule)
        minires.random.set_rng_state(resume.random)
    facts = data_facts(parts.loader.dataset, config.data)

    def save(name: str) -> None:
        save_checkpoint(
            folder.path / name,
            config=config,
            model=parts.model,
            optimizer=parts.optimizer,
            schedule=parts.schedule,
            data=facts,
            progress=asdict(state),
        )

    last = str(folder.path / "last.ckpt")
    if resume is None:
        save("last.ckpt")  # epoch 0: whatever happens in the first epoch, something good is there
    earlier, began = state.seconds, time.perf_counter()
    test: Evaluation | None = None
    progress.start(config.epochs, state.epoch + 1)
    with InterruptGuard() as guard:
        while state.epoch < config.epochs:
            epoch_began, images_before = time.perf_counter(), state.images
            progress.epoch_start(images_before)
            lr = train_epoch(parts, state, progress, guard, last)
            train_seconds = time.perf_counter() - epoch_began
            state.seconds = earlier + time.perf_counter() - began
            if state.batch < len(parts.loader):  # Ctrl-C in the middle of the epoch
                save("last.ckpt")
                return state, None
            row, test = measure(parts, state, progress, lr, last)
            row["images_per_second"] = (state.images - images_before) / max(train_seconds, 1e-9)
            state.begin_epoch()
            better = state.note_validation(row)
            state.seconds = earlier + time.perf_counter() - began
            if better:
                save("best.ckpt")
            save("last.ckpt")
            row["seconds"] = time.perf_counter() - epoch_began
            folder.add_epoch(row)
            progress.epoch_end(row, better)
            if guard.requested:
                break
    return state, test if state.epoch == config.epochs else None


def measure(
    parts: Parts, state: State, progress: Progress, lr: float, kept: str
) -> tuple[dict[str, Any], Evaluation | None]:
    """The row of a finished epoch, and the evaluation on the test set if one was due.

    Args:
        parts: model and data.
        state: with the sums of the epoch's training batches.
        progress: is told how far it is.
        lr: learning rate of the last step.
        kept: the checkpoint that is still good, for the message if something is not finite.

    Returns:
        The columns of metrics.jsonl, with None where nothing was measured; the evaluation or None.
    """
    config, epoch = parts.config, state.epoch + 1
    where: dict[str, Any] = {"epoch": epoch, "step": epoch * len(parts.loader), "lr": lr, "kept": kept}
    if not weights_are_finite(parts.model):  # the last step's update: no later loss would show it
        check_finite(math.nan, "a weight", **where)
    row: dict[str, Any] = {
        "epoch": epoch,
        "train_loss": state.loss_sum / state.images,
        "train_accuracy": state.correct / state.images,
        "val_loss": None,
        "val_accuracy": None,
        "test_loss": None,
        "test_accuracy": None,
        "lr": lr,
    }
    if parts.validation is not None:
        tell = progress.looker(epoch, "validation")
        val = evaluate(parts.model, parts.validation, workers=config.workers, on_batch=tell)
        check_finite(val.loss, "validation loss", **where)
        row |= {"val_loss": val.loss, "val_accuracy": val.accuracy}
    if epoch < config.epochs and (config.test_every == 0 or epoch % config.test_every):
        return row, None
    # Only reported: nothing is chosen by it.
    tell = progress.looker(epoch, "test")
    test = evaluate(parts.model, parts.test, workers=config.workers, on_batch=tell)
    row |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
    return row, test
