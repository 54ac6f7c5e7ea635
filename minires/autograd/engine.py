"""The backward pass: from the outputs to the leaves, each node once, after everything that uses it.

Two loops and no recursion, so a graph of any depth works. The first counts, for each node that can be reached, how many
edges lead to it. The second runs nodes whose count has come down to zero: by then the gradient of each of its outputs is
complete. (Visiting nodes in the order of discovery instead is the classic mistake: in a diamond, a -> b, a -> c, b -> d,
c -> d, node a would run before c's part has arrived.)
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from minires.autograd import anomaly, modes
from minires.autograd.node import Node
from minires.autograd.variable import AccumulateGrad, Variable, add_to, fresh_array, new_tensor, sum_of
from minires.config import settings
from minires.errors import ArgumentError, DTypeError, GradError, ShapeError


class _Buffer:
    """The gradients of a node's outputs, added up as they arrive."""

    __slots__ = ("grads", "owned")

    def __init__(self, outputs: int) -> None:
        self.grads: list[Any] = [None] * outputs
        self.owned = [False] * outputs  # whether the sum is ours to add to in place

    def add(self, index: int, grad: Any, create_graph: bool) -> None:
        if self.grads[index] is None:
            self.grads[index] = grad
        elif create_graph:
            self.grads[index] = self.grads[index] + grad
        elif self.owned[index]:
            add_to(self.grads[index], grad)
        else:
            self.grads[index] = sum_of(self.grads[index], grad)
            self.owned[index] = True


def _count_dependencies(roots: list[Any]) -> dict[Any, int]:
    """For every node reachable from `roots`, the number of edges that lead to it."""
    counts: dict[Any, int] = dict.fromkeys(roots, 0)
    stack = list(counts)
    while stack:
        for edge in stack.pop().next_functions:
            if edge is None:
                continue
            if edge[0] not in counts:
                counts[edge[0]] = 0
                stack.append(edge[0])
            counts[edge[0]] += 1
    return counts


def _nodes_leading_to(targets: set[Any], counts: dict[Any, int]) -> set[Any]:
    """The nodes from which one of `targets` can be reached: the others need not run for `autograd.grad`."""
    parents: dict[Any, list[Any]] = {}
    for node in counts:
        for edge in node.next_functions:
            if edge is not None:
                parents.setdefault(edge[0], []).append(node)
    needed = set(targets)
    stack = list(targets)
    while stack:
        for parent in parents.get(stack.pop(), ()):
            if parent not in needed:
                needed.add(parent)
                stack.append(parent)
    return needed


def _run(
    roots: list[tuple[tuple[Any, int], Any]],
    keep_graph: bool,
    create_graph: bool,
    captures: dict[tuple[Any, int], Any] | None,
) -> None:
    """Push gradients from `roots` through the graph.

    Args:
        roots: pairs of an edge (node, output number) and the gradient that enters there.
        captures: if given, the (node, output number) whose gradients are wanted; filled in, and only nodes on the way run.
            If None, gradients that reach a leaf are added to its `.grad`.
    """
    counts = _count_dependencies([edge[0] for edge, _ in roots])
    needed = None if captures is None else _nodes_leading_to({edge[0] for edge in captures}, counts)
    buffers: dict[Any, _Buffer] = {}
    ready: list[tuple[int, int, Any]] = []
    for (node, number), grad in roots:
        buffers.setdefault(node, _Buffer(len(node.output_meta))).add(number, grad, create_graph)
    # Among nodes that are ready the youngest runs first, and leaves before all: the order is fixed, so sums come out the same
    # every time.
    for node in buffers:
        if counts[node] == 0:
            heapq.heappush(ready, (-node.sequence, id(node), node))
    with modes.set_grad_enabled(create_graph), np.errstate(all="ignore"):
        while ready:
            _, _, node = heapq.heappop(ready)
            buffer = buffers.pop(node, None)
            wanted = needed is None or node in needed
            results: tuple[Any, ...] = ()
            if buffer is not None and wanted:
                results = _visit(node, buffer, keep_graph, create_graph, captures)
            for position, edge in enumerate(node.next_functions):
                if edge is None:
                    continue
                target, number = edge
                grad = results[position] if position < len(results) else None
                if grad is not None:
                    buffers.setdefault(target, _Buffer(len(target.output_meta))).add(number, grad, create_graph)
                counts[target] -= 1
                if counts[target] == 0:
                    heapq.heappush(ready, (-target.sequence, id(target), target))


