"""Learning-rate schedules, with torch's names and numbers."""

from __future__ import annotations

from minires.errors import UnsupportedError
from minires.optim.lr_scheduler.base import LRScheduler
from minires.optim.lr_scheduler.compose import ChainedScheduler, SequentialLR
from minires.optim.lr_scheduler.cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts
from minires.optim.lr_scheduler.factor import ConstantLR, ExponentialLR, LinearLR, MultiStepLR, PolynomialLR, StepLR
from minires.optim.lr_scheduler.function import LambdaLR, MultiplicativeLR
from minires.optim.lr_scheduler.one_cycle import OneCycleLR
from minires.optim.lr_scheduler.plateau import ReduceLROnPlateau

_LRScheduler = LRScheduler  # torch's older name; isinstance checks in older scripts use it

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]


def __getattr__(name: str) -> object:
    if name == "CyclicLR":
        raise UnsupportedError("lr_scheduler.CyclicLR is not part of minires; use OneCycleLR, or LambdaLR for cycles")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
