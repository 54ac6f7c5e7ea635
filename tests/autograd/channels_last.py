"""A kernel set with a private array of its own, small enough to be seen through: the reference's, channels last.

`ChannelsLast` keeps an image batch as (n, h, w, c) and counts what matters to the engine: how often one was made plain.
`kernels` is a set object for `use_kernels`; it computes by the reference and hands every image out channels last.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from minires.kernels import reference
from minires.kernels.private import PrivateArray


class ChannelsLast(PrivateArray):
    """(n, c, h, w) as (n, h, w, c)."""

    converted = 0  # by anyone, through to_plain
    added = 0

    def __init__(self, nhwc: np.ndarray) -> None:
        self.nhwc = nhwc
        n, h, w, c = nhwc.shape
        self.shape, self.dtype = (n, c, h, w), nhwc.dtype

    @classmethod
    def of(cls, plain: np.ndarray) -> ChannelsLast:
        return cls(np.ascontiguousarray(np.moveaxis(plain, 1, -1)))

    @property
    def logical(self) -> np.ndarray:
        """What the kernels read; not counted."""
        return np.moveaxis(self.nhwc, -1, 1)

    def to_plain(self) -> np.ndarray:
        ChannelsLast.converted += 1
        return self.logical.copy(order="C")

    def add(self, other: Any) -> ChannelsLast:
        ChannelsLast.added += 1
        return ChannelsLast(self.nhwc + other.nhwc)

    def iadd(self, other: Any) -> None:
        ChannelsLast.added += 1
        self.nhwc += other.nhwc

    def copy(self) -> ChannelsLast:
        return ChannelsLast(self.nhwc.copy())


def channels_last(kernel: Any) -> Any:
    """`kernel` of the reference: plain or private arguments, private images out."""

    def call(*args: Any) -> Any:
        plain = [a.logical if isinstance(a, ChannelsLast) else a for a in args]
        result = kernel(*plain)
        outputs = result if isinstance(result, tuple) else (result,)
        # Weights' gradients are four-dimensional too, and always plain.
        keep = kernel.__name__ == "conv2d_backward_weight"
        made = tuple(ChannelsLast.of(y) if np.ndim(y) == 4 and not keep else y for y in outputs)
        return made if isinstance(result, tuple) else made[0]

    return call


STRUCTURED = (
    "conv2d_forward",
    "conv2d_backward_x",
    "conv2d_backward_weight",
    "batch_norm_train",
    "batch_norm_train_backward",
    "batch_norm_eval",
    "batch_norm_eval_backward",
    "relu_forward",
    "relu_backward",
    "residual_relu_forward",
    "residual_relu_backward",
    "max_pool2d_forward",
    "max_pool2d_backward",
    "max_pool2d_gather",
    "avg_pool2d_forward",
    "avg_pool2d_backward",
    "adaptive_avg_pool2d_forward",
    "adaptive_avg_pool2d_backward",
)

functions = {name: getattr(reference, name) for name in reference.__all__}
functions |= {name: channels_last(functions[name]) for name in STRUCTURED}
kernels = SimpleNamespace(**functions, PRIVATE=(ChannelsLast,), __name__="tests.channels_last")
