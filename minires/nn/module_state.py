"""State dicts: a module's parameters and persistent buffers under their dotted names, out and in again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minires.autograd import no_grad
from minires.creation import as_tensor
from minires.errors import MiniresError, StateDictError
from minires.nn.parameter import Parameter
from minires.tensor import Tensor

if TYPE_CHECKING:
    from minires.nn.module import Module

# What training scripts put before every key: DataParallel's wrapper, a compiled model's, a Lightning module's.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


class IncompatibleKeys(NamedTuple):
    """The keys that `load_state_dict(strict=False)` left alone."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys!r}, unexpected_keys={self.unexpected_keys!r})"


class State:
    """The part of `Module` that writes and reads state dicts."""

    # Buffers that files written before they existed do not have; their absence is no error, as in torch.
    _optional_state: tuple[str, ...] = ()

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent_buffers: set[str]

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """All parameters and persistent buffers by name, in the order of registration.

        The tensors are not copied: they share memory with the module's.

        Args:
            destination: a dict to write into; a new OrderedDict by default.
            prefix: put before every name.
            keep_vars: give the parameters themselves, not tensors detached from them.

        Returns:
            An OrderedDict, name to Tensor. A parameter that is shared by two modules appears under both names.
        """
        if destination is None:
            destination = OrderedDict()
        for name, tensor in self._own_state():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
        for name, child in self._modules.items():
            if child is not None:
                child.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        return destination

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy the values of a state dict into this module's parameters and buffers.

        Everything is checked before anything is written: a module is loaded whole or left as it was.

        Args:
            state_dict: name to Tensor or NumPy array. Values are converted to the dtype of the module's tensor.
            strict: missing or unexpected names are an error. A wrong shape always is one.
            assign: put the given tensors themselves into the module (with their dtype) instead of copying values.
                Make the optimiser after this: it must hold the new parameters.

        Returns:
            `(missing_keys, unexpected_keys)`.

        Raises:
            StateDictError: one message with every missing, unexpected and mis-shaped key.
        """
        if not isinstance(state_dict, Mapping):
            raise StateDictError(f"load_state_dict: state_dict must be a mapping, got {type(state_dict).__name__}")
        expected = OrderedDict((name, (owner, key)) for name, owner, key in self._state_slots())
        optional = {name for name, (owner, key) in expected.items() if key in owner._optional_state}
        missing = [name for name in expected if name not in state_dict and name not in optional]
        unexpected = [name for name in state_dict if name not in expected]

        problems: list[str] = []
        found: dict[str, Tensor] = {}
        for name, (owner, key) in expected.items():
            if name not in state_dict:
                continue
            value, problem = _fit(name, state_dict[name], getattr(owner, key))
            if problem is not None:
                problems.append(problem)
            else:
                assert value is not None
                found[name] = value

        if strict and unexpected:
            problems.insert(0, f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
        if strict and missing:
            problems.insert(0, f"Missing key(s) in state_dict: {_quoted(missing)}. ")
        if problems:
            hint = _wrapper_hint(expected, unexpected) if strict else []
            raise StateDictError(
                f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(problems + hint)
            )

        for name, value in found.items():
            owner, key = expected[name]
            owner._write_state(key, value, assign)
        return IncompatibleKeys(missing, unexpected)

    def _own_state(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._parameters.items():
            if parameter is not None:
                yield name, parameter
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._non_persistent_buffers:
                yield name, buffer

    def _state_slots(self, prefix: str = "") -> Iterator[tuple[str, State, str]]:
        """(dotted name, module that owns it, attribute) of everything in the state dict; duplicates are kept."""
        for key, _ in self._own_state():
            yield prefix + key, self, key
        for name, child in self._modules.items():
            if child is not None:
                yield from child._state_slots(f"{prefix}{name}.")

    def _write_state(self, key: str, value: Tensor, assign: bool) -> None:
        target = getattr(self, key)
        if not assign:
            with no_grad():
                target.copy_(value)
        elif isinstance(target, Parameter):
            if not isinstance(value, Parameter):
                value = Parameter(value)
            value.requires_grad_(target.requires_grad)
            self._parameters[key] = value
        else:
            self._buffers[key] = value


def _fit(name: str, value: Any, target: Tensor) -> tuple[Tensor | None, str | None]:
    """(the value as a Tensor of the target's shape, None) or (None, what is wrong)."""
    if isinstance(value, (np.ndarray, np.generic)):
        try:
            value = as_tensor(value)
        except MiniresError as error:
            return None, f"{name}: {error}"
    if not isinstance(value, Tensor):
        return None, f"{name}: expected a Tensor or a NumPy array in state_dict, got {type(value).__name__}"
    if target.ndim == 0 and tuple(value.shape) == (1,):
        value = value.detach().reshape(())  # files from before torch 0.4 have no scalars
    if tuple(value.shape) != tuple(target.shape):
        return None, (
            f"size mismatch for {name}: copying a param with shape {tuple(value.shape)} from state_dict, "
            f"the shape in current model is {tuple(target.shape)}."
        )
    return value, None


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _wrapper_hint(expected: Collection[str], unexpected: list[str]) -> list[str]:
    """A way out for the commonest cause: a training script saved its wrapper, so that every key has a prefix."""
    for prefix in _WRAPPER_PREFIXES:
        if unexpected and all(name.startswith(prefix) and name[len(prefix) :] in expected for name in unexpected):
            return [
                f"Every unexpected key is an expected one after {prefix!r}: load "
                f"{{name.removeprefix({prefix!r}): value for name, value in state_dict.items()}}."
            ]
    return []
