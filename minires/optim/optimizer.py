"""The base of every optimiser: parameter groups, state, zeroing gradients, saving and loading.

An optimiser owns three things, named as in torch:

- ``param_groups``: a list of dicts; each holds its own ``params`` and its own options (``lr``, ``momentum``, ...).
- ``state``: what each parameter needs from one step to the next (a momentum buffer, Adam's two averages).
- ``defaults``: the options a group takes when it does not say otherwise.

A subclass writes one method, ``_update(group)``: it gathers the arrays of a group and hands them to a kernel, which knows the
formula of its paper.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import numpy as np

from minires.autograd import enable_grad, no_grad
from minires.errors import ArgumentError, StateDictError, UnsupportedError
from minires.tensor import Tensor

Group = dict[str, Any]
Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[Group]


def check_number(op: str, name: str, value: Any, low: float = 0.0, below: float = math.inf) -> None:
    """Raise ArgumentError unless ``low <= value < below`` (infinity itself allowed when ``below`` is infinite)."""
    if isinstance(value, Tensor):
        raise UnsupportedError(f"{op}: {name} as a Tensor is not supported; pass a number, {name}.item()")
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ArgumentError(f"{op}: {name} must be a number, got {value!r} of type {type(value).__name__}")
    if not low <= value or (below != math.inf and not value < below):  # written so that NaN is refused too
        upper = "" if below == math.inf else f" and below {below:g}"
        raise ArgumentError(f"{op}: {name} must be at least {low:g}{upper}, got {value}")


def check_variants(op: str, **flags: bool | None) -> None:
    """Refuse torch's switches between its implementations: there is one here, and none of them changes a number."""
    for name, value in flags.items():
        if value:
            raise UnsupportedError(f"{op}: {name}={value} is not supported; leave it out (there is one implementation)")


