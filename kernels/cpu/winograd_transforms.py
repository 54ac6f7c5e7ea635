"""Winograd's small convolutions: where the matrices come from, and vector code that applies them.

**The idea.** m outputs of a filter with r taps need m * r products if each is computed by itself, but only n = m + r - 1 if
the filter and a patch of n inputs are first *transformed*:

    y = A^T [ (G g) * (B^T d) ]          * : n products, one a position          d: n inputs, g: r taps, y: m outputs

In two dimensions both sides are used, y = A^T [ (G g G^T) * (B^T d B) ] A: a 4x4 tile of a 3x3 convolution costs 36 products,
not 144. The sum over input channels is taken between the transforms, so these cost little where there are many channels.

**Where the matrices come from** (Toom and Cook). Multiplying polynomials p (r coefficients) and q (m coefficients) gives one
with n coefficients, which n values determine: evaluate p and q at n points (one of them infinity: the leading coefficient),
multiply the values, interpolate. Evaluating p is G (up to a factor), evaluating q is A, interpolating is B. That computes
the full product of polynomials; the *transposed* algorithm, A^T and B^T in the places shown above, computes what a sliding
filter does. (Transposition turns q -> p q into its adjoint, and a correlation is the adjoint of a full product.)

**Which points.** Any n - 1 different numbers are right in exact arithmetic. In float32 large powers of points lose digits.
With {0, +-1/sqrt2, +-sqrt2} F(4x4, 3x3) has an rms error of 3.6e-7 of the output's deviation, with the customary
{0, +-1, +-2} 7e-7, a direct sum 0.9e-7 (measured against float64, 64 channels).

Every other input or tap out of range must be a true zero: a patch mixes all its numbers, so a NaN or infinity anywhere in a
patch reaches all outputs of its tile (and, unlike in a direct sum, no farther than its tile's neighbours).

Source: Lavin and Gray 2015, "Fast algorithms for convolutional neural networks", section 4; Winograd 1980, "Arithmetic
complexity of computations", chapter 4; Barabasz et al. 2020, "Error analysis and improving the accuracy of Winograd
convolution", on the choice of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from minires.kernels.cpu.emit import Loop, Vector, emitted, word
from minires.kernels.cpu.lazy import cgutils, ir, types
from minires.kernels.cpu.machine import machine

TAPS = 3  # r
POINTS: dict[int, tuple[float, ...]] = {
    2: (0.0, 1.0, -1.0),
    4: (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5)),
}

# The matrix that a transform applies on both sides.
INPUT = 0  # B^T, n x n: of a patch of x
OUTPUT_ADJOINT = 1  # A, n x m: of a tile of grad_y
WEIGHT = 2  # G, n x 3
WEIGHT_ADJOINT = 3  # G^T, 3 x n

# A vector register's numbers: a row of six 16-lane vectors and its sums do not fit sixteen AVX2 registers, one of 8 lanes
# does. Where registers hold 16 numbers, halves would waste them.
AT_ONCE = 16 if machine().instruction_set == "avx512" else 8
LANES = 16


@cache
def cook_toom(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices of F(m, 3) in float64.

    With points a_0 .. a_{n-2} and infinity, and N_j = prod_{l != j} (a_j - a_l):

        A^T[i, j] = a_j^i,   G[j, k] = a_j^k / N_j,   B^T[j, :] = coefficients of prod_{l != j} (x - a_l)

    and for infinity: A^T[m-1] = 1, G[2] = 1 and B^T the coefficients of prod_l (x - a_l).

    Returns:
        A^T (m, n), G (n, 3), B^T (n, n).
    """
    points = np.array(POINTS[m])
    n = m + TAPS - 1
    a_t, g, b_t = np.zeros((m, n)), np.zeros((n, TAPS)), np.zeros((n, n))
    for j, point in enumerate(points):
        others = np.delete(points, j)
        a_t[:, j] = point ** np.arange(m)
        g[j] = point ** np.arange(TAPS) / np.prod(point - others)
        b_t[j, : n - 1] = np.poly(others)[::-1]
    a_t[m - 1, n - 1] = g[n - 1, TAPS - 1] = 1.0
    b_t[n - 1] = np.poly(points)[::-1]
    b_t[np.abs(b_t) < 1e-12] = 0.0  # what symmetric points cancel exactly
    return a_t, g, b_t


def matrix_of(kind: int, m: int) -> np.ndarray:
    """The matrix named by `kind`, float64."""
    a_t, g, b_t = cook_toom(m)
    return {INPUT: b_t, OUTPUT_ADJOINT: a_t.T, WEIGHT: g, WEIGHT_ADJOINT: g.T}[kind]


# ----------------------------------------------------------------------------------- a matrix as straight-line code


