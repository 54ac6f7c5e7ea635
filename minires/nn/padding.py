"""Padding layers: `ZeroPad2d`, `ReflectionPad2d`."""

from __future__ import annotations

from minires.errors import ArgumentError
from minires.nn import functional as F
from minires.nn.module import Module
from minires.tensor import Tensor


class _Pad2d(Module):
    _mode = ""

    def __init__(self, padding: int | tuple[int, int, int, int]) -> None:
        super().__init__()
        self.padding: tuple[int, ...] = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 4:
            raise ArgumentError(
                f"{self._get_name()}: padding must be an int or (left, right, top, bottom), got {padding!r}"
            )

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, mode=self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad2d(_Pad2d):
    """Add zeros around H and W. `padding`: an int, or (left, right, top, bottom); negative ones crop."""

    _mode = "constant"


class ReflectionPad2d(_Pad2d):
    """Add the mirror image of the border, which is not repeated. `padding`: an int, or (left, right, top, bottom)."""

    _mode = "reflect"
