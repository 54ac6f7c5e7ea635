"""Pooling, one row of pixels: the emitted inner code of pool.py.

Which pixels a window covers stands in tables, so one loop serves any window, stride, dilation and padding, and adaptive
regions as well: padding is left out of the table, not compared with. The backward passes run over the pixels of x and ask
which windows cover each, so every pixel is written once and no two pieces write the same one.
"""

from __future__ import annotations

from typing import Any

from minires.kernels.cpu.emit import I32, I64, Loop, Vector, emitted, word
from minires.kernels.cpu.lazy import ir, types
from minires.kernels.cpu.pixels import LANES, for_range

# What a window gives.
MEAN = 0  # its sum times a number from a table
MAXIMUM = 1  # its largest element, and which of its taps that is; that number is also the bytes it takes
WIDE_MAXIMUM = 4  # the same for windows of more than 256 taps

WINDOW_WORDS = 3  # an entry of a table of windows: first row or column, taps, number of the first tap


def _numbers(bits: int) -> Any:
    return ir.VectorType(ir.IntType(bits), LANES)


def _all_lanes(b: Any, number: Any) -> Any:
    """A 64-bit integer as 32-bit number in every lane."""
    nothing = ir.Constant(_numbers(32), ir.Undefined)
    first = b.insert_element(nothing, b.trunc(number, I32), ir.Constant(I32, 0))
    return b.shuffle_vector(first, nothing, ir.Constant(_numbers(32), [0] * LANES))


def _entry(b: Any, table: Any, number: Any) -> Any:
    return b.load(b.gep(b.inttoptr(table, I64.as_pointer()), [number]))


@emitted
def pool_row(
    typing_context: Any,
    kind: Any,
    width: Any,
    columns: Any,
    x: Any,
    x_row: Any,
    x_column: Any,
    rows: Any,
    tap: Any,
    tap_row: Any,
    y: Any,
    taps: Any,
    scales: Any,
) -> Any:
    """One row of y.

        for s in range(width):                          # columns[s] = (first column, count, first tap) of window s
            for i in range(rows), j in range(count):
                v = x[i * x_row + first column + j * x_column]
                MEAN:     y[s] += v * scales[s]
                MAXIMUM:  if v > y[s] or isnan(v): y[s], taps[s] = v, tap + i * tap_row + first tap + j

    Args:
        kind: a literal, see above.
        x: the address of the first row that the windows meet, column 0; x_row, x_column: bytes from tap to tap.
        rows: taps of each column of the windows; at least 1, like every count.
        tap, tap_row: the first row's first tap, and taps in a whole row.
        scales: width float32.
    """
    if not isinstance(kind, types.IntegerLiteral):
        return None
    what = kind.literal_value

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        width, columns, x, x_row, x_column, rows, tap, tap_row, y, taps, scales = arguments[1:]
        v = Vector(b)
        one = ir.Constant(_numbers(32), [1] * LANES)
        over_windows = Loop(b, width, [])
        s = over_windows.index
        entry = b.mul(s, word(WINDOW_WORDS))
        first = b.add(x, b.mul(_entry(b, columns, entry), word(v.bytes)))
        count, first_tap = (_entry(b, columns, b.add(entry, word(k))) for k in (1, 2))
        start = b.add(tap, first_tap)
        if what == MEAN:
            values = [v.constant(0.0)]
        else:
            values = [v.constant(float("-inf")), _all_lanes(b, start)]
        over_rows = Loop(b, rows, [*values, first, start])
        *values, row, number = over_rows.values
        counter = [] if what == MEAN else [_all_lanes(b, number)]
        over_columns = Loop(b, count, [*values, *counter, row])
        if what == MEAN:
            total, at = over_columns.values
            *values, _ = over_columns.end([v.add(total, v.load(at)), b.add(at, x_column)])
        else:
            best, index, here, at = over_columns.values
            value = v.load(at)
            wins = b.or_(b.fcmp_ordered(">", value, best), b.fcmp_unordered("uno", value, value))
            new = [b.select(wins, value, best), b.select(wins, here, index), b.add(here, one), b.add(at, x_column)]
            *values, _, _ = over_columns.end(new)
        *values, _, _ = over_rows.end([*values, b.add(row, x_row), b.add(number, tap_row)])
        if what == MEAN:
            values[0] = v.mul(values[0], v.broadcast(b.add(scales, b.mul(s, word(4)))))
        else:
            narrow = values[1] if what == WIDE_MAXIMUM else b.trunc(values[1], _numbers(8 * what))
            place = b.inttoptr(b.add(taps, b.mul(s, word(LANES * what))), _numbers(8 * what).as_pointer())
            b.store(narrow, place, align=1)
        v.store(values[0], b.add(y, b.mul(s, word(v.bytes))))
        over_windows.end([])
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 11), generate


