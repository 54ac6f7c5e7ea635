"""Walks over a module's tree: its modules, parameters and buffers by dotted name, shared ones named once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from minires.errors import ModuleError
from minires.nn.parameter import Parameter
from minires.tensor import Tensor

if TYPE_CHECKING:
    from minires.nn.module import Module

Item = TypeVar("Item")


class Walks:
    """The part of `Module` that lists and finds what is below it."""

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]

    def named_modules(
        self, memo: set[Any] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all below it, parents first; a shared module appears once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, cast("Module", self)
        for name, child in self._modules.items():
            if child is not None:
                yield from child.named_modules(memo, _join(prefix, name), remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and all below it, each once."""
        for _, module in self.named_modules(remove_duplicate=remove_duplicate):
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly below, each once."""
        seen: set[Module] = set()
        for name, child in self._modules.items():
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def children(self) -> Iterator[Module]:
        """The modules directly below, each once."""
        for _, child in self.named_children():
            yield child

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter); a shared parameter appears once, under its first name."""
        return self._named_members(lambda module: module._parameters, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters of this module and, with `recurse`, of all below it: what an optimiser takes."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer), persistent or not."""
        return self._named_members(lambda module: module._buffers, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers of this module and, with `recurse`, of all below it."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def _named_members(
        self,
        table: Callable[[Module], dict[str, Item | None]],
        prefix: str,
        recurse: bool,
        remove_duplicate: bool,
    ) -> Iterator[tuple[str, Item]]:
        modules: Iterable[tuple[str, Module]] = [(prefix, cast("Module", self))]
        if recurse:
            modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
        # By identity: a tensor's == is elementwise.
        seen: set[int] = set()
        for module_name, module in modules:
            for name, member in table(module).items():
                if member is None or id(member) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(member))
                yield _join(module_name, name), member

    def get_submodule(self, target: str) -> Module:
        """The module under a dotted name, such as "layer1.0.conv1"; the empty name is this module.

        Raises:
            ModuleError: there is no such attribute, or it is no module.
        """
        module = cast("Module", self)
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise ModuleError(f"get_submodule: {type(module).__name__} has no attribute `{name}`")
            found = getattr(module, name)
            if not isinstance(found, Walks):
                raise ModuleError(f"get_submodule: `{name}` of {type(module).__name__} is not an nn.Module")
            module = cast("Module", found)
        return module

    def set_submodule(self, target: str, module: Module) -> None:
        """Put `module` in the place of the one under a dotted name."""
        if not target:
            raise ModuleError("set_submodule: target must name a submodule, got ''")
        path, _, name = target.rpartition(".")
        self.get_submodule(path).add_module(name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter under a dotted name, such as "layer1.0.conv1.weight"."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        found = module._parameters.get(name)
        if found is None:
            raise ModuleError(f"get_parameter: `{name}` of {type(module).__name__} is not an nn.Parameter")
        return found

    def get_buffer(self, target: str) -> Tensor:
        """The buffer under a dotted name, such as "bn1.running_mean"."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        found = module._buffers.get(name)
        if found is None:
            raise ModuleError(f"get_buffer: `{name}` of {type(module).__name__} is not a buffer")
        return found

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn(module)` for every module, children before their parents: the way to initialise weights."""
        for child in self.children():
            child.apply(fn)
        fn(cast("Module", self))
        return self


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
