"""The pickle reader: plain data comes out as pickle itself gives it, everything else stays inert, and bombs are refused."""

from __future__ import annotations

import argparse
import collections
import io
import math
import pickle
import pickletools
import struct
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minires.errors import CheckpointError
from minires.io import pickle_reader
from minires.io.pickle_reader import PickleReader, Placeholder
from tests.io.mutations import heap_set_aside, honest_seconds

PROTOCOLS = [2, 3, 4, 5]
P = b"\x80\x02"


def read(content: bytes, **options: Any) -> Any:
    return PickleReader(io.BytesIO(content), len(content), "test", **options).load()


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, all the way down; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


keys = (
    st.text(max_size=5)
    | st.integers(-(2**60), 2**60)
    | st.booleans()
    | st.none()
    | st.tuples(st.integers(0, 9), st.text())
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**900), 2**900)
    | st.floats()
    | st.text()
    | st.binary()
    | st.binary().map(bytearray)
    | st.complex_numbers(allow_nan=False)
    | st.frozensets(keys, max_size=3)
    | st.sets(keys, max_size=3)
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4).map(OrderedDict)
    ),
    max_leaves=15,
)


@given(tree=trees, protocol=st.sampled_from(PROTOCOLS))
def test_reader_gives_what_pickle_gives(tree: Any, protocol: int) -> None:
    content = pickle.dumps(tree, protocol)
    assert same(read(content), tree)
    assert same(read(pickletools.optimize(content)), tree)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [list(range(3000)), {i: str(i) for i in range(3000)}, "x" * 70_000, b"y" * 70_000])
def test_reader_reads_long_values_in_every_protocol(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


def test_reader_keeps_identity() -> None:
    """One list twice is one list; so is a Placeholder."""
    shared, options = [1], argparse.Namespace()
    a, b, c, d = read(pickle.dumps([shared, shared, options, options], 2))
    assert a is b
    assert c is d


def test_reader_reads_python_2_strings() -> None:
    assert read(P + b"U\x03abcT\x02\0\0\0de\x86.") == ("abc", "de")


def test_reader_stops_at_the_end_of_one_pickle() -> None:
    stream = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps("second", 2) + b"rest")
    assert PickleReader(stream, 100, "test").load() == [1]
    assert PickleReader(stream, 100, "test").load() == "second"
    assert stream.read() == b"rest"


def test_reader_turns_defaultdict_into_dict() -> None:
    back = read(pickle.dumps(collections.defaultdict(list, {1: [2]}), 2))
    assert type(back) is dict
    assert back == {1: [2]}


def test_reader_keeps_only_the_metadata_of_an_ordered_dict() -> None:
    tree: Any = OrderedDict(a=1)
    tree._metadata, tree.other = {"version": 2}, 7
    back = read(pickle.dumps(tree, 2))
    assert back._metadata == {"version": 2}
    assert list(back.items()) == [("a", 1)]
    assert not hasattr(back, "other")


class MyList(list):  # type: ignore[type-arg]
    pass


class MyDict(dict):  # type: ignore[type-arg]
    pass


class WithKeywords:
    def __new__(cls, *, size: int = 0) -> WithKeywords:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"size": 3}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reader_makes_placeholders_of_what_it_does_not_know(protocol: int) -> None:
    many = MyDict(a=1, b=2)
    many.extra = [7]  # type: ignore[attr-defined]
    content = [argparse.Namespace(lr=0.1, names=["x"]), np.float64(3), len, MyList([1, 2]), many]
    space, scalar, function, items, mapping = read(pickle.dumps(content, protocol))
    assert (space.module, space.name, space.args) == ("argparse", "Namespace", ())
    assert space.state == {"lr": 0.1, "names": ["x"]}
    assert scalar.name == "scalar"
    assert scalar.args[1] == struct.pack("<d", 3)
    assert function.args is None
    assert repr(function) in ("<Placeholder builtins.len>", "<Placeholder __builtin__.len>")
    assert items.contents == [1, 2]
    assert mapping.contents == [("a", 1), ("b", 2)]
    assert mapping.state == {"extra": [7]}


def test_reader_keeps_keyword_arguments_last() -> None:
    assert read(pickle.dumps(WithKeywords(), 4)).args == ({"size": 3},)


