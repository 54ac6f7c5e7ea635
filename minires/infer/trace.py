"""Which operations a model runs: one eager run, overheard at the gate.

The run is of shapes, not of numbers, wherever that is all that the model asks for (see `shapes`). The tracer follows values
through memory: an array that an operation made from the input, or from another such array, is a value; everything else
that operations meet (parameters, buffers, numbers) is a constant. Three ways in which a trace
could tell less than the model does are closed:

* a value is read as a number (`if x.sum() > 0`, `x.item()`): refused where it happens;
* a value is written past the gate: every tensor counts the writes to its memory, and a count that does not fit is refused;
* a constant, or the list of calls, depends on the input or on the batch size all the same: `compile` traces two different
  batches and compares (see `convert.same`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from minires import backend
from minires.autograd import Op, inference_mode
from minires.autograd import function as gate
from minires.autograd import variable as _variable
from minires.autograd.variable import Variable
from minires.errors import ShapeError, UnsupportedError
from minires.infer.shapes import ShapeKernels, Unknown
from minires.nn import Module
from minires.tensor import Tensor

EAGER = "run the model itself, model(x), instead of a plan"


class Ref(NamedTuple):
    """A value in a call's arguments, by its number."""

    value: int


@dataclass(frozen=True, eq=False)
class Call:
    """One operation as it was run on values.

    Attributes:
        op: the operation.
        args: its positional arguments: a Ref for a value, an array for a constant tensor, anything else as it was given.
        options: its keyword arguments.
        outputs: the numbers of its outputs.
    """

    op: type[Op]
    args: tuple[Any, ...]
    options: dict[str, Any]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.op.name or self.op.__name__


@dataclass(frozen=True, eq=False)
class Trace:
    """What a run did: the calls in order, the shape of every value, and which value came in (0) and went out.

    `layers` says which module a parameter belongs to, by the array's id, while the model lives.
    """

    calls: list[Call]
    shapes: dict[int, tuple[int, ...]]
    output: int
    dtype: np.dtype[Any]
    layers: dict[int, str] = field(default_factory=dict)


class _Known(NamedTuple):
    """Where a value lies. `array` is kept, so that its id stays its own."""

    value: int
    array: Any
    writes: Any
    writes_seen: int


class Tracer:
    """A listener at the gate (see minires.autograd.function.listeners)."""

    def __init__(self, model: Module, kernels: ShapeKernels) -> None:
        self.calls: list[Call] = []
        self.shapes: dict[int, tuple[int, ...]] = {}
        self._known: dict[int, _Known] = {}
        self._fixed = {id(parameter.array) for parameter in model.parameters()}
        self._kernels = kernels
        kernels.on_numbers.append(self._got_numbers)
        self._thread = threading.get_ident()

    def new_value(self, tensor: Variable) -> int:
        """Number a tensor as the next value."""
        value = len(self.shapes)
        self.shapes[value] = tuple(tensor.raw.shape)
        self._remember(value, tensor)
        return value

    def value_of(self, tensor: Any) -> int | None:
        """The number of the value that a tensor or array holds; None for a constant.

        Raises:
            UnsupportedError: the value's memory was written to past the gate.
        """
        known = self._known.get(id(tensor.raw if isinstance(tensor, Variable) else tensor))
        if known is None:
            return None
        if known.writes.count != known.writes_seen:
            raise UnsupportedError(
                f"compile: a value of shape {self.shapes[known.value]} was changed in place where a trace cannot follow "
                f"(through a view of it, or by an assignment to some elements); use the out-of-place form, or {EAGER}"
            )
        return known.value

    def applied(self, op: type[Op], args: tuple[Any, ...], options: dict[str, Any], outputs: list[Any]) -> None:
        """Note a call if a value is among its arguments; a call on constants gives constants."""
        if threading.get_ident() != self._thread:
            return
        noted = tuple(self._note(argument) for argument in args)
        if any(isinstance(argument, Ref) for argument in noted):
            for output in outputs:
                self._forget_numbers(output)
            numbers = tuple(self.new_value(output) for output in outputs)
            self.calls.append(Call(op, noted, options, numbers))

    def written(self, target: Variable, value: Variable) -> None:
        """`target`'s memory now holds `value`."""
        if threading.get_ident() != self._thread:
            return
        known = self._known.get(id(value.raw))
        if known is not None:
            self._remember(known.value, target)
        else:  # a constant takes a value's place
            self._known.pop(id(target.raw), None)

    def _got_numbers(self, unknown: Unknown, plain: np.ndarray) -> None:
        """A plain array takes an unknown one's place."""
        known = self._known.get(id(unknown))
        if known is not None:
            self._known[id(plain)] = known._replace(array=plain)

    def _forget_numbers(self, output: Variable) -> None:
        """What an operation without a shape rule computed from made-up numbers is as good as unknown, unless memory shows."""
        raw = output.raw
        if output.base is None and isinstance(raw, np.ndarray) and raw.dtype.kind == "f":
            output.raw = self._kernels.unknown(raw.shape, raw.dtype)

    def _remember(self, value: int, tensor: Variable) -> None:
        self._known[id(tensor.raw)] = _Known(value, tensor.raw, tensor.writes, tensor.writes.count)

    def _note(self, argument: Any) -> Any:
        if not isinstance(argument, (Variable, np.ndarray)):
            return argument
        value = self.value_of(argument)
        if value is not None:
            return Ref(value)
        array = argument.array if isinstance(argument, Variable) else argument
        # Parameters stand still while a model runs; what else the model holds may be written to later.
        return array if id(array) in self._fixed else np.array(array)


