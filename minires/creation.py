"""Making tensors: from data, filled, ranges, random. torch's names and arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from minires import random
from minires.backend import as_device
from minires.dtypes import as_dtype, bool_, dtype, get_default_dtype, int64
from minires.errors import ArgumentError, ShapeError, UnsupportedError
from minires.ops.shape import as_sizes
from minires.tensor import Tensor


def _as_array(data: Any, wanted: Any) -> np.ndarray:
    """`data` as an array in native byte order, with torch's dtypes: Python floats are float32, ints int64."""
    if isinstance(data, Tensor):
        array = data.array
    elif isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
    else:
        array = _nested(data)
    if wanted is None and not isinstance(data, (Tensor, np.ndarray, np.generic)):
        kind = array.dtype.kind
        if kind not in "biuf":
            raise ArgumentError(f"tensor: data must be numbers, got {data!s:.80}")
        wanted = get_default_dtype() if kind == "f" or array.size == 0 else {"b": bool_}.get(kind, int64)
    target = as_dtype(array.dtype if wanted is None else wanted).numpy
    return array.astype(target, copy=False)


def _nested(data: Any) -> np.ndarray:
    """Lists of numbers and of tensors, to any depth."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.array
        return [plain(v) for v in value] if isinstance(value, (list, tuple, range)) else value

    try:
        return np.array(plain(data))
    except ValueError:
        raise ShapeError(
            f"tensor: data must be a rectangle of numbers, got lists of different lengths: {data!s:.80}"
        ) from None


def _finish(array: Any, requires_grad: bool, device: Any = None) -> Tensor:
    if device is not None:
        as_device(device)
    return Tensor(array, requires_grad=requires_grad)


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
) -> Tensor:
    """A tensor with a copy of `data` (numbers, nested lists, an array or a tensor)."""
    return _finish(np.array(_as_array(data, dtype), copy=True), requires_grad, device)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """`data` as a tensor, sharing memory where it can."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    return _finish(_as_array(data, dtype), False, device)


asarray = as_tensor


def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor over the memory of `ndarray` (a copy only where its byte order is foreign)."""
    if not isinstance(ndarray, np.ndarray):
        raise ArgumentError(f"from_numpy: expected a NumPy array, got {type(ndarray).__name__}")
    return Tensor(_as_array(ndarray, None))


def _check_options(options: dict[str, Any]) -> None:
    """torch's options that only speak of layout in memory and of a GPU's copies are accepted, and nothing else is."""
    for name in options:
        if name == "out":
            raise UnsupportedError("out=: results are always new tensors in minires; use out.copy_(result)")
        if name not in ("layout", "pin_memory", "memory_format"):
            raise TypeError(
                f"unknown argument {name!r}; known: dtype, device, requires_grad, layout, pin_memory, memory_format"
            )


def _filled(
    value: Any, size: tuple[Any, ...], wanted: Any, device: Any, requires_grad: bool, options: dict[str, Any]
) -> Tensor:
    _check_options(options)
    shape = as_sizes("zeros", size)
    if any(s < 0 for s in shape):
        raise ShapeError(f"creation: sizes must not be negative, got {shape}")
    chosen = get_default_dtype() if wanted is None else as_dtype(wanted)
    return _finish(np.full(shape, value, chosen.numpy), requires_grad, device)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:
    return _filled(0, size, dtype, device, requires_grad, options)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:
    return _filled(1, size, dtype, device, requires_grad, options)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:
    """Zeros: memory with whatever was in it is a trap that nobody needs."""
    return _filled(0, size, dtype, device, requires_grad, options)


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    if dtype is None:
        dtype = as_dtype(type(fill_value)) if isinstance(fill_value, (bool, int, float)) else None
    return _filled(fill_value, (size,) if isinstance(size, int) else tuple(size), dtype, device, requires_grad, {})


def _like(input: Tensor, value: Any, dtype: Any, device: Any, requires_grad: bool, options: dict[str, Any]) -> Tensor:
    wanted = input.dtype if dtype is None else dtype
    return _filled(value, tuple(input.array.shape), wanted, device, requires_grad, options)


def zeros_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **options: Any
) -> Tensor:
    return _like(input, 0, dtype, device, requires_grad, options)


def ones_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **options: Any
) -> Tensor:
    return _like(input, 1, dtype, device, requires_grad, options)


def empty_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **options: Any
) -> Tensor:
    return _like(input, 0, dtype, device, requires_grad, options)


def full_like(
    input: Tensor, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    return _like(input, fill_value, dtype, device, requires_grad, {})


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """start, start + step, ... up to but not including end; `arange(n)` begins at 0."""
    if end is None:
        start, end = 0, start
    start, end, step = (v.item() if isinstance(v, Tensor) else v for v in (start, end, step))
    if step == 0 or (end - start) * step < 0:
        raise ArgumentError(
            f"arange: step must lead from start to end, got start = {start}, end = {end}, step = {step}"
        )
    floating = any(isinstance(v, float) for v in (start, end, step))
    wanted = as_dtype(dtype) if dtype is not None else get_default_dtype() if floating else int64
    return _finish(np.arange(start, end, step).astype(wanted.numpy), requires_grad, device)


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`steps` values from start to end, both included."""
    wanted = get_default_dtype() if dtype is None else as_dtype(dtype)
    return _finish(np.linspace(start, end, steps).astype(wanted.numpy), requires_grad, device)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    wanted = get_default_dtype() if dtype is None else as_dtype(dtype)
    return _finish(np.eye(n, m, dtype=wanted.numpy), requires_grad, device)


