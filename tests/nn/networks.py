"""Networks written once and built with either library: `block(nn)` for nn = minires.nn or torch.nn."""

from __future__ import annotations

from typing import Any

import numpy as np

import minires
from minires.tensor import Tensor


def block(nn: Any) -> Any:
    """A residual block as people write it, with a projection shortcut."""

    class Block(nn.Module):
        def __init__(self, c_in: int, c_out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(c_out)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(c_out, c_out, kernel_size=3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(c_out)
            self.shortcut = nn.Sequential()
            if stride != 1 or c_in != c_out:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out)
                )

        def forward(self, x: Any) -> Any:
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out += self.shortcut(x)
            return self.relu(out)

    return Block


def net(nn: Any) -> Any:
    """A small residual network with every kind of child: layers, a block, a Sequential, a ModuleList, a ModuleDict."""
    Block = block(nn)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.layers = nn.Sequential(Block(4, 4, 1), Block(4, 6, 2))
            self.extra = nn.ModuleList([nn.Conv2d(6, 6, 1) for _ in range(2)])
            self.heads = nn.ModuleDict({"a": nn.Linear(6, 5), "b": nn.Linear(6, 2, bias=False)})
            self.pool = nn.AdaptiveAvgPool2d((1, 1))

        def forward(self, x: Any) -> Any:
            x = self.layers(self.stem(x))
            for layer in self.extra:
                x = layer(x)
            return self.heads["a"](self.pool(x).flatten(1))

    return Net()


def tensor(array: np.ndarray, requires_grad: bool = False) -> Tensor:
    """A minires tensor with its own copy of the values."""
    return minires.tensor(np.array(array), requires_grad=requires_grad)


def copy_weights(ours: Any, theirs: Any) -> None:
    """Give our module the other's weights, running statistics included."""
    ours.load_state_dict({name: value.detach().numpy().copy() for name, value in theirs.state_dict().items()})
