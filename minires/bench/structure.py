"""What a network of ours is made of, as plain data: the torch twin is built from it (torch_models.py), in torch's own
idiom, so that no table of depths and widths is written twice.
"""

from __future__ import annotations

from typing import Any

from minires import nn
from minires.errors import UnsupportedError

__all__ = ["describe"]


def describe(model: nn.Module) -> dict[str, Any]:
    """The structure of a ResNet, a CIFAR ResNet, a ResNet-9, or a pre-activation network of basic blocks.

    Returns:
        family "resnet", "resnet9" or "preact", and what torch_models.build needs.

    Raises:
        UnsupportedError: a network that torch_models.py does not have.
    """
    from minires import models
    from minires.models.preact import PreActBlock, PreActNet
    from minires.models.resnet9 import ResNet9

    if isinstance(model, PreActNet):
        first: Any = model.layer1
        if not isinstance(first[0], PreActBlock):
            raise _no_twin("pre-activation bottlenecks")
        return {**_describe_preact(model), "plain": first[0].plain}
    if isinstance(model, ResNet9):
        stem, block = model.conv1, model.layer1[1]
        sizes = {"width": stem.out_channels, "in_channels": stem.in_channels, "num_classes": model.fc.out_features}
        return {"family": "resnet9", **sizes, "plain": block.plain}
    if isinstance(model, (models.ResNet, models.CifarResNet)):
        return _describe_resnet(model)
    raise _no_twin(type(model).__name__)


def _describe_resnet(model: Any) -> dict[str, Any]:
    from minires import models
    from minires.io.structure import read_structure

    found = read_structure({name: value.array for name, value in model.state_dict().items()})
    block = model.layer1[0]
    if found.stem == "deep" or found.shortcut == "avg":
        raise _no_twin("ResNet-D")
    if found.squeeze_excitation:
        raise _no_twin("squeeze-excitation")
    if isinstance(block, models.Bottleneck) and model.layer2[0].conv1.stride != (1, 1):
        raise _no_twin("bottlenecks with their stride on the first 1x1")
    return {
        "family": "resnet",
        "bottleneck": found.bottleneck,
        "layers": list(found.layers),
        "widths": list(found.widths),
        "stem": found.stem,
        "stem_width": found.stem_widths[-1],
        "groups": found.groups,
        "width_per_group": found.width_per_group,
        "shortcut": found.shortcut,
        "plain": block.plain,
        "in_channels": found.in_channels,
        "num_classes": found.num_classes,
    }


def _describe_preact(model: Any) -> dict[str, Any]:
    stages = [getattr(model, f"layer{i + 1}") for i in range(model.stages)]
    if any(isinstance(module, nn.Dropout) for module in model.modules()):
        raise _no_twin("dropout")
    return {
        "family": "preact",
        "layers": [len(stage) for stage in stages],
        "widths": [stage[0].conv1.out_channels for stage in stages],
        "stem": "7x7" if "maxpool" in model.stem_names else "3x3",
        "stem_width": model.conv1.out_channels,
        "in_channels": model.conv1.in_channels,
        "num_classes": model.fc.out_features,
    }


def _no_twin(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"bench: torch_models.py has no {what}; measure a resnet, resnext, CIFAR or wide network, or minires alone "
        "(--against minires-reference)"
    )
