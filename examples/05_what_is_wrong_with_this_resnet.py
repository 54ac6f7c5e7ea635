"""05: what is wrong with this ResNet?

    python examples/05_what_is_wrong_with_this_resnet.py --tiny

Read `Suspect.forward` below before you read on. It runs, raises nothing, its shapes are right, its loss goes down. Each
check in this script is one that you can make on any network you are handed.

(The answer: the shortcut's convolution is made *inside forward*. So it is new, random, at every call; it is nobody's
parameter, so no optimiser sees it, and no checkpoint holds it. So is its batch norm, always newborn, always in training
mode: model.eval() does not reach it. The network learns to live with noise on its shortcuts.)
"""

from __future__ import annotations

import numpy as np
from _course import BLUE, ORANGE, closing, heading, parser, picture, table

import minires
from minires import data, nn, optim
from minires.nn import functional as F


class Suspect(nn.Module):
    """A residual block; where the shape changes, a 1x1 convolution with batch norm shapes the shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.c_in, self.c_out, self.stride = c_in, c_out, stride

    def forward(self, x: minires.Tensor) -> minires.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.c_in != self.c_out:
            x = nn.BatchNorm2d(self.c_out)(nn.Conv2d(self.c_in, self.c_out, 1, self.stride, bias=False)(x))
        return F.residual_relu(out, x)


class Right(nn.Module):
    """The same block. What has weights is made once, in __init__, and is an attribute, so that Module knows of it."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: minires.Tensor) -> minires.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.residual_relu(out, x if self.downsample is None else self.downsample(x))


def network(block: type[nn.Module]) -> nn.Module:
    """Stem, three stages of one block each, head: ResNet-8 for 8 x 8 digits."""
    minires.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        block(16, 16, 1),
        block(16, 32, 2),
        block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@minires.no_grad()
def two_calls_differ_by(model: nn.Module, x: minires.Tensor) -> float:
    """In eval mode a network is a function: the same input gives the same output."""
    model.eval()
    return (model(x) - model(x)).abs().max().item()


@minires.no_grad()
def accuracy(model: nn.Module, x: minires.Tensor, y: np.ndarray) -> float:
    model.eval()
    return 100 * float((model(x).numpy().argmax(axis=1) == y).mean())


def train(
    model: nn.Module, train_set, x: minires.Tensor, y: np.ndarray, epochs: int
) -> tuple[list[float], list[float]]:
    """Returns the mean training loss and the test accuracy of each epoch."""
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    loader = data.BatchLoader(train_set, 64, shuffle=True, drop_last=True)
    losses, accuracies = [], []
    for epoch in range(epochs):
        model.train()
        of_epoch = []
        for images, labels in loader.iterate(epoch):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            of_epoch.append(loss.item())
        losses.append(float(np.mean(of_epoch)))
        accuracies.append(accuracy(model, x, y))
    return losses, accuracies


def main() -> None:
    args = parser(__doc__).parse_args()
    epochs = 4 if args.tiny else 20
    train_set, test_set = data.load("digits")
    x, y = minires.from_numpy(data.normalize(test_set.images, test_set.mean, test_set.std)), test_set.labels
    models = {"suspect": network(Suspect), "right": network(Right)}

    heading("Check 1: count the parameters, by hand and by machine")
    shortcut_weights = 16 * 32 + 32 * 64
    shortcut_norms = 2 * 32 + 2 * 64
    table(
        ["network", "parameters", "tensors in state_dict"],
        [[name, f"{count_parameters(m):,}", len(m.state_dict())] for name, m in models.items()],
    )
    print(
        f"  By hand the two shortcuts have 16 * 32 + 32 * 64 = {shortcut_weights:,} weights (and {shortcut_norms} in their"
    )
    print(
        "  batch norms). The suspect's are in no list: no optimiser, no checkpoint, no model.to() will ever see them."
    )

    heading("Check 2: ask twice (eval mode, the same 360 images)")
    for name, model in models.items():
        print(f"  {name:8} largest difference between two calls: {two_calls_differ_by(model, x):.6f}")

    heading(f"Check 3: train both, {epochs} epochs of digits")
    curves = {name: train(model, train_set, x, y, epochs) for name, model in models.items()}
    shown = sorted({0, 1, epochs // 2, epochs - 1})
    rows = [[f"{name}: loss", *(f"{losses[e]:.3f}" for e in shown)] for name, (losses, _) in curves.items()]
    rows += [[f"{name}: test accuracy", *(f"{a[e]:.1f} %" for e in shown)] for name, (_, a) in curves.items()]
    table(["epoch", *(str(e + 1) for e in shown)], rows)
    print(
        "  The suspect's loss goes down too. That is what makes the bug expensive: nothing fails, all is a little worse,"
    )
    print("  and on an easy task, after many epochs, the accuracy alone would hardly tell.")

    heading("Check 4: the trained network, asked ten times for its test accuracy")
    answers = {name: [accuracy(model, x, y) for _ in range(10)] for name, model in models.items()}
    for name, values in answers.items():
        print(f"  {name:8} between {min(values):.1f} and {max(values):.1f} %")

    picture(args.out / "05_suspect.png", (10, 3.6), lambda figure: draw(figure, curves, answers))
    closing(
        "a layer made in forward() is never trained and never the same; parameters() and a second call both tell.",
        "06_train_resnet20.py, a whole network made right.",
    )


def draw(figure, curves: dict[str, tuple[list[float], list[float]]], answers: dict[str, list[float]]) -> None:
    loss, accuracies, again = figure.subplots(1, 3, width_ratios=[3, 3, 2])
    for (name, (losses, percent)), colour, mark in zip(curves.items(), (ORANGE, BLUE), ("s-", "o-"), strict=True):
        epochs = range(1, len(losses) + 1)
        loss.plot(epochs, losses, mark, ms=4, color=colour, label=name)
        accuracies.plot(epochs, percent, mark, ms=4, color=colour, label=name)
        again.plot(range(1, 11), answers[name], mark[0], ms=5, color=colour, label=name)
    loss.set(title="Training loss", xlabel="epoch", yscale="log")
    accuracies.set(title="Test accuracy (%)", xlabel="epoch")
    again.set(title="Asked ten times (%)", xlabel="call", xticks=[1, 5, 10])
    for axis in (loss, accuracies):
        axis.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(loc="upper right")
    accuracies.legend(loc="lower right")


if __name__ == "__main__":
    main()
