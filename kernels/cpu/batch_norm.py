"""Batch norm on the blocked layout, alone and with the shortcut and the ReLU behind it: two passes each way.

Forward: the statistics (read x), then y = max((x - mean) * scale + shift [+ shortcut], floor) (read x, write y). Backward:
two sums a channel (read grad_y, x and, for the mask of the ReLU, y), then grad_x, a linear combination of the same arrays.
Between the passes stands a step a channel block that adds the pieces' results up and makes coefficients of them; all
three are one call from Python.

**Statistics that do not cancel.** The textbook's two passes over x read memory twice. One pass that sums x and x^2 reads it
once and is useless where |mean| >> std. So a piece takes the mean of its first pixels as a guess k and sums d = x - k and d^2:
with k near the mean nothing is lost in M2 = sum d^2 - (sum d)^2 / count. Pieces (count, mean, M2) merge exactly:

    mean = mean_a + delta count_b / count,   M2 = M2_a + M2_b + delta^2 count_a count_b / count,   delta = mean_b - mean_a

Sources: Ioffe and Szegedy 2015, algorithm 1 and the derivatives of section 3; Chan, Golub and LeVeque 1983 (algorithms
for computing the sample variance), equations 1.5 and 2.1.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from minires.kernels.cpu.batch_norm_tasks import (
    SLOT,
    merge_spread,
    merge_sums,
    scale_coefficients,
    spread,
    sums_task,
)
from minires.kernels.cpu.elementwise import combine_step, scale_shift_step
from minires.kernels.cpu.layout import Blocked, blocks
from minires.kernels.cpu.memory import aligned
from minires.kernels.cpu.planes import cut_of, pieces, planes_frame
from minires.kernels.cpu.tasks import Step, run_steps

# -------------------------------------------------------------------------------------------------------------- steps


class Scratch:
    """What the steps of one call hand on to each other, in one buffer.

    Attributes:
        numbers: the buffer, zeros where nothing was written: so dead lanes have coefficients of 0.
        slots, coefficients, weight, bias: addresses. There are four rows of coefficients a block, of which the forward
            steps use three; weight and bias are 1 and 0 where there is none.
        vectors: weight and bias as an array, (2, blocks * 16).
    """

    def __init__(self, channels: int, chunks: int, weight: Any, bias: Any) -> None:
        padded = blocks(channels) * 16
        slots = 2 * SLOT * blocks(channels) * chunks  # float32 that a float64 is worth
        self.numbers = aligned(slots + 6 * padded)
        self.slots = self.numbers.ctypes.data
        self.coefficients = self.slots + 4 * slots
        self.weight = self.coefficients + 16 * padded
        self.bias = self.weight + 4 * padded
        self.vectors = self.numbers[slots + 4 * padded :].reshape(2, padded)
        self.vectors[0, :channels] = 1 if weight is None else weight
        if bias is not None:
            self.vectors[1, :channels] = bias


def _bits(number: float) -> int:
    """A float64 as the integer of the same bits, which a frame can hold."""
    return int(struct.unpack("q", struct.pack("d", number))[0])


def statistics_steps(x: Blocked, moments: np.ndarray, scratch: Scratch, eps: float) -> list[Step]:
    """The steps that fill `moments`, (2, c) float64, with mean and variance of x. Then `scale_step` may follow."""
    spread_frame = planes_frame(x.shape, [x], scratch.slots)
    merge_frame = _scale_frame(x.shape[1], moments, scratch, eps, cut_of(x.shape).chunks)
    return [
        Step(spread, pieces(x.shape), spread_frame, (x, scratch.numbers)),
        Step(merge_spread, blocks(x.shape[1]), merge_frame, (moments, scratch.numbers)),
    ]


def _scale_frame(channels: int, moments: np.ndarray, scratch: Scratch, eps: float, chunks: int) -> np.ndarray:
    words = [scratch.slots, chunks, blocks(channels), channels, moments.ctypes.data]
    return np.array([*words, scratch.coefficients, scratch.weight, scratch.bias, _bits(eps)], np.int64)


def scale_step(channels: int, moments: np.ndarray, scratch: Scratch, eps: float) -> Step:
    """The step that makes coefficients for `scale_shift_step` of moments, weight and bias."""
    frame = _scale_frame(channels, moments, scratch, eps, 0)
    return Step(scale_coefficients, blocks(channels), frame, (moments, scratch.numbers))


def statistics(x: Blocked) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel, (c,) float64; zeros where there is nothing to average."""
    moments = np.zeros((2, x.shape[1]))
    if not _is_empty(x):
        run_steps(*statistics_steps(x, moments, Scratch(x.shape[1], cut_of(x.shape).chunks, None, None), 0.0))
    return moments[0], moments[1]


def _given(mean: Any, var: Any) -> np.ndarray:
    moments = np.empty((2, len(mean)))
    moments[0], moments[1] = mean, var
    return moments


# ------------------------------------------------------------------------------------------------------------- forward


def _is_empty(x: Blocked) -> bool:
    return 0 in x.shape


