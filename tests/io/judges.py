"""Libraries whose files are read, as judges; a test that asks for one that is not installed is skipped, with the reason."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest

from tests.torch_oracle import torch

_kept: list[Any] = []  # a library's operators live as long as it does


def timm() -> Any:
    """timm, for which torchvision must be importable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchvision()
        return pytest.importorskip("timm", reason="timm is not installed (pip install timm torchvision==0.28.0)")


def torchvision() -> Any:
    """torchvision, also where its wheel, compiled for CUDA, does not load beside torch's for the CPU.

    Then its operators are not there. No ResNet calls one; but two must have a signature before it can be imported.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "torchvision is not installed (pip install torchvision==0.28.0, which goes with torch 2.13)"
        try:
            return pytest.importorskip("torchvision", reason=reason)
        except RuntimeError:
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "FRAGMENT")
            _kept.append(library)
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            return pytest.importorskip("torchvision", reason=reason)


def with_statistics(model: Any, seed: int = 0) -> Any:
    """The model in evaluation mode, with batch norms as training leaves them: no mean of 0, variance of 1, weight of 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.0, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
    return model.eval()
