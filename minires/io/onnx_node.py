"""The operations of an ONNX file: NodeProto and its attributes.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, messages NodeProto and AttributeProto.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minires.io.onnx_tensor import MAX_NAME, read_tensor
from minires.io.protobuf import FIXED32, Field, WireError, floats, integer, integers, number, text

__all__ = ["DOMAINS", "OnnxNode", "read_node"]

DOMAINS = ("", "ai.onnx")  # two names of one
MAX_LIST = 4096  # numbers in one attribute; inputs, outputs and attributes of one node


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One operation.

    Attributes:
        op: its type, "Conv".
        name: its own, for messages; may be "".
        inputs, outputs: names of values; "" for an optional one that is not there.
        attributes: by name an int, a float, a view of bytes (a text), an OnnxTensor, or a list of such.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


def read_node(part: Field) -> OnnxNode:
    """A NodeProto.

    Raises:
        WireError: it is damaged, of another domain than ONNX's own, or has an attribute that is not read.
    """
    op = name = domain = ""
    inputs: list[str] = []
    outputs: list[str] = []
    found: list[Field] = []
    for entry in part.message():
        match entry.number:
            case 1:
                inputs.append(text(entry, MAX_NAME))
            case 2:
                outputs.append(text(entry, MAX_NAME))
            case 3:
                name = text(entry, MAX_NAME)
            case 4:
                op = text(entry, MAX_NAME)
            case 5:
                found.append(entry)
            case 7:
                domain = text(entry, MAX_NAME)
        if len(inputs) + len(outputs) + len(found) > MAX_LIST:
            raise WireError(f"node {name!r} ({op}) has more than {MAX_LIST:,} inputs, outputs and attributes")
    what = f"node {name!r} ({op})"
    if domain not in DOMAINS:
        raise WireError(f"{what} is an operation of the domain {domain!r}; minires knows those of ONNX itself")
    attributes: dict[str, Any] = {}
    for entry in found:
        key, value = _read_attribute(entry, what)
        if key in attributes:
            raise WireError(f"{what} has two attributes {key!r}")
        attributes[key] = value
    return OnnxNode(op, name, tuple(inputs), tuple(outputs), attributes)


# AttributeProto.type: the number of each kind of value.
_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS, _STRINGS, _TENSORS = 1, 2, 3, 4, 6, 7, 8, 9
_LISTS = (_FLOATS, _INTS, _STRINGS, _TENSORS)
_ZERO = {_FLOAT: 0.0, _INT: 0, _STRING: memoryview(b"")}
# Its fields that no operation of a plain network has.
_UNREAD = {6: "a subgraph", 11: "subgraphs", 22: "a sparse tensor", 23: "sparse tensors", 14: "a type", 15: "types"}


def _read_attribute(part: Field, what: str) -> tuple[str, Any]:
    """AttributeProto: (name, value)."""
    name, stated = "", 0
    values: dict[int, Any] = {}
    for entry in part.message():
        match entry.number:
            case 1:
                name = text(entry, MAX_NAME)
            case 20:
                stated = integer(entry)
            case 21:
                raise WireError(f"{what} has an attribute that refers to one of a function's")
            case 2:
                values[_FLOAT] = number(entry)
            case 3:
                values[_INT] = integer(entry)
            case 4:
                values[_STRING] = entry.bytes()
            case 5:
                values[_TENSOR] = read_tensor(entry.message())
            case 7:
                _extend(values, _FLOATS, [number(entry)] if entry.wire == FIXED32 else _packed(entry), what)
            case 8:
                _extend(values, _INTS, integers(entry, MAX_LIST).tolist(), what)
            case 9:
                _extend(values, _STRINGS, [entry.bytes()], what)
            case 10:
                _extend(values, _TENSORS, [read_tensor(entry.message())], what)
            case field_number if field_number in _UNREAD:
                raise WireError(f"{what}: attribute {name!r} is {_UNREAD[field_number]}, which minires does not read")
    if not name:
        raise WireError(f"{what} has an attribute without a name")
    if stated in _LISTS:
        values.setdefault(stated, [])  # an empty list has no fields
    elif stated in _ZERO and not values:
        values[stated] = _ZERO[stated]  # writers of protobuf's third version leave zeros out
    if len(values) != 1 or (stated and stated not in values):
        raise WireError(f"{what}: attribute {name!r} has no value, or several, or one of another type than it says")
    return name, next(iter(values.values()))


def _packed(entry: Field) -> list[float]:
    if len(entry.bytes()) > 4 * MAX_LIST:
        raise WireError(f"an attribute of more than {MAX_LIST:,} numbers")
    found: list[float] = floats(entry).tolist()
    return found


def _extend(values: dict[int, Any], kind: int, more: list[Any], what: str) -> None:
    known = values.setdefault(kind, [])
    if len(known) + len(more) > MAX_LIST:
        raise WireError(f"{what} has an attribute of more than {MAX_LIST:,} numbers")
    known.extend(more)
