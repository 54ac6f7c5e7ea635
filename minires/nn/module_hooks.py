"""What happens around a module's `forward`: hooks before it, after it, and in the backward pass.

One call, in torch's order:

    forward pre-hooks -> [entry node] -> forward -> forward hooks -> [exit node]

The two nodes exist only while a module has full backward hooks. They compute the identity. The gradient that reaches
the exit node is `grad_output`, the one that leaves the entry node is `grad_input`, and there the hooks are called:

    loss.backward() -> ... -> exit: remember grad_output -> the module's own nodes
                           -> entry: hook(module, grad_input, grad_output) -> ...
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from minires.autograd import Op, RemovableHandle, apply, is_grad_enabled
from minires.errors import ArgumentError, GradError
from minires.tensor import Tensor

if TYPE_CHECKING:
    from minires.nn.module import Module

Gradients = tuple[Tensor | None, ...]

# Who listens to module calls: objects with `entered(module)`, called before, and `left(module, args, output)`, called after.
# Unlike a hook, a listener changes nothing that runs: a batch norm that is listened to is still fused with its ReLU.
call_listeners: list[Any] = []


class Hook(NamedTuple):
    """A registered function and how it wants to be called."""

    function: Callable[..., Any]
    with_kwargs: bool = False
    always_call: bool = False


def _register(table: OrderedDict[int, Hook], hook: Hook, prepend: bool) -> RemovableHandle:
    handle = RemovableHandle(table)
    table[handle.id] = hook
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle


class HookedCall:
    """The part of `Module` that registers hooks and makes the call through them."""

    _forward_pre_hooks: OrderedDict[int, Hook]
    _forward_hooks: OrderedDict[int, Hook]
    _backward_pre_hooks: OrderedDict[int, Hook]
    _backward_hooks: OrderedDict[int, Hook]
    forward: Callable[..., Any]

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)` before every `forward`; what it returns, if not None, becomes the arguments.

        Args:
            hook: `hook(module, args) -> None | args | single value`, or with `with_kwargs`
                `hook(module, args, kwargs) -> None | (args, kwargs)`.
            prepend: put it before the hooks that are there already.
            with_kwargs: also give it the keyword arguments.
        """
        return _register(self._forward_pre_hooks, Hook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call `hook(module, args, output)` after every `forward`; what it returns, if not None, becomes the output.

        Args:
            hook: `hook(module, args, output)`, or with `with_kwargs` `hook(module, args, kwargs, output)`.
            prepend: put it before the hooks that are there already.
            with_kwargs: also give it the keyword arguments.
            always_call: call it (with output None) even when `forward` raised.
        """
        return _register(self._forward_hooks, Hook(hook, with_kwargs, always_call), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call `hook(module, grad_output)` when the gradient reaches the module; a returned tuple replaces it."""
        return _register(self._backward_pre_hooks, Hook(hook), prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` once the gradient with respect to the module's inputs is known.

        Both are tuples with one entry for each positional argument or output, None for what is no tensor. A returned
        tuple replaces `grad_input`. Where no input needs a gradient, the hook is called with `grad_input` all None as
        soon as `grad_output` is there.
        """
        return _register(self._backward_hooks, Hook(hook), prepend)

    def _has_hooks(self) -> bool:
        """Whether a call is more than `forward`."""
        return bool(self._forward_pre_hooks or self._forward_hooks or self._backward_hooks or self._backward_pre_hooks)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward` and the hooks around it."""
        if not call_listeners:
            return self._call(args, kwargs)
        for listener in call_listeners:
            listener.entered(self)
        output = self._call(args, kwargs)
        for listener in call_listeners:
            listener.left(self, args, output)
        return output

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._has_hooks():
            return self.forward(*args, **kwargs)
        already_called: set[int] = set()
        try:
            return self._call_through_hooks(args, kwargs, already_called)
        except Exception:
            for hook_id, hook in list(self._forward_hooks.items()):
                if hook.always_call and hook_id not in already_called:
                    try:
                        _call_forward_hook(hook, self, args, kwargs, None)
                    except Exception as error:
                        # The error on its way out is the one the user must see; this one is only mentioned.
                        warnings.warn(f"forward hook with always_call=True raised after a failed forward: {error}")
            raise

    def _call_through_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any], already_called: set[int]) -> Any:
        # Lists, because a hook may register or remove hooks while it runs.
        for hook in list(self._forward_pre_hooks.values()):
            if hook.with_kwargs:
                changed = hook.function(self, args, kwargs)
                if changed is not None:
                    if not (isinstance(changed, tuple) and len(changed) == 2):
                        raise ArgumentError(
                            "forward pre-hook: with with_kwargs=True it must return None or (new_args, new_kwargs), "
                            f"got {changed!r}"
                        )
                    args, kwargs = changed
            else:
                changed = hook.function(self, args)
                if changed is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)

        backward = None
        if self._backward_hooks or self._backward_pre_hooks:
            backward = _BackwardHooks(cast("Module", self))
            args = backward.enter(args)

        output = self.forward(*args, **kwargs)

        for hook_id, hook in list(self._forward_hooks.items()):
            already_called.add(hook_id)
            changed = _call_forward_hook(hook, self, args, kwargs, output)
            if changed is not None:
                output = changed
        return output if backward is None else backward.exit(output)


def _call_forward_hook(hook: Hook, module: HookedCall, args: Any, kwargs: Any, output: Any) -> Any:
    if hook.with_kwargs:
        return hook.function(module, args, kwargs, output)
    return hook.function(module, args, output)


class _Boundary(Op):
    """The identity at a module's edge: y_i = x_i; grad_x = on_gradient(grad_y), the place where hooks see gradients."""

    name = "module_boundary"

    @staticmethod
    def forward(ctx: Any, *arrays: Any, on_gradient: Callable[[Gradients], Gradients]) -> tuple[Any, ...]:
        ctx.on_gradient = on_gradient
        ctx.set_materialize_grads(False)
        # Copies: an in-place operation inside the module must not reach, unseen by autograd, the tensor outside.
        return tuple(ctx.xp.array(array) for array in arrays)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        return ctx.on_gradient(grads)


class _BackwardHooks:
    """The backward hooks of one call of one module: carries `grad_output` from the exit node to the entry node."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.pre_hooks = [hook.function for hook in module._backward_pre_hooks.values()]
        self.hooks = [hook.function for hook in module._backward_hooks.values()]
        self.has_entry = False
        self.n_inputs = 0
        self.grad_output: Gradients | None = None

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.n_inputs = len(args)
        wrapped, self.has_entry = _cross(args, self._at_entry, entry=True)
        return wrapped

    def exit(self, output: Any) -> Any:
        if isinstance(output, tuple):
            wrapped, _ = _cross(output, self._at_exit, entry=False)
            # A named tuple is built from separate arguments.
            return type(output)(*wrapped) if hasattr(output, "_fields") else wrapped
        if not isinstance(output, Tensor):
            warnings.warn(
                f"{type(self.module).__name__}: backward hooks are called only where forward returns a Tensor or a "
                f"tuple of Tensors, got {type(output).__name__}"
            )
            return output
        return _cross((output,), self._at_exit, entry=False)[0][0]

    def _at_exit(self, grad_output: Gradients) -> Gradients:
        for hook in self.pre_hooks:
            changed = hook(self.module, grad_output)
            if changed is not None:
                grad_output = _same_length("full backward pre-hook", "grad_output", changed, grad_output)
        self.grad_output = grad_output
        if not self.has_entry:
            for hook in self.hooks:
                changed = hook(self.module, (None,) * self.n_inputs, grad_output)
                if changed is not None and any(grad is not None for grad in changed):
                    raise GradError(
                        "full backward hook: no input of the module requires grad, so the hook must return None, "
                        f"got {changed!r}"
                    )
            self.grad_output = None
        return grad_output

    def _at_entry(self, grad_input: Gradients) -> Gradients:
        # No grad_output: the gradient came to the inputs by another way than through the outputs (a double backward).
        if self.grad_output is not None:
            for hook in self.hooks:
                changed = hook(self.module, grad_input, self.grad_output)
                if changed is not None:
                    grad_input = _same_length("full backward hook", "grad_input", changed, grad_input)
            self.grad_output = None
        return grad_input


def _cross(
    values: tuple[Any, ...], on_gradient: Callable[[Gradients], Gradients], entry: bool
) -> tuple[tuple[Any, ...], bool]:
    """Send the tensors among `values` that need a gradient through one boundary node.

    `on_gradient` gets one entry for each value. What no gradient reached is, as in torch, None at the exit and zeros at
    the entry; what is no tensor is None at both.

    Returns:
        (the values with the crossed tensors in their places, whether there was any).
    """
    places = [i for i, value in enumerate(values) if isinstance(value, Tensor) and value.requires_grad]
    if not places or not is_grad_enabled():
        return values, False

    # Only shapes are kept: a closure over `values` would keep the tensors alive as long as the graph.
    length, others = len(values), {}
    if entry:
        others = {i: (v.array.shape, v.array.dtype) for i, v in enumerate(values) if isinstance(v, Tensor)}

    def with_gaps(grads: Gradients) -> Gradients:
        full: list[Tensor | None] = [None] * length
        for place, (shape, dtype) in others.items():
            full[place] = Tensor(np.zeros(shape, dtype))
        for place, grad in zip(places, grads, strict=True):
            full[place] = grad if grad is not None or not entry else full[place]
        changed = on_gradient(tuple(full))
        return tuple(changed[place] for place in places)

    crossed = apply(_Boundary, *(values[i] for i in places), on_gradient=with_gaps)
    out = list(values)
    for place, tensor in zip(places, crossed, strict=True):
        out[place] = tensor
    return tuple(out), True


def _same_length(op: str, name: str, changed: Any, before: Gradients) -> Gradients:
    changed = (changed,) if isinstance(changed, Tensor) else tuple(changed)
    if len(changed) != len(before):
        raise GradError(f"{op}: must return {len(before)} gradients in place of {name}, got {len(changed)}")
    return changed
