"""How torch's checkpoints describe tensors: storages, dtypes and views.

A tensor in a checkpoint is a call in the pickle,

    _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)

where `storage` is a persistent id, `("storage", FloatStorage, "0", "cpu", 12)`: the 12 float32 with key "0", whose bytes
lie elsewhere in the file. Element (i, j) of the tensor is element `offset + i stride[0] + j stride[1]` of the storage.
Transposed and channels-last tensors, tied weights and slices are nothing but that; so they come out as NumPy views of
one array.

NumPy lacks some of torch's dtypes. bfloat16 is the upper half of a float32: its bits are shifted left by 16. float8 is
looked up in `narrow_floats`. Both become float32, which holds every one of their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from minires.io.narrow_floats import FLOAT8, widen_bfloat16
from minires.io.pickle_reader import Construct, Placeholder

__all__ = ["STORAGE_DTYPES", "TensorBuilder"]

STORAGE_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",  # the dtype comes with each tensor
}
_PLAIN = {name: np.dtype(name) for name in STORAGE_DTYPES.values() if name != "bfloat16"}
_PLAIN |= {name: np.dtype(name) for name in ("uint16", "uint32", "uint64")}
_MODULES = ("torch", "torch.cuda", "torch.storage")
SPARE = 4 << 20  # bytes that copies may take beyond what follows from the file's size; see `_copied` and `_decode`


def itemsize(dtype: str) -> int:
    """Bytes an element of torch's dtype of that name takes in a file."""
    if dtype in _PLAIN:
        return _PLAIN[dtype].itemsize
    if dtype == "bfloat16":
        return 2
    if dtype in FLOAT8:
        return 1
    raise ValueError(f"tensors of dtype {dtype} are not read")


def is_class_id(pid: Any) -> bool:
    """Whether a persistent id is ("module", class, file, source): how the legacy form writes a layer's class."""
    return type(pid) is tuple and len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Placeholder


def storage_id(pid: Any) -> tuple[str, str, int, Any]:
    """Checks a persistent id; returns its key, dtype's name, number of bytes, and view (legacy form; else None)."""
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
        raise ValueError("a persistent id that is not that of a storage")
    kind, key, _, count = pid[1:5]
    if type(kind) is not Placeholder or kind.args is not None or kind.module not in _MODULES:
        raise ValueError("a storage whose class is not one of torch's")
    if kind.name not in STORAGE_DTYPES:
        raise ValueError(f"a storage of kind {kind.name} is not read")
    if type(key) is not str or len(key) > 100:
        raise ValueError("a storage whose key is not a short text")
    if type(count) is not int or count < 0:
        raise ValueError(f"storage {key!r} has a size that is not a count of elements")
    dtype = STORAGE_DTYPES[kind.name]
    return key, dtype, count * itemsize(dtype), pid[5] if len(pid) == 6 else None


