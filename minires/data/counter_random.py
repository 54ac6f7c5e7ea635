"""Random numbers without a state: every draw is a pure function of (seed, epoch, index, stream).

A generator with a state gives sample 7 other numbers when the batch size, the number of workers or the order changes,
because others have drawn before it. A counter-based generator is a hash of a counter under a key: whoever computes
the number for (seed 0, epoch 3, sample 7, stream "flip") gets the same one, in any order, on any thread, after any
restart. That is what makes a run reproducible while batches are prepared in the background.

    >>> draws = Draws(seed=0, epoch=3, indices=[7, 1])
    >>> draws.stream("flip").uniform().shape
    (2, 1)

Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from minires.errors import ArgumentError

Array = npt.NDArray[Any]

# The constants of Philox4x32 (table 2 of the paper): two multipliers, and the two Weyl increments of the key.
_MULTIPLY_0, _MULTIPLY_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEP_0, _KEY_STEP_1 = 0x9E3779B9, 0xBB67AE85
_LOW_32, _SHIFT_32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox4x32(counter: tuple[Array, Array, Array, Array], key: tuple[int, int], rounds: int = 10) -> Array:
    """Hash 128-bit counters under a 64-bit key into 128 random bits each.

    One round:  hi0, lo0 = M0 * c0;  hi1, lo1 = M1 * c2;  (c0, c1, c2, c3) = (hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0),
    and then the key moves on by its Weyl constants.

    Args:
        counter: four uint64 arrays that broadcast together, each value below 2**32.
        key: two integers below 2**32.
        rounds: 10 passes every test of the paper; fewer are for experiments.

    Returns:
        (..., 4) uint64, each value below 2**32.

    Source: Salmon et al. 2011, section 3.3; the known answers of the authors' library are in the tests.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*counter)
    k0, k1 = key
    for _ in range(rounds):
        product_0, product_1 = c0 * _MULTIPLY_0, c2 * _MULTIPLY_1  # 32 x 32 -> 64 bits: no overflow in uint64
        c0, c1, c2, c3 = (
            (product_1 >> _SHIFT_32) ^ c1 ^ np.uint64(k0),
            product_1 & _LOW_32,
            (product_0 >> _SHIFT_32) ^ c3 ^ np.uint64(k1),
            product_0 & _LOW_32,
        )
        k0, k1 = (k0 + _KEY_STEP_0) & 0xFFFFFFFF, (k1 + _KEY_STEP_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


class Draws:
    """The random numbers of some samples in one epoch.

    The counter's four words are (sample index, block of the draw, epoch, stream); the key is the seed.

    Args:
        seed: 0 .. 2**64 - 1.
        epoch: 0 .. 2**32 - 1.
        indices: (N,) the samples' places in the data set, 0 .. 2**32 - 1.
        name: the stream; two names give independent numbers.
    """

    def __init__(self, seed: int, epoch: int, indices: Sequence[int] | Array, name: str = "") -> None:
        _check_range("seed", seed, 2**64)
        _check_range("epoch", epoch, 2**32)
        self.seed, self.epoch, self.name = int(seed), int(epoch), name
        self.indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if self.indices.size and not 0 <= self.indices.min() <= self.indices.max() < 2**32:
            raise ArgumentError("Draws: indices must be in 0 .. 2**32 - 1")

    def __len__(self) -> int:
        return len(self.indices)

    def stream(self, name: str) -> Draws:
        """The same samples and epoch with other, independent numbers."""
        return Draws(self.seed, self.epoch, self.indices, f"{self.name}/{name}" if self.name else name)

    def at_epoch(self, epoch: int) -> Draws:
        """The numbers that the same samples have in another epoch."""
        return Draws(self.seed, epoch, self.indices, self.name)

    def where(self, mask: Array) -> Draws:
        """The numbers of those samples only for which `mask`, (N,) bool, is True."""
        return Draws(self.seed, self.epoch, self.indices[mask], self.name)

    def words(self, count: int = 1) -> Array:
        """(N, count) uint64 random words of 32 bits."""
        blocks = np.arange((count + 3) // 4, dtype=np.uint64)[None, :]
        counter = (
            self.indices.astype(np.uint64)[:, None],
            blocks,
            np.full((1, 1), self.epoch, np.uint64),
            np.full((1, 1), zlib.crc32(self.name.encode()), np.uint64),
        )
        words = philox4x32(counter, (self.seed & 0xFFFFFFFF, self.seed >> 32))
        return words.reshape(len(self), 4 * blocks.size)[:, :count]

    def uniform(self, count: int = 1, low: float = 0.0, high: float = 1.0) -> Array:
        """(N, count) float64 in the open interval (low, high): (word + 1/2) / 2**32, so that logarithms are finite."""
        return low + (high - low) * ((self.words(count).astype(np.float64) + 0.5) / 2**32)

    def integers(self, low: int, high: int, count: int = 1) -> Array:
        """(N, count) int64 in low .. high - 1: floor(word * (high - low) / 2**32).

        The probabilities differ from 1 / (high - low) by less than 2**-32.
        """
        if not 0 < high - low <= 2**32:
            raise ArgumentError(f"Draws.integers: high - low must be in 1 .. 2**32, got low = {low}, high = {high}")
        return low + ((self.words(count) * np.uint64(high - low)) >> _SHIFT_32).astype(np.int64)

    def bernoulli(self, p: float) -> Array:
        """(N,) bool, True with probability p."""
        return self.uniform()[:, 0] < p

    def normal(self, count: int = 1) -> Array:
        """(N, count) standard normal: sqrt(-2 ln u) cos(2 pi v).  Source: Box & Muller 1958."""
        u, v = np.split(self.uniform(2 * count), 2, axis=1)
        return np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)

    def beta(self, alpha: float) -> Array:
        """(N,) float64 from Beta(alpha, alpha) = G1 / (G1 + G2), with G1, G2 from Gamma(alpha).

        The two gammas are kept as logarithms: for a small alpha both underflow, and 0 / 0 would be NaN.
        """
        if not alpha > 0:
            raise ArgumentError(f"Draws.beta: alpha must be positive, got {alpha}")
        first, second = self.stream("gamma0")._log_gamma(alpha), self.stream("gamma1")._log_gamma(alpha)
        return np.exp(-np.logaddexp(0.0, second - first))  # 1 / (1 + G2 / G1)

    def _log_gamma(self, alpha: float, tries: int = 24) -> Array:
        """(N,) logarithm of a Gamma(alpha) variable: rejection, with all tries drawn at once.

        With shape a = alpha + 1, d = a - 1/3, c = 1 / sqrt(9 d): z normal, v = (1 + c z)^3, accepted where v > 0 and
        ln u < z^2 / 2 + d (1 - v + ln v); the result is d v. A shape below one comes from the next:
        Gamma(alpha) = Gamma(alpha + 1) * u^(1 / alpha). At least 95 % of the tries are accepted for a shape above 1, so
        that 24 refusals in a row have a probability below 1e-31.

        Source: Marsaglia & Tsang, "A simple method for generating gamma variables", ACM TOMS 26, 2000.
        """
        d = alpha + 1.0 - 1.0 / 3.0
        z = self.stream("z").normal(tries)
        v = (1.0 + z / np.sqrt(9.0 * d)) ** 3
        log_v = np.log(np.maximum(v, 1e-300))
        accepted = (v > 0) & (np.log(self.stream("u").uniform(tries)) < 0.5 * z * z + d * (1.0 - v + log_v))
        first = accepted.argmax(axis=1)
        return np.log(d) + log_v[np.arange(len(self)), first] + np.log(self.stream("boost").uniform()[:, 0]) / alpha


def permutation(seed: int, epoch: int, count: int, name: str = "order") -> Array:
    """A random order of 0 .. count - 1: the samples sorted by a random key of their own.

    The keys have 64 bits; equal ones (probability n**2 / 2**65) keep the order of the indices.

    Returns:
        (count,) int64.
    """
    words = Draws(seed, epoch, np.arange(count), name).words(2)
    return np.argsort((words[:, 0] << _SHIFT_32) | words[:, 1], kind="stable")


def _check_range(name: str, value: int, limit: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < limit:
        raise ArgumentError(f"Draws: {name} must be an integer in 0 .. {limit - 1}, got {value!r}")
