"""How large the gradient is in each part of a network: where it dies away, where it explodes, and whether it is a number."""

from __future__ import annotations

import math

import numpy as np

from minires.nn import Module

__all__ = ["gradient_norms"]


def gradient_norms(model: Module) -> dict[str, float]:
    """The Euclidean norm of the gradient, part by part.

        norm[part] = sqrt(sum over the part's parameters and their elements of grad^2)

    A part is a child of the model, "layer1" of "layer1.0.conv1.weight": for a ResNet the stem's layers, the stages, the
    classifier, from input to output. Parameters without a gradient (frozen ones) do not count.

    Returns:
        Finite numbers if and only if every gradient is finite.
    """
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        flat = parameter.grad.numpy().reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(np.dot(flat, flat))
        if not math.isfinite(square) and np.isfinite(flat).all():  # float32 overflows where no element does
            wide = flat.astype(np.float64)
            square = float(np.dot(wide, wide))
        part = name.partition(".")[0]
        squares[part] = squares.get(part, 0.0) + square
    return {part: math.sqrt(square) if math.isfinite(square) else math.nan for part, square in squares.items()}
