"""The linker of one object file: the same addresses that LLVM's would write, and a refusal of everything else."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import random
import struct
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")

from minires.kernels.cpu import elf, machine_code, tasks
from minires.kernels.cpu.elf import NotLinkableError, link

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="elf.py links for Linux on x86-64"
)

# A table that is read by index, a call of another function of the file, and one of the process': every form of address.
CODE = """
target triple = "x86_64-unknown-linux-gnu"
@table = private constant [4 x i64] [i64 3, i64 1, i64 4, i64 1]
@where = private constant [2 x ptr] [ptr getelementptr (i8, ptr @table, i64 16), ptr @table]
declare ptr @memset(ptr, i32, i64)
define i64 @digit(i64 %i) noinline {
    %p = getelementptr [4 x i64], ptr @table, i64 0, i64 %i
    %v = load i64, ptr %p
    ret i64 %v
}
define i64 @through(i64 %i) noinline {
    %q = getelementptr [2 x ptr], ptr @where, i64 0, i64 %i
    %p = load ptr, ptr %q
    %v = load i64, ptr %p
    ret i64 %v
}
define i64 @kernel(i64 %i, ptr %memory) {
    %a = call i64 @digit(i64 %i)
    %b = call i64 @through(i64 0)
    %c = call ptr @memset(ptr %memory, i32 7, i64 100)
    %s = mul i64 %a, 10
    %t = add i64 %s, %b
    ret i64 %t
}
"""


@pytest.fixture(scope="module")
def code() -> bytes:
    return machine_code.assemble(CODE)


def call(address: int, i: int) -> tuple[int, np.ndarray]:
    memory = np.zeros(101, np.uint8)
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
    return function(i, memory.ctypes.data), memory


def test_linked_code_reads_its_tables_and_calls(code: bytes) -> None:
    address = link(code, "kernel")
    for i, digit in enumerate((3, 1, 4, 1)):
        result, memory = call(address, i)
        assert result == 10 * digit + 4
        assert (memory[:100] == 7).all()
        assert memory[100] == 0


def test_other_functions_of_the_file_are_found(code: bytes) -> None:
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(link(code, "digit"))(2) == 4
    with pytest.raises(NotLinkableError, match="no function nothing"):
        link(code, "nothing")


def test_code_cannot_be_written_to(code: bytes) -> None:
    link(code, "kernel")
    memory, hold = elf._linked[-1]
    base = ctypes.addressof(hold)
    with open("/proc/self/maps", encoding="ascii") as maps:
        rights = [
            line.split()[1]
            for line in maps
            if int(line.split("-")[0], 16) <= base < int(line.split()[0].split("-")[1], 16)
        ]
    assert len(rights) == 1
    assert rights[0].startswith("r-x")
    assert len(memory) > 0


def test_kernels_of_the_set_are_linked_here_and_agree_with_llvms(monkeypatch: pytest.MonkeyPatch) -> None:
    from minires.kernels.cpu.layout import Blocked

    task = next(t for t in tasks.standing if t.function.__name__ == "_unblock")
    x = np.random.default_rng(0).standard_normal((2, 19, 5, 3)).astype(np.float32)
    Blocked.from_plain(x).to_plain()  # the driver and the other tasks are there
    for linker in (link, _refuse):
        monkeypatch.setattr(machine_code, "link", linker)
        monkeypatch.setattr(task, "_address", 0)
        here, llvms = len(elf._linked), len(machine_code._engines)
        np.testing.assert_array_equal(Blocked.from_plain(x).to_plain(), x)
        assert (len(elf._linked) - here, len(machine_code._engines) - llvms) == ((1, 0) if linker is link else (0, 1))


def _refuse(code: bytes, symbol: str) -> int:
    raise NotLinkableError("not today")


def _with(code: bytes, place: int, form: str, value: int) -> bytes:
    changed = bytearray(code)
    struct.pack_into(form, changed, place, value)
    return bytes(changed)


def test_what_this_linker_does_not_know_is_refused(code: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (b"", b"\x7fELF", code[:100], code[: len(code) // 2], b"MZ" + code[2:]):
        with pytest.raises(NotLinkableError):
            link(bad, "kernel")
    for place, form, value in ((4, "<B", 1), (5, "<B", 2), (16, "<H", 3), (18, "<H", 183), (40, "<Q", 1 << 60)):
        with pytest.raises(NotLinkableError):
            link(_with(code, place, form, value), "kernel")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotLinkableError, match="only Linux"):
        link(code, "kernel")


def test_a_relocation_of_another_kind_is_refused(code: bytes) -> None:
    table, count = struct.unpack_from("<Q", code, 40)[0], struct.unpack_from("<H", code, 60)[0]
    sections = [elf._Section(*elf._SECTION.unpack_from(code, table + 64 * i)) for i in range(count)]
    relocations = next(s for s in sections if s.type == elf._RELOCATIONS and sections[s.info].type == 1)
    _, what, _ = elf._RELOCATION.unpack_from(code, relocations.offset)
    with pytest.raises(NotLinkableError, match="of type 2"):
        link(_with(code, relocations.offset + 8, "<Q", what & ~0xFFFFFFFF | 2), "kernel")
    with pytest.raises(NotLinkableError, match="outside of its section"):
        link(_with(code, relocations.offset, "<Q", 1 << 40), "kernel")
    with pytest.raises(NotLinkableError, match="not there"):
        link(_with(code, relocations.offset + 8, "<Q", 1 << 48 | 1), "kernel")


def test_an_unknown_function_of_the_process_is_refused() -> None:
    text = CODE.replace("@memset", "@nobody_has_this_function")
    with pytest.raises(NotLinkableError, match="nobody knows nobody_has_this_function"):
        link(machine_code.assemble(text), "kernel")


def test_damage_is_refused_or_harmless_but_never_a_crash(code: bytes) -> None:
    """Linking alone: the cache's checksum sees to it that no damaged code runs."""
    rng = random.Random(0)
    for _ in range(500):
        damaged = bytearray(code)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        before = len(elf._linked)
        with contextlib.suppress(NotLinkableError):
            link(bytes(damaged), "kernel")
        del elf._linked[before:]


def test_a_process_whose_kernels_are_compiled_loads_neither_numba_nor_llvm() -> None:
    code = """
import sys
import numpy as np, minires
net = minires.models.build("resnet8", num_classes=4, in_channels=1, image_size=8, width=4).eval()
plan = minires.compile(net, (1, 1, 8, 8), kernels="cpu")
print(plan(np.ones((1, 1, 8, 8), np.float32)).shape)
print([name for name in ("numba", "llvmlite.binding") if name in sys.modules])
"""
    for _ in range(2):  # the first compiles what is not there yet
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(1, 4)", "[]"]
