"""Layers and networks under torch's names: `from minires import nn`, then `nn.Module`, `nn.Conv2d`, `nn.init`, ..."""

from __future__ import annotations

import difflib
from typing import Any

from minires.errors import UnsupportedError
from minires.nn import functional, init, utils
from minires.nn.activation import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSoftmax,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from minires.nn.container import ModuleDict, ModuleList, ParameterList, Sequential
from minires.nn.conv import Conv2d, ConvTranspose2d
from minires.nn.dropout import Dropout, Dropout2d
from minires.nn.flatten import Flatten, Unflatten
from minires.nn.linear import Identity, Linear
from minires.nn.loss import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from minires.nn.module import Module
from minires.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm, SyncBatchNorm
from minires.nn.padding import ReflectionPad2d, ZeroPad2d
from minires.nn.parameter import Buffer, Parameter
from minires.nn.pooling import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d, Upsample

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "InstanceNorm2d",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Mish",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ParameterList",
    "ReLU",
    "ReLU6",
    "ReflectionPad2d",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "SyncBatchNorm",
    "Tanh",
    "Unflatten",
    "Upsample",
    "ZeroPad2d",
    "functional",
    "init",
    "utils",
]


def __getattr__(name: str) -> Any:
    """torch's layers that are not here: an error that names the nearest ones that are."""
    if name.startswith("__"):
        raise AttributeError(name)
    near = difflib.get_close_matches(name, __all__, n=3, cutoff=0.5)
    hint = f"the nearest are {', '.join(near)}" if near else "see minires.nn.__all__ for what there is"
    raise UnsupportedError(f"minires.nn has no {name!r}: {hint}")
