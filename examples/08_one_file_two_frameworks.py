"""08: one file, two frameworks. This is plain torch code; nothing in it knows of minires.

    python examples/08_one_file_two_frameworks.py --tiny               # under torch, if it is installed
    minires run-torch examples/08_one_file_two_frameworks.py --tiny    # the same file under minires, without torch

Both print the same losses, to the digits shown. Three things make that possible, and they are worth knowing for every
comparison of two implementations:

- the same start: weights come from a formula, not from a random generator (two libraries draw different numbers even
  from the same seed, and so does one library in two versions);
- the same batches: drawn with NumPy, outside the framework;
- the same arithmetic up to rounding. Sums are taken in different orders, so the last digits of float32 differ, and
  training amplifies the difference a little with each step. Hence four digits, not seven; in float64 it would be twelve.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

DIGITS = Path(__file__).resolve().parents[1] / "minires" / "data" / "digits" / "digits.npz"


class BasicBlock(nn.Module):
    def __init__(self, in_planes, planes, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = BasicBlock(8, 8)
        self.layer2 = BasicBlock(8, 16, stride=2)
        self.layer3 = BasicBlock(16, 32, stride=2)
        self.linear = nn.Linear(32, num_classes)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, 2)
        out = out.view(out.size(0), -1)
        return self.linear(out)


@torch.no_grad()
def start_from_a_formula(model):
    """Weights as He et al. would draw them (variance 2 / fan_in), but from a sine instead of a random generator."""
    for number, p in enumerate(model.parameters()):
        if p.dim() > 1:
            fan_in = p.numel() // p.size(0)
            values = np.sin(1 + number + 12.9898 * np.arange(p.numel()) ** 1.5) * np.sqrt(4 / fan_in)
            p.copy_(torch.from_numpy(values.astype(np.float32)).view(p.size()))
    nn.init.zeros_(model.linear.bias)  # else a random one: batch norms start at 1 and 0, but a Linear's bias does not


def load_digits():
    """The handwritten digits that come with minires, read by NumPy: images (1797, 1, 8, 8) in -1 .. 1, labels (1797,)."""
    stored = np.load(DIGITS)
    x = stored["images"].astype(np.float32)[:, None] / 8 - 1
    order = np.random.RandomState(0).permutation(len(x))
    return torch.from_numpy(x[order]), torch.from_numpy(stored["labels"].astype(np.int64)[order])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="40 steps instead of 200")
    parser.add_argument("--out", help="no picture here; taken so that all examples have the same arguments")
    args = parser.parse_args()
    steps, batch = (40, 32) if args.tiny else (200, 64)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, y = load_digits()
    train_x, train_y, test_x, test_y = x[:1437], y[:1437], x[1437:], y[1437:]
    model = ResNet().to(device)
    start_from_a_formula(model)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)

    print(f"Running on: {torch.nn.Module.__module__.split('.')[0]}")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {steps} steps of {batch} digits")
    rng = np.random.RandomState(1)
    model.train()
    for step in range(steps):
        rows = torch.from_numpy(rng.randint(0, len(train_x), size=batch).astype(np.int64))
        inputs, targets = train_x[rows].to(device), train_y[rows].to(device)
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step < 3 or (step + 1) % (steps // 8) == 0:
            print(f"step {step + 1:3d}  loss {loss.item():.4f}")

    model.eval()
    with torch.no_grad():
        _, predicted = model(test_x.to(device)).max(1)
        correct = predicted.eq(test_y.to(device)).sum().item()
    print(f"test accuracy {100.0 * correct / len(test_y):.2f} % ({correct} of {len(test_y)})")
    print("\nwhat you saw: one file, and the engine under it can be exchanged.")
    print("next: run it under the other one and compare the losses; then take a ResNet script of your own.")


if __name__ == "__main__":
    main()
