"""minires: a small deep learning engine, written from scratch, that trains residual networks and can be read.

    import minires
    from minires import nn

    x = minires.randn(8, 3, 32, 32)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    net(x).mean().backward()

The names are torch's. What is heavy (models, data, training, plotting) loads when it is first used, so `import minires`
costs NumPy's import and little more.
"""

from __future__ import annotations

import importlib
from typing import Any

from minires import threads as _threads  # first: MINIRES_THREADS must be known before NumPy loads

# isort: split
from minires import autograd, dtypes, random
from minires import tensor as _tensor_module  # first: it fixes the order in which tensors and ops import one another
from minires.autograd import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from minires.backend import device
from minires.creation import (
    arange,
    as_tensor,
    asarray,
    bernoulli,
    empty,
    empty_like,
    eye,
    from_numpy,
    full,
    full_like,
    linspace,
    meshgrid,
    normal,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)  # fmt: skip
from minires.dtypes import (
    bool_,
    double,
    dtype,
    float16,
    float32,
    float64,
    get_default_dtype,
    half,
    int8,
    int16,
    int32,
    int64,
    long,
    set_default_dtype,
    short,
    uint8,
)  # fmt: skip
from minires.errors import MiniresError
from minires.functions import *  # noqa: F403  # torch's functions of tensors; the list is minires.functions.__all__
from minires.random import Generator, get_rng_state, initial_seed, manual_seed, seed, set_rng_state
from minires.tensor import Size, Tensor

__version__ = "0.1.0"

# torch.float, torch.int and torch.bool: dtypes that share their names with Python's own types.
float = float32
int = int32
bool = bool_

_LAZY = ("cli", "compat", "data", "infer", "io", "kernels", "lab", "models", "nn", "optim", "train", "utils", "viz")
_LAZY_NAMES = {
    "as_torch": "minires.compat",
    "compile": "minires.infer.plan",
    "load_plan": "minires.infer.plan",
    "load_onnx": "minires.infer.onnx.load",
    "export_onnx": "minires.infer.onnx.export",
    "save": "minires.io.archive",
    "load": "minires.io.archive",
    "load_model": "minires.io.load_model",
    "load_state_dict_file": "minires.io.load_model",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"minires.{name}")
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    from minires.errors import UnsupportedError

    raise UnsupportedError(f"minires.{name}: there is no such name; see the list in `dir(minires)`")
