"""Wide residual networks for small images: WRN-d-k is d layers deep and k times as wide as He's family.

    stem      conv1 3x3, 16 wide                                                       32 -> 32 pixels
    layer1-3  (d - 4) / 6 pre-activation basic blocks each, 16k 32k 64k wide           32 -> 32 16 8
    head      bn, ReLU, mean over the map, fc

d counts the convolutions, the three 1x1 of the shortcuts too: 6n + 4. Few wide layers keep a machine busier than many
narrow ones: WRN-40-4 has ResNet-1001's accuracy and trains eight times as fast (section 3 of the paper).

Source: Zagoruyko and Komodakis, Wide residual networks, BMVC 2016 (arXiv:1605.07146), table 1.
"""

from __future__ import annotations

from typing import Any

from minires import nn
from minires.errors import ArgumentError
from minires.models.preact import PreActBlock, PreActNet
from minires.models.registry import check_sizes, register
from minires.models.resnet import conv3x3


class WideResNet(PreActNet):
    """See the top of this file.

    Args:
        depth: 6n + 4.
        widen_factor: k.
        num_classes, in_channels: outputs; 3 for colour, 1 for grey.
        dropout: probability between a block's convolutions (the paper: 0.3 for CIFAR, 0.4 for SVHN, or none).
        plain: the twin without shortcuts.
    Raises:
        ArgumentError: another depth, a size that is not positive, dropout outside [0, 1).
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        dropout: float = 0.0,
        plain: bool = False,
    ) -> None:
        sizes = {"depth": depth, "widen_factor": widen_factor, "num_classes": num_classes, "in_channels": in_channels}
        check_sizes("WideResNet", **sizes)
        if depth < 10 or (depth - 4) % 6 != 0:
            raise ArgumentError(f"WideResNet: depth must be 6n + 4 with n >= 1 (10, 16, 22, 28, ...), got {depth}")
        if not 0 <= dropout < 1:
            raise ArgumentError(f"WideResNet: dropout must be at least 0 and below 1, got {dropout}")
        n = (depth - 4) // 6
        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        stem: dict[str, nn.Module] = {"conv1": conv3x3(in_channels, 16)}
        super().__init__(PreActBlock, [n, n, n], widths, stem, 16, num_classes, dropout, plain)


@register(WideResNet)
def wrn_16_4(num_classes: int = 10, in_channels: int = 3, **options: Any) -> WideResNet:
    """WRN-16-4: Zagoruyko and Komodakis 2016, table 1. Stem 3x3, stride on the first 3x3.

    2,748,890 parameters (paper: 2.7 M).
    """
    return WideResNet(16, 4, num_classes, in_channels, **options)


@register(WideResNet)
def wrn_40_4(num_classes: int = 10, in_channels: int = 3, **options: Any) -> WideResNet:
    """WRN-40-4: Zagoruyko and Komodakis 2016, table 1. Stem 3x3, stride on the first 3x3.

    8,949,210 parameters (paper: 8.9 M).
    """
    return WideResNet(40, 4, num_classes, in_channels, **options)


@register(WideResNet)
def wrn_28_10(num_classes: int = 10, in_channels: int = 3, **options: Any) -> WideResNet:
    """WRN-28-10: Zagoruyko and Komodakis 2016, table 1. Stem 3x3, stride on the first 3x3.

    36,479,194 parameters (paper: 36.5 M).
    """
    return WideResNet(28, 10, num_classes, in_channels, **options)