def test_reader_allows_cycles_through_placeholders_only() -> None:
    space = argparse.Namespace()
    space.me = [space]
    back = read(pickle.dumps(space, 2))
    assert back.state["me"][0] is back
    cycle: list[Any] = []
    cycle.append((cycle,))
    with pytest.raises(CheckpointError, match=r"a (list|tuple) contains itself"):
        read(pickle.dumps(cycle, 2))


def test_reader_constructs_and_resolves_with_our_functions_only() -> None:
    content = P + b"cm\nf\nK\x05\x85RX\x02\0\0\0idQ\x86."
    table = {("m", "f"): lambda args: ("made", args)}
    assert read(content, construct=table, persistent=lambda pid: pid * 2) == (("made", (5,)), "idid")
    with pytest.raises(CheckpointError, match="a persistent id where none belongs"):
        read(content)


# --- what would run -----------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.parts


def attacks(canary: Path) -> dict[str, Any]:
    """Objects whose unpickling would write `canary`."""
    import os

    code = f"open({str(canary)!r}, 'w').close()"
    return {
        "system": Call(os.system, f"touch {canary}"),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "open": Call(open, str(canary), "w"),
        "nested": Call(Call, Call(getattr, Call(__import__, "os"), "system"), f"touch {canary}"),
        "result called": Call(map, eval, [code]),
        "key": {Call(eval, code): 1},
        "state": Call(Path, str(canary), state={"x": Call(eval, code)}),
        "set": Call(set, Call(map, Call(getattr, Path, "touch"), [canary])),
        "OrderedDict": Call(OrderedDict, Call(zip, Call(map, eval, [code]), [1])),
    }


ATTACKS = sorted(attacks(Path("x")))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ATTACKS)
def test_reader_runs_nothing(tmp_path: Path, name: str, protocol: int) -> None:
    content = pickle.dumps(attacks(tmp_path / "canary")[name], protocol)
    try:
        read(content)
    except CheckpointError as error:
        assert "a set is made from" in str(error) or "OrderedDict is made from" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_reader_attacks_are_real(tmp_path: Path) -> None:
    """The canary sings when pickle itself reads; otherwise the test above would show nothing."""
    for name in ("eval", "exec", "key", "OrderedDict"):
        canary = tmp_path / name
        pickle.loads(pickle.dumps(attacks(canary)[name], 2))
        assert canary.exists()


def test_reader_calls_results_of_calls_by_name_only() -> None:
    back = read(P + b"cm\nf\n)RN\x85R.")
    assert (back.module, back.name) == ("m", "f()")
    assert back.args[0].args == ()
    assert back.args[1] is None


# --- what would take too much -------------------------------------------------------------------------------------------

N = 700_000
BOMBS = {
    "memo index": (P + b"Nr" + struct.pack("<I", 50_000_000) + b".", "memo index 50000000; at most 2,000,000"),
    "lists": (P + b"(" + b"]" * N + b"t.", "needs more than 40,000,000 bytes"),
    "sets": (P + b"(" + b"\x8f" * N + b"t.", "needs more than 40,000,000 bytes"),
    "ordered dicts": (
        P + b"ccollections\nOrderedDict\nq\0(" + b"h\0)R" * N + b"t.",
        "needs more than 40,000,000 bytes",
    ),
    "placeholders": (P + b"ca\nb\nq\0(" + b"h\0)\x81" * N + b"t.", "needs more than 40,000,000 bytes"),
    "names": (P + b"(" + b"ca\nb\n" * N + b"t.", "needs more than 40,000,000 bytes"),
    "marks": (P + b"(" * N + b".", "more than 500,000 opcodes"),
    "memo entries": (P + b"N" + b"\x94" * N + b".", "more than 500,000 opcodes|needs more than 40,000,000 bytes"),
    "deep tuples": (P + b")" + b"\x85" * 150 + b".", "nested deeper than 100 levels"),
    "deep lists": (P + b"]" * 102 + b"a" * 101 + b".", "nested deeper than 100 levels"),
    "very deep": (P + b")" + b"\x85" * N + b".", "needs more than 40,000,000 bytes"),
    "deep in a placeholder": (P + b"ca\nb\n)" + b"\x85" * 150 + b"R.", "nested deeper than 100 levels"),
    "shared doublings": (P + b")q\0" + b"0h\0h\0\x86q\0" * 60 + b".", "unfolds to over 5,000,000 values"),
    "shared key": (P + b"}K\1" + b"q\0h\0\x86" * 60 + b"Ns.", "a tuple as a key, nested"),
    "long text": (P + b"X\xff\xff\xff\x7f.", "a length of 2147483647 bytes; at most 16,777,216"),
    "negative text": (P + b"T\xff\xff\xff\xff.", "a length of -1 bytes"),
    "long bytes": (P + b"\x8e" + b"\xff" * 8 + b".", "a length of 18446744073709551615 bytes"),
    "text beyond the end": (P + b"X\x00\x00\x10\x00abc", "cut short: 1048576 bytes are announced, 3 are left"),
    "big integer": (P + b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".", "a length of 1000000 bytes"),
    "colliding keys": (
        P
        + b"}("
        + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(50_000))
        + b"u.",
        "an integer of more than 61 bits as a key",
    ),
    "tuple keys": (
        P + b"}(" + b"".join(b"M" + struct.pack("<H", k) + b"\x85N" for k in range(9000)) + b"u.",
        "5,001th",
    ),
    "bytearray of a size": (
        pickle.dumps(Call(bytearray, 10**12), 2),
        "bytearray is made from something that is not bytes",
    ),
    "bytes of a size": (pickle.dumps(Call(bytes, 10**12), 2), r"bytes\(\) is called with arguments"),
    "long name": (P + b"c" + b"a" * 10_000 + b"\nb\n.", "a name that does not end within 512 bytes"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_reader_refuses_bombs_quickly_and_cheaply(name: str) -> None:
    content, message = BOMBS[name]
    with heap_set_aside():
        before = honest_seconds()
        start = time.thread_time()
        with pytest.raises(CheckpointError, match=message):
            read(content)
        taken = time.thread_time() - start
        assert taken < 12 * max(before, honest_seconds())  # the worst takes about 4; a second, where one takes 80 ms
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message):
            read(content)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


