"""Which layer an operation belongs to: a table of layers, written down while a model runs.

A listener at two doors: at the gate of autograd, which every operation passes, and at the call of every module. It changes
nothing that runs, so it also sees what hooks would prevent: a batch norm and the ReLU behind it as one fused operation (see
minires.nn.fused), of which the ReLU, and often the batch norm too, is never called as a module.

An operation belongs to

* the layer whose parameter it takes, if it takes one: the fused operation to its batch norm;
* else the innermost module that is being called: `F.relu` in a block's forward to the block;
* else to nobody: the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from minires.autograd import function as gate
from minires.autograd.variable import Variable
from minires.nn import Conv2d, ConvTranspose2d, Linear, Module
from minires.nn.module_hooks import call_listeners

__all__ = ["LOSS", "LayerLog", "LayerRow", "listening"]

LOSS = "(loss)"  # the name of what no module calls


@dataclass
class LayerRow:
    """One layer in the order in which it ran.

    Attributes:
        name: its name in the model.
        kind: its class, and what it does besides where operations are fused.
        output_shape: of its (last) output.
        parameters: numbers of its own that learn or are frozen; 0 in the second row of a module that is used twice.
        macs: multiply-accumulates of one forward pass.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


class LayerLog:
    """The listener. `rows` grows while the model runs inside `listening(log)`.

    Attributes:
        rows: a row a layer; a new one when a module is called again.
        row: the number of the row that the operation heard last belongs to.
        deaf: whether nothing is written down at present: operations of the backward pass belong to no call.
    """

    def __init__(self, model: Module) -> None:
        self.rows: list[LayerRow] = []
        self.row = -1
        self.deaf = False
        self._names = {id(module): name or type(model).__name__ for name, module in model.named_modules()}
        self._owners: dict[int, Module] = {}
        for module in model.modules():
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self._owners.setdefault(id(tensor.raw), module)
        self._counted: set[int] = set()
        self._calls: list[tuple[Module, int]] = []  # the modules being called, each with how many calls came before
        self._entered = 0
        self._at: tuple[int, int] | None = None  # what the last row stands for: a module's id, and which call of it

    # --- module calls (see minires.nn.module_hooks.call_listeners) ---------------------------------------------------

    def entered(self, module: Module) -> None:
        """A module's forward begins."""
        self._entered += 1
        self._calls.append((module, self._entered))

    def left(self, module: Module, args: tuple[Any, ...], output: Any) -> None:
        """It has ended."""
        _, call = self._calls.pop()
        if id(module) not in self._names or any(True for _ in module.children()) or not isinstance(output, Variable):
            return
        row = self._open(module, call)  # a layer without operations, such as Identity, has a row too
        row.output_shape = tuple(int(n) for n in output.raw.shape)
        row.macs += _macs(module, args[0], output) if args else 0

    # --- operations (see minires.autograd.function.listeners) --------------------------------------------------------

    def applied(self, op: Any, args: tuple[Any, ...], options: dict[str, Any], outputs: Any) -> None:
        """An operation ran."""
        if self.deaf:
            return
        inner, call = self._calls[-1] if self._calls else (None, 0)
        raws = [id(a.raw) for a in args if isinstance(a, Variable)]
        module = next((self._owners[raw] for raw in raws if raw in self._owners), inner)
        if op.view and self.rows and module is inner and (inner is None or any(True for _ in inner.children())):
            return  # a reshape between two layers is no layer
        row = self._open(module, call)
        row.output_shape = tuple(int(n) for n in outputs[0].raw.shape)
        name = op.name or op.__name__
        if name.startswith("batch_norm_relu"):
            has_shortcut = isinstance(args[3], Variable)
            row.kind = f"{type(module).__name__} + add + ReLU" if has_shortcut else f"{type(module).__name__} + ReLU"

    def written(self, target: Any, value: Any) -> None:
        """Writes make no rows."""

    def _open(self, module: Module | None, call: int) -> LayerRow:
        """The row of a module's call: the last one, or a new one."""
        key = (id(module), call)
        if key == self._at:
            return self.rows[self.row]
        self._at = key
        if module is None:
            self.rows.append(LayerRow(LOSS, "", (), 0, 0))
        else:
            own = (
                0 if id(module) in self._counted else sum(math.prod(p.shape) for p in module.parameters(recurse=False))
            )
            self._counted.add(id(module))
            name = self._names.get(id(module), type(module).__name__)
            self.rows.append(LayerRow(name, type(module).__name__, (), own, 0))
        self.row = len(self.rows) - 1
        return self.rows[-1]


@contextmanager
def listening(log: LayerLog, *more: Any) -> Iterator[None]:
    """Inside, `log` hears every module call and operation; `more` hear the operations behind it."""
    call_listeners.append(log)
    gate.listeners.extend([log, *more])
    try:
        yield
    finally:
        call_listeners.remove(log)
        for listener in (log, *more):
            gate.listeners.remove(listener)


def _macs(module: Module, x: Any, y: Any) -> int:
    """Conv2d: every output value is a sum over C_in / groups * k_h * k_w products; the transposed one the other way
    round.
    """
    if isinstance(module, ConvTranspose2d):
        return math.prod(x.shape) * math.prod(module.weight.shape[1:])
    if isinstance(module, Conv2d):
        return math.prod(y.shape) * math.prod(module.weight.shape[1:])
    if isinstance(module, Linear):
        return math.prod(y.shape) * int(module.weight.shape[1])
    return 0
