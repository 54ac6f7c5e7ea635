"""`Variable`: an array with a history. `minires.Tensor` is a Variable with operators.

Three small things make in-place operations safe:

* `writes` counts the writes to a piece of memory; a tensor, its views and its `detach()` share one counter. A value saved
  for a backward pass remembers the count it had; a mismatch is an error, not a wrong gradient.
* `rewrites` counts the *recorded* writes, those that change which operation a tensor came from; a tensor and its views
  share it. A tensor that has not seen the last one has a history that no longer describes its values; using it in a graph
  is an error.
* a view keeps its base, so that a recorded write through a view of a leaf is refused.

The values may be a kernel set's private array (`minires.kernels.private`), which structured operations hand to each other.
`raw` is what is there; `array` is always a plain NumPy array: its first use converts, once, and the plain array takes the
private one's place. Views, writes and `detach()` go through `array`, so two tensors never share a private array's memory.
"""

from __future__ import annotations

import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.autograd import modes
from minires.errors import GradError, ShapeError
from minires.kernels.private import PrivateArray


class Counter:
    """A number that several tensors share."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class RemovableHandle:
    """`handle.remove()` takes a hook away; also a context manager."""

    _next_id = 0

    def __init__(self, hooks: OrderedDict[int, Any], *extra: OrderedDict[int, Any]) -> None:
        self._hooks = [weakref.ref(hooks), *(weakref.ref(more) for more in extra)]
        self.id = RemovableHandle._next_id
        RemovableHandle._next_id += 1

    def remove(self) -> None:
        for reference in self._hooks:
            hooks = reference()
            if hooks is not None:
                hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class Hooks(OrderedDict[int, Callable[..., Any]]):
    """Hooks in the order of their registration; a class of its own so that handles can hold it weakly."""


class Variable:
    """An array, whether it requires grad, its gradient, and the node that made it.

    Attributes:
        raw: the values as they are: a NumPy array, or a kernel set's private one. Both have shape, dtype, ndim and size.
        array: the values, a NumPy array; a private one is converted, and replaced.
        requires_grad: whether gradients with respect to it are wanted.
        grad: d loss / d self, a tensor of the same shape, or None.
        grad_fn: the node that made it; None for a leaf.
        output_nr: which output of `grad_fn` it is.
    """

    def __init__(self, array: Any, requires_grad: bool = False) -> None:
        self.raw: Any = array
        self._requires_grad = False
        self._grad: Any = None
        self.grad_fn: Any = None
        self.output_nr = 0
        self.writes = Counter()
        self.rewrites = Counter()
        self.rewrites_seen = 0
        self.view_writes = 0
        self.base: Variable | None = None
        self.inference = modes.state.inference
        self.hooks: Hooks | None = None
        self.post_accumulate_hooks: Hooks | None = None
        self.retains = False
        self._accumulator: Callable[[], Any] | None = None
        if requires_grad:
            self.requires_grad = True

    # --- values ------------------------------------------------------------------------------------------------------

    @property
    def array(self) -> Any:
        raw = self.raw
        if isinstance(raw, PrivateArray):
            self.raw = raw = raw.to_plain()
        return raw

    @array.setter
    def array(self, value: Any) -> None:
        self.raw = value

    # --- what a tensor is in the graph -------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and self.raw.dtype.kind != "f":
            raise GradError(
                f"requires_grad: only floating tensors can require grad, got dtype {self.raw.dtype}; convert with .float()"
            )
        if not value and self.grad_fn is not None:
            raise GradError(
                "requires_grad: only a leaf can be told not to require grad; this tensor came from "
                f"{self.grad_fn!r}. Use .detach() to get its values without their history"
            )
        if value and self.inference and not modes.state.inference:
            raise GradError(
                "requires_grad: an inference tensor cannot require grad; use .clone() outside inference_mode"
            )
        self._requires_grad = bool(value)

    @property
    def is_leaf(self) -> bool:
        """True for what no recorded operation made: parameters, inputs, and anything that does not require grad."""
        return self.grad_fn is None

    @property
    def grad(self) -> Any:
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            if not isinstance(value, Variable):
                raise GradError(f"grad: expected a Tensor or None, got {type(value).__name__}")
            if value.raw.shape != self.raw.shape:
                raise ShapeError(f"grad: expected shape {self.raw.shape}, that of the tensor, got {value.raw.shape}")
            if value.raw.dtype != self.raw.dtype:
                raise GradError(f"grad: expected dtype {self.raw.dtype}, that of the tensor, got {value.raw.dtype}")
        self._grad = value

    @property
    def _version(self) -> int:
        return self.writes.count

    def _bump_version(self) -> None:
        """Tell autograd that the values were written (by code that works on `.array`)."""
        self.writes.count += 1

    def accumulator(self) -> Any:
        """The node that adds to `.grad` of this leaf; made at first use, kept alive by the graphs that need it."""
        node = self._accumulator() if self._accumulator is not None else None
        if node is None:
            node = AccumulateGrad(self)
            self._accumulator = weakref.ref(node)
        return node

    def edge(self) -> tuple[Any, int] | None:
        """Where a gradient of this tensor goes: (node, which of its outputs), or None."""
        if not self._requires_grad:
            return None
        return (self.accumulator(), 0) if self.grad_fn is None else (self.grad_fn, self.output_nr)

    # --- hooks -------------------------------------------------------------------------------------------------------

    def register_hook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Call `hook(grad)` when this tensor's gradient is computed; what it returns, if anything, takes its place."""
        if not self._requires_grad:
            raise GradError("register_hook: the tensor does not require grad, so no gradient of it is ever computed")
        if self.hooks is None:
            self.hooks = Hooks()
            if self.grad_fn is not None:
                self.grad_fn.output_hooks.setdefault(self.output_nr, []).append(self.hooks)
        handle = RemovableHandle(self.hooks)
        self.hooks[handle.id] = hook
        return handle

    def register_post_accumulate_grad_hook(self, hook: Callable[[Any], None]) -> RemovableHandle:
        """Call `hook(tensor)` after `.grad` of this leaf was added to."""
        if self.grad_fn is not None or not self._requires_grad:
            raise GradError(
                "register_post_accumulate_grad_hook: only a leaf that requires grad accumulates, this is none"
            )
        if self.post_accumulate_hooks is None:
            self.post_accumulate_hooks = Hooks()
        handle = RemovableHandle(self.post_accumulate_hooks)
        self.post_accumulate_hooks[handle.id] = hook
        return handle

    def retain_grad(self) -> None:
        """Keep `.grad` of this tensor, though it is no leaf."""
        if not self._requires_grad:
            raise GradError("retain_grad: the tensor does not require grad, so it will never have one")
        if self.grad_fn is None or self.retains:
            return
        self.retains = True
        self.grad_fn.retained.append((self.output_nr, weakref.ref(self)))


