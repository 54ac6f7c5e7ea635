"""minires' own container: nested Python values with tensors in them, saved without pickle. `load` reads others' too.

    archive.save({"model": model.state_dict(), "epoch": 3}, "last.ckpt")
    state = archive.load("last.ckpt")

A file is an ordinary zip, uncompressed, that any tool opens:

    tree.json           the nesting; each tensor or array is a number
    arrays/0.npy ...    NumPy's own format, one file an array

Reading never runs code from the file: JSON gives the nesting, `.npy` headers are literals, and pickles are refused.
What a header claims (shape, dtype) is compared with the bytes that are there *before* memory is taken, and zip's
CRC-32 covers every byte.

Kept: dict, OrderedDict, list, tuple, str, int, float (NaN and infinities too), bool, None, Tensor, Parameter, ndarray;
keys that are not strings; ties: an object that occurs twice, and tensors over the same memory (a tied weight in a
state dict), come back so. Not kept: overlapping views that are not the whole array (each is saved in full), tuple and
dict subclasses, gradients.
"""

from __future__ import annotations

import io
import json
import math
import os
import tokenize
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import numpy as np

from minires.errors import CheckpointError, UnsupportedError
from minires.io.files import write_atomically
from minires.io.json_text import parse_json
from minires.io.messages import shorten
from minires.io.npz import is_npz, load_npz, read_elements, read_npy_header
from minires.io.pickle_values import HASH_MODULUS, MAX_TUPLE_KEYS
from minires.io.safetensors import is_safetensors, load_file
from minires.io.sniff import describe_file
from minires.io.torch_file import as_tensors, is_torch_file, read_torch_file
from minires.io.zip_directory import open_zip
from minires.tensor import Tensor

__all__ = ["load", "save"]

FORMAT = "minires-archive"
VERSION = 1
TREE = "tree.json"
MAX_DEPTH = 200  # of nesting; JSON's parser recurses, so deeper files would end in a RecursionError


def save(obj: Any, path: str | os.PathLike[str] | IO[bytes]) -> None:
    """Write `obj` to `path`, atomically, or to an open binary file.

    Args:
        obj: nested dicts, lists and tuples of numbers, strings, None, Tensors and arrays.
        path: a file name (an older file there survives any failure) or a writable binary file object.

    Raises:
        UnsupportedError: a value of another type; the message names where it stands and what to save instead.
    """
    writer = _Writer()
    tree = writer.encode(obj, "obj", 0)  # before the file is touched: an unsupported value must not cost anything
    if isinstance(path, (str, os.PathLike)):
        with write_atomically(path) as file:
            writer.write(tree, file)
    else:
        buffer = io.BytesIO()  # zip wants to seek; a pipe or a socket cannot
        writer.write(tree, buffer)
        path.write(buffer.getvalue())


def load(path: str | os.PathLike[str] | IO[bytes], map_location: Any = None, weights_only: bool = True) -> Any:
    """Read what `save` wrote, what torch.save did (`minires.io.torch_file` says what becomes of what), a safetensors
    file or an .npz: the first bytes say which it is.

    Args:
        path: a file name or a readable binary file object.
        map_location: where the tensors shall live, as in torch: None or "cpu" leave them in main memory, another device
            moves them there. Functions and dicts, torch's older forms, can only mean "not where they were": main
            memory.
        weights_only: accepted so that calls written for torch run. Both values do the same: nothing is ever unpickled.

    Returns:
        The same nesting, with Tensors over freshly read, writable memory.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, cut short, or of another kind; the message says what it is.
    """
    del weights_only
    if isinstance(path, (str, os.PathLike)):
        name = os.fspath(path)
        if Path(name).is_dir():
            raise CheckpointError(f"load: {name} is a folder, not a checkpoint file")
        try:
            with open(name, "rb") as file:
                obj = _Reader(name, file).read()
        except FileNotFoundError:
            raise FileNotFoundError(f"load: there is no file {name}") from None
    else:
        content = path.read()
        if not isinstance(content, bytes):
            raise CheckpointError("load: the file object is in text mode; open it with mode 'rb'")
        obj = _Reader(str(getattr(path, "name", "<file object>")), io.BytesIO(content)).read()
    if map_location is None or callable(map_location) or isinstance(map_location, dict) or str(map_location) == "cpu":
        return obj
    return _to_device(obj, map_location)


