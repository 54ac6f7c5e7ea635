"""Reads what torch.save wrote, without torch and without running anything.

    tree = read_torch_file("resnet18-f37072fd.pth")        # {"conv1.weight": array, ...}

The zip form (torch 1.6 and later) is a zip whose members are stored as they are, so `unzip` shows all of it:

    resnet18/data.pkl       a pickle: the nesting; tensors say which storage they view (see `torch_tensors`)
    resnet18/byteorder      "little" or "big"; absent in older files: little
    resnet18/data/0 ...     the storages: bare elements, one after another
    resnet18/version ...    not needed to read it

The legacy form is one stream, from torch 0.1 to 1.5, and `_use_new_zipfile_serialization=False` since:

    pickle    0x1950a86a20f9469cfc6c, the magic number        80 02 8a 0a 6c fc 9c 46 f9 20 6a a8 50 19 2e
    pickle    1001, the version                               80 02 4d e9 03 2e
    pickle    {"little_endian": True, ...}, of the machine that wrote it; the elements are little-endian in any case
    pickle    the nesting
    pickle    ["94347687350160", ...], the keys of the storages in the order in which they follow
    then for each of them an int64, its number of elements, and the elements

Pickles go through `pickle_reader`, which cannot import or call anything of the file's choosing. What a file claims is
compared with the bytes it has before memory is taken for it. Everything that is wrong is one CheckpointError; there is
no other, laxer way to read, and no switch for one. CRC-32s of the zip are checked, except that 0 counts as "not
computed": that is what torch writes after `torch.serialization.set_crc32_options(False)`.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from minires.dtypes import as_dtype
from minires.errors import CheckpointError, DTypeError
from minires.io.messages import shorten
from minires.io.pickle_reader import PickleReader, Placeholder
from minires.io.sniff import describe_file
from minires.io.torch_tensors import TensorBuilder, is_class_id, storage_id
from minires.io.zip_directory import open_zip
from minires.tensor import Tensor

__all__ = ["Placeholder", "as_tensors", "is_torch_file", "read_torch_file"]

MAX_BYTES = 16 << 30
MAX_PICKLE = 256 << 20  # bytes of the pickle in a zip
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
MAGIC = b"\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little") + b"."  # as every protocol from 2 on writes it
_LOCAL_HEADER = struct.Struct("<4s2xHH16xHH")  # signature, flags, method, lengths of the name and of the extra field


def read_torch_file(path: str | os.PathLike[str] | IO[bytes], *, max_bytes: int = MAX_BYTES) -> Any:
    """Read a checkpoint of torch, of the zip form or the legacy form.

    Args:
        path: a file name, or a binary file object, read from where it stands.
        max_bytes: the most memory its tensors may take together.

    Returns:
        The saved tree: dicts, lists, tuples, sets, numbers, strings, bytes, None as they are (OrderedDict stays one;
        defaultdict becomes dict, torch.Size becomes tuple). Tensors and Parameters are arrays, writable, with torch's
        strides; those that share a storage share memory, and identical ones are one array. bfloat16 and float8 become
        float32. Everything else, such as argparse.Namespace, NumPy scalars, torch.float32 or a whole nn.Module, is a
        `Placeholder`, whose `args` and `state` hold what was inside.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, forged, or no file of torch.save; the message says which file and why.
    """
    with _opened(path) as (file, name):
        return _TorchFile(name, file, max_bytes).read()


def is_torch_file(head: bytes, file: IO[bytes]) -> bool:
    """Whether a file that begins with `head` (16 bytes are enough) is, by its looks, one of torch.save's two forms."""
    if head[:4] == b"PK\x03\x04":
        with contextlib.suppress(zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError):
            return any(n.endswith("/data.pkl") for n in open_zip(file).namelist())
        return False
    return MAGIC in head[:15]