def _combination(v: Vector, coefficients: Any, values: Sequence[Any]) -> tuple[Any, float]:
    """(s, c) with c * s = sum of coefficients * values: one fused multiply-add a term less one."""
    terms = [(float(c), value) for c, value in zip(coefficients, values, strict=True) if c != 0]
    pivot = next((k for k, (c, _) in enumerate(terms) if c == 1), len(terms) - 1)
    scale, total = terms.pop(pivot)
    for c, value in terms:
        ratio = c / scale
        if ratio == 1:
            total = v.add(total, value)
        elif ratio == -1:
            total = v.sub(total, value)
        else:
            total = v.fma(v.constant(ratio), value, total)
    return total, scale


def _scaled(v: Vector, term: tuple[Any, float]) -> Any:
    value, scale = term
    return value if scale == 1 else v.mul(v.constant(scale), value)


def _mirrored(rows: np.ndarray) -> tuple[list[tuple[int, int]], list[int]]:
    """Pairs of rows that differ in the sign of some entries only (points +a and -a), and the other rows."""
    pairs: list[tuple[int, int]] = []
    for i in range(len(rows)):
        for j in range(i + 1, len(rows)):
            if np.allclose(np.abs(rows[i]), np.abs(rows[j])) and not any(k in pair for pair in pairs for k in (i, j)):
                pairs.append((i, j))
    paired = {k for pair in pairs for k in pair}
    return pairs, [i for i in range(len(rows)) if i not in paired]


def multiply(v: Vector, matrix: np.ndarray, values: Sequence[Any]) -> list[Any]:
    """matrix @ values, values being vectors; zeros cost nothing and points +-a share their work.

    A row of +a and one of -a are e + o and e - o with the same even part e and odd part o. Where the points lie along the
    columns instead (A^T, G^T), sums and differences of the two values are taken first.
    """
    pairs, rest = _mirrored(matrix)
    if pairs:
        out: list[Any] = [None] * len(matrix)
        for i in rest:
            out[i] = _scaled(v, _combination(v, matrix[i], values))
        for i, j in pairs:
            same = np.isclose(matrix[i], matrix[j])
            even = _scaled(v, _combination(v, np.where(same, matrix[i], 0), values))
            odd, scale = _combination(v, np.where(same, 0, matrix[i]), values)
            if scale == 1:
                out[i], out[j] = v.add(even, odd), v.sub(even, odd)
            else:
                out[i], out[j] = v.fma(v.constant(scale), odd, even), v.fma(v.constant(-scale), odd, even)
        return out
    pairs, rest = _mirrored(matrix.T)
    columns, inputs = [matrix[:, i] for i in rest], [values[i] for i in rest]
    for i, j in pairs:
        same = np.isclose(matrix[:, i], matrix[:, j])
        columns += [np.where(same, matrix[:, i], 0), np.where(same, 0, matrix[:, i])]
        inputs += [v.add(values[i], values[j]), v.sub(values[i], values[j])]
    return [_scaled(v, _combination(v, row, inputs)) for row in np.stack(columns, 1)]


# ----------------------------------------------------------------------------------------------- in two dimensions


def _literals(*arguments: Any) -> list[int] | None:
    if not all(isinstance(argument, types.IntegerLiteral) for argument in arguments):
        return None
    return [argument.literal_value for argument in arguments]


def _scratch(builder: Any, numbers: int, of: Any) -> Any:
    """The address of `numbers` numbers on the function's stack."""
    memory = cgutils.alloca_once(builder, ir.ArrayType(of, numbers))
    memory.align = 64
    return builder.ptrtoint(memory, word(0).type)


