"""`Linear` (fully connected) and `Identity`."""

from __future__ import annotations

import math
from typing import Any

from minires.creation import empty
from minires.nn import functional as F
from minires.nn import init
from minires.nn.module import Module
from minires.nn.parameter import Parameter
from minires.tensor import Tensor


class Identity(Module):
    """y = x. Ignores any arguments, so that it can stand in for any layer: a removed `fc`, an empty shortcut."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class Linear(Module):
    """y = x W^T + b.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: whether b is there.

    Shapes: input (..., in_features), output (..., out_features); weight (out_features, in_features), bias
    (out_features,).

    Initialisation: W and b uniform in +-1/sqrt(in_features), as torch's.
    """

    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(empty(out_features, in_features, device=device, dtype=dtype))
        self.register_parameter("bias", Parameter(empty(out_features, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        # With a = sqrt(5) the bound gain * sqrt(3 / fan_in) = sqrt(2 / 6) * sqrt(3 / fan_in) is 1 / sqrt(fan_in).
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
