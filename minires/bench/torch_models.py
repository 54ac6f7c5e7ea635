"""The networks in torch, written as torch users write them (torchvision's idiom), with our names of parameters.

Peers are measured with these. Depths, widths and options come as data from structure.py, so the architecture stands in one
place; that both compute the same is checked before every measurement.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(c_in: int, c_out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """3x3 with padding."""
    return nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    """1x1."""
    return nn.Conv2d(c_in, c_out, kernel_size=1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(
        self, c_in: int, width: int, stride: int, downsample: nn.Module | None, inner: int, groups: int
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(c_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample
        self.plain = False

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.plain:
            return self.relu(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the width."""

    expansion = 4

    def __init__(
        self, c_in: int, width: int, stride: int, downsample: nn.Module | None, inner: int, groups: int
    ) -> None:
        super().__init__()
        self.conv1 = conv1x1(c_in, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, width * self.expansion)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.plain = False

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.plain:
            return self.relu(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class PadShortcut(nn.Module):
    """Option A: every second pixel, zeros for the new channels."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.front, self.behind, self.stride = new_channels // 2, new_channels - new_channels // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.front, self.behind))


class ResNet(nn.Module):
    """ImageNet's family (four stages) and CIFAR's (three). Arguments: see structure.describe."""

    def __init__(
        self,
        bottleneck: bool,
        layers: list[int],
        widths: list[int],
        stem: str,
        stem_width: int,
        groups: int,
        width_per_group: int,
        shortcut: str,
        plain: bool,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        block = Bottleneck if bottleneck else BasicBlock
        small = stem == "3x3"
        if small:
            self.conv1 = conv3x3(in_channels, stem_width)
        else:
            self.conv1 = nn.Conv2d(in_channels, stem_width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        c_in = stem_width
        self.stages = len(layers)
        for stage, (blocks, width) in enumerate(zip(layers, widths, strict=True)):
            c_out = width * block.expansion
            inner = int(width * width_per_group / 64) * groups
            made = []
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                downsample: Any = None
                if not plain and (stride != 1 or c_in != c_out):
                    if shortcut == "none":
                        downsample = PadShortcut(c_out - c_in, stride)
                    else:
                        downsample = nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))
                made.append(block(c_in, width, stride, downsample, inner, groups))
                made[-1].plain = plain
                c_in = c_out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(c_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each convolution. The first block of a stage activates before it splits."""

    def __init__(self, c_in: int, width: int, stride: int, first: bool, plain: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv3x3(c_in, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        changes_shape = stride != 1 or c_in != width
        self.downsample = nn.Sequential(conv1x1(c_in, width, stride)) if changes_shape and not plain else None
        self.first, self.plain = first, plain

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x), inplace=True)
        out = self.conv2(F.relu(self.bn2(self.conv1(activated)), inplace=True))
        if self.plain:
            return out
        shortcut = activated if self.first else x
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        out += shortcut
        return out


class PreActResNet(nn.Module):
    """Pre-activation networks of basic blocks: wide networks, and He's of 2016. Arguments: see structure.describe."""

    def __init__(
        self,
        layers: list[int],
        widths: list[int],
        stem: str,
        stem_width: int,
        plain: bool,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        if stem == "3x3":
            self.conv1 = conv3x3(in_channels, stem_width)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(in_channels, stem_width, kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        c_in = stem_width
        self.stages = len(layers)
        for stage, (blocks, width) in enumerate(zip(layers, widths, strict=True)):
            made = []
            for i in range(blocks):
                made.append(PreActBlock(c_in, width, 2 if stage > 0 and i == 0 else 1, i == 0, plain))
                c_in = width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.bn = nn.BatchNorm2d(c_in)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(c_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        x = F.relu(self.bn(x), inplace=True)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PooledConv(nn.Module):
    """ResNet-9's step down: convolution, max-pool, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = conv3x3(c_in, c_out)
        self.pool = nn.MaxPool2d(2)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.pool(self.conv(x))), inplace=True)


class ResNet9(nn.Module):
    """Page's small network. Arguments: see structure.describe."""

    def __init__(self, width: int, plain: bool, in_channels: int, num_classes: int) -> None:
        super().__init__()
        c = width
        self.conv1 = conv3x3(in_channels, c)
        self.bn1 = nn.BatchNorm2d(c)
        blocks = [BasicBlock(each, each, 1, None, each, 1) for each in (2 * c, 8 * c)]
        for block in blocks:
            block.plain = plain
        self.layer1 = nn.Sequential(PooledConv(c, 2 * c), blocks[0])
        self.layer2 = nn.Sequential(PooledConv(2 * c, 4 * c))
        self.layer3 = nn.Sequential(PooledConv(4 * c, 8 * c), blocks[1])
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def build(structure: dict[str, Any]) -> nn.Module:
    """The network that structure.describe described."""
    options = dict(structure)
    family = {"resnet": ResNet, "preact": PreActResNet, "resnet9": ResNet9}[options.pop("family")]
    return family(**options)
