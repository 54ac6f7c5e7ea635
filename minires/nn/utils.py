"""Tools over a model's parameters: clipping of gradients, and the view of all parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from minires.autograd import no_grad
from minires.errors import ArgumentError, GradError, ShapeError
from minires.tensor import Tensor


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [parameter.grad for parameter in listed if parameter.grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """(sum |t_i|^p)^(1/p) over all elements of all tensors, as one vector; p = inf gives the largest |t_i|.

    Args:
        tensors: usually gradients.
        norm_type: p.
        error_if_nonfinite: raise where the norm is NaN or infinite.
    """
    listed = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    p = float(norm_type)
    if not listed:
        return Tensor(np.zeros((), np.float32))
    # Norm of the norms: one pass over each tensor.
    norms = np.array([_norm(t.array.reshape(-1), p) for t in listed])
    total = _norm(norms, p)
    if error_if_nonfinite and not math.isfinite(total):
        raise GradError(
            f"clip_grad_norm_: the total norm of order {norm_type} of the gradients is {total}, so they cannot be "
            "clipped; pass error_if_nonfinite=False to scale them anyway"
        )
    return Tensor(np.asarray(total, dtype=listed[0].array.dtype))


def _norm(vector: np.ndarray, p: float) -> float:
    if vector.size == 0:
        return 0.0
    if p == math.inf:
        return float(np.abs(vector).max())
    # In float64: the sum of squares of float32 gradients can overflow where their norm does not.
    return float((np.abs(vector.astype(np.float64)) ** p).sum() ** (1.0 / p))


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)), norm taken over all of them together.

    Args:
        parameters: those whose `.grad` is clipped, in place; the ones without a gradient are left out.
        max_norm: the largest norm allowed.
        norm_type: p of the norm; inf for the largest element.
        error_if_nonfinite: raise where the norm is NaN or infinite.
        foreach: accepted for torch's sake; there is one way of doing it here.

    Returns:
        The norm before clipping.

    Source: Pascanu et al. 2013, On the difficulty of training recurrent neural networks, algorithm 1.
    """
    grads = _gradients(parameters)
    total = get_total_norm(grads, norm_type, error_if_nonfinite)
    scale = max_norm / (float(total.item()) + 1e-6)
    # Not `min(1, scale)` with a test around it: a NaN norm must reach the gradients, as in torch.
    scale = 1.0 if scale > 1.0 else scale
    with no_grad():
        for grad in grads:
            grad.mul_(scale)
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Clamp every element of every gradient to [-clip_value, clip_value], in place."""
    if clip_value < 0:
        raise ArgumentError(f"clip_grad_value_: clip_value must not be negative, got {clip_value}")
    with no_grad():
        for grad in _gradients(parameters):
            grad.clamp_(-float(clip_value), float(clip_value))


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, flattened, one after the other; differentiable."""
    from minires.ops.join import cat

    listed = [parameter.reshape(-1) for parameter in parameters]
    if not listed:
        raise ArgumentError("parameters_to_vector: expected at least one parameter, got none")
    return cat(listed)


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the slices of a vector into the parameters: the inverse of `parameters_to_vector`."""
    if not isinstance(vec, Tensor):
        raise ArgumentError(f"vector_to_parameters: vec must be a Tensor, got {type(vec).__name__}")
    listed = list(parameters)
    needed = sum(parameter.numel() for parameter in listed)
    if vec.ndim != 1 or vec.numel() != needed:
        raise ShapeError(f"vector_to_parameters: vec needs shape ({needed},), got {tuple(vec.shape)}")
    start = 0
    with no_grad():
        for parameter in listed:
            parameter.copy_(vec[start : start + parameter.numel()].reshape(*parameter.shape))
            start += parameter.numel()
