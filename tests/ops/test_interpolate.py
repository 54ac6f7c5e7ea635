"""interpolate: against PyTorch to the second order, finite differences, adjoints, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, ShapeError, UnknownNameError, UnsupportedError
from minires.ops.interpolate import interpolate
from tests.strategies import in_memory_form, memory_forms, values
from tests.tolerances import tolerance
from tests.torch_oracle import compare, torch

F = torch.nn.functional
sizes = st.integers(1, 9)
factors = st.one_of(st.sampled_from([1, 2, 0.5, 1.5, 3]), st.floats(0.3, 3.0))


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(4, 9), st.integers(4, 9)),
    st.one_of(
        st.fixed_dictionaries({"size": st.one_of(sizes, st.tuples(sizes, sizes))}),
        st.fixed_dictionaries(
            {
                "scale_factor": st.one_of(factors, st.tuples(factors, factors)),
                "recompute_scale_factor": st.sampled_from([None, True, False]),
            }
        ),
    ),
    st.sampled_from([("nearest", None), ("bilinear", None), ("bilinear", True), ("bilinear", False)]),
    st.sampled_from(["float64", "float32"]),
    memory_forms(),
)
def test_interpolate_matches_torch(shape, options, mode, dtype, form):
    options = options | {"mode": mode[0], "align_corners": mode[1]}
    compare(
        lambda x: interpolate(x, **options),
        lambda x: F.interpolate(x, **options),
        in_memory_form(values(shape).astype(dtype), form),
        dtype=dtype,
        n=400,
    )


WAYS = {
    "nearest up": {"scale_factor": 2},
    "nearest down": {"size": (2, 3)},
    "bilinear up": {"scale_factor": 1.7, "mode": "bilinear"},
    "bilinear aligned": {"size": (7, 3), "mode": "bilinear", "align_corners": True},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_interpolate_gradients_match_finite_differences(options):
    x = minires.tensor(values((1, 2, 4, 5)), requires_grad=True)
    assert gradcheck(lambda x: interpolate(x, **options), (x,))
    assert gradgradcheck(lambda x: interpolate(x, **options) ** 2, (x,))


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_interpolate_is_adjoint_to_its_backward(options):
    x = minires.tensor(values((2, 3, 4, 5), 0), requires_grad=True)
    y = interpolate(x, **options)
    v = minires.tensor(values(y.shape, 1))
    (back,) = minires.autograd.grad(y, x, v)
    close = tolerance("float64", 4 * y.array.size)
    np.testing.assert_allclose((y * v).sum().item(), (x * back).sum().item(), **close)


def test_interpolate_scale_factor_is_used_as_given_unless_recomputed():
    """5 rows by 1.5 make 7: the step is 1 / 1.5, and 5 / 7 only when asked for."""
    x = minires.tensor(np.arange(5.0).reshape(1, 1, 5, 1))
    given_, recomputed = (
        interpolate(x, scale_factor=(1.5, 1), mode="bilinear", recompute_scale_factor=again).numpy().ravel()
        for again in (None, True)
    )
    assert len(given_) == len(recomputed) == 7
    np.testing.assert_allclose(given_[1], 1.5 / 1.5 - 0.5, **tolerance("float64"))
    np.testing.assert_allclose(recomputed[1], 1.5 * 5 / 7 - 0.5, **tolerance("float64"))


def test_interpolate_copies_a_dimension_whose_size_stays():
    """floor(4 * 1.2) = 4: torch copies, and does not step by 1 / 1.2."""
    x = values((1, 1, 4, 4))
    for mode in ("nearest", "bilinear"):
        y = interpolate(minires.tensor(x), scale_factor=(1.2, 2), mode=mode)
        theirs = F.interpolate(torch.tensor(x), scale_factor=(1.2, 2), mode=mode)
        np.testing.assert_allclose(y.numpy(), theirs.numpy(), **tolerance("float64"))
        np.testing.assert_array_equal(y.numpy()[..., 0], x[..., 0])


@pytest.mark.parametrize("factor", [2, 2.125, 2.2, (2.24, 2.01)])
def test_interpolate_nearest_doubles_each_pixel_where_the_size_doubles(factor):
    """floor(4 * 2.125) = 8: torch repeats each pixel twice, and does not step by 1 / 2.125."""
    x = values((1, 1, 4, 4))
    y = interpolate(minires.tensor(x), scale_factor=factor)
    np.testing.assert_array_equal(y.numpy(), F.interpolate(torch.tensor(x), scale_factor=factor).numpy())
    np.testing.assert_array_equal(y.numpy()[..., 0], np.repeat(x[..., 0], 2, axis=2))


def test_interpolate_nan_stays_where_it_is_seen():
    x = values((1, 1, 5, 5))
    x[0, 0, 0, 0] = np.nan
    for mode in ("nearest", "bilinear"):
        compare(
            lambda x, mode=mode: interpolate(x, 10, mode=mode),
            lambda x, mode=mode: F.interpolate(x, 10, mode=mode),
            x,
            gradients=False,
            n=4,
        )


IMAGE = minires.tensor(np.zeros((1, 1, 4, 4)))

ERRORS = [
    (lambda: interpolate(np.zeros((1, 1, 4, 4)), 2), DTypeError, r"interpolate: input must be a Tensor, got ndarray"),
    (
        lambda: interpolate(IMAGE[0], 2),
        ShapeError,
        r"interpolate: input needs 4 dimensions, got input.shape = \(1, 4, 4\)",
    ),
    (
        lambda: interpolate(minires.tensor([[[[1]]]]), 2),
        DTypeError,
        r"interpolate: input needs a floating dtype, got int64",
    ),
    (lambda: interpolate(IMAGE), ArgumentError, r"interpolate: give either size or scale_factor, got size = None"),
    (
        lambda: interpolate(IMAGE, 2, 2),
        ArgumentError,
        r"interpolate: give either size or scale_factor, got size = 2, .* 2",
    ),
    (
        lambda: interpolate(IMAGE, (2,)),
        ArgumentError,
        r"interpolate: size must be an int or a pair of ints, got \(2,\)",
    ),
    (lambda: interpolate(IMAGE, 2.5), ArgumentError, r"interpolate: size must be an int or a pair of ints, got 2\.5"),
    (
        lambda: interpolate(IMAGE, 0),
        ShapeError,
        r"interpolate: input and output need at least one row .* output of 0 x 0",
    ),
    (lambda: interpolate(IMAGE, scale_factor=0.1), ShapeError, r"interpolate: .* an output of 0 x 0"),
    (
        lambda: interpolate(IMAGE, scale_factor=-1),
        ArgumentError,
        r"interpolate: scale_factor must be a number above 0 or a pair of them, got -1",
    ),
    (
        lambda: interpolate(IMAGE, scale_factor=(2, 2, 2)),
        ArgumentError,
        r"interpolate: scale_factor must be .* \(2, 2, 2\)",
    ),
    (
        lambda: interpolate(IMAGE, 2, recompute_scale_factor=True),
        ArgumentError,
        r"interpolate: recompute_scale_factor is for scale_factor, got it with size = 2",
    ),
    (
        lambda: interpolate(IMAGE, 2, align_corners=False),
        ArgumentError,
        r"interpolate: align_corners is for mode 'bilinear', got False with mode 'nearest'",
    ),
    (
        lambda: interpolate(IMAGE, 2, mode="bicubic"),
        UnsupportedError,
        r"interpolate: mode 'bicubic' is not part of minires; use",
    ),
    (
        lambda: interpolate(IMAGE, 2, mode="bilinar"),
        UnknownNameError,
        r"unknown interpolation mode 'bilinar': did you mean bilinear",
    ),
    (
        lambda: interpolate(IMAGE, 2, mode="bilinear", antialias=True),
        UnsupportedError,
        r"interpolate: antialias=True is not part of minires; shrink by whole factors with avg_pool2d",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_interpolate_errors_name_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call()
