"""The ImageNet family: ResNet, ResNeXt and Wide ResNet, with torchvision's architecture, names and numbers.

    stem      conv1 7x7 stride 2, bn1, ReLU, max-pool 3x3 stride 2                      224 -> 56 pixels
    layer1-4  stages of residual blocks, 64 128 256 512 wide, the last three halve      56 -> 56 28 14 7
    head      mean over the map, fc

A block computes relu(f(x) + shortcut(x)). Where f changes the shape (the first block of a stage), the shortcut is a 1x1
convolution with batch norm, `downsample`; elsewhere it is x itself, so that a gradient reaches every block unchanged.

Sources: He et al., Deep residual learning for image recognition, CVPR 2016 (arXiv:1512.03385), table 1;
Xie et al., Aggregated residual transformations, CVPR 2017 (arXiv:1611.05431); Zagoruyko and Komodakis, Wide residual
networks, BMVC 2016 (arXiv:1605.07146); He et al., Bag of tricks, CVPR 2019 (arXiv:1812.01187), figure 2 (ResNet-D);
Hu et al., Squeeze-and-excitation networks, CVPR 2018 (arXiv:1709.01507).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minires import nn
from minires.errors import ArgumentError
from minires.models.registry import check_sizes, register
from minires.nn import functional as F
from minires.nn.fused import norm_relu
from minires.tensor import Tensor


def conv3x3(c_in: int, c_out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """3x3 that keeps the size (at stride 1). No bias: batch norm, which follows, would subtract it again."""
    return nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    """1x1: a linear map of the channels at every pixel."""
    return nn.Conv2d(c_in, c_out, kernel_size=1, stride=stride, bias=False)


def projection(c_in: int, c_out: int, stride: int, avg_pool: bool = False) -> nn.Sequential | None:
    """The shortcut of a block that changes the shape; None, the identity, for one that does not.

    A 1x1 convolution of stride 2 never looks at three pixels of four. With `avg_pool` (ResNet-D) a 2x2 mean halves the
    map first, and the convolution stands at index 1 of the Sequential.
    """
    if stride == 1 and c_in == c_out:
        return None
    if not avg_pool:
        return nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))
    # ceil_mode keeps odd maps right: 7 -> 4, as the 3x3 of stride 2 beside it gives.
    pool = nn.AvgPool2d(2, stride, ceil_mode=True) if stride != 1 else nn.Identity()
    return nn.Sequential(pool, conv1x1(c_in, c_out), nn.BatchNorm2d(c_out))


class SqueezeExcitation(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean of x over the map)))): each channel is weighted by what the whole image holds.

    fc1 and fc2 are 1x1 convolutions with bias; the width between them is channels / 16, in multiples of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, (channels // 16 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.fc2 = nn.Conv2d(squeezed, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        return x * self.fc2(F.relu(self.fc1(mean))).sigmoid()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: f = bn2 conv2 relu bn1 conv1. The first has the stride.

    Args:
        c_in: channels of the input.
        width: channels of both convolutions and of the output.
        stride: of conv1.
        downsample: the shortcut where the shape changes; None is the identity.
        groups, base_width: only 1 and 64 (ResNeXt widens bottlenecks).
        squeeze_excitation: weigh the channels of f before the join.
        stride_on_1x1: refused, there is no 1x1.
        plain: no shortcut; the block is relu(f(x)).
    """

    expansion = 1

    def __init__(
        self,
        c_in: int,
        width: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        groups: int = 1,
        base_width: int = 64,
        squeeze_excitation: bool = False,
        stride_on_1x1: bool = False,
        plain: bool = False,
    ) -> None:
        super().__init__()
        if groups != 1 or base_width != 64:
            raise ArgumentError(f"BasicBlock: groups must be 1 and base_width 64, got {groups} and {base_width}")
        if stride_on_1x1:
            raise ArgumentError("BasicBlock: stride_on_1x1 needs bottleneck blocks (resnet50 and deeper)")
        self.conv1 = conv3x3(c_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcitation(width) if squeeze_excitation else None
        self.downsample = downsample
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        out = norm_relu(self.bn1, self.conv1(x))
        out = self.conv2(out)
        return join(self, self.bn2, out, x)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the width: three layers at the cost of two, for the deep networks.

    The stride is on the 3x3 ("v1.5"); the paper has it on the first 1x1, which then drops three pixels of four:
    `stride_on_1x1`. Arguments as BasicBlock's; the 3x3 has int(width * base_width / 64) * groups channels in `groups`
    groups: ResNeXt's form, and the wide networks' with base_width 128.
    """

    expansion = 4

    def __init__(
        self,
        c_in: int,
        width: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        groups: int = 1,
        base_width: int = 64,
        squeeze_excitation: bool = False,
        stride_on_1x1: bool = False,
        plain: bool = False,
    ) -> None:
        super().__init__()
        inner = int(width * base_width / 64) * groups
        c_out = width * self.expansion
        self.conv1 = conv1x1(c_in, inner, stride if stride_on_1x1 else 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, 1 if stride_on_1x1 else stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, c_out)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.se = SqueezeExcitation(c_out) if squeeze_excitation else None
        self.downsample = downsample
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        out = norm_relu(self.bn1, self.conv1(x))
        out = norm_relu(self.bn2, self.conv2(out))
        out = self.conv3(out)
        return join(self, self.bn3, out, x)


def join(block: BasicBlock | Bottleneck, norm: nn.Module, out: Tensor, x: Tensor) -> Tensor:
    """The end of a block: relu(se(norm(out)) + shortcut(x)), se and shortcut where the block has them.

    Without se it is one operation.
    """
    shortcut = None
    if not block.plain:
        shortcut = x if block.downsample is None else block.downsample(x)
    if block.se is None:
        return norm_relu(norm, out, shortcut)
    out = block.se(norm(out))
    return F.relu(out) if shortcut is None else F.residual_relu(out, shortcut)


def initialize(model: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 2 / fan_out): behind ReLUs, gradients keep their size on the way back.

    Batch norm keeps its 1 and 0, fc its default. Source: He et al., Delving deep into rectifiers, ICCV 2015, eq. 14.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResNet(nn.Module):
    """See the top of this file.

    Args:
        block: BasicBlock or Bottleneck.
        layers: blocks of each of the four stages.
        num_classes: outputs of fc.
        in_channels: 3 for colour, 1 for grey images.
        groups, width_per_group: ResNeXt's cardinality and width (32x4d: 32 and 4); wide networks: 1 and 128.
        small_input: for images of 28 or 32 pixels: conv1 3x3 stride 1, no max-pool; layer1 sees the full size.
        stride_on_1x1: the paper's first form of the bottleneck.
        zero_init_residual: begin with the last batch norm of each block at 0, every block an identity.
        deep_stem: ResNet-D, three 3x3 convolutions in place of the 7x7; keys conv1.0, .1, .3, .4, .6. True is (32, 32):
            the widths of the first two (timm's `t` variants: (24, 32)); the third gives stem_width.
        avg_pool_shortcut: ResNet-D, see `projection`.
        squeeze_excitation: see SqueezeExcitation.
        stem_width: channels that the stem gives.
        widths: of the four stages; bottlenecks give four times as many.
        plain: the twin without shortcuts (and their convolutions).
    Shapes: input (N, in_channels, H, W), output (N, num_classes).
    Raises:
        ArgumentError: a size that is not positive; options that exclude each other.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: list[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        groups: int = 1,
        width_per_group: int = 64,
        small_input: bool = False,
        stride_on_1x1: bool = False,
        zero_init_residual: bool = False,
        deep_stem: bool | tuple[int, int] = False,
        avg_pool_shortcut: bool = False,
        squeeze_excitation: bool = False,
        stem_width: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        plain: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "groups": groups, "stem_width": stem_width}
        check_sizes("ResNet", **sizes)
        if len(layers) != 4 or len(widths) != 4:
            raise ArgumentError(f"ResNet: layers and widths must have four entries, got {layers} and {widths}")
        if plain and (zero_init_residual or avg_pool_shortcut):
            raise ArgumentError("ResNet: plain has no shortcuts: leave zero_init_residual and avg_pool_shortcut out")
        stem_stride = 1 if small_input else 2
        self.conv1: nn.Module
        if deep_stem:
            first, second = deep_stem if isinstance(deep_stem, tuple) else (32, 32)
            self.conv1 = nn.Sequential(
                conv3x3(in_channels, first, stem_stride),
                nn.BatchNorm2d(first),
                nn.ReLU(),
                conv3x3(first, second),
                nn.BatchNorm2d(second),
                nn.ReLU(),
                conv3x3(second, stem_width),
            )
        elif small_input:
            self.conv1 = conv3x3(in_channels, stem_width)
        else:
            self.conv1 = nn.Conv2d(in_channels, stem_width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.maxpool: nn.Module = nn.Identity() if small_input else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

        block_options: dict[str, Any] = {
            "groups": groups,
            "base_width": width_per_group,
            "squeeze_excitation": squeeze_excitation,
            "stride_on_1x1": stride_on_1x1,
            "plain": plain,
        }
        c_in = stem_width
        for stage, (blocks, width) in enumerate(zip(layers, widths, strict=True)):
            c_out = width * block.expansion
            stage_blocks = []
            for i in range(blocks):
                stride = 2 if i == 0 and stage > 0 else 1
                shortcut = None if plain else projection(c_in, c_out, stride, avg_pool_shortcut)
                stage_blocks.append(block(c_in, width, stride, shortcut, **block_options))
                c_in = c_out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*stage_blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(c_in, num_classes)

        initialize(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    last: Any = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                    nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = norm_relu(self.bn1, self.conv1(x))
        x = self.maxpool(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        x = self.avgpool(x).flatten(1)
        return self.fc(x)


@register(ResNet)
def resnet18(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-18: He et al. 2015, table 1. Basic blocks 2 2 2 2, stem 7x7/2.

    Stride on a block's first 3x3. 11,689,512 parameters.
    """
    return ResNet(BasicBlock, [2, 2, 2, 2], num_classes, in_channels, **options)


@register(ResNet)
def resnet34(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-34: He et al. 2015, table 1. Basic blocks 3 4 6 3, stem 7x7/2.

    Stride on a block's first 3x3. 21,797,672 parameters.
    """
    return ResNet(BasicBlock, [3, 4, 6, 3], num_classes, in_channels, **options)


@register(ResNet)
def resnet50(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-50: He et al. 2015, table 1. Bottlenecks 3 4 6 3, stem 7x7/2.

    Stride on the 3x3. 25,557,032 parameters.
    """
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes, in_channels, **options)


@register(ResNet)
def resnet101(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-101: He et al. 2015, table 1. Bottlenecks 3 4 23 3, stem 7x7/2.

    Stride on the 3x3. 44,549,160 parameters.
    """
    return ResNet(Bottleneck, [3, 4, 23, 3], num_classes, in_channels, **options)


@register(ResNet)
def resnet152(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResNet:
    """ResNet-152: He et al. 2015, table 1. Bottlenecks 3 8 36 3, stem 7x7/2.

    Stride on the 3x3. 60,192,808 parameters.
    """
    return ResNet(Bottleneck, [3, 8, 36, 3], num_classes, in_channels, **options)
