"""Convolution, whichever way is fastest: this file chooses, conv_direct, conv_winograd, conv_weight and conv_stem do it.

float64 is for checking gradients, not for speed: it runs on the reference kernels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from minires.kernels.cpu import conv_direct, conv_stem, conv_weight, conv_winograd, winograd_weight
from minires.kernels.cpu.choose import choose_algorithm
from minires.kernels.cpu.dispatch import serves
from minires.kernels.cpu.layout import Blocked, as_blocked
from minires.kernels.cpu.rehearsal import at_batch
from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.private import to_plain
from minires.kernels.reference import conv as reference


def _native(weight: Any) -> np.ndarray:
    return np.asarray(weight, np.float32)  # of the machine's byte order, any strides


@cache
def _algorithm(g: Conv2dGeometry, purpose: str) -> int:
    """The width of the Winograd tile, 0 for the direct form."""
    return choose_algorithm(g, g.n, purpose).m


def conv2d_forward(x: Any, weight: Any, bias: Any, g: Conv2dGeometry) -> Any:
    """See interface.conv2d_forward."""
    if not serves(x, weight):
        return reference.conv2d_forward(to_plain(x), weight, bias, g)
    weight = _native(weight)
    if not isinstance(x, Blocked) and conv_stem.suits(g):
        return conv_stem.forward(x, weight, bias, g)
    m = _algorithm(at_batch(g), "forward")
    if m:
        return conv_winograd.forward(as_blocked(x), weight, bias, g, m=m)
    return conv_direct.forward(as_blocked(x), weight, bias, g)


def conv2d_backward_x(grad_y: Any, weight: Any, g: Conv2dGeometry) -> Any:
    """See interface.conv2d_backward_x."""
    if not serves(grad_y, weight):
        return reference.conv2d_backward_x(to_plain(grad_y), weight, g)
    m = _algorithm(at_batch(g), "backward_x")
    if m:
        return conv_winograd.backward_x(as_blocked(grad_y), _native(weight), g, m)
    return conv_direct.backward_x(as_blocked(grad_y), _native(weight), g)


def conv2d_backward_weight(grad_y: Any, x: Any, g: Conv2dGeometry) -> Any:
    """See interface.conv2d_backward_weight."""
    if not serves(grad_y, x):
        return reference.conv2d_backward_weight(to_plain(grad_y), to_plain(x), g)
    grad_y = as_blocked(grad_y)
    if not isinstance(x, Blocked) and conv_stem.suits(g):
        return conv_stem.backward_weight(grad_y, x, g)
    m = _algorithm(at_batch(g), "backward_weight")
    if m:
        return winograd_weight.backward_weight(grad_y, as_blocked(x), g, m)
    return conv_weight.backward_weight(grad_y, as_blocked(x), g)
