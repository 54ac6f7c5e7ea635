"""Optimisers and learning-rate schedules, with torch's names and numbers."""

from __future__ import annotations

from minires.errors import UnsupportedError
from minires.optim import lr_scheduler
from minires.optim.adam import Adam, AdamW
from minires.optim.optimizer import Optimizer
from minires.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]

_ELSEWHERE = {"ASGD", "Adadelta", "Adafactor", "Adagrad", "Adamax", "LBFGS", "Muon", "NAdam", "RAdam", "RMSprop"}
_ELSEWHERE |= {"Rprop", "SparseAdam"}


def __getattr__(name: str) -> object:
    if name in _ELSEWHERE:
        raise UnsupportedError(f"optim.{name} is not part of minires; use optim.SGD, optim.Adam or optim.AdamW")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
