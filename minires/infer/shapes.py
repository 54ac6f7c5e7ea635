"""A kernel set that knows the shapes of results and nothing of their numbers: what a trace runs on.

Which operations a model calls does not depend on what a convolution computes. So while a model is traced its images are
`Unknown`s, a private array type (see minires.kernels.private) with a shape and no memory, and the kernels between them look
up sizes in the geometry. Tracing a network of a hundred layers takes milliseconds, whatever the size of its images.

Where numbers are wanted after all (an operation that has no kernel, a view, a head of a few hundred features) an `Unknown`
makes some up. That is no loss: a trace must not depend on them, and `compile` shows that it does not by tracing
twice, with other numbers, and comparing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minires.kernels import reference
from minires.kernels.private import PrivateArray, takes_plain


class Unknown(PrivateArray):
    """An array of `shape` whose numbers are not known.

    Args:
        kernels: the set it belongs to, which draws its numbers and hears of them.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, kernels: ShapeKernels) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.kernels = kernels

    def to_plain(self) -> np.ndarray:
        """Numbers in [0, 1), others each time."""
        plain = self.kernels.make_up(self.size).astype(self.dtype).reshape(self.shape)
        for tell in self.kernels.on_numbers:
            tell(self, plain)
        return plain

    def add(self, other: Any) -> Unknown:
        return Unknown(self.shape, self.dtype, self.kernels)

    def iadd(self, other: Any) -> None:
        """Nothing to do: what was unknown still is."""

    def copy(self) -> Unknown:
        return Unknown(self.shape, self.dtype, self.kernels)


class ShapeKernels:
    """See the head of this file. What it has no shape rule for, and what meets no Unknown, the reference computes.

    Args:
        seed: of the numbers that are made up.

    Attributes:
        on_numbers: called with an Unknown and the plain array that takes its place.
    """

    PRIVATE = (Unknown,)

    def __init__(self, seed: int) -> None:
        self._drawn = np.uint32(seed * 0x9E3779B9 % 2**32)
        self.on_numbers: list[Callable[[Unknown, np.ndarray], None]] = []

    def make_up(self, count: int) -> np.ndarray:
        """`count` numbers in [0, 1): a counter, its bits mixed by multiplication. Loading numpy.random would take longer."""
        bits: Any = self._drawn + np.arange(1, count + 1, dtype=np.uint32)
        self._drawn = bits[-1] if count else self._drawn
        bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D)
        bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
        return (bits ^ (bits >> 16)) / 2.0**32

    def unknown(self, shape: tuple[int, ...], dtype: Any) -> Unknown:
        return Unknown(tuple(shape), dtype, self)

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(reference, name)
        rule = _RULES.get(name)
        plain = takes_plain(kernel)
        if rule is None:
            return plain

        def call(*args: Any, **options: Any) -> Any:
            if not any(isinstance(a, Unknown) for a in (*args, *options.values())):
                return plain(*args, **options)
            return rule(self, *args, **options)

        call.__name__ = name
        return call


def _y_of_geometry(kernels: ShapeKernels, x: Any, *rest: Any) -> Unknown:
    """conv2d_forward(x, weight, bias, geometry) and the average pools: the geometry comes last."""
    return kernels.unknown(rest[-1].y_shape, x.dtype)


def _y_and_indices(kernels: ShapeKernels, x: Any, geometry: Any) -> tuple[Unknown, np.ndarray]:
    # Where the largest value lies is a number, too; broadcast, it takes no memory.
    return kernels.unknown(geometry.y_shape, x.dtype), np.broadcast_to(np.int64(0), geometry.y_shape)


def _like_x(kernels: ShapeKernels, x: Any, *rest: Any, **options: Any) -> Unknown:
    return kernels.unknown(x.shape, x.dtype)


_RULES: dict[str, Callable[..., Any]] = {
    "conv2d_forward": _y_of_geometry,
    "avg_pool2d_forward": _y_of_geometry,
    "adaptive_avg_pool2d_forward": _y_of_geometry,
    "max_pool2d_forward": _y_and_indices,
    "adaptive_max_pool2d_forward": _y_and_indices,
    "batch_norm_eval": _like_x,
    "batch_norm_relu_eval": _like_x,
    "relu_forward": _like_x,
    "residual_relu_forward": _like_x,
}
