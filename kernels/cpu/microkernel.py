"""The micro-kernel: a small tile of a matrix product, held in registers. All convolutions of this set are made of it.

    tile[r, :] = start[r, :]
    for t in range(n_taps):                      # for the direct convolution: a position of the window and 16 channels
        for u in range(inner * UNROLL):          # the 16 channels of the block
            for r in range(ROWS):                # output pixels
                tile[r, :] += x[rows[r] + taps[t] + u * X_STEP] * w[next]        # w: VECTORS * 16 output channels
    y[y_rows[r], :] = epilogue(tile[r, :])

`rows`, `taps` and `y_rows` are tables of byte offsets, and that is the whole trick: *where* the numbers lie is data, not code.
A 3x3 window of stride 2 with dilation, a 1x1 product, one of the parity problems of a strided backward pass, the product
inside Winograd's algorithm, the gradient of the weights (there the "pixels" are taps and the "taps" are rows of the image)
differ in their tables alone. So one generator serves them all, a tile need not lie in one row of the image, and the last,
incomplete tile of an image repeats its last pixel: it is computed twice with the same result, and no remainder code exists.

Why a tile: each number of x that is broadcast serves VECTORS * 16 products and each vector of w serves ROWS, so that with
6 x 1 (AVX2: 12 of 16 registers hold sums) 12 multiply-adds need 8 loads; a machine does 2 of either in a cycle.
"""

from __future__ import annotations

from typing import Any

from minires.kernels.cpu.emit import I64, Loop, Vector, emitted, word
from minires.kernels.cpu.lazy import types

LANES = 16

# What a tile starts from and what is done to it before it is stored; the bits of `flags`.
START_BIAS = 1  # start from bias, else from 0
ADD_RESIDUAL = 2  # + residual, an array shaped as y; y itself, to add to what is there
FLOOR = 4  # max(., floor), where NaN stays NaN: a ReLU with floor = 0, nothing with floor = -inf


@emitted
def multiply_tile(
    typing_context: Any,
    row_count: Any,
    vector_count: Any,
    unroll: Any,
    x_step: Any,
    flags: Any,
    x: Any,
    rows: Any,
    w: Any,
    taps: Any,
    n_taps: Any,
    inner: Any,
    w_skip: Any,
    y: Any,
    y_rows: Any,
    y_vector: Any,
    bias: Any,
    residual: Any,
    floor: Any,
) -> Any:
    """Emit one tile; see the head of this file.

    The first five are compile-time integers (literals, so that the on-disk cache knows them):
        row_count, vector_count: the tile; vectors have 16 lanes.
        unroll: steps of the innermost loop, written out.
        x_step: bytes from one step's x to the next's.
        flags: start and epilogue, see above.
    The others are addresses, counts (at least 1) and byte distances:
        rows, y_rows: tables of row_count offsets; taps: a table of n_taps offsets.
        inner: how often the unrolled steps are repeated for each tap; w_skip: bytes of w left out after each tap.
        y_vector: from one vector of y (16 channels) to the next.
        bias: vector_count * 16 numbers; residual: as y; floor: one number (an address too). Ignored unless a flag asks.
    """
    literals = (row_count, vector_count, unroll, x_step, flags)
    if not all(isinstance(literal, types.IntegerLiteral) for literal in literals):
        return None
    n_rows, n_vectors, steps, step, flag = (literal.literal_value for literal in literals)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, rows, w, taps, n_taps, inner, w_skip, y, y_rows, y_vector, bias, residual, floor = arguments[5:]
        v = Vector(b, LANES)
        panel = n_vectors * v.bytes  # one step of w

        def entry(table: Any, number: int) -> Any:
            return b.load(b.inttoptr(b.add(table, word(8 * number)), I64.as_pointer()))

        pixels = [b.add(x, entry(rows, r)) for r in range(n_rows)]
        outputs = [entry(y_rows, r) for r in range(n_rows)]

        def places(base: Any) -> list[Any]:
            firsts = [b.add(base, outputs[r]) for r in range(n_rows)]
            return [
                b.add(firsts[r], b.mul(y_vector, word(k))) if k else firsts[r]
                for r in range(n_rows)
                for k in range(n_vectors)
            ]

        if flag & START_BIAS:
            tile = [v.load(bias, k * v.bytes) for k in range(n_vectors)] * n_rows
        else:
            tile = [v.constant(0.0)] * (n_rows * n_vectors)

        over_taps = Loop(b, n_taps, [*tile, w])
        *tile, panels = over_taps.values
        offset = b.load(b.gep(b.inttoptr(taps, I64.as_pointer()), [over_taps.index]))
        sources = [b.add(pixel, offset) for pixel in pixels]
        repeat = Loop(b, inner, [*tile, panels, word(0)])
        *tile, panels, along = repeat.values
        here = [b.add(source, along) for source in sources]
        for u in range(steps):
            weights = [v.load(panels, u * panel + k * v.bytes) for k in range(n_vectors)]
            for r in range(n_rows):
                number = v.broadcast(here[r], u * step)
                for k in range(n_vectors):
                    tile[r * n_vectors + k] = v.fma(number, weights[k], tile[r * n_vectors + k])
        *tile, panels, _ = repeat.end([*tile, b.add(panels, word(steps * panel)), b.add(along, word(steps * step))])
        *tile, _ = over_taps.end([*tile, b.add(panels, w_skip)])

        if flag & ADD_RESIDUAL:
            tile = [v.add(value, v.load(place)) for value, place in zip(tile, places(residual), strict=True)]
        if flag & FLOOR:
            least = v.broadcast(floor)
            tile = [v.at_least(value, least) for value in tile]
        for value, place in zip(tile, places(y), strict=True):
            v.store(value, place)
        return context.get_dummy_value()

    return types.void(*literals, *[types.int64] * 13), generate
