"""The graph: a node an operation, an edge from each node to those that made its inputs.

A node is also the `ctx` that an operation's forward and backward see, as in torch. It holds what forward saved, and knows
whether those values have been written since.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minires.autograd import anomaly, modes
from minires.autograd.variable import AccumulateGrad, Counter, Hooks, Variable, new_tensor
from minires.errors import GradError
from minires.kernels.private import PrivateArray

_sequence = itertools.count()


def next_sequence() -> int:
    """A number larger than that of every node made so far."""
    return next(_sequence)


_saved_hooks: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = []


class saved_tensors_hooks:
    """`with saved_tensors_hooks(pack, unpack):` what operations inside save passes through `pack(tensor)` when it is
    saved and `unpack(packed)` when a backward pass asks for it. Activation checkpointing is made of this."""

    def __init__(self, pack_hook: Callable[[Any], Any], unpack_hook: Callable[[Any], Any]) -> None:
        self.hooks = (pack_hook, unpack_hook)

    def __enter__(self) -> None:
        _saved_hooks.append(self.hooks)

    def __exit__(self, *exc: object) -> None:
        _saved_hooks.pop()


class SavedTensor:
    """A value kept for backward: the array (plain or private), the version it had, and the history to give it back with."""

    __slots__ = ("array", "edge", "label", "output_nr", "packed", "requires_grad", "unpack_hook", "version", "writes")

    def __init__(self, array: Any, label: str) -> None:
        self.array = array
        self.label = label  # "input 1", "output 0" or "an intermediate", for messages
        self.writes: Counter | None = None
        self.version = 0
        self.edge: tuple[Any, int] | None = None
        self.requires_grad = False
        self.output_nr: int | None = None  # set for outputs: their node is the one that owns this value
        self.packed: Any = None
        self.unpack_hook: Callable[[Any], Any] | None = None

    def watch(self, tensor: Variable) -> None:
        """From now on a write to `tensor`'s memory spoils this value."""
        self.writes = tensor.writes
        self.version = tensor.writes.count

    def survive_write(self, target: Variable) -> None:
        """An in-place operation is about to overwrite `target`: keep the old value if it lies there."""
        if self.writes is not target.writes:
            return
        self.writes = None
        if self.unpack_hook is None:
            self.array = _surviving(self.array)
        elif isinstance(self.packed, Variable):
            self.packed = new_tensor(_surviving(self.packed.raw))

    def pack(self) -> None:
        if _saved_hooks:
            pack_hook, self.unpack_hook = _saved_hooks[-1]
            with modes.no_grad():
                self.packed = pack_hook(new_tensor(self.array))
            self.array = None

    def unpack(self, owner: Node) -> Any:
        """The value as a tensor with its history.

        Raises:
            GradError: its memory was written after it was saved.
        """
        if self.writes is not None and self.writes.count != self.version:
            raise GradError(
                f"{owner.name}: {self.label} was saved for the backward pass and then changed by an in-place operation "
                f"(it is at version {self.writes.count}, version {self.version} was saved). Use the out-of-place form, "
                f"or .clone() before the write{anomaly.where(owner)}"
            )
        array = self.unpack_hook(self.packed).raw if self.unpack_hook is not None else self.array
        tensor = new_tensor(array)
        if self.writes is not None and self.unpack_hook is None:
            tensor.writes = self.writes
        if self.output_nr is not None:
            tensor.grad_fn, tensor.output_nr, tensor._requires_grad = owner, self.output_nr, self.requires_grad
        elif self.edge is not None:
            node, number = self.edge
            if isinstance(node, AccumulateGrad):
                if self.unpack_hook is None:
                    return node.variable
                tensor._accumulator = lambda: node
            else:
                tensor.grad_fn, tensor.output_nr = node, number
            tensor._requires_grad = True
        return tensor


def _surviving(array: Any) -> Any:
    """`array`, which an in-place operation is about to write: a copy, but of a private one, which is replaced, not written."""
    return array if isinstance(array, PrivateArray) else array.copy()


