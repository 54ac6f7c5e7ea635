"""What a state dict of the ResNet family shows of its network, by names and shapes.

    structure = read_structure(state)       # bottlenecks 3 4 6 3, stem 7x7 of 64, one group, 1000 classes
    model = structure.build()

Shapes show depth, widths, groups, stem, squeeze-excitation and the kind of shortcut. They do not show strides, what pools,
blurs or pads, or which activation there is: many networks have resnet50's names and shapes, and one of them is resnet50.
So this is never the last word on the architecture; `load_model` asks the configuration or the user for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires import nn

__all__ = ["Structure", "read_structure"]

_BLOCK = re.compile(r"layer([0-9]{1,6})\.([0-9]{1,6})\.conv1\.weight")


@dataclass(frozen=True)
class Structure:
    """A network of the family.

    Attributes:
        bottleneck: three convolutions a block, else two.
        layers: blocks of each stage: four stages for ImageNet's family, three for CIFAR's.
        widths: of each stage; a bottleneck's output is four times as wide.
        stem: "7x7", "3x3" (small images) or "deep" (three 3x3).
        stem_widths: channels behind each convolution of the stem.
        groups, width_per_group: ResNeXt's, wide networks'.
        shortcut: "conv" (1x1 with batch norm), "avg" (mean first, ResNet-D), "none" (no parameters: zeros, or plain).
        squeeze_excitation: SE in every block.
        in_channels, num_classes: of the first and the last layer.
    """

    bottleneck: bool
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    stem: str
    stem_widths: tuple[int, ...]
    groups: int
    width_per_group: int
    shortcut: str
    squeeze_excitation: bool
    in_channels: int
    num_classes: int

    def build(self, *, num_classes: int | None = None, plain: bool = False, **options: Any) -> nn.Module:
        """The network, with fresh weights. `options` are the model's that shapes do not show, such as stride_on_1x1."""
        from minires import models

        classes = self.num_classes if num_classes is None else num_classes
        if len(self.layers) == 3:
            shortcut = "A" if self.shortcut == "none" else "B"
            depth = 6 * self.layers[0] + 2
            options |= {"width": self.widths[0], "shortcut": shortcut, "plain": plain}
            return models.CifarResNet(depth, classes, self.in_channels, **options)
        block = models.Bottleneck if self.bottleneck else models.BasicBlock
        return models.ResNet(
            block,
            list(self.layers),
            classes,
            self.in_channels,
            groups=self.groups,
            width_per_group=self.width_per_group,
            widths=self.widths,
            stem_width=self.stem_widths[-1],
            small_input=self.stem == "3x3",
            deep_stem=(self.stem_widths[0], self.stem_widths[1]) if self.stem == "deep" else False,
            avg_pool_shortcut=self.shortcut == "avg",
            squeeze_excitation=self.squeeze_excitation,
            plain=plain,
            **options,
        )

    def __str__(self) -> str:
        """`bottlenecks 3 4 6 3, stem 7x7`, and what is unusual."""
        parts = [f"{'bottlenecks' if self.bottleneck else 'basic blocks'} {' '.join(map(str, self.layers))}"]
        parts.append(f"stem {'of three 3x3' if self.stem == 'deep' else self.stem}")
        if self.groups != 1 or self.width_per_group != 64:
            parts.append(f"groups {self.groups} of width {self.width_per_group}")
        if self.shortcut != "conv":
            parts.append(
                {"avg": "mean before the shortcut's 1x1", "none": "no convolution on shortcuts"}[self.shortcut]
            )
        if self.squeeze_excitation:
            parts.append("squeeze-excitation")
        return ", ".join(parts)


def read_structure(state: Mapping[str, np.ndarray]) -> Structure:
    """The structure of a network, from its state dict under our names.

    Every convolution is compared with what the structure says, so that building it takes the memory of the file's
    tensors, whatever they claim.

    Raises:
        ValueError: it is none of the family; the text says by which tensor.
    """
    return _Reader(state).read()


