"""`Tensor`: an array that remembers what it was computed from.

What a tensor is in the graph stands in `autograd/variable.py`, what it can do in `tensor_methods.py`; here is the rest of
torch's interface: conversion to and from NumPy and Python, dtype and device, and how it prints.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from minires import autograd, backend, dtypes
from minires.autograd import variable
from minires.backend import as_device, device
from minires.dtypes import as_dtype, dtype
from minires.errors import ArgumentError, GradError, ShapeError, UnsupportedError
from minires.ops.shape import to_dtype
from minires.printing import format_tensor
from minires.tensor_methods import TensorMethods


class Size(tuple[int, ...]):
    """The shape of a tensor: a tuple with torch's `numel()`."""

    def numel(self) -> int:
        return int(np.prod(self, dtype=np.int64))

    def __repr__(self) -> str:
        return f"minires.Size({list(self)})"

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        return Size(item) if isinstance(key, slice) else item


class Tensor(TensorMethods):
    """An array with a history (see `minires.autograd.variable.Variable` for its attributes).

    `Tensor(array)` wraps without a copy; `minires.tensor(data)` copies, as torch's does.
    """

    __array_priority__ = 1000  # numpy_array * tensor is a tensor

    # --- values ------------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> Size:
        return Size(self.raw.shape)

    @property
    def dtype(self) -> dtype:
        return as_dtype(self.raw.dtype)

    @property
    def device(self) -> device:
        return backend.device_of(self.raw)

    @property
    def ndim(self) -> int:
        return self.raw.ndim

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def itemsize(self) -> int:
        return self.raw.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.raw.size * self.raw.dtype.itemsize

    def element_size(self) -> int:
        return self.raw.dtype.itemsize

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return self.shape if dim is None else self.shape[dim]

    def stride(self, dim: int | None = None) -> Any:
        """The steps between neighbours along each dimension, in elements."""
        strides = tuple(s // self.array.itemsize for s in self.array.strides)
        return strides if dim is None else strides[dim]

    def is_contiguous(self, *, memory_format: Any = None) -> bool:
        return self.array.flags.c_contiguous

    def is_floating_point(self) -> bool:
        return self.raw.dtype.kind == "f"

    def is_complex(self) -> bool:
        return False

    def is_inference(self) -> bool:
        return self.inference

    def data_ptr(self) -> int:
        """The address of the first element."""
        return self.array.__array_interface__["data"][0]

    def item(self) -> Any:
        """The only element, as a Python number."""
        if self.raw.size != 1:
            raise ShapeError(f"item: the tensor must have one element, got shape {self.raw.shape}; use .tolist()")
        return self.array.item()

    def tolist(self) -> Any:
        return self.array.tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The NumPy array itself (no copy). A tensor that requires grad must be detached first, or force=True given."""
        if self.requires_grad and not force:
            raise GradError(
                "numpy: the tensor requires grad, and writes to the array would go unseen; use .detach().numpy()"
            )
        return self.array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise GradError("numpy: the tensor requires grad; use .detach().numpy()")
        return np.array(self.array, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        if not self.raw.ndim:
            raise ShapeError("len: a tensor without dimensions has no length")
        return self.raw.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.raw.ndim:
            raise ShapeError("iter: a tensor without dimensions cannot be iterated over")
        return iter(self.unbind(0))

    def __contains__(self, value: Any) -> bool:
        return bool((self.array == (value.array if isinstance(value, Tensor) else value)).any())

    def __bool__(self) -> bool:
        if self.raw.size != 1:
            raise ShapeError(
                f"bool: a tensor of shape {self.raw.shape} is neither true nor false; use .any() or .all()"
            )
        return bool(self.array.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.raw.dtype.kind not in "iu" or self.raw.size != 1:
            raise TypeError("only an integer tensor of one element can be used as an index")
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return (
            format(self.item(), spec)
            if self.raw.ndim == 0 and spec
            else repr(self)
            if not spec
            else _no_format(self, spec)
        )

    # --- in the graph ------------------------------------------------------------------------------------------------

    def backward(
        self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False, inputs: Any = None
    ) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf it depends on (see `minires.autograd.backward`)."""
        autograd.backward(self, None if gradient is None else [gradient], retain_graph, create_graph, inputs)

    def detach(self) -> Tensor:
        """The same memory without the history."""
        return autograd.detach(self)

    def detach_(self) -> Tensor:
        """Forget the history of this very tensor."""
        if self.base is not None:
            raise GradError("detach_: a view cannot be detached in place; use .detach()")
        self.grad_fn, self.output_nr, self._requires_grad = None, 0, False
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        self.requires_grad = requires_grad
        return self

    @property
    def data(self) -> Tensor:
        """The same memory, outside of autograd's sight: writes through it are not noticed."""
        return Tensor(self.array)

    @data.setter
    def data(self, value: Tensor) -> None:
        if value.raw.dtype.kind != "f" and self.requires_grad:
            raise GradError(f"data: a tensor that requires grad needs floating values, got {value.raw.dtype}")
        if (value.raw.shape, value.raw.dtype) != (self.raw.shape, self.raw.dtype):
            self._accumulator = None  # the one that a living graph may hold expects gradients of the old kind
        self.array = value.array

    # --- dtype and device --------------------------------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """`to(dtype)`, `to(device)`, `to(device, dtype)` or `to(other)`: itself where nothing changes."""
        target_dtype, target_device, copy_always = parse_to(*args, **kwargs)
        if target_device is not None:
            as_device(target_device)
        result = self if target_dtype is None else to_dtype(self, target_dtype)
        return result.clone() if copy_always and result is self else result

    def type(self, dtype: Any = None) -> Any:
        """Without an argument, the name of the dtype; with one, the tensor in it."""
        return f"minires.{self.dtype.name}" if dtype is None else to_dtype(self, dtype)

    def type_as(self, other: Tensor) -> Tensor:
        return to_dtype(self, other.dtype)

    def float(self) -> Tensor:
        return to_dtype(self, dtypes.float32)

    def double(self) -> Tensor:
        return to_dtype(self, dtypes.float64)

    def half(self) -> Tensor:
        return to_dtype(self, dtypes.float16)

    def int(self) -> Tensor:
        return to_dtype(self, dtypes.int32)

    def long(self) -> Tensor:
        return to_dtype(self, dtypes.int64)

    def bool(self) -> Tensor:
        return to_dtype(self, dtypes.bool_)

    def short(self) -> Tensor:
        return to_dtype(self, dtypes.int16)

    def char(self) -> Tensor:
        return to_dtype(self, dtypes.int8)

    def byte(self) -> Tensor:
        return to_dtype(self, dtypes.uint8)

    def cpu(self) -> Tensor:
        return self

    def cuda(self, device: Any = None, non_blocking: Any = False) -> Tensor:
        return self.to("cuda" if device is None else device)

    def get_device(self) -> Any:
        """The number of the GPU that holds it; -1: main memory."""
        return -1 if self.device.index is None else self.device.index

    def pin_memory(self) -> Tensor:
        return self  # memory that only a GPU's copies care about

    # --- new tensors like this one -----------------------------------------------------------------------------------

    def _new(self, array: Any, dtype: Any, requires_grad: Any) -> Tensor:
        wanted = self.raw.dtype if dtype is None else as_dtype(dtype).numpy
        return Tensor(np.asarray(array, wanted), requires_grad=requires_grad)

    def new_zeros(self, *size: Any, dtype: Any = None, device: Any = None, requires_grad: Any = False) -> Tensor:
        return self._new(np.zeros(_size(size)), dtype, requires_grad)

    def new_ones(self, *size: Any, dtype: Any = None, device: Any = None, requires_grad: Any = False) -> Tensor:
        return self._new(np.ones(_size(size)), dtype, requires_grad)

    def new_full(
        self, size: Any, fill_value: Any, dtype: Any = None, device: Any = None, requires_grad: Any = False
    ) -> Tensor:
        return self._new(np.full(tuple(size), fill_value), dtype, requires_grad)

    def new_empty(self, *size: Any, dtype: Any = None, device: Any = None, requires_grad: Any = False) -> Tensor:
        return self._new(np.zeros(_size(size)), dtype, requires_grad)

    def new_tensor(self, data: Any, dtype: Any = None, device: Any = None, requires_grad: Any = False) -> Tensor:
        return self._new(np.array(data), dtype, requires_grad)

    # --- transposes --------------------------------------------------------------------------------------------------

    @property
    def T(self) -> Tensor:
        return self.permute(*reversed(range(self.raw.ndim)))

    @property
    def mT(self) -> Tensor:
        return self.transpose(-2, -1)

    # --- Python ------------------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[Any, Any]) -> Tensor:
        if self.grad_fn is not None:
            raise GradError("deepcopy: only leaf tensors can be copied deeply; use .detach().clone() for the values")
        if id(self) in memo:
            return memo[id(self)]
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        Tensor.__init__(twin, self.array.copy())
        twin._requires_grad = self._requires_grad
        if self.grad is not None:
            twin.grad = copy.deepcopy(self.grad, memo)
        return twin

    def __repr__(self) -> str:
        return format_tensor(self)

    def __getattr__(self, name: str) -> Any:
        """Reached only where Python finds nothing: torch code deserves better than a bare AttributeError."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnsupportedError(
            f"Tensor.{name}: minires tensors have no such attribute or method; if torch has it, compose it from those that "
            "`help(minires.Tensor)` lists, or work on .detach().numpy()"
        )


def parse_to(*args: Any, **kwargs: Any) -> tuple[Any, Any, bool]:
    """The arguments of `.to()` as (dtype or None, device or None, whether to copy always).

    Raises:
        ArgumentError: an argument that is none of a dtype, a device, a tensor or torch's flags.
    """
    target_dtype, target_device = kwargs.pop("dtype", None), kwargs.pop("device", None)
    copy_always = bool(kwargs.pop("copy", False))
    kwargs.pop("non_blocking", None)
    kwargs.pop("memory_format", None)  # the layout in memory is the kernels' private matter
    if kwargs:
        raise ArgumentError(
            f"to: unknown argument {next(iter(kwargs))!r}; known: dtype, device, copy, non_blocking, memory_format"
        )
    for argument in args:
        if isinstance(argument, Tensor):
            target_dtype, target_device = argument.dtype, argument.device
        elif isinstance(argument, (device, str)) and not isinstance(argument, type):
            target_device = argument
        elif isinstance(argument, bool):
            continue  # non_blocking, copy by position
        elif argument is not None:
            target_dtype = as_dtype(argument)
    return target_dtype, target_device, copy_always


def _size(size: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size


def _no_format(tensor: Tensor, spec: str) -> str:
    raise ShapeError(
        f"format: a tensor of shape {tensor.raw.shape} cannot be formatted as {spec!r}; use .item() on one element"
    )


variable.tensor_type = Tensor
