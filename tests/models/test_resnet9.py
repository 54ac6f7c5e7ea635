"""ResNet-9 against a torch twin written from the table at its top, and its shapes."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import models
from minires.errors import ArgumentError
from minires.infer import compile
from minires.io.safetensors import save_file
from minires.tensor import Tensor
from tests.models.twins import batch, copy_weights
from tests.tolerances import assert_close
from tests.torch_oracle import torch

tnn = torch.nn


class Pooled(tnn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = tnn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.bn = tnn.BatchNorm2d(c_out)

    def forward(self, x):
        return self.bn(torch.max_pool2d(self.conv(x), 2)).relu()


class Block(tnn.Module):
    def __init__(self, c: int, plain: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv2d(c, c, 3, padding=1, bias=False), tnn.BatchNorm2d(c)
        self.conv2, self.bn2 = tnn.Conv2d(c, c, 3, padding=1, bias=False), tnn.BatchNorm2d(c)
        self.plain = plain

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y if self.plain else y + x).relu()


class Twin(tnn.Module):
    def __init__(self, c: int, plain: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv2d(1, c, 3, padding=1, bias=False), tnn.BatchNorm2d(c)
        self.layer1 = tnn.Sequential(Pooled(c, 2 * c), Block(2 * c, plain))
        self.layer2 = tnn.Sequential(Pooled(2 * c, 4 * c))
        self.layer3 = tnn.Sequential(Pooled(4 * c, 8 * c), Block(8 * c, plain))
        self.fc = tnn.Linear(8 * c, 5)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("pixels", [9, 16])
def test_resnet9_equals_its_twin(plain: bool, pixels: int) -> None:
    model = models.build("resnet9", num_classes=5, in_channels=1, width=4, plain=plain).to(minires.float64)
    twin = Twin(4, plain).double()
    copy_weights(model, twin)
    x, x_torch = batch("float64", 3, 1, pixels, pixels)
    model.eval(), twin.eval()
    assert_close(model(x).array, twin(x_torch).detach().numpy(), "float64")
    model.train(), twin.train()
    y, y_torch = model(x), twin(x_torch)
    assert_close(y.array, y_torch.detach().numpy(), "float64")
    (y * y).sum().backward()
    (y_torch * y_torch).sum().backward()
    for (key, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        scale = float(q.grad.abs().max())
        assert scale > 0, key
        assert_close(p.grad.array / scale, q.grad.numpy() / scale, "float64", what=key)
    for (key, b), c in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert_close(b.array, c.numpy(), "float64", what=key)


@pytest.mark.parametrize("pixels", [8, 14, 16, 28, 32])
def test_resnet9_takes_images_of_any_size(pixels: int) -> None:
    model = models.build("resnet9", in_channels=1, width=4).eval()
    images = np.random.default_rng(0).random((2, 1, pixels, pixels), np.float32)
    with minires.no_grad():
        logits = model(Tensor(images)).numpy()
    assert logits.shape == (2, 10)
    assert_close(compile(model, (2, 1, pixels, pixels))(images), logits, "float32", 288)


def test_resnet9_refuses_a_width_of_nothing() -> None:
    with pytest.raises(ArgumentError, match="ResNet9: width must be a positive int, got 0"):
        models.build("resnet9", width=0)


@pytest.mark.parametrize("name", ["resnet9", "plain_resnet9"])
def test_resnet9_is_read_from_a_file_with_its_width_channels_and_classes(name: str, tmp_path) -> None:
    model = models.build(name, num_classes=7, in_channels=1, width=12)
    save_file(model.state_dict(), tmp_path / "a.safetensors", {"format": "pt", "architecture": name})
    read = minires.load_model(tmp_path / "a.safetensors")
    for key, value in read.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), model.state_dict()[key].numpy())
