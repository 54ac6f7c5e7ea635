"""Ways to fill a weight before training: torch's functions, distributions and defaults.

The rule behind most of them: a layer sums `fan_in` products, so its output has `fan_in * var(w)` times the variance of
its input. With var(w) = gain^2 / fan_in the variance stays the same from layer to layer, `gain` making up for what the
activation takes away. Backward the sum runs over `fan_out`.

Every function writes into its tensor, without recording, and returns it. The draws come from the global generator
(`minires.manual_seed`), or from `generator`. The distributions are torch's; the single numbers for a seed are not.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minires import random
from minires.autograd import no_grad
from minires.errors import ArgumentError, ShapeError, UnknownNameError
from minires.random import Generator
from minires.tensor import Tensor

_LINEAR = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_NONLINEARITIES = (*_LINEAR, "sigmoid", "tanh", "relu", "leaky_relu", "selu")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a weight's standard deviation makes up for the activation behind it.

    1 for linear layers and sigmoid, 5/3 for tanh, sqrt(2) for relu (half of its inputs become 0),
    sqrt(2 / (1 + slope^2)) for leaky_relu (`param`: the slope, 0.01 by default), 3/4 for selu.

    Raises:
        UnknownNameError: no such nonlinearity.
    """
    if nonlinearity in _LINEAR or nonlinearity == "sigmoid":
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ArgumentError(f"calculate_gain: param must be the negative slope, a number, got {param!r}")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise UnknownNameError.for_name("nonlinearity", nonlinearity, _NONLINEARITIES)


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """(products summed for one output, outputs that one input goes into) of a weight (out, in, *kernel)."""
    if tensor.ndim < 2:
        raise ShapeError(
            f"init: fan in and fan out need a weight of 2 or more dimensions, got shape {tuple(tensor.shape)}"
        )
    receptive_field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive_field, tensor.shape[0] * receptive_field


