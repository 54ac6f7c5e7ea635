"""What a pickle may contain for `pickle_reader`: plain data, the few harmless calls that make some, and placeholders.

Each function stands for one call that pickles write for a value that has no opcode of its own; it gets the arguments as
the file has them, and raises ValueError when they are not those that a pickler writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

__all__ = ["Placeholder", "check_nesting"]

MAX_DEPTH = 100  # of dicts, lists and tuples in one another
MAX_TUPLE_KEYS = 5_000  # their hash is public arithmetic, so colliding ones can be computed
HASH_MODULUS = (1 << 61) - 1  # integers that differ by it have the same hash
MAX_UNFOLDED = 5_000_000  # values, counting a shared one wherever it occurs


class Placeholder:
    """Something of a pickle that is not plain data: a class or function by name, or what calling it would have given.

    Attributes:
        module, name: as the file has them, for instance "argparse", "Namespace".
        args: None for the bare name; the tuple of arguments where the file calls it (keyword arguments, which only
            protocol 4 has, come last, as a dict).
        state: what the file would set on the object: for most a dict of its attributes.
        contents: values appended, or (key, value) pairs set, where the object is a kind of list or dict.
    """

    __slots__ = ("args", "contents", "module", "name", "state")

    def __init__(self, module: str, name: str, args: tuple[Any, ...] | None = None) -> None:
        self.module, self.name, self.args = module, name, args
        self.state: Any = None
        self.contents: list[Any] = []

    def __repr__(self) -> str:  # shallow: the file decides what is inside
        return f"<Placeholder {self.module}.{self.name}{'' if self.args is None else '(...)'}>"


def decode_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")  # as pickle writes text: lone surrogates are legal in it


def brief(key: Any) -> str:
    return repr(key) if type(key) is not str or len(key) < 80 else f"{key[:80]!r}..."


def make_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    return {}  # the factory, a function, is left out


def make_bytes(args: tuple[Any, ...]) -> bytes:
    if args:
        raise ValueError("bytes() is called with arguments")
    return b""


def make_bytearray(args: tuple[Any, ...]) -> bytearray:
    if args and (len(args) != 1 or type(args[0]) is not bytes):  # bytearray(10**12) would take that much
        raise ValueError("bytearray is made from something that is not bytes")
    return bytearray(*args)


def encode(args: tuple[Any, ...]) -> bytes:
    if len(args) != 2 or type(args[0]) is not str or args[1] != "latin1":
        raise ValueError("_codecs.encode is called with something other than (text, 'latin1')")
    return args[0].encode("latin1")


def make_complex(args: tuple[Any, ...]) -> complex:
    if len(args) != 2 or {type(part) for part in args} != {float}:
        raise ValueError("complex is made from something other than two floats")
    return complex(*args)


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    else:
        yield from value


def check_nesting(root: Any) -> None:
    """Refuse trees that would overrun those who walk them: too deep, cyclic, or sharing so much that they explode.

    Placeholders may be part of cycles (a module and its hooks know each other); what hangs on each is a tree of its own.
    """
    nested = (dict, OrderedDict, list, tuple, set, frozenset)
    done: dict[int, tuple[int, int]] = {}  # container -> (height, number of values when unfolded)
    roots: list[Any] = [[root]]
    seen: set[int] = set()
    kept_alive: list[Any] = []  # an id is unique only while its owner lives
    while roots:
        first = roots.pop()
        kept_alive.append(first)
        path: list[list[Any]] = [[first, _children(first), 0, 1]]
        on_path = {id(first)}
        while path:
            frame = path[-1]
            for child in frame[1]:
                kind = type(child)
                frame[3] += 1
                if kind is Placeholder and id(child) not in seen:
                    seen.add(id(child))
                    roots.append([child.args, child.state, child.contents])
                elif kind in nested and child:
                    if id(child) in on_path:
                        raise ValueError(f"a {kind.__name__} contains itself")
                    if id(child) not in done:
                        if len(path) > MAX_DEPTH:
                            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
                        path.append([child, _children(child), 0, 1])
                        on_path.add(id(child))
                        break
                    frame[2] = max(frame[2], done[id(child)][0])
                    frame[3] += done[id(child)][1]
            else:
                path.pop()
                on_path.discard(id(frame[0]))
                height, count = frame[2] + 1, frame[3]
                done[id(frame[0])] = (height, count)
                if height + len(path) > MAX_DEPTH + 1:
                    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
                if count > MAX_UNFOLDED:
                    raise ValueError(f"its parts are shared so often that it unfolds to over {MAX_UNFOLDED:,} values")
                if path:
                    path[-1][2] = max(path[-1][2], height)
                    path[-1][3] += count
