"""The tensor's own interface: conversions, dtype and device, printing, copying, and errors that help."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import minires
from minires.errors import ArgumentError, DeviceError, DTypeError, GradError, ShapeError, UnsupportedError


def test_a_tensor_wraps_its_array_without_a_copy() -> None:
    array = np.zeros(3)
    t = minires.Tensor(array)
    array[0] = 5
    assert t.tolist() == [5.0, 0.0, 0.0]
    assert t.numpy() is array


def test_shape_is_a_tuple_with_numel() -> None:
    t = minires.zeros(2, 3)
    assert t.shape == (2, 3)
    assert t.shape.numel() == 6
    assert repr(t.shape) == "minires.Size([2, 3])"
    assert isinstance(t.shape[:1], minires.Size)
    assert (t.size(), t.size(0), t.size(-1), t.dim(), t.numel(), len(t)) == ((2, 3), 2, 3, 2, 6, 2)


def test_strides_are_in_elements() -> None:
    t = minires.zeros(2, 3)
    assert (t.stride(), t.t().stride(), t.stride(0)) == ((3, 1), (1, 3), 3)


def test_numbers() -> None:
    t = minires.tensor([2.5])
    assert (float(t), int(t), bool(t), t.item(), f"{t.squeeze():.1f}") == (2.5, 2, True, 2.5, "2.5")
    assert [10, 20, 30][minires.tensor(1)] == 20
    assert 2.5 in t


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda t: t.item(), ShapeError, r"item: the tensor must have one element, got shape \(2,\)"),
        (
            lambda t: bool(t),
            ShapeError,
            r"bool: a tensor of shape \(2,\) is neither true nor false; use .any\(\) or .all\(\)",
        ),
        (lambda t: len(t.sum()), ShapeError, r"len: a tensor without dimensions"),
        (lambda t: list(t.sum()), ShapeError, r"iter: a tensor without dimensions"),
        (lambda t: f"{t:.2f}", ShapeError, r"format: a tensor of shape \(2,\) cannot be formatted"),
        (lambda t: t.to("cuda"), DeviceError, r"cuda has no kernel set in this version"),
        (lambda t: t.to("tpu"), DeviceError, r"type must be 'cpu', 'cuda' or 'cuda:N', got 'tpu'"),
        (lambda t: t.to(dtype="complex64"), DTypeError, r"dtype: expected one of float16, .*got 'complex64'"),
        (lambda t: t.to(shape=3), ArgumentError, r"to: unknown argument 'shape'"),
        (lambda t: t.fft(), UnsupportedError, r"Tensor.fft: minires tensors have no such attribute"),
        (lambda t: t.requires_grad_().numpy(), GradError, r"numpy: the tensor requires grad.*detach"),
        (lambda t: np.asarray(t.requires_grad_()), GradError, r"numpy: the tensor requires grad"),
        (lambda t: t.long().requires_grad_(), GradError, r"only floating tensors can require grad, got dtype int64"),
        (lambda t: setattr(t, "grad", minires.zeros(3)), ShapeError, r"grad: expected shape \(2,\).*got \(3,\)"),
        (lambda t: setattr(t, "grad", np.zeros(2)), GradError, r"grad: expected a Tensor or None, got ndarray"),
        (lambda t: setattr(t, "grad", t.double()), GradError, r"grad: expected dtype float32"),
        (lambda t: t[0:1].detach_(), GradError, r"detach_: a view cannot be detached in place"),
        (lambda t: copy.deepcopy(t.requires_grad_() * 2), GradError, r"deepcopy: only leaf tensors"),
        (
            lambda t: (t.requires_grad_() * 2).requires_grad_(False),
            GradError,
            r"only a leaf can be told not to require grad",
        ),
        (lambda t: t.uniform_(2, 1), ArgumentError, r"uniform_: expected a <= b"),
        (lambda t: t.bernoulli_(2), ArgumentError, r"bernoulli_: p must be a probability"),
    ],
)
def test_errors(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call(minires.zeros(2))


def test_a_missing_attribute_is_an_attribute_error_too() -> None:
    assert not hasattr(minires.zeros(1), "fft")
    assert getattr(minires.zeros(1), "fft", 3) == 3


def test_dtype_conversions() -> None:
    t = minires.tensor([1.7, -1.7])
    assert t.int().tolist() == [1, -1]
    for name, dtype in (
        ("float", "float32"),
        ("double", "float64"),
        ("half", "float16"),
        ("int", "int32"),
        ("long", "int64"),
        ("bool", "bool"),
        ("byte", "uint8"),
    ):
        assert getattr(t.abs(), name)().dtype.name == dtype
    assert t.to(minires.float64).type() == "minires.float64"
    assert t.type_as(minires.zeros(1, dtype=minires.float64)).dtype is minires.float64
    assert t.to("cpu") is t
    assert t.to(t) is t
    assert t.to("cpu", minires.float64).dtype is minires.float64
    assert t.to(minires.float32, copy=True) is not t
    assert t.cpu() is t
    assert t.element_size() == 4


def test_gradients_flow_through_conversions() -> None:
    x = minires.ones(2, requires_grad=True)
    x.double().sum().backward()
    assert (x.grad.dtype, x.grad.tolist()) == (minires.float32, [1.0, 1.0])


def test_detach_and_data_share_memory() -> None:
    x = minires.ones(2, requires_grad=True)
    d = x.detach()
    assert not d.requires_grad
    d.fill_(3)
    x.data.mul_(2)
    assert x.tolist() == [6.0, 6.0]
    x.data = minires.zeros(2)
    assert (x.tolist(), x.requires_grad) == ([0.0, 0.0], True)


def test_numpy_on_either_side() -> None:
    x = minires.ones(2)
    assert isinstance(np.ones(2, np.float32) * x, minires.Tensor)
    assert np.sum(np.asarray(x)) == 2
    assert np.array(x, dtype=np.float64).dtype == np.float64


def test_deepcopy_copies_values_grad_and_flags() -> None:
    x = minires.ones(2, requires_grad=True)
    x.grad = minires.full((2,), 5.0)
    y = copy.deepcopy(x)
    y.data.zero_()
    y.grad.zero_()
    assert (x.tolist(), x.grad.tolist(), y.requires_grad) == ([1.0, 1.0], [5.0, 5.0], True)
    pair = copy.deepcopy([x, x])
    assert pair[0] is pair[1]


def test_tensors_are_keys_by_identity() -> None:
    a, b = minires.zeros(1), minires.zeros(1)
    assert len({a, b}) == 2


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: minires.tensor([1.0, 2.5]), "tensor([1.0000, 2.5000])"),
        (lambda: minires.tensor([1, 2]), "tensor([1, 2])"),
        (lambda: minires.tensor(True), "tensor(True)"),
        (lambda: minires.zeros(2, dtype=minires.float64), "tensor([0., 0.], dtype=minires.float64)"),
        (lambda: minires.ones(1, requires_grad=True), "tensor([1.], requires_grad=True)"),
        (lambda: minires.ones(1, requires_grad=True) * 2, "tensor([2.], grad_fn=<MulBackward>)"),
        (lambda: minires.zeros(0, 3), "tensor([], size=(0, 3))"),
    ],
)
def test_repr(make, text) -> None:
    assert repr(make()) == text


def test_repr_of_a_large_tensor_is_short() -> None:
    assert len(repr(minires.zeros(1000, 1000))) < 500


def test_new_tensors_like_this_one() -> None:
    t = minires.zeros(2, dtype=minires.float64)
    assert t.new_ones(3).dtype is minires.float64
    assert t.new_zeros(2, 2).shape == (2, 2)
    assert t.new_full((2,), 7).tolist() == [7.0, 7.0]
    assert t.new_empty((1,)).shape == (1,)
    assert t.new_tensor([1, 2]).dtype is minires.float64


def test_filling_in_place() -> None:
    minires.manual_seed(1)
    t = minires.zeros(20000)
    assert abs(t.normal_(2.0, 3.0).mean().item() - 2.0) < 0.1
    assert abs(t.uniform_(-1.0, 3.0).mean().item() - 1.0) < 0.05
    assert abs(t.bernoulli_(0.25).mean().item() - 0.25) < 0.02
    assert t.fill_(4).unique().tolist() == [4.0]
    assert t.copy_(minires.tensor(2)).unique().tolist() == [2.0]
    x = minires.ones(3)
    assert x.addcmul_(x, x, value=2).tolist() == [3.0] * 3
    assert x.addcdiv_(minires.ones(3), x, value=3).tolist() == [4.0] * 3
    assert x.lerp_(minires.zeros(3), 0.5).tolist() == [2.0] * 3
