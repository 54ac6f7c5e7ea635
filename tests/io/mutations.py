"""Damage for the readers' tests: how files are cut, flipped and forged, and what every reader owes for each.

    verdict = survive(load, content)         # "read" or "refused"; anything else fails the test

Whatever the bytes are, a reader gives content or one CheckpointError with a reason: no other kind of error, in about the
time that honest reading takes, for less than 50 MB, and nothing of the file is run or imported.
"""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minires.errors import CheckpointError
from minires.io.pickle_reader import PickleReader

MEGABYTES = 50
LONGEST = 12_000  # characters of a message
FLIPS = (0x01, 0x20, 0x80, 0xFF)


@contextmanager
def heap_set_aside() -> Iterator[None]:
    """Inside, Python's garbage collector leaves alone what the process held before.

    Who makes many objects sets it off again and again, and each time it would go through all that the test process has
    gathered: minutes into a run that takes longer than the reading, and by a factor that honest reading does not show.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def honest_seconds() -> float:
    """Seconds that this thread takes now to read a stream of 100,000 lists; 80 ms where the machine is idle.

    Reading is what a bomb is measured in, because a neighbour on the machine slows what takes memory and what only counts
    by different factors.
    """
    content = b"\x80\x02(" + b"]" * 100_000 + b"t."
    start = time.thread_time()
    PickleReader(io.BytesIO(content), len(content), "honest").load()
    return time.thread_time() - start


def survive(load: Callable[[], Any], allowed: Callable[[Any], bool] = lambda value: True) -> str:
    """Runs `load`: "read" if it gives something that is `allowed`, "refused" if it raises CheckpointError.

    A second is what a file may take; so that a busy neighbour does not count, it is measured in honest reading.
    """
    tracemalloc.start()
    start = time.thread_time()
    value: Any = None
    error: CheckpointError | None = None
    try:
        value = load()
    except CheckpointError as caught:
        error = caught
    finally:
        taken, peak = time.thread_time() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEGABYTES * 1e6, f"{peak / 1e6:.0f} MB"
    if taken > 0.3:  # tracing slows a reader three times
        assert taken < 3 * 12 * max(honest_seconds(), honest_seconds()), f"{taken:.1f} s"
    if error is not None:
        reason = str(error)
        assert type(error) is CheckpointError
        assert 20 < len(reason) < LONGEST, f"a reason of {len(reason)} characters"
        return "refused"
    assert allowed(value)
    return "read"


# --- damage -----------------------------------------------------------------------------------------------------------


def truncations(content: bytes, step: int = 64) -> Iterator[bytes]:
    """Cut behind every 64th byte, and behind each of the first 16 and the last 64."""
    for length in sorted({*range(0, len(content), step), *range(16), *range(max(0, len(content) - 64), len(content))}):
        yield content[:length]


def flips(content: bytes, places: range | list[int], values: tuple[int, ...] = FLIPS) -> Iterator[bytes]:
    """One byte changed: at each place, by each value."""
    for place in places:
        for value in values:
            damaged = bytearray(content)
            damaged[place] ^= value
            yield bytes(damaged)


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(members: dict[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these members, with checksums that fit: the forger's way. A list may have a name twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in members.items() if isinstance(members, dict) else members:
            file.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def zip_headers(content: bytes) -> list[int]:
    """Places of the bytes of a zip that are not members' data: local headers, directory, end."""
    inside: set[int] = set()
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        for info in file.infolist():
            names = struct.unpack("<HH", content[info.header_offset + 26 : info.header_offset + 30])
            start = info.header_offset + 30 + sum(names)
            inside |= set(range(start, start + info.compress_size))
    return [place for place in range(len(content)) if place not in inside]


def resized(content: bytes, name: str, stored: int | None = None, unpacked: int | None = None) -> bytes:
    """A zip whose member claims other sizes, in its own header and in the directory."""
    result = bytearray(content)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        info = file.getinfo(name)
    local = info.header_offset
    central = content.rindex(name.encode()) - 46
    assert content[local : local + 4] == b"PK\3\4"
    assert content[central : central + 4] == b"PK\1\2"
    for place in (local + 18, central + 20):
        if stored is not None:
            result[place : place + 4] = struct.pack("<I", stored)
        if unpacked is not None:
            result[place + 4 : place + 8] = struct.pack("<I", unpacked)
    return bytes(result)


