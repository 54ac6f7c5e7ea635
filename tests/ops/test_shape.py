"""Shape operations: torch's results, views where torch has views, gradients that are transposes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, LabelError, ShapeError
from tests.strategies import in_memory_form, memory_forms, shapes, values
from tests.torch_oracle import compare, torch

X = values((2, 3, 4))

CALLS = {
    "reshape": lambda t: t.reshape(4, -1),
    "reshape tuple": lambda t: t.reshape((6, 4)),
    "view": lambda t: t.view(-1),
    "flatten": lambda t: t.flatten(1),
    "flatten middle": lambda t: t.flatten(0, 1),
    "unflatten": lambda t: t.unflatten(2, (2, -1)),
    "permute": lambda t: t.permute(2, 0, 1),
    "permute tuple": lambda t: t.permute((1, 2, 0)),
    "transpose": lambda t: t.transpose(0, -1),
    "movedim": lambda t: t.movedim(0, 2),
    "movedim two": lambda t: t.movedim((0, 1), (2, 0)),
    "unsqueeze": lambda t: t.unsqueeze(1),
    "unsqueeze end": lambda t: t.unsqueeze(-1),
    "squeeze": lambda t: t.unsqueeze(0).squeeze(),
    "squeeze dim": lambda t: t.unsqueeze(0).squeeze(0),
    "squeeze not one": lambda t: t.squeeze(1),
    "expand": lambda t: t.unsqueeze(1).expand(2, 5, 3, 4),
    "expand keep": lambda t: t.unsqueeze(0).expand(3, -1, -1, -1),
    "expand_as": lambda t: t[:, :1].expand_as(t),
    "repeat": lambda t: t.repeat(2, 1, 3),
    "repeat more": lambda t: t.repeat(2, 1, 1, 2),
    "flip": lambda t: t.flip(0, 2),
    "roll": lambda t: t.roll(1, 1),
    "roll two": lambda t: t.roll((1, -2), (0, 2)),
    "roll flat": lambda t: t.roll(5),
    "contiguous": lambda t: t.transpose(0, 1).contiguous(),
    "clone": lambda t: t.clone(),
    "mT": lambda t: t.mT,
    "to": lambda t: t.float(),
    "double": lambda t: t.double(),
    "view_as": lambda t: t.view_as(t.reshape(4, 6)),
    "sum_to_size": lambda t: t.sum_to_size(3, 1),
}


@pytest.mark.parametrize("name", CALLS)
@given(form=memory_forms())
def test_shape_operations_are_torchs(name, form) -> None:
    if name.startswith("view"):
        form = "contiguous"
    compare(CALLS[name], CALLS[name], in_memory_form(X, form), n=16, dtype="float64")


@pytest.mark.parametrize("name", [n for n in CALLS if n not in ("to",)])
def test_gradients_by_finite_differences(name) -> None:
    x = minires.tensor(X, requires_grad=True)
    assert gradcheck(CALLS[name], x)
    assert gradgradcheck(CALLS[name], x)


@given(shape=shapes(1, 3, 0, 3), dim=st.integers(-3, 2), count=st.integers(1, 3))
def test_cat_and_stack(shape, dim, count) -> None:
    arrays = [values(shape, seed) for seed in range(count)]
    if -len(shape) <= dim < len(shape):
        compare(lambda *t: minires.cat(t, dim), lambda *t: torch.cat(t, dim), *arrays)
    if -len(shape) - 1 <= dim <= len(shape):
        compare(lambda *t: minires.stack(t, dim), lambda *t: torch.stack(t, dim), *arrays)


def test_cat_of_different_sizes_and_dtypes() -> None:
    compare(lambda a, b: minires.cat([a, b], 1), lambda a, b: torch.cat([a, b], 1), values((2, 1)), values((2, 3), 1))
    mixed = minires.cat([minires.tensor([1, 2]), minires.tensor([0.5])])
    assert (mixed.dtype, mixed.tolist()) == (minires.float32, [1.0, 2.0, 0.5])


VIEWS = ["view", "reshape", "flatten", "permute", "transpose", "unsqueeze", "squeeze", "expand", "movedim", "mT"]


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory(name) -> None:
    x = minires.tensor(X)
    view = CALLS[name](x)
    x[0, 0, 0] = 100.0
    assert 100.0 in view
    assert np.may_share_memory(view.array, x.array)


def test_contiguous_is_itself_where_it_can_be() -> None:
    x = minires.tensor(X)
    assert x.contiguous() is x
    assert x.to(x.dtype) is x
    assert not x.transpose(0, 1).is_contiguous()


def test_t_and_T() -> None:
    compare(lambda t: t.t(), lambda t: t.t(), values((2, 3)))
    compare(lambda t: t.t(), lambda t: t.t(), values((3,)))
    assert minires.zeros(2, 3).T.shape == (3, 2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda x: x.reshape(5, 5),
            ShapeError,
            r"reshape: shape \(5, 5\) does not hold the 24 elements .* \(2, 3, 4\)",
        ),
        (lambda x: x.reshape(-1, -1), ShapeError, r"reshape: shape \(-1, -1\)"),
        (lambda x: x.reshape("a"), ArgumentError, r"reshape: sizes must be integers"),
        (lambda x: x.transpose(0, 2).view(-1), ShapeError, r"view: .* without a copy; use .reshape"),
        (lambda x: x.view(minires.float64), ArgumentError, r"view: sizes must be integers.*use .to\(dtype\)"),
        (lambda x: x.permute(0, 0, 1), ArgumentError, r"permute: dims must name each of the 3 dimensions once"),
        (lambda x: x.transpose(0, 3), LabelError, r"transpose: dim must be from -3 to 2 .* got 3"),
        (lambda x: x.flatten(2, 1), ArgumentError, r"flatten: start_dim must not come after end_dim"),
        (
            lambda x: x.expand(2, 3, 5),
            ShapeError,
            r"expand: a tensor of shape \(2, 3, 4\) cannot be expanded to \(2, 3, 5\)",
        ),
        (lambda x: x.t(), ShapeError, r"t: input needs at most 2 dimensions"),
        (lambda x: x.repeat(2), ArgumentError, r"repeat: needs a count >= 0 for each of the 3 dimensions"),
        (lambda x: x.roll((1, 2), 0), ArgumentError, r"roll: shifts and dims need the same length"),
        (lambda x: x.movedim((0, 1), 0), ArgumentError, r"movedim: source and destination need the same length"),
        (lambda x: minires.cat([]), ArgumentError, r"cat: expected at least one tensor"),
        (
            lambda x: minires.cat([x, x[0]]),
            ShapeError,
            r"cat: all tensors need the same sizes .* tensors\[1\].shape = \(3, 4\)",
        ),
        (lambda x: minires.stack([]), ArgumentError, r"stack: expected at least one tensor"),
        (lambda x: minires.stack([x, x[0]]), ShapeError, r"stack: all tensors need one shape"),
        (lambda x: x.sum(dim=(0, 0)), ArgumentError, r"sum: dim names a dimension twice"),
        (lambda x: x.sum(dim="a"), ArgumentError, r"sum: dim must be an int, got 'a'"),
    ],
)
def test_errors(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call(minires.tensor(X))
