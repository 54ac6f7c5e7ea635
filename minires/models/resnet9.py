"""ResNet-9: few wide layers for small images, made to train fast.

    stem     conv1 3x3, bn1, ReLU                                  c wide    28 -> 28 pixels
    layer1   conv 3x3, max-pool 2, bn, ReLU; one basic block      2c         28 -> 14
    layer2   conv 3x3, max-pool 2, bn, ReLU                       4c         14 -> 7
    layer3   conv 3x3, max-pool 2, bn, ReLU; one basic block      8c          7 -> 3
    head     mean over the map, fc

Eight convolutions, all 3x3 of stride 1, and fc: nine layers with weights. Max-pool stands in front of batch norm, which
then has a quarter of the pixels to look at. Few wide layers keep a machine busier than many narrow ones, and with stride 1
everywhere all but the first can take Winograd's algorithm.

Source: David Page, "How to train your ResNet" (2018), the DAWNBench entry for CIFAR-10, c = 64; pooling before batch norm:
Jordan, arXiv 2404.00498. The blocks are resnet.py's, with the ReLU behind the sum.
"""

from __future__ import annotations

from typing import Any

from minires import nn
from minires.models.registry import check_sizes, register
from minires.models.resnet import BasicBlock, conv3x3, initialize
from minires.nn.fused import norm_relu
from minires.tensor import Tensor


class PooledConv(nn.Module):
    """relu(bn(max-pool 2(conv 3x3 x))): twice the width, half the map."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = conv3x3(c_in, c_out)
        self.pool = nn.MaxPool2d(2)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return norm_relu(self.bn, self.pool(self.conv(x)))


class ResNet9(nn.Module):
    """See the top of this file.

    Args:
        num_classes: outputs of fc.
        in_channels: 3 for colour, 1 for grey images.
        width: c.
        plain: the twin without shortcuts.
    Shapes: input (N, in_channels, H, W), H and W at least 8; output (N, num_classes).
    Raises:
        ArgumentError: a size that is not positive.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, *, width: int = 64, plain: bool = False) -> None:
        super().__init__()
        check_sizes("ResNet9", num_classes=num_classes, in_channels=in_channels, width=width)
        c = width
        self.conv1 = conv3x3(in_channels, c)
        self.bn1 = nn.BatchNorm2d(c)
        self.layer1 = nn.Sequential(PooledConv(c, 2 * c), BasicBlock(2 * c, 2 * c, plain=plain))
        self.layer2 = nn.Sequential(PooledConv(2 * c, 4 * c))
        self.layer3 = nn.Sequential(PooledConv(4 * c, 8 * c), BasicBlock(8 * c, 8 * c, plain=plain))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * c, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = norm_relu(self.bn1, self.conv1(x))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.avgpool(x).flatten(1)
        return self.fc(x)


@register(ResNet9)
def resnet9(num_classes: int = 10, in_channels: int = 3, **options: Any) -> ResNet9:
    """ResNet-9: Page 2018. Stem 3x3, no stride on any convolution (max-pool halves the map). 6,573,130 parameters."""
    return ResNet9(num_classes, in_channels, **options)
