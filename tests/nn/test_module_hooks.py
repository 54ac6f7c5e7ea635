"""Hooks: order, arguments and effects are torch's. Most tests run one function on both libraries and compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import ArgumentError, GradError
from tests.nn.networks import block, copy_weights, tensor
from tests.tolerances import tolerance
from tests.torch_oracle import torch

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def both(run: Any) -> tuple[Any, Any]:
    """(run with minires, run with torch) on layers of equal weights."""
    theirs = torch.nn.Linear(3, 2)
    ours = nn.Linear(3, 2)
    copy_weights(ours, theirs)
    return (
        run(ours, lambda x: tensor(x, requires_grad=True)),
        run(theirs, lambda x: torch.tensor(x, requires_grad=True)),
    )


def assert_same(ours: Any, theirs: Any) -> None:
    """Records of texts, numbers, tensors and tuples of them."""
    if isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    elif isinstance(theirs, torch.Tensor):
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), **tolerance("float32"))
    else:
        assert ours == theirs


def test_forward_hooks_run_in_torchs_order() -> None:
    def run(layer: Any, make: Any) -> list[str]:
        seen: list[str] = []
        layer.register_forward_hook(lambda m, a, y: seen.append("post 1"))
        layer.register_forward_pre_hook(lambda m, a: seen.append("pre 1"))
        layer.register_forward_pre_hook(lambda m, a: seen.append("pre 2"))
        layer.register_forward_pre_hook(lambda m, a: seen.append("pre first"), prepend=True)
        layer.register_forward_hook(lambda m, a, y: seen.append("post 2"))
        layer.register_forward_hook(lambda m, a, y: seen.append("post first"), prepend=True)
        layer(make(X))
        return seen

    ours, theirs = both(run)
    assert ours == theirs == ["pre first", "pre 1", "pre 2", "post first", "post 1", "post 2"]


def test_forward_hooks_replace_arguments_and_output() -> None:
    def run(layer: Any, make: Any) -> Any:
        layer.register_forward_pre_hook(lambda m, args: args[0] * 2)  # a single value is wrapped
        layer.register_forward_pre_hook(lambda m, args, kwargs: ((args[0] + 1,), kwargs), with_kwargs=True)
        layer.register_forward_hook(lambda m, args, y: y * args[0].sum())
        layer.register_forward_hook(lambda m, args, kwargs, y: y + len(kwargs), with_kwargs=True)
        x = make(X)
        y = layer(x)
        y.sum().backward()
        return [y, x.grad, layer.weight.grad]

    assert_same(*both(run))


def test_forward_pre_hook_with_kwargs_must_return_a_pair() -> None:
    layer = nn.Linear(3, 2)
    layer.register_forward_pre_hook(lambda m, args, kwargs: args[0], with_kwargs=True)
    with pytest.raises(
        ArgumentError, match=r"forward pre-hook: with with_kwargs=True it must return None or \(new_args"
    ):
        layer(tensor(X))


def test_handles_remove_their_hook_once_and_as_context_managers() -> None:
    layer, seen = nn.Linear(3, 2), []
    handle = layer.register_forward_hook(lambda m, a, y: seen.append(1))
    with layer.register_forward_hook(lambda m, a, y: seen.append(2)):
        layer(tensor(X))
    handle.remove()
    handle.remove()
    layer(tensor(X))
    assert seen == [1, 2]


def test_hook_may_remove_itself_while_it_runs() -> None:
    layer, seen = nn.Linear(3, 2), []

    def once(m: Any, a: Any, y: Any) -> None:
        seen.append(1)
        handle.remove()

    handle = layer.register_forward_hook(once)
    layer(tensor(X))
    layer(tensor(X))
    assert seen == [1]


def test_always_call_runs_after_a_failed_forward_too() -> None:
    def run(layer: Any, make: Any) -> list[Any]:
        seen: list[Any] = []
        layer.register_forward_hook(lambda m, a, y: seen.append(("plain", y is None)))
        layer.register_forward_hook(lambda m, a, y: seen.append(("always", y is None)), always_call=True)
        with pytest.raises(RuntimeError):
            layer(make(X[:, :2]))
        layer(make(X))
        return seen

    ours, theirs = both(run)
    assert ours == theirs == [("always", True), ("plain", False), ("always", False)]


def test_always_call_hook_runs_once_where_a_later_hook_fails() -> None:
    layer, seen = nn.Linear(3, 2), []
    layer.register_forward_hook(lambda m, a, y: seen.append(y is None), always_call=True)
    layer.register_forward_hook(lambda m, a, y: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        layer(tensor(X))
    assert seen == [False]


def test_always_call_hook_that_fails_does_not_hide_the_first_error() -> None:
    layer = nn.Linear(3, 2)

    def fail(m: Any, a: Any, y: Any) -> None:
        raise KeyError("second")

    layer.register_forward_hook(fail, always_call=True)
    with (
        pytest.warns(UserWarning, match=r"forward hook with always_call=True raised after a failed forward: 'second'"),
        pytest.raises(ValueError, match="linear"),
    ):
        layer(tensor(X[:, :2]))


def test_full_backward_hooks_see_and_change_gradients_as_torchs() -> None:
    def run(layer: Any, make: Any) -> list[Any]:
        seen: list[Any] = []
        layer.register_full_backward_hook(lambda m, gi, go: seen.append(("first", gi, go)))
        layer.register_full_backward_hook(lambda m, gi, go: (gi[0] * 10,))
        layer.register_full_backward_hook(lambda m, gi, go: seen.append(("last", gi, go)))
        layer.register_full_backward_hook(lambda m, gi, go: seen.append(("prepended", gi, go)), prepend=True)
        layer.register_full_backward_pre_hook(lambda m, go: seen.append(("pre", go)))
        layer.register_full_backward_pre_hook(lambda m, go: (go[0] + 1,))
        x = make(X)
        (layer(x) ** 2).sum().backward()
        return [*seen, x.grad, layer.weight.grad, layer.bias.grad]

    assert_same(*both(run))


def test_full_backward_hook_runs_at_every_backward_of_a_retained_graph() -> None:
    def run(layer: Any, make: Any) -> list[Any]:
        seen: list[Any] = []
        layer.register_full_backward_hook(lambda m, gi, go: seen.append(go))
        y = layer(make(X)).sum()
        y.backward(retain_graph=True)
        y.backward()
        return seen

    assert_same(*both(run))


def test_full_backward_hook_packs_none_for_what_needs_no_gradient() -> None:
    def record(base: Any, make: Any) -> list[Any]:
        class Pair(base):
            def forward(self, a: Any, b: Any, n: int) -> Any:
                return a * b, n, b.detach(), a * 3

        seen: list[Any] = []
        m = Pair()
        m.register_full_backward_hook(lambda _, gi, go: seen.append((gi, go)))
        a = make(X)
        y, n, b, unused = m(a, a.detach(), 3)
        assert n == 3 and not b.requires_grad and unused.requires_grad
        (y * 2).sum().backward()
        return [*seen, a.grad]

    assert_same(
        record(nn.Module, lambda x: tensor(x, requires_grad=True)),
        record(torch.nn.Module, lambda x: torch.tensor(x, requires_grad=True)),
    )


def test_full_backward_hook_without_a_gradient_for_any_input() -> None:
    layer, seen = nn.Linear(3, 2), []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go[0].tolist())))
    layer(tensor(X)).sum().backward()
    assert seen == [((None,), [[1, 1], [1, 1]])]
    layer.register_full_backward_hook(lambda m, gi, go: (minires.ones(2, 3),))
    with pytest.raises(GradError, match=r"no input of the module requires grad, so the hook must return None"):
        layer(tensor(X)).sum().backward()


def test_full_backward_hook_is_silent_without_recording() -> None:
    layer, seen = nn.Linear(3, 2), []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append(1))
    with minires.no_grad():
        assert not layer(tensor(X, requires_grad=True)).requires_grad
    assert seen == []


def test_full_backward_hook_must_keep_the_number_of_gradients() -> None:
    layer = nn.Linear(3, 2)
    with layer.register_full_backward_hook(lambda m, gi, go: (gi[0], gi[0])):
        y = layer(tensor(X, requires_grad=True)).sum()
        with pytest.raises(
            GradError, match=r"full backward hook: must return 1 gradients in place of grad_input, got 2"
        ):
            y.backward()
    layer.register_full_backward_pre_hook(lambda m, go: ())
    y = layer(tensor(X, requires_grad=True)).sum()
    with pytest.raises(GradError, match=r"pre-hook: must return 1 gradients in place of grad_output, got 0"):
        y.backward()


def test_full_backward_hook_warns_where_the_output_is_no_tensor() -> None:
    class Lists(nn.Module):
        def forward(self, x: Any) -> Any:
            return [x * 2]

    m = Lists()
    m.register_full_backward_hook(lambda *_: None)
    with pytest.warns(
        UserWarning, match=r"Lists: backward hooks are called only where forward returns a Tensor or a tuple"
    ):
        m(tensor(X, requires_grad=True))


def test_in_place_layer_under_a_hook_leaves_the_outer_tensor_alone() -> None:
    """What was saved of the tensor outside must still be right: d/dx (x^2 + relu(x))."""
    layer = nn.ReLU(inplace=True)
    layer.register_full_backward_hook(lambda m, gi, go: None)
    x = tensor(X, requires_grad=True)
    inner = x * 1
    square = inner * inner
    (square + layer(inner)).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * X + (X > 0), **tolerance("float32"))


@pytest.mark.usefixtures("reference_kernels")
def test_full_backward_hooks_around_a_residual_block_change_nothing() -> None:
    """Joins, in-place ReLU and batch norm under hooks: the same outputs and gradients as without."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    m = block(nn)(3, 4, 2)

    def run() -> list[np.ndarray]:
        m.zero_grad()
        t = tensor(x, requires_grad=True)
        y = m(t * 1)
        (y * y).sum().backward()
        return [y.detach().numpy(), t.grad.numpy(), *(p.grad.numpy().copy() for p in m.parameters())]

    plain, seen = run(), []
    for child in m.modules():
        child.register_full_backward_hook(lambda module, gi, go: seen.append(type(module).__name__))
    for hooked, expected in zip(run(), plain, strict=True):
        np.testing.assert_array_equal(hooked, expected)
    # Every module once per call; the ReLU is called twice.
    assert sorted(seen) == sorted([*(type(child).__name__ for child in m.modules()), "ReLU"])
