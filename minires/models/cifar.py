"""He's family for small images, depth 6n + 2: three stages of n basic blocks, 16, 32 and 64 wide.

    stem      conv1 3x3, bn1, ReLU                                       32 -> 32 pixels
    layer1-3  n basic blocks each (resnet.py's), the last two halve      32 -> 32 16 8
    head      mean over the map, fc

Counting: 6n convolutions in blocks, conv1 and fc. Two shortcuts where the shape changes (section 3.3):

    A   every second pixel, and zeros for the new channels: no parameters. The paper's choice for this family.
    B   1x1 convolution with batch norm, as in resnet.py.

Source: He et al., Deep residual learning for image recognition, CVPR 2016 (arXiv:1512.03385), section 4.2 and table 6.
"""

from __future__ import annotations

from typing import Any

from minires import nn
from minires.errors import ArgumentError
from minires.models.registry import check_sizes, register
from minires.models.resnet import BasicBlock, conv3x3, initialize, projection
from minires.nn import functional as F
from minires.nn.fused import norm_relu
from minires.tensor import Tensor


class PadShortcut(nn.Module):
    """Option A: x[:, :, ::2, ::2] with zero channels, half of the new ones in front and half behind.

    Where the zeros stand is the same network up to the order of channels; published checkpoints have them so.
    """

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.front, self.behind = new_channels // 2, new_channels - new_channels // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.front, self.behind))  # (left, right, top, bottom, front, behind)

    def extra_repr(self) -> str:
        return f"front={self.front}, behind={self.behind}, stride={self.stride}"


class CifarResNet(nn.Module):
    """See the top of this file.

    Args:
        depth: 6n + 2.
        num_classes: outputs of fc.
        in_channels: 3 for colour, 1 for grey images.
        width: channels of the first stage; the next ones have 2 and 4 times as many.
        shortcut: "A" or "B".
        plain: the twin without shortcuts.
    Shapes: input (N, in_channels, H, W), output (N, num_classes).
    Raises:
        ArgumentError: another depth, a size that is not positive, an unknown shortcut.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        width: int = 16,
        shortcut: str = "A",
        plain: bool = False,
    ) -> None:
        super().__init__()
        check_sizes("CifarResNet", depth=depth, num_classes=num_classes, in_channels=in_channels, width=width)
        if depth < 8 or (depth - 2) % 6 != 0:
            raise ArgumentError(f"CifarResNet: depth must be 6n + 2 with n >= 1 (8, 14, 20, ...), got {depth}")
        if shortcut not in ("A", "B"):
            raise ArgumentError(f"CifarResNet: shortcut must be 'A' or 'B', got {shortcut!r}")
        n = (depth - 2) // 6
        self.conv1 = conv3x3(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(n, width, width, 1, shortcut, plain)
        self.layer2 = self._stage(n, width, 2 * width, 2, shortcut, plain)
        self.layer3 = self._stage(n, 2 * width, 4 * width, 2, shortcut, plain)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(4 * width, num_classes)
        initialize(self)

    @staticmethod
    def _stage(blocks: int, c_in: int, c_out: int, stride: int, shortcut: str, plain: bool) -> nn.Sequential:
        downsample: nn.Module | None = None
        if c_in != c_out and not plain:
            downsample = PadShortcut(c_out - c_in, stride) if shortcut == "A" else projection(c_in, c_out, stride)
        first = BasicBlock(c_in, c_out, stride, downsample, plain=plain)
        return nn.Sequential(first, *(BasicBlock(c_out, c_out, plain=plain) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = norm_relu(self.bn1, self.conv1(x))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.avgpool(x).flatten(1)
        return self.fc(x)


@register(CifarResNet)
def resnet8(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarResNet:
    """n = 1: He's form made tiny, for 8x8 digits and tests. Stem 3x3, stride on a block's first 3x3. 75,290."""
    return CifarResNet(8, num_classes, in_channels, **options)


@register(CifarResNet)
def resnet14(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarResNet:
    """n = 2: He's form made small. Stem 3x3, stride on a block's first 3x3. 172,506 parameters."""
    return CifarResNet(14, num_classes, in_channels, **options)


@register(CifarResNet)
def resnet20(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarResNet:
    """n = 3: He et al. 2015, table 6. Stem 3x3, stride on a block's first 3x3. 269,722 parameters (paper: 0.27 M).

    With shortcut B: 272,474.
    """
    return CifarResNet(20, num_classes, in_channels, **options)


@register(CifarResNet)
def resnet32(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarResNet:
    """n = 5: He et al. 2015, table 6. Stem 3x3, stride on a block's first 3x3. 464,154 parameters (paper: 0.46 M)."""
    return CifarResNet(32, num_classes, in_channels, **options)


@register(CifarResNet)
def resnet44(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarResNet:
    """n = 7: He et al. 2015, table 6. Stem 3x3, stride on a block's first 3x3. 658,586 parameters (paper: 0.66 M)."""
    return CifarResNet(44, num_classes, in_channels, **options)


@register(CifarResNet)
def resnet56(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarResNet:
    """n = 9: He et al. 2015, table 6. Stem 3x3, stride on a block's first 3x3. 853,018 parameters (paper: 0.85 M)."""
    return CifarResNet(56, num_classes, in_channels, **options)


@register(CifarResNet)
def resnet110(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarResNet:
    """n = 18: He et al. 2015, table 6. Stem 3x3, stride on a block's first 3x3. 1,727,962 parameters (paper: 1.7 M).

    The paper trains it at a learning rate of 0.01 until the training error is below 80 %, then at 0.1.
    """
    return CifarResNet(110, num_classes, in_channels, **options)


@register(CifarResNet)
def resnet1202(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarResNet:
    """n = 200: He et al. 2015, table 6. Stem 3x3, stride on a block's first 3x3. 19,421,274 parameters (19.4 M)."""
    return CifarResNet(1202, num_classes, in_channels, **options)
