"""`Module`, the base of every layer and network: a named tree of parameters, buffers and other modules.

Assigning does the book-keeping: `self.conv1 = Conv2d(...)` registers a child, `self.scale = Parameter(...)` a
parameter. What an assignment registers is kept in three ordered dicts, and everything else is a walk over that tree.

Here: registration, attributes, modes, text. Beside this file:
    module_walk     modules, parameters and buffers by dotted name; `apply`
    module_state    state dicts
    module_convert  `to`, `float`, `cuda`, ...
    module_hooks    the call, and the hooks around it
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self

from minires.errors import ModuleError
from minires.nn.module_convert import Conversions
from minires.nn.module_hooks import Hook, HookedCall
from minires.nn.module_state import State
from minires.nn.module_walk import Walks
from minires.nn.parameter import Buffer, Parameter
from minires.tensor import Tensor


def _no_forward(self: Module, *args: Any, **kwargs: Any) -> Any:
    raise ModuleError(
        f'Module [{type(self).__name__}] is missing the required "forward" function: define forward(self, input)'
    )


class Module(HookedCall, Walks, State, Conversions):
    """The base class of all layers and networks.

    A subclass calls `super().__init__()` first, then assigns its layers and parameters, and defines `forward`:

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(8, 8, 3, padding=1)

            def forward(self, x):
                return F.relu(self.conv(x) + x)

    Calling the module (`block(x)`) runs `forward` and the hooks around it.
    """

    training: bool
    # Typed as Any-to-Any so that a subclass may give `forward` the signature it needs.
    forward: Callable[..., Any] = _no_forward

    def __init__(self) -> None:
        # Straight into __dict__: our own __setattr__ needs these tables to exist.
        tables: dict[str, Any] = {
            "training": True,
            "_parameters": OrderedDict(),
            "_buffers": OrderedDict(),
            "_modules": OrderedDict(),
            "_non_persistent_buffers": set(),
            "_forward_pre_hooks": OrderedDict[int, Hook](),
            "_forward_hooks": OrderedDict[int, Hook](),
            "_backward_pre_hooks": OrderedDict[int, Hook](),
            "_backward_hooks": OrderedDict[int, Hook](),
        }
        self.__dict__.update(tables)

    # ---- registration ------------------------------------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under `name`. None reserves the name (`bias=False`) and stays out of the state dict."""
        self._check_name("parameter", name, self.__dict__.get("_parameters"))
        if param is not None and not isinstance(param, Parameter):
            raise ModuleError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}' (nn.Parameter or None required)"
            )
        if param is not None and param.grad_fn is not None:
            raise ModuleError(
                f"cannot assign a non-leaf Tensor to parameter '{name}': a parameter is a value of its own. Compute "
                "what depends on other tensors in forward()"
            )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is part of the module but not trained, such as a running mean.

        Args:
            name: the attribute's name.
            tensor: the buffer, or None to reserve the name.
            persistent: whether it is part of the state dict.
        """
        self._check_name("buffer", name, self.__dict__.get("_buffers"))
        if tensor is not None and not isinstance(tensor, Tensor):
            raise ModuleError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (Tensor or None required)"
            )
        self._buffers[name] = tensor
        if persistent:
            self._non_persistent_buffers.discard(name)
        else:
            self._non_persistent_buffers.add(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Add a child module under `name`."""
        self.add_module(name, module)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child module under `name`, which need not be a Python identifier (`"0"` in a Sequential)."""
        self._check_name("module", name, self.__dict__.get("_modules"))
        if module is not None and not isinstance(module, Module):
            raise ModuleError(f"add_module: '{name}' must be a Module, got {_describe(module)}")
        self._modules[name] = module

    def _check_name(self, kind: str, name: str, table: dict[str, Any] | None) -> None:
        if table is None:
            raise ModuleError(
                f"cannot assign {kind} '{name}' before Module.__init__() call: begin "
                f"{type(self).__name__}.__init__ with super().__init__()"
            )
        if not isinstance(name, str):
            raise ModuleError(f"{kind} name should be a string, got {type(name).__name__}")
        if name == "" or "." in name:
            raise ModuleError(f'{kind} name can\'t be empty or contain ".", got {name!r}')
        if hasattr(self, name) and name not in table:
            raise ModuleError(f"cannot register {kind} '{name}': attribute '{name}' already exists")

    # ---- attributes --------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        # Called only where the ordinary look-up found nothing.
        for table in ("_parameters", "_buffers", "_modules"):
            entries = self.__dict__.get(table)
            if entries is not None and name in entries:
                return entries[name]
        error = ModuleError(f"module '{type(self).__name__}' object has no attribute '{name}'")
        error.name, error.obj = name, self  # from these Python makes its "Did you mean ...?"
        raise error

    def __setattr__(self, name: str, value: Any) -> None:
        tables = self.__dict__
        if isinstance(value, Parameter):
            self._forget(name, keep="_parameters", kind="parameter")
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._forget(name, keep="_modules", kind="module")
            self._modules[name] = value
        elif isinstance(value, Buffer):
            self._forget(name, keep="_buffers", kind="buffer")
            self.register_buffer(name, value, value.persistent)
        elif name in tables.get("_parameters", ()):
            if value is not None:
                raise ModuleError(
                    f"cannot assign '{type(value).__name__}' as parameter '{name}' (nn.Parameter or None expected): "
                    "wrap it in nn.Parameter, or delete the attribute first"
                )
            self._parameters[name] = None
        elif name in tables.get("_modules", ()):
            if value is not None:
                raise ModuleError(
                    f"cannot assign '{type(value).__name__}' as child module '{name}' (nn.Module or None expected)"
                )
            self._modules[name] = None
        elif name in tables.get("_buffers", ()):
            self.register_buffer(name, value, name not in self._non_persistent_buffers)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                self._non_persistent_buffers.discard(name)
                return
        super().__delattr__(name)

    def __dir__(self) -> list[str]:
        names = [*dir(type(self)), *self.__dict__, *self._parameters, *self._modules, *self._buffers]
        return sorted(name for name in set(names) if not name[0].isdigit())

    def _forget(self, name: str, keep: str, kind: str) -> None:
        """Remove what else is registered under `name`: an attribute may change its kind, as in torch."""
        if keep not in self.__dict__:
            raise ModuleError(
                f"cannot assign {kind} '{name}' before Module.__init__() call: begin "
                f"{type(self).__name__}.__init__ with super().__init__()"
            )
        self.__dict__.pop(name, None)
        for table in ("_parameters", "_buffers", "_modules"):
            if table != keep:
                self.__dict__[table].pop(name, None)
        if keep != "_buffers":
            self._non_persistent_buffers.discard(name)

    # ---- modes -------------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set training mode here and below: batch norm takes the batch's statistics, dropout drops."""
        if not isinstance(mode, bool):
            raise ModuleError(f"train: mode is expected to be a bool, got {mode!r}")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode here and below, as `train(False)`. It does not switch off gradients: `no_grad` does."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` of every parameter: False freezes."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of every parameter: set to None, or with `set_to_none=False` filled with zeros."""
        for parameter in self.parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad = parameter.grad.detach()
                parameter.grad.zero_()

    # ---- text --------------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What a layer says of itself between the brackets; several lines are allowed."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        extra_lines = extra.split("\n") if extra else []
        child_lines = [f"({name}): {_indent(repr(child))}" for name, child in self._modules.items()]
        if not child_lines and len(extra_lines) <= 1:
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join(extra_lines + child_lines) + "\n)"


def _indent(text: str) -> str:
    """Move every line but the first two columns to the right."""
    return text.replace("\n", "\n  ")


def _describe(value: object) -> str:
    """The type of a wrong argument; a class given instead of an instance is the usual slip (`ReLU` for `ReLU()`)."""
    if isinstance(value, type):
        return f"the class {value.__name__} itself: did you mean {value.__name__}()?"
    return type(value).__name__
