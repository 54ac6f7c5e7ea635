"""Pooling: against PyTorch to the second order, ties, NaN, infinities, finite differences, adjoints, bad input."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.ops.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from tests.strategies import in_memory_form, memory_forms, values
from tests.tolerances import tolerance
from tests.torch_oracle import compare, torch

F = torch.nn.functional


def zeros(*shape):
    return minires.tensor(np.zeros(shape))


def output_size(size, k, s, p, d, ceil_mode):
    """What PyTorch will say, so that only poolings with an output are drawn."""
    room = size + 2 * p - d * (k - 1) - 1
    return (-(-room // s) if ceil_mode else room // s) + 1


@st.composite
def poolings(draw, dilated):
    """(shape of x, options) of a pooling; in ceil_mode the window may be larger than the input."""
    ceil_mode = draw(st.booleans())
    kernel, stride, padding, dilation, sizes = [], [], [], [], []
    for _ in range(2):
        k, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        p, d, size = draw(st.integers(0, k // 2)), draw(st.integers(1, 3)) if dilated else 1, draw(st.integers(1, 8))
        assume(output_size(size, k, s, p, d, ceil_mode) >= 1)
        for list_, value in zip((kernel, stride, padding, dilation, sizes), (k, s, p, d, size), strict=True):
            list_.append(value)
    shape = (*draw(st.sampled_from([(), (0,), (1,), (2,)])), draw(st.integers(1, 3)), *sizes)
    options = {
        "kernel_size": tuple(kernel),
        "stride": draw(st.sampled_from([None, tuple(stride)])) if not ceil_mode else tuple(stride),
        "padding": tuple(padding),
        "ceil_mode": ceil_mode,
    }
    if options["stride"] is None:
        assume(all(output_size(*a, False) >= 1 for a in zip(sizes, kernel, kernel, padding, dilation, strict=True)))
    return shape, options | ({"dilation": tuple(dilation)} if dilated else {})


def meets_padding_alone(shape, options):
    """Whether a dilated window steps over the input; PyTorch's index then points outside, and its backward writes there."""
    stride = options["stride"] or options["kernel_size"]
    for size, k, s, p, d in zip(
        shape[-2:], options["kernel_size"], stride, options["padding"], options["dilation"], strict=True
    ):
        starts = range(-p, size + p, s)
        if not all(
            any(0 <= start + i * d < size for i in range(k)) for start in starts if start + (k - 1) * d < size + p
        ):
            return True
        if options["ceil_mode"] and not all(any(0 <= t + i * d < size for i in range(k)) for t in starts if t < size):
            return True
    return False


def coarse(shape, seed):
    """Whole numbers, so that most windows have ties; some NaN and infinities."""
    random = np.random.default_rng(seed)
    x = random.integers(-2, 3, shape).astype(np.float64)
    for value in (np.nan, np.inf, -np.inf):
        x[random.random(shape) < 0.05] = value
    return x


@settings(max_examples=150, deadline=None)
@given(poolings(dilated=True), st.integers(0, 99), st.sampled_from(["float64", "float32"]), memory_forms())
def test_max_pool2d_matches_torch(case, seed, dtype, form):
    shape, options = case
    assume(not meets_padding_alone(shape, options))
    compare(
        lambda x: max_pool2d(x, **options, return_indices=True),
        lambda x: F.max_pool2d(x, **options, return_indices=True),
        in_memory_form(coarse(shape, seed).astype(dtype), form),
        dtype=dtype,
        n=16,
    )


@settings(max_examples=150, deadline=None)
@given(
    poolings(dilated=False),
    st.booleans(),
    st.sampled_from([None, None, 1, 5, -2]),
    st.sampled_from(["float64", "float32"]),
    memory_forms(),
)
def test_avg_pool2d_matches_torch(case, count_include_pad, divisor_override, dtype, form):
    shape, options = case
    options = options | {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    compare(
        lambda x: avg_pool2d(x, **options),
        lambda x: F.avg_pool2d(x, **options),
        in_memory_form(values(shape).astype(dtype), form),
        dtype=dtype,
        n=16,
    )


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([(1,), (2, 3), ()]),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.one_of(st.integers(1, 9), st.tuples(*[st.one_of(st.none(), st.integers(1, 9))] * 2)),
    st.sampled_from(["float64", "float32"]),
    memory_forms(),
)
def test_adaptive_pooling_matches_torch(batch, size, output, dtype, form):
    shape = (*batch, 2, *size)
    assume(len(shape) in (3, 4))
    compare(
        lambda x: adaptive_avg_pool2d(x, output),
        lambda x: F.adaptive_avg_pool2d(x, output),
        in_memory_form(values(shape).astype(dtype), form),
        dtype=dtype,
        n=64,
    )
    compare(
        lambda x: adaptive_max_pool2d(x, output, return_indices=True),
        lambda x: F.adaptive_max_pool2d(x, output, return_indices=True),
        in_memory_form(coarse(shape, 1).astype(dtype), form),
        dtype=dtype,
        n=64,
    )


