"""JSON from files that others made: read strictly, and for no more memory than was agreed on.

Python's parser builds whatever it is given: three bytes, `[],`, become a list of 64. So the text is looked over first:
its strings are left out, what remains is counted, and only a text whose values fit the budget is parsed. What the parser
is lax about is refused: a key that occurs twice, NaN and Infinity.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["SPACE", "STRING", "no_constants", "no_duplicates", "parse_json"]

# Possessive, and to the end where a quote is missing: one pass, whatever the text.
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
SPACE = re.compile(rb"[ \t\r\n]+")

BUDGET = 40_000_000  # bytes that text and values may take
# Bytes that each of these stands for at most, in CPython 3.11 to 3.14: a list; an object of one entry; its key and their
# place in a table; one more value. Measured by tracemalloc over texts of nothing else.
_COST = {b"[": 90, b"{": 260, b":": 120, b",": 70}


def parse_json(data: bytes, *, extra: int = 0) -> Any:
    """The values of a JSON text in UTF-8.

    Args:
        data: the text.
        extra: bytes that may be taken beyond 40 MB, for texts that come with a large file.

    Raises:
        ValueError: it is not JSON, has a key twice, NaN or Infinity, is nested too deeply or would take too much memory.
    """
    wide = 1 if data.isascii() else 4  # one character outside of the first 65,536 makes all of a string so wide
    bare = STRING.sub(b"", data)
    cost = 2 * wide * len(data) + sum(bare.count(sign) * each for sign, each in _COST.items())
    if cost > BUDGET + extra:
        raise ValueError(f"its {len(data):,} bytes of JSON hold more values than belong there")
    del bare
    try:
        text = data.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constants)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json's object_pairs_hook: a key that occurs twice is an error, where Python takes the last."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a JSON object has a key twice")
    return result


def no_constants(text: str) -> Any:
    """For json's parse_constant: NaN and Infinity are not JSON."""
    raise ValueError(f"{text[:20]} is not JSON")
