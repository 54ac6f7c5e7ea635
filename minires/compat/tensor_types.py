"""torch's older ways of making and naming tensors: `torch.Tensor(2, 3)`, `torch.LongTensor([1, 2])`, `Variable(x)`.

`minires.Tensor(array)` wraps an array; `torch.Tensor(...)` takes sizes or data and always makes a tensor of its own in the
default dtype. So `torch.Tensor` is a stand-in for the class: calling it does what torch's does, everything else
(`isinstance`, `==`, attributes, methods) is minires.Tensor's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires import creation, dtypes
from minires.errors import ArgumentError, DTypeError, UnsupportedError
from minires.tensor import Size, Tensor


class _TensorType(type):
    """The class of `torch.Tensor` and `torch.FloatTensor`: types that make and recognise minires tensors."""

    dtype: Any  # None: any of them (and the default one for what is made)

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _TensorType:
        if any(isinstance(base, mcs) for base in bases):
            raise UnsupportedError(
                f"class {name}: subclasses of torch.Tensor are not supported by minires; keep the tensor in an attribute"
            )
        return super().__new__(mcs, name, bases, namespace)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor) and cls.dtype in (None, instance.dtype)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return subclass is cls or (cls.dtype is None and issubclass(subclass, Tensor))

    def __eq__(cls, other: object) -> bool:
        return other is cls or (cls.dtype is None and other is Tensor)

    def __hash__(cls) -> int:
        return hash(Tensor) if cls.dtype is None else id(cls)

    def __call__(cls, *args: Any, device: Any = None) -> Tensor:
        """Sizes -> zeros (torch: whatever the memory holds); a list, an array or a tensor -> its values, copied."""
        wanted = cls.dtype or dtypes.get_default_dtype()
        if not args:
            return creation.zeros(0, dtype=wanted, device=device)
        if all(isinstance(a, (int, np.integer)) and not isinstance(a, bool) for a in args):
            return creation.zeros(*args, dtype=wanted, device=device)
        if len(args) == 1 and isinstance(args[0], Size):
            return creation.zeros(*args[0], dtype=wanted, device=device)
        if len(args) == 1 and isinstance(args[0], (Tensor, np.ndarray, list, tuple)):
            return creation.tensor(args[0], dtype=wanted, device=device)
        raise ArgumentError(
            f"{cls.__name__}: expected sizes (whole numbers) or one list, array or tensor, got "
            f"{', '.join(type(a).__name__ for a in args)}; use torch.tensor(value) for a single number"
        )

    def __getattr__(cls, name: str) -> Any:
        return getattr(Tensor, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        setattr(Tensor, name, value)  # `torch.Tensor.my_method = ...` gives every tensor the method

    def __dir__(cls) -> list[str]:
        return dir(Tensor)


def _tensor_type(name: str, dtype: Any) -> _TensorType:
    return _TensorType(name, (), {"dtype": dtype, "__module__": "torch"})


# What the stand-in names torch.Tensor's own attribute `dtype` would be is a property of instances: nobody asks the class.
TENSOR_TYPES: dict[str, Any] = {
    "Tensor": _tensor_type("Tensor", None),
    "FloatTensor": _tensor_type("FloatTensor", dtypes.float32),
    "DoubleTensor": _tensor_type("DoubleTensor", dtypes.float64),
    "HalfTensor": _tensor_type("HalfTensor", dtypes.float16),
    "LongTensor": _tensor_type("LongTensor", dtypes.int64),
    "IntTensor": _tensor_type("IntTensor", dtypes.int32),
    "ShortTensor": _tensor_type("ShortTensor", dtypes.int16),
    "CharTensor": _tensor_type("CharTensor", dtypes.int8),
    "ByteTensor": _tensor_type("ByteTensor", dtypes.uint8),
    "BoolTensor": _tensor_type("BoolTensor", dtypes.bool_),
}


class _VariableType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor)

    def __call__(cls, data: Any, requires_grad: bool = False, volatile: bool = False) -> Tensor:
        if not isinstance(data, Tensor):
            raise ArgumentError(f"Variable: data must be a tensor, got {type(data).__name__}")
        if volatile:
            raise UnsupportedError(
                "Variable: volatile=True was taken out of torch in version 0.4; use `with torch.no_grad():`"
            )
        result = data.detach()
        return result.requires_grad_() if requires_grad else result


class Variable(metaclass=_VariableType):
    """torch.autograd.Variable: since torch 0.4 the same as a tensor. `Variable(x)` is x without its history."""


class finfo:
    """torch.finfo(dtype): the limits of a floating dtype."""

    def __init__(self, type: Any = None) -> None:
        wanted = dtypes.get_default_dtype() if type is None else dtypes.as_dtype(type)
        if not wanted.is_floating_point:
            raise DTypeError(f"finfo: type must be a floating dtype, got {wanted}; use torch.iinfo")
        limits = np.finfo(wanted.numpy)
        self.dtype, self.bits = wanted.name, limits.bits
        self.eps, self.min, self.max = float(limits.eps), float(limits.min), float(limits.max)
        self.tiny = self.smallest_normal = float(limits.tiny)
        self.resolution = float(limits.resolution)


class iinfo:
    """torch.iinfo(dtype): the limits of an integer dtype."""

    def __init__(self, type: Any) -> None:
        wanted = dtypes.as_dtype(type)
        if wanted.numpy.kind not in "iu":
            raise DTypeError(f"iinfo: type must be an integer dtype, got {wanted}; use torch.finfo")
        limits = np.iinfo(wanted.numpy)
        self.dtype, self.bits, self.min, self.max = wanted.name, limits.bits, int(limits.min), int(limits.max)


class memory_format:
    """torch.channels_last and its siblings: accepted where they do not change values, for layout is a kernel set's matter."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"torch.{self.name}"


def set_default_tensor_type(t: Any) -> None:
    """The default dtype by the name of a tensor type: `torch.DoubleTensor`, or "torch.DoubleTensor"."""
    if isinstance(t, str):
        t = TENSOR_TYPES.get(t.removeprefix("torch."), t)
    if not isinstance(t, _TensorType) or t.dtype is None:
        raise UnsupportedError(
            f"torch.set_default_tensor_type: t must be torch.FloatTensor, DoubleTensor or HalfTensor, got {t!r}; "
            "use torch.set_default_dtype(torch.float64) and torch.device('cpu')"
        )
    dtypes.set_default_dtype(t.dtype)
