"""The constants of an ONNX file: TensorProto to NumPy arrays.

A tensor's numbers lie in one of two forms: `raw_data`, the array's bytes in C order and little-endian; or one of the typed
fields, which hold small types in wider ones:

    float_data    float32
    double_data   float64
    int64_data    int64
    uint64_data   uint64, uint32
    int32_data    int32, int16, int8, uint16, uint8, bool; float16 and bfloat16 as their 16 bits

A third form, in which they lie in another file whose name the tensor gives, is refused: a model must not say which files
are opened. Nothing is decoded before it is asked for, and the bytes are counted before memory is taken.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, message TensorProto.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from minires.errors import CheckpointError
from minires.io.protobuf import Field, Reader, WireError, floats, integer, integers, text

__all__ = ["DTYPE_NAMES", "MAX_NAME", "MAX_SIZE", "OnnxTensor", "read_tensor"]

MAX_NAME = 4096  # bytes
MAX_RANK = 32
MAX_SIZE = 2**40  # of one dimension, far from where products overflow

# TensorProto.DataType; NumPy has those up to bfloat16, without string. The others are known by name only.
DTYPE_NAMES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4",
    23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2", 27: "float6e2m3", 28: "float6e3m2",
}  # fmt: skip

# The typed fields of the message, and the data types that each may hold.
_TYPED = {
    4: ("float_data", ("float32",)),
    5: ("int32_data", ("int32", "int16", "int8", "uint16", "uint8", "bool", "float16", "bfloat16")),
    7: ("int64_data", ("int64",)),
    10: ("double_data", ("float64",)),
    11: ("uint64_data", ("uint64", "uint32")),
}
_READ = [name for _, names in _TYPED.values() for name in names]
_IGNORED = (6, 12, 16)  # string_data, of a type that is not read; doc_string, metadata_props
_EXTERNAL = (
    "its numbers lie in another file, and minires opens none but the one it was given; write them into the model: with "
    "torch.onnx.export(..., external_data=False), or onnx.save(onnx.load(path), new_path)"
)


@dataclass(eq=False, slots=True)
class OnnxTensor:
    """A constant as it lies in the file.

    Attributes:
        name: "" where it has none (a tensor within an attribute).
        dtype: a name of DTYPE_NAMES.
        shape: sizes from 0 to MAX_SIZE, at most MAX_RANK of them.
        raw: raw_data, a view of the file's bytes; None where a typed field has the numbers.
        typed: the pieces of the typed field.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: memoryview | None = None
    typed: list[Field] = field(default_factory=list)

    def array(self) -> np.ndarray:
        """The numbers: bfloat16 as float32, all else as its own dtype; read-only.

        Where no conversion is needed, a view of the file's bytes.

        Raises:
            CheckpointError: a data type that is not read, or numbers that do not fit the type or the shape.
        """
        try:
            return self._array()
        except WireError as error:
            raise CheckpointError(f"onnx: {error}") from None

    def _array(self) -> np.ndarray:
        if self.dtype not in _READ:
            raise WireError(f"{self.what}: constants of type {self.dtype} are not read; known are {', '.join(_READ)}")
        count = math.prod(self.shape)
        if self.raw is not None:
            flat = self._from_raw(self.raw, count)
        else:
            flat = self._from_typed(count)
        if self.dtype == "bfloat16":
            flat = (flat.astype(np.uint32) << np.uint32(16)).view(np.float32)
        try:
            array = flat.reshape(self.shape)
        except ValueError as error:  # of shapes such as (0, 2 ** 40, 2 ** 40)
            raise WireError(f"{self.what}: {error}") from None
        array.flags.writeable = False
        return array

    @property
    def what(self) -> str:
        return f"tensor {self.name!r} of shape {self.shape}" if self.name else f"a tensor of shape {self.shape}"

    def _stored(self) -> np.dtype:
        """The dtype of the bytes."""
        return np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype).newbyteorder("<")

    def _from_raw(self, raw: memoryview, count: int) -> np.ndarray:
        stored = self._stored()
        if len(raw) != count * stored.itemsize:
            raise WireError(
                f"{self.what} and type {self.dtype} needs {count * stored.itemsize:,} bytes, its raw_data has {len(raw):,}"
            )
        if self.dtype == "bool":
            bits = np.frombuffer(raw, np.uint8)
            if bits.size and bits.max() > 1:
                raise WireError(f"{self.what} of type bool holds a byte that is neither 0 nor 1")
            return bits.view(np.bool_)
        return np.frombuffer(raw, stored)

    def _from_typed(self, count: int) -> np.ndarray:
        if self.dtype in ("float32", "float64"):
            pieces = [floats(piece, double=self.dtype == "float64") for piece in self.typed]
        else:
            pieces, left = [], count
            for piece in self.typed:
                pieces.append(self._narrowed(integers(piece, left)))  # not more than the shape says
                left -= len(pieces[-1])
        flat = pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, np.empty(0, self._stored())])
        if len(flat) != count:
            raise WireError(f"{self.what} needs {count:,} numbers, it has {len(flat):,}")
        return flat

    def _narrowed(self, values: np.ndarray) -> np.ndarray:
        """int64 as the dtype that was stored in it; what does not fit is refused."""
        if self.dtype in ("int64", "uint64"):
            return values.view(self.dtype)
        as_bits = self.dtype in ("float16", "bfloat16")
        narrow = np.dtype("uint16" if as_bits else self.dtype)
        low, high = (0, 1) if narrow == np.bool_ else (np.iinfo(narrow).min, np.iinfo(narrow).max)
        if values.size and (int(values.min()) < low or int(values.max()) > high):
            raise WireError(f"{self.what}: a number that {self.dtype} cannot hold")
        narrowed = values.astype(narrow)
        return narrowed.view(np.float16) if self.dtype == "float16" else narrowed