_active: Tracer | None = None


class _Traced(Tensor):
    """A tensor that refuses to tell its numbers while a trace runs, if they depend on the input."""

    def _refuse(self, how: str) -> None:
        if _active is not None and _active.value_of(self) is not None:
            raise UnsupportedError(
                f"compile: the model reads a value that depends on its input as numbers ({how}), and a plan would keep what "
                f"they were in the trace; {EAGER}"
            )

    def item(self) -> Any:
        self._refuse("item")
        return super().item()

    def tolist(self) -> Any:
        self._refuse("tolist")
        return super().tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        self._refuse("numpy")
        return super().numpy(force=force)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._refuse("__array__")
        return super().__array__(dtype, copy)

    def __bool__(self) -> bool:
        self._refuse("bool")
        return super().__bool__()

    def __contains__(self, value: Any) -> bool:
        self._refuse("in")
        return super().__contains__(value)


@contextmanager
def _listening(tracer: Tracer) -> Iterator[None]:
    global _active
    before = _variable.tensor_type
    _active, _variable.tensor_type = tracer, _Traced
    gate.listeners.append(tracer)
    try:
        yield
    finally:
        gate.listeners.remove(tracer)
        _active, _variable.tensor_type = None, before


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """The model in evaluation mode inside, each of its modules as it was afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


_one_at_a_time = threading.Lock()


def trace(model: Module, shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> Trace:
    """Run `model` in evaluation mode on an input of which nothing is known but its shape, and note what it does.

    Args:
        shape: (n, ...).
        dtype: the model's.
        seed: of the numbers that are made up where the model needs some.

    Raises:
        UnsupportedError: a trace of the model would not be the model; the message says why.
        ShapeError: the model's output does not have the batch in front.
    """
    kernels = ShapeKernels(seed)
    tracer = Tracer(model, kernels)
    with _one_at_a_time, evaluating(model), inference_mode(), backend.use_kernels_here(kernels):
        entry = _Traced(kernels.unknown(shape, dtype))
        tracer.new_value(entry)
        with _listening(tracer):
            y = model(entry)
        if not isinstance(y, Variable):
            raise UnsupportedError(
                f"compile: the model must return one tensor, got {type(y).__name__}; wrap it in a module that picks one"
            )
        output = tracer.value_of(y)
    if output is None:
        raise UnsupportedError(f"compile: the model's output does not depend on its input by operations; {EAGER}")
    if y.raw.shape[:1] != shape[:1]:
        raise ShapeError(
            f"compile: the output's first size must be the batch, {shape[0]}, got output.shape = {tuple(y.raw.shape)}"
        )
    layers = {id(parameter.array): name.rpartition(".")[0] for name, parameter in model.named_parameters()}
    return Trace(tracer.calls, tracer.shapes, output, np.dtype(dtype), layers)