def directory_bomb(count: int, name: bytes = b"archive/data.pkl") -> bytes:
    """A zip that is nothing but a table of members."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, count * len(entry + name), 0, 0)
    return b"PK\3\4" + (entry + name) * count + end


def npy(shape: Any, descr: Any = "<f8", data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """An .npy file whose header says what is wanted."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode().ljust(117) + b"\n"
    width = 2 if version == (1, 0) else 4
    return b"\x93NUMPY" + bytes(version) + len(header).to_bytes(width, "little") + header + data


def safetensors_bytes(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


# --- what would run ---------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.parts

    def __call__(self) -> None:
        """So that pickle takes the result of a call as a function."""


EXTENSION = 0xF0  # a code of pickle's EXT1, which the tests register for `canary_module.x`


def attacks(folder: Path) -> dict[str, bytes]:
    """Pickles that leave a file in `folder` when pickle itself reads them, if `folder` is on sys.path."""
    import functools
    import importlib
    import operator
    import runpy
    import subprocess
    import timeit

    def path(name: str) -> str:
        return str(folder / name)

    def code(name: str) -> str:
        return f"open({path(name)!r}, 'w').close()"

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    calls: dict[str, Any] = {
        "os.system": Call(os.system, f"touch {path('a')}"),
        "exec": Call(exec, code("b")),
        "eval": Call(eval, code("c")),
        "subprocess": Call(subprocess.call, ["touch", path("d")]),
        "bound method": Call((folder / "e").touch),
        "mkdir": Call(os.mkdir, path("f")),
        "partial": Call(functools.partial(exec, code("g"))),
        "result of a call": Call(Call(getattr, Call(importlib.import_module, "os"), "system"), f"touch {path('h')}"),
        "method": Call(operator.methodcaller("touch"), folder / "i"),
        "runpy": Call(runpy.run_path, path("canary_module.py")),
        "timeit": Call(timeit.repeat, code("j"), "pass", time.perf_counter, 1, 1),
        "pickle in a pickle": Call(pickle.loads, pickle.dumps(Call(exec, code("k")), 2)),
        "set of a map": Call(set, Call(map, exec, [code("l")])),
        "key of a dict": {Call(eval, code("m")): 1},
        "state of an object": Call(Path, path("n"), state={"x": Call(eval, code("n"))}),
    }
    argument = text(code("o"))
    # Opcodes as picklers would not put them together.
    return {name: pickle.dumps(attack, 2) for name, attack in calls.items()} | {
        "INST": b"(" + argument + b"i__builtin__\nexec\n.",
        "OBJ": b"(c__builtin__\nexec\n" + argument + b"o.",
        "REDUCE": b"c__builtin__\nexec\n" + argument + b"\x85R.",
        "NEWOBJ": b"\x80\x02cfunctools\npartial\n(c__builtin__\nexec\n" + argument + b"t\x81)R.",
        "NEWOBJ_EX": b"\x80\x04cfunctools\npartial\n(cbuiltins\nexec\n" + argument + b"t}\x92)R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93" + argument + b"\x85R.",
        "BUILD": b"\x80\x02ccopyreg\n_reconstructor\n(cargparse\nNamespace\nc__builtin__\nobject\nNtR}"
        + text("x") + b"c__builtin__\nexec\n" + argument + b"\x85Rsb.",
        "import by GLOBAL": b"\x80\x02ccanary_module\nx\n.",
        "import by INST": b"(icanary_module\nx\n.",
        "import by STACK_GLOBAL": b"\x80\x04\x8c\x0dcanary_module\x8c\x01x\x93.",
        "import by EXT1": b"\x80\x02\x82" + bytes([EXTENSION]) + b".",
    }  # fmt: skip


def lay_canary(folder: Path) -> None:
    """A module whose import leaves a file."""
    (folder / "canary_module.py").write_text("open(__file__ + '.sang', 'w').close()\n")


def sang(folder: Path) -> list[str]:
    """What the attacks have left: everything in the folder but the module that lies in wait."""
    return [entry.name for entry in folder.iterdir() if entry.name not in ("canary_module.py", "__pycache__")]
