"""The one gate: every operation passes through `apply`.

`apply` takes the arrays out of the tensors, runs the operation's forward, wraps what it returns and, where an input
requires grad, records a node. It is also the place where versions are watched, views are linked to their base, private
arrays are kept or converted, and the time of an operation is taken. Nothing else in minires makes graph nodes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minires import backend
from minires.autograd import modes
from minires.autograd import variable as _variable
from minires.autograd.node import Node, next_sequence
from minires.autograd.variable import Variable, new_tensor
from minires.config import settings
from minires.errors import ArgumentError, DTypeError, GradError, ShapeError, UnsupportedError
from minires.kernels.private import PrivateArray

_told: set[tuple[str, str]] = set()  # MINIRES_DEBUG=1 says each choice once

# Who listens to the gate: objects with `applied(op, args, options, outputs)`, called after each operation, and
# `written(target, value)`, called after `value` was written into `target`'s memory.
listeners: list[Any] = []


class Op:
    """A differentiable operation: its forward on arrays, its backward on tensors, side by side.

    Subclass it with two static methods:

        forward(ctx, *args, **options) -> array or tuple of arrays
        backward(ctx, *grad_outputs)   -> one gradient (tensor or None) for each positional argument of forward

    In forward, tensor arguments arrive as plain arrays. backward is written with differentiable operations, so that its own
    derivative exists. `ctx` is the graph node (see `Node`), with `ctx.xp` the array module and `ctx.kernels` the kernel set.

    A structured operation hands its arrays to the kernel set and to `save_for_backward`, and does nothing else with them.
    So it may be given the set's private arrays (`minires.kernels.private`) and return them; all others get plain ones.

    Attributes:
        name: what messages call it.
        view: whether the output may be a view of argument 0.
        structured: whether forward takes private arrays, if the kernel set in use does.
        alike: of a structured operation: takes them only if all its tensors hold one private type, in one shape.
    """

    name = ""
    view = False
    structured = False
    alike = False

    @staticmethod
    def forward(ctx: Any, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise NotImplementedError


class Context(Node):
    """The node as forward and backward see it: with the array module and the kernel set at hand."""

    xp = np

    @property
    def kernels(self) -> Any:
        kernels = backend.current_kernels()
        if settings.debug >= 1:
            served = self.name, getattr(kernels, "__name__", type(kernels).__name__)
            if served not in _told:
                _told.add(served)
                print(f"minires {served[0]} is served by {served[1]}", file=sys.stderr)
        return kernels


def apply(op: type[Op], *args: Any, **options: Any) -> Any:
    """Run `op` on `args` (tensors and others) and record it if a tensor among them requires grad.

    Returns: a tensor, or a tuple of them where forward returns a tuple.
    """
    grad, recording, private = modes.state.grad, False, False
    arrays: Any = []
    for argument in args:
        if isinstance(argument, Variable):
            if grad:
                if argument.rewrites_seen != argument.rewrites.count:
                    raise _stale(op, argument)
                recording = recording or argument._requires_grad
            argument = argument.raw
            private = private or isinstance(argument, PrivateArray)
        arrays.append(argument)
    if private:
        arrays = _as_taken(op, args)
    ctx = Context(op, args, recording)
    # IEEE 754 without NumPy's warnings: 1/0 is inf and log(-1) is NaN, as in torch.
    with np.errstate(all="ignore"):
        result = _timed(op, ctx, arrays, options) if settings.debug >= 2 else op.forward(ctx, *arrays, **options)
    results = result if isinstance(result, tuple) else (result,)
    outputs = _wrap(ctx, args, results)
    ctx.keep(args, arrays, results, outputs)
    for listener in listeners:
        listener.applied(op, args, options, outputs)
    return tuple(outputs) if isinstance(result, tuple) else outputs[0]


def _as_taken(op: type[Op], args: tuple[Any, ...]) -> list[Any]:
    """The arrays of `args`, private ones among them, in the form in which `op` and the kernel set take them."""
    taken = getattr(backend.current_kernels(), "PRIVATE", ()) if op.structured else ()
    if op.alike:
        raws = [a.raw for a in args if isinstance(a, Variable)]
        if len(raws) < len(args) or len({(type(raw), raw.shape) for raw in raws}) > 1:
            taken = ()
    return [
        a if not isinstance(a, Variable) else a.raw if isinstance(a.raw, (np.ndarray, *taken)) else a.array
        for a in args
    ]


def _wrap(ctx: Context, args: tuple[Any, ...], results: tuple[Any, ...]) -> list[Any]:
    """The outputs of forward as tensors: linked to the node, and to their base where they are views."""
    outputs = []
    for number, value in enumerate(results):
        output = new_tensor(value)
        if ctx.op.view and number == 0 and np.may_share_memory(output.raw, args[0].raw):
            link_view(output, args[0])
        if ctx.recording:
            if output.raw.dtype.kind == "f" and not any(value is other for other in ctx.non_differentiable):
                output._requires_grad = True
                output.grad_fn, output.output_nr = ctx, number
            ctx.output_meta.append((output.raw.shape, output.raw.dtype))
        outputs.append(output)
    return outputs


def link_view(output: Variable, source: Variable) -> None:
    """`output` looks at the memory of `source`: share its counters, and remember whose view it is."""
    output.writes = source.writes
    output.base = source if source.base is None else source.base
    if modes.state.grad:
        output.rewrites, output.rewrites_seen = source.rewrites, source.rewrites_seen


def _stale(op: type[Op], tensor: Variable) -> GradError:
    what = "a view whose base" if tensor.base is not None else "a tensor that, through a view of it,"
    return GradError(
        f"{op.name or op.__name__}: an input of shape {tensor.raw.shape} is {what} was changed by an in-place operation "
        "since, so its history no longer describes its values. Make the view again after the write, or use the out-of-place form"
    )


def apply_inplace(op: type[Op], target: Variable, *rest: Any, **options: Any) -> Any:
    """Run `op` on `target` and `rest`, write the result into `target`'s memory, and give `target` the new history."""
    name = op.name or op.__name__
    return run_inplace(name, lambda old, *more: apply(op, old, *more, **options), target, *rest)


