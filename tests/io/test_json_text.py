"""JSON of others: what Python's parser gives, without what it is lax about, and within a budget of memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minires.io.json_text import memory_of, parse_json, without_strings

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(tree=values, ascii_only=st.booleans())
def test_parse_json_gives_what_json_gives(tree: Any, ascii_only: bool) -> None:
    text = json.dumps(tree, ensure_ascii=ascii_only)
    if "\\ud" in text or ascii_only or not any("\ud800" <= c <= "\udfff" for c in text):
        assert parse_json(text.encode()) == tree


def test_parse_json_takes_a_byte_order_mark_and_the_largest_labels() -> None:
    """ImageNet-21k's 21,841 class names, twice, as configurations have them."""
    labels = {str(i): "chickadee, black-capped" for i in range(21_841)}
    tree = {"id2label": labels, "label2id": {f"{name}{i}": i for i, name in labels.items()}}
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(tree, indent=2).encode()) == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "a": 2}', "a JSON object has a key twice"),
        (b'{"a": {"b": NaN}}', "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e999999, 1" + b"0" * 5000 + b"]", "Exceeds the limit"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b"\xff", "can't decode"),
        (b"", "Expecting value"),
        (b'"open', "Unterminated"),
    ],
)
def test_parse_json_refuses(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@given(tree=values, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 3))
def test_without_strings_leaves_the_structure(tree: Any, ascii_only: bool, indent: int | None) -> None:
    def bare(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f":{bare(item)}" for item in value.values()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(bare, value)) + "]"
        return "" if isinstance(value, str) else json.dumps(value)

    text = json.dumps(tree, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    assert without_strings(text).decode() == bare(tree)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (rb'["a\\",[1]]', b"[,[1]]"),
        (rb'["a\\\\",[1]]', b"[,[1]]"),
        (rb'["a\",[1]]', b"["),
        (rb'["a\\\",[1]]', b"["),
        (rb'["a\",[1]"]', b"[]"),
        (b'[ "open, [', b"["),
        (b"", b""),
    ],
)
def test_without_strings_knows_escapes_and_open_strings(text: bytes, left: bytes) -> None:
    assert without_strings(text) == left


# What costs most a byte.
PIECES = {
    "lists": b"[]",
    "objects": b"{}",
    "objects of one": b'{"a":0}',
    "objects of one, other keys": b'{"%07d":0}',
    "lists of one": b"[0]",
    "short texts": b'"ab"',
    "wide texts": '"\U0001f600"'.encode(),
    "escapes": b'"\\ud83d\\ude00"',
    "numbers": b"999",
    "floats": b"1.5",
}


@pytest.mark.parametrize("count", [11_000, 88_000])
@pytest.mark.parametrize("name", [*PIECES, "keys", "one text"])
def test_memory_of_is_no_less_than_what_parsing_takes(name: str, count: int) -> None:
    if name == "keys":
        text = b"{" + b",".join(b'"%05d":0' % i for i in range(count)) + b"}"
    elif name == "one text":
        text = ('"' + "a" * count + '\U0001f600"').encode()
    else:
        piece = PIECES[name]
        text = b"[" + b",".join(piece % i if b"%" in piece else piece for i in range(count)) + b"]"
    tracemalloc.start()
    try:
        parse_json(text, extra=10**9)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < memory_of(text) + 50_000


def test_parse_json_takes_more_for_a_large_file() -> None:
    text = b"[" + b"[]," * 400_000 + b"[]]"
    with pytest.raises(ValueError, match="its 1,200,004 bytes of JSON hold more values than belong there"):
        parse_json(text)
    assert len(parse_json(text, extra=80_000_000)) == 400_001
