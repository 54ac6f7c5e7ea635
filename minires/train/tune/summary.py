"""What a search found: the best trials, which settings matter, and a page with both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minires.io.files import write_atomically
from minires.train.report.page import Html, bar, page, section, table, text
from minires.train.report.run_report import percent, shown
from minires.train.tune.space import Axis

__all__ = ["best_trials", "importances", "trial_values", "write_summary"]

SUMMARY = "tune.html"


def best_trials(study: Any) -> list[Any]:
    """The finished trials, the best first."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(done, key=lambda trial: (-trial.value, trial.number))


def importances(study: Any, axes: Sequence[Axis]) -> dict[str, float]:
    """How much each setting decides over a result being among the better half, as shares of 1; {} with too few trials.

    Source: Watanabe, Bansal and Hutter 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces". For each setting the distribution of its values among the better half of the trials is compared with that
    among all (Pearson's divergence).
    """
    import warnings

    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    values = [trial.value for trial in best_trials(study)]
    if len(values) < 4 or len(set(values)) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna marks it as experimental
        evaluator = PedAnovaImportanceEvaluator(target_quantile=0.5)
        found = get_param_importances(study, evaluator=evaluator, params=[axis.key for axis in axes], normalize=False)
    total = sum(found.values())
    return {key: value / total for key, value in found.items()} if total > 0 else {}


def trial_values(trial: Any, axes: Sequence[Axis]) -> list[str]:
    """The settings of a trial, as texts."""
    return [shown(axis.value_of(trial.params[axis.key])) if axis.key in trial.params else "-" for axis in axes]


def write_summary(study: Any, axes: Sequence[Axis], folder: Path) -> Path:
    """Write `folder/tune.html`."""
    best, matter = best_trials(study), importances(study, axes)
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    counts = f"{states.count('COMPLETE')} finished, {states.count('PRUNED')} ended early"
    parts: list[Any] = [
        Html(f"<header><h1>A search over {len(axes)} settings</h1><p>{text(f'{folder} · {counts}')}</p></header>")
    ]
    rows = [
        [trial.number, percent(trial.value), *trial_values(trial, axes), trial.user_attrs.get("run", "")]
        for trial in best
    ]
    heads = ["trial", "best validation", *(axis.key for axis in axes), "run"]
    note = "Judged by the validation images alone. The best of many trials is also the luckiest: repeat it with other seeds."
    parts.append(section("Trials, the best first", table(heads, rows, left=tuple(range(2, len(heads)))), note=note))
    if matter:
        lines = [[key, percent(share, 0), bar(share)] for key, share in matter.items()]
        why = (
            "How differently a setting is distributed among the better half of the trials and among all (PED-ANOVA, "
            "Watanabe et al. 2023), as shares of the whole."
        )
        parts.append(section("Which settings matter", table(["setting", "share", ""], lines, left=(0, 2)), note=why))
    parts.append(section("Each setting against the result", Html(f'<div class="charts">{_scatters(best, axes)}</div>')))
    path = folder / SUMMARY
    with write_atomically(path, "w") as file:
        file.write(page("search", parts))
    return path


def _scatters(trials: Sequence[Any], axes: Sequence[Axis]) -> str:
    from minires.train.report.charts import scatter

    charts = []
    for axis in axes:
        points = [(axis.value_of(trial.params[axis.key]), trial.value) for trial in trials if axis.key in trial.params]
        if axis.choices:
            points = [(shown(value), result) for value, result in points]
        charts.append(scatter(axis.key, points, log=axis.log))
    return "".join(charts)
