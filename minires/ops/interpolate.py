"""Resizing of images by interpolation: nearest and bilinear.

Both are linear in the image, so a map and its adjoint are each other's derivative.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.errors import ArgumentError, ShapeError, UnknownNameError, UnsupportedError
from minires.kernels.geometry import InterpolateGeometry
from minires.ops.checks import check_floating, check_rank, check_tensor, pair

if TYPE_CHECKING:
    from minires.tensor import Tensor

_TORCH_ONLY = ("linear", "bicubic", "trilinear", "area", "nearest-exact")


class InterpolateNearest(Op):
    """y = x[rows, columns];  dL/dx = InterpolateNearestBackward(dL/dy)."""

    name = "interpolate_nearest"

    @staticmethod
    def forward(ctx: Any, x: Any, *, geometry: InterpolateGeometry) -> Any:
        ctx.geometry = geometry
        return ctx.kernels.interpolate_nearest_forward(x, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(InterpolateNearestBackward, grad_y, geometry=ctx.geometry)


class InterpolateNearestBackward(Op):
    """x'[rows, columns] += v;  dL/dv = InterpolateNearest(dL/dx')."""

    name = "interpolate_nearest_backward"

    @staticmethod
    def forward(ctx: Any, grad_y: Any, *, geometry: InterpolateGeometry) -> Any:
        ctx.geometry = geometry
        return ctx.kernels.interpolate_nearest_backward(grad_y, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return apply(InterpolateNearest, grad, geometry=ctx.geometry)


class InterpolateBilinear(Op):
    """y = R x C^T, R and C with two weights a row;  dL/dx = R^T dL/dy C = InterpolateBilinearBackward(dL/dy)."""

    name = "interpolate_bilinear"

    @staticmethod
    def forward(ctx: Any, x: Any, *, geometry: InterpolateGeometry) -> Any:
        ctx.geometry = geometry
        return ctx.kernels.interpolate_bilinear_forward(x, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        return apply(InterpolateBilinearBackward, grad_y, geometry=ctx.geometry)


class InterpolateBilinearBackward(Op):
    """x' = R^T v C;  dL/dv = R dL/dx' C^T = InterpolateBilinear(dL/dx')."""

    name = "interpolate_bilinear_backward"

    @staticmethod
    def forward(ctx: Any, grad_y: Any, *, geometry: InterpolateGeometry) -> Any:
        ctx.geometry = geometry
        return ctx.kernels.interpolate_bilinear_backward(grad_y, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return apply(InterpolateBilinear, grad, geometry=ctx.geometry)


_OPS: dict[str, type[Op]] = {"nearest": InterpolateNearest, "bilinear": InterpolateBilinear}


def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """input resized to `size`, or by `scale_factor`.

        nearest     y[r, s] = x[floor(r scale_h), floor(s scale_w)]
        bilinear    y[r] = (1 - t) x[i0] + t x[i0 + 1],  i0 + t = (r + 1/2) scale_h - 1/2, in rows and in columns

    scale_h is H / H_out, or 1 / scale_factor where a factor is given (H_out = floor(H scale_factor) may round; with
    `recompute_scale_factor` it is H / H_out again), and 1 wherever H_out = H, and for 'nearest' 1/2 wherever H_out = 2 H. With
    `align_corners` i0 + t = r (H - 1) / (H_out - 1).

    Args:
        input: (N, C, H, W), floating.
        size: an int, or (H_out, W_out).
        scale_factor: a number, or (vertical, horizontal).
        mode: 'nearest' or 'bilinear'.
        align_corners: whether the centres of the corner pixels stay where they are; bilinear only, by default not.
        recompute_scale_factor: see above; for `scale_factor` only.
        antialias: must be False.

    Returns:
        (N, C, H_out, W_out).

    Raises:
        ShapeError: a wrong rank, or an empty image or result.
        ArgumentError: both or neither of size and scale_factor; align_corners with 'nearest'; numbers not above 0.
        UnsupportedError, UnknownNameError: a mode of torch's that is not here, or of nobody's.
        DTypeError: not floating.
    """
    op = "interpolate"
    check_tensor(op, "input", input)
    if mode in _TORCH_ONLY:
        raise UnsupportedError(f"{op}: mode {mode!r} is not part of minires; use 'nearest' or 'bilinear'")
    if mode not in _OPS:
        raise UnknownNameError.for_name("interpolation mode", str(mode), _OPS)
    if antialias:
        raise UnsupportedError(
            f"{op}: antialias=True is not part of minires; shrink by whole factors with avg_pool2d instead"
        )
    check_rank(op, "input", input, 4)
    check_floating(op, "input", input)
    if mode == "nearest" and align_corners is not None:
        raise ArgumentError(f"{op}: align_corners is for mode 'bilinear', got {align_corners!r} with mode 'nearest'")
    n, c, h, w = input.raw.shape
    if (size is None) == (scale_factor is None):
        raise ArgumentError(
            f"{op}: give either size or scale_factor, got size = {size!r}, scale_factor = {scale_factor!r}"
        )
    factors: tuple[float, float] | None = None
    if size is not None:
        if recompute_scale_factor:
            raise ArgumentError(f"{op}: recompute_scale_factor is for scale_factor, got it with size = {size!r}")
        if isinstance(size, (tuple, list)) and len(size) != 2:
            raise ArgumentError(f"{op}: size must be an int or a pair of ints, got {size!r}")
        h_out, w_out = pair(op, "size", size)
    else:
        factors = _factors(op, scale_factor)
        h_out, w_out = math.floor(h * factors[0]), math.floor(w * factors[1])
    if min(h, w, h_out, w_out) < 1:
        raise ShapeError(
            f"{op}: input and output need at least one row and column, got input.shape = {input.raw.shape} "
            f"and an output of {h_out} x {w_out}"
        )
    if recompute_scale_factor:
        factors = None
    aligned = bool(align_corners)
    geometry = InterpolateGeometry(
        n=n,
        c=c,
        h=h,
        w=w,
        h_out=h_out,
        w_out=w_out,
        scale_h=_scale(mode, h, h_out, factors and factors[0], aligned),
        scale_w=_scale(mode, w, w_out, factors and factors[1], aligned),
        align_corners=aligned,
    )
    return apply(_OPS[mode], input, geometry=geometry)


def _factors(op: str, scale_factor: Any) -> tuple[float, float]:
    """scale_factor as (vertical, horizontal)."""
    values = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor, scale_factor)
    if len(values) != 2 or not all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and 0 < v < math.inf for v in values
    ):
        raise ArgumentError(f"{op}: scale_factor must be a number above 0 or a pair of them, got {scale_factor!r}")
    return float(values[0]), float(values[1])


def _scale(mode: str, size: int, size_out: int, factor: float | None, align_corners: bool) -> float:
    """Pixels of the input a pixel of the output, in one dimension."""
    if mode == "nearest" and size_out == 2 * size:  # torch doubles each pixel, also where the factor is only near 2
        return 0.5
    if size == size_out:  # torch copies a dimension that a factor near 1 leaves as long as it was
        return 1.0
    if align_corners:
        return (size - 1) / (size_out - 1) if size_out > 1 else 0.0
    return size / size_out if factor is None else 1.0 / factor