@emitted
def unpool_row(
    typing_context: Any,
    kind: Any,
    width: Any,
    columns: Any,
    column_words: Any,
    rows: Any,
    grad_y: Any,
    grad_y_row: Any,
    taps: Any,
    taps_row: Any,
    scales: Any,
    scales_row: Any,
    grad_x: Any,
) -> Any:
    """One row of grad_x: the sum over the windows that cover a pixel.

        for q in range(width):
            for (s, j) in columns[q], (r, i) in rows:   # window (r, s) covers the pixel with its tap i + j
                MEAN:     grad_x[q] += grad_y[r, s] * scales[r, s]
                MAXIMUM:  if taps[r, s] == i + j: grad_x[q] += grad_y[r, s]

    Args:
        kind: a literal, see above.
        columns: a count and pairs (s, j) for each q, column_words words; rows: a count and pairs (r, i), i a whole row's tap.
    """
    if not isinstance(kind, types.IntegerLiteral):
        return None
    what = kind.literal_value

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        (
            width, columns, column_words, rows, grad_y, grad_y_row, taps, taps_row, scales, scales_row, grad_x,
        ) = arguments[1:]  # fmt: skip
        v = Vector(b)
        row_count = _entry(b, rows, word(0))
        over_pixels = Loop(b, width, [])
        q = over_pixels.index
        column = b.add(columns, b.mul(q, b.mul(column_words, word(8))))

        def over_columns(a: Any, sums: Any) -> Any:
            pair = b.mul(a, word(2))
            s, j = (_entry(b, column, b.add(pair, word(k))) for k in (1, 2))

            def over_rows(a: Any, sums: Any) -> Any:
                pair = b.mul(a, word(2))
                r, i = (_entry(b, rows, b.add(pair, word(k))) for k in (1, 2))
                g = v.load(b.add(grad_y, b.add(b.mul(r, grad_y_row), b.mul(s, word(v.bytes)))))
                if what == MEAN:
                    scale = v.broadcast(b.add(scales, b.add(b.mul(r, scales_row), b.mul(s, word(4)))))
                    return [v.fma(g, scale, sums[0])]
                place = b.add(taps, b.add(b.mul(r, taps_row), b.mul(s, word(LANES * what))))
                tap = b.load(b.inttoptr(place, _numbers(8 * what).as_pointer()), align=1)
                tap = tap if what == WIDE_MAXIMUM else b.zext(tap, _numbers(32))
                meant = b.icmp_signed("==", tap, _all_lanes(b, b.add(i, j)))
                return [v.add(sums[0], b.select(meant, g, v.constant(0.0)))]

            return for_range(b, word(0), row_count, 1, sums, over_rows)[1]

        _, (total,) = for_range(b, word(0), _entry(b, column, word(0)), 1, [v.constant(0.0)], over_columns)
        v.store(total, b.add(grad_x, b.mul(q, word(v.bytes))))
        over_pixels.end([])
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 11), generate
