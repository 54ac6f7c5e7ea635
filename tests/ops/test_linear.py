"""matmul, mm, bmm and linear against PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.autograd import gradcheck, gradgradcheck
from minires.errors import DTypeError, ShapeError
from minires.ops.linear import bmm, linear, matmul, mm
from minires.tensor import Tensor
from tests.strategies import broadcastable, in_memory_form, memory_forms, values
from tests.tolerances import assert_close
from tests.torch_oracle import compare, torch

SIZES = st.integers(0, 4)


@given(
    leading=broadcastable(2),
    sizes=st.tuples(SIZES, SIZES, SIZES),
    vectors=st.sampled_from(["none", "none", "first", "second", "both"]),
    dtype=st.sampled_from(["float32", "float64"]),
    forms=st.tuples(memory_forms(), memory_forms()),
    seed=st.integers(0, 20),
)
@settings(deadline=None, max_examples=100)
def test_matmul_equals_torch(leading, sizes, vectors, dtype, forms, seed):
    m, k, n = sizes
    a_shape = (k,) if vectors in ("first", "both") else (*leading[0], m, k)
    b_shape = (k,) if vectors in ("second", "both") else (*leading[1], k, n)
    a = in_memory_form(values(a_shape, seed).astype(dtype), forms[0])
    b = in_memory_form(values(b_shape, seed + 1).astype(dtype), forms[1])
    compare(matmul, torch.matmul, a, b, dtype=dtype, n=64)


@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (3, 2)), ((2, 2, 3), (3, 2)), ((2, 3), (2, 3, 2))],
)
def test_matmul_derivatives_by_finite_differences(a_shape, b_shape):
    a, b = Tensor(values(a_shape, 1), requires_grad=True), Tensor(values(b_shape, 2), requires_grad=True)
    assert gradcheck(matmul, (a, b))
    assert gradgradcheck(matmul, (a, b))


def test_matmul_adjoint_identity():
    """<A x, y> = <x, A^T y>, and the backward pass is that A^T."""
    a, x, y = (Tensor(values((4, 4), k), requires_grad=True) for k in (1, 2, 3))
    (matmul(a, x) * y).sum().backward()
    assert_close((x.grad.array * x.array).sum(), (y.grad.array * y.array).sum(), "float64", 16)
    assert_close((a.grad.array * a.array).sum(), (y.grad.array * y.array).sum(), "float64", 16)


def test_matmul_of_integers():
    a, b = np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2)
    y = matmul(Tensor(a), Tensor(b))
    np.testing.assert_array_equal(y.array, a @ b)
    assert y.array.dtype == np.int64


def test_matmul_nan_and_infinity_propagate():
    a = np.array([[np.inf, 1.0], [np.nan, 1.0], [2.0, 1.0]])
    compare(matmul, torch.matmul, a, np.array([[0.0, 1.0], [1.0, 1.0]]), second=False)


@pytest.mark.parametrize("wanted", [0, 1])
def test_matmul_gives_only_the_gradient_that_is_wanted(wanted):
    arrays = [values((2, 3), 1), values((3, 2), 2)]
    operands = [Tensor(a, requires_grad=k == wanted) for k, a in enumerate(arrays)]
    matmul(*operands).sum().backward()
    ones = np.ones((2, 2))
    expected = ones @ arrays[1].T if wanted == 0 else arrays[0].T @ ones
    assert_close(operands[wanted].grad.array, expected, "float64")
    assert operands[1 - wanted].grad is None


def test_mm_and_bmm_equal_torch():
    compare(mm, torch.mm, values((2, 3), 1), values((3, 4), 2))
    compare(bmm, torch.bmm, values((5, 2, 3), 1), values((5, 3, 4), 2))
    compare(bmm, torch.bmm, values((0, 2, 3), 1), values((0, 3, 4), 2))


@given(
    leading=st.lists(st.integers(0, 3), max_size=3),
    sizes=st.tuples(SIZES, SIZES),
    bias=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    form=memory_forms(),
    seed=st.integers(0, 20),
)
@settings(deadline=None, max_examples=60)
def test_linear_equals_torch(leading, sizes, bias, dtype, form, seed):
    n_in, n_out = sizes
    arrays = [values((*leading, n_in), seed), values((n_out, n_in), seed + 1)] + [values((n_out,), seed + 2)] * bias
    arrays = [in_memory_form(a.astype(dtype), form) for a in arrays]
    compare(linear, torch.nn.functional.linear, *arrays, dtype=dtype, n=64)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3)])
def test_linear_derivatives_by_finite_differences(shape):
    inputs = tuple(Tensor(values(s, k), requires_grad=True) for k, s in enumerate([shape, (2, 3), (2,)]))
    assert gradcheck(linear, inputs)
    assert gradgradcheck(linear, inputs)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_linear_gives_only_the_gradient_that_is_wanted(wanted):
    arrays = [values((4, 3), 1), values((2, 3), 2), values((2,), 3)]
    ours = [Tensor(a.copy(), requires_grad=k == wanted) for k, a in enumerate(arrays)]
    theirs = [torch.tensor(a, requires_grad=k == wanted) for k, a in enumerate(arrays)]
    (linear(*ours) ** 2).sum().backward()
    (torch.nn.functional.linear(*theirs) ** 2).sum().backward()
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if k == wanted:
            assert_close(a.grad.array, b.grad.numpy(), "float64", 12)
        else:
            assert a.grad is None


def zeros(*shape):
    return Tensor(np.zeros(shape))


REFUSED = {
    "matmul scalar": (lambda: matmul(zeros(), zeros(2)), ShapeError, "matmul: input needs at least 1 dimension"),
    "matmul inner": (
        lambda: matmul(zeros(2, 3), zeros(2, 3)),
        ShapeError,
        r"matmul: the last size of input must equal the second last size of other, got input.shape = \(2, 3\) and other",
    ),
    "matmul vector": (
        lambda: matmul(zeros(2, 3), zeros(2)),
        ShapeError,
        r"matmul: the last size of input must equal the only size of other, got input.shape = \(2, 3\).* = \(2,\)",
    ),
    "matmul leading": (
        lambda: matmul(zeros(2, 2, 3), zeros(3, 3, 2)),
        ShapeError,
        r"matmul: the leading sizes of .* do not broadcast: 2 and 3 are neither equal nor 1",
    ),
    "matmul dtypes": (
        lambda: matmul(zeros(2, 2), zeros(2, 2).float()),
        DTypeError,
        "matmul: all tensors need one dtype, got input float64, other float32",
    ),
    "matmul array": (
        lambda: matmul(zeros(2, 2), np.zeros((2, 2))),
        DTypeError,
        "matmul: other must be a Tensor, got ndarray",
    ),
    "mm rank": (
        lambda: mm(zeros(2, 2), zeros(1, 2, 2)),
        ShapeError,
        r"mm: mat2 needs 2 dimensions, got mat2.shape = \(1, 2, 2\)",
    ),
    "mm inner": (
        lambda: mm(zeros(2, 3), zeros(2, 3)),
        ShapeError,
        r"mm: mat2 must have shape \(3, p\) to follow input.shape = \(2, 3\), got \(2, 3\)",
    ),
    "bmm batch": (
        lambda: bmm(zeros(2, 2, 3), zeros(1, 3, 2)),
        ShapeError,
        r"bmm: mat2 must have shape \(2, 3, p\) to follow input.shape = \(2, 2, 3\), got \(1, 3, 2\)",
    ),
    "linear features": (
        lambda: linear(zeros(2, 4), zeros(5, 3)),
        ShapeError,
        r"linear: input needs 3 features in its last dimension \(weight.shape = \(5, 3\)\), got input.shape = \(2, 4\); flatten",
    ),
    "linear scalar": (
        lambda: linear(zeros(), zeros(5, 3)),
        ShapeError,
        r"linear: input needs 3 features.*got input.shape = \(\)",
    ),
    "linear weight rank": (
        lambda: linear(zeros(2, 3), zeros(3)),
        ShapeError,
        r"linear: weight needs 2 dimensions, got weight.shape = \(3,\)",
    ),
    "linear bias": (
        lambda: linear(zeros(2, 3), zeros(5, 3), zeros(3)),
        ShapeError,
        r"linear: bias must have shape \(5,\), one value per output feature, got \(3,\)",
    ),
    "linear dtypes": (
        lambda: linear(zeros(2, 3).float(), zeros(5, 3)),
        DTypeError,
        "linear: all tensors need one dtype, got input float32, weight float64",
    ),
    "linear integers": (
        lambda: linear(zeros(2, 3).long(), zeros(5, 3).long()),
        DTypeError,
        "linear: input needs a floating dtype, got int64",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_linear_refuses(case):
    call, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        call()
