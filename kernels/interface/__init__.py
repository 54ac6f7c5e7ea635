"""The contract of a kernel set: one method a whole operation, its loop nest as docstring.

A set is a module (`minires.kernels.reference`, ...) whose functions satisfy `KernelSet`. The rules for all of them:

- arrays in, arrays out; inputs are never written to (but by an optimiser's step) and may be read-only, strided, or of
  foreign byte order;
- floating outputs have the (native) dtype of the first argument: float32 or float64 (statistics: float64 always);
- nothing is checked: the op that calls has validated, and sizes come in a frozen object of `geometry.py`, which also
  holds the legend of size names. An empty batch (n = 0) is legal everywhere.

In the loop nests every output starts at zero, indices run over their whole range, and a read outside x gives the
padding value. `grad_y` is the gradient of the loss with respect to y, and so on.
"""

from __future__ import annotations

from typing import Protocol

from minires.kernels.interface.activation import Activation, Classification
from minires.kernels.interface.arrays import Array
from minires.kernels.interface.normalization import BatchNorm, BatchNormReLU, RowNorm
from minires.kernels.interface.optimization import Optimization
from minires.kernels.interface.spatial import Convolution, Interpolation, Pooling

__all__ = ["Array", "KernelSet"]


class KernelSet(
    Convolution,
    Pooling,
    Interpolation,
    BatchNorm,
    BatchNormReLU,
    RowNorm,
    Activation,
    Classification,
    Optimization,
    Protocol,
):
    """What every kernel set offers."""
