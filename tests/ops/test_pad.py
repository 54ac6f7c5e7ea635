"""pad: against PyTorch to the second order, finite differences, adjoints, bad input."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, ShapeError, UnknownNameError
from minires.ops.pad import pad
from tests.strategies import in_memory_form, memory_forms, values
from tests.tolerances import tolerance
from tests.torch_oracle import compare, torch

F = torch.nn.functional


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(-2, 3), st.integers(-2, 3)), max_size=4),
    st.sampled_from([None, 0.0, 1.5, -np.inf, np.nan]),
    st.sampled_from(["float64", "float32"]),
    memory_forms(),
)
def test_constant_padding_matches_torch(shape, amounts, value, dtype, form):
    amounts = amounts[: len(shape)]
    for size, (before, after) in zip(reversed(shape), amounts, strict=False):
        assume(size + min(before, 0) + min(after, 0) >= 0 and size + before + after >= 0)
    numbers = [number for amount in amounts for number in amount]
    compare(
        lambda x: pad(x, numbers, value=value),
        lambda x: F.pad(x, numbers, value=value),
        in_memory_form(values(tuple(shape)).astype(dtype), form),
        dtype=dtype,
    )


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["reflect", "replicate", "circular"]),
    st.integers(1, 3),
    st.booleans(),
    st.data(),
    st.sampled_from(["float64", "float32"]),
    memory_forms(),
)
def test_padding_by_repetition_matches_torch(mode, padded_dims, batched, data, dtype, form):
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=padded_dims, max_size=padded_dims))
    numbers = []
    for size in reversed(sizes):
        most = {"reflect": size - 1, "replicate": 7, "circular": size}[mode]
        before, after = (data.draw(st.integers(-2, most)) for _ in range(2))
        assume(size + before + after >= 1)
        left = size + min(before, 0) + min(after, 0)
        assume(left >= 1 and (mode != "circular" or max(before, after) <= left))
        numbers += [before, after]
    shape = (*([2] if batched else []), 2, *sizes)
    compare(
        lambda x: pad(x, numbers, mode),
        lambda x: F.pad(x, numbers, mode),
        in_memory_form(values(shape).astype(dtype), form),
        dtype=dtype,
        n=64,
    )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("constant", [0, 0, 1, 2, 3, 4, 0, 0]),
        ("reflect", [3, 2, 1, 2, 3, 4, 3, 2]),
        ("replicate", [1, 1, 1, 2, 3, 4, 4, 4]),
        ("circular", [3, 4, 1, 2, 3, 4, 1, 2]),
    ],
)
def test_padding_modes_in_one_line_each(mode, expected):
    np.testing.assert_array_equal(pad(minires.tensor([[1.0, 2, 3, 4]]), (2, 2), mode).numpy()[0], expected)


def test_pad_takes_the_last_dimension_first():
    x = minires.tensor(np.zeros((1, 2, 5, 5)))
    assert pad(x, (1, 2, 3, 4)).shape == (1, 2, 5 + 7, 5 + 3)
    assert pad(x, (0, 0, 0, 0, 1, 2)).shape == (1, 5, 5, 5)  # channels: the shortcut of option A


def test_pad_keeps_integers_and_never_shares_memory():
    x = minires.tensor([[1, 2]])
    y = pad(x, (1, 0), value=7)
    assert y.dtype == minires.int64 and y.tolist() == [[7, 1, 2]]
    for mode in ("constant", "reflect", "replicate", "circular"):
        x = minires.tensor(values((1, 2, 4, 4)))
        assert not np.shares_memory(pad(x, (0, 0, 0, 0), mode).numpy(), x.numpy())


MODES = ("constant", "reflect", "replicate", "circular")


@pytest.mark.parametrize("mode", MODES)
def test_pad_gradients_match_finite_differences(mode):
    x = minires.tensor(values((1, 2, 4, 4)), requires_grad=True)
    assert gradcheck(lambda x: pad(x, (1, -1, 2, 3), mode), (x,))
    assert gradgradcheck(lambda x: pad(x, (1, -1, 2, 3), mode) ** 2, (x,))


@pytest.mark.parametrize("mode", MODES)
def test_pad_is_adjoint_to_its_backward(mode):
    x = minires.tensor(values((2, 2, 4, 4), 0), requires_grad=True)
    y = pad(x, (3, -1, 2, 3), mode)
    v = minires.tensor(values(y.shape, 1))
    (back,) = minires.autograd.grad(y, x, v)
    np.testing.assert_allclose((y * v).sum().item(), (x * back).sum().item(), **tolerance("float64", y.array.size))


IMAGE = minires.tensor(np.zeros((1, 1, 4, 4)))

ERRORS = [
    (lambda: pad(np.zeros((1, 4)), (1, 1)), DTypeError, r"pad: input must be a Tensor, got ndarray"),
    (lambda: pad(IMAGE, 1), ArgumentError, r"pad: pad must be a sequence of ints, got 1"),
    (lambda: pad(IMAGE, (1.0, 1)), ArgumentError, r"pad: pad must be a sequence of ints, got \(1\.0, 1\)"),
    (
        lambda: pad(IMAGE, (1, 1, 1)),
        ArgumentError,
        r"pad: pad must hold two numbers for each of at most 4 dimensions, got 3",
    ),
    (
        lambda: pad(IMAGE, (0,) * 10),
        ArgumentError,
        r"pad: pad must hold two numbers for each of at most 4 dimensions, got 10",
    ),
    (lambda: pad(IMAGE, (1, 1), "reflct"), UnknownNameError, r"unknown pad mode 'reflct': did you mean reflect"),
    (
        lambda: pad(IMAGE, (1, 1, 1, 1), "reflect", 2.0),
        ArgumentError,
        r"pad: value is for mode 'constant' only, got value = 2\.0",
    ),
    (
        lambda: pad(IMAGE, (-3, -2)),
        ShapeError,
        r"pad: dimension 3 has 4 elements, fewer than \(-3, -2\) cuts off, got input.shape = \(1, 1, 4, 4\)",
    ),
    (
        lambda: pad(IMAGE, (4, 0, 0, 0), "reflect"),
        ShapeError,
        r"pad: mode 'reflect' can add at most 3 here and must leave something of dimension 3, got \(4, 0\) for",
    ),
    (lambda: pad(IMAGE, (0, 5, 0, 0), "circular"), ShapeError, r"pad: mode 'circular' can add at most 4"),
    (lambda: pad(IMAGE, (-2, 3, 0, 0), "circular"), ShapeError, r"pad: mode 'circular' can add at most 2 here"),
    (lambda: pad(IMAGE, (-2, -2, 0, 0), "replicate"), ShapeError, r"pad: mode 'replicate' .* got \(-2, -2\)"),
    (
        lambda: pad(IMAGE, (1, 1), "reflect"),
        ShapeError,
        r"pad: mode 'reflect' pads the last 1 to 3 dimensions with one or two in front of them, got pad of 1 dimensions",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_pad_errors_name_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call()