def as_tensors(tree: Any) -> Any:
    """The tree of `read_torch_file` with Tensors in place of its arrays, also inside Placeholders; changed in place.

    None of them requires grad, Parameters included: it is what `torch.load` gives for a state dict. Arrays of dtypes
    that tensors do not have (uint16, complex64, ...) stay arrays.
    """
    done: dict[int, Any] = {}
    placeholders: list[Placeholder] = []

    def convert(value: Any) -> Any:
        # Each shared value once: what was tied stays so, and sharing costs no time. `check_nesting` bounds the recursion.
        kind = type(value)
        if kind not in (np.ndarray, dict, OrderedDict, list, tuple, Placeholder):
            return value
        if id(value) not in done:
            kept_alive.append(value)
            done[id(value)] = value
            if kind is np.ndarray:
                with contextlib.suppress(DTypeError):
                    as_dtype(value.dtype)
                    done[id(value)] = Tensor(value)
            elif kind is tuple:
                items = []
                for item in value:
                    items.append(convert(item))
                done[id(value)] = tuple(items)
            elif kind is Placeholder:
                placeholders.append(value)
            else:
                for key in range(len(value)) if kind is list else list(value):
                    value[key] = convert(value[key])
        return done[id(value)]

    kept_alive: list[Any] = []
    tree = convert(tree)
    while placeholders:  # a loop, since these may be nested without bound
        one = placeholders.pop()
        one.args, one.state, one.contents = convert(one.args), convert(one.state), convert(one.contents)
    return tree


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str] | IO[bytes]) -> Iterator[tuple[IO[bytes], str]]:
    if isinstance(path, (str, os.PathLike)):
        name = os.fspath(path)
        if os.path.isdir(name):
            raise CheckpointError(f"read_torch_file: {name} is a folder, not a checkpoint file")
        if not os.path.exists(name):
            raise FileNotFoundError(f"read_torch_file: there is no file {name}")
        with open(name, "rb") as file:
            yield file, name
        return
    name = str(getattr(path, "name", "<file object>"))
    if isinstance(path, io.BytesIO | io.BufferedReader) and path.seekable() and path.tell() == 0:
        yield path, name
        return
    content = path.read()  # a pipe cannot seek, and the places in a file count from where it begins
    if not isinstance(content, bytes):
        raise CheckpointError("read_torch_file: the file object is in text mode; open it with mode 'rb'")
    yield io.BytesIO(content), name


