"""3x3 convolutions of stride 1 by Winograd's algorithm: a quarter of the products, F(4x4), or 4/9 of them, F(2x2).

    u = G g G^T for every pair of channels        once a step, or once for ever
    v = B^T d B for every patch and channel       patches are m + 2 wide and lie m apart
    q[p] = v[p] u[p] for every point p            (m + 2)^2 matrix products over the channels
    y = A^T q A + bias [+ residual], [relu]

winograd_transforms.py derives the matrices and emits the code that applies them; winograd_tasks.py has the loops. Here sizes
become frames. The gradient in x is the same convolution with filters turned by half a turn and the channels' roles exchanged.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minires.kernels.cpu.conv_direct import pack_bias, tile_for
from minires.kernels.cpu.layout import BLOCK, PIXEL, Blocked, blocks
from minires.kernels.cpu.memory import aligned, pool
from minires.kernels.cpu.product import Tile
from minires.kernels.cpu.rehearsal import at_batch, will_touch
from minires.kernels.cpu.tasks import Step, Task, run, run_steps, workers
from minires.kernels.cpu.winograd_tasks import (
    W_WORDS,
    forward_tasks,
    frame_of,
    patches_task,
    tiles_task,
    weights_task,
)
from minires.kernels.geometry import Conv2dGeometry

FUSED_SCRATCH = 256 << 10  # bytes of v and q that a worker of the fused form fills: they stay in its second-level cache
FUSED_WEIGHTS = 3 << 20  # with more bytes of u, phases are faster: a run of tiles is too short to pay for reading them
PHASE_SCRATCH = 16 << 20  # bytes of v and q of all tiles in flight, beyond what u takes

_ZERO, _NO_FLOOR = np.zeros(1, np.float32), np.full(1, -np.inf, np.float32)
ZEROS_ROW = aligned(6 * BLOCK)  # a row of a patch


def turned(g: Conv2dGeometry) -> Conv2dGeometry:
    """The convolution of grad_y that gives grad_x."""
    return Conv2dGeometry(
        g.n, g.c_out, g.h_out, g.w_out, g.c_in, 3, 3, 1, 1,
        2 - g.pad_top, 2 - g.pad_bottom, 2 - g.pad_left, 2 - g.pad_right,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ weights


def weights_shape(c_in: int, c_out: int, m: int, tile: Tile) -> tuple[int, int, int, int]:
    """(points, panels, input channels in whole blocks, output channels of a panel)."""
    return (m + 2) ** 2, -(-blocks(c_out) // tile.vectors), blocks(c_in) * BLOCK, tile.vectors * BLOCK


def weights_numbers(shape: tuple[int, int, int, int]) -> int:
    """How many numbers transformed weights take up: a pixel more at each point, see Layout."""
    return shape[0] * (shape[1] * shape[2] * shape[3] + BLOCK)


def weights_in(buffer: np.ndarray, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Transformed weights, of the shape of weights_shape, in a buffer of weights_numbers or more."""
    points = buffer[: weights_numbers(shape)].reshape(shape[0], -1)
    return points[:, :-BLOCK].reshape(shape)  # a view


def transform_weights(weight: np.ndarray, m: int, rotated: bool = False, out: np.ndarray | None = None) -> np.ndarray:
    """u = G g G^T, computed in float64, rounded once, in the order the products read it.

    Args:
        weight: (c_out, c_in, 3, 3) float32.
        m: 2 or 4, the width of a tile.
        rotated: for the backward pass in x: roles of the channels exchanged, taps turned by half a turn.
        out: where to write, from weights_in; a new array if None.

    Returns:
        (points, panels, channels, 16 * vectors), see weights_shape.
    """
    weight = np.ascontiguousarray(weight)
    c_out, c_in = weight.shape[:2]
    out_step, in_step, tap_step, source = 9 * c_in, 9, 1, weight.ctypes.data
    if rotated:
        c_out, c_in, out_step, in_step, tap_step, source = c_in, c_out, in_step, out_step, -1, source + 8 * 4
    tile = tile_for(c_out)
    shape = weights_shape(c_in, c_out, m, tile)
    if out is None:
        out = weights_in(aligned(weights_numbers(shape)), shape)
    gathered = aligned(workers() * 16 * 9 * BLOCK)
    frame = np.array(
        [
            m, c_in, c_out, blocks(c_in), tile.vectors, source, out_step, in_step, tap_step,
            out.ctypes.data, out.strides[0], out.strides[1], gathered.ctypes.data,
        ],
        np.int64,
    )  # fmt: skip
    assert len(frame) == W_WORDS
    run(weights_task, shape[1] * tile.vectors * blocks(c_in), frame)
    return out


