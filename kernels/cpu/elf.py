"""A linker for one object file: all that a compiled kernel needs to run.

LLVM's linker would do, and does where this one cannot; but it comes with LLVM, some 50 ms and as many MB for a process that only
runs what another has compiled. And our object files ask for very little: they are compiled for any distance between code and
data (LLVM's large model, in which an address is a 64-bit number in the code), so to link one is

    copy its sections that take part at run time into one piece of memory
    for each relocation (where, symbol, addend):   word at `where` = address of symbol + addend
    make the memory executable, and no longer writable

A symbol that the file does not define (memset is the only one so far) is looked up in the process.

Sources: System V ABI, edition 4.1, chapter 4 (sections, symbols, relocations), with the AMD64 supplement 1.0, table 4.9.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from typing import Any, NamedTuple

__all__ = ["NotLinkableError", "link"]


class NotLinkableError(Exception):
    """The file is nothing for this linker, or this system nothing for it: LLVM's can try."""


class _Section(NamedTuple):
    """Elf64_Shdr."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int  # of relocations: their symbols; of symbols: their names
    info: int  # of relocations: the section that they change
    align: int
    entry: int


_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")  # name, kind, visibility, section, value, size
_RELOCATION = struct.Struct("<QQq")  # offset, symbol << 32 | type, addend
_WORD = struct.Struct("<Q")
_IDENTITY = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_RELOCATABLE, _AMD64, _R_X86_64_64 = 1, 62, 1
_SYMBOLS, _RELOCATIONS, _NO_BITS, _UNWIND = 2, 4, 8, 0x70000001
_ALLOC, _WRITE = 2, 1
_UNDEFINED = 0

_linked: list[Any] = []  # memory that holds code stays as it is to the end of the process


def link(code: bytes, symbol: str) -> int:
    """The address of the function `symbol` of an object file; it stays valid.

    Raises:
        NotLinkableError: another system or processor; a file with more than this linker knows; no such function.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotLinkableError("only Linux on x86-64")
    try:
        return _link(code, symbol)
    except (struct.error, IndexError, OverflowError, ValueError, OSError) as error:
        raise NotLinkableError(f"damaged, or no memory for code: {error}") from error


def _link(code: bytes, symbol: str) -> int:
    identity, kind, processor, _, _, _, table, _, _, _, _, entry, count, _ = _HEADER.unpack_from(code)
    if not identity.startswith(_IDENTITY) or (kind, processor, entry) != (_RELOCATABLE, _AMD64, _SECTION.size):
        raise NotLinkableError("no object file of an x86-64")
    sections = [_Section(*_SECTION.unpack_from(code, table + i * entry)) for i in range(count)]
    places, size = _layout(code, sections)
    memory = mmap.mmap(-1, max(size, 1))
    hold = ctypes.c_char.from_buffer(memory)
    base = ctypes.addressof(hold)
    for i, place in places.items():
        section = sections[i]
        if section.type != _NO_BITS:
            memory[place : place + section.size] = code[section.offset : section.offset + section.size]
    addresses = _Addresses(code, sections, {i: base + place for i, place in places.items()})
    for section in sections:
        if section.type == _RELOCATIONS and section.info in places:
            _relocate(code, section, memory, places[section.info], sections[section.info].size, addresses)
    found = addresses.named(symbol)
    _protect(base, len(memory))
    _linked.append((memory, hold))
    return found


def _layout(code: bytes, sections: list[_Section]) -> tuple[dict[int, int], int]:
    """Where each section that takes part at run time goes, and how much memory they take together."""
    places: dict[int, int] = {}
    end = 0
    for i, section in enumerate(sections):
        if not section.flags & _ALLOC or section.type == _UNWIND or not section.size:
            continue  # nothing is thrown through a kernel, so nobody unwinds it
        if section.flags & _WRITE:
            raise NotLinkableError("data that is written to")
        if section.type != _NO_BITS and section.offset + section.size > len(code):
            raise NotLinkableError("a section behind the end of the file")
        align = max(section.align, 1)
        places[i] = end = -(-end // align) * align
        end += section.size
        if align > mmap.PAGESIZE or end > 1 << 30:
            raise NotLinkableError("sections out of all proportion")
    return places, end


class _Addresses:
    """The symbols of the file."""

    def __init__(self, code: bytes, sections: list[_Section], placed: dict[int, int]) -> None:
        self._code, self._placed = code, placed
        self._table = next((s for s in sections if s.type == _SYMBOLS), None)
        if self._table is None:
            raise NotLinkableError("no symbols")
        self._names = sections[self._table.link]
        self._process = ctypes.CDLL(None)

    def at(self, number: int) -> int:
        """The address of symbol `number`."""
        assert self._table is not None  # __init__ has looked
        if not 0 <= number < self._table.size // _SYMBOL.size:
            raise NotLinkableError("a relocation by a symbol that is not there")
        name, _, _, section, value, _ = _SYMBOL.unpack_from(self._code, self._table.offset + number * _SYMBOL.size)
        if section == _UNDEFINED:
            return self._outside(self._text(name))
        if section not in self._placed:
            raise NotLinkableError("a symbol outside of the sections")
        return self._placed[section] + int(value)

    def named(self, wanted: str) -> int:
        """The address of the symbol of this name, which the file must define."""
        assert self._table is not None
        for number in range(self._table.size // _SYMBOL.size):
            name, _, _, section, _, _ = _SYMBOL.unpack_from(self._code, self._table.offset + number * _SYMBOL.size)
            if section in self._placed and self._text(name) == wanted:
                return self.at(number)
        raise NotLinkableError(f"no function {wanted}")

    def _text(self, start: int) -> str:
        start += self._names.offset
        return self._code[start : self._code.index(b"\0", start)].decode(errors="replace")

    def _outside(self, name: str) -> int:
        try:
            found = ctypes.cast(getattr(self._process, name), ctypes.c_void_p).value
        except AttributeError:
            found = None
        if not found:
            raise NotLinkableError(f"nobody knows {name}")
        return found


def _relocate(code: bytes, section: _Section, memory: Any, place: int, size: int, addresses: _Addresses) -> None:
    """Write the addresses into the section that lies at `place` of `memory`."""
    for start in range(section.offset, section.offset + section.size, _RELOCATION.size):
        where, what, addend = _RELOCATION.unpack_from(code, start)
        if what & 0xFFFFFFFF != _R_X86_64_64:
            raise NotLinkableError(f"a relocation of type {what & 0xFFFFFFFF}")
        if where + _WORD.size > size:
            raise NotLinkableError("a relocation outside of its section")
        _WORD.pack_into(memory, place + where, addresses.at(what >> 32) + addend & (1 << 64) - 1)


def _protect(base: int, size: int) -> None:
    """From now on the memory is read and executed, and not written to."""
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if mprotect(base, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "mprotect: memory may not become code here")
