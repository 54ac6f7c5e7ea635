"""ResNets with one idea more: ResNeXt, wide bottlenecks, ResNet-D, squeeze-excitation. The class is ResNet's.

Each is resnet18/34/50/101 with options set; what remains free (`small_input`, `plain`, ...) is passed on.
"""

from __future__ import annotations

from typing import Any

from minires.models.registry import register
from minires.models.resnet import BasicBlock, Bottleneck, ResNet


@register(ResNet)
def resnext50_32x4d(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNeXt-50: Xie et al. 2016, table 1. Bottlenecks 3 4 6 3 of 32 groups, 4 channels each in stage 1.

    Stem 7x7/2, stride on the (grouped) 3x3. 25,028,904 parameters.
    """
    options = {"groups": 32, "width_per_group": 4, **options}
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes, in_channels, **options)


@register(ResNet)
def resnext101_32x8d(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNeXt-101: Xie et al. 2016, in torchvision's setting. Bottlenecks 3 4 23 3 of 32 groups of 8 channels.

    Stem 7x7/2, stride on the (grouped) 3x3. 88,791,336 parameters.
    """
    options = {"groups": 32, "width_per_group": 8, **options}
    return ResNet(Bottleneck, [3, 4, 23, 3], num_classes, in_channels, **options)


@register(ResNet)
def resnext101_64x4d(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNeXt-101: Xie et al. 2016, table 4. Bottlenecks 3 4 23 3 of 64 groups, 4 channels each in stage 1.

    Stem 7x7/2, stride on the (grouped) 3x3. 83,455,272 parameters.
    """
    options = {"groups": 64, "width_per_group": 4, **options}
    return ResNet(Bottleneck, [3, 4, 23, 3], num_classes, in_channels, **options)


@register(ResNet)
def wide_resnet50_2(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """WRN-50-2: Zagoruyko and Komodakis 2016, section 3. ResNet-50 with the 3x3 of every bottleneck twice as wide.

    Stem 7x7/2, stride on the 3x3. 68,883,240 parameters.
    """
    options = {"width_per_group": 128, **options}
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes, in_channels, **options)


@register(ResNet)
def wide_resnet101_2(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """WRN-101-2: ResNet-101 widened as WRN-50-2 (Zagoruyko and Komodakis 2016, section 3), torchvision's.

    Stem 7x7/2, stride on the 3x3. 126,886,696 parameters.
    """
    options = {"width_per_group": 128, **options}
    return ResNet(Bottleneck, [3, 4, 23, 3], num_classes, in_channels, **options)


@register(ResNet)
def resnet18d(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-18-D: He et al. 2018, figure 2, on resnet18. Deep stem 3x3/2 3x3 3x3, mean before the shortcut's 1x1.

    Stride on a block's first 3x3. 11,708,744 parameters.
    """
    options = {"deep_stem": True, "avg_pool_shortcut": not options.get("plain", False), **options}
    return ResNet(BasicBlock, [2, 2, 2, 2], num_classes, in_channels, **options)


@register(ResNet)
def resnet50d(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-50-D: He et al. 2018, figure 2 and table 5. Deep stem 3x3/2 3x3 3x3, mean before the shortcut's 1x1.

    Stride on the 3x3. 25,576,264 parameters.
    """
    options = {"deep_stem": True, "avg_pool_shortcut": not options.get("plain", False), **options}
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes, in_channels, **options)


@register(ResNet)
def seresnet18(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """SE-ResNet-18: Hu et al. 2017, on resnet18. Stem 7x7/2, stride on a block's first 3x3. 11,779,624 parameters."""
    options = {"squeeze_excitation": True, **options}
    return ResNet(BasicBlock, [2, 2, 2, 2], num_classes, in_channels, **options)


@register(ResNet)
def seresnet50(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """SE-ResNet-50: Hu et al. 2017, table 1. Stem 7x7/2, stride on the 3x3. 28,088,024 parameters."""
    options = {"squeeze_excitation": True, **options}
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes, in_channels, **options)
