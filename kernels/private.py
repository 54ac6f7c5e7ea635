"""Private arrays: a kernel set's own form of an image batch, kept from one structured operation to the next.

Every operation sees the logical shape (n, c, h, w). How the numbers lie in memory is the set's own matter: the fast CPU
kernels want blocks of 16 channels with a margin around each image, those of a GPU want channels last. Converting before
and after each kernel would cost more than the kernel. So a set may return its own array type, and gets it back.

The rules:

- a set declares the types it takes in a module attribute, `PRIVATE: tuple[type[PrivateArray], ...]`; without one it takes
  none. A set that declares any takes each image argument of a structured operation plain or private, in any mixture, and
  may return either. (`takes_plain` wraps a function that can only work on plain ones.)
- a private array is never written to once a kernel has returned it. The one exception is `iadd`, which the engine calls
  on sums of gradients that it made itself.
- parameters, and the gradients that end in them, are always plain.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


class PrivateArray:
    """The base of all private array types. A subclass sets `shape` and `dtype` and defines `to_plain`, `add` and `iadd`.

    Attributes:
        shape: the logical shape, (n, c, h, w).
        dtype: NumPy's, of the logical values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values; a subclass may count its padding too."""
        return self.size * self.dtype.itemsize

    def to_plain(self) -> npt.NDArray[Any]:
        """A new array of `shape` with the values: C-contiguous, writable, its memory its own."""
        raise NotImplementedError(f"{type(self).__name__}.to_plain")

    def add(self, other: Any) -> PrivateArray:
        """A new private array: self + other.

        Args:
            other: a private array of this type, shape and dtype; its inner form (a margin, say) may differ.
        """
        raise NotImplementedError(f"{type(self).__name__}.add")

    def iadd(self, other: Any) -> None:
        """self += other, in place; `other` as for `add`."""
        raise NotImplementedError(f"{type(self).__name__}.iadd")

    def copy(self) -> PrivateArray:
        """A private array with memory of its own."""
        raise NotImplementedError(f"{type(self).__name__}.copy")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """NumPy's conversion; always a new array."""
        if copy is False:
            raise ValueError(
                f"{type(self).__name__}: a private array has no plain memory to share, so copy=False cannot be"
            )
        plain = self.to_plain()
        return plain if dtype is None else plain.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"


def to_plain(value: Any) -> Any:
    """`value`, as a plain array if it is a private one."""
    return value.to_plain() if isinstance(value, PrivateArray) else value


def takes_plain(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, for a set with private arrays: its private arguments arrive as plain arrays.

    For functions that a set takes over from the reference: `max_pool2d_gather = takes_plain(reference.max_pool2d_gather)`.
    """

    @functools.wraps(kernel)
    def call(*args: Any, **options: Any) -> Any:
        return kernel(*map(to_plain, args), **{name: to_plain(value) for name, value in options.items()})

    return call
