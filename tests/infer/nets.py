"""Networks for the tests of inference plans: small, with statistics and weights as a trained one could have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minires
from minires import models, nn


class Lambda(nn.Module):
    """A function as a module, with modules that it uses."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(x, *self.children())


def randomize(net: nn.Module, seed: int = 0) -> nn.Module:
    """Running statistics, batch norms' weights and biases drawn anew: fresh ones (0 and 1) would hide mistakes."""
    rng = np.random.default_rng(seed)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for name, value in (
                ("running_mean", rng.normal(0, 0.3, module.num_features)),
                ("running_var", rng.uniform(0.5, 2, module.num_features)),
                ("weight", rng.uniform(0.5, 1.5, module.num_features)),
                ("bias", rng.normal(0, 0.3, module.num_features)),
            ):
                tensor = getattr(module, name)
                if tensor is not None:
                    tensor.array[...] = value
    return net


def small(name: str, **options: Any) -> nn.Module:
    """A network of the zoo, as narrow as its options allow, with 5 classes."""
    known = models.model_options(name)
    if "widths" in known:
        options = {"widths": (16, 32, 32, 48), "stem_width": 16, **options}
    return randomize(models.build(name, num_classes=5, **options))


def images(*shape: int, dtype: str = "float64", seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def eager(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """What the model gives in evaluation mode, run as always."""
    net.eval()
    with minires.inference_mode():
        return net(minires.Tensor(x)).numpy()