class Node:
    """One recorded operation; the `ctx` of its forward and backward.

    Attributes:
        needs_input_grad: for each argument of forward, whether its gradient is wanted.
        next_functions: for each argument, the (node, output number) that its gradient goes to, or None.
        saved_tensors: what forward gave to `save_for_backward`, as tensors.
    """

    def __init__(self, op: Any, args: tuple[Any, ...], recording: bool) -> None:
        self.op = op
        self.recording = recording
        self.sequence = next(_sequence)
        self.saved: list[SavedTensor | None] | None = None
        self.freed = False
        self.materialize = True
        self.non_differentiable: list[Any] = []
        self.output_meta: list[tuple[tuple[int, ...], Any]] = []
        self.output_hooks: dict[int, list[Hooks]] = {}
        self.retained: list[tuple[int, Callable[[], Any]]] = []
        self.call_site = anomaly.call_site() if recording else None
        self._to_save: tuple[Any, ...] = ()
        self.needs_input_grad: tuple[bool, ...] = ()
        self.next_functions: tuple[tuple[Any, int] | None, ...] = ()
        if recording:
            self.next_functions = tuple(a.edge() if isinstance(a, Variable) else None for a in args)
            self.needs_input_grad = tuple(edge is not None for edge in self.next_functions)
        else:
            self.needs_input_grad = (False,) * len(args)

    @property
    def name(self) -> str:
        return self.op.name or self.op.__name__

    def __repr__(self) -> str:
        return f"<{self.op.__name__}Backward>"

    # --- what forward may call ---------------------------------------------------------------------------------------

    def save_for_backward(self, *values: Any) -> None:
        """Keep arrays (or None) for backward. Inputs and outputs come back with their history, intermediates without."""
        if self.recording:
            self._to_save = values

    def mark_non_differentiable(self, *values: Any) -> None:
        """These outputs have no gradient (indices, masks)."""
        self.non_differentiable.extend(values)

    def set_materialize_grads(self, value: bool) -> None:
        """If False, the gradient of an output that nothing used arrives as None instead of zeros."""
        self.materialize = value

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        if self.freed:
            raise GradError(
                f"{self.name}: the values saved for the backward pass are gone: backward already went through this graph "
                f"and freed them. Give retain_graph=True to the first call if the graph is needed again{anomaly.where(self)}"
            )
        return tuple(None if s is None else s.unpack(self) for s in self.saved or ())

    # --- what the gate and the engine call ---------------------------------------------------------------------------

    def keep(self, args: tuple[Any, ...], arrays: Sequence[Any], results: tuple[Any, ...], outputs: list[Any]) -> None:
        """Turn what forward saved into SavedTensors, finding out which are inputs and which are outputs.

        Args:
            arrays, results: what forward got and returned; args, outputs: the tensors around them.
        """
        if not self._to_save:
            return
        self.saved = [
            None if value is None else self._saved(value, args, arrays, results, outputs) for value in self._to_save
        ]
        self._to_save = ()

    def _saved(
        self, value: Any, args: tuple[Any, ...], arrays: Sequence[Any], results: tuple[Any, ...], outputs: list[Any]
    ) -> SavedTensor:
        for i, (argument, array) in enumerate(zip(args, arrays, strict=True)):
            if isinstance(argument, Variable) and (array is value or argument is value):
                if argument.inference and not modes.state.inference:
                    raise GradError(
                        f"{self.name}: an inference tensor cannot be saved for a backward pass; use .clone() on it "
                        "outside inference_mode"
                    )
                saved = SavedTensor(argument.raw, f"input {i}")
                saved.edge = self.next_functions[i]
                saved.watch(argument)
                saved.pack()
                return saved
        for i, (result, output) in enumerate(zip(results, outputs, strict=True)):
            if result is value:  # the result, not output.raw: NumPy returns scalars where arrays have no dimensions
                saved = SavedTensor(output.raw, f"output {i}")
                saved.output_nr = i
                saved.requires_grad = output._requires_grad
                saved.watch(output)
                saved.pack()
                return saved
        saved = SavedTensor((value if isinstance(value, Variable) else new_tensor(value)).raw, "an intermediate")
        saved.pack()
        return saved

    def release(self) -> None:
        """Free what was saved."""
        if self.saved is not None:
            self.saved = None
            self.freed = True

    def run_backward(self, grads: list[Any]) -> tuple[Any, ...]:
        """Gradients of the outputs in, gradients of forward's arguments out (one for each; None where not wanted)."""
        if self.materialize:
            grads = [
                new_tensor(np.zeros(shape, dtype)) if g is None else g
                for g, (shape, dtype) in zip(grads, self.output_meta, strict=True)
            ]
        result = self.op.backward(self, *grads)
        if not isinstance(result, tuple):
            result = (result,)
        if len(result) > len(self.next_functions) and any(
            extra is not None for extra in result[len(self.next_functions) :]
        ):
            raise GradError(
                f"{self.name}: backward must return at most {len(self.next_functions)} gradients, one for each argument of "
                f"forward, got {len(result)}"
            )
        return result