tensor_type: type[Variable] = Variable  # minires.tensor puts Tensor here: autograd makes tensors and imports none


def new_tensor(array: Any) -> Any:
    """A tensor over `array` (plain or private) with no history."""
    return tensor_type(array if type(array) is np.ndarray or isinstance(array, PrivateArray) else np.asarray(array))


def fresh_array(tensor: Variable) -> np.ndarray:
    """The values of `tensor` in a new plain array, C-contiguous; the tensor stays as it is."""
    raw = tensor.raw
    return raw.to_plain() if isinstance(raw, PrivateArray) else np.array(raw, copy=True, order="C")


def sum_of(a: Variable, b: Variable) -> Any:
    """a + b as a new tensor without history; private if both are of one private type."""
    if isinstance(a.raw, PrivateArray) and type(a.raw) is type(b.raw):
        return new_tensor(a.raw.add(b.raw))
    return new_tensor(a.array + b.array)


def add_to(total: Variable, extra: Variable) -> None:
    """total += extra, in the memory of `total`, which must be the caller's own."""
    if isinstance(total.raw, PrivateArray) and type(total.raw) is type(extra.raw):
        total.raw.iadd(extra.raw)
    else:
        total.array += extra.array


class AccumulateGrad:
    """The end of the graph: adds the gradient that arrives to `.grad` of a leaf."""

    name = "accumulate_grad"
    next_functions: tuple[Any, ...] = ()
    saved: None = None
    call_site = None

    def __init__(self, variable: Variable) -> None:
        self.variable = variable
        # Before any other node that is ready: the gradient is in its place, and its hooks run, while the layers below compute.
        self.sequence = sys.maxsize
        self.output_meta = [(variable.raw.shape, variable.raw.dtype)]

    def __repr__(self) -> str:
        return "<AccumulateGrad>"

    def hook_lists(self) -> list[Hooks]:
        return [] if self.variable.hooks is None else [self.variable.hooks]

    def accumulate(self, grad: Any, create_graph: bool) -> None:
        leaf = self.variable
        if create_graph:
            leaf.grad = grad if leaf.grad is None else leaf.grad + grad
            leaf.grad.array  # noqa: B018  # the gradient of a leaf is always plain: converts a private one in its place
        elif leaf.grad is None:
            # A copy: the same array may be the gradient of two leaves (a + b), and a user may scale one of them in place.
            leaf.grad = new_tensor(fresh_array(grad))
        else:
            leaf.grad.array += grad.array
            leaf.grad._bump_version()
        for hook in list((leaf.post_accumulate_hooks or {}).values()):
            hook(leaf)
