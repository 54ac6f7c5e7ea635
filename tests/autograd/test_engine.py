"""The backward pass: order, accumulation, freeing, `autograd.grad`, and what it says when it cannot go on."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import minires
from minires import autograd
from minires.autograd.variable import AccumulateGrad
from minires.errors import ArgumentError, DTypeError, GradError, ShapeError


def leaf(*values: float) -> minires.Tensor:
    return minires.tensor(list(values), dtype=minires.float64, requires_grad=True)


def test_backward_of_a_diamond_waits_for_both_branches() -> None:
    x = leaf(3.0)
    a = x * 2
    b, c = a * 5, a * a
    (b + c).sum().backward()
    assert x.grad.item() == 2 * 5 + 2 * 2 * 2 * 3  # d(10x + 4x^2)/dx at 3


def test_backward_runs_each_node_once_in_a_ladder_of_diamonds() -> None:
    """2^40 paths lead to x; an engine that walks paths instead of nodes would never end."""
    x = leaf(1.0)
    y = x
    for _ in range(40):
        y = y + y
    y.sum().backward()
    assert x.grad.item() == 2.0**40


def test_backward_order_is_topological_where_discovery_order_is_not() -> None:
    """A short and a long path meet: x must run after the long one, though the short one reaches it first."""
    x = leaf(2.0)
    h = x * 3
    long = h
    for _ in range(5):
        long = long * 1.0
    seen = []
    h.register_hook(lambda g: seen.append(g.item()))
    (h + long).sum().backward()
    assert seen == [2.0]
    assert x.grad.item() == 6.0


def test_backward_of_a_chain_of_5000_operations() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(5000):
        y = y + 0.5
    y.sum().backward()
    assert x.grad.item() == 1.0
    del y
    gc.collect()


def test_gradients_accumulate_over_backward_calls() -> None:
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    (x * 4).sum().backward()
    assert x.grad.tolist() == [7.0, 7.0]


def test_leaves_do_not_share_the_memory_of_their_gradients() -> None:
    a, b = leaf(1.0), leaf(1.0)
    (a + b).sum().backward()
    a.grad.mul_(0)
    assert b.grad.item() == 1.0


def test_the_gradient_argument_is_neither_kept_nor_changed() -> None:
    x = leaf(1.0, 2.0)
    seed = minires.tensor([1.0, 10.0], dtype=minires.float64)
    y = x.clone()
    y.backward(seed, retain_graph=True)
    y.backward(seed)
    assert seed.tolist() == [1.0, 10.0]
    assert x.grad.tolist() == [2.0, 20.0]


def test_second_backward_says_that_the_graph_was_freed() -> None:
    x = leaf(2.0)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(GradError, match=r"mul: the values saved .* are gone.*retain_graph=True"):
        y.backward()


def test_retain_graph_allows_a_second_backward() -> None:
    x = leaf(2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8.0


def test_saved_arrays_die_with_the_backward_pass() -> None:
    x = leaf(1.0)
    hidden = x.exp()
    watch = weakref.ref(hidden.array)
    loss = (hidden * hidden).sum()
    del hidden
    gc.collect()
    assert watch() is not None
    loss.backward()
    gc.collect()
    assert watch() is None


def test_graphs_are_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        x = leaf(1.0)
        y = x.exp().relu().sqrt()
        watch = weakref.ref(y.grad_fn)
        del y
        assert watch() is None
    finally:
        gc.enable()


def test_create_graph_gives_every_higher_derivative() -> None:
    x = leaf(2.0)
    (first,) = autograd.grad(x**4, x, create_graph=True)
    (second,) = autograd.grad(first, x, create_graph=True)
    (third,) = autograd.grad(second, x)
    assert [round(t.item(), 9) for t in (first, second, third)] == [32.0, 48.0, 48.0]


def test_backward_with_create_graph_leaves_a_differentiable_grad() -> None:
    x = leaf(3.0)
    (x**3).sum().backward(create_graph=True)
    assert x.grad.requires_grad
    (second,) = autograd.grad(x.grad.sum(), x)
    assert round(second.item(), 9) == 18.0


def test_grad_touches_no_grad_attribute() -> None:
    x, w = leaf(2.0), leaf(5.0)
    (gx,) = autograd.grad((x * w).sum(), x)
    assert gx.item() == 5.0
    assert x.grad is None
    assert w.grad is None


def test_grad_of_an_intermediate_tensor() -> None:
    x = leaf(2.0)
    h = x * 3
    (gh, gx) = autograd.grad((h * h).sum(), [h, x])
    assert (gh.item(), gx.item()) == (12.0, 36.0)


def test_grad_runs_only_what_leads_to_the_inputs() -> None:
    x, w = leaf(2.0), leaf(5.0)
    calls = []
    side = w * 2
    side.register_hook(lambda g: calls.append(g))
    autograd.grad((x * 3 + side).sum(), x)
    assert calls == []


def test_grad_of_an_unused_input() -> None:
    x, unused = leaf(2.0), leaf(1.0)
    y = (x * 2).sum()
    with pytest.raises(GradError, match=r"grad: input 1 .* was not used.*allow_unused=True"):
        autograd.grad(y, [x, unused], retain_graph=True)
    assert autograd.grad(y, [x, unused], retain_graph=True, allow_unused=True)[1] is None
    assert autograd.grad(y, [x, unused], materialize_grads=True)[1].tolist() == [0.0]


def test_backward_into_given_inputs_only() -> None:
    x, w = leaf(2.0), leaf(5.0)
    h = x * w
    h.sum().backward(inputs=[x, h])
    assert (x.grad.item(), h.grad.item(), w.grad) == (5.0, 1.0, None)


def test_backward_of_several_outputs() -> None:
    x = leaf(2.0)
    autograd.backward([x * 2, x * 3], [minires.ones(1, dtype=minires.float64), None])
    assert x.grad.item() == 5.0


def test_the_same_tensor_twice_as_output() -> None:
    x = leaf(2.0)
    y = x * 2
    autograd.backward([y, y])
    assert x.grad.item() == 4.0


def test_a_leaf_is_its_own_gradient() -> None:
    x = leaf(2.0)
    x.backward()
    assert x.grad.item() == 1.0


def test_gradients_have_the_dtype_of_their_tensor() -> None:
    x = minires.ones(2, requires_grad=True)
    w = minires.ones(2, dtype=minires.float64, requires_grad=True)
    (x * w).sum().backward()
    assert (x.grad.dtype, w.grad.dtype) == (minires.float32, minires.float64)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: minires.ones(2).sum().backward(), GradError, r"backward: the tensor does not require grad"),
        (
            lambda: (leaf(1.0, 2.0) * 2).backward(),
            GradError,
            r"must have one element, got shape \(2,\).*give gradient=",
        ),
        (lambda: leaf(1.0, 2.0).backward(minires.ones(3)), ShapeError, r"gradient needs shape \(2,\).*got \(3,\)"),
        (
            lambda: leaf(1.0).backward(minires.ones(1, dtype=minires.int64)),
            DTypeError,
            r"gradient needs a floating dtype",
        ),
        (lambda: autograd.backward([leaf(1.0)], [None, None]), ArgumentError, r"expected 1 gradients.*got 2"),
        (
            lambda: autograd.backward(leaf(1.0), 3.0),
            ArgumentError,
            r"expected a Tensor or a sequence of them, got float",
        ),
        (lambda: leaf(1.0).backward(np.ones(1)), ArgumentError, r"gradient must be a Tensor or None, got ndarray"),
        (lambda: autograd.grad(leaf(1.0), minires.ones(1)), GradError, r"grad: input 0 .* does not require grad"),
        (lambda: leaf(1.0).backward(inputs=[]), ArgumentError, r"inputs must not be empty"),
        (lambda: autograd.grad(leaf(1.0), leaf(1.0), is_grads_batched=True), ArgumentError, r"is_grads_batched"),
    ],
)
def test_backward_errors(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()


def test_grad_fn_and_next_functions_show_the_graph() -> None:
    x = leaf(2.0)
    y = (x * 3).relu()
    assert repr(y.grad_fn) == "<ReLUBackward>"
    ((mul, number),) = y.grad_fn.next_functions
    assert (repr(mul), number) == ("<MulBackward>", 0)
    assert isinstance(mul.next_functions[0][0], AccumulateGrad)
    assert mul.next_functions[0][0].variable is x
    assert x.is_leaf
    assert not y.is_leaf


class _BadShape(autograd.Op):
    name = "bad_shape"

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y.sum()


class _TooMany(_BadShape):
    name = "too_many"

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y, grad_y


class _NoTensor(_BadShape):
    name = "no_tensor"

    @staticmethod
    def backward(ctx, grad_y):
        return 1.0


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (_BadShape, r"bad_shape: backward returned a gradient of shape \(\) for argument 0, whose shape is \(2,\)"),
        (_TooMany, r"too_many: backward must return at most 1 gradients.*got 2"),
        (_NoTensor, r"no_tensor: backward must return tensors or None, got float"),
    ],
)
def test_a_wrong_backward_is_named(op, text) -> None:
    with pytest.raises(GradError, match=text):
        autograd.apply(op, leaf(1.0, 2.0)).sum().backward()


def test_an_op_with_several_outputs_gets_zeros_for_unused_ones() -> None:
    class TwoOutputs(autograd.Op):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, grad_a, grad_b):
            return grad_a * 2 + grad_b * 3

    x = leaf(1.0)
    _, second = autograd.apply(TwoOutputs, x)
    second.sum().backward()
    assert x.grad.item() == 3.0
