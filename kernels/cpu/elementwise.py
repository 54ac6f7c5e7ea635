"""Elementwise kernels on the blocked layout: scale and shift, ReLU, the residual join, sums of arrays.

One task does the forward ones, one their backward passes; see pixels.py for why a copy may be a multiplication by 1.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from minires.kernels.cpu.intrinsics import load_word
from minires.kernels.cpu.layout import BLOCK, Blocked, blocks
from minires.kernels.cpu.memory import aligned
from minires.kernels.cpu.pixels import CENTRED, MASK, SHORTCUT, combine, scale_shift
from minires.kernels.cpu.planes import piece, pieces, pitch, place, planes_frame
from minires.kernels.cpu.tasks import Step, Task, run_steps, task

_FLOORS = np.array([-np.inf, 0], np.float32)  # without a ReLU, and with one
_FLOOR = _FLOORS.ctypes.data


@cache
def scale_shift_task(with_shortcut: int) -> Task:
    """y = max((x - centre) * scale + shift [+ shortcut], floor). Arrays: x, y, shortcut; words 6, 7: coefficients, floor."""
    flags = SHORTCUT if with_shortcut else 0

    @task
    def scale_shift_piece(index: int, worker: int, frame: int) -> None:
        block, image, last_image, row, last_row = piece(frame, index)
        coefficients, floor, width = load_word(frame, 6) + block * 192, load_word(frame, 7), load_word(frame, 3)
        for i in range(image, last_image):
            scale_shift(
                flags, last_row - row, width,
                place(frame, 0, i, block, row), pitch(frame, 0),
                place(frame, 1, i, block, row), pitch(frame, 1),
                place(frame, 2, i, block, row), pitch(frame, 2),
                coefficients, floor,
            )  # fmt: skip

    return scale_shift_piece


@cache
def combine_task(mask: int, centred: int) -> Task:
    """grad_x = a * g [+ b * (x - centre) + c]. Arrays: grad_y, y, x, grad_x; word 6: coefficients."""
    flags = (MASK if mask else 0) | (CENTRED if centred else 0)

    @task
    def combine_piece(index: int, worker: int, frame: int) -> None:
        block, image, last_image, row, last_row = piece(frame, index)
        coefficients, width = load_word(frame, 6) + block * 256, load_word(frame, 3)
        for i in range(image, last_image):
            combine(
                flags, last_row - row, width,
                place(frame, 0, i, block, row), pitch(frame, 0),
                place(frame, 1, i, block, row), pitch(frame, 1),
                place(frame, 2, i, block, row), pitch(frame, 2),
                place(frame, 3, i, block, row), pitch(frame, 3),
                coefficients,
            )  # fmt: skip

    return combine_piece


def scale_shift_step(
    x: Blocked, y: Blocked, coefficients: np.ndarray, relu: bool, shortcut: Blocked | None = None, at: int = 0
) -> Step:
    """The step y = (x - centre) * scale + shift [+ shortcut], [relu].

    Args:
        coefficients: (blocks, 3, 16) float32: centre, scale, shift of each channel. Or any array that holds them, from
            the address `at` on: asking an array for its address takes a microsecond, and a network has many.
    """
    frame = planes_frame(x.shape, [x, y, shortcut], at or coefficients.ctypes.data, _FLOOR + 4 * relu)
    work = scale_shift_task(int(shortcut is not None))
    return Step(work, pieces(x.shape), frame, (x, y, coefficients, shortcut))


def combine_step(
    grad_y: Blocked, y: Blocked | None, x: Blocked | None, grad_x: Blocked, coefficients: np.ndarray, at: int = 0
) -> Step:
    """The step grad_x = a * g [+ b * (x - centre) + c], g masked by y where there is one.

    Args:
        coefficients, at: as of scale_shift_step, but (blocks, 4, 16): a, b, c, centre.
    """
    frame = planes_frame(grad_y.shape, [grad_y, y, x, grad_x], at or coefficients.ctypes.data)
    work = combine_task(int(y is not None), int(x is not None))
    return Step(work, pieces(grad_y.shape), frame, (grad_y, y, x, grad_x, coefficients))


def coefficients_for(channels: int, rows: int) -> np.ndarray:
    """(blocks, rows, 16) zeros: dead lanes then stay zero whatever the step."""
    return aligned(blocks(channels) * rows * BLOCK).reshape(blocks(channels), rows, BLOCK)


@cache
def _identity(channels: int, rows: int, one: int) -> np.ndarray:
    coefficients = coefficients_for(channels, rows)
    coefficients[:, one] = 1
    return coefficients


def _forward(x: Blocked, y: Blocked, relu: bool, shortcut: Blocked | None) -> Blocked:
    if y.data.size:
        run_steps(scale_shift_step(x, y, _identity(x.shape[1], 3, 1), relu, shortcut))
    return y


def relu_forward(x: Blocked) -> Blocked:
    """See interface.relu_forward."""
    return _forward(x, Blocked(x.shape), True, None)


def relu_backward(grad_y: Blocked, y: Blocked) -> Blocked:
    """See interface.relu_backward."""
    grad_x = Blocked(grad_y.shape)
    if grad_x.data.size:
        run_steps(combine_step(grad_y, y, None, grad_x, _identity(y.shape[1], 4, 0)))
    return grad_x


def residual_relu_forward(x: Blocked, shortcut: Blocked) -> Blocked:
    """See interface.residual_relu_forward."""
    return _forward(x, Blocked(x.shape), True, shortcut)


residual_relu_backward = relu_backward


def add(a: Blocked, b: Blocked) -> Blocked:
    """a + b, a new array."""
    return _forward(a, Blocked(a.shape), False, b)


def iadd(a: Blocked, b: Blocked) -> None:
    """a += b."""
    _forward(a, a, False, b)


def copy(x: Blocked) -> Blocked:
    """The same numbers in memory of their own."""
    return _forward(x, Blocked(x.shape), False, None)
