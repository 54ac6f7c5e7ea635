"""The steps of the optimisers: all parameters of a network in one run.

An update reads three to five arrays and writes two to four: it is as fast as memory if nothing is read twice, and if sixty
small parameters cost one call instead of sixty. So every parameter is cut into chunks, and a chunk is a row of a table,

    addresses of the parameter, its gradient and its state   how many numbers   its hyperparameters

The hyperparameters are numbers at an address, not code, but for what adds an array: momentum, and AMSGrad.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from minires.kernels import reference
from minires.kernels.cpu.emit import Vector, emitted, word
from minires.kernels.cpu.intrinsics import load_word
from minires.kernels.cpu.lazy import types
from minires.kernels.cpu.pixels import LANES, for_range
from minires.kernels.cpu.tasks import Task, run, task

CHUNK = 1 << 14  # numbers of a piece: 64 KB an array
ROW = 8  # words of a row: five addresses, count, hyperparameters, whether the momentum buffer is new
HYPER = 8  # float32 of a parameter's hyperparameters


def _walk(b: Any, count: Any, addresses: Sequence[Any], hyper: Any, update: Callable[..., None]) -> None:
    """Emit `update(v, constants, addresses)` for all numbers: 16 at a time, the rest one by one."""
    wide, single = Vector(b, LANES), Vector(b, 1)
    constants = {v.lanes: [v.broadcast(hyper, 4 * k) for k in range(HYPER)] for v in (wide, single)}

    def step(v: Vector) -> Callable[..., list[Any]]:
        def body(index: Any, values: Sequence[Any]) -> list[Any]:
            along = b.mul(index, word(4))
            update(v, constants[v.lanes], [b.add(address, along) for address in addresses])
            return []

        return body

    index, _ = for_range(b, word(0), b.sub(count, word(LANES - 1)), LANES, [], step(wide))
    for_range(b, index, count, 1, [], step(single))


@emitted
def sgd_chunk(
    typing_context: Any, momentum: Any, param: Any, grad: Any, buffer: Any, count: Any, hyper: Any, flags: Any
) -> Any:
    """One chunk of interface.sgd_step.

    momentum: a literal, whether there is a buffer. flags: 1, the buffer is new; 2, nesterov.
    hyper: sign of the gradient, weight_decay, momentum, 1 - dampening, lr.
    """
    if not isinstance(momentum, types.IntegerLiteral):
        return None
    with_buffer = momentum.literal_value

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        param, grad, buffer, count, hyper, flags = arguments[1:]
        first, nesterov = (b.icmp_signed("!=", b.and_(flags, word(bit)), word(0)) for bit in (1, 2))

        def update(v: Vector, constants: Sequence[Any], at: Sequence[Any]) -> None:
            sign, decay, momentum, take, lr = constants[:5]
            p = v.load(at[0])
            g = v.fma(decay, p, v.mul(sign, v.load(at[1])))
            if with_buffer:
                new = b.select(first, g, v.fma(momentum, v.load(at[2]), v.mul(take, g)))
                v.store(new, at[2])
                g = b.select(nesterov, v.fma(momentum, new, g), new)
            v.store(v.sub(p, v.mul(lr, g)), at[0])

        _walk(b, count, [param, grad, buffer], hyper, update)
        return context.get_dummy_value()

    return types.void(momentum, *[types.int64] * 6), generate


@emitted
def adam_chunk(
    typing_context: Any,
    amsgrad: Any,
    param: Any,
    grad: Any,
    mean: Any,
    square: Any,
    largest: Any,
    count: Any,
    hyper: Any,
) -> Any:
    """One chunk of interface.adam_step.

    amsgrad: a literal. hyper: sign of the gradient, weight_decay (L2), 1 - lr * weight_decay (decoupled), beta1, beta2,
    lr / (1 - beta1^t), sqrt(1 - beta2^t), eps; behind them 1 - beta1 and 1 - beta2, which a subtraction in
    float32 would round a second time.
    """
    if not isinstance(amsgrad, types.IntegerLiteral):
        return None
    with_largest = amsgrad.literal_value

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        param, grad, mean, square, largest, count, hyper = arguments[1:]
        complements = {
            lanes: [Vector(b, lanes).broadcast(hyper, 4 * (HYPER + k)) for k in (0, 1)] for lanes in (LANES, 1)
        }

        def update(v: Vector, constants: Sequence[Any], at: Sequence[Any]) -> None:
            sign, decay, keep, beta1, beta2, step_size, root_correction, eps = constants
            rest1, rest2 = complements[v.lanes]
            p = v.load(at[0])
            g = v.fma(decay, p, v.mul(sign, v.load(at[1])))
            m = v.fma(beta1, v.load(at[2]), v.mul(rest1, g))
            s = v.fma(beta2, v.load(at[3]), v.mul(v.mul(rest2, g), g))
            v.store(m, at[2])
            v.store(s, at[3])
            if with_largest:
                s = v.larger(v.load(at[4]), s)
                v.store(s, at[4])
            below = v.add(v.div(v.sqrt(s), root_correction), eps)
            v.store(v.sub(v.mul(keep, p), v.div(v.mul(step_size, m), below)), at[0])

        _walk(b, count, [param, grad, mean, square, largest], hyper, update)
        return context.get_dummy_value()

    return types.void(amsgrad, *[types.int64] * 7), generate


@cache
def _sgd_task(momentum: int) -> Task:
    @task
    def sgd(index: int, worker: int, frame: int) -> None:
        row = load_word(frame, 0) + 64 * index
        sgd_chunk(
            momentum, load_word(row, 0), load_word(row, 1), load_word(row, 2),
            load_word(row, 5), load_word(row, 6), load_word(row, 7),
        )  # fmt: skip

    return sgd


@cache
def _adam_task(amsgrad: int) -> Task:
    @task
    def adam(index: int, worker: int, frame: int) -> None:
        row = load_word(frame, 0) + 64 * index
        adam_chunk(
            amsgrad, load_word(row, 0), load_word(row, 1), load_word(row, 2), load_word(row, 3), load_word(row, 4),
            load_word(row, 5), load_word(row, 6),
        )  # fmt: skip

    return adam


def _is_ours(arrays: Sequence[np.ndarray]) -> bool:
    """Whether a parameter's arrays are native float32 without gaps."""
    return all(a.dtype == np.float32 and a.dtype.isnative and a.flags.c_contiguous for a in arrays)