def _random(draw: Any, size: tuple[Any, ...], wanted: Any, device: Any, requires_grad: bool, generator: Any) -> Tensor:
    chosen = get_default_dtype() if wanted is None else as_dtype(wanted)
    return _finish(
        np.asarray(draw(random.generator(generator), as_sizes("random", size)), chosen.numpy), requires_grad, device
    )


def rand(
    *size: Any,
    generator: Any = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **options: Any,
) -> Tensor:
    """Uniform in [0, 1)."""
    _check_options(options)
    return _random(lambda g, shape: g.random(shape), size, dtype, device, requires_grad, generator)


def randn(
    *size: Any,
    generator: Any = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **options: Any,
) -> Tensor:
    """Normal with mean 0 and variance 1."""
    _check_options(options)
    return _random(lambda g, shape: g.standard_normal(shape), size, dtype, device, requires_grad, generator)


def rand_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    return rand(*input.shape, dtype=input.dtype if dtype is None else dtype, device=device, requires_grad=requires_grad)


def randn_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    return randn(
        *input.shape, dtype=input.dtype if dtype is None else dtype, device=device, requires_grad=requires_grad
    )


def randint(
    low: int, high: Any = None, size: Any = None, *, generator: Any = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Integers from low (0 unless given) to high - 1."""
    if size is None:  # torch: randint(high, size)
        low, high, size = 0, low, high
    if low >= high:
        raise ArgumentError(f"randint: low must be smaller than high, got low = {low} and high = {high}")
    return _random(
        lambda g, shape: g.integers(low, high, shape),
        tuple(size),
        int64 if dtype is None else dtype,
        device,
        requires_grad,
        generator,
    )


def randperm(
    n: int, *, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """0 to n - 1 in random order."""
    order = random.generator(generator).permutation(n)
    return _finish(order.astype((int64 if dtype is None else as_dtype(dtype)).numpy), requires_grad, device)


def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Any = None) -> Tensor:
    """Normal with the given mean and standard deviation, numbers or tensors."""
    location, scale = (v.array if isinstance(v, Tensor) else v for v in (mean, std))
    drawn = random.generator(generator).normal(location, scale, None if size is None else tuple(size))
    return Tensor(np.asarray(drawn, get_default_dtype().numpy))


def bernoulli(input: Tensor, p: Any = None, *, generator: Any = None) -> Tensor:
    """1 with the probability that stands in `input` (or `p`), else 0."""
    probability = input.array if p is None else p
    return Tensor((random.generator(generator).random(input.array.shape) < probability).astype(input.array.dtype))


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    vectors = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    if indexing not in ("ij", "xy"):
        raise ArgumentError(f"meshgrid: indexing must be 'ij' or 'xy', got {indexing!r}")
    return tuple(Tensor(a) for a in np.meshgrid(*(v.array for v in vectors), indexing=indexing))  # type: ignore[call-overload]


__all__ = [
    "arange", "as_tensor", "asarray", "bernoulli", "dtype", "empty", "empty_like", "eye", "from_numpy", "full", "full_like",
    "linspace", "meshgrid", "normal", "ones", "ones_like", "rand", "rand_like", "randint", "randn", "randn_like", "randperm",
    "tensor", "zeros", "zeros_like",
]  # fmt: skip
