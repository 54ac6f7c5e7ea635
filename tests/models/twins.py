"""The same networks in torch, written compactly and apart from ours: oracle of keys, outputs, gradients and training."""

from __future__ import annotations

from typing import Any

import numpy as np

from minires import nn
from minires.tensor import Tensor
from tests.torch_oracle import torch

tnn = torch.nn
relu = torch.nn.functional.relu


def _conv(c_in: int, c_out: int, k: int, stride: int = 1, groups: int = 1) -> Any:
    return tnn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False)


class _Gate(tnn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        middle = max(8, int(c / 16 + 4) // 8 * 8)
        self.fc1, self.fc2 = tnn.Conv2d(c, middle, 1), tnn.Conv2d(middle, c, 1)

    def forward(self, x: Any) -> Any:
        return x * torch.sigmoid(self.fc2(relu(self.fc1(torch.nn.functional.adaptive_avg_pool2d(x, 1)))))


class _PadA(tnn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.extra = (c_out - c_in) // 2

    def forward(self, x: Any) -> Any:
        x = x[:, :, ::2, ::2]
        zeros = x.new_zeros(x.shape[0], self.extra, *x.shape[2:])
        return torch.cat([zeros, x, zeros], dim=1)


class _Block(tnn.Module):
    """One class for basic and bottleneck, pre- and post-activation: a list of convolutions, walked in order."""

    def __init__(self, c_in: int, convs: list[Any], shortcut: Any, kind: dict[str, Any], first: bool) -> None:
        super().__init__()
        self.count, self.kind, self.first = len(convs), kind, first
        for i, conv in enumerate(convs, 1):
            pair = {
                f"conv{i}": conv,
                f"bn{i}": tnn.BatchNorm2d(conv.in_channels if kind["preact"] else conv.out_channels),
            }
            for name in reversed(pair) if kind["preact"] else pair:  # in the order of their use
                self.add_module(name, pair[name])
        if kind["se"]:
            self.se = _Gate(convs[-1].out_channels)
        if shortcut is not None and not kind["plain"]:
            self.downsample = shortcut

    def forward(self, x: Any) -> Any:
        out, shortcut = x, x
        for i in range(1, self.count + 1):
            conv, bn = getattr(self, f"conv{i}"), getattr(self, f"bn{i}")
            if self.kind["preact"]:
                out = relu(bn(out))
                if i == 1 and self.first:
                    shortcut = out
                out = conv(out)
            else:
                out = bn(conv(out))
                out = relu(out) if i < self.count else out
        if self.kind["se"]:
            out = self.se(out)
        if not self.kind["plain"]:
            out = out + (self.downsample(shortcut) if hasattr(self, "downsample") else shortcut)
        return out if self.kind["preact"] else relu(out)


class Twin(tnn.Module):
    """Any network of the family, by its numbers.

    Args:
        layers: blocks of each stage; widths: of each stage.
        bottleneck: three convolutions to four times the width, else two.
        stem: "imagenet", "small" or "deep"; stem_width: its channels.
        shortcut: "B" (1x1 with batch norm), "A" (zeros), "D" (mean first), "bare" (1x1 alone).
        preact, se, plain, stride_on_1x1, groups, base_width: as ours.
    """

    def __init__(
        self,
        layers: list[int],
        widths: list[int],
        *,
        num_classes: int,
        in_channels: int = 3,
        bottleneck: bool = False,
        stem: str = "small",
        stem_width: int = 64,
        shortcut: str = "B",
        groups: int = 1,
        base_width: int = 64,
        stride_on_1x1: bool = False,
        **kind: bool,
    ) -> None:
        super().__init__()
        kind = {"preact": False, "se": False, "plain": False, **kind}
        self.preact, self.pool = kind["preact"], stem != "small"
        if stem == "imagenet":
            self.conv1 = _conv(in_channels, stem_width, 7, 2)
        elif stem == "small":
            self.conv1 = _conv(in_channels, stem_width, 3)
        else:
            chain = [_conv(in_channels, 32, 3, 2), tnn.BatchNorm2d(32), tnn.ReLU()]
            chain += [_conv(32, 32, 3), tnn.BatchNorm2d(32), tnn.ReLU(), _conv(32, 64, 3)]
            self.conv1 = tnn.Sequential(*chain)
        if not self.preact:
            self.bn1 = tnn.BatchNorm2d(stem_width)
        c = stem_width
        self.depth = len(layers)
        for s, (blocks, width) in enumerate(zip(layers, widths, strict=True)):
            stage = []
            for b in range(blocks):
                stride = 2 if s > 0 and b == 0 else 1
                c_out = width * (4 if bottleneck else 1)
                if bottleneck:
                    inner = width * base_width // 64 * groups
                    first, second = (stride, 1) if stride_on_1x1 else (1, stride)
                    convs = [_conv(c, inner, 1, first), _conv(inner, inner, 3, second, groups), _conv(inner, c_out, 1)]
                else:
                    convs = [_conv(c, c_out, 3, stride), _conv(c_out, c_out, 3)]
                stage.append(_Block(c, convs, self._shortcut(shortcut, c, c_out, stride), kind, first=b == 0))
                c = c_out
            self.add_module(f"layer{s + 1}", tnn.Sequential(*stage))
        if self.preact:
            self.bn = tnn.BatchNorm2d(c)
        self.fc = tnn.Linear(c, num_classes)

    @staticmethod
    def _shortcut(form: str, c: int, c_out: int, stride: int) -> Any:
        if stride == 1 and c == c_out:
            return None
        if form == "A":
            return _PadA(c, c_out)
        if form == "bare":
            return tnn.Sequential(_conv(c, c_out, 1, stride))
        if form == "D":
            mean = tnn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else tnn.Identity()
            return tnn.Sequential(mean, _conv(c, c_out, 1), tnn.BatchNorm2d(c_out))
        return tnn.Sequential(_conv(c, c_out, 1, stride), tnn.BatchNorm2d(c_out))

    def forward(self, x: Any) -> Any:
        x = self.conv1(x)
        if not self.preact:
            x = relu(self.bn1(x))
        if self.pool:
            x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
        for s in range(self.depth):
            x = getattr(self, f"layer{s + 1}")(x)
        if self.preact:
            x = relu(self.bn(x))
        return self.fc(x.mean((2, 3)))


def net(layers: list[int], widths: list[int], **options: Any) -> dict[str, Any]:
    """A twin's arguments, to be written down in a table."""
    return {"layers": layers, "widths": widths, **options}


def copy_weights(model: nn.Module, twin: Any, seed: int = 0) -> None:
    """Give both the same values: every float entry of the state dict drawn anew, so that none is a special one.

    Weights get the variance 2 / fan_in; batch norm scales and running variances near 1, shifts and means near 0.
    """
    rng = np.random.default_rng(seed)
    ours, theirs = model.state_dict(), twin.state_dict()
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        array = value.array
        if array.dtype.kind != "f":
            continue
        if array.ndim >= 2:
            drawn = rng.standard_normal(array.shape) * (2 / np.prod(array.shape[1:])) ** 0.5
        elif key.endswith(("weight", "running_var")):
            drawn = rng.uniform(0.5, 1.5, array.shape)
        else:
            drawn = 0.1 * rng.standard_normal(array.shape)
        array[...] = drawn
        theirs[key].copy_(torch.tensor(array))


def batch(dtype: str, *shape: int, seed: int = 0) -> tuple[Tensor, Any]:
    """The same images as a tensor of ours and one of torch's."""
    array = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return Tensor(array.copy()), torch.tensor(array)
