"""The search: a study that Optuna keeps in a journal file, and trials that are runs of their own.

The goal is the best validation accuracy of a run; the test set is not looked at before the last epoch, and chooses nothing. A
trial is an ordinary run, in a folder of its own beside the journal. The journal is append-only and written before and after
each trial, so a search that was stopped or killed goes on where it was.
"""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minires.errors import ConfigError
from minires.train.config import TrainConfig, build_config
from minires.train.guard import InterruptGuard, LossNotFiniteError
from minires.train.loop import fit
from minires.train.progress import Progress
from minires.train.run_folder import RunFolder
from minires.train.setup import build_parts
from minires.train.tune.space import Axis

__all__ = ["PRUNERS", "SAMPLERS", "Search", "open_study", "run_search"]

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "asha", "none")
JOURNAL = "journal.log"


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
        folder: holds the journal, the trials' runs and the summary.
        axes: the settings that vary.
        settings: those that do not, over the recipe's.
        sampler, pruner: one of SAMPLERS, PRUNERS.
        seed: of the sampler; each trial trains with the seed of the settings.
    """

    folder: Path
    axes: Sequence[Axis]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0

    def config(self, values: Mapping[str, Any], name: str) -> TrainConfig:
        """The settings of a trial."""
        return build_config(self.settings, values, {"run_dir": str(self.folder), "name": name, "test_every": 0})


def open_study(search: Search) -> Any:
    """The Optuna study of a search, new or as the journal has it.

    Raises:
        ConfigError: the journal is of a search over other settings.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # we show the trials ourselves
    search.folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(search.folder / JOURNAL)))
    study = optuna.create_study(
        storage=storage,
        study_name="minires",
        direction="maximize",
        load_if_exists=True,
        pruner=_pruner(search),
    )
    # A sampler that began with the same seed in every session would propose the first session's trials again.
    study.sampler = _sampler(search, search.seed + len(study.get_trials(deepcopy=False)))
    axes = [str(axis) for axis in search.axes]
    before = study.user_attrs.get("axes")
    if before is not None and before != axes:
        raise ConfigError(
            f"tune: {search.folder} holds a search over {'; '.join(before)}; go on with the same --search options, or take "
            "another --study"
        )
    study.set_user_attr("axes", axes)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its process is gone
    if search.sampler == "grid":
        _queue_grid(search, study)
    return study


def _sampler(search: Search, seed: int) -> Any:
    from optuna import samplers

    # A grid is a queue of trials: nothing is proposed.
    return samplers.TPESampler(seed=seed) if search.sampler == "tpe" else samplers.RandomSampler(seed=seed)


def _queue_grid(search: Search, study: Any) -> None:
    """Queue every combination that has not ended yet and does not wait already."""
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING)
    there = [t.params or t.system_attrs.get("fixed_params") for t in study.get_trials(deepcopy=False, states=states)]
    for values in itertools.product(*(axis.grid() for axis in search.axes)):
        combination = {axis.key: value for axis, value in zip(search.axes, values, strict=True)}
        if combination not in there:
            study.enqueue_trial(combination)


def _pruner(search: Search) -> Any:
    from optuna import pruners

    if search.pruner == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return (
        pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1) if search.pruner == "median" else pruners.NopPruner()
    )


class _TrialProgress(Progress):
    """Tells the trial every epoch's validation accuracy; ends the run where the pruner says so."""

    def __init__(self, trial: Any, log: Callable[[str], None]) -> None:
        super().__init__(io.StringIO(), log)
        self.trial = trial

    def epoch_end(self, row: dict[str, Any], best: bool) -> None:
        super().epoch_end(row, best)
        import optuna

        if row["val_accuracy"] is None:
            raise ConfigError("tune: val_fraction leaves no validation images, by which trials are judged")
        self.trial.report(row["val_accuracy"], row["epoch"])
        if row["epoch"] < self.epochs and self.trial.should_prune():
            raise optuna.TrialPruned(f"after epoch {row['epoch']}")


def run_search(
    search: Search, study: Any, trials: int, timeout: float | None = None, tell: Callable[[Any], None] | None = None
) -> bool:
    """Run trials until the study has `trials` that ended, the grid is used up, or the time is over.

    Args:
        study: from open_study.
        trials: of all sessions together; those that failed do not count.
        timeout: seconds after which no further trial begins.
        tell: called with each finished trial (optuna.trial.FrozenTrial).

    Returns:
        Whether it came to its end; False after Ctrl-C or SIGTERM.
    """
    from optuna.trial import TrialState

    began = time.monotonic()
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    while len(study.get_trials(deepcopy=False, states=ended)) < trials:
        if timeout is not None and time.monotonic() - began >= timeout:
            break
        if search.sampler == "grid" and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            break
        trial = study.ask()
        if not _run_trial(search, study, trial):
            return False
        if tell is not None:
            tell(study.get_trials(deepcopy=False)[trial.number])
    return True


def _run_trial(search: Search, study: Any, trial: Any) -> bool:
    """One run; False if a signal ended it."""
    import optuna
    from optuna.trial import TrialState

    try:
        values = {axis.key: axis.suggest(trial) for axis in search.axes}
        config = search.config(values, f"trial-{trial.number:03d}")
        parts = build_parts(config)
        with RunFolder.create(config) as folder:
            trial.set_user_attr("run", str(folder.path))
            with InterruptGuard() as guard:
                progress = _TrialProgress(trial, folder.log)
                state, _ = fit(parts, folder, progress, guard)
            if state.epoch < config.epochs:
                study.tell(trial, state=TrialState.FAIL)
                return False
            study.tell(trial, state.best_val_accuracy)
    except optuna.TrialPruned:
        with suppress(ValueError):
            study.tell(trial, state=TrialState.PRUNED)
    except LossNotFiniteError as error:  # these settings do not train: the worst there is, and worth knowing
        trial.set_user_attr("not finite", str(error))
        study.tell(trial, 0.0)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    return True
