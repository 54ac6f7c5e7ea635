"""Which algorithm serves a convolution: a pure function of its sizes, by counting work.

Work is counted in multiply-adds of the micro-kernel, the one thing whose speed hardly depends on the layer. What else an
algorithm does is priced in the same coin, by measurements on one AVX2 machine (Zen 3, two cores, ResNet layers):

    direct        c_in c_out k_h k_w a pixel, pixels in whole tiles of the micro-kernel
    winograd m    (m + 2)^2 c_in c_out a tile of m x m pixels, tiles in whole micro-kernel tiles
                  + TRANSFORM[m] a tile and channel, in and out
                  + WEIGHT a pair of channels and point, where weights change from call to call
    all           + BYTE a byte of weights: a layer's weights come from main memory once a call, however few its images

`print(choose_algorithm(...))` shows the prices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from minires.kernels.cpu.layout import BLOCK, blocks
from minires.kernels.geometry import Conv2dGeometry

PURPOSES = ("inference", "forward", "backward_x", "backward_weight")

TRANSFORM = {2: 215.0, 4: 500.0}  # 16 channels, 28 x 28: F(4x4) 1.5, F(2x2) 0.85 of direct; 64 channels: 2.5 and 1.7
WEIGHT = 2.0
BYTE = 6.0  # 90 G multiply-adds a second on two cores, 15 GB/s
PIXELS = 6  # of the micro-kernel's tile, for tiles that are not full


@dataclass(frozen=True)
class Choice:
    """What was chosen, and the prices of all that could serve, in millions of multiply-adds.

    Attributes:
        algorithm: "direct", "winograd2" or "winograd4".
        prices: by algorithm, the cheapest first.
    """

    algorithm: str
    prices: tuple[tuple[str, float], ...]

    @property
    def m(self) -> int:
        """The width of a Winograd tile; 0 for the direct form."""
        return int(self.algorithm[-1]) if self.algorithm.startswith("winograd") else 0

    def __str__(self) -> str:
        return f"{self.algorithm} (" + ", ".join(f"{name} {price:.3g} M" for name, price in self.prices) + ")"


def is_winograd(g: Conv2dGeometry) -> bool:
    """Whether Winograd's algorithm applies: 3 x 3, stride 1, no dilation, one group, padding of at most 2."""
    return (
        (g.k_h, g.k_w, g.stride_h, g.stride_w, g.dilation_h, g.dilation_w, g.groups) == (3, 3, 1, 1, 1, 1, 1)
        and max(g.pad_top, g.pad_bottom, g.pad_left, g.pad_right) <= 2
    )  # fmt: skip


def choose_algorithm(g: Conv2dGeometry, batch: int, purpose: str) -> Choice:
    """The cheapest algorithm for `batch` images of geometry `g`.

    Args:
        purpose: "inference" (weights are prepared once), "forward", "backward_x" or "backward_weight".

    Raises:
        ValueError: another purpose.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"choose_algorithm: purpose must be one of {', '.join(PURPOSES)}, got {purpose!r}")
    g = replace(g, n=batch)
    prices = {"direct": _direct(g)}
    if is_winograd(g) and min(g.c_in, g.c_out) >= BLOCK:
        for m in (2, 4):
            prices[f"winograd{m}"] = _winograd(g, m, purpose)
    ordered = tuple(sorted(((name, price / 1e6) for name, price in prices.items()), key=lambda item: item[1]))
    return Choice(ordered[0][0], ordered)


def _whole(count: int, of: int) -> int:
    return -(-count // of) * of


def _direct(g: Conv2dGeometry) -> float:
    pairs = blocks(g.c_in) * blocks(g.c_out) * BLOCK * BLOCK / g.groups * g.k_h * g.k_w
    return g.n * _whole(g.h_out * g.w_out, PIXELS) * pairs + BYTE * 4 * pairs


def _winograd(g: Conv2dGeometry, m: int, purpose: str) -> float:
    points = (m + 2) ** 2
    pairs = blocks(g.c_in) * blocks(g.c_out) * BLOCK * BLOCK
    tiles = g.n * -(-g.h_out // m) * -(-g.w_out // m)
    products = points * _whole(tiles, PIXELS) * pairs
    transforms = TRANSFORM[m] * tiles * (blocks(g.c_in) + blocks(g.c_out)) * BLOCK
    weights = 0.0 if purpose == "inference" else WEIGHT * points * pairs
    return products + transforms + weights + BYTE * 4 * points * pairs
