"""The tasks of batch norm that stand between two passes over memory: sums of a piece, and what a block makes of them.

A piece leaves its sums in a slot of its own, and one step a channel block adds the slots up in their order, in float64: the
result does not depend on who computed what. batch_norm.py puts the tasks together.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from minires.kernels.cpu.intrinsics import load_f32, load_f64, load_word, store_f32, store_f64
from minires.kernels.cpu.pixels import CENTRED, MASK, SPREAD, STORE, add_up
from minires.kernels.cpu.planes import PATCH, piece, pitch, place
from minires.kernels.cpu.tasks import Task, task

SLOT = 48  # float64 of a piece's results: two sums of 16 lanes, the count, and 16 float32 for the centre (from 40)
SAMPLE = 64  # pixels whose mean is a piece's guess
_MOMENTS = SPREAD | CENTRED  # sums of d and d^2


@task
def spread(index: int, worker: int, frame: int) -> None:
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
def merge_spread(index: int, worker: int, frame: int) -> None:
    """mean and var of a block from its pieces' slots. Words: slots, pieces a block, then `scale_coefficients`'s."""
    slots, chunks, n_blocks, c = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2), load_word(frame, 3)
    means = load_word(frame, 4) + 128 * index
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
        store_f64(means, c + lane, max(spread, 0.0) / count if spread == spread else spread)


@task
def scale_coefficients(index: int, worker: int, frame: int) -> None:
    """centre, scale and shift of a block: scale = weight / sqrt(var + eps).

    Words from 2 on: blocks, c, mean and var (2, c) float64, coefficients, weight, bias, eps (its bits).
    """
    c, means = load_word(frame, 3), load_word(frame, 4) + 128 * index
    coefficients, eps = load_word(frame, 5) + 192 * index, load_f64(frame, 8)
    weight, bias = load_word(frame, 6) + 64 * index, load_word(frame, 7) + 64 * index
    for lane in range(min(16, c - 16 * index)):
        mean = load_f64(means, lane)
        scale = load_f32(weight, lane) / math.sqrt(load_f64(means, c + lane) + eps)
        centre = np.float32(mean)
        shift = load_f32(bias, lane) - (mean - centre) * scale  # the mean is not quite the centre: rounding
        store_f32(coefficients, lane, centre)
        store_f32(coefficients, 16 + lane, np.float32(scale))
        store_f32(coefficients, 32 + lane, np.float32(shift))


@cache
def sums_task(mask: int, store: int, centred: int) -> Task:
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
def merge_sums(index: int, worker: int, frame: int) -> None:
    """grad_weight, grad_bias and the coefficients of grad_x of a block.

    grad_x = scale (g - grad_bias / count - x_hat grad_weight / count) = a g + b (x - centre) + c. With given statistics
    (count = 0 in the frame) the last two terms are not there.

    Words: slots, pieces a block, blocks, c, mean and var, coefficients, weight, centres, eps (its bits), count, grad_weight
    and grad_bias (2, c) float32.
    """
    slots, chunks, n_blocks, c = load_word(frame, 0), load_word(frame, 1), load_word(frame, 2), load_word(frame, 3)
    means, coefficients = load_word(frame, 4) + 128 * index, load_word(frame, 5) + 256 * index
    weight, centres = load_word(frame, 6) + 64 * index, load_word(frame, 7) + 64 * index
    eps, count, grads = load_f64(frame, 8), load_word(frame, 9), load_word(frame, 10) + 64 * index
    for lane in range(min(16, c - 16 * index)):
        total, product = 0.0, 0.0
        for chunk in range(chunks):
            slot = slots + 8 * SLOT * (index + chunk * n_blocks)
            total += load_f64(slot, lane)
            product += load_f64(slot, 16 + lane)
        centre = load_f32(centres, lane)
        rest = load_f64(means, lane) - centre
        inv_std = 1.0 / math.sqrt(load_f64(means, c + lane) + eps)
        grad_weight = inv_std * (product - rest * total)
        store_f32(grads, lane, np.float32(grad_weight))
        store_f32(grads, c + lane, np.float32(total))
        a, b, shift = inv_std * load_f32(weight, lane), 0.0, 0.0
        if count > 0:
            b = -a * inv_std * grad_weight / count
            shift = -a * total / count - b * rest
        store_f32(coefficients, lane, np.float32(a))
        store_f32(coefficients, 16 + lane, np.float32(b))
        store_f32(coefficients, 32 + lane, np.float32(shift))
        store_f32(coefficients, 48 + lane, centre)