MALFORMED = {
    b"": "cut short: 1 bytes are announced, 0 are left",
    b"\x80\x09N.": "pickle protocol 9",
    P + b"N": "cut short",
    P + b".": "the stack is empty",
    P + b"NN.": "ends with 1 values too many",
    P + b"(N.": "ends with 0 values too many",
    P + b"(.": "the stack is empty",
    P + b"NR.": "the stack is empty",
    P + b"N(R.": "the stack is empty",
    P + b"q\0.": "the stack is empty",
    P + b"t.": "there is no mark",
    P + b"h\0.": "memo index 0 was never set",
    P + b"Na.": "the stack is empty",
    P + b"NNa.": "values are appended to a NoneType",
    P + b"NNNs.": "keys are set on a NoneType",
    P + b"}(Nu.": "a key without a value",
    P + b"}]Ns.": "a list as a key",
    P + b"}X\1\0\0\0aNsX\1\0\0\0aNs.": "the key 'a' occurs twice in one dict",
    P + b"](N\x90.": "elements are added to a list",
    P + b"(]\x91.": "a list as a key",
    P + b"NN\x86N\x86b.": "the stack is empty",
    P + b"]Nb.": "attributes are set on a list",
    P + b"N)R.": "a call of a NoneType with a tuple",
    P + b"cm\nf\nNR.": "a call of a Placeholder with a NoneType",
    P + b"cm\nf\nNN\x92.": "a call with a NoneType",
    P + b"NN\x93.": "a global whose name is not text",
    P + b"X\1\0\0\0\xff.": "UnicodeDecodeError",
    P + b"c\xff\nf\n.": "UnicodeDecodeError",
    P + b"ccollections\nOrderedDict\nN\x85R.": "OrderedDict is made from something that is not a list of pairs",
    P + b"ccollections\nOrderedDict\nNN\x86R.": "ValueError",
    P + b"c_codecs\nencode\nX\1\0\0\0aX\1\0\0\0b\x86R.": "_codecs.encode is called with something other",
    P + b"cbuiltins\ncomplex\nX\1\0\0\0a\x85R.": "complex is made from something other than two floats",
    P + b"cbuiltins\nset\nN\x85R.": "a set is made from a NoneType",
    P + b"I1\n.": "opcode b'I' is not one that checkpoints need",
    b"\x82\x01.": r"opcode b'\\x82' is not one",
    b"Pid\n.": "opcode b'P' is not one",
    b"(i__main__\nx\n.": "opcode b'i' is not one",
}


@pytest.mark.parametrize("content", MALFORMED)
def test_reader_names_what_is_malformed(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=MALFORMED[content]) as caught:
        read(content)
    assert str(caught.value).startswith("test: byte ")