def read_tensor(reader: Reader) -> OnnxTensor:
    """A TensorProto.

    Raises:
        WireError: it is damaged, lies in another file, or is of an unknown form.
    """
    name, data_type, raw, external = "", 0, None, False
    shape: list[int] = []
    typed: dict[int, list[Field]] = {}
    for part in reader:
        match part.number:
            case 1:
                shape.extend(integers(part, MAX_RANK).tolist())
                if len(shape) > MAX_RANK:
                    raise WireError(f"a tensor of more than {MAX_RANK} dimensions")
            case 2:
                data_type = integer(part)
            case 8:
                name = text(part, MAX_NAME)
            case 9:
                raw = part.bytes()
            case 13:
                external = True
            case 14:
                external = external or integer(part) != 0
            case 3:
                raise WireError(f"tensor {name!r} is a segment of one, which nobody writes and minires does not read")
            case number if number in _TYPED:
                typed.setdefault(number, []).append(part)
            case number if number not in _IGNORED:
                raise WireError(f"a tensor has a field {number} that is none of ONNX's")
    dtype = DTYPE_NAMES.get(data_type)
    if dtype is None:
        raise WireError(f"tensor {name!r} has data type {data_type}, which is none of ONNX's")
    tensor = OnnxTensor(name, dtype, tuple(shape), raw)
    if any(not 0 <= size <= MAX_SIZE for size in shape):
        raise WireError(f"{tensor.what}: a size that is none")
    if external:
        raise WireError(f"{tensor.what}: {_EXTERNAL}")
    if len(typed) + (raw is not None) > 1:
        raise WireError(f"{tensor.what} has its numbers in two forms")
    for number, pieces in typed.items():
        kind, dtypes = _TYPED[number]
        if dtype not in dtypes and dtype in _READ:
            raise WireError(f"{tensor.what} is of type {dtype}, but its numbers are in {kind}")
        tensor.typed = pieces
    return tensor