@emitted
def transform(
    typing_context: Any,
    kind: Any,
    m: Any,
    bits: Any,
    source: Any,
    row: Any,
    column: Any,
    top: Any,
    bottom: Any,
    left: Any,
    right: Any,
    zeros: Any,
    target: Any,
    target_row: Any,
    target_column: Any,
) -> Any:
    """target = M d M^T for 16 channels at once: d[i, j] is the vector at `source + i * row + j * column`.

    Columns of d first, then rows of the result, through a few KB on the stack: so little is alive at any time that it
    stays in registers, and both loops are small enough to be read in assembly.

    Args:
        kind, m: which matrix M; compile-time, as is
        bits: 32, or 64 to compute in float64 and round the result once to float32.
        source, row, column: an address and two byte distances.
        top, bottom, left, right: d[i, j] is read only for top <= i < bottom, left <= j < right; elsewhere it is 0.
        zeros: the address of zeros to read there: as many as a row of d.
        target, target_row, target_column: where the result goes.
    """
    literals = _literals(kind, m, bits)
    if literals is None:
        return None
    matrix = matrix_of(literals[0], literals[1])
    width = literals[2]
    n_out, n_in = matrix.shape

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        source, row, column, top, bottom, left, right, zeros, target, target_row, target_column = arguments[3:]
        narrow, v = Vector(b, AT_ONCE), Vector(b, AT_ONCE, width)
        parts = range(LANES // AT_ONCE)
        pixel = LANES * v.size  # of the scratch
        scratch = _scratch(b, n_out * n_in * LANES, v.scalar)

        def within(index: Any, low: Any, high: Any) -> Any:
            return b.and_(b.icmp_signed(">=", index, low), b.icmp_signed("<", index, high))

        rows = [b.select(within(word(i), top, bottom), b.add(source, b.mul(row, word(i))), zeros) for i in range(n_in)]
        columns = Loop(b, word(n_in), [])
        inside = within(columns.index, left, right)
        along = b.mul(columns.index, column)
        places = [b.select(inside, b.add(start, along), zeros) for start in rows]
        into = b.add(scratch, b.mul(columns.index, word(pixel)))
        for part in parts:
            values = [narrow.load(place, part * narrow.bytes) for place in places]
            if width == 64:
                values = [b.fpext(value, v.type) for value in values]
            for i, value in enumerate(multiply(v, matrix, values)):
                v.store(value, into, i * n_in * pixel + part * v.bytes)
        columns.end([])

        lines = Loop(b, word(n_out), [scratch, target])
        line, place = lines.values
        for part in parts:
            values = [v.load(line, j * pixel + part * v.bytes) for j in range(n_in)]
            for j, value in enumerate(multiply(v, matrix, values)):
                if width == 64:
                    value = b.fptrunc(value, narrow.type)
                to = b.add(place, b.mul(target_column, word(j))) if j else place
                narrow.store(value, to, part * narrow.bytes)
        lines.end([b.add(line, word(n_in * pixel)), b.add(place, target_row)])
        return context.get_dummy_value()

    return types.void(kind, m, bits, *[types.int64] * 11), generate


@emitted
def transform_output(
    typing_context: Any,
    m: Any,
    products: Any,
    point: Any,
    y: Any,
    y_row: Any,
    height: Any,
    width: Any,
    bias: Any,
    residual: Any,
    residual_row: Any,
    residual_pixel: Any,
    floor: Any,
) -> Any:
    """y = max(A^T q A + bias + residual, floor) for 16 channels of a tile, of which `height` x `width` pixels are stored.

    Args:
        m: compile-time.
        products, point: q[i, j] lies at `products + (i * n + j) * point`.
        y, y_row: the tile's first pixel and the distance to the one below it.
        height, width: 1 to m.
        bias: the address of 16 numbers; floor: of one (-inf: none).
        residual, residual_row, residual_pixel: as y; zeros and distances of zero where there is none.
    """
    literals = _literals(m)
    if literals is None:
        return None
    matrix = cook_toom(literals[0])[0]
    size, n = matrix.shape

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        products, point, y, y_row, height, width, bias, residual, residual_row, residual_pixel, floor = arguments[1:]
        v = Vector(b, AT_ONCE)
        parts = range(LANES // AT_ONCE)
        pixel = LANES * v.size
        scratch = _scratch(b, size * n * LANES, v.scalar)

        starts = [b.add(products, b.mul(point, word(i * n))) for i in range(n)]
        columns = Loop(b, word(n), [word(0)])
        (along,) = columns.values
        into = b.add(scratch, b.mul(columns.index, word(pixel)))
        places = [b.add(start, along) for start in starts]
        for part in parts:
            values = [v.load(place, part * v.bytes) for place in places]
            for i, value in enumerate(multiply(v, matrix, values)):
                v.store(value, into, i * n * pixel + part * v.bytes)
        columns.end([b.add(along, point)])

        least = v.broadcast(floor)
        lines = Loop(b, height, [scratch, y, residual])
        line, place, shortcut = lines.values
        for part in parts:
            values = [v.load(line, j * pixel + part * v.bytes) for j in range(n)]
            for j, value in enumerate(multiply(v, matrix, values)):
                with b.if_then(b.icmp_signed(">", width, word(j)), likely=True):
                    value = v.add(value, v.load(bias, part * v.bytes))
                    value = v.add(value, v.load(b.add(shortcut, b.mul(residual_pixel, word(j))), part * v.bytes))
                    v.store(v.at_least(value, least), place, j * pixel + part * v.bytes)
        lines.end([b.add(line, word(n * pixel)), b.add(place, y_row), b.add(shortcut, residual_row)])
        return context.get_dummy_value()

    return types.void(m, *[types.int64] * 11), generate