def test_reader_refuses_every_opcode_outside_its_list() -> None:
    """The list is explicit: these opcodes of pickle are left out, and everything that is no opcode at all."""
    names = {op.code.encode("latin1"): op.name for op in pickletools.opcodes}
    left_out = {name for code, name in names.items() if code not in PickleReader.HANDLERS}
    assert left_out == {
        *(
            "INT",
            "LONG",
            "STRING",
            "UNICODE",
            "FLOAT",
            "LIST",
            "DICT",
            "DUP",
            "GET",
            "PUT",
            "PERSID",
        ),  # protocol 0 and 1
        *("INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"),
        "STOP",  # handled by the loop
    }
    assert set(PickleReader.HANDLERS) < set(names)
    for code in {bytes([i]) for i in range(256)} - set(PickleReader.HANDLERS) - {b"."}:
        with pytest.raises(CheckpointError, match="is not one that checkpoints need"):
            read(P + code + b"N.")


def test_reader_counts_no_array_elements_as_nesting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "MAX_MEMORY", 10_000)
    back = read(P + b"NQ.", persistent=lambda pid: np.zeros(100_000))
    assert back.size == 100_000


def test_reader_counts_entries_of_the_memo(monkeypatch: pytest.MonkeyPatch) -> None:
    content = P + b"N" + b"\x94" * 200 + b"."
    assert read(content) is None
    monkeypatch.setattr(pickle_reader, "MAX_MEMORY", 10_000)
    with pytest.raises(CheckpointError, match="its nesting needs more than 10,000 bytes"):
        read(content)


def test_reader_measures_depth_through_shared_parts() -> None:
    """What was found shallow at its first place may hang deep at its second."""
    tower = P + b"(" + b")" + b"\x85" * 59 + b"q\0" + b"h\0" + b"\x85" * 30 + b"t."
    assert len(read(tower)) == 2
    with pytest.raises(CheckpointError, match="nested deeper than 100 levels"):
        read(tower.replace(b"h\0", b"h\0" + b"\x85" * 30))


def test_reader_survives_every_flipped_byte(tmp_path: Path) -> None:
    """Any byte, any of three changes: a tree or one CheckpointError; nothing else, and nothing runs."""
    tree = [
        {"a": 1, "b": [2.5, "text", b"bytes", 2**70]},
        (None, True),
        {1, 2},
        argparse.Namespace(x=1),
        OrderedDict(c=3),
    ]
    refused = read_back = 0
    for protocol in (2, 4):
        content = pickle.dumps([tree, attacks(tmp_path / "canary")["eval"]], protocol)
        for place in range(len(content)):
            for change in (0x01, 0x5A, 0xFF):
                damaged = bytearray(content)
                damaged[place] ^= change
                try:
                    assert not isinstance(read(bytes(damaged)), BaseException)
                    read_back += 1
                except CheckpointError:
                    refused += 1
    assert refused > 300
    assert read_back > 300
    assert list(tmp_path.iterdir()) == []


@given(content=st.binary(max_size=60), protocol=st.booleans())
def test_reader_gives_a_tree_or_one_error_for_any_bytes(content: bytes, protocol: bool) -> None:
    try:
        read(P + content + b"." if protocol else content)
    except CheckpointError as error:
        assert str(error).startswith("test: byte ")


PIECES = [
    *(
        b"N",
        b"(",
        b")",
        b"]",
        b"}",
        b"t",
        b"\x85",
        b"\x86",
        b"\x87",
        b"a",
        b"e",
        b"s",
        b"u",
        b"R",
        b"\x81",
        b"b",
        b"\x8f",
    ),
    *(
        b"q\0",
        b"h\0",
        b"q\1",
        b"h\1",
        b"K\1",
        b"0",
        b"1",
        b"cm\nf\n",
        b"ccollections\nOrderedDict\n",
        b"cbuiltins\nset\n",
    ),
    *(b"X\1\0\0\0a", b"\x90", b"\x91", b"\x92", b"\x93", b"\x94", b"Q"),
]


@given(opcodes=st.lists(st.sampled_from(PIECES), max_size=40))
def test_reader_gives_a_tree_or_one_error_for_any_program(opcodes: list[bytes]) -> None:
    try:
        back = read(P + b"".join(opcodes) + b".")
    except CheckpointError as error:
        assert str(error).startswith("test: byte ")
    else:
        assert isinstance(back, (type(None), int, str, list, tuple, dict, set, frozenset, Placeholder))