# ------------------------------------------------------------------------------------------------------------ forward


@lru_cache(1024)
def _tables(n_blocks: int, v_block: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a product's rows (tiles) and taps (channel blocks) lie."""
    return np.arange(pixels, dtype=np.int64) * PIXEL, np.arange(n_blocks, dtype=np.int64) * v_block


def tiles_of(g: Conv2dGeometry, m: int) -> tuple[int, int]:
    """Rows and columns of tiles in an image of y."""
    return -(-g.h_out // m), -(-g.w_out // m)


class Layout:
    """Where v and q of `count` tiles lie in a scratch, in bytes from its start.

    A block gets a tile more than it holds, and a point a tile more again: distances that are multiples of 4 KB would send
    all blocks and points to the same few sets of the cache.
    """

    def __init__(self, g: Conv2dGeometry, m: int, tile: Tile, count: int) -> None:
        points, panels = (m + 2) ** 2, -(-blocks(g.c_out) // tile.vectors)
        whole = -(-count // tile.pixels) * tile.pixels
        self.block = (whole + 1) * PIXEL
        self.v_point = blocks(g.c_in) * self.block + PIXEL
        self.q_point = panels * tile.vectors * self.block + PIXEL
        self.q = points * self.v_point
        self.bytes = self.q + points * self.q_point


def is_fused(g: Conv2dGeometry, m: int) -> bool:
    """Whether runs of tiles go through all steps at once."""
    return 4 * (m + 2) ** 2 * g.c_in * g.c_out <= FUSED_WEIGHTS


def tiles_at_once(g: Conv2dGeometry, m: int, tile: Tile) -> int:
    """How many tiles are transformed before their products are taken: as many as the scratch holds."""
    high, wide = tiles_of(g, m)
    total = g.n * high * wide
    each = (m + 2) ** 2 * PIXEL * (blocks(g.c_in) + blocks(g.c_out))
    if is_fused(g, m):
        most = FUSED_SCRATCH // each // tile.pixels * tile.pixels
        fair = -(-total // (4 * workers() * tile.pixels)) * tile.pixels  # so that all workers have pieces
        return min(total, max(2 * tile.pixels, min(most, fair)))
    most = (PHASE_SCRATCH + 4 * (m + 2) ** 2 * g.c_in * g.c_out) // each
    chunks = -(-total // most)
    return -(-total // chunks)


def scratch_bytes(g: Conv2dGeometry, m: int) -> int:
    """What `steps_forward` needs as scratch memory."""
    tile, g = tile_for(g.c_out), at_batch(g)
    size = Layout(g, m, tile, tiles_at_once(g, m, tile)).bytes
    return size * workers() if is_fused(g, m) else size


def steps_forward(
    x: Blocked,
    u: np.ndarray,
    bias: np.ndarray,
    y: Blocked,
    residual: Blocked | None,
    relu: bool,
    g: Conv2dGeometry,
    m: int,
    scratch: np.ndarray | None = None,
) -> list[Step]:
    """The steps that compute y, for a Program; everything they point at comes with them.

    Args:
        u: from transform_weights.
        bias: from conv_direct.pack_bias.
        scratch: scratch_bytes(g, m) // 4 numbers that no other step uses at the same time; new if None.
    """
    high, wide = tiles_of(g, m)
    total = g.n * high * wide
    if total == 0 or g.c_out == 0:
        return []
    tile = tile_for(g.c_out)
    count = tiles_at_once(g, m, tile)
    layout = Layout(g, m, tile, count)
    if scratch is None:
        scratch = aligned(scratch_bytes(g, m) // 4)
    rows, taps = _tables(blocks(g.c_in), layout.block, tile.pixels)
    floor = _ZERO if relu else _NO_FLOOR
    frame = frame_of(
        m=m, pad_top=g.pad_top, pad_left=g.pad_left, tiles_wide=wide, tiles_per_image=high * wide,
        count=total, per_piece=count,
        x=x.address + x.first, x_image=x.image_bytes, x_block=x.block_bytes, x_row=x.row_bytes, x_blocks=blocks(g.c_in),
        x_low=-x.halo, x_bottom=g.h + x.halo, x_right=g.w + x.halo,
        y=y.address + y.first, y_image=y.image_bytes, y_block=y.block_bytes, y_row=y.row_bytes,
        y_blocks=blocks(g.c_out), y_h=g.h_out, y_w=g.w_out,
        bias=bias.ctypes.data, floor=floor.ctypes.data, zeros=ZEROS_ROW.ctypes.data,
        u=u.ctypes.data, u_point=u.strides[0], u_panel=u.strides[1], panels=u.shape[1], panels_per_piece=u.shape[1],
        v=scratch.ctypes.data, v_point=layout.v_point, v_block=layout.block,
        q=scratch.ctypes.data + layout.q, q_point=layout.q_point, q_block=layout.block, per_worker=layout.bytes,
        rows=rows.ctypes.data, taps=taps.ctypes.data,
        **_residual(residual),
    )  # fmt: skip
    kept = (x, u, bias, y, residual, scratch, rows, taps)
    tasks = forward_tasks(tile.pixels, tile.vectors)
    if is_fused(g, m):
        return [Step(tasks.fused, -(-total // count), frame, kept)]
    steps: list[Step] = []
    for first in range(0, total, count):
        steps += _phases(frame, tasks.products, first, min(count, total - first), u.shape, kept)
    return steps


def _residual(residual: Blocked | None) -> dict[str, int]:
    """Without a residual, zeros are added, always the same ones: one kernel serves both."""
    if residual is None:
        return {"residual": ZEROS_ROW.ctypes.data}
    return {
        "residual": residual.address + residual.first,
        "residual_image": residual.image_bytes,
        "residual_block": residual.block_bytes,
        "residual_row": residual.row_bytes,
        "residual_pixel": PIXEL,
    }


def _phases(
    shared: np.ndarray, products: Task, first: int, count: int, u_shape: tuple[int, ...], kept: tuple[Any, ...]
) -> list[Step]:
    """The three steps of tiles first, ..., first + count - 1."""
    from minires.kernels.cpu import winograd_tasks as words

    points, panels = u_shape[:2]
    frame = shared.copy()
    per_piece = max(1, count // (8 * workers()))
    per_product = max(1, min(panels, points * panels // (8 * workers())))
    frame[[words.FIRST, words.COUNT, words.PER_PIECE, words.PANELS_PER_PIECE]] = first, count, per_piece, per_product
    pieces = -(-count // per_piece)
    return [
        Step(patches_task, pieces, frame, kept),
        Step(products, points * -(-panels // per_product), frame, kept),
        Step(tiles_task, pieces, frame, kept),
    ]


class Scratch:
    """Memory from the pool for as long as a `with` block lasts; sizes are rounded up, so that layers share buffers."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._count = 1 << max(12, (size // 4 - 1).bit_length())
        self._key = ("scratch", self._count)

    def __enter__(self) -> np.ndarray:
        self._buffer = pool.take(self._key, self._count, np.float32)
        will_touch(self._buffer, self._size)
        return self._buffer

    def __exit__(self, *error: object) -> None:
        pool.give(self._key, self._buffer)


def forward_packed(
    x: Blocked,
    u: np.ndarray,
    bias: np.ndarray,
    g: Conv2dGeometry,
    residual: Blocked | None = None,
    relu: bool = False,
    m: int = 4,
) -> Blocked:
    """y = weight * x + bias [+ residual], [relu], with transformed weights and packed bias."""
    y = Blocked(g.y_shape)
    with Scratch(scratch_bytes(g, m)) as scratch:
        run_steps(*steps_forward(x, u, bias, y, residual, relu, g, m, scratch))
    return y


def forward(
    x: Blocked,
    weight: np.ndarray,
    bias: np.ndarray | None,
    g: Conv2dGeometry,
    residual: Blocked | None = None,
    relu: bool = False,
    m: int = 4,
) -> Blocked:
    """y = weight * x + bias [+ residual], [relu].

    Args:
        x: (n, c_in, h, w), any halo.
        weight: (c_out, c_in, 3, 3) float32; bias: (c_out,) or None.
        residual: as y.
        m: 2 or 4, the width of a tile.
    """
    return _convolve(x, weight, bias, g, residual, relu, m, rotated=False)


def backward_x(grad_y: Blocked, weight: np.ndarray, g: Conv2dGeometry, m: int = 4) -> Blocked:
    """The gradient in x, (n, c_in, h, w): grad_y convolved with the turned filters."""
    return _convolve(grad_y, weight, None, turned(g), None, False, m, rotated=True)


def _convolve(
    x: Blocked,
    weight: np.ndarray,
    bias: np.ndarray | None,
    g: Conv2dGeometry,
    residual: Blocked | None,
    relu: bool,
    m: int,
    rotated: bool,
) -> Blocked:
    tile = tile_for(g.c_out)
    shape = weights_shape(g.c_in, g.c_out, m, tile)
    with Scratch(4 * weights_numbers(shape)) as buffer:
        u = transform_weights(weight, m, rotated, weights_in(buffer, shape))
        return forward_packed(x, u, pack_bias(bias, g.c_out, tile), g, residual, relu, m)
