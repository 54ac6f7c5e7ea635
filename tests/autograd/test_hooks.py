"""Hooks on tensors, retained gradients, saved-tensor hooks."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires.autograd import saved_tensors_hooks
from minires.errors import GradError


def leaf(*values: float) -> minires.Tensor:
    return minires.tensor(list(values), requires_grad=True)


def test_a_hook_sees_and_replaces_the_gradient() -> None:
    x = leaf(1.0)
    h = x * 2
    order = []
    h.register_hook(lambda g: order.append("first") or g * 10)
    h.register_hook(lambda g: order.append("second"))
    (h * 3).sum().backward()
    assert x.grad.item() == 60.0
    assert order == ["first", "second"]


def test_a_hook_on_a_leaf_changes_what_is_accumulated() -> None:
    x = leaf(1.0)
    handle = x.register_hook(lambda g: g * 0.5)
    (x * 4).sum().backward()
    assert x.grad.item() == 2.0
    handle.remove()
    (x * 4).sum().backward()
    assert x.grad.item() == 6.0


def test_a_hook_runs_once_with_the_complete_gradient() -> None:
    x = leaf(1.0)
    h = x * 2
    seen = []
    h.register_hook(lambda g: seen.append(g.item()))
    (h * 3 + h * 4).sum().backward()
    assert seen == [7.0]


def test_a_handle_is_a_context_manager() -> None:
    x = leaf(1.0)
    with x.register_hook(lambda g: g * 0):
        (x * 4).sum().backward()
    (x * 4).sum().backward()
    assert x.grad.item() == 4.0


def test_a_leaf_has_its_gradient_before_the_layers_below_compute() -> None:
    """What sends gradients to other processes begins then; and the gradient is not held twice until the end."""
    w1, w2 = minires.ones(3, requires_grad=True), minires.ones(3, requires_grad=True)
    seen = []
    hidden = minires.ones(3) * w1
    hidden.register_hook(lambda g: seen.append("hidden"))
    lower = hidden.exp()
    lower.register_hook(lambda g: seen.append("lower"))
    w2.register_post_accumulate_grad_hook(lambda t: seen.append("w2"))
    w1.register_post_accumulate_grad_hook(lambda t: seen.append("w1"))
    (lower * w2).sum().backward()
    assert seen == ["w2", "lower", "hidden", "w1"]


def test_post_accumulate_hook_sees_the_sum() -> None:
    x = leaf(1.0)
    seen = []
    x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.item()))
    (x * 2).sum().backward()
    (x * 2).sum().backward()
    assert seen == [2.0, 4.0]


def test_retain_grad_keeps_the_gradient_of_an_intermediate() -> None:
    x = leaf(1.0, 2.0)
    h = x * 2
    h.retain_grad()
    h.retain_grad()
    (h * h).sum().backward()
    assert h.grad.tolist() == [4.0, 8.0]


def test_retain_grad_after_an_in_place_write_is_of_the_new_value() -> None:
    x = leaf(1.0)
    h = x * 2
    h.retain_grad()
    h += 1
    (h * 5).sum().backward()
    assert h.grad.item() == 5.0


def test_hooks_need_a_gradient() -> None:
    for method, argument in (
        ("register_hook", [print]),
        ("retain_grad", []),
        ("register_post_accumulate_grad_hook", [print]),
    ):
        with pytest.raises(GradError, match=method):
            getattr(minires.ones(1), method)(*argument)


def test_saved_tensors_hooks_pack_and_unpack() -> None:
    packed = []

    def pack(t):
        packed.append(t)
        return t.numpy().astype(np.float16)

    x, w = leaf(1.5), leaf(2.5)
    with saved_tensors_hooks(pack, lambda a: minires.from_numpy(a.astype(np.float32))):
        y = (x * w).exp()
    y.sum().backward()
    assert len(packed) == 3
    np.testing.assert_allclose(x.grad.item(), 2.5 * np.float16(np.exp(3.75)), rtol=1e-3)


def test_second_derivatives_through_saved_tensors_hooks() -> None:
    x = leaf(2.0)
    with saved_tensors_hooks(lambda t: t.numpy(), minires.from_numpy):
        y = x * x * x
    (first,) = minires.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = minires.autograd.grad(first.sum(), x)
    assert second.item() == 12.0
