"""The ImageNet family in its usual form: basic and bottleneck blocks, groups, dilation, a choice of norm layer."""

from typing import Any, Callable, List, Optional, Type, Union

import torch
from formula import fill, images
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

try:
    from torch.hub import load_state_dict_from_url
except ImportError:
    from torch.utils.model_zoo import load_url as load_state_dict_from_url


def conv3x3(in_planes: int, out_planes: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_planes,
        out_planes,
        kernel_size=3,
        stride=stride,
        padding=dilation,
        groups=groups,
        bias=False,
        dilation=dilation,
    )


def conv1x1(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, out_planes, kernel_size=1, stride=stride, bias=False)


class Basic(nn.Module):
    expansion: int = 1

    def __init__(self, inplanes, planes, stride=1, downsample: Optional[nn.Module] = None, groups=1, base_width=8,
                 dilation=1, norm_layer: Optional[Callable[..., nn.Module]] = None) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion: int = 4

    def __init__(self, inplanes, planes, stride=1, downsample: Optional[nn.Module] = None, groups=1, base_width=8,
                 dilation=1, norm_layer: Optional[Callable[..., nn.Module]] = None) -> None:  # fmt: skip
        super().__init__()
        width = int(planes * (base_width / 8.0)) * groups
        self.conv1, self.bn1 = conv1x1(inplanes, width), norm_layer(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride, groups, dilation), norm_layer(width)
        self.conv3, self.bn3 = conv1x1(width, planes * self.expansion), norm_layer(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, block: Type[Union[Basic, Bottleneck]], layers: List[int], num_classes: int = 10,
                 zero_init_residual: bool = False, groups: int = 1, width_per_group: int = 8,
                 replace_stride_with_dilation: Optional[List[bool]] = None,
                 norm_layer: Optional[Callable[..., nn.Module]] = None) -> None:  # fmt: skip
        super().__init__()
        self._norm_layer = norm_layer = nn.BatchNorm2d if norm_layer is None else norm_layer
        self.inplanes, self.dilation = 8, 1
        self.groups, self.base_width = groups, width_per_group
        dilate = replace_stride_with_dilation or [False, False]
        self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, 8, layers[0])
        self.layer2 = self._make_layer(block, 16, layers[1], stride=2, dilate=dilate[0])
        self.layer3 = self._make_layer(block, 32, layers[2], stride=2, dilate=dilate[1])
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(32 * block.expansion, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (_BatchNorm, nn.GroupNorm)):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)
        if zero_init_residual:
            for m in self.modules():
                if isinstance(m, Bottleneck) and m.bn3.weight is not None:
                    nn.init.constant_(m.bn3.weight, 0)

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False) -> nn.Sequential:
        downsample, previous = None, self.dilation
        if dilate:
            self.dilation *= stride
            stride = 1
        if stride != 1 or self.inplanes != planes * block.expansion:
            downsample = nn.Sequential(
                conv1x1(self.inplanes, planes * block.expansion, stride), self._norm_layer(planes * block.expansion)
            )
        args = {"groups": self.groups, "base_width": self.base_width, "norm_layer": self._norm_layer}
        layers = [block(self.inplanes, planes, stride, downsample, dilation=previous, **args)]
        self.inplanes = planes * block.expansion
        layers += [block(self.inplanes, planes, dilation=self.dilation, **args) for _ in range(1, blocks)]
        return nn.Sequential(*layers)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


def _resnet(block, layers, pretrained: bool = False, **kwargs: Any) -> ResNet:
    model = ResNet(block, layers, **kwargs)
    if pretrained:
        model.load_state_dict(load_state_dict_from_url("https://example.org/resnet.pth", progress=False))
    return model


def main() -> None:
    torch.set_default_dtype(torch.float64)
    x, y = images(8, 48)
    models = {
        "basic": _resnet(Basic, [2, 1, 1]),
        "bottleneck": _resnet(Bottleneck, [1, 1, 1], zero_init_residual=True),
        "grouped": _resnet(Bottleneck, [1, 1, 1], groups=4, width_per_group=4),
        "dilated": _resnet(Bottleneck, [1, 1, 1], replace_stride_with_dilation=[False, True]),
        "group norm": _resnet(Bottleneck, [1, 1, 1], norm_layer=lambda c: nn.GroupNorm(4, c)),
    }
    zeros = [bool((m.weight == 0).all()) for n, m in models["bottleneck"].named_modules() if n.endswith("bn3")]
    print("last norms start at zero:", zeros)
    for name, model in models.items():
        fill(model)
        state = model.state_dict()
        print(name, len(state), sum(v.numel() for v in state.values()), list(state)[-3:])
        optimizer = torch.optim.SGD(
            [{"params": [p for n, p in model.named_parameters() if "fc" not in n]}, {"params": model.fc.parameters(), "lr": 0.02}],
            lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4,
        )  # fmt: skip
        criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        for step in range(3):
            optimizer.zero_grad(set_to_none=True)
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            print(f"  step {step} loss {loss:.5f} grad {model.conv1.weight.grad.norm().item():.4f}")
        model.eval()
        with torch.inference_mode():
            print("  eval", ["%.4f" % v for v in model(x).mean(0).tolist()])


if __name__ == "__main__":
    main()