class TensorBuilder:
    """Turns the pickle's storages and rebuild calls into arrays; all that is not right is a ValueError.

    Args:
        fetch: gives the bytes of a storage, from its key and its number of bytes, as a uint8 array; it has checked that
            the file has them.
        big_endian: whether the file was written on a big-endian machine.
        take: told of every byte of memory before it is taken; may refuse.
        size: bytes of the whole file, which bound what may be made of them.
    """

    def __init__(
        self, fetch: Callable[[str, int], np.ndarray], big_endian: bool, take: Callable[[int], None], size: int
    ) -> None:
        self.fetch, self.take = fetch, take
        self.copies_left = size + SPARE
        self.decoded_left = 4 * size + SPARE
        self.order: Literal["<", ">"] = ">" if big_endian else "<"
        self._raw: dict[str, np.ndarray] = {}
        self._typed: dict[tuple[int, str], np.ndarray] = {}  # (id of the bytes, dtype) -> flat array
        self._bytes: dict[int, np.ndarray] = {}  # id of a flat array -> its bytes
        self._slices: dict[tuple[str, int, int], np.ndarray] = {}
        self._views: dict[Any, np.ndarray] = {}

    def construct(self) -> Construct:
        """The table for PickleReader."""
        return {
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor_v2,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_v3,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self._parameter,
            ("torch._tensor", "_rebuild_from_type_v2"): self._from_type,
            ("torch", "Size"): _size,
        }

    def persistent(self, pid: Any) -> Any:
        """The storage of a persistent id, as a flat array."""
        if is_class_id(pid):
            return pid[1]
        key, dtype, nbytes, view = storage_id(pid)
        if key not in self._raw:
            self._raw[key] = self.fetch(key, nbytes)
        raw = self._raw[key]
        if raw.size != nbytes:
            raise ValueError(f"storage {key!r} has {raw.size} bytes, the pickle says {nbytes}")
        if view is not None:
            if type(view) is not tuple or len(view) != 3 or {type(n) for n in view[1:]} != {int}:
                raise ValueError(f"storage {key!r} has a malformed view")
            start, stop = (n * itemsize(dtype) for n in (view[1], view[1] + view[2]))
            if not 0 <= start <= stop <= nbytes:
                raise ValueError(f"a view of bytes {start} to {stop} of storage {key!r}, which has {nbytes}")
            raw = self._slices.setdefault((key, start, stop), raw[start:stop])
        return self._flat(raw, dtype)

    def _flat(self, raw: np.ndarray, dtype: str) -> np.ndarray:
        """Bytes as elements: the same memory where NumPy has the dtype."""
        if (id(raw), dtype) not in self._typed:
            flat = self._decode(raw, dtype)
            self._typed[id(raw), dtype] = flat
            self._bytes[id(flat)] = raw
        return self._typed[id(raw), dtype]

    def _decode(self, raw: np.ndarray, dtype: str) -> np.ndarray:
        """Bytes as elements of a NumPy dtype, for `_flat`.

        A file needs each of its storages in one dtype, and none more than four times as large as it is stored; one that
        asks for the same bytes again and again, in other dtypes or from other beginnings, is after the memory.
        """
        raw = raw[: raw.size - raw.size % itemsize(dtype)]
        if dtype == "bool":
            self._decoded(raw.size)
            return raw != 0  # a bool with other bits than 0 and 1 is undefined in NumPy
        if dtype in _PLAIN:
            native = _PLAIN[dtype]
            if native.newbyteorder(self.order) == native:
                return raw.view(native)
            self._decoded(raw.size)
            return raw.view(native.newbyteorder(self.order)).astype(native)
        if dtype == "bfloat16":
            self._decoded(2 * raw.size)
            return widen_bfloat16(raw.view(f"{self.order}u2"))
        self._decoded(4 * raw.size)
        return FLOAT8[dtype]()[raw]

    def _decoded(self, nbytes: int) -> None:
        self.decoded_left -= nbytes
        if self.decoded_left < 0:
            raise ValueError("storages are asked for in more dtypes than the tensors of a checkpoint have")
        self.take(nbytes)

    # --- the calls of the pickle -------------------------------------------------------------------------------------

    def _tensor(self, args: tuple[Any, ...]) -> np.ndarray:
        storage, offset, size, stride = args
        if id(storage) not in self._bytes:
            raise ValueError("a tensor whose storage is not one")
        return self._view(storage, offset, size, stride)

    def _tensor_v2(self, args: tuple[Any, ...]) -> np.ndarray:
        return self._with_bits(self._tensor(args[:4]), args[6:] if len(args) >= 6 else (None,) * 2)

    def _tensor_v3(self, args: tuple[Any, ...]) -> np.ndarray:
        storage, dtype = args[0], args[6]
        if id(storage) not in self._bytes or type(dtype) is not Placeholder or dtype.module != "torch":
            raise ValueError("a tensor whose storage or dtype is not one")
        flat = self._flat(self._bytes[id(storage)], dtype.name)
        return self._with_bits(self._tensor((flat, *args[1:4])), args[7:])

    def _view(self, flat: np.ndarray, offset: Any, size: Any, stride: Any) -> np.ndarray:
        if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride) or len(size) > 32:
            raise ValueError("a tensor's size and stride must be two tuples of one length, at most 32")
        if any(type(n) is not int or not 0 <= n < 1 << 63 for n in (offset, *size, *stride)):
            raise ValueError("a tensor's offset, size and stride must be integers from 0 to 2 ** 63 - 1")
        key = (id(flat), offset, size, stride)
        if key not in self._views:
            self._views[key] = self._new_view(flat, offset, size, stride)
        return self._views[key]  # tied tensors are one array

    def _new_view(self, flat: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
        if 0 in size:
            return np.empty(size, flat.dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= flat.size:
            raise ValueError(f"a tensor reaches to element {last} of a storage of {flat.size}")
        count = flat.dtype.itemsize
        if _may_overlap(size, stride):
            self._copied(math.prod(size) * count)
        view: np.ndarray = np.ndarray(size, flat.dtype, flat, offset * count, tuple(step * count for step in stride))
        return view.copy() if _may_overlap(size, stride) else view

    def _copied(self, nbytes: int) -> None:
        """Expanded tensors (stride 0) are copied, because writing to one element must not change others.

        A file of a few bytes can announce terabytes that way, so all copies together may take what the file itself
        takes, and a little.
        """
        self.copies_left -= nbytes
        if self.copies_left < 0:
            raise ValueError(f"a tensor that repeats its elements up to {nbytes} bytes, far more than the file has")
        self.take(nbytes)

    def _with_bits(self, array: np.ndarray, metadata: tuple[Any, ...]) -> np.ndarray:
        """torch negates and conjugates lazily, by a bit beside the tensor."""
        bits = metadata[0] if metadata else None
        if not bits:
            return array
        if type(bits) is not dict or len(metadata) != 1 or any(type(value) is not bool for value in bits.values()):
            raise ValueError("a tensor with malformed metadata")
        for name, function in (("conj", np.conj), ("neg", np.negative)):
            if bits.get(name):
                self._copied(array.nbytes)
                array = function(array)
        return array

    def _parameter(self, args: tuple[Any, ...]) -> Any:
        if not isinstance(args[0], (np.ndarray, Placeholder)):
            raise ValueError("a parameter whose data is not a tensor")
        return args[0]

    def _from_type(self, args: tuple[Any, ...]) -> Any:
        """A tensor of a subclass, or with attributes: what it was rebuilt from, without them."""
        function, _, inner, _ = args
        if type(function) is Placeholder and type(inner) is tuple and function.name != "_rebuild_from_type_v2":
            ours = self.construct().get((function.module, function.name))
            if ours is not None:
                return ours(inner)
        return Placeholder("torch._tensor", "_rebuild_from_type_v2", args)


def _may_overlap(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether two indices may name one element: false if each stride is longer than all the smaller ones reach."""
    reach = 0
    for step, n in sorted((step, n) for n, step in zip(size, stride, strict=True) if n > 1):
        if step <= reach:
            return True
        reach += (n - 1) * step
    return False


def _size(args: tuple[Any, ...]) -> tuple[int, ...]:
    (sizes,) = args
    if type(sizes) not in (tuple, list) or any(type(n) is not int for n in sizes):
        raise ValueError("torch.Size is made from something that is not a list of integers")
    return tuple(sizes)
