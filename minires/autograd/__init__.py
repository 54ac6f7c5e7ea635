"""The autograd engine: record what is computed, then run it backwards.

Read in this order: `variable` (an array with a history), `node` (one recorded operation), `function` (the gate that every
operation passes), `engine` (the backward pass). The rest is built on these: `modes`, `anomaly`, `checkpoint`, `gradcheck`.
"""

from minires.autograd.anomaly import detect_anomaly, is_anomaly_enabled, set_detect_anomaly
from minires.autograd.checkpoint import checkpoint
from minires.autograd.engine import backward, grad
from minires.autograd.function import Function, Op, apply, apply_inplace, detach, run_inplace
from minires.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from minires.autograd.modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from minires.autograd.node import saved_tensors_hooks
from minires.autograd.variable import RemovableHandle

__all__ = [
    "Function",
    "GradcheckError",
    "Op",
    "RemovableHandle",
    "apply",
    "apply_inplace",
    "backward",
    "checkpoint",
    "detach",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_anomaly_enabled",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "run_inplace",
    "saved_tensors_hooks",
    "set_detect_anomaly",
    "set_grad_enabled",
]
