"""The parts of a network from bottom to top, for what treats them differently: frozen stages, learning rates by depth."""

from __future__ import annotations

from minires.errors import ConfigError
from minires.nn import Module

__all__ = ["freeze_stages", "stage_names", "stage_of"]


def stage_names(model: Module) -> list[str]:
    """The parts of a network from bottom to top: "stem", "layer1", ..., "head".

    The stem is what stands before layer1, the head is fc; a norm behind the last stage belongs to that stage.

    Raises:
        ConfigError: a network without layer1 or fc.
    """
    children = [name for name, _ in model.named_children()]
    layers = [name for name in children if name.startswith("layer")]
    if not layers or "fc" not in children:
        raise ConfigError(
            f"stages: {type(model).__name__} has no layer1, layer2, ... and fc, so freeze, stage_lr and a new head do not "
            f"apply; it has {', '.join(children)}"
        )
    return ["stem", *layers, "head"]


def stage_of(parameter: str, names: list[str]) -> str:
    """The stage, one of `names`, to which a parameter or module belongs: "layer2.0.conv1.weight" -> "layer2"."""
    first = parameter.partition(".")[0]
    if first == "fc":
        return "head"
    if first in names:
        return first
    return names[-2] if first == "bn" else "stem"


def freeze_stages(model: Module, last: str) -> list[Module]:
    """Keep every parameter up to and with stage `last` as it is.

    Their batch norm must not learn either: the modules given back are to be put into evaluation mode whenever the model is
    put into training mode, so that they normalise by their stored statistics and leave them alone.

    Args:
        model: a network with stages.
        last: the highest frozen one, of `stage_names(model)` without "head".

    Returns:
        The frozen modules: children of `model` that have parameters.

    Raises:
        ConfigError: no such stage.
    """
    names = stage_names(model)
    if last not in names[:-1]:
        raise ConfigError(f"freeze must be one of {', '.join(names[:-1])} (or empty), got {last!r}")
    frozen = names[: names.index(last) + 1]
    children = [(name, module) for name, module in model.named_children() if list(module.parameters())]
    modules = [module for name, module in children if stage_of(name, names) in frozen]
    for module in modules:
        module.requires_grad_(False)
    return modules
