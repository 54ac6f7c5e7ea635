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

import math
from functools import cache
from typing import Any

import numpy as np

from minires.kernels.cpu.elementwise import coefficients_for, combine_step, scale_shift_step
from minires.kernels.cpu.intrinsics import load_f32, load_f64, load_word, store_f32, store_f64
from minires.kernels.cpu.layout import Blocked, blocks
from minires.kernels.cpu.memory import aligned
from minires.kernels.cpu.pixels import CENTRED, MASK, SPREAD, STORE, add_up
from minires.kernels.cpu.planes import PATCH, Cut, Step, piece, pieces, pitch, place, planes_frame, run_steps
from minires.kernels.cpu.tasks import Task, task

SLOT = 48  # float64 of a piece's results: two sums of 16 lanes, the count, and 16 float32 for the centre (from 40)
SAMPLE = 64  # pixels whose mean is a piece's guess
_MOMENTS = SPREAD | CENTRED  # sums of d and d^2


# -------------------------------------------------------------------------------------------------------- reductions


@task
def _spread(index: int, worker: int, frame: int) -> None:
    """(count, mean, M2) of a piece of x into its slot. Arrays: x; word 6: slots."""
    block, image, last_image, row, last_row = piece(frame, index)
    width, slot = load_word(frame, 3), load_word(frame, 6) + 8 * SLOT * index
    centre = slot + 8 * 40
    for k in range(SLOT):
        store_f64(slot, k, 0.0)  # the sums, and a centre of zero for the guess
    rows = max(1, min(last_row - row, SAMPLE // width))
    images = max(1, min(last_image - image, SAMPLE // (width * rows)))
    for i in range(image, image + images):
        add_up(
            SPREAD, rows, width, 0, 0, 0, 0, place(frame, 0, i, block, row), pitch(frame, 0), 0, 0, centre, slot
        )  # fmt: skip
    for lane in range(16):
        store_f32(centre, lane, np.float32(load_f64(slot, lane) / (images * rows * width)))
        store_f64(slot, lane, 0.0)
    step = max(1, PATCH // width)
    for i in range(image, last_image):
        for r in range(row, last_row, step):
            add_up(
                _MOMENTS, min(step, last_row - r), width, 0, 0, 0, 0,
                place(frame, 0, i, block, r), pitch(frame, 0), 0, 0, centre, slot,
            )  # fmt: skip
    count = (last_image - image) * (last_row - row) * width
    for lane in range(16):
        total = load_f64(slot, lane)
        store_f64(slot, lane, load_f32(centre, lane) + total / count)
        store_f64(slot, 16 + lane, load_f64(slot, 16 + lane) - total * total / count)
    store_f64(slot, 32, float(count))


@task
def _merge_spread(index: int, worker: int, frame: int) -> None:
    """mean and var of a block from its pieces' slots.

    Words: slots, blocks, pieces a block, c, mean, var, then what `_scale` reads: coefficients, weight, bias, eps.
    """
    slots, n_blocks, chunks, c = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2), load_word(frame, 3)
    means, variances = load_word(frame, 4) + 128 * index, load_word(frame, 5) + 128 * index
    for lane in range(min(16, c - 16 * index)):
        first = slots + 8 * SLOT * index
        mean, spread, count = load_f64(first, lane), load_f64(first, 16 + lane), load_f64(first, 32)
        for chunk in range(1, chunks):
            slot = first + 8 * SLOT * chunk * n_blocks
            more = load_f64(slot, 32)
            share = more / (count + more)
            delta = load_f64(slot, lane) - mean
            mean += delta * share
            spread += load_f64(slot, 16 + lane) + delta * delta * count * share
            count += more
        store_f64(means, lane, mean)
        store_f64(variances, lane, max(spread, 0.0) / count if spread == spread else spread)


@task
def _scale(index: int, worker: int, frame: int) -> None:
    """centre, scale and shift of a block: scale = weight / sqrt(var + eps). Words: as `_merge_spread`."""
    c = load_word(frame, 3)
    means, variances = load_word(frame, 4) + 128 * index, load_word(frame, 5) + 128 * index
    coefficients = load_word(frame, 6) + 192 * index
    weight, bias, eps = load_word(frame, 7), load_word(frame, 8), load_f64(load_word(frame, 9), 0)
    for lane in range(min(16, c - 16 * index)):
        mean, channel = load_f64(means, lane), 16 * index + lane
        scale = 1.0 / math.sqrt(load_f64(variances, lane) + eps)
        if weight != 0:
            scale *= load_f32(weight, channel)
        centre = np.float32(mean)
        shift = -(mean - centre) * scale  # what rounding took from the mean
        if bias != 0:
            shift += load_f32(bias, channel)
        store_f32(coefficients, lane, centre)
        store_f32(coefficients, 16 + lane, np.float32(scale))
        store_f32(coefficients, 32 + lane, np.float32(shift))


@cache
def _sums_task(mask: int, store: int, centred: int) -> Task:
    """sums of g and g * (x - centre) of a piece into its slot. Arrays: grad_y, y, x, masked; words 6, 7: slots, centres."""
    flags = (MASK if mask else 0) | (STORE if store else 0) | (CENTRED if centred else 0)

    @task
    def sums(index: int, worker: int, frame: int) -> None:
        block, image, last_image, row, last_row = piece(frame, index)
        width, slot = load_word(frame, 3), load_word(frame, 6) + 8 * SLOT * index
        centre = load_word(frame, 7) + 64 * block
        for k in range(32):
            store_f64(slot, k, 0.0)
        step = max(1, PATCH // width)
        for i in range(image, last_image):
            for r in range(row, last_row, step):
                add_up(
                    flags, min(step, last_row - r), width,
                    place(frame, 0, i, block, r), pitch(frame, 0),
                    place(frame, 1, i, block, r), pitch(frame, 1),
                    place(frame, 2, i, block, r), pitch(frame, 2),
                    place(frame, 3, i, block, r), pitch(frame, 3),
                    centre, slot,
                )  # fmt: skip

    return sums


@task
def _merge_sums(index: int, worker: int, frame: int) -> None:
    """grad_weight, grad_bias and the coefficients of grad_x of a block.

    grad_x = scale (g - grad_bias / count - x_hat grad_weight / count) = a g + b (x - centre) + c. With given statistics
    (count = 0 in the frame) the last two terms are not there.

    Words: slots, blocks, pieces a block, c, mean, var, coefficients, weight, centres, eps, count, grad_weight, grad_bias.
    """
    slots, n_blocks, chunks, c = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2), load_word(frame, 3)
    means, variances = load_word(frame, 4) + 128 * index, load_word(frame, 5) + 128 * index
    coefficients, weight = load_word(frame, 6) + 256 * index, load_word(frame, 7)
    centres, eps, count = load_word(frame, 8) + 64 * index, load_f64(load_word(frame, 9), 0), load_word(frame, 10)
    grad_weights, grad_biases = load_word(frame, 11), load_word(frame, 12)
    for lane in range(min(16, c - 16 * index)):
        total, product = 0.0, 0.0
        for chunk in range(chunks):
            slot = slots + 8 * SLOT * (index + chunk * n_blocks)
            total += load_f64(slot, lane)
            product += load_f64(slot, 16 + lane)
        channel, centre = 16 * index + lane, load_f32(centres, lane)
        rest = load_f64(means, lane) - centre
        inv_std = 1.0 / math.sqrt(load_f64(variances, lane) + eps)
        grad_weight = inv_std * (product - rest * total)
        store_f32(grad_weights, channel, np.float32(grad_weight))
        store_f32(grad_biases, channel, np.float32(total))
        a, b, shift = inv_std, 0.0, 0.0
        if weight != 0:
            a *= load_f32(weight, channel)
        if count > 0:
            b = -a * inv_std * grad_weight / count
            shift = -a * total / count - b * rest
        store_f32(coefficients, lane, np.float32(a))
        store_f32(coefficients, 16 + lane, np.float32(b))
        store_f32(coefficients, 32 + lane, np.float32(shift))
        store_f32(coefficients, 48 + lane, centre)


# -------------------------------------------------------------------------------------------------------------- steps


def _vector(values: Any, dtype: Any = np.float32) -> np.ndarray | None:
    return None if values is None else np.ascontiguousarray(values, dtype)


def _address(values: np.ndarray | None) -> int:
    return 0 if values is None else values.ctypes.data


def statistics_steps(x: Blocked, mean: np.ndarray, var: np.ndarray) -> list[Step]:
    """The steps that fill mean and var, (c,) float64, with those of x."""
    n_blocks, chunks = blocks(x.shape[1]), Cut.of(x.shape).chunks
    slots = aligned(n_blocks * chunks * SLOT, np.float64)
    merge = [slots.ctypes.data, n_blocks, chunks, x.shape[1], mean.ctypes.data, var.ctypes.data]
    return [
        Step(_spread, pieces(x.shape), planes_frame(x.shape, [x], slots.ctypes.data), (x, slots)),
        Step(_merge_spread, n_blocks, np.array(merge, np.int64), (slots, mean, var)),
    ]


def scale_step(
    channels: int, weight: Any, bias: Any, mean: np.ndarray, var: np.ndarray, eps: float, coefficients: np.ndarray
) -> Step:
    """The step that fills coefficients, (blocks, 3, 16): what `scale_shift_step` takes. mean, var: (c,) float64."""
    weight, bias, eps_array = _vector(weight), _vector(bias), np.array([eps])
    words = [0, 0, 0, channels, mean.ctypes.data, var.ctypes.data, coefficients.ctypes.data]
    words += [_address(weight), _address(bias), eps_array.ctypes.data]
    return Step(_scale, blocks(channels), np.array(words, np.int64), (weight, bias, mean, var, eps_array, coefficients))


def statistics(x: Blocked) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel, (c,) float64; zeros where there is nothing to average."""
    mean, var = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    if x.data.size and x.shape[0] and x.shape[2] and x.shape[3]:
        run_steps(statistics_steps(x, mean, var))
    return mean, var


# ------------------------------------------------------------------------------------------------------------- forward


def _is_empty(x: Blocked) -> bool:
    return 0 in x.shape


def _train(
    x: Blocked, weight: Any, bias: Any, eps: float, shortcut: Blocked | None, relu: bool
) -> tuple[Blocked, np.ndarray, np.ndarray]:
    y, mean, var = Blocked(x.shape), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    if not _is_empty(x):
        coefficients = coefficients_for(x.shape[1], 3)
        run_steps(
            [
                *statistics_steps(x, mean, var),
                scale_step(x.shape[1], weight, bias, mean, var, eps, coefficients),
                scale_shift_step(x, y, coefficients, relu, shortcut),
            ]
        )
    return y, mean, var


def _eval(
    x: Blocked, weight: Any, bias: Any, mean: Any, var: Any, eps: float, shortcut: Blocked | None, relu: bool
) -> Blocked:
    y = Blocked(x.shape)
    if not _is_empty(x):
        mean, var = np.ascontiguousarray(mean, np.float64), np.ascontiguousarray(var, np.float64)
        coefficients = coefficients_for(x.shape[1], 3)
        run_steps(
            [
                scale_step(x.shape[1], weight, bias, mean, var, eps, coefficients),
                scale_shift_step(x, y, coefficients, relu, shortcut),
            ]
        )
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
    grad_x, grad_weight, grad_bias = Blocked(x.shape), np.zeros(c, np.float32), np.zeros(c, np.float32)
    masked = Blocked(x.shape) if has_shortcut else None
    if _is_empty(x):
        return grad_x, grad_weight, grad_bias, masked
    mean, var = np.ascontiguousarray(mean, np.float64), np.ascontiguousarray(var, np.float64)
    weight, eps_array = _vector(weight), np.array([eps])
    centres, coefficients = aligned(blocks(c) * 16), coefficients_for(c, 4)
    centres[:c] = mean
    n_blocks, chunks = blocks(c), Cut.of(x.shape).chunks
    slots = aligned(n_blocks * chunks * SLOT, np.float64)
    words = [slots.ctypes.data, n_blocks, chunks, c, mean.ctypes.data, var.ctypes.data, coefficients.ctypes.data]
    words += [_address(weight), centres.ctypes.data, eps_array.ctypes.data, n * h * w if train else 0]
    words += [grad_weight.ctypes.data, grad_bias.ctypes.data]
    add_up_frame = planes_frame(x.shape, [grad_y, y, x, masked], slots.ctypes.data, centres.ctypes.data)
    through = grad_y if masked is None else masked
    run_steps(
        [
            Step(_sums_task(int(y is not None), int(has_shortcut), 1), pieces(x.shape), add_up_frame),
            Step(_merge_sums, n_blocks, np.array(words, np.int64)),
            combine_step(through, y if masked is None else None, x if train else None, grad_x, coefficients),
        ]
    )
    return grad_x, grad_weight, grad_bias, masked


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


def channel_sum(x: Blocked) -> np.ndarray:
    """(c,) float32: the sum over images and pixels, the gradient of a convolution's bias."""
    n_blocks, chunks = blocks(x.shape[1]), Cut.of(x.shape).chunks if not _is_empty(x) else 0
    slots = aligned(n_blocks * chunks * SLOT, np.float64)
    if chunks:
        frame = planes_frame(x.shape, [x, None, None, None], slots.ctypes.data)
        run_steps([Step(_sums_task(0, 0, 0), pieces(x.shape), frame)])
    sums = slots.reshape(chunks, n_blocks, SLOT)[:, :, :16].sum(0)
    return sums.reshape(-1)[: x.shape[1]].astype(np.float32)
