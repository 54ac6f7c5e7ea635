"""The error function, which NumPy does not have: erf(x) = 2 / sqrt(pi) * integral from 0 to x of exp(-t^2) dt.

Three rational approximations, each on its own interval, with relative errors below 1e-16 before rounding:

    |x| <= 0.46875     erf(x)  = x R(x^2)
    |x| <= 4           erfc(x) = exp(-x^2) R(x)
    |x| >  4           erfc(x) = exp(-x^2) / x (1 / sqrt(pi) + R(1 / x^2) / x^2),      erf(x) = 1 - erfc(x)

Source: W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23 (1969), with
the coefficients of its author's program CALERF (netlib specfun/erf).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minires.autograd import Op, apply
from minires.ops.checks import check_floating, check_tensor
from minires.ops.unary import exp

if TYPE_CHECKING:
    from minires.tensor import Tensor

# Numerators and denominators, highest power first, as Horner's rule wants them.
SMALL = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
MIDDLE = (
    (
        *(2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1),
        *(2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3),
        1.23033935479799725e3,
    ),
    (
        *(1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3),
        *(3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
    ),
)
LARGE = (
    (
        *(1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1),
        *(1.60837851487422766e-2, 6.58749161529837803e-4),
    ),
    (
        *(1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1, 6.05183413124413191e-2),
        2.33520497626869185e-3,
    ),
)


def erf_array(xp: Any, x: Any) -> Any:
    """erf of each element; computed in float64, returned in x's dtype.

    Args:
        xp: the array module, numpy or cupy.
        x: any shape, floating.
    """
    wide = xp.asarray(x, xp.float64)
    size = xp.abs(wide)
    # Each formula is evaluated everywhere, on arguments clipped to its interval, so none of them can overflow.
    small = xp.minimum(size, 0.46875)
    middle = xp.clip(size, 0.46875, 4.0)
    large = xp.clip(size, 4.0, 30.0)
    inverse_square = 1 / (large * large)
    tail = (1 / math.sqrt(math.pi) - inverse_square * _ratio(LARGE, inverse_square)) / large
    y = 1 - xp.where(
        size <= 4.0,
        xp.exp(-middle * middle) * _ratio(MIDDLE, middle),
        xp.exp(-large * large) * tail,
    )
    y = xp.where(size <= 0.46875, small * _ratio(SMALL, small * small), y)
    return xp.copysign(y, wide).astype(x.dtype.newbyteorder("="))


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Any) -> Any:
    """numerator(x) / denominator(x), both by Horner's rule."""
    results = []
    for polynomial in coefficients:
        value = polynomial[0]
        for coefficient in polynomial[1:]:
            value = value * x + coefficient
        results.append(value)
    return results[0] / results[1]


class Erf(Op):
    """y = erf(x);  dL/dx = dL/dy 2 / sqrt(pi) exp(-x^2)."""

    name = "erf"

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return erf_array(ctx.xp, x)

    @staticmethod
    def backward(ctx: Any, grad_y: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grad_y * exp(-x * x) * (2 / math.sqrt(math.pi))


def erf(input: Tensor) -> Tensor:
    """The error function of each element.

    Args:
        input: any shape, floating.

    Raises:
        DTypeError: not a tensor, or not floating.
    """
    check_tensor("erf", "input", input)
    check_floating("erf", "input", input)
    return apply(Erf, input)
