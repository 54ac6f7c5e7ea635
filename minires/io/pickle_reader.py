"""A reader of pickles that cannot run anything: it looks at the opcodes and builds plain data from them.

A pickle is a program for a small stack machine. `{"w": [1, 2]}` is these bytes (protocol 2; see `pickletools.dis`):

    80 02                     PROTO 2
    7d 71 00                  EMPTY_DICT; BINPUT 0         push {}, remember it as memo[0]
    58 01 00 00 00 77 71 01   BINUNICODE "w"; BINPUT 1     a four-byte little-endian length, then UTF-8
    5d 71 02 28 4b 01 4b 02   EMPTY_LIST; BINPUT 2; MARK; BININT1 1; BININT1 2
    65 73 2e                  APPENDS (down to the mark); SETITEM; STOP

Two opcodes make a pickle dangerous: GLOBAL imports a name and REDUCE calls it. Here GLOBAL only notes the name, as a
`Placeholder`, and REDUCE looks the name up in a fixed table of functions of our own (`OrderedDict()`, `set([...])`, and
what the caller passes as `construct`); every other call becomes a Placeholder that holds its arguments. Nothing is
imported, and no object of the file is ever called, compared or asked for an attribute.

A file may still try to eat memory or time. So every length is compared with the bytes that are left before it is read,
opcodes are counted, the memory of what they build is added up, memo indices and string lengths have caps, dict keys are
of kinds whose hashes cannot be made to collide, and nesting is measured before anybody recurses into it.

Source: the comments in CPython's Lib/pickletools.py, which describe every opcode.
"""

from __future__ import annotations

import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, ClassVar

import numpy as np

from minires.errors import CheckpointError
from minires.io.messages import shorten
from minires.io.pickle_values import (
    HASH_MODULUS,
    MAX_TUPLE_KEYS,
    Placeholder,
    brief,
    check_nesting,
    decode_text,
    encode,
    make_bytearray,
    make_bytes,
    make_complex,
    make_dict,
)

__all__ = ["Construct", "PickleReader", "Placeholder"]

MAX_OPCODES = 500_000  # about 30 a tensor: 16,000 tensors; 0.5 s
MAX_MEMORY = 40_000_000  # bytes of nesting (not of tensors); about 2.6 kB a tensor
MAX_MEMO = 2_000_000  # the highest memo index; CPython's own reader allocates up to the index before it has anything
MAX_STRING = 16 << 20  # bytes
MAX_INTEGER = 256  # bytes; Python refuses to print integers of more than 4,300 digits
MAX_NAME = 512  # bytes of a module's or a class's name

_MEMO_COST = 80  # bytes of one entry of a dict, measured
_ARRAY_COST = 400  # bytes of an array's shape, strides and entry in a table, without its elements
_NEST_COST = 150  # bytes that `check_nesting` keeps for a container

Construct = Mapping[tuple[str, str], Callable[[tuple[Any, ...]], Any]]


