"""The same settings with several seeds: one figure is luck as well as recipe; its mean and spread say how much of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from minires.distributed.group import current
from minires.errors import ConfigError
from minires.io.files import write_atomically
from minires.train.config import TrainConfig
from minires.train.evaluate import FLIP_TTA
from minires.train.metrics import Spread
from minires.train.run_folder import folder_name, json_safe
from minires.train.session import TrainResult, run_training

__all__ = ["SeedsResult", "parse_seeds", "run_seeds"]


@dataclass
class SeedsResult:
    """The runs that were finished, in the order of their seeds; `path` is the summary's file."""

    seeds: list[int]
    runs: list[TrainResult]
    path: Path

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended one of the runs, and with it the rest."""
        return bool(self.runs) and self.runs[-1].interrupted

    def last(self) -> Spread | None:
        """Test accuracy after the last epoch; None where no run has ended."""
        found = [run.test.accuracy for run in self.runs if run.test is not None]
        return Spread(found) if found else None

    def chosen(self) -> Spread | None:
        """Test accuracy of the epoch that validation chose; None where it was not looked at in each of them."""
        ended = [run for run in self.runs if run.test is not None]
        found = [(run.as_dict()["best"] or {}).get("test_accuracy") for run in ended]
        seen = [accuracy for accuracy in found if accuracy is not None]
        return Spread(seen) if seen and len(seen) == len(ended) else None

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        last, chosen = self.last(), self.chosen()
        return {
            "seeds": self.seeds,
            "interrupted": self.interrupted,
            "test_accuracy": last.as_dict() if last else None,
            "chosen_by_validation": chosen.as_dict() if chosen else None,
            "summary": str(self.path),
            "runs": [run.as_dict() for run in self.runs],
        }

    def lines(self) -> list[str]:
        """What a person is told at the end. Nothing is chosen by the test images."""
        last, chosen = self.last(), self.chosen()
        if last is None:
            return ["no run has ended"]
        how = f" ({FLIP_TTA})" if self.runs[0].config.flip_tta else ""
        lines = [f"test accuracy over {len(last.each)} seeds, mean +- standard deviation{how}"]
        lines.append(f"  last epoch             {last}")
        if chosen:
            lines.append(f"  chosen by validation   {chosen}")
        return lines


def parse_seeds(text: str) -> list[int]:
    """ "0,1,2" -> [0, 1, 2].

    Raises:
        ConfigError: not whole numbers, or one of them twice.
    """
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() for word in words) or len({int(word) for word in words}) < len(words):
        raise ConfigError(f"--seeds must be different whole numbers, as 0,1,2, got {text!r}")
    return [int(word) for word in words]


def run_seeds(config: TrainConfig, seeds: Sequence[int], stream: TextIO) -> SeedsResult:
    """Train once with each seed, in folders NAME-seed0, NAME-seed1, ...; the summary lies beside them: NAME-seeds.json.

    The seed decides the weights, the order of the images, what augmentation draws and which images validate.

    Args:
        config: all settings but the seed.
        seeds: one run each.
        stream: where the progress is shown.
    """
    name = config.name or folder_name(f"{config.data}-{config.model}")
    result = SeedsResult(list(seeds), [], Path(config.run_dir) / f"{name}-seeds.json")
    for seed in seeds:
        result.runs.append(run_training(replace(config, seed=seed, name=f"{name}-seed{seed}"), stream))
        if current().rank == 0:
            with write_atomically(result.path, "w") as file:
                file.write(json.dumps(json_safe(result.as_dict()), indent=2) + "\n")
        if result.interrupted:
            break
    return result
