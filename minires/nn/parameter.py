"""Tensors that a module owns: parameters, which are trained, and buffers, which are not."""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.errors import ArgumentError
from minires.tensor import Tensor


def _array_of(kind: str, data: Any) -> Any:
    if data is None:
        return np.empty(0, dtype=np.float32)
    if isinstance(data, Tensor):
        return data.array
    if isinstance(data, np.ndarray):
        return data
    raise ArgumentError(f"{kind}: data must be a Tensor, got {type(data).__name__}")


class Parameter(Tensor):
    """A tensor that a module trains: assigned as an attribute, it appears in `parameters()` and in the state dict.

    Args:
        data: the values; not copied, so the parameter shares memory with `data`. Its history is left behind.
        requires_grad: True by default, also inside `no_grad`.
    """

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        super().__init__(_array_of("Parameter", data), requires_grad=requires_grad)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        if id(self) not in memo:
            # The gradient is not copied, as in torch: a copied model starts clean.
            memo[id(self)] = type(self)(Tensor(self.array.copy()), self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return type(self), (self.array, self.requires_grad)


class Buffer(Tensor):
    """A tensor that belongs to a module's state and is not trained: running statistics, masks, tables.

    Assigning it as an attribute is the same as `register_buffer(name, data, persistent)`.

    Args:
        data: the values; not copied.
        persistent: whether it is part of the state dict.
    """

    persistent: bool

    def __init__(self, data: Any = None, *, persistent: bool = True) -> None:
        super().__init__(_array_of("Buffer", data))
        self.persistent = persistent

    def __deepcopy__(self, memo: dict[int, Any]) -> Buffer:
        if id(self) not in memo:
            memo[id(self)] = type(self)(Tensor(self.array.copy()), persistent=self.persistent)
        return memo[id(self)]