class _Writer:
    """Turns values into JSON nodes and collects the arrays."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self.tensors: list[dict[str, Any]] = []
        self._array_numbers: dict[Any, int] = {}
        self._tensor_numbers: dict[int, int] = {}
        self._keep_alive: list[Any] = []  # ids and addresses stay unique only while their owners live

    def encode(self, value: Any, where: str, depth: int) -> Any:
        """One value as JSON: scalars and lists as they are, everything else as a dict with one key, its kind."""
        if depth > MAX_DEPTH:
            raise UnsupportedError(f"save: {where[:80]}... is nested deeper than {MAX_DEPTH} levels (a cycle?)")
        if isinstance(value, (np.bool_, np.integer, np.floating)):
            value = value.item()  # a NumPy scalar comes back as Python's own number
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, Tensor):
            return {"tensor": self._tensor_number(value)}
        if isinstance(value, np.ndarray):
            return {"array": self._array_number(value, where)}
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}  # JSON has no NaN
        if isinstance(value, dict):
            kind = "ordered_dict" if isinstance(value, OrderedDict) else "dict"
            return {kind: [self._pair(key, item, where, depth) for key, item in value.items()]}
        if isinstance(value, tuple):
            return {"tuple": [self.encode(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]}
        if isinstance(value, list):
            return [self.encode(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
        raise UnsupportedError(
            f"save: {where} is a {type(value).__name__}, which an archive cannot hold; {_instead(value)}"
        )

    def _pair(self, key: Any, item: Any, where: str, depth: int) -> list[Any]:
        if isinstance(key, (Tensor, np.ndarray, dict, list)):
            raise UnsupportedError(
                f"save: {where} has a key of type {type(key).__name__}; use numbers, strings or tuples"
            )
        return [self.encode(key, f"{where} key", depth + 1), self.encode(item, f"{where}[{key!r}]", depth + 1)]

    def _tensor_number(self, tensor: Tensor) -> int:
        if id(tensor) not in self._tensor_numbers:
            self._keep_alive.append(tensor)
            self._tensor_numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(
                {
                    "array": self._array_number(np.asarray(tensor.detach().cpu().array), "tensor"),
                    "requires_grad": bool(tensor.requires_grad),
                    "parameter": type(tensor).__name__ == "Parameter",
                }
            )
        return self._tensor_numbers[id(tensor)]

    def _array_number(self, array: np.ndarray, where: str) -> int:
        if array.dtype.kind not in "biufc":
            raise UnsupportedError(
                f"save: {where} is an array of dtype {array.dtype}; only numbers and booleans are kept"
            )
        key = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str)
        if key not in self._array_numbers:
            self._keep_alive.append(array)
            self._array_numbers[key] = len(self.arrays)
            self.arrays.append(array)
        return self._array_numbers[key]

    def write(self, tree: Any, file: IO[bytes]) -> None:
        """Lay the zip down. Fixed dates: the same content gives the same bytes."""
        table = [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in self.arrays]
        document = {"format": FORMAT, "version": VERSION, "arrays": table, "tensors": self.tensors, "tree": tree}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(TREE), json.dumps(document, allow_nan=False, indent=1))
            for number, array in enumerate(self.arrays):
                with archive.open(zipfile.ZipInfo(_member(number)), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


class _Reader:
    """Checks a file from the outside in: kind, zip directory, tree, then each array; all faults become
    CheckpointError.
    """

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name, self.file = name, file
        self.tuple_keys = 0

    def _bad(self, what: str) -> CheckpointError:
        return CheckpointError(f"load: {self.name}: {shorten(what)}")

    def read(self) -> Any:
        head = self.file.read(512)
        size = self.file.seek(0, os.SEEK_END)
        self.file.seek(0)
        if is_torch_file(head, self.file):
            self.file.seek(0)
            return as_tensors(read_torch_file(self.file))
        self.file.seek(0)
        if is_safetensors(head):
            return as_tensors(load_file(self.file))
        if not head.startswith(b"PK"):
            raise self._bad(describe_file(head, size))
        try:
            with open_zip(self.file) as archive:
                return self._read_zip(archive, size)
        except CheckpointError:
            raise
        except zipfile.BadZipFile as error:
            if "CRC" in str(error):
                raise self._bad(
                    f"damaged: {error}. Its bytes changed after it was written; use another copy"
                ) from error
            raise self._bad(f"a zip that is cut short or damaged ({error}); use another copy") from error
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            EOFError,
            OverflowError,
            NotImplementedError,
            RuntimeError,
            MemoryError,  # also Python's parser, of too complex a literal
            SyntaxError,
            tokenize.TokenError,  # NumPy's header reader, of a literal that never closes
            zlib.error,
        ) as error:
            raise self._bad(f"damaged: {type(error).__name__}: {error}") from error

    def _read_zip(self, archive: zipfile.ZipFile, size: int) -> Any:
        members = archive.infolist()
        names = [member.filename for member in members]
        if TREE not in names and is_npz(names):
            return as_tensors(load_npz(self.file))
        if TREE not in names:
            raise self._bad(describe_file(b"PK", size, names))
        if len(set(names)) != len(names):
            raise self._bad("damaged: two members of the zip have the same name")
        # What is read is never larger than the file: that bounds the memory a hostile file can ask for.
        if sum(member.file_size for member in members) > size:
            raise self._bad("damaged: a member claims more bytes than the file has")
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise self._bad("a member is packed by another method than deflate")
        with archive.open(TREE) as member:  # no more than it claims, whatever a compressed one would unpack to
            document = parse_json(member.read(archive.getinfo(TREE).file_size), extra=size // 2)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise self._bad(f"{TREE} does not say it is a {FORMAT}")
        if document.get("version") != VERSION:
            raise self._bad(
                f"format version {document.get('version')!r}; this minires reads version {VERSION}. Install a newer one"
            )
        self.arrays = [self._read_array(archive, number, row) for number, row in enumerate(document["arrays"])]
        self.tensors = [self._tensor(row) for row in document["tensors"]]
        return self._decode(document["tree"])

    def _read_array(self, archive: zipfile.ZipFile, number: int, row: dict[str, Any]) -> np.ndarray:
        info = archive.getinfo(_member(number))
        with archive.open(info) as member:
            shape, fortran, dtype = read_npy_header(member)
            if dtype.kind not in "biufc":
                raise self._bad(f"{info.filename} holds dtype {dtype}; only numbers and booleans are read")
            if [dtype.str, list(shape)] != [row["dtype"], row["shape"]]:
                raise self._bad(
                    f"damaged: {info.filename} is {dtype.str} {shape}, {TREE} says {row['dtype']} {row['shape']}"
                )
            if math.prod(shape) * dtype.itemsize != info.file_size - member.tell():
                raise self._bad(
                    f"damaged: {info.filename} has {info.file_size} bytes, too few or too many for shape {shape}"
                )
            flat = read_elements(member, info.file_size - member.tell(), dtype)
        return flat.reshape(shape, order="F" if fortran else "C")

    def _tensor(self, row: dict[str, Any]) -> Tensor:
        array = self.arrays[_index(row["array"])]
        if row["parameter"]:
            from minires.nn import Parameter  # only files that hold one need the layers' room

            return Parameter(Tensor(array), requires_grad=bool(row["requires_grad"]))
        return Tensor(array, requires_grad=bool(row["requires_grad"]))

    def _decode(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._decode(item) for item in node]
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        if kind == "tensor":
            return self.tensors[_index(content)]
        if kind == "array":
            return self.arrays[_index(content)]
        if kind == "tuple":
            return tuple(self._decode(item) for item in content)
        if kind == "dict":
            return {self._key(key): self._decode(item) for key, item in content}
        if kind == "ordered_dict":
            return OrderedDict((self._key(key), self._decode(item)) for key, item in content)
        if kind == "float" and content in ("nan", "inf", "-inf"):
            return float(content)
        raise self._bad(f"damaged: {TREE} holds an unknown kind of value, {kind!r}")

    def _key(self, node: Any) -> Any:
        """A key: of a kind whose hashes a file cannot make collide, since n keys of one hash take n * n / 2 comparisons."""
        key = self._decode(node)
        parts = key if type(key) is tuple else (key,)
        self.tuple_keys += type(key) is tuple
        if len(parts) > 8 or self.tuple_keys > MAX_TUPLE_KEYS or tuple in map(type, parts):
            raise ValueError(f"a tuple as a key, nested, longer than 8, or the {MAX_TUPLE_KEYS + 1:,}th")
        if any(type(part) is int and abs(part) >= HASH_MODULUS for part in parts):
            raise ValueError("an integer of more than 61 bits as a key")
        return key


def _member(number: int) -> str:
    return f"arrays/{number}.npy"


def _index(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:  # -1 would be Python's last element
        raise ValueError(f"{number!r} is not the number of an array")
    return number


def _instead(value: Any) -> str:
    """What to save in place of an object of a type that is not kept."""
    if hasattr(value, "state_dict"):
        return "save its .state_dict() and load it with .load_state_dict()"
    if hasattr(value, "__dict__") and type(value).__name__ == "Namespace":
        return "save vars(...) of it, a dict"
    return "save numbers, strings, lists, dicts, tensors or arrays made from it"


def _to_device(obj: Any, device: Any) -> Any:
    if isinstance(obj, Tensor):
        return obj.to(device)
    if isinstance(obj, dict):
        return type(obj)((key, _to_device(item, device)) for key, item in obj.items())
    if isinstance(obj, (list, tuple)):
        return type(obj)(_to_device(item, device) for item in obj)
    return obj
