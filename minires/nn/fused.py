"""Batch norm and the ReLU behind it as one operation, where nobody can tell but by the clock and the memory.

`norm_relu(norm, x, shortcut)` is relu(norm(x) + shortcut). Networks are written with it so that any module may stand in
the place of batch norm, and so that hooks see what they always saw:

    norm                                                          what runs
    a BatchNorm2d or SyncBatchNorm that nobody looks into         F.batch_norm_relu, or its like: the fused operation
    one with hooks or a forward of its own, a subclass of it,     norm(x), then F.relu or F.residual_relu
    GroupNorm, Identity, any other module

On the reference kernels both ways give the same bits; on others they agree within rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minires.nn import functional as F
from minires.nn.activation import ReLU
from minires.nn.module import Module
from minires.nn.norm import BatchNorm2d, SyncBatchNorm
from minires.tensor import Tensor

# As they are defined: a forward that was replaced, in an object or in its class, is another function.
_FORWARD: dict[type[Module], Any] = {kind: kind.forward for kind in (BatchNorm2d, SyncBatchNorm, ReLU)}
_NORMS = (BatchNorm2d, SyncBatchNorm)


def norm_relu(norm: Module, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """relu(norm(x) [+ shortcut]), fused where `norm` is a BatchNorm2d as it comes.

    Running statistics, `num_batches_tracked`, modes and errors are the module's in either case.

    Args:
        norm: any module from a tensor to a tensor.
        x: what it takes; (N, C, H, W) for batch norm.
        shortcut: of the shape of norm(x), or None.

    Returns:
        As norm(x).
    """
    if _is_plain(norm, *_NORMS):
        return norm._normalize_relu(x, shortcut)
    y = norm(x)
    return F.relu(y) if shortcut is None else F.residual_relu(y, shortcut)


def run_in_order(modules: Iterable[Module], x: Any) -> Any:
    """Each module on the output of the one before, a plain BatchNorm2d with a plain ReLU behind it as one operation."""
    waiting: Module | None = None  # a batch norm whose turn it is, until it is known what follows
    for module in modules:
        if waiting is not None:
            if _is_plain(module, ReLU):
                x, waiting = norm_relu(waiting, x), None
                continue
            x, waiting = waiting(x), None
        if _is_plain(module, *_NORMS):
            waiting = module
        else:
            x = module(x)
    return x if waiting is None else waiting(x)


def _is_plain(module: Module, *kinds: type[Module]) -> bool:
    """Whether `module` is exactly one of `kinds`, and to call it is to run the forward that its kind defines, and no more."""
    kind = type(module)
    return kind in kinds and getattr(module.forward, "__func__", None) is _FORWARD[kind] and not module._has_hooks()
