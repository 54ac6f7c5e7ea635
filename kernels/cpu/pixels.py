"""Walks over pixels: the emitted inner code of everything that surrounds the convolutions.

Batch norm, ReLU, the residual join and their backward passes do little with each number and touch many, so what counts is
how often memory is read. Three loops over the pixels of one plane (one image, one block of 16 channels) serve them all:

    scale_shift   y = max((x - centre) * scale + shift [+ shortcut], floor)
    combine       grad_x = a * g + b * (x - centre) + c,                       g = grad_y where y lets through
    add_up        sums of g and of g * (x - centre)                            the same g; or g = x - centre, or g = grad_y

centre, scale and so on are vectors, a number a channel. A ReLU is `scale_shift` with 0, 1, 0 and floor = 0, a sum of two
arrays with floor = -inf: multiplying by 1 changes no bit and hides behind memory. x is centred before it is scaled, though
x * scale + (shift - centre * scale) would be an instruction less: where the mean is large beside the spread, that form
subtracts two large rounded numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minires.kernels.cpu.emit import I64, Loop, Vector, emitted, word
from minires.kernels.cpu.lazy import ir, types

LANES = 16
_UNROLL = 2  # pixels in flight: independent sums hide the latency of an addition

# What `scale_shift`, `combine` and `add_up` do beyond their least; the bits of `flags`.
SHORTCUT = 1  # scale_shift: + shortcut
MASK = 2  # combine, add_up: g is 0 where y <= 0
CENTRED = 4  # combine: the term b * (x - centre); add_up: the second sum
STORE = 8  # add_up: also write g
SPREAD = 16  # add_up: g = x - centre, and no grad_y


def for_range(b: Any, start: Any, stop: Any, step: int, values: Sequence[Any], body: Callable[..., Any]) -> Any:
    """`for index in range(start, stop, step): values = body(index, values)`, possibly not once. (index, values) after."""
    before = b.block
    head, inside, after = (b.append_basic_block(name) for name in ("head", "inside", "after"))
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(I64)
    index.add_incoming(start, before)
    carried = []
    for value in values:
        carried.append(b.phi(value.type))
        carried[-1].add_incoming(value, before)
    b.cbranch(b.icmp_signed("<", index, stop), inside, after)
    b.position_at_end(inside)
    new = body(index, carried)
    index.add_incoming(b.add(index, word(step)), b.block)
    for phi, value in zip(carried, new, strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(after)
    return index, carried


def walk(
    b: Any,
    rows: Any,
    width: Any,
    planes: Sequence[tuple[Any, Any]],
    values: Sequence[Any],
    body: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]],
) -> list[list[Any]]:
    """Emit `for each row, for each pixel: values = body(addresses of the pixel, values)`.

    Args:
        rows, width: of the plane; at least 1.
        planes: (address of the first pixel, bytes from a row to the next) of each array.
        values: carried from pixel to pixel; _UNROLL copies of them are, for the pixels in flight.

    Returns:
        The copies after the last pixel; the caller adds them up.
    """
    count = len(values)
    pixel = word(4 * LANES)
    over_rows = Loop(b, rows, [*[address for address, _ in planes], *list(values) * _UNROLL])
    bases, carried = over_rows.values[: len(planes)], over_rows.values[len(planes) :]

    def at(index: Any, values: Sequence[Any]) -> Sequence[Any]:
        along = b.mul(index, pixel)
        return body([b.add(base, along) for base in bases], values)

    def several(index: Any, values: Sequence[Any]) -> list[Any]:
        new: list[Any] = []
        for k in range(_UNROLL):
            new += at(b.add(index, word(k)), values[k * count : (k + 1) * count])
        return new

    whole = b.sub(width, word(_UNROLL - 1))
    index, carried = for_range(b, word(0), whole, _UNROLL, carried, several)
    _, first = for_range(b, index, width, 1, carried[:count], at)
    carried = [*first, *carried[count:]]
    following = [b.add(base, pitch) for base, (_, pitch) in zip(bases, planes, strict=True)]
    carried = over_rows.end([*following, *carried])[len(planes) :]
    return [carried[k * count : (k + 1) * count] for k in range(_UNROLL)]


def _flags(flags: Any) -> int | None:
    return flags.literal_value if isinstance(flags, types.IntegerLiteral) else None


@emitted
def scale_shift(
    typing_context: Any,
    flags: Any,
    rows: Any,
    width: Any,
    x: Any,
    x_row: Any,
    y: Any,
    y_row: Any,
    shortcut: Any,
    shortcut_row: Any,
    coefficients: Any,
    floor: Any,
) -> Any:
    """y = max((x - centre) * scale + shift [+ shortcut], floor) over a plane; NaN stays NaN.

    flags (a literal): SHORTCUT. coefficients: centre, scale, shift, 16 numbers each. floor: the address of a number.
    """
    flag = _flags(flags)
    if flag is None:
        return None

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        rows, width, x, x_row, y, y_row, shortcut, shortcut_row, coefficients, floor = arguments[1:]
        v = Vector(b)
        centre, scale, shift = (v.load(coefficients, k * v.bytes) for k in range(3))
        least = v.broadcast(floor)
        planes = [(x, x_row), (y, y_row)] + [(shortcut, shortcut_row)] * bool(flag & SHORTCUT)

        def body(at: Sequence[Any], values: Sequence[Any]) -> Sequence[Any]:
            value = v.fma(v.sub(v.load(at[0]), centre), scale, shift)
            if flag & SHORTCUT:
                value = v.add(value, v.load(at[2]))
            v.store(v.at_least(value, least), at[1])
            return values

        walk(b, rows, width, planes, [], body)
        return context.get_dummy_value()

    return types.void(flags, *[types.int64] * 10), generate


@emitted
def combine(
    typing_context: Any,
    flags: Any,
    rows: Any,
    width: Any,
    grad_y: Any,
    grad_y_row: Any,
    y: Any,
    y_row: Any,
    x: Any,
    x_row: Any,
    grad_x: Any,
    grad_x_row: Any,
    coefficients: Any,
) -> Any:
    """grad_x = a * g [+ b * (x - centre) + c] over a plane.

    flags (a literal): MASK, CENTRED. coefficients: a, b, c, centre, 16 numbers each.
    """
    flag = _flags(flags)
    if flag is None:
        return None

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        rows, width, grad_y, grad_y_row, y, y_row, x, x_row, grad_x, grad_x_row, coefficients = arguments[1:]
        v = Vector(b)
        slope, slope_x, shift, centre = (v.load(coefficients, k * v.bytes) for k in range(4))
        planes = [(grad_y, grad_y_row), (grad_x, grad_x_row)]
        planes += [(y, y_row)] * bool(flag & MASK) + [(x, x_row)] * bool(flag & CENTRED)

        def body(at: Sequence[Any], values: Sequence[Any]) -> Sequence[Any]:
            g = v.load(at[0])
            if flag & MASK:
                g = v.where_positive(v.load(at[2]), g)
            if flag & CENTRED:
                value = v.fma(slope, g, v.fma(slope_x, v.sub(v.load(at[-1]), centre), shift))
            else:
                value = v.mul(slope, g)
            v.store(value, at[1])
            return values

        walk(b, rows, width, planes, [], body)
        return context.get_dummy_value()

    return types.void(flags, *[types.int64] * 11), generate


@emitted
def add_up(
    typing_context: Any,
    flags: Any,
    rows: Any,
    width: Any,
    grad_y: Any,
    grad_y_row: Any,
    y: Any,
    y_row: Any,
    x: Any,
    x_row: Any,
    masked: Any,
    masked_row: Any,
    centre: Any,
    sums: Any,
) -> Any:
    """sums += (sum of g, sum of g * (x - centre)) over a plane.

    The plane is added up in float32, which is why it should be small (1024 pixels lose as little as the inputs' own
    rounding), and the result to `sums` in float64.

    flags (a literal): MASK, CENTRED, STORE, SPREAD. centre: 16 numbers. sums: 2 * 16 float64.
    """
    flag = _flags(flags)
    if flag is None:
        return None

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        rows, width, grad_y, grad_y_row, y, y_row, x, x_row, masked, masked_row, centre, sums = arguments[1:]
        v, wide = Vector(b), Vector(b, LANES, 64)
        middle = v.load(centre)
        zero = v.constant(0.0)
        needed = {
            "grad_y": (not flag & SPREAD, grad_y, grad_y_row),
            "y": (flag & MASK, y, y_row),
            "x": (flag & (CENTRED | SPREAD), x, x_row),
            "masked": (flag & STORE, masked, masked_row),
        }
        names = [name for name, (wanted, _, _) in needed.items() if wanted]

        def body(at: Sequence[Any], values: Sequence[Any]) -> Sequence[Any]:
            place = dict(zip(names, at, strict=True))
            centred = v.sub(v.load(place["x"]), middle) if "x" in place else None
            g = v.load(place["grad_y"]) if "grad_y" in place else centred
            if flag & MASK:
                g = v.where_positive(v.load(place["y"]), g)
            if flag & STORE:
                v.store(g, place["masked"])
            new = [v.add(values[0], g)]
            if flag & CENTRED:
                new.append(v.fma(g, centred, values[1]))
            return new

        planes = [needed[name][1:] for name in names]
        copies = walk(b, rows, width, planes, [zero, zero] if flag & CENTRED else [zero], body)
        for k, total in enumerate(copies[0]):
            for other in copies[1:]:
                total = v.add(total, other[k])
            total = wide.add(b.fpext(total, ir.VectorType(ir.DoubleType(), LANES)), wide.load(sums, k * wide.bytes))
            wide.store(total, sums, k * wide.bytes)
        return context.get_dummy_value()

    return types.void(flags, *[types.int64] * 12), generate
