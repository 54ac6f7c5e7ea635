"""The random numbers of the engine: one generator, and what sets and reads its state.

Initialisation, dropout and `randn` draw from here. Data order and augmentation do not: they are pure functions of
(seed, epoch, index), in `minires.data`. The bits differ from torch's for the same seed; nothing promises them.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from minires.errors import ArgumentError


class Generator:
    """A source of random numbers with its own state (torch.Generator's interface over NumPy's PCG64)."""

    def __init__(self, device: Any = "cpu") -> None:
        self.device = device
        self._seed = 0
        self._numpy: np.random.Generator | None = None

    @property
    def numpy(self) -> np.random.Generator:
        """NumPy's generator; made at first use, because loading numpy.random takes a third as long as NumPy itself."""
        if self._numpy is None:
            self._numpy = np.random.default_rng(self._seed)
        return self._numpy

    def manual_seed(self, seed: int) -> Generator:
        """Start again from `seed`, any integer of at most 64 bits (negative ones wrap, as in torch)."""
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise ArgumentError(f"manual_seed: seed must be an integer, got {seed!r}")
        self._seed = int(seed) % 2**64
        self._numpy = None
        return self

    def initial_seed(self) -> int:
        return self._seed

    def seed(self) -> int:
        """Start again from a seed that the operating system gives, and return it."""
        self.manual_seed(int(np.random.SeedSequence().generate_state(1, np.uint64)[0]))
        return self._seed

    def get_state(self) -> dict[str, Any]:
        """The whole state, JSON-like; `set_state` continues exactly there."""
        return {"seed": self._seed, "state": copy.deepcopy(dict(self.numpy.bit_generator.state))}

    def set_state(self, state: dict[str, Any]) -> Generator:
        self._seed = state["seed"]
        self.numpy.bit_generator.state = copy.deepcopy(state["state"])
        return self


default_generator = Generator()


def generator(given: Generator | None = None) -> np.random.Generator:
    """NumPy's generator of `given`, or the engine's own."""
    return (given or default_generator).numpy


def manual_seed(seed: int) -> Generator:
    """Seed the engine's generator; returns it."""
    return default_generator.manual_seed(seed)


def initial_seed() -> int:
    return default_generator.initial_seed()


def seed() -> int:
    return default_generator.seed()


def get_rng_state() -> dict[str, Any]:
    return default_generator.get_state()


def set_rng_state(state: dict[str, Any]) -> None:
    default_generator.set_state(state)