def run_inplace(name: str, function: Callable[..., Any], target: Variable, *rest: Any) -> Any:
    """target <- function(target, *rest), written into `target`'s memory; returns `target`.

    Values of `target` that the operations inside saved for their backward passes are copied before the write, so their
    gradients stay right. Values of it that earlier operations saved are not: their backward will notice and raise.

    Raises:
        GradError: `target` is a leaf that requires grad, or a view of one, while recording.
        ShapeError, DTypeError: the result does not fit `target`.
        ArgumentError: the memory cannot be written one element at a time (read-only, or expanded).
    """
    name = f"{name}_"
    check_writable(name, target)
    if modes.state.grad and (target._requires_grad or any(isinstance(a, Variable) and a._requires_grad for a in rest)):
        _check_rewritable(name, target)
    first = next_sequence()
    out = function(_before_the_write(target), *rest)
    if out.raw.shape != target.raw.shape:
        raise ShapeError(
            f"{name}: the result has shape {out.raw.shape}, which does not fit in place into a tensor of shape "
            f"{target.raw.shape}; use the out-of-place form"
        )
    if out.raw.dtype != target.raw.dtype:
        if "biuf".index(out.raw.dtype.kind) > "biuf".index(target.raw.dtype.kind):
            raise DTypeError(
                f"{name}: the result has dtype {out.raw.dtype}, which cannot be written into a tensor of dtype "
                f"{target.raw.dtype}; use the out-of-place form"
            )
        out = out.to(target.raw.dtype)
    for saved in _saved_since(first, out.grad_fn):
        saved.survive_write(target)
    if isinstance(target.raw, PrivateArray):  # no other tensor looks at its memory: to replace it is to write it
        target.raw = out.raw if isinstance(out.raw, PrivateArray) else _variable.fresh_array(out)
    elif out.array is not target.array:
        target.array[...] = out.array
    target.writes.count += 1
    for listener in listeners:
        listener.written(target, out)
    if out.grad_fn is not None:
        for saved in out.grad_fn.saved or ():
            if saved is not None and saved.output_nr is not None and saved.unpack_hook is None:
                saved.array = target.raw
                saved.watch(target)
        if target.retains:  # the gradient kept is that of the value after the last write, as in torch
            target.grad_fn.retained = [kept for kept in target.grad_fn.retained if kept[1]() is not target]
        target.grad_fn, target.output_nr, target._requires_grad = out.grad_fn, out.output_nr, True
        target.hooks = None  # a hook registered before the write is for the value before the write, as in torch
        target.rewrites.count += 1
        target.rewrites_seen = target.rewrites.count
        target.view_writes += 1
        if target.retains:
            target.retains = False
            target.retain_grad()
    return target


def _before_the_write(target: Variable) -> Any:
    """`target` as it is now: the same memory and counters, the history of before the write."""
    old = _variable.tensor_type(target.raw)
    old.grad_fn, old.output_nr, old._requires_grad = target.grad_fn, target.output_nr, target._requires_grad
    old.writes, old.base, old.inference = target.writes, target.base, target.inference
    old.rewrites, old.rewrites_seen = target.rewrites, target.rewrites_seen
    old._accumulator = target._accumulator
    return old


def _saved_since(first: int, node: Any) -> list[Any]:
    """What `node` and the nodes behind it, made since sequence number `first`, have saved."""
    found: list[Any] = []
    stack, seen = [node], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen or node.sequence < first:
            continue
        seen.add(node)
        found.extend(saved for saved in node.saved or () if saved is not None)
        stack.extend(edge[0] for edge in node.next_functions if edge is not None)
    return found


