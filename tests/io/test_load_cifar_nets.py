"""load_model beside the CIFAR networks that most checkpoints are of: written here as their authors wrote them, in torch.

Attribute names, order of layers and what the training scripts save are those of kuangliu/pytorch-cifar (models/resnet.py,
main.py) and akamaster/pytorch_resnet_cifar10 (resnet.py, trainer.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires.errors import CheckpointError
from tests.io.checkpoints import assert_same_logits
from tests.torch_oracle import torch

nn, F = torch.nn, torch.nn.functional


class BasicBlock(nn.Module):
    """pytorch-cifar's and, with `option="A"`, akamaster's."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int = 1, option: str = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            if option == "A":
                self.shortcut = LambdaLayer(
                    lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4), "constant", 0)
                )
            else:
                convolution = nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False)
                self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(planes))

    def forward(self, x: Any) -> Any:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class LambdaLayer(nn.Module):
    def __init__(self, lambd: Any) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, x: Any) -> Any:
        return self.lambd(x)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != 4 * planes:
            convolution = nn.Conv2d(in_planes, 4 * planes, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(4 * planes))

    def forward(self, x: Any) -> Any:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.shortcut(x)
        return F.relu(out)


class PytorchCifar(nn.Module):
    """kuangliu's ResNet: 64 to 512 channels, mean over 4x4."""

    def __init__(self, block: Any, num_blocks: list[int], num_classes: int = 10) -> None:
        super().__init__()
        self.in_planes = 64
        self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self._make_layer(block, 64, num_blocks[0], stride=1)
        self.layer2 = self._make_layer(block, 128, num_blocks[1], stride=2)
        self.layer3 = self._make_layer(block, 256, num_blocks[2], stride=2)
        self.layer4 = self._make_layer(block, 512, num_blocks[3], stride=2)
        self.linear = nn.Linear(512 * block.expansion, num_classes)

    def _make_layer(self, block: Any, planes: int, num_blocks: int, stride: int) -> Any:
        layers = []
        for step in [stride] + [1] * (num_blocks - 1):
            layers.append(block(self.in_planes, planes, step))
            self.in_planes = planes * block.expansion
        return nn.Sequential(*layers)

    def forward(self, x: Any) -> Any:
        out = F.relu(self.bn1(self.conv1(x)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out)
        out = F.avg_pool2d(out, 4)
        return self.linear(out.view(out.size(0), -1))


class Akamaster(nn.Module):
    """akamaster's ResNet of depth 6n + 2: 16 to 64 channels, shortcuts of option A."""

    def __init__(self, n: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._make_layer(16, 16, n, stride=1)
        self.layer2 = self._make_layer(16, 32, n, stride=2)
        self.layer3 = self._make_layer(32, 64, n, stride=2)
        self.linear = nn.Linear(64, num_classes)

    @staticmethod
    def _make_layer(in_planes: int, planes: int, n: int, stride: int) -> Any:
        first = BasicBlock(in_planes, planes, stride, option="A")
        return nn.Sequential(first, *(BasicBlock(planes, planes, 1, option="A") for _ in range(n - 1)))

    def forward(self, x: Any) -> Any:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


def trained(model: Any) -> Any:
    """In evaluation mode, with weights and statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "shortcut.1.weight")):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2)
    return model.eval()


def kuangliu_checkpoint(model: Any) -> dict[str, Any]:
    """What main.py saves: the network is wrapped in DataParallel where there is a GPU."""
    return {"net": nn.DataParallel(model).state_dict(), "acc": 95.47, "epoch": 199}


def akamaster_checkpoint(model: Any) -> dict[str, Any]:
    """What trainer.py saves."""
    return {"state_dict": nn.DataParallel(model).state_dict(), "best_prec1": 91.78}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_load_model_equals_pytorch_cifar(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, block: Any, legacy: bool
) -> None:
    judge = trained(PytorchCifar(block, [1, 2, 1, 1]))
    (tmp_path / "checkpoint").mkdir()
    file = tmp_path / "checkpoint" / "ckpt.pth"
    torch.save(kuangliu_checkpoint(judge), file, _use_new_zipfile_serialization=not legacy)
    for path in (file, file.parent):
        caplog.clear()
        assert_same_logits(minires.load_model(path), judge, size=32)
        assert "Guessed from their names and shapes" in caplog.text
    if block is BasicBlock:  # named, nothing is guessed, and a wrong name is refused
        caplog.clear()
        with pytest.raises(CheckpointError, match=r"layers is \(1, 2, 1, 1\), expected \(2, 2, 2, 2\)"):
            minires.load_model(file, model="resnet18")
        assert caplog.messages == []


@pytest.mark.parametrize(("n", "name"), [(3, "resnet20"), (1, "resnet8"), (9, "resnet56")])
def test_load_model_equals_akamaster(tmp_path: Path, caplog: pytest.LogCaptureFixture, n: int, name: str) -> None:
    judge = trained(Akamaster(n))
    torch.save(akamaster_checkpoint(judge), tmp_path / f"{name}-12fca82f.th")
    assert_same_logits(minires.load_model(tmp_path / f"{name}-12fca82f.th", model=name), judge, size=16)
    assert caplog.messages == []
    assert_same_logits(minires.load_model(tmp_path / f"{name}-12fca82f.th"), judge, size=16)
    assert "shortcuts of kind A" in caplog.text


def test_load_model_takes_weights_out_of_a_whole_training_state(tmp_path: Path) -> None:
    """Arguments, NumPy scalars, optimizers, schedules and generators lie around them, in both of torch's forms."""
    judge = PytorchCifar(BasicBlock, [1, 1, 1, 1])
    sgd = torch.optim.SGD(judge.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    adam = torch.optim.AdamW(judge.parameters(), amsgrad=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, 0.1, total_steps=10)
    F.cross_entropy(judge(torch.randn(2, 3, 32, 32)), torch.tensor([1, 2])).backward()
    for one in (sgd, adam, schedule):
        one.step()
    judge = trained(judge)
    tree = {
        "epoch": 17,
        "arch": "resnet10",
        "args": argparse.Namespace(lr=0.1, data=Path("/data"), milestones=[30, 60], dist=None),
        "best_acc": np.float64(95.47),
        "curve": np.linspace(0, 1, 5),
        "steps": np.int64(391),
        "optimizer": {"sgd": sgd.state_dict(), "adam": adam.state_dict()},
        "scheduler": schedule.state_dict(),
        "rng": (torch.get_rng_state(), np.random.default_rng(0).bit_generator.state),
        "dtype": torch.float32,
        "device": torch.device("cuda", 0),
        "model": nn.DataParallel(judge).state_dict(),
    }
    for legacy in (False, True):
        torch.save(tree, tmp_path / "last.pth", _use_new_zipfile_serialization=not legacy)
        assert_same_logits(minires.load_model(tmp_path / "last.pth"), judge, size=32)


@pytest.mark.parametrize("legacy", [False, True])
def test_load_model_takes_weights_of_every_memory_form(tmp_path: Path, legacy: bool) -> None:
    """Channels-last, slices of something larger, and one storage under many weights."""
    judge = trained(PytorchCifar(BasicBlock, [1, 1, 1, 1])).to(memory_format=torch.channels_last)
    state = dict(judge.state_dict())
    wide = torch.randn(512, 10)
    wide[:, :] = state["linear.weight"].T
    state["linear.weight"] = wide.T  # transposed
    everything = torch.cat([value.flatten() for value in state.values() if value.dtype == torch.float32])
    place = 0
    for name, value in state.items():
        if value.dtype == torch.float32 and value.ndim == 1:  # views of one storage
            state[name] = everything[place : place + value.numel()]
            state[name].copy_(value)
            place += value.numel()
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert_same_logits(minires.load_model(tmp_path / "a.pth"), judge, size=32)


def test_load_model_refuses_weights_that_are_not_real_numbers(tmp_path: Path) -> None:
    state = PytorchCifar(BasicBlock, [1, 1, 1, 1]).state_dict()
    for dtype in (torch.complex64, torch.uint16, torch.int8, torch.bool):
        changed = {**state, "layer1.0.conv1.weight": state["layer1.0.conv1.weight"].to(dtype)}
        torch.save(changed, tmp_path / "a.pth")
        message = rf"layer1\.0\.conv1\.weight has dtype {str(dtype)[6:]}; the weights of a quantised network\?"
        with pytest.raises(CheckpointError, match=message):
            minires.load_model(tmp_path / "a.pth")
