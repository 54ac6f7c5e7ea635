"""What a model is made of: for every layer its output shape, parameters and multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.autograd import no_grad
from minires.nn import Conv2d, ConvTranspose2d, Linear, Module
from minires.tensor import Tensor

__all__ = ["LayerRow", "summarize"]


@dataclass(frozen=True)
class LayerRow:
    """One layer (a module without children) in the order in which it ran."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int  # multiply-accumulates for one forward pass


def summarize(model: Module, input_shape: tuple[int, ...]) -> list[LayerRow]:
    """Run zeros through the model once and note every layer.

    Only products with weights are counted as multiply-accumulates (convolutions and linear layers), as is usual in
    papers; 1 MAC = 2 floating-point operations. A module that is used twice has two rows; its parameters count in the
    first.

    Args:
        model: any module that takes one tensor.
        input_shape: (N, C, H, W).

    Returns:
        One row a layer.
    """
    rows: list[LayerRow] = []
    seen: set[int] = set()
    handles = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: Module, inputs: Any, output: Any) -> None:
            own = 0 if id(module) in seen else sum(math.prod(p.shape) for p in module.parameters())
            seen.add(id(module))
            shape = tuple(int(n) for n in output.shape)
            rows.append(LayerRow(name, type(module).__name__, shape, own, _macs(module, inputs[0], output)))

        return hook

    was_training = model.training
    try:
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                handles.append(module.register_forward_hook(note(name or type(module).__name__)))
        model.eval()
        with no_grad():
            model(Tensor(np.zeros(input_shape, np.float32)))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return rows


def _macs(module: Module, x: Any, y: Any) -> int:
    """Conv2d: every output value is a sum over C_in / groups * k_h * k_w products; the transposed one the other way
    round.
    """
    if isinstance(module, ConvTranspose2d):
        return math.prod(x.shape) * math.prod(module.weight.shape[1:])
    if isinstance(module, Conv2d):
        return math.prod(y.shape) * math.prod(module.weight.shape[1:])
    if isinstance(module, Linear):
        return math.prod(y.shape) * int(module.weight.shape[1])
    return 0
