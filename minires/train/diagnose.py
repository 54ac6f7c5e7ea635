"""Where a NaN or an infinity began: the step that showed it is run again, with a look at every layer.

The loss says only *that* something overflowed or divided by zero. The first layer with a value that is no number says
where to look: in the forward pass the first in the order of the computation, in the backward pass the first that the
gradient meets on its way from the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import minires
from minires.nn import Module
from minires.tensor import Tensor

__all__ = ["NOT_HERE", "first_in_backward", "first_in_forward"]

# How an answer begins that says: the same step, run again by this process, shows nothing.
NOT_HERE = ("in a rounding", "in the sum")

Named = tuple[str, Module]


def first_in_forward(model: Module, loss_of: Callable[[], Tensor], images: Tensor, drawn: dict[str, Any]) -> str:
    """Run a forward pass again and say where the first value that is no number stands.

    Args:
        model: the network, in the mode and with the weights of the step.
        loss_of: computes the step's loss from the beginning.
        images: the step's input.
        drawn: state of the random numbers before the step, so that dropout draws the same.

    Returns:
        What follows "It began ...".
    """
    if not _finite(images):
        return "in the data: the images of this batch hold a value that is no number"
    found: list[str] = []

    def before(name: str, module: Module, inputs: Any) -> None:
        # Not the buffers: batch norm's running statistics are no input here, and the first run has ruined them already.
        for kind, tensor in module.named_parameters(recurse=False):
            if not found and not _finite(tensor):
                found.append(f"in {name}: its {kind} holds a value that is no number, left by the step before")

    def after(name: str, module: Module, inputs: Any, output: Any) -> None:
        if not found and not _finite(output):
            found.append(f"in the forward pass of {name}: all before it is finite, its output is not")

    with _again(model, drawn), minires.no_grad():
        handles = []
        for name, module in _named(model):
            handles.append(module.register_forward_pre_hook(lambda m, x, name=name: before(name, m, x)))
            handles.append(module.register_forward_hook(lambda m, x, y, name=name: after(name, m, x, y)))
        try:
            loss = loss_of()
        finally:
            for handle in handles:
                handle.remove()
    if found:
        return found[0]
    if _finite(loss):
        return "in a rounding that did not come again: the same step, layer by layer, gives a finite loss"
    return "in the loss itself: every layer's output is finite"


def first_in_backward(model: Module, loss_of: Callable[[], Tensor], drawn: dict[str, Any]) -> str:
    """Run a step again, forward and backward, and say where the gradient first holds a value that is no number.

    Args: as `first_in_forward`'s. The gradients of the parameters are those of the second run afterwards.

    Returns:
        What follows "It began ...".
    """
    found: list[str] = []

    def look(what: str) -> Callable[[Any], None]:
        def hook(gradient: Any) -> None:
            if not found and not _finite(gradient):
                found.append(f"in the backward pass, with the gradient of {what}")

        return hook

    def watch(name: str, output: Any) -> None:
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(look(f"the output of {name}"))

    with _again(model, drawn):
        handles = [
            module.register_forward_hook(lambda m, x, y, name=name: watch(name, y)) for name, module in _named(model)
        ]
        handles += [
            parameter.register_hook(look(name))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
        try:
            model.zero_grad()
            loss_of().backward()
        finally:
            for handle in handles:
                handle.remove()
    if found:
        return found[0]
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    return f"in the backward pass, with the gradient of {bad[0]}" if bad else "in the sum of several batches' gradients"


@contextmanager
def _again(model: Module, drawn: dict[str, Any]) -> Iterator[None]:
    """The step's random numbers inside; afterwards those that were, so that whoever catches the error finds them."""
    now = minires.random.get_rng_state()
    minires.random.set_rng_state(drawn)
    try:
        yield
    finally:
        minires.random.set_rng_state(now)


def _named(model: Module) -> list[Named]:
    """`layer1.0.conv1 (Conv2d)` and the module, for all of them; the network itself is last to finish."""
    return [
        (f"{name} ({type(module).__name__})" if name else f"the model's own code ({type(module).__name__})", module)
        for name, module in model.named_modules()
    ]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _finite(value: Any) -> bool:
    return all(np.isfinite(tensor.detach().numpy()).all() for tensor in _tensors(value))
