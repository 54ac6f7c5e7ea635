"""layer_norm and group_norm against PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.kernels import reference
from minires.ops.layer_norm import group_norm, layer_norm
from minires.tensor import Tensor
from tests.strategies import in_memory_form, memory_forms, shapes, values
from tests.torch_oracle import compare, torch

F = torch.nn.functional
EPS = 0.1  # rows of one or two values are drawn too; their second derivatives grow as 1 / eps


@given(
    shape=shapes(1, 4, 0, 4),
    normalized=st.integers(1, 4),
    affine=st.sampled_from([(), ("weight",), ("weight", "bias")]),
    dtype=st.sampled_from(["float32", "float64"]),
    form=memory_forms(),
    seed=st.integers(0, 20),
)
@settings(deadline=None, max_examples=60)
def test_layer_norm_equals_torch(shape, normalized, affine, dtype, form, seed):
    ending = shape[len(shape) - min(normalized, len(shape)) :]
    arrays = [values(shape, seed), *(values(ending, seed + 1 + k) for k in range(len(affine)))]

    def call(function):
        return lambda x, *rest: function(x, ending, **dict(zip(affine, rest, strict=True)), eps=EPS)

    compare(
        call(layer_norm),
        call(F.layer_norm),
        *[in_memory_form(a.astype(dtype), form) for a in arrays],
        dtype=dtype,
        n=256,
    )


@given(
    n=st.integers(0, 3),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    rest=st.lists(st.integers(1, 3), max_size=2),
    affine=st.sampled_from([(), ("weight",), ("weight", "bias")]),
    dtype=st.sampled_from(["float32", "float64"]),
    form=memory_forms(),
    seed=st.integers(0, 20),
)
@settings(deadline=None, max_examples=60)
def test_group_norm_equals_torch(n, groups, per_group, rest, affine, dtype, form, seed):
    c = groups * per_group
    shape = (n, c, *rest, 2)
    arrays = [values(shape, seed), *(values((c,), seed + 1 + k) for k in range(len(affine)))]

    def call(function):
        return lambda x, *given_: function(x, groups, **dict(zip(affine, given_, strict=True)), eps=EPS)

    compare(
        call(group_norm),
        call(F.group_norm),
        *[in_memory_form(a.astype(dtype), form) for a in arrays],
        dtype=dtype,
        n=256,
    )


@pytest.mark.parametrize("affine", [True, False])
def test_norms_derivatives_by_finite_differences(affine):
    x = Tensor(values((2, 4, 2)), requires_grad=True)
    for call, shape in (
        (lambda x, *p: layer_norm(x, (4, 2), *p, eps=EPS), (4, 2)),
        (lambda x, *p: layer_norm(x, 2, *p, eps=EPS), (2,)),
        (lambda x, *p: group_norm(x, 2, *p, eps=EPS), (4,)),
    ):
        parameters = [Tensor(values(shape, k), requires_grad=True) for k in (1, 2)] if affine else []
        assert gradcheck(call, (x, *parameters))
        assert gradgradcheck(call, (x, *parameters))


def test_norms_bias_without_weight_adds_it():
    """torch's backward fails here, so the judge is the same norm without parameters, plus the bias."""
    x, bias = values((2, 4, 3)), values((4,), 1)
    compare(lambda x, b: group_norm(x, 2, None, b), lambda x, b: F.group_norm(x, 2) + b.reshape(4, 1), x, bias)
    bias = values((4, 3), 1)
    compare(lambda x, b: layer_norm(x, (4, 3), None, b), lambda x, b: F.layer_norm(x, (4, 3)) + b, x, bias)


def test_group_norm_of_two_dimensions_and_its_extremes():
    x = values((3, 4, 5))
    compare(lambda x: group_norm(x, 2), lambda x: F.group_norm(x, 2), x[:, :, 0].copy())
    compare(lambda x: group_norm(x, 1), lambda x: F.layer_norm(x, (4, 5)), x)  # one group: the sample as a whole
    compare(lambda x: group_norm(x, 4), lambda x: F.instance_norm(x), x)  # a group a channel: instance norm