def _run(work: Task, arrays: list[tuple[np.ndarray, ...]], hyper: np.ndarray, flags: Sequence[int]) -> None:
    """One piece a chunk. arrays: those of each parameter; hyper: a row each, or one for all."""
    rows = np.zeros((len(arrays), ROW), np.int64)
    for row, own in zip(rows, arrays, strict=True):
        row[: len(own)] = [a.__array_interface__["data"][0] for a in own]
        row[5] = own[0].size
    rows[:, 6] = hyper.ctypes.data + np.arange(len(arrays)) * (hyper.strides[0] if len(hyper) > 1 else 0)
    rows[:, 7] = flags
    chunks = -(-rows[:, 5] // CHUNK)
    table = np.repeat(rows, chunks, 0)
    number = np.arange(len(table)) - np.repeat(np.cumsum(chunks) - chunks, chunks)  # of a chunk in its parameter
    table[:, :5] += (4 * CHUNK * number)[:, None]
    table[:, 5] = np.minimum(CHUNK, table[:, 5] - CHUNK * number)
    run(work, len(table), np.array([table.ctypes.data], np.int64))


def sgd_step(
    params: Sequence[np.ndarray],
    grads: Sequence[np.ndarray],
    buffers: Sequence[np.ndarray],
    first: Sequence[bool],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """See interface.sgd_step. What is not contiguous float32 goes to the reference."""
    options = (lr, momentum, dampening, weight_decay, nesterov, maximize)
    states = list(zip(buffers, strict=True)) if momentum != 0 else [()] * len(params)
    new = list(first) if momentum != 0 else [False] * len(params)
    ours, flags = [], []
    for p, g, state, is_first in zip(params, grads, states, new, strict=True):
        if _is_ours((p, g, *state)):
            ours.append((p, g, *state))
            flags.append(int(is_first) + 2 * nesterov)
        else:
            reference.sgd_step([p], [g], list(state), [is_first], *options)
    if ours:
        numbers = [-1 if maximize else 1, weight_decay, momentum, 1 - dampening, lr]
        hyper = np.zeros((1, HYPER), np.float32)
        hyper[0, : len(numbers)] = numbers
        _run(_sgd_task(int(momentum != 0)), ours, hyper, flags)


def adam_step(
    params: Sequence[np.ndarray],
    grads: Sequence[np.ndarray],
    means: Sequence[np.ndarray],
    squares: Sequence[np.ndarray],
    largest: Sequence[np.ndarray],
    steps: Sequence[float],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """See interface.adam_step. What is not contiguous float32 goes to the reference."""
    ours, hyper = [], []
    lists = [params, grads, means, squares] + [largest] * bool(largest)
    for t, arrays in zip(steps, zip(*lists, strict=True), strict=True):
        if not _is_ours(arrays):
            p, g, m, v, *more = ([a] for a in arrays)
            more_or_none = more[0] if more else []
            reference.adam_step(p, g, m, v, more_or_none, [t], lr, beta1, beta2, eps, weight_decay, decoupled, maximize)
            continue
        ours.append(arrays)
        decay, keep = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
        corrected = lr / (1 - beta1**t), (1 - beta2**t) ** 0.5
        hyper.append([-1 if maximize else 1, decay, keep, beta1, beta2, *corrected, eps, 1 - beta1, 1 - beta2])
    if ours:
        _run(_adam_task(int(bool(largest))), ours, np.array(hyper, np.float32), [0] * len(ours))
