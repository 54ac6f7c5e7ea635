"""Modules that hold modules: `Sequential`, `ModuleList`, `ModuleDict`, and `ParameterList`."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Self, overload

from minires.errors import ArgumentError, LabelError, ModuleError
from minires.nn.fused import run_in_order
from minires.nn.module import Module, _describe, _indent
from minires.nn.parameter import Parameter
from minires.tensor import Tensor


class _Indexed(Module):
    """What `Sequential` and `ModuleList` share: children in order, reached by their place."""

    _modules: OrderedDict[str, Module]  # type: ignore[assignment]  # no None here

    def _key(self, idx: int) -> str:
        """The name of the child at place `idx` (negative: from the end)."""
        idx = operator.index(idx)
        if not -len(self) <= idx < len(self):
            raise LabelError(f"{self._get_name()}: index {idx} is out of range for {len(self)} modules")
        return list(self._modules)[idx]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __contains__(self, module: object) -> bool:
        return any(module is child for child in self)

    def __setitem__(self, idx: int, module: Module) -> None:
        setattr(self, self._key(idx), module)

    def __delitem__(self, idx: int | slice) -> None:
        for key in list(self._modules)[idx] if isinstance(idx, slice) else [self._key(idx)]:
            del self._modules[key]
        self._renumber(list(self))

    def _renumber(self, modules: list[Module]) -> None:
        """Name the children "0", "1", ... again; given names are lost, as in torch."""
        self._modules.clear()
        for i, module in enumerate(modules):
            self._modules[str(i)] = module

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        number = len(self)
        # A slice keeps its names: in `net[1:]` the name "2" is taken though there are only two modules.
        while str(number) in self._modules:
            number += 1
        self.add_module(str(number), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end, in order."""
        if not isinstance(modules, Iterable):
            raise ModuleError(f"{self._get_name()}.extend: expected an iterable of modules, got {_describe(modules)}")
        # A list first: extending a container by itself must end.
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before place `index`; those behind it move up by one."""
        if not isinstance(module, Module):
            raise ModuleError(f"{self._get_name()}.insert: expected a Module, got {_describe(module)}")
        if not -len(self) <= index <= len(self):
            raise LabelError(f"{self._get_name()}.insert: index {index} is out of range for {len(self)} modules")
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)
        return self

    def pop(self, key: int | slice) -> Module:
        """Remove the module at place `key`, or a slice of them, and return it."""
        removed = self[key]  # type: ignore[index]  # both subclasses define it
        del self[key]
        return removed


class Sequential(_Indexed):
    """A chain of modules: y = f_k(... f_1(f_0(x))).

    A BatchNorm2d with a ReLU behind it runs as one operation if neither has hooks (see `nn/fused.py`).

    `Sequential(a, b)` names them "0", "1"; `Sequential(OrderedDict(stem=a, head=b))` keeps the given names. A slice is
    again a Sequential, over the same modules and with their names.
    """

    @overload
    def __init__(self, *args: Module) -> None: ...
    @overload
    def __init__(self, arg: OrderedDict[str, Module], /) -> None: ...
    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def forward(self, input: Any) -> Any:
        return run_in_order(self, input)

    @overload
    def __getitem__(self, idx: int) -> Module: ...
    @overload
    def __getitem__(self, idx: slice) -> Sequential: ...
    def __getitem__(self, idx: int | slice) -> Module:
        if isinstance(idx, slice):
            return type(self)(OrderedDict(list(self._modules.items())[idx]))
        return self._modules[self._key(idx)]

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self, *_sequential("+", other))

    def __iadd__(self, other: Sequential) -> Self:
        return self.extend(_sequential("+=", other))

    def __mul__(self, other: int) -> Sequential:
        """The chain repeated, sharing its modules (and so its weights)."""
        return Sequential(*list(self) * _times(other))

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Self:
        return self.extend(list(self) * (_times(other) - 1))


def _sequential(sign: str, other: object) -> Sequential:
    if not isinstance(other, Sequential):
        raise ModuleError(f"Sequential {sign} needs another Sequential, got {_describe(other)}")
    return other


def _times(other: object) -> int:
    if not isinstance(other, int) or other <= 0:
        raise ArgumentError(f"Sequential *: expected a positive int, got {other!r}")
    return other


class ModuleList(_Indexed):
    """A list whose modules are registered. It has no `forward`: the module that owns it says what to do with them."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    @overload
    def __getitem__(self, idx: int) -> Module: ...
    @overload
    def __getitem__(self, idx: slice) -> ModuleList: ...
    def __getitem__(self, idx: int | slice) -> Module:
        if isinstance(idx, slice):
            return type(self)(list(self)[idx])
        return self._modules[self._key(idx)]

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def insert(self, index: int, module: Module) -> None:
        super().insert(index, module)

    def __repr__(self) -> str:
        # Equal neighbours in one line: "(0-3): 4 x ReLU()".
        runs: list[tuple[int, int, str]] = []
        for i, text in enumerate(map(repr, self)):
            if runs and runs[-1][2] == text:
                runs[-1] = (runs[-1][0], i, text)
            else:
                runs.append((i, i, text))
        if not runs:
            return self._get_name() + "()"
        lines = [
            _indent(f"({first}): {text}" if first == last else f"({first}-{last}): {last - first + 1} x {text}")
            for first, last, text in runs
        ]
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"