def test_norms_nan_stays_in_its_row():
    x = values((3, 4))
    x[1, 2] = np.nan
    for y in (layer_norm(Tensor(x), 4), group_norm(Tensor(x), 1)):
        assert np.isnan(y.array[1]).all() and np.isfinite(y.array[[0, 2]]).all()


@pytest.mark.usefixtures("reference_kernels")
@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_norms_use_the_kernel_set(name, monkeypatch):
    calls = []
    for half in ("forward", "backward"):
        real = getattr(reference, f"{name}_{half}")
        monkeypatch.setattr(reference, f"{name}_{half}", lambda *a, n=half, r=real: calls.append(n) or r(*a))
    x = Tensor(values((2, 4)), requires_grad=True)
    (layer_norm(x, 4) if name == "layer_norm" else group_norm(x, 2)).sum().backward()
    assert calls == ["forward", "backward"]


@pytest.mark.parametrize("wanted", ["x", "weight", "bias"])
def test_norms_give_only_the_gradients_that_are_wanted(wanted):
    tensors = {
        name: Tensor(values(shape, k), requires_grad=name == wanted)
        for k, (name, shape) in enumerate({"x": (3, 4), "weight": (4,), "bias": (4,)}.items())
    }
    for call in (layer_norm, group_norm):
        y = call(tensors["x"], 4 if call is layer_norm else 2, tensors["weight"], tensors["bias"])
        (y**2).sum().backward()
    assert [name for name, t in tensors.items() if t.grad is not None] == [wanted]


def zeros(*shape):
    return Tensor(np.zeros(shape))


REFUSED = {
    "layer shape": (
        lambda: layer_norm(zeros(2, 3), (4,)),
        ShapeError,
        r"layer_norm: normalized_shape must be the last sizes of input.shape = \(2, 3\), at least one, got \(4,\)",
    ),
    "layer nothing": (
        lambda: layer_norm(zeros(2, 3), ()),
        ShapeError,
        r"layer_norm: normalized_shape must be .* got \(\)",
    ),
    "layer too long": (
        lambda: layer_norm(zeros(3), (2, 3)),
        ShapeError,
        r"layer_norm: normalized_shape .* got \(2, 3\)",
    ),
    "layer weight": (
        lambda: layer_norm(zeros(2, 3), 3, zeros(2)),
        ShapeError,
        r"layer_norm: weight must have shape \(3,\), got \(2,\)",
    ),
    "layer bias": (
        lambda: layer_norm(zeros(2, 3), 3, None, zeros(2)),
        ShapeError,
        r"layer_norm: bias must have shape \(3,\), got \(2,\)",
    ),
    "layer dtypes": (
        lambda: layer_norm(zeros(2, 3), 3, zeros(3).float()),
        DTypeError,
        "layer_norm: all tensors need one dtype, got input float64, weight float32",
    ),
    "layer integers": (
        lambda: layer_norm(zeros(2, 3).long(), 3),
        DTypeError,
        "layer_norm: input needs a floating dtype, got int64",
    ),
    "layer array": (lambda: layer_norm(np.zeros(3), 3), DTypeError, "layer_norm: input must be a Tensor, got ndarray"),
    "group divisor": (
        lambda: group_norm(zeros(2, 3), 2),
        ArgumentError,
        "group_norm: num_groups must divide the number of channels, 3, got 2",
    ),
    "group zero": (lambda: group_norm(zeros(2, 3), 0), ArgumentError, "group_norm: num_groups must divide .* got 0"),
    "group rank": (
        lambda: group_norm(zeros(4), 2),
        ShapeError,
        r"group_norm: input needs at least 2 dimensions \(N, C, \*\), got input.shape = \(4,\)",
    ),
    "group one value": (
        lambda: group_norm(zeros(1, 4), 4),
        ShapeError,
        r"group_norm: a group needs more than one value to have a variance, got input.shape = \(1, 4\) and num_groups = 4",
    ),
    "group weight": (
        lambda: group_norm(zeros(2, 4), 2, zeros(2)),
        ShapeError,
        r"group_norm: weight must have shape \(4,\), got \(2,\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_norms_refuse(case):
    call, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        call()