POOLS = {
    "max": lambda x: max_pool2d(x, 3, 2, 1),
    "max dilated": lambda x: max_pool2d(x, 2, 1, 0, 2),
    "max ceil": lambda x: max_pool2d(x, 2, 2, ceil_mode=True),
    "avg": lambda x: avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg ceil": lambda x: avg_pool2d(x, 2, 3, 1, ceil_mode=True),
    "adaptive avg": lambda x: adaptive_avg_pool2d(x, (3, 2)),
    "adaptive max": lambda x: adaptive_max_pool2d(x, (3, 2)),
    "global": lambda x: adaptive_avg_pool2d(x, 1),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_pooling_gradients_match_finite_differences(pool):
    x = minires.tensor(np.random.default_rng(0).permutation(2 * 5 * 5).reshape(1, 2, 5, 5) / 10, requires_grad=True)
    assert gradcheck(pool, (x,))
    assert gradgradcheck(lambda x: pool(x) ** 2, (x,))


LINEAR = {name: pool for name, pool in POOLS.items() if "max" not in name}


@pytest.mark.parametrize("pool", LINEAR.values(), ids=LINEAR)
def test_averages_are_adjoint_to_their_backward(pool):
    """<pool(x), v> = <x, pool^T(v)>, the backward pass giving pool^T(v); and pool is linear."""
    x = minires.tensor(values((2, 3, 5, 5), 0), requires_grad=True)
    y = pool(x)
    v = minires.tensor(values(y.shape, 1))
    (back,) = minires.autograd.grad(y, x, v)
    close = tolerance("float64", x.array.size)
    np.testing.assert_allclose((y * v).sum().item(), (x * back).sum().item(), **close)
    np.testing.assert_allclose(
        pool(2 * x - 3).detach().numpy(), (2 * y - 3 * pool(x * 0 + 1)).detach().numpy(), **close
    )


def test_max_pool2d_first_of_equal_maxima_takes_the_gradient():
    x = minires.tensor(np.ones((1, 1, 2, 2)), requires_grad=True)
    max_pool2d(x, 2).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy()[0, 0], [[1, 0], [0, 0]])


def test_max_pool2d_nan_propagates_and_takes_the_gradient():
    x = minires.tensor([[[[1.0, np.nan], [5.0, np.inf]]]], requires_grad=True)
    y = max_pool2d(x, 2)
    y.sum().backward()
    assert np.isnan(y.item())
    np.testing.assert_array_equal(x.grad.numpy()[0, 0], [[0, 1], [0, 0]])


def test_max_pool2d_window_of_minus_infinity_sends_the_gradient_to_the_first():
    x = minires.tensor(np.full((1, 1, 3, 3), -np.inf), requires_grad=True)
    y = max_pool2d(x, 3, padding=1)
    y.sum().backward()
    assert y.item() == -np.inf
    assert x.grad.numpy()[0, 0, 0, 0] == 1 and x.grad.numpy().sum() == 1


def test_max_pool2d_padding_never_wins():
    y = max_pool2d(minires.tensor(np.full((1, 1, 4, 4), -3.0)), 3, 2, 1)
    np.testing.assert_array_equal(y.numpy(), np.full((1, 1, 2, 2), -3.0))


def test_max_pool2d_indices_are_int64_and_take_no_gradient():
    x = minires.tensor(values((1, 1, 4, 4)), requires_grad=True)
    y, indices = max_pool2d(x, 2, return_indices=True)
    assert indices.dtype == minires.int64 and not indices.requires_grad and y.requires_grad
    np.testing.assert_array_equal(x.detach().numpy().ravel()[indices.numpy().ravel()], y.detach().numpy().ravel())