class ModuleDict(Module):
    """A dict whose modules are registered under their keys, in the order of insertion. It has no `forward`."""

    _modules: OrderedDict[str, Module]  # type: ignore[assignment]  # no None here

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Remove every module."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Remove the module under `key` and return it."""
        return self._modules.pop(key)

    def keys(self) -> KeysView[str]:
        return self._modules.keys()

    def items(self) -> ItemsView[str, Module]:
        return self._modules.items()

    def values(self) -> ValuesView[Module]:
        return self._modules.values()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add modules from a mapping or from (key, module) pairs; existing keys are overwritten."""
        if not isinstance(modules, (Mapping, ModuleDict, Iterable)):
            raise ModuleError(
                f"ModuleDict.update: expected a mapping or an iterable of (key, module) pairs, got {_describe(modules)}"
            )
        pairs = modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules
        for i, pair in enumerate(pairs):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ModuleError(f"ModuleDict.update: element {i} must be a (key, module) pair, got {pair!r}")
            self[pair[0]] = pair[1]


class ParameterList(Module):
    """A list whose tensors become registered parameters "0", "1", ...; other objects are held and not registered."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def _key(self, idx: int) -> str:
        idx = operator.index(idx)
        if not -len(self) <= idx < len(self):
            raise LabelError(f"ParameterList: index {idx} is out of range for {len(self)} values")
        return str(idx % len(self))

    @overload
    def __getitem__(self, idx: int) -> Any: ...
    @overload
    def __getitem__(self, idx: slice) -> Self: ...
    def __getitem__(self, idx: int | slice) -> Any:
        if isinstance(idx, slice):
            return type(self)(list(self)[idx])
        return getattr(self, self._key(idx))

    def __setitem__(self, idx: int, param: Any) -> None:
        if isinstance(param, Tensor) and not isinstance(param, Parameter):
            param = Parameter(param)
        setattr(self, self._key(idx), param)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, str(i)) for i in range(self._size))

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def append(self, value: Any) -> Self:
        """Add a value at the end; a Tensor becomes a Parameter."""
        self._size += 1
        self[self._size - 1] = value
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add values at the end, in order."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise ModuleError(f"ParameterList.extend: expected an iterable of values, got {_describe(values)}")
        for value in list(values):
            self.append(value)
        return self

    def extra_repr(self) -> str:
        lines = []
        for i, value in enumerate(self):
            if isinstance(value, Tensor):
                kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
                size = "x".join(str(n) for n in value.shape)
                lines.append(f"  ({i}): {kind} containing: [{value.dtype} of size {size}]")
            else:
                lines.append(f"  ({i}): Object of type: {type(value).__name__}")
        return "\n".join(lines)
