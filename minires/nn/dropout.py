"""`Dropout` and `Dropout2d`: in training, zeros at random places and the rest scaled up so that the mean stays."""

from __future__ import annotations

from minires.errors import ArgumentError
from minires.nn import functional as F
from minires.nn.module import Module
from minires.tensor import Tensor


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ArgumentError(f"{self._get_name()}: p must be in [0, 1], got {p}")
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """y = x * m / (1 - p), each element of m 0 with probability p and 1 otherwise; y = x in evaluation.

    Source: Srivastava et al. 2014, Dropout.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout2d(_Dropout):
    """Dropout of whole channels: one m for all of H, W, since neighbouring pixels say much the same.

    Source: Tompson et al. 2015, Efficient Object Localization Using Convolutional Networks.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace)