class PickleReader:
    """Reads one pickle from the position of `file`, up to and with its STOP.

    Args:
        file: a binary file. It is left just behind the pickle.
        left: how many bytes it has from here on.
        where: the beginning of error messages, such as "read_torch_file: a.pth: data.pkl".
        construct: our own functions of a tuple of arguments, by the (module, name) that a file calls.
        persistent: our own function of a persistent id, for BINPERSID; without one the opcode is refused.
        extra: bytes of the whole file; large ones may have larger nestings.
    """

    def __init__(
        self,
        file: IO[bytes],
        left: int,
        where: str,
        construct: Construct | None = None,
        persistent: Callable[[Any], Any] | None = None,
        extra: int = 0,
    ) -> None:
        self.file, self.left, self.where, self.length = file, left, where, left
        self.persistent = persistent
        self.construct: dict[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
            ("collections", "OrderedDict"): self._ordered_dict,
            ("collections", "defaultdict"): make_dict,
            ("_codecs", "encode"): encode,  # how protocol 2 writes bytes
        }
        for module in ("builtins", "__builtin__"):  # Python 3's name and Python 2's, which protocol 2 uses
            self.construct[module, "set"] = lambda args: set(self._keys(*args))
            self.construct[module, "frozenset"] = lambda args: frozenset(self._keys(*args))
            self.construct[module, "bytearray"] = make_bytearray
            self.construct[module, "bytes"] = make_bytes
            self.construct[module, "complex"] = make_complex
        self.construct.update(construct or {})
        self.opcodes_left = MAX_OPCODES + extra // 1000
        self.memory_left = MAX_MEMORY + extra // 8
        self.tuple_keys_left = MAX_TUPLE_KEYS
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Returns: the tree of plain data and Placeholders. Raises: CheckpointError, whatever is wrong."""
        try:
            value = self._run()
            if self.stack or self.marks:
                raise self.bad(f"the pickle ends with {len(self.stack)} values too many on its stack")
            self.memo.clear()  # what only the memo held is gone before more memory is taken
            check_nesting(value)
        except (ValueError, TypeError, IndexError, OverflowError, struct.error) as error:
            raise self.bad(f"{type(error).__name__}: {error}") from None
        return value

    def bad(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: byte {self.length - self.left} of the pickle: {shorten(what)}")

    def _run(self) -> Any:
        handlers = self.HANDLERS
        while True:
            code = self._read(1)
            if code == b".":
                return self._pop()
            handler = handlers.get(code)
            if handler is None:
                raise self.bad(f"opcode {code!r} is not one that checkpoints need, and is not run")
            self.opcodes_left -= 1
            if self.opcodes_left < 0:
                raise self.bad(f"more than {MAX_OPCODES:,} opcodes")
            handler(self)

    # --- bytes, stack and budget -------------------------------------------------------------------------------------

    def _read(self, count: int) -> bytes:
        if count > self.left:
            raise self.bad(f"cut short: {count} bytes are announced, {self.left} are left")
        data = self.file.read(count)
        if len(data) != count:
            raise self.bad("cut short while it was read")
        self.left -= count
        return data

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._read(struct.calcsize(layout)))[0]

    def _sized(self, layout: str, cap: int = MAX_STRING) -> bytes:
        """A length, then as many bytes."""
        count = self._number(layout)
        if not 0 <= count <= cap:
            raise self.bad(f"a length of {count} bytes; at most {cap:,} are read")
        self.take(count)
        return self._read(count)

    def _line(self) -> str:
        data = self.file.readline(min(MAX_NAME, self.left))
        self.left -= len(data)
        if not data.endswith(b"\n"):
            raise self.bad(f"a name that does not end within {MAX_NAME} bytes")
        return data[:-1].decode("utf-8")

    def take(self, count: int) -> None:
        """Count `count` bytes of memory against what the pickle may have."""
        self.memory_left -= count
        if self.memory_left < 0:
            raise self.bad(f"its nesting needs more than {MAX_MEMORY:,} bytes of memory, without any tensor")

    def _push(self, value: Any) -> None:
        self.take(sys.getsizeof(value) + 8)
        self.stack.append(value)

    def _push_container(self, value: Any) -> None:
        # An array's elements are counted by those who make it.
        self.take((_ARRAY_COST if isinstance(value, np.ndarray) else sys.getsizeof(value)) + 8 + _NEST_COST)
        self.stack.append(value)

    def _mark(self) -> None:
        self.take(8)
        self.marks.append(len(self.stack))

    def _pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.bad("the stack is empty")
        return self.stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self.bad("there is no mark on the stack")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.bad("the stack is empty")
        return self.stack[-1]

    # --- containers --------------------------------------------------------------------------------------------------

    def _tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._push_container(tuple(reversed(values)))

    def _tuple_to_mark(self) -> None:
        self._push_container(tuple(self._pop_to_mark()))

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is Placeholder:
            target = target.contents
        if type(target) is not list:
            raise self.bad(f"values are appended to a {type(target).__name__}")
        self.take(16 * len(values))
        target.extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        if len(values) % 2:
            raise self.bad("a key without a value")
        self.take((150 if type(target) is OrderedDict else 80) * len(values))  # half as many pairs as values
        pairs = zip(values[::2], values[1::2], strict=True)
        if type(target) is Placeholder:
            target.contents.extend(pairs)
        elif type(target) in (dict, OrderedDict):
            self._fill(target, pairs)
        else:
            raise self.bad(f"keys are set on a {type(target).__name__}")

    def _fill(self, target: dict[Any, Any], pairs: Iterator[tuple[Any, Any]]) -> None:
        for key, value in pairs:
            self._check_key(key)
            if key in target:
                raise self.bad(f"the key {brief(key)} occurs twice in one dict")
            target[key] = value

    def _set_item(self) -> None:
        value = self._pop()
        self._set_items([self._pop(), value])

    def _add_items(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not set:
            raise self.bad(f"elements are added to a {type(target).__name__}")
        self.take(80 * len(values))
        target.update(self._keys(values))

    def _keys(self, values: Any = ()) -> list[Any]:
        if type(values) not in (list, tuple):
            raise self.bad(f"a set is made from a {type(values).__name__}")
        for value in values:
            self._check_key(value)
        return list(values)

    def _check_key(self, key: Any) -> None:
        """Only keys that hash quickly and whose hashes a file cannot make collide."""
        kind = type(key)
        if kind is tuple:
            self.tuple_keys_left -= 1
            if self.tuple_keys_left < 0 or len(key) > 8 or tuple in map(type, key):
                raise self.bad(f"a tuple as a key, nested, longer than 8, or the {MAX_TUPLE_KEYS + 1:,}th")
            for item in key:
                self._check_key(item)
        elif kind is int:
            if abs(key) >= HASH_MODULUS:
                raise self.bad("an integer of more than 61 bits as a key")
        elif kind not in (str, bytes, float, bool, type(None), Placeholder):
            raise self.bad(f"a {kind.__name__} as a key")

    def _ordered_dict(self, args: tuple[Any, ...]) -> OrderedDict[Any, Any]:
        result: OrderedDict[Any, Any] = OrderedDict()
        if args:  # Python 2 wrote OrderedDict([[key, value], ...])
            (pairs,) = args
            if type(pairs) is not list or any(type(p) not in (list, tuple) or len(p) != 2 for p in pairs):
                raise ValueError("OrderedDict is made from something that is not a list of pairs")
            self.take(300 * len(pairs))
            self._fill(result, iter([(key, value) for key, value in pairs]))
        return result

    # --- memo, names and calls ---------------------------------------------------------------------------------------

    def _put(self, index: int) -> None:
        if index > MAX_MEMO:
            raise self.bad(f"memo index {index}; at most {MAX_MEMO:,} is allowed")
        self.take(_MEMO_COST)
        self.memo[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise self.bad(f"memo index {index} was never set")
        self.stack.append(self.memo[index])
        self.take(8)

    def _protocol(self) -> None:
        version = self._read(1)[0]
        if version > 5:
            raise self.bad(f"pickle protocol {version}; there are protocols up to 5")

    def _global(self) -> None:
        self._name(self._line(), self._line())

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str or len(name) + len(module) > MAX_NAME:
            raise self.bad(f"a global whose name is not text, or longer than {MAX_NAME}")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        self.take(2 * (len(module) + len(name)) + 300)
        self._push_container(Placeholder(module, name))

    def make(self, function: Any, args: Any) -> Any:
        """What REDUCE stands for: one of our functions if the name is in the table, else a Placeholder."""
        if type(function) is not Placeholder or type(args) is not tuple:
            raise self.bad(f"a call of a {type(function).__name__} with a {type(args).__name__}")
        self.take(150)
        if function.args is not None:  # the result of a call is called
            return Placeholder(function.module, f"{function.name}()"[-MAX_NAME:], (function, *args))
        ours = self.construct.get((function.module, function.name))
        return Placeholder(function.module, function.name, args) if ours is None else ours(args)

    def _reduce(self) -> None:
        args, function = self._pop(), self._pop()
        self._push_container(self.make(function, args))

    def _new_object_with_keywords(self) -> None:
        keywords, args, function = self._pop(), self._pop(), self._pop()
        if type(args) is not tuple:
            raise self.bad(f"a call with a {type(args).__name__}")
        self._push_container(self.make(function, (*args, keywords)))

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if type(target) is Placeholder:
            target.state = state
        elif type(target) is OrderedDict:
            if type(state) is dict and "_metadata" in state:  # the layers' versions, which torch hangs on a state dict
                target._metadata = state["_metadata"]  # type: ignore[attr-defined]
        elif not isinstance(target, np.ndarray):  # attributes of a tensor are dropped
            raise self.bad(f"attributes are set on a {type(target).__name__}")

    def _persistent(self) -> None:
        if self.persistent is None:
            raise self.bad("a persistent id where none belongs")
        self._push_container(self.persistent(self._pop()))

    HANDLERS: ClassVar[dict[bytes, Callable[[PickleReader], Any]]] = {
        b"\x80": _protocol,
        b"\x95": lambda self: self._read(8),  # FRAME: a hint about how much to read ahead
        b"(": _mark,
        b"0": lambda self: self._pop(),  # POP and POP_MARK: written for tuples that contain themselves
        b"1": lambda self: self._pop_to_mark(),
        b"N": lambda self: self._push(None),
        b"\x88": lambda self: self._push(True),
        b"\x89": lambda self: self._push(False),
        b"K": lambda self: self._push(self._read(1)[0]),  # BININT1, BININT2, BININT, LONG1, LONG4, BINFLOAT
        b"M": lambda self: self._push(self._number("<H")),
        b"J": lambda self: self._push(self._number("<i")),
        b"\x8a": lambda self: self._push(int.from_bytes(self._sized("<B"), "little", signed=True)),
        b"\x8b": lambda self: self._push(int.from_bytes(self._sized("<i", MAX_INTEGER), "little", signed=True)),
        b"G": lambda self: self._push(self._number(">d")),
        b"U": lambda self: self._push(self._sized("<B").decode("utf-8")),  # Python 2's str: SHORT_BINSTRING, BINSTRING
        b"T": lambda self: self._push(self._sized("<i").decode("utf-8")),
        b"\x8c": lambda self: self._push(decode_text(self._sized("<B"))),  # SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
        b"X": lambda self: self._push(decode_text(self._sized("<I"))),
        b"\x8d": lambda self: self._push(decode_text(self._sized("<Q"))),
        b"C": lambda self: self._push(self._sized("<B")),  # SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
        b"B": lambda self: self._push(self._sized("<I")),
        b"\x8e": lambda self: self._push(self._sized("<Q")),
        b"\x96": lambda self: self._push(bytearray(self._sized("<Q"))),
        b"]": lambda self: self._push_container([]),
        b"a": lambda self: self._extend([self._pop()]),
        b"e": lambda self: self._extend(self._pop_to_mark()),
        b")": lambda self: self._push(()),
        b"\x85": lambda self: self._tuple(1),
        b"\x86": lambda self: self._tuple(2),
        b"\x87": lambda self: self._tuple(3),
        b"t": _tuple_to_mark,
        b"}": lambda self: self._push_container({}),
        b"s": _set_item,
        b"u": lambda self: self._set_items(self._pop_to_mark()),
        b"\x8f": lambda self: self._push_container(set()),
        b"\x90": lambda self: self._add_items(self._pop_to_mark()),
        b"\x91": lambda self: self._push_container(frozenset(self._keys(self._pop_to_mark()))),
        b"q": lambda self: self._put(self._read(1)[0]),  # BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
        b"r": lambda self: self._put(self._number("<I")),
        b"\x94": lambda self: self._put(len(self.memo)),
        b"h": lambda self: self._get(self._read(1)[0]),
        b"j": lambda self: self._get(self._number("<I")),
        b"c": _global,
        b"\x93": _stack_global,
        b"R": _reduce,
        b"\x81": _reduce,  # NEWOBJ: class and arguments, the same two values
        b"\x92": _new_object_with_keywords,
        b"b": _build,
        b"Q": _persistent,
    }
