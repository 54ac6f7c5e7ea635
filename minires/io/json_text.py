"""JSON from files that others made: read strictly, and for no more memory than was agreed on.

Python's parser builds whatever it is given: three bytes, `[],`, become a list of 64. So the text is looked over first:
its strings are left out, what remains is counted, and only a text whose values fit the budget is parsed. What the parser
is lax about is refused: a key that occurs twice, NaN and Infinity.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

__all__ = ["memory_of", "no_constants", "no_duplicates", "parse_json", "without_strings"]

BUDGET = 40_000_000  # bytes that text and values may take
# Bytes that each of these stands for at most: a list; an object of one entry; a key and its place in two tables; one more
# value. The test of `memory_of` measures texts of nothing else.
_COST = {b"[": 90, b"{": 250, b":": 250, b",": 150}


def parse_json(data: bytes, *, extra: int = 0) -> Any:
    """The values of a JSON text in UTF-8.

    Args:
        data: the text.
        extra: bytes that may be taken beyond 40 MB, for texts that come with a large file.

    Raises:
        ValueError: it is not JSON, has a key twice, NaN or Infinity, is nested too deeply or would take too much memory.
    """
    if memory_of(data) > BUDGET + extra:
        raise ValueError(f"its {len(data):,} bytes of JSON hold more values than belong there")
    try:
        text = data.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constants)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def memory_of(data: bytes) -> int:
    """Bytes that parsing takes at most."""
    wide = 1 if data.isascii() else 4  # one character outside of the first 65,536 makes all of a text so wide
    bare = without_strings(data)
    return 2 * wide * len(data) + sum(bare.count(sign) * each for sign, each in _COST.items())


def without_strings(data: bytes) -> bytes:
    """A JSON text without its strings and spaces: `[1, {"a": "b"}]` becomes `[1,{:}]`.

    Five bytes of memory for one of the text; a regular expression's `sub` takes a hundred for each string.
    """
    # What is left of quotes then, opens and closes strings. Backslashes outside of strings are no JSON.
    signs = np.frombuffer(data.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    quotes = signs == ord('"')
    inside = np.logical_xor.accumulate(quotes)
    inside |= quotes
    for space in b" \t\r\n":
        inside |= signs == space
    return signs[~inside].tobytes()


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json's object_pairs_hook: a key that occurs twice is an error, where Python takes the last."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a JSON object has a key twice")
    return result


def no_constants(text: str) -> Any:
    """For json's parse_constant: NaN and Infinity are not JSON."""
    raise ValueError(f"{text[:20]} is not JSON")
