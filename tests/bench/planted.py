"""Contenders that misbehave, each in its own way, to see that the command notices. Their processes import this file."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from minires.bench.contenders import Contender
from minires.bench.peers import ours
from minires.bench.workload import Workload


def planted(variant: str, kind: str = "infer", **options: Any) -> Contender:
    """A row of the table for one of the variants below."""
    return Contender(f"planted-{variant}", "tests.bench.planted", variant, (kind,), **options)


def open_task(kind: str, variant: str, workload: Workload) -> Any:
    """The task of that variant."""
    if variant == "raises":
        raise ZeroDivisionError("oh")
    if variant == "dies":
        os._exit(7)
    return {"infer": Inference, "train": Training}[kind](workload, variant)


def burn() -> None:
    """Never sleep."""
    while True:
        pass


class Inference(ours.Inference):
    """minires' own, and one thing wrong."""

    def __init__(self, workload: Workload, variant: str) -> None:
        super().__init__(workload, "reference")
        self.variant, self.runs = variant, 0
        if variant == "spins":
            threading.Thread(target=burn, daemon=True).start()

    def eager(self) -> None:
        super().eager()
        self.runs += 1
        if self.variant == "fails-later" and self.runs > 1:
            raise RuntimeError("tired")

    def outcome(self) -> dict[str, np.ndarray]:
        output = self.output.copy()
        if self.variant == "wrong-logit":
            output[-1, -1] += 0.01 * np.abs(output).max()
        if self.variant == "nan":
            output[0, 0] = np.nan
        if self.variant == "too-few":
            output = output[:-1]
        return {"output": output}


class Training(ours.Training):
    """minires' own, and one thing wrong."""

    def __init__(self, workload: Workload, variant: str) -> None:
        super().__init__(workload)
        self.variant = variant
        if variant == "no-decay":
            self.optimizer.param_groups[0]["weight_decay"] = 0.0
        if variant == "no-momentum":
            self.optimizer.param_groups[0]["momentum"] = 0.0

    def outcome(self) -> dict[str, np.ndarray]:
        results = super().outcome()
        if self.variant == "lost-gradient":
            results["gradient/layer2.0.bn1.bias"] = results["gradient/layer2.0.bn1.bias"] * 0
        return results