def _visit(
    node: Any,
    buffer: _Buffer,
    keep_graph: bool,
    create_graph: bool,
    captures: dict[tuple[Any, int], Any] | None,
) -> tuple[Any, ...]:
    """Hooks, captured and retained gradients, then the node's own backward."""
    grads = buffer.grads
    if isinstance(node, AccumulateGrad):
        grad = _run_hooks(node.hook_lists(), grads[0])
        if captures is not None and (node, 0) in captures:
            captures[node, 0] = grad
        if captures is None and grad is not None:
            node.accumulate(grad, create_graph)
        return ()
    for number, hook_lists in node.output_hooks.items():
        grads[number] = _run_hooks(hook_lists, grads[number])
    for number, reference in node.retained:
        tensor = reference()
        if tensor is not None and grads[number] is not None:
            kept = grads[number] if create_graph else new_tensor(fresh_array(grads[number]))
            tensor.grad = kept if tensor.grad is None else tensor.grad + kept
    if captures is not None:
        for number in range(len(grads)):
            if (node, number) in captures:
                captures[node, number] = grads[number]
    if settings.debug >= 3:
        print(f"minires backward {node!r} <- {[None if g is None else g.raw.shape for g in grads]}", file=sys.stderr)
    try:
        results = node.run_backward(grads)
    except Exception as error:
        if node.call_site is not None and "was called at" not in str(error):
            error.add_note(f"in the backward pass of {node.name}{anomaly.where(node)}")
        raise
    if not keep_graph:
        node.release()
    return tuple(_checked(node, position, grad, create_graph) for position, grad in enumerate(results))


def _run_hooks(hook_lists: Sequence[Any], grad: Any) -> Any:
    for hooks in hook_lists:
        for hook in list(hooks.values()):
            if grad is None:
                return None
            changed = hook(grad)
            if changed is not None:
                grad = changed
    return grad


def _checked(node: Node, position: int, grad: Any, create_graph: bool) -> Any:
    """The gradient for argument `position`, after looking whether it can be one."""
    edge = node.next_functions[position] if position < len(node.next_functions) else None
    if grad is None or edge is None:
        return None
    target, number = edge
    shape, dtype = target.output_meta[number]
    if not isinstance(grad, Variable):
        raise GradError(
            f"{node.name}: backward must return tensors or None, got {type(grad).__name__} for argument {position}"
        )
    if grad.raw.shape != shape:
        raise GradError(
            f"{node.name}: backward returned a gradient of shape {grad.raw.shape} for argument {position}, whose shape is {shape}"
            f"{anomaly.where(node)}"
        )
    if grad.raw.dtype != dtype:
        typed: Any = grad
        grad = typed.to(dtype) if create_graph else new_tensor(typed.array.astype(dtype))
    if anomaly.is_anomaly_enabled() and anomaly.is_anomaly_check_nan_enabled() and np.isnan(np.asarray(grad.raw)).any():
        raise GradError(
            f"{node.name}: backward returned NaN in the gradient of argument {position}{anomaly.where(node)}"
        )
    return grad