def check_writable(name: str, target: Variable) -> None:
    memory = target.raw if isinstance(target.raw, np.ndarray) else None  # a private array is written by replacing it
    if memory is not None and not memory.flags.writeable:
        raise ArgumentError(f"{name}: the tensor's memory is read-only; use .clone() or the out-of-place form")
    if memory is not None and any(
        stride == 0 and size > 1 for stride, size in zip(memory.strides, memory.shape, strict=True)
    ):
        raise ArgumentError(
            f"{name}: several elements of the tensor (shape {target.raw.shape}) lie at one place in memory, as after "
            "expand(); use .clone() before writing"
        )
    if target.inference and not modes.state.inference:
        raise GradError(f"{name}: an inference tensor cannot be changed outside inference_mode; use .clone()")


def _check_rewritable(name: str, target: Variable) -> None:
    if target.grad_fn is None and target._requires_grad:
        raise GradError(
            f"{name}: a leaf that requires grad cannot be changed in place while gradients are recorded; use the "
            "out-of-place form, or wrap the write in no_grad()"
        )
    base = target.base
    if base is not None and base.grad_fn is None and base._requires_grad:
        raise GradError(
            f"{name}: this tensor is a view of a leaf that requires grad, which cannot be changed in place while gradients "
            "are recorded; use .clone() first, or wrap the write in no_grad()"
        )
    if base is not None and base.rewrites is not target.rewrites:
        raise GradError(f"{name}: a view made under no_grad cannot be changed by a recorded operation; make it outside")


def detach(tensor: Variable) -> Any:
    """The same (plain) memory without the history. Writes to either are noticed by the other's saved values."""
    output = new_tensor(tensor.array)
    output.writes = tensor.writes
    output.inference = tensor.inference
    return output


def _timed(op: type[Op], ctx: Context, arrays: list[Any], options: dict[str, Any]) -> Any:
    """MINIRES_DEBUG=2: print the time and the memory traffic of every operation."""
    start = time.perf_counter()
    result = op.forward(ctx, *arrays, **options)
    seconds = time.perf_counter() - start
    values = (*arrays, *(result if isinstance(result, tuple) else (result,)))
    touched = [a for a in values if isinstance(a, (np.ndarray, PrivateArray))]
    gigabytes = sum(a.nbytes for a in touched) / 1e9
    shapes = " ".join("x".join(map(str, a.shape)) or "scalar" for a in touched)
    print(
        f"minires {op.name or op.__name__:<24} {seconds * 1e3:9.3f} ms {gigabytes / max(seconds, 1e-9):7.2f} GB/s  {shapes}",
        file=sys.stderr,
    )
    return result


class Function:
    """torch.autograd.Function: for operations written outside minires.

    Unlike `Op`, whose forward gets arrays, a Function's `forward(ctx, *args)` gets tensors and runs under no_grad:

        class Square(Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x
            @staticmethod
            def backward(ctx, grad_y):
                (x,) = ctx.saved_tensors
                return 2 * x * grad_y

        y = Square.apply(x)
    """

    name = ""
    view = False

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        raise UnsupportedError("Function: a subclass must define the static method forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise UnsupportedError("Function: a subclass must define the static method backward(ctx, *grad_outputs)")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        recording = modes.state.grad and any(isinstance(a, Variable) and a._requires_grad for a in args)
        ctx = _FunctionContext(cls, args, recording)
        with modes.no_grad():
            result = cls.forward(ctx, *args)
        several = isinstance(result, tuple)
        results = result if several else (result,)
        for value in results:
            if not isinstance(value, Variable):
                raise ArgumentError(f"{cls.__name__}: forward must return tensors, got {type(value).__name__}")
        ctx.non_differentiable = [v.array if isinstance(v, Variable) else v for v in ctx.non_differentiable]
        arrays = tuple(value.array for value in results)
        outputs = _wrap(ctx, args, arrays)
        for output, value in zip(outputs, results, strict=True):
            output.writes = value.writes
        ctx._to_save = tuple(v.array if isinstance(v, Variable) else v for v in ctx._to_save)
        ctx.keep(args, tuple(a.array if isinstance(a, Variable) else a for a in args), arrays, outputs)
        return tuple(outputs) if several else outputs[0]


class _FunctionContext(Context):
    def mark_dirty(self, *tensors: Any) -> None:
        raise UnsupportedError(
            "Function: ctx.mark_dirty is not supported; return a new tensor instead of writing into an input"
        )


__all__ = [
    "Context",
    "Function",
    "Op",
    "apply",
    "apply_inplace",
    "check_writable",
    "detach",
    "link_view",
    "run_inplace",
]