def test_max_pool2d_takes_an_empty_stride_as_the_kernel_size():
    x = minires.tensor(values((1, 1, 4, 4)))
    np.testing.assert_array_equal(max_pool2d(x, 2, ()).numpy(), max_pool2d(x, 2, None).numpy())


ERRORS = [
    (lambda: max_pool2d(np.zeros((1, 1, 4, 4)), 2), DTypeError, r"max_pool2d: input must be a Tensor, got ndarray"),
    (lambda: max_pool2d(zeros(4, 4), 2), ShapeError, r"max_pool2d: input needs 3 or 4 dimensions, got .*\(4, 4\)"),
    (
        lambda: max_pool2d(minires.tensor([[[1]]]), 1),
        DTypeError,
        r"max_pool2d: input needs a floating dtype, got int64",
    ),
    (
        lambda: max_pool2d(zeros(1, 1, 0, 4), 1),
        ShapeError,
        r"max_pool2d: input needs at least one channel, row and column",
    ),
    (
        lambda: max_pool2d(zeros(1, 1, 4, 4), 0),
        ArgumentError,
        r"max_pool2d: kernel_size must be at least 1, got \(0, 0\)",
    ),
    (
        lambda: max_pool2d(zeros(1, 1, 4, 4), 2, 0),
        ArgumentError,
        r"max_pool2d: stride must be at least 1, got \(0, 0\)",
    ),
    (lambda: max_pool2d(zeros(1, 1, 4, 4), 2, dilation=0), ArgumentError, r"max_pool2d: dilation must be at least 1"),
    (
        lambda: max_pool2d(zeros(1, 1, 4, 4), (2, 2, 2)),
        ArgumentError,
        r"max_pool2d: kernel_size must be an int or a pair",
    ),
    (
        lambda: max_pool2d(zeros(1, 1, 4, 4), 3, padding=2),
        ArgumentError,
        r"max_pool2d: padding must be from 0 to half of kernel_size = \(3, 3\), got padding = \(2, 2\)",
    ),
    (
        lambda: max_pool2d(zeros(1, 1, 4, 4), 3, padding=-1),
        ArgumentError,
        r"max_pool2d: padding .* got padding = \(-1, -1\)",
    ),
    (
        lambda: max_pool2d(zeros(1, 1, 4, 4), 3, padding=1, dilation=3),
        ShapeError,
        r"max_pool2d: the window covers 7 x 7, which the padded input of 6 x 6 does not hold, got .*\(1, 1, 4, 4\)",
    ),
    (
        lambda: max_pool2d(zeros(1, 1, 4, 1), (1, 2), 1, (0, 1), (1, 2)),
        ArgumentError,
        r"max_pool2d: some window \(kernel_size = \(1, 2\), dilation = \(1, 2\)\) lies in the padding alone, got padding = ",
    ),
    (
        lambda: avg_pool2d(zeros(1, 1, 2, 2), 3),
        ShapeError,
        r"avg_pool2d: the window covers 3 x 3, which the padded input of 2 x 2 does not hold",
    ),
    (
        lambda: avg_pool2d(zeros(1, 1, 4, 4), 2, divisor_override=0),
        ArgumentError,
        r"avg_pool2d: divisor_override must be None or an int other than 0, got 0",
    ),
    (lambda: avg_pool2d(zeros(1, 1, 4, 4), 2, padding=2), ArgumentError, r"avg_pool2d: padding must be from 0 to half"),
    (lambda: adaptive_avg_pool2d(zeros(1, 4), 1), ShapeError, r"adaptive_avg_pool2d: input needs 3 or 4 dimensions"),
    (
        lambda: adaptive_avg_pool2d(zeros(1, 1, 4, 4), 0),
        ArgumentError,
        r"adaptive_avg_pool2d: output_size must be at least 1",
    ),
    (
        lambda: adaptive_max_pool2d(zeros(1, 1, 4, 4), (1, 2, 3)),
        ArgumentError,
        r"adaptive_max_pool2d: output_size must be an int or a pair of ints, got \(1, 2, 3\)",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_pooling_errors_name_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call()