class _TorchFile:
    """One file: what it is, then its containers from the outside in."""

    def __init__(self, name: str, file: IO[bytes], max_bytes: int) -> None:
        self.where, self.file, self.max_bytes = f"read_torch_file: {name}", file, max_bytes
        self.size = file.seek(0, os.SEEK_END)
        self.taken = 0  # bytes of memory for tensors

    def bad(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {shorten(what)}")

    def read(self) -> Any:
        self.file.seek(0)
        head = self.file.read(512)
        self.file.seek(0)
        try:
            if head[:4] == b"PK\x03\x04":
                return self._read_zip()
            if head[257:262] == b"ustar":
                raise self.bad("a tar archive, the form of torch 0.1; load it with torch and save it again")
            if head[:1] == b"\x80":
                return self._read_legacy()
        except zipfile.BadZipFile as error:
            raise self.bad(f"a zip that is cut short or damaged ({error}); use another copy") from None
        except MemoryError:
            raise self.bad("there is not enough memory for its tensors") from None
        except (ValueError, NotImplementedError, OverflowError, IndexError, struct.error) as error:
            raise self.bad(f"damaged: {type(error).__name__}: {error}") from None
        raise self.bad(describe_file(head, self.size))

    def take(self, count: int) -> None:
        """Count memory for tensors, before it is taken."""
        self.taken += count
        if self.taken > self.max_bytes:
            raise self.bad(f"its tensors need more than max_bytes = {self.max_bytes:,}")

    def _storage(self, count: int) -> np.ndarray:
        """The next `count` bytes of the file, which are known to be there."""
        self.take(count)
        raw = np.empty(count, np.uint8)
        done = 0
        while done < count:
            got = self.file.readinto(memoryview(raw.data)[done:])  # type: ignore[attr-defined]
            if not got:
                raise self.bad("cut short while it was read")
            done += got
        return raw

    def _builder(self, fetch: Callable[[str, int], np.ndarray], big_endian: bool) -> TensorBuilder:
        return TensorBuilder(fetch, big_endian, self.take, self.size)

    # --- the zip form ------------------------------------------------------------------------------------------------

    def _read_zip(self) -> Any:
        with open_zip(self.file) as archive:
            infos = archive.infolist()
        self._check_members(infos)
        members = {info.filename: info for info in infos}
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise self.bad(f"a zip with {len(pickles)} members FOLDER/data.pkl; torch.save writes one")
        root = pickles[0][: -len("data.pkl")]
        if f"{root}constants.pkl" in members:
            raise self.bad("a TorchScript program, not a checkpoint; in torch, save torch.jit.load(FILE).state_dict()")
        order = b"little"
        if f"{root}byteorder" in members:
            order = self._record(members[f"{root}byteorder"], 16).tobytes()
        if order not in (b"little", b"big"):
            raise self.bad(f"{root}byteorder is {order!r}; it must be little or big")

        def fetch(key: str, nbytes: int) -> np.ndarray:
            info = members.get(f"{root}data/{key}")
            if info is None:
                raise ValueError(f"there is no member {root}data/{key}")
            if info.file_size != nbytes:
                raise ValueError(f"{info.filename} has {info.file_size} bytes, the pickle says {nbytes}")
            return self._record(info, nbytes)

        builder = self._builder(fetch, order == b"big")
        content = self._record(members[pickles[0]], MAX_PICKLE).tobytes()
        where = f"{self.where}: {pickles[0]}"
        stream = io.BytesIO(content)
        tree = PickleReader(
            stream, len(content), where, builder.construct(), builder.persistent, extra=self.size
        ).load()
        if stream.tell() != len(content):
            raise self.bad(f"{pickles[0]} goes on after its end")
        return tree

    def _check_members(self, infos: list[zipfile.ZipInfo]) -> None:
        """What torch writes is stored, once, under plain names; anything else is somebody's trick."""
        names = set()
        for info in infos:
            name = info.orig_filename  # zipfile cuts filename at a NUL
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise self.bad(f"{name!r} is compressed; torch stores its records as they are, others are not read")
            if info.flag_bits & 1:
                raise self.bad(f"{name!r} is encrypted")
            if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/") or ":" in name[:2]:
                raise self.bad(f"{name!r} is not a plain name of a member")
            if name in names:
                raise self.bad(f"two members have the name {name!r}")
            names.add(name)
        # So that members that lie over one another cannot multiply the file.
        if sum(info.file_size for info in infos) > self.size:
            raise self.bad("its members claim more bytes than the file has")

    def _record(self, info: zipfile.ZipInfo, cap: int) -> np.ndarray:
        """One member's bytes, read past zipfile: into memory of their exact size, and with torch's rule for CRCs."""
        if info.file_size > cap:
            raise self.bad(f"{info.filename} has {info.file_size:,} bytes, more than the {cap:,} that belong there")
        self.file.seek(info.header_offset)
        header = self.file.read(_LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size, b"\0")
        signature, flags, method, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        name = self.file.read(name_length)
        if signature != b"PK\x03\x04" or method != 0 or flags & 1 or name != info.orig_filename.encode("utf-8"):
            raise self.bad(f"{info.filename}: the header before its data is not that of the directory")
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if start + info.file_size > self.size:
            raise self.bad(f"{info.filename} reaches over the end of the file")
        self.file.seek(start)
        raw = self._storage(info.file_size)
        if info.CRC not in (0, zlib.crc32(raw.data)):
            raise self.bad(f"{info.filename} is damaged: its CRC-32 does not fit. Use another copy")
        return raw

    # --- the legacy form ---------------------------------------------------------------------------------------------

    def _pickle(self, what: str, builder: TensorBuilder | None = None, persistent: Any = None) -> Any:
        construct = builder.construct() if builder else None
        left = self.size - self.file.tell()
        return PickleReader(self.file, left, f"{self.where}: {what}", construct, persistent, extra=self.size).load()

    def _read_legacy(self) -> Any:
        number = self._pickle("magic number")
        if type(number) is not int or number != MAGIC_NUMBER:
            raise self.bad(describe_file(b"\x80\x02", self.size))
        version = self._pickle("version")
        if type(version) is not int or version != LEGACY_VERSION:
            raise self.bad(f"its version is not {LEGACY_VERSION}")
        self._pickle("system")
        # The elements come last. So the nesting is read twice: once to learn which storages there are, then for good.
        start = self.file.tell()
        sizes: dict[str, int] = {}
        widths: dict[str, int] = {}

        def note(pid: Any) -> Any:
            if is_class_id(pid):
                return pid[1]
            key, dtype, nbytes, _ = storage_id(pid)
            if sizes.setdefault(key, nbytes) != nbytes:
                raise ValueError(f"storage {key!r} has two sizes, {sizes[key]} and {nbytes} bytes")
            widths[key] = nbytes // pid[4] if pid[4] else 1
            return Placeholder("torch", dtype)

        self._pickle("nesting", None, note)
        order = self._pickle("storage keys")
        if type(order) is not list or any(type(key) is not str for key in order) or set(order) != set(sizes):
            raise self.bad("the list of storages does not have the keys that its tensors name")
        if len(order) != len(sizes):
            raise self.bad("the list of storages has a key twice")
        storages: dict[str, np.ndarray] = {}
        for key in order:
            left = self.size - self.file.tell() - 8
            if left < sizes[key]:
                raise self.bad(f"cut short: storage {key!r} has {sizes[key]} bytes, {max(left, 0)} are left")
            (count,) = struct.unpack("<q", self.file.read(8))
            if count * widths[key] != sizes[key]:
                raise self.bad(f"storage {key!r} has {count} elements, the pickle says {sizes[key] // widths[key]}")
            storages[key] = self._storage(sizes[key])
        self.file.seek(start)
        builder = self._builder(lambda key, nbytes: storages[key], big_endian=False)
        return self._pickle("nesting", builder, builder.persistent)
