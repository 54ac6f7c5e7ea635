"""Which arrays a blocked kernel serves: the rest goes to the reference.

An operation between convolutions gets blocked arrays and keeps them blocked. An array that is plain, float64 or empty is left
to the reference: turning it to blocks for one cheap operation would cost more than the operation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.kernels import reference
from minires.kernels.cpu import pool
from minires.kernels.cpu.layout import Blocked, as_blocked
from minires.kernels.private import takes_plain, to_plain


def serves(*arrays: Any) -> bool:
    """Whether all are float32 (of any byte order) and none is empty; None counts as absent."""
    return all(a is None or (a.dtype.type is np.float32 and a.size > 0) for a in arrays)


def blocked_if_any(kernel: Callable[..., Any], otherwise: Callable[..., Any], *images: int | str) -> Callable[..., Any]:
    """`kernel` where one of its image arguments is blocked (the others are turned into blocks), else `otherwise`.

    Args:
        images: the positions of the image arguments; for one that has a default, also its name.
    """
    plain = takes_plain(otherwise)
    positions = [i for i in images if isinstance(i, int)]
    names = [i for i in images if isinstance(i, str)]

    @functools.wraps(otherwise)
    def call(*arguments: Any, **options: Any) -> Any:
        given = [arguments[i] for i in positions if i < len(arguments)] + [options.get(name) for name in names]
        if not any(isinstance(a, Blocked) for a in given) or not serves(*given):
            return plain(*arguments, **options)
        converted = list(arguments)
        for i in positions:
            if i < len(converted) and converted[i] is not None:
                converted[i] = as_blocked(converted[i])
        for name in names:
            if options.get(name) is not None:
                options[name] = as_blocked(options[name])
        return kernel(*converted, **options)

    return call


def max_pool2d_backward(grad_y: Any, indices: Any, g: Any) -> Any:
    """The blocked kernel where the forward pass was blocked: its indices are taps."""
    if isinstance(indices, pool.Taps):
        return pool.max_pool2d_backward(as_blocked(grad_y), indices, g)
    return reference.max_pool2d_backward(to_plain(grad_y), indices, g)


def adaptive_avg_pool2d_backward(grad_y: Any, g: Any) -> Any:
    """The blocked kernel for all float32: the gradient of one mean a channel comes plain, its images are wanted blocked."""
    if serves(grad_y) and g.h * g.w > 1:
        return pool.adaptive_avg_pool2d_backward(grad_y, g)
    return reference.adaptive_avg_pool2d_backward(to_plain(grad_y), g)