class _Reader:
    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self.shapes = {name: array.shape for name, array in state.items()}

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there, with no size of zero."""
        shape = self.shapes.get(name)
        if shape is None:
            raise ValueError(f"there is no {name}")
        if len(shape) != rank or 0 in shape:
            raise ValueError(f"{name} has shape {shape}; expected {rank} dimensions, none of size 0")
        return shape

    def expect(self, name: str, *shape: int) -> None:
        got = self.shape(name, len(shape))
        if got != shape:
            raise ValueError(f"{name} has shape {got}, expected {shape}")

    def read(self) -> Structure:
        layers = self.layers()
        stem, in_channels, stem_widths = self.stem()
        bottleneck = "layer1.0.conv3.weight" in self.shapes
        last, factor = ("conv3", 4) if bottleneck else ("conv2", 1)
        squeeze = "layer1.0.se.fc1.weight" in self.shapes
        outputs = [self.shape(f"layer{s}.0.{last}.weight", 4)[0] for s in range(1, len(layers) + 1)]
        if any(c_out % factor for c_out in outputs):
            raise ValueError(f"its stages are {outputs} wide; bottlenecks need multiples of 4")
        widths = tuple(c_out // factor for c_out in outputs)
        groups, width_per_group = self.groups(widths[0]) if bottleneck else (1, 64)
        shortcuts = set()
        c_in = stem_widths[-1]
        for stage, blocks in enumerate(layers):
            for block in range(blocks):
                name, width = f"layer{stage + 1}.{block}", widths[stage]
                if bottleneck:
                    inner = int(width * width_per_group / 64) * groups
                    self.expect(f"{name}.conv1.weight", inner, c_in, 1, 1)
                    self.expect(f"{name}.conv2.weight", inner, inner // groups, 3, 3)
                    self.expect(f"{name}.conv3.weight", outputs[stage], inner, 1, 1)
                else:
                    self.expect(f"{name}.conv1.weight", width, c_in, 3, 3)
                    self.expect(f"{name}.conv2.weight", width, width, 3, 3)
                if squeeze:
                    squeezed = max(8, (outputs[stage] // 16 + 4) // 8 * 8)
                    self.expect(f"{name}.se.fc1.weight", squeezed, outputs[stage], 1, 1)
                if block == 0 and (stage > 0 or c_in != outputs[stage]):
                    shortcuts.add(self.shortcut(name, outputs[stage], c_in))
                c_in = outputs[stage]
        if len(shortcuts) > 1:
            raise ValueError("its shortcuts are of different kinds")
        if len(layers) == 3:
            simple = not bottleneck and not squeeze and stem == "3x3" and stem_widths[-1] == widths[0]
            if (
                not simple
                or len(set(layers)) != 1
                or widths[1:] != (2 * widths[0], 4 * widths[0])
                or "avg" in shortcuts
            ):
                raise ValueError("it has three stages, but is not He's family of depth 6n + 2")
        if "fc.weight" not in self.shapes:
            raise ValueError("there is no fc.weight: these are features without a classifier")
        num_classes, _ = self.shape("fc.weight", 2)
        self.expect("fc.weight", num_classes, c_in)
        shortcut = shortcuts.pop() if shortcuts else "conv"
        return Structure(
            bottleneck, layers, widths, stem, stem_widths, groups, width_per_group, shortcut, squeeze, in_channels, num_classes
        )  # fmt: skip

    def layers(self) -> tuple[int, ...]:
        """Blocks of each stage, counted; numbers must run from 1 and 0 without gaps."""
        found: dict[int, set[int]] = {}
        for match in filter(None, map(_BLOCK.fullmatch, self.shapes)):
            found.setdefault(int(match[1]), set()).add(int(match[2]))
        if len(found) not in (3, 4) or set(found) != set(range(1, len(found) + 1)):
            if not found:
                raise ValueError("there is no layer1.0.conv1.weight")
            raise ValueError(f"it has the stages {sorted(found)[:8]}; the family has 1 to 4, or 1 to 3")
        for stage, blocks in found.items():
            if blocks != set(range(len(blocks))):
                raise ValueError(f"the blocks of layer{stage} are not numbered from 0 without a gap")
        return tuple(len(found[stage]) for stage in sorted(found))

    def stem(self) -> tuple[str, int, tuple[int, ...]]:
        """(kind, channels of the images, widths)."""
        if "conv1.0.weight" in self.shapes:
            a, in_channels, *_ = self.shape("conv1.0.weight", 4)
            b, c = self.shape("conv1.3.weight", 4)[0], self.shape("conv1.6.weight", 4)[0]
            self.expect("conv1.0.weight", a, in_channels, 3, 3)
            self.expect("conv1.3.weight", b, a, 3, 3)
            self.expect("conv1.6.weight", c, b, 3, 3)
            return "deep", in_channels, (a, b, c)
        width, in_channels, k_h, k_w = self.shape("conv1.weight", 4)
        if (k_h, k_w) not in ((7, 7), (3, 3)):
            raise ValueError(f"conv1.weight is {k_h}x{k_w}; the family has 7x7 or 3x3")
        if "bn1.weight" not in self.shapes:
            raise ValueError("there is no bn1.weight behind conv1: a pre-activation network?")
        return f"{k_h}x{k_w}", in_channels, (width,)

    def groups(self, width: int) -> tuple[int, int]:
        """(groups, width_per_group) that the first block's 3x3 shows: inner = width * width_per_group / 64 * groups."""
        inner, in_a_group, *_ = self.shape("layer1.0.conv2.weight", 4)
        if inner % in_a_group or inner * 64 % (inner // in_a_group * width):
            raise ValueError(f"layer1.0.conv2.weight has {inner} channels in groups of {in_a_group}: no ResNeXt has")
        groups = inner // in_a_group
        return groups, inner * 64 // (groups * width)

    def shortcut(self, block: str, c_out: int, c_in: int) -> str:
        for place, kind in ((0, "conv"), (1, "avg")):
            if len(self.shapes.get(f"{block}.downsample.{place}.weight", ())) == 4:
                self.expect(f"{block}.downsample.{place}.weight", c_out, c_in, 1, 1)
                return kind
        if any(name.startswith(f"{block}.downsample.") for name in self.shapes):
            raise ValueError(f"{block}.downsample is no 1x1 convolution with batch norm")
        return "none"