def _roots(op: str, outputs: Sequence[Any], grad_outputs: Sequence[Any]) -> list[tuple[tuple[Any, int], Any]]:
    roots = []
    for output, given in zip(outputs, grad_outputs, strict=True):
        edge = output.edge()
        if edge is None:
            raise GradError(
                f"{op}: the tensor does not require grad and no recorded operation made it. Set requires_grad=True on what it "
                "is computed from, and compute it outside no_grad()"
            )
        grad = given
        if grad is None:
            if output.raw.size != 1:
                raise GradError(
                    f"{op}: without a gradient argument the tensor must have one element, got shape {output.raw.shape}. "
                    "Reduce it first (.sum(), .mean()) or give gradient="
                )
            grad = new_tensor(np.ones(output.raw.shape, output.raw.dtype))
        if not isinstance(grad, Variable):
            raise ArgumentError(f"{op}: gradient must be a Tensor or None, got {type(grad).__name__}")
        if grad.raw.shape != output.raw.shape:
            raise ShapeError(f"{op}: gradient needs shape {output.raw.shape}, that of the tensor, got {grad.raw.shape}")
        if grad.raw.dtype.kind != "f":
            raise DTypeError(f"{op}: gradient needs a floating dtype, got {grad.raw.dtype}")
        roots.append((edge, grad))
    return roots


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add d(tensors)/d(leaf), weighted by `grad_tensors`, to `.grad` of every leaf (or of `inputs` only).

    Args:
        retain_graph: keep saved values, so that the graph can be gone through again (default: create_graph).
        create_graph: record the backward pass too, for higher derivatives.

    Raises:
        GradError: nothing requires grad, a saved value was overwritten, or the graph was freed already.
    """
    outputs = (tensors,) if isinstance(tensors, Variable) else tuple(tensors)
    grads = _as_tuple(grad_tensors, len(outputs))
    roots = _roots("backward", outputs, grads)
    captures: dict[tuple[Any, int], Any] | None = None
    if inputs is not None:
        wanted = (inputs,) if isinstance(inputs, Variable) else tuple(inputs)
        if not wanted:
            raise ArgumentError("backward: inputs must not be empty; leave it out to reach every leaf")
        captures = dict.fromkeys(_capture_edges("backward", wanted))
    keep = create_graph if retain_graph is None else retain_graph
    _run(roots, keep, create_graph, captures)
    if captures is not None:
        for tensor in wanted:
            grad = captures[tensor.edge()]
            if grad is not None:
                fresh = grad if create_graph else new_tensor(fresh_array(grad))
                tensor.grad = fresh if tensor.grad is None else tensor.grad + fresh


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """The gradients of `outputs` with respect to `inputs`, returned; no `.grad` is touched.

    Raises:
        GradError: an input that the outputs do not depend on, unless allow_unused (then None) or materialize_grads (zeros).
    """
    if is_grads_batched:
        raise ArgumentError("grad: is_grads_batched is not supported; call grad once for each row")
    outs = (outputs,) if isinstance(outputs, Variable) else tuple(outputs)
    ins = (inputs,) if isinstance(inputs, Variable) else tuple(inputs)
    edges = _capture_edges("grad", ins)
    captures: dict[tuple[Any, int], Any] = dict.fromkeys(edges)
    roots = _roots("grad", outs, _as_tuple(grad_outputs, len(outs)))
    _run(roots, create_graph if retain_graph is None else retain_graph, create_graph, captures)
    results = []
    for position, (tensor, edge) in enumerate(zip(ins, edges, strict=True)):
        found = captures[edge]
        if found is None and materialize_grads:
            found = new_tensor(np.zeros(tensor.raw.shape, tensor.raw.dtype))
        elif found is None and not allow_unused:
            raise GradError(
                f"grad: input {position} (shape {tensor.raw.shape}) was not used to compute the outputs; give "
                "allow_unused=True to get None for it"
            )
        results.append(found)
    return tuple(results)


def _capture_edges(op: str, tensors: Sequence[Any]) -> list[tuple[Any, int]]:
    edges = []
    for position, tensor in enumerate(tensors):
        edge = tensor.edge()
        if edge is None:
            raise GradError(f"{op}: input {position} (shape {tensor.raw.shape}) does not require grad")
        edges.append(edge)
    return edges


def _as_tuple(value: Any, length: int) -> tuple[Any, ...]:
    if value is None:
        return (None,) * length
    if not isinstance(value, (Variable, list, tuple)):
        raise ArgumentError(f"backward: expected a Tensor or a sequence of them, got {type(value).__name__}")
    values = (value,) if isinstance(value, Variable) else tuple(value)
    if len(values) != length:
        raise ArgumentError(f"backward: expected {length} gradients, one for each output, got {len(values)}")
    return values