def _calculate_correct_fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(f"init: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return _calculate_fan_in_and_fan_out(tensor)[mode == "fan_out"]


_skipping = False


@contextlib.contextmanager
def skipped() -> Iterator[None]:
    """`with init.skipped(): net = resnet50()` draws no weights: for a network that is about to be filled from a file.

    Parameters then hold whatever is in memory. (torch builds on its device "meta" for this.)
    """
    global _skipping
    before, _skipping = _skipping, True
    try:
        yield
    finally:
        _skipping = before


def _fill(tensor: Tensor, values: Any) -> Tensor:
    """Write values into a tensor, converted to its dtype, without recording."""
    with no_grad():
        tensor.copy_(Tensor(np.asarray(values).astype(tensor.array.dtype)))
    return tensor


def _draw(tensor: Tensor, generator: Generator | None, sample: Callable[[Any, Any], Any]) -> Any:
    """`sample(generator, dtype)` in float64 for a float64 tensor, else in float32: no draw needs more digits than its
    target, and for float16 the rounding comes last."""
    if _skipping:
        return tensor.array
    dtype = np.float64 if tensor.array.dtype == np.float64 else np.float32
    return sample(random.generator(generator), dtype)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform in [a, b)."""
    if b < a:
        raise ArgumentError(f"uniform_: b must be at least a = {a}, got {b}")
    return _fill(
        tensor, _draw(tensor, generator, lambda g, dtype: g.random(tensor.shape, dtype) * dtype(b - a) + dtype(a))
    )


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with the given mean and standard deviation."""
    if std < 0:
        raise ArgumentError(f"normal_: std must not be negative, got {std}")

    def sample(g: Any, dtype: Any) -> Any:
        return g.standard_normal(tensor.shape, dtype) * dtype(std) + dtype(mean)

    return _fill(tensor, _draw(tensor, generator, sample))


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Normal, with values outside [a, b] drawn again. a and b are values, not multiples of std."""
    if not a < b or std <= 0:
        raise ArgumentError(f"trunc_normal_: needs a < b and std > 0, got a={a}, b={b}, std={std}")
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn("mean is more than 2 std from [a, b] in nn.init.trunc_normal_: the values crowd at one bound.")

    def cdf(x: float) -> float:
        return (1.0 + math.erf((x - mean) / std / math.sqrt(2.0))) / 2.0

    g = random.generator(generator)
    n = math.prod(tensor.shape)
    values = np.empty(n)
    pending = np.arange(n)
    # Redraw from the whole normal while enough of it lies inside; else draw uniformly in [a, b] and accept with
    # probability pdf / max pdf, which does not depend on how little lies inside.
    normal_is_cheap = cdf(b) - cdf(a) > 0.3
    peak = min(max(mean, a), b)
    while len(pending):
        if normal_is_cheap:
            draws = g.normal(mean, std, len(pending))
            accepted = (draws >= a) & (draws <= b)
        else:
            draws = g.uniform(a, b, len(pending))
            log_ratio = -0.5 * (((draws - mean) / std) ** 2 - ((peak - mean) / std) ** 2)
            accepted = np.log1p(-g.random(len(pending))) < log_ratio
        values[pending[accepted]] = draws[accepted]
        pending = pending[~accepted]
    return _fill(tensor, values.reshape(tensor.shape))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every element `val`."""
    with no_grad():
        tensor.fill_(val)
    return tensor


def ones_(tensor: Tensor) -> Tensor:
    """Every element 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Every element 0."""
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix: a `Linear` that passes its input on."""
    if tensor.ndim != 2:
        raise ShapeError(f"eye_: needs a tensor of 2 dimensions, got shape {tuple(tensor.shape)}")
    return _fill(tensor, np.eye(*tensor.shape))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """1 at the kernel's centre for output channel i and input channel i: a convolution that passes its input on.

    With groups, each group passes its own channels on. Channels beyond the smaller of the two counts stay 0.
    """
    if tensor.ndim not in (3, 4, 5):
        raise ShapeError(f"dirac_: needs a convolution's weight, of 3 to 5 dimensions, got shape {tuple(tensor.shape)}")
    if groups <= 0 or tensor.shape[0] % groups:
        raise ArgumentError(f"dirac_: groups must divide the {tensor.shape[0]} output channels, got {groups}")
    values = np.zeros(tensor.shape)
    per_group = tensor.shape[0] // groups
    centre = tuple(size // 2 for size in tensor.shape[2:])
    for group in range(groups):
        for channel in range(min(per_group, tensor.shape[1])):
            values[(group * per_group + channel, channel, *centre)] = 1.0
    return _fill(tensor, values)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform in +-gain * sqrt(6 / (fan_in + fan_out)), so that var = gain^2 * 2 / (fan_in + fan_out).

    Source: Glorot and Bengio 2010, equation 16.
    """
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    bound = gain * math.sqrt(6.0 / (fan_in + fan_out))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with std = gain * sqrt(2 / (fan_in + fan_out)).

    Source: Glorot and Bengio 2010, equation 12.
    """
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / (fan_in + fan_out)), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform in +-gain * sqrt(3 / fan), so that std = gain / sqrt(fan).

    Args:
        a: the slope of the leaky ReLU behind the layer (0: ReLU).
        mode: "fan_in" keeps the variance of activations, "fan_out" that of gradients.
        nonlinearity: what stands behind the layer; see `calculate_gain`.

    Source: He et al. 2015, Delving Deep into Rectifiers, equations 10 and 14.
    """
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op")
        return tensor
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / _calculate_correct_fan(tensor, mode))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with std = gain / sqrt(fan); arguments as `kaiming_uniform_`.

    Source: He et al. 2015, Delving Deep into Rectifiers, equations 10 and 14.
    """
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op")
        return tensor
    std = calculate_gain(nonlinearity, a) / math.sqrt(_calculate_correct_fan(tensor, mode))
    return normal_(tensor, 0.0, std, generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Generator | None = None) -> Tensor:
    """`gain` times a matrix with orthonormal rows, or columns if they are fewer; a kernel counts as (out, the rest).

    Source: Saxe et al. 2013; the sign correction, which makes Q uniform, Mezzadri 2006, section 5.
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_: needs a tensor of 2 or more dimensions, got shape {tuple(tensor.shape)}")
    if 0 in tensor.shape:
        return tensor
    rows = tensor.shape[0]
    cols = math.prod(tensor.shape[1:])
    g = random.generator(generator)
    q, r = np.linalg.qr(g.standard_normal((max(rows, cols), min(rows, cols))))
    q = q * np.sign(np.diagonal(r))
    return _fill(tensor, gain * (q if rows >= cols else q.T).reshape(tensor.shape))