def _train(
    x: Blocked, weight: Any, bias: Any, eps: float, shortcut: Blocked | None, relu: bool
) -> tuple[Blocked, np.ndarray, np.ndarray]:
    y, moments = Blocked(x.shape), np.zeros((2, x.shape[1]))
    if not _is_empty(x):
        scratch = Scratch(x.shape[1], cut_of(x.shape).chunks, weight, bias)
        spread_step, merge = statistics_steps(x, moments, scratch, eps)
        scale = Step(scale_coefficients, merge.pieces, merge.frame)
        run_steps(
            spread_step, merge, scale, scale_shift_step(x, y, scratch.numbers, relu, shortcut, scratch.coefficients)
        )
    return y, moments[0], moments[1]


def _eval(
    x: Blocked, weight: Any, bias: Any, mean: Any, var: Any, eps: float, shortcut: Blocked | None, relu: bool
) -> Blocked:
    y = Blocked(x.shape)
    if not _is_empty(x):
        scratch = Scratch(x.shape[1], 0, weight, bias)
        scale = scale_step(x.shape[1], _given(mean, var), scratch, eps)
        run_steps(scale, scale_shift_step(x, y, scratch.numbers, relu, shortcut, scratch.coefficients))
    return y


def batch_norm_train(x: Blocked, weight: Any, bias: Any, eps: float) -> tuple[Blocked, np.ndarray, np.ndarray]:
    """See interface.batch_norm_train."""
    return _train(x, weight, bias, eps, None, False)


def batch_norm_relu_train(
    x: Blocked, weight: Any, bias: Any, eps: float, shortcut: Blocked | None = None
) -> tuple[Blocked, np.ndarray, np.ndarray]:
    """See interface.batch_norm_relu_train."""
    return _train(x, weight, bias, eps, shortcut, True)


def batch_norm_eval(x: Blocked, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> Blocked:
    """See interface.batch_norm_eval."""
    return _eval(x, weight, bias, mean, var, eps, None, False)


def batch_norm_relu_eval(
    x: Blocked, weight: Any, bias: Any, mean: Any, var: Any, eps: float, shortcut: Blocked | None = None
) -> Blocked:
    """See interface.batch_norm_relu_eval."""
    return _eval(x, weight, bias, mean, var, eps, shortcut, True)


# ------------------------------------------------------------------------------------------------------------ backward


def _backward(
    grad_y: Blocked, y: Blocked | None, x: Blocked, weight: Any, mean: Any, var: Any, eps: float,
    train: bool, has_shortcut: bool,
) -> tuple[Blocked, np.ndarray, np.ndarray, Blocked | None]:  # fmt: skip
    """Sums, coefficients, combination. With a shortcut the first pass writes g, its gradient, and the second reads that."""
    n, c, h, w = x.shape
    grad_x, grads = Blocked(x.shape), np.zeros((2, c), np.float32)
    masked = Blocked(x.shape) if has_shortcut else None
    if _is_empty(x):
        return grad_x, grads[0], grads[1], masked
    chunks, moments = cut_of(x.shape).chunks, _given(mean, var)
    scratch = Scratch(c, chunks, weight, mean)  # the means, rounded, take the place of a bias: the sums' centre
    words = [
        scratch.slots,
        chunks,
        blocks(c),
        c,
        moments.ctypes.data,
        scratch.coefficients,
        scratch.weight,
        scratch.bias,
    ]
    words += [_bits(eps), n * h * w if train else 0, grads.ctypes.data]
    add_up_frame = planes_frame(x.shape, [grad_y, y, x, masked], scratch.slots, scratch.bias)
    through, mask = (grad_y, y) if masked is None else (masked, None)
    run_steps(
        Step(sums_task(int(y is not None), int(has_shortcut), 1), pieces(x.shape), add_up_frame),
        Step(merge_sums, blocks(c), np.array(words, np.int64)),
        combine_step(through, mask, x if train else None, grad_x, scratch.numbers, scratch.coefficients),
    )
    return grad_x, grads[0], grads[1], masked


def batch_norm_train_backward(
    grad_y: Blocked, x: Blocked, weight: Any, mean: Any, var: Any, eps: float
) -> tuple[Blocked, np.ndarray, np.ndarray]:
    """See interface.batch_norm_train_backward."""
    return _backward(grad_y, None, x, weight, mean, var, eps, True, False)[:3]


def batch_norm_eval_backward(
    grad_y: Blocked, x: Blocked, weight: Any, mean: Any, var: Any, eps: float
) -> tuple[Blocked, np.ndarray, np.ndarray]:
    """See interface.batch_norm_eval_backward."""
    return _backward(grad_y, None, x, weight, mean, var, eps, False, False)[:3]


def batch_norm_relu_train_backward(
    grad_y: Blocked, y: Blocked, x: Blocked, weight: Any, mean: Any, var: Any, eps: float, has_shortcut: bool
) -> tuple[Blocked, np.ndarray, np.ndarray, Blocked | None]:
    """See interface.batch_norm_relu_train_backward."""
    return _backward(grad_y, y, x, weight, mean, var, eps, True, has_shortcut)


def batch_norm_relu_eval_backward(
    grad_y: Blocked, y: Blocked, x: Blocked, weight: Any, mean: Any, var: Any, eps: float, has_shortcut: bool
) -> tuple[Blocked, np.ndarray, np.ndarray, Blocked | None]:
    """See interface.batch_norm_relu_eval_backward."""
    return _backward(grad_y, y, x, weight, mean, var, eps, False, has_shortcut)
