"""Which network a name or a configuration means: ours, torchvision's, timm's and Hugging Face's.

    declared = from_name("seresnext50_32x4d", "the user")
    declared = from_config(json.load(...), "config.json")
    faults = declared.differences(structure)             # what the weights' names and shapes say otherwise

A name is read by its grammar, (se)(wide_)resnet|resnext DEPTH (c|d|s|t) (_GROUPSxWIDTHd | _2), so that timm's hundred
registered names need no table. Networks of a similar name that compute something else are known, and refused with the
reason: some of them have exactly the tensors of a network of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minires.errors import CheckpointError, UnknownNameError
from minires.io.structure import Structure

__all__ = ["Declared", "from_config", "from_name", "refuse_others"]

_NAME = re.compile(r"(se)?(wide_)?(resnet|resnext)([0-9]{1,4})([cdst]?)(?:_([0-9]{1,4})x([0-9]{1,4})d|(_2))?")
_LAYERS = {
    10: (1, 1, 1, 1), 14: (1, 1, 1, 1), 18: (2, 2, 2, 2), 26: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
    101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3), 269: (3, 30, 48, 8),
}  # fmt: skip
_BASIC = (10, 18, 34)

# What is known to be something else. Some have exactly the names and shapes of ours: the first two lines.
_OTHERS = {
    r"resne[x]?t_?blur|blur_?resne": "it blurs where it halves the map (anti-aliasing), which no tensor shows",
    r"resne[x]?taa\d": "it averages where it halves the map (anti-aliasing), which no tensor shows",
    r"resnet_?rs\d": "its stem has a strided convolution in place of max-pool, and its squeeze-excitation is wider",
    r"eca_?resne[x]?t|ecaresne[x]?t": "it weighs channels by a 1-d convolution (ECA)",
    r"sk_?resne[x]?t": "its convolutions are selective kernels (SK)",
    r"resnetv2": "its layers stand in pre-activation order under other names, with weight standardisation in some",
    r"resnest": "its 3x3 is split attention (ResNeSt)",
    r"legacy_seresne|senet154": "it is the first SENet, with its stride on the 1x1 and other names",
    r"^nf_|(^|_)(csp|gc|t|bat_|lambda_|inception_)resne": "its blocks are other ones than ResNet's",
    r"resne[x]?t\d+(ts|q)\b": "its blocks and activations are other ones than ResNet's",
    r"resnet.*_(gn|evos|frn|bit)\b": "it has another normalisation than batch norm",
    r"resnet.*_(clip|clip_gap|mlp)\b": "it is CLIP's image encoder, with attention pooling or another head",
    r"(^|_)regnet": "it is a RegNet",
}
# Arguments of timm's that leave the numbers of evaluation alone, or that the shapes of the tensors show.
_TIMM_HARMLESS = {
    "in_chans", "num_classes", "layers", "cardinality", "base_width", "stem_width", "stem_type", "avg_down", "channels",
    "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last", "pretrained",
}  # fmt: skip
_HF_DEFAULTS: dict[str, Any] = {  # transformers' ResNetConfig
    "num_channels": 3,
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}


@dataclass(frozen=True)
class Declared:
    """What somebody says of an architecture.

    Attributes:
        name: of the network.
        source: who says so, for messages.
        facts: attributes of `Structure` and the values that are right, in a tuple.
        options: for `Structure.build`, where shapes do not show them: plain, stride_on_1x1.
        builder: the name for `models.build`, for networks of another kind than `Structure`; else None.
    """

    name: str
    source: str
    facts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    builder: str | None = None

    def differences(self, structure: Structure) -> list[str]:
        """Where the weights are not what is declared: `layers is (3, 4, 6, 3), expected (3, 4, 23, 3)`."""
        return [
            f"{key} is {getattr(structure, key)}, expected {' or '.join(map(str, right))}"
            for key, right in self.facts.items()
            if getattr(structure, key) not in right
        ]


def refuse_others(name: str, where: str, source: str) -> None:
    """Raise CheckpointError if `name` means a network that is known to compute something else than ours.

    Args:
        name: of the network, or of a file.
        where: begins the message.
        source: who gives the name.
    """
    for pattern, reason in _OTHERS.items():
        if re.search(pattern, name.lower()):
            raise CheckpointError(
                f"{where}: {source} says {name[:80]}, which minires does not have: {reason}. If the weights are of another "
                "network, give that network itself: model=minires.models.build(...)"
            )


def from_name(name: str, source: str) -> Declared:
    """The network of a name: one of ours, or of timm's ResNets (a tag behind a dot is left out).

    Raises:
        UnknownNameError: no such network; lists the nearest of ours.
    """
    from minires import models

    plain = name.startswith("plain_")
    short = name.split(".")[0].removeprefix("plain_").removeprefix("tv_")
    match = _NAME.fullmatch(short)
    depth = int(match[4]) if match else 0
    if match and depth in _LAYERS and (depth != 14 or match[5]):
        squeeze, wide, kind, _, suffix, groups, width, two = match.groups()
        grammatical = (
            (wide is None) == (two is None) and (kind == "resnext") == (groups is not None) and not (wide and groups)
        )
        if grammatical:
            shortcut = "none" if plain else "avg" if suffix in ("d", "t") else "conv"
            facts: dict[str, tuple[Any, ...]] = {
                "bottleneck": (depth not in _BASIC,),
                "layers": (_LAYERS[depth],),
                "stem": ("deep",) if suffix else ("7x7", "3x3"),
                "shortcut": (shortcut,),
                "groups": (int(groups or 1),),
                "width_per_group": (int(width) if width else 128 if wide else 64,),
                "squeeze_excitation": (squeeze is not None,),
                "widths": ((64, 128, 256, 512),),
            }
            return Declared(name, source, facts, {"plain": True} if plain else {})
    # What is left of the grammar's names: He's family, whose depth is 6n + 2 (resnet9 is of its own kind).
    if match and short in models.list_models(plain=False) and (depth - 2) % 6 == 0:
        blocks = ((depth - 2) // 6,) * 3
        right = ("none",) if plain else ("none", "conv")
        facts = {"bottleneck": (False,), "layers": (blocks,), "shortcut": right, "widths": ((16, 32, 64),)}
        return Declared(name, source, facts, {"plain": True} if plain else {})
    known = models.list_models(plain=plain)
    if name in known:
        return Declared(name, source, builder=name)
    raise UnknownNameError.for_name("model", name if len(name) < 80 else f"{name[:80]}...", known)


def from_config(config: Mapping[str, Any], where: str, source: str) -> Declared | None:
    """The network of a config.json, timm's ("architecture") or Hugging Face's ("model_type"); None if it names none.

    Raises:
        CheckpointError: a network that is none of ours, or with an option that ours does not have.
    """
    if isinstance(config.get("architecture"), str):
        return _from_timm(config, where, source)
    kind = config.get("model_type")
    if kind == "resnet":
        return _from_huggingface(config, where, source)
    if kind is not None:
        raise CheckpointError(
            f"{where}: {source} says model_type {str(kind)[:80]!r}; minires reads resnet, and timm's configurations"
        )
    return None


def _from_timm(config: Mapping[str, Any], where: str, source: str) -> Declared:
    name = config["architecture"]
    refuse_others(name, where, source)
    try:
        declared = from_name(name, source)
    except UnknownNameError as error:
        raise CheckpointError(f"{where}: {source} says architecture {name[:80]!r}: {error}") from None
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{where}: {source} has model_args = {str(arguments)[:80]}; expected names and values")
    pooling = {key: value for key, value in {**config, **arguments}.items() if key == "global_pool"}
    unknown = {key: value for key, value in arguments.items() if key not in _TIMM_HARMLESS and key != "global_pool"}
    if unknown.get("block_args") == {"attn_layer": "se"}:  # shown by the tensors; what else a block can have is not
        del unknown["block_args"]
    if pooling.get("global_pool", "avg") != "avg":
        unknown.update(pooling)
    if unknown:
        shown = ", ".join(f"{key} = {value!r}"[:80] for key, value in list(unknown.items())[:8])
        raise CheckpointError(f"{where}: {source} builds {name} with {shown}, which minires' networks do not have")
    return declared


def _from_huggingface(config: Mapping[str, Any], where: str, source: str) -> Declared:
    given = {key: config.get(key, default) for key, default in _HF_DEFAULTS.items()}
    for key, default in _HF_DEFAULTS.items():
        if type(given[key]) is not type(default):
            raise CheckpointError(
                f"{where}: {source} has {key} = {given[key]!r:.80}; expected a {type(default).__name__}"
            )
    if given["layer_type"] not in ("basic", "bottleneck"):
        raise CheckpointError(
            f"{where}: {source} has layer_type {given['layer_type']!r:.80}; it is basic or bottleneck"
        )
    if given["hidden_act"] != "relu":
        raise CheckpointError(
            f"{where}: {source} has hidden_act {given['hidden_act']!r:.80}; minires' networks have relu"
        )
    if given["downsample_in_first_stage"]:
        raise CheckpointError(f"{where}: {source} has downsample_in_first_stage, which minires' networks do not have")
    if len(given["hidden_sizes"]) != 4 or len(given["depths"]) != 4:
        raise CheckpointError(f"{where}: {source} has {len(given['depths'])} stages; minires' networks have four")
    bottleneck = given["layer_type"] == "bottleneck"
    sizes = given["hidden_sizes"]
    if not all(type(size) is int for size in [*sizes, *given["depths"]]):
        raise CheckpointError(f"{where}: {source} has hidden_sizes or depths that are no integers")
    facts = {
        "bottleneck": (bottleneck,),
        "layers": (tuple(given["depths"]),),
        "widths": (tuple(size // 4 if bottleneck else size for size in sizes),),
        "stem": ("7x7",),
        "stem_widths": ((given["embedding_size"],),),
        "in_channels": (given["num_channels"],),
        "shortcut": ("conv",),
        "groups": (1,),
        "squeeze_excitation": (False,),
    }
    stride_on_1x1 = bottleneck and given["downsample_in_bottleneck"]
    return Declared("ResNetForImageClassification", source, facts, {"stride_on_1x1": True} if stride_on_1x1 else {})