class Optimizer:
    """Base class; see SGD, Adam and AdamW.

    Args:
        params: parameters, (name, parameter) pairs, or dicts with a ``params`` entry and options of their own.
        defaults: option values for groups that do not set them.
    Raises:
        ArgumentError: nothing to optimise, a parameter given twice, a tensor that is not a leaf.
    """

    state: defaultdict[Any, dict[str, Any]]
    param_groups: list[Group]

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        op = type(self).__name__
        if isinstance(params, Tensor):
            raise ArgumentError(f"{op}: params must be an iterable of tensors or dicts, got one Tensor; write [tensor]")
        self.defaults = defaults
        self.state = defaultdict(dict)
        self.param_groups = []
        self._opt_called = False  # schedulers warn when they move before the first step
        entries: list[Any] = list(params)
        if not entries:
            raise ArgumentError(f"{op}: got an empty parameter list; was it a generator that is already used up?")
        for group in entries if isinstance(entries[0], dict) else [{"params": entries}]:
            self.add_param_group(group)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Note calls of a subclass's own ``step``, however it is written, for the schedulers' order check."""
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            own_step = cls.__dict__["step"]

            @functools.wraps(own_step)
            def step(self: Optimizer, *args: Any, **kw: Any) -> Any:
                self._opt_called = True
                return own_step(self, *args, **kw)

            cls.step = step  # type: ignore[method-assign]

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])

    # ---- the step ----

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss; runs with gradients enabled, before the update.
        Returns:
            The closure's loss, or None.
        """
        self._opt_called = True
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            for group in self.param_groups:
                self._update(group)
        return loss

    def _update(self, group: Group) -> None:
        """Apply the formula to ``group["params"]``, in place, and note the change (``_bump_version``)."""
        raise NotImplementedError(f"{type(self).__name__} must define step() or _update(group)")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients: None saves their memory and one pass; False fills them with zeros in place."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if set_to_none:
                    p.grad = None
                elif p.grad.requires_grad:  # made with create_graph=True: do not write into a recorded tensor
                    p.grad = Tensor(np.zeros_like(p.grad.array))
                else:
                    p.grad.array[...] = 0
                    p.grad._bump_version()

    # ---- groups ----

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; options it does not set come from ``defaults``.

        Use it to train layers that were frozen so far, or to give some parameters other options.

        Raises:
            ArgumentError: not a dict, no ``params``, a set, a duplicate, a non-leaf, or a missing required option.
        """
        op = f"{type(self).__name__}.add_param_group"
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise ArgumentError(f"{op}: expected a dict with a 'params' entry, got {_describe(param_group)}")
        params = param_group["params"]
        if isinstance(params, set | frozenset):
            raise ArgumentError(f"{op}: params is a set, whose order changes between runs; pass a list")
        entries = [params] if isinstance(params, Tensor) else list(params)

        names = [entry[0] for entry in entries if isinstance(entry, tuple)]
        tensors = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
        if names and len(names) != len(tensors):
            raise ArgumentError(f"{op}: either all parameters are named or none; {len(names)} of {len(tensors)} are")
        if self.param_groups and bool(names) != ("param_names" in self.param_groups[0]):
            raise ArgumentError(f"{op}: either the parameters of all groups are named or none")

        taken = {id(p): i for i, group in enumerate(self.param_groups) for p in group["params"]}
        for position, p in enumerate(tensors):
            if not isinstance(p, Tensor):
                raise ArgumentError(f"{op}: params[{position}] must be a Tensor, got {_describe(p)}")
            if not (p.is_leaf or p.retains):
                raise ArgumentError(
                    f"{op}: params[{position}] is not a leaf, it was computed by {p.grad_fn}; detach it"
                )
            if id(p) in taken:
                raise ArgumentError(f"{op}: params[{position}] is already in parameter group {taken[id(p)]}")
            taken[id(p)] = len(self.param_groups)

        param_group["params"] = tensors
        if names:
            param_group["param_names"] = names
        for name, default in self.defaults.items():
            param_group.setdefault(name, default)
        self.param_groups.append(param_group)

    # ---- saving and loading ----

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's format: parameters are numbered in the order of the groups.

        Returns:
            ``{"state": {index: {name: value}}, "param_groups": [{option: value, ..., "params": [index, ...]}]}``. The
            tensors are the optimiser's own, not copies: save them or copy them before the next step.
        """
        index: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                index[id(p)] = len(index)
            packed = {key: value for key, value in group.items() if key != "params"}
            groups.append({**packed, "params": [index[id(p)] for p in group["params"]]})
        state = {index[id(p)] if isinstance(p, Tensor) else p: value for p, value in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state; the tensors are copied and cast to their parameter's dtype and device.

        Groups must match in number and size. Their options come from the file, their parameters stay.

        Raises:
            StateDictError: not a state dict, or one of another set of parameters. Nothing is changed then.
        """
        op = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= set(state_dict):
            raise StateDictError(f"{op}: expected a dict with 'state' and 'param_groups', got {_describe(state_dict)}")
        saved = state_dict["param_groups"]
        ours = [len(group["params"]) for group in self.param_groups]
        theirs = [len(group["params"]) for group in saved]
        if ours != theirs:
            raise StateDictError(
                f"{op}: this optimiser has {len(ours)} parameter groups of sizes {ours}, "
                f"the state dict has {len(theirs)} of sizes {theirs}"
            )
        parameter = {
            key: p
            for group, saved_group in zip(self.param_groups, saved, strict=True)
            for key, p in zip(saved_group["params"], group["params"], strict=True)
        }
        state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for key, entry in state_dict["state"].items():
            if key not in parameter:
                state[key] = deepcopy(entry)
                continue
            p = parameter[key]
            state[p] = {name: _adopt(f"{op}: state[{key}][{name!r}]", p, name, v) for name, v in entry.items()}

        groups = []
        for group, saved_group in zip(self.param_groups, saved, strict=True):
            new = {key: deepcopy(value) for key, value in saved_group.items() if key != "params"}
            for key, value in self.defaults.items():  # a file of an older version may lack an option
                new.setdefault(key, value)
            if "param_names" in group:
                new.setdefault("param_names", group["param_names"])
            groups.append({**new, "params": group["params"]})
        self.state, self.param_groups = state, groups


def _adopt(where: str, p: Tensor, name: str, value: Any) -> Any:
    """Copy one saved value for parameter ``p``: tensors take its dtype and device, except the step count."""
    if not isinstance(value, Tensor | np.ndarray):
        return deepcopy(value)
    array = value.array if isinstance(value, Tensor) else value
    if name == "step":
        return Tensor(np.array(array))
    if array.shape != p.array.shape:
        raise StateDictError(f"{where} has shape {tuple(array.shape)}, its parameter {tuple(p.array.shape)}")
    copy = Tensor(np.empty_like(p.array))  # same dtype, device and memory form as the parameter
    copy.array[...] = array
    return copy


def _describe(value: Any) -> str:
    return f"a dict with keys {sorted(map(str, value))}" if isinstance(value, dict) else type(value).__name__
