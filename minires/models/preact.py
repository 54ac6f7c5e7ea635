"""Pre-activation networks: batch norm and ReLU stand before each convolution, and nothing stands on the shortcut.

In resnet.py a block ends with a ReLU over the sum, so x passes one ReLU a block. Here y = x + f(x) exactly: what leaves
block L is x_0 + f_1 + ... + f_L, and its gradient reaches every block as it is. A thousand layers train.

The first block of each stage activates before it splits, shortcut included (section 3 and appendix of the paper: there
the shortcut may be a 1x1 convolution, without batch norm); the last block is followed by a batch norm and ReLU.

Source: He et al., Identity mappings in deep residual networks, ECCV 2016 (arXiv:1603.05027), figure 1b, table 3.
"""

from __future__ import annotations

from typing import Any

from minires import nn
from minires.errors import ArgumentError
from minires.models.registry import check_sizes, register
from minires.models.resnet import conv1x1, conv3x3, initialize
from minires.nn.fused import norm_relu
from minires.tensor import Tensor


class PreActBlock(nn.Module):
    """f = conv2 dropout relu bn2 conv1 relu bn1; the first 3x3 has the stride.

    Args:
        c_in: channels of the input.
        width: channels of both convolutions and of the output.
        stride: of conv1.
        first: first of its stage: the shortcut begins behind the first ReLU.
        dropout: probability, between the convolutions (Wide ResNet, section 2.4).
        plain: no shortcut.
    """

    expansion = 1

    def __init__(
        self, c_in: int, width: int, stride: int = 1, *, first: bool = False, dropout: float = 0.0, plain: bool = False
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv3x3(c_in, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv2 = conv3x3(width, width)
        changes_shape = stride != 1 or c_in != width
        self.downsample = nn.Sequential(conv1x1(c_in, width, stride)) if changes_shape and not plain else None
        self.first = first
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        activated = norm_relu(self.bn1, x)
        out = self.conv1(activated)
        out = self.conv2(self.dropout(norm_relu(self.bn2, out)))
        if self.plain:
            return out
        shortcut = activated if self.first else x
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return out + shortcut


class PreActBottleneck(nn.Module):
    """f = conv3 relu bn3 conv2 relu bn2 conv1 relu bn1: 1x1, 3x3 with the stride, 1x1 to four times the width.

    Arguments as PreActBlock's, without dropout.
    """

    expansion = 4

    def __init__(
        self, c_in: int, width: int, stride: int = 1, *, first: bool = False, dropout: float = 0.0, plain: bool = False
    ) -> None:
        super().__init__()
        if dropout != 0:
            raise ArgumentError(f"PreActBottleneck: has no dropout, got dropout = {dropout}")
        c_out = width * self.expansion
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv1x1(c_in, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, c_out)
        changes_shape = stride != 1 or c_in != c_out
        self.downsample = nn.Sequential(conv1x1(c_in, c_out, stride)) if changes_shape and not plain else None
        self.first = first
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        activated = norm_relu(self.bn1, x)
        out = self.conv1(activated)
        out = self.conv2(norm_relu(self.bn2, out))
        out = self.conv3(norm_relu(self.bn3, out))
        if self.plain:
            return out
        shortcut = activated if self.first else x
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return out + shortcut


class PreActNet(nn.Module):
    """What all pre-activation networks share: stages of blocks behind a stem, bn, mean, fc.

    Args:
        block: PreActBlock or PreActBottleneck.
        layers: blocks of each stage.
        widths: of each stage; all but the first halve the map.
        stem: the layers before the first block; conv1 and what follows.
        stem_width: channels that the stem gives.
        num_classes: outputs of fc.
        dropout, plain: see PreActBlock.
    """

    def __init__(
        self,
        block: type[PreActBlock] | type[PreActBottleneck],
        layers: list[int],
        widths: list[int],
        stem: dict[str, nn.Module],
        stem_width: int,
        num_classes: int,
        dropout: float = 0.0,
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.stem_names = list(stem)
        for name, module in stem.items():
            self.add_module(name, module)
        self.stages = len(layers)
        c_in = stem_width
        for stage, (blocks, width) in enumerate(zip(layers, widths, strict=True)):
            stage_blocks = []
            for i in range(blocks):
                stride = 2 if i == 0 and stage > 0 else 1
                stage_blocks.append(block(c_in, width, stride, first=i == 0, dropout=dropout, plain=plain))
                c_in = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*stage_blocks))
        self.bn = nn.BatchNorm2d(c_in)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(c_in, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.stem_names:
            x = getattr(self, name)(x)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        x = norm_relu(self.bn, x)
        x = self.avgpool(x).flatten(1)
        return self.fc(x)


class PreActResNet(PreActNet):
    """The ImageNet form: four stages, 64 to 512 wide, behind conv1 7x7 stride 2 and max-pool.

    Args:
        block, layers: see PreActNet.
        num_classes, in_channels: outputs; 3 for colour, 1 for grey.
        small_input: for images of 28 or 32 pixels: conv1 3x3 stride 1, no max-pool.
        plain: the twin without shortcuts.
    """

    def __init__(
        self,
        block: type[PreActBlock] | type[PreActBottleneck],
        layers: list[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        small_input: bool = False,
        plain: bool = False,
    ) -> None:
        check_sizes("PreActResNet", num_classes=num_classes, in_channels=in_channels)
        stem: dict[str, nn.Module] = {"conv1": conv3x3(in_channels, 64)}
        if not small_input:
            stem = {
                "conv1": nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False),
                "maxpool": nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            }
        super().__init__(block, layers, [64, 128, 256, 512], stem, 64, num_classes, plain=plain)


class CifarPreActResNet(PreActNet):
    """The form for small images: three stages behind conv1 3x3. Depth 6n + 2 (basic), or 9n + 2 (bottlenecks).

    Args:
        depth: 6n + 2 or 9n + 2.
        num_classes, in_channels: outputs; 3 for colour, 1 for grey.
        bottleneck: which of the two.
        plain: the twin without shortcuts.
    Raises:
        ArgumentError: another depth, or a size that is not positive.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        bottleneck: bool = False,
        *,
        plain: bool = False,
    ) -> None:
        check_sizes("CifarPreActResNet", depth=depth, num_classes=num_classes, in_channels=in_channels)
        in_a_block = 9 if bottleneck else 6
        if depth < in_a_block + 2 or (depth - 2) % in_a_block != 0:
            raise ArgumentError(f"CifarPreActResNet: depth must be {in_a_block}n + 2 with n >= 1, got {depth}")
        n = (depth - 2) // in_a_block
        block = PreActBottleneck if bottleneck else PreActBlock
        stem: dict[str, nn.Module] = {"conv1": conv3x3(in_channels, 16)}
        super().__init__(block, [n, n, n], [16, 32, 64], stem, 16, num_classes, plain=plain)


@register(PreActResNet)
def preact_resnet18(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> PreActResNet:
    """resnet18's layers (He et al. 2015, table 1) in the order of He et al. 2016. Stem 7x7/2, stride on the first 3x3.

    11,687,720 parameters.
    """
    return PreActResNet(PreActBlock, [2, 2, 2, 2], num_classes, in_channels, **options)


@register(PreActResNet)
def preact_resnet34(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> PreActResNet:
    """resnet34's layers (He et al. 2015, table 1) in the order of He et al. 2016. Stem 7x7/2, stride on the first 3x3.

    21,795,880 parameters.
    """
    return PreActResNet(PreActBlock, [3, 4, 6, 3], num_classes, in_channels, **options)


@register(PreActResNet)
def preact_resnet50(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> PreActResNet:
    """resnet50's layers (He et al. 2015, table 1) in the order of He et al. 2016. Stem 7x7/2, stride on the 3x3.

    25,549,352 parameters.
    """
    return PreActResNet(PreActBottleneck, [3, 4, 6, 3], num_classes, in_channels, **options)


@register(PreActResNet)
def preact_resnet101(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> PreActResNet:
    """resnet101's layers (He et al. 2015, table 1) in the order of He et al. 2016. Stem 7x7/2, stride on the 3x3.

    44,541,480 parameters.
    """
    return PreActResNet(PreActBottleneck, [3, 4, 23, 3], num_classes, in_channels, **options)


@register(PreActResNet)
def preact_resnet152(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> PreActResNet:
    """resnet152's layers: He et al. 2016, table 5. Stem 7x7/2, stride on the 3x3.

    60,185,128 parameters.
    """
    return PreActResNet(PreActBottleneck, [3, 8, 36, 3], num_classes, in_channels, **options)


@register(PreActResNet)
def preact_resnet200(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> PreActResNet:
    """ResNet-200: He et al. 2016, table 5. Bottlenecks 3 24 36 3, stem 7x7/2, stride on the 3x3.

    64,666,152 parameters.
    """
    return PreActResNet(PreActBottleneck, [3, 24, 36, 3], num_classes, in_channels, **options)


@register(CifarPreActResNet)
def preact_resnet20(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarPreActResNet:
    """resnet20's layers (He et al. 2015, table 6) in the order of He et al. 2016. Stem 3x3, stride on the first 3x3.

    272,282 parameters.
    """
    return CifarPreActResNet(20, num_classes, in_channels, **options)


@register(CifarPreActResNet)
def preact_resnet56(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarPreActResNet:
    """resnet56's layers (He et al. 2015, table 6) in the order of He et al. 2016. Stem 3x3, stride on the first 3x3.

    855,578 parameters.
    """
    return CifarPreActResNet(56, num_classes, in_channels, **options)


@register(CifarPreActResNet)
def preact_resnet110(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarPreActResNet:
    """ResNet-110: He et al. 2016, tables 2 and 3. Stem 3x3, stride on the first 3x3.

    1,730,522 parameters.
    """
    return CifarPreActResNet(110, num_classes, in_channels, **options)


@register(CifarPreActResNet)
def preact_resnet164(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarPreActResNet:
    """ResNet-164: He et al. 2016, tables 2 and 3. Bottlenecks, n = 18. Stem 3x3, stride on the 3x3.

    1,703,258 parameters (paper: 1.7 M).
    """
    return CifarPreActResNet(164, num_classes, in_channels, bottleneck=True, **options)


@register(CifarPreActResNet)
def preact_resnet1001(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarPreActResNet:
    """ResNet-1001: He et al. 2016, tables 3 and 4. Bottlenecks, n = 111. Stem 3x3, stride on the 3x3.

    10,327,706 parameters (paper: 10.2 M).
    """
    return CifarPreActResNet(1001, num_classes, in_channels, bottleneck=True, **options)
