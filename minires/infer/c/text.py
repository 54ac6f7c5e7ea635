"""Numbers, strings and names as C writes them, and the sections of the C files beside this one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from minires.errors import ArgumentError
from minires.kernels.interface import Array

A_LINE = 12  # numbers in a line of an array
A_CHUNK = 1000 * A_LINE  # numbers that are looked at together
MAX_STRING = 4095  # bytes: C99, 5.2.4.1, what every compiler must take in one string


def number(value: float, dtype: np.dtype[Any]) -> str:
    """A constant of C that has exactly this value: 9 digits tell all float32 apart, 17 all float64.

    >>> number(0.1, np.dtype("float32"))
    '0.100000001f'
    """
    with np.errstate(over="ignore"):  # a limit beyond float32 is infinite there
        value = float(np.asarray(value).astype(dtype))
    if not np.isfinite(value):
        return "NAN" if np.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
    digits, suffix = (9, "f") if dtype == np.float32 else (17, "")
    text = f"{value:.{digits}g}"
    if text == "0":
        return text
    return f"{text}{suffix}" if "." in text or "e" in text else f"{text}.{suffix}"


def numbers(array: Array) -> Iterator[str]:
    """Lines of an array's initialiser, in C order: `0.5f,-1.25f,` and so on."""
    flat, dtype = array.reshape(-1), array.dtype
    pattern = "%.9gf," if dtype == np.float32 else "%.17g,"
    for chunk in (flat[start : start + A_CHUNK] for start in range(0, flat.size, A_CHUNK)):
        # The quick way serves what is written with a point: whole numbers would lack it ("1f" is not C).
        with np.errstate(invalid="ignore"):
            quick = np.isfinite(chunk) & (chunk != np.rint(chunk))
        values, lines = chunk.tolist(), range(0, chunk.size, A_LINE)
        for start, all_quick in zip(lines, np.logical_and.reduceat(quick, lines), strict=True):
            line = values[start : start + A_LINE]
            if all_quick:
                yield pattern * len(line) % tuple(line)
            else:
                yield "".join(f"{number(value, dtype)}," for value in line)


def string(text: str, what: str) -> str:
    r"""A string literal whose bytes are `text` in UTF-8, whatever the compiler's own encoding.

    Bytes that are not plain ASCII are written as three octal digits, which a digit behind them cannot lengthen (as it would
    \x); ? as \?, which ends no trigraph.

    Raises:
        ArgumentError: a NUL, half of a surrogate pair, or more bytes than a string may have.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ArgumentError(f"export_c: {what} is no text that UTF-8 can write, got {text!r}") from None
    if b"\0" in data or len(data) > MAX_STRING:
        raise ArgumentError(
            f"export_c: {what} must have no NUL and at most {MAX_STRING:,} bytes in UTF-8, got {len(data):,} bytes: "
            f"{text[:60]!r}"
        )
    named = {0x22: '\\"', 0x5C: "\\\\", 0x3F: "\\?", 0x0A: "\\n", 0x09: "\\t", 0x0D: "\\r"}
    return '"' + "".join(named.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in data) + '"'


def identifier(name: str) -> str:
    """`name` as the start of C identifiers: letters, digits and underscores, and a letter in front.

    >>> identifier("resnet-18.v2"), identifier("18 layers")
    ('resnet_18_v2', 'net_18_layers')
    """
    clean = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")
    if not clean:
        return "net"
    return clean if clean[0].isalpha() else f"net_{clean}"


@cache
def sections(file: str) -> dict[str, tuple[tuple[str, ...], str]]:
    """Of a C file in this folder: by name, what a section needs and its text."""
    whole = Path(__file__).with_name(file).read_text(encoding="utf-8")
    _, *parts = re.split(r"^/\*= (.*) \*/\n", whole, flags=re.MULTILINE)
    found = {}
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        name, _, needs = head.partition(" needs ")
        found[name] = (tuple(needs.split()), body.strip("\n"))
    return found


def with_needs(file: str, names: Iterable[str]) -> list[str]:
    """The texts of these sections and of all that they need, each once, in the file's order."""
    known = sections(file)
    wanted: set[str] = set()
    open_ = list(names)
    while open_:
        name = open_.pop()
        if name not in wanted:
            wanted.add(name)
            open_.extend(known[name][0])
    return [body for name, (_, body) in known.items() if name in wanted]
