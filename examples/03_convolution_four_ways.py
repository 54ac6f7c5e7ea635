"""03: convolution four ways, proved equal and timed; and its two adjoints, which are the whole of its backward pass.

    python examples/03_convolution_four_ways.py --tiny

    y[n, o, r, s] = sum over c, i, j of  w[o, c, i, j] * x[n, c, r * stride - pad + i, s * stride - pad + j]

What networks call convolution does not flip the kernel: it is a cross-correlation, and the same thing up to the naming of
the weights. Written down it is seven loops. Everything after that is the same sums in an order that a machine likes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
from _course import BLUE, GREEN, INK, ORANGE, PURPLE, closing, heading, parser, picture, table
from numpy.lib.stride_tricks import sliding_window_view

import minires
from minires.nn import functional as F


def padded(x: np.ndarray, pad: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))


def loops(x: np.ndarray, w: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """The definition, word for word."""
    x = padded(x, pad)
    (n, c_in, h, width), (c_out, _, k_h, k_w) = x.shape, w.shape
    y = np.zeros((n, c_out, (h - k_h) // stride + 1, (width - k_w) // stride + 1))
    for b in range(n):
        for o in range(c_out):
            for r in range(y.shape[2]):
                for s in range(y.shape[3]):
                    total = 0.0
                    for c in range(c_in):
                        for i in range(k_h):
                            for j in range(k_w):
                                total += w[o, c, i, j] * x[b, c, r * stride + i, s * stride + j]
                    y[b, o, r, s] = total
    return y


def im2col(x: np.ndarray, w: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """Copy every window into a column of a matrix: then convolution is one matrix product, and BLAS is fast at those.

    The price is memory: with a 3x3 kernel every pixel is copied nine times.
    """
    x = padded(x, pad)
    (n, c_in, h, width), (c_out, _, k_h, k_w) = x.shape, w.shape
    h_out, w_out = (h - k_h) // stride + 1, (width - k_w) // stride + 1
    columns = np.empty((n, c_in, k_h, k_w, h_out, w_out))
    for i in range(k_h):  # nine slices instead of h_out * w_out windows
        for j in range(k_w):
            columns[:, :, i, j] = x[:, :, i : i + stride * h_out : stride, j : j + stride * w_out : stride]
    y = w.reshape(c_out, -1) @ columns.reshape(n, c_in * k_h * k_w, h_out * w_out)
    return y.reshape(n, c_out, h_out, w_out)


def windows(x: np.ndarray, k: tuple[int, int], stride: int, pad: int) -> np.ndarray:
    """(n, c, h_out, w_out, k_h, k_w): all windows as a *view*. Only the strides are new, not one number is copied."""
    return sliding_window_view(padded(x, pad), k, axis=(2, 3))[:, :, ::stride, ::stride]


def strided(x: np.ndarray, w: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """One contraction of the view with the weight, over c, i, j. (tensordot makes im2col's copy behind the scenes.)"""
    y = np.tensordot(windows(x, w.shape[2:], stride, pad), w, axes=((1, 4, 5), (1, 2, 3)))  # (n, h_out, w_out, c_out)
    return y.transpose(0, 3, 1, 2)


def kernel(x: np.ndarray, w: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """minires: im2col too, but one image at a time, so that the columns are still in the cache when they are used."""
    with minires.no_grad():
        return F.conv2d(minires.from_numpy(x), minires.from_numpy(w), stride=stride, padding=pad).numpy()


WAYS = {"loops": loops, "im2col": im2col, "strided view": strided, "minires": kernel}


# Backward. Convolution is linear in x and linear in w, so its derivatives are its adjoints: the same seven loops, read the
# other way. Where the forward pass says  y[...] += w[...] * x[...],  they say  grad_x[...] += w[...] * grad_y[...]  and
# grad_w[...] += x[...] * grad_y[...].


def adjoint_w(v: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, pad: int) -> np.ndarray:
    return np.tensordot(v, windows(x, w.shape[2:], stride, pad), axes=((0, 2, 3), (0, 2, 3)))


def adjoint_x(v: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, pad: int) -> np.ndarray:
    grad = np.zeros_like(padded(x, pad))
    h_out, w_out = v.shape[2:]
    for i, j in np.ndindex(w.shape[2:]):  # tap (i, j) sends its share of v back to the pixels that it read
        share = np.tensordot(v, w[:, :, i, j], axes=(1, 0)).transpose(0, 3, 1, 2)
        grad[:, :, i : i + stride * h_out : stride, j : j + stride * w_out : stride] += share
    return grad[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]]


def milliseconds(way: Callable[..., np.ndarray], x: np.ndarray, w: np.ndarray) -> float:
    """Median of several: the mean would count what else the machine was doing. Loops over a large x: not measured."""
    if way is loops and x.size > 60_000:
        return float("nan")
    times = []
    for _ in range(3 if way is loops else 15):
        start = time.perf_counter()
        way(x, w, 1, 1)
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


def main() -> None:
    args = parser(__doc__).parse_args()
    rng = np.random.default_rng(0)

    heading("Equal? Largest difference from the loops, float64")
    x, w = rng.standard_normal((2, 3, 9, 8)), rng.standard_normal((4, 3, 3, 3))
    cases = [(1, 0), (1, 1), (2, 1), (3, 2)]
    rows = []
    for stride, pad in cases:
        y = loops(x, w, stride, pad)
        differences = [np.abs(way(x, w, stride, pad) - y).max() for way in list(WAYS.values())[1:]]
        rows.append([f"stride {stride}, padding {pad}", str(y.shape), *(f"{d:.1e}" for d in differences)])
    table(["case", "y.shape", *list(WAYS)[1:]], rows)

    heading("The adjoints: <conv(x, w), v> = <x, adjoint_x(v)> = <w, adjoint_w(v)> for any v")
    rows = []
    for stride, pad in cases:
        y = kernel(x, w, stride, pad)
        v = rng.standard_normal(y.shape)
        tx, tw = (minires.tensor(a, requires_grad=True) for a in (x, w))
        F.conv2d(tx, tw, stride=stride, padding=pad).backward(minires.from_numpy(v))
        gx, gw = adjoint_x(v, x, w, stride, pad), adjoint_w(v, x, w, stride, pad)
        engine = max(np.abs(tx.grad.numpy() - gx).max(), np.abs(tw.grad.numpy() - gw).max())
        products = [np.vdot(y, v), np.vdot(x, gx), np.vdot(w, gw)]
        rows.append([f"stride {stride}, padding {pad}", *(f"{p:.10f}" for p in products), f"{engine:.1e}"])
    table(["case", "<y, v>", "<x, adjoint_x>", "<w, adjoint_w>", "minires backward"], rows)
    print(
        "\n  Three inner products of different sizes, one number: a test of a backward pass that needs no other library."
    )
    print("  The last column is the difference between these adjoints and what `backward` gives.")

    shapes = [(2, 4, 8, 8), (4, 8, 8, 8)] if args.tiny else [(2, 8, 14, 14), (4, 16, 28, 28), (64, 16, 28, 28)]
    heading("Time of a 3x3 convolution with as many output channels as input channels (ms, median)")
    rows, all_times = [], {}
    for n, c, h, width in shapes:
        x, w = rng.standard_normal((n, c, h, width)), rng.standard_normal((c, c, 3, 3))
        times = [milliseconds(way, x, w) for way in WAYS.values()]
        name = f"{n} x {c} x {h} x {width}"
        all_times[name] = times
        rows.append([name, *("minutes" if np.isnan(t) else f"{t:,.2f}" for t in times), _ratio(times)])
    table(["x.shape", *WAYS, "loops / best"], rows)
    print(
        "\n  No way is always the fastest: on small arrays the calls' overhead decides; on large ones the cache, where"
    )
    print("  an image's columns at a time beat the whole batch's at once.")

    picture(args.out / "03_convolution.png", (9, 3.6), lambda figure: draw(figure, all_times))
    closing(
        "one sum, four orders of summation: equal to rounding, and up to thousands of times apart in speed.",
        "04_batch_norm.py. In minires the kernel is kernels/reference/conv.py; its comments hold the measurements.",
    )


def _ratio(times: list[float]) -> str:
    return "" if np.isnan(times[0]) else f"{times[0] / min(times):,.0f} x"


def draw(figure, times: dict[str, list[float]]) -> None:
    axis = figure.subplots()
    place = np.arange(len(times))
    for k, (way, colour) in enumerate(zip(WAYS, (ORANGE, GREEN, PURPLE, BLUE), strict=True)):
        heights = [t[k] for t in times.values()]
        # A bar that was not measured is left out.
        bars = axis.bar(place + 0.2 * (k - 1.5), heights, 0.19, color=colour, label=way)
        axis.bar_label(
            bars,
            ["" if np.isnan(t) else f"{t:,.0f}" if t >= 10 else f"{t:.2f}" for t in heights],
            fontsize=8,
            color=INK,
            padding=2,
        )
    axis.set(title="3x3 convolution, float64: milliseconds, logarithmic", yscale="log")
    axis.set_xticks(place, list(times))
    axis.set_xlabel("x.shape")
    axis.set_ylim(top=axis.get_ylim()[1] * 2)
    axis.grid(False, axis="x")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")


if __name__ == "__main__":
    main()
