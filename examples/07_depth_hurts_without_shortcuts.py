"""07: depth hurts without shortcuts. The experiment of He et al. (2015), section 4.2 and figure 6.

    python examples/07_depth_hurts_without_shortcuts.py --tiny     # digits, half a minute
    python examples/07_depth_hurts_without_shortcuts.py            # Fashion-MNIST (or digits), ten minutes or so

A 56-layer network can compute whatever a 20-layer one computes: copy its layers, and let the 36 others be the identity.
So it can't be worse. But stack plain layers and train them, and the deep one is worse, *on the training images too*: it
is not overfitting, the optimiser does not find what is there. The paper's answer is one line of code, `+ x`: then a
block that should do nothing needs only to output zero, instead of learning the identity.

    plain:      out = relu(      bn(conv(relu(bn(conv(x))))))
    residual:   out = relu(x +   bn(conv(relu(bn(conv(x))))))

Here four networks train on the same images in the same order: plain-20, plain-56, ResNet-20, ResNet-56. They differ in
depth and in that line (option A shortcuts have no parameters, so the twins have exactly as many weights).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from _course import BLUE, ORANGE, closing, heading, parser, picture, table

import minires
from minires import data, models, optim
from minires.nn import functional as F

NETWORKS = [("plain-20", 20, True), ("plain-56", 56, True), ("ResNet-20", 20, False), ("ResNet-56", 56, False)]


WHAT_THE_NORMS_SAY = """
  Vanishing gradients would be tiny in the first layers, farthest from the loss. Before the first step there is nothing of
  the kind; the paper, too, found them healthy thanks to batch norm, and calls vanishing 'unlikely' to be the cause. In the
  deep plain net it is rather the reverse: they *grow* towards the input (Yang et al. 2019, arXiv:1902.08129, on batch
  norm without shortcuts), and the first steps make its first weights huge. With shortcuts they stay nearly level.
  Batch norm undoes the size of the weights before it, so weights k times as large get gradients 1/k as large. Later on the
  product |dL/dW| |W| is therefore the fair measure: how strongly the loss pulls at the *direction* of a layer's weights."""


@dataclass
class Run:
    """What one training run leaves: errors in per cent after each epoch, gradient norms of the first one."""

    name: str
    depth: int
    parameters: int
    train: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    norms: list[list[float]] = field(
        default_factory=list
    )  # |dL/dW|: a row a step, a column a convolution, first to last
    products: list[list[float]] = field(default_factory=list)  # |dL/dW| |W|, the same
    seconds: float = 0.0


def load(name: str, count: int, size: int):
    """(train, test) as float32 images of 1 x size x size and labels. Fashion-MNIST's 28 pixels are averaged 2 x 2."""
    parts = []
    train, test = data.load(name, download=False)
    for part, n in ((train, count), (test, 1000)):
        x = data.normalize(part.images[:n], train.mean, train.std)
        k = x.shape[-1] // size
        x = x.reshape(len(x), 1, size, k, size, k).mean(axis=(3, 5))
        parts.append((np.ascontiguousarray(x), part.labels[:n]))
    return parts


def train(name: str, depth: int, plain: bool, parts, epochs: int, width: int, batch: int) -> Run:
    (x, y), (test_x, test_y) = parts
    minires.manual_seed(1)
    order = np.random.default_rng(1)
    model = models.CifarResNet(depth, in_channels=1, width=width, plain=plain)
    run = Run(name, depth, models.count_parameters(model))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = optim.lr_scheduler.MultiStepLR(optimizer, [round(epochs * 0.6), round(epochs * 0.85)], gamma=0.1)
    convolutions = [p for p in model.parameters() if p.ndim == 4]
    start = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        wrong = 0
        for rows in np.array_split(order.permutation(len(x)), len(x) // batch):
            logits = model(minires.from_numpy(x[rows]))
            loss = F.cross_entropy(logits, minires.from_numpy(y[rows]))
            optimizer.zero_grad()
            loss.backward()
            if epoch == 0:  # where the networks part ways: how large is the gradient each layer gets?
                norms = [float(np.linalg.norm(w.grad.numpy())) for w in convolutions]
                sizes = [float(np.linalg.norm(w.detach().numpy())) for w in convolutions]
                run.norms.append(norms)
                run.products.append([g * size for g, size in zip(norms, sizes, strict=True)])
            optimizer.step()
            wrong += int((logits.detach().numpy().argmax(axis=1) != y[rows]).sum())
        schedule.step()
        run.train.append(100 * wrong / len(x))
        run.test.append(error(model, test_x, test_y))
    run.seconds = time.perf_counter() - start
    print(f"  {name:9}  trained in {run.seconds:4.0f} s: training error {run.train[-1]:5.1f} %", flush=True)
    return run


@minires.no_grad()
def error(model, x, y) -> float:
    """Test error in per cent, with the running statistics of batch norm (example 04)."""
    model.eval()
    wrong = sum(
        int((model(minires.from_numpy(x[i : i + 250])).numpy().argmax(axis=1) != y[i : i + 250]).sum())
        for i in range(0, len(x), 250)
    )
    return 100 * wrong / len(x)


def report(runs: list[Run]) -> None:
    heading("Errors after the last epoch (training error: while training, over the epoch)")
    rows = [
        [r.name, f"{r.parameters:,}", f"{r.train[-1]:.1f} %", f"{r.test[-1]:.1f} %", f"{r.seconds:.0f} s"] for r in runs
    ]
    table(["network", "parameters", "training error", "test error", "time"], rows)

    heading("Gradients of the convolutions' weights: |dL/dW| before the first step, and |dL/dW| |W| in the first epoch")
    rows = []
    for r in runs:
        g, product, third = r.norms[0], np.median(r.products, axis=0), (len(r.norms[0]) - 1) // 3
        stages = [np.median(g[1 + s * third : 1 + (s + 1) * third]) for s in range(3)]  # conv1, then three stages
        rows.append([r.name, *(f"{v:.2f}" for v in (g[0], *stages)), f"{g[0] / g[-1]:,.0f} x", f"{product[0]:.2f}"])
        rows[-1].append(f"{product[-1]:.2f}")
    table(["network", "conv1", "stage 1", "stage 2", "stage 3", "conv1 / last", "product: conv1", "last"], rows)
    print(WHAT_THE_NORMS_SAY)


def draw(figure, runs: list[Run], title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1])
    middle.sharey(left)
    for axis, pair, name in ((left, runs[:2], "plain"), (middle, runs[2:], "with shortcuts")):
        for r, colour in zip(pair, (BLUE, ORANGE), strict=True):
            epochs = range(1, len(r.train) + 1)
            axis.plot(epochs, r.train, "--", color=colour, lw=1.2, label=f"{r.name}, training")
            axis.plot(epochs, r.test, "-", color=colour, lw=2.2, label=f"{r.name}, test")
        axis.set(title=f"Error (%), {name}", xlabel="epoch", ylim=(0, 100))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8.5, ncols=1)
    for r, colour, dash in zip(runs, (BLUE, ORANGE) * 2, ("-", "-", ":", ":"), strict=True):
        right.plot(np.linspace(0, 1, len(r.norms[0])), r.norms[0], dash, color=colour, label=r.name)
    right.set(title="Gradient norms before the first step", yscale="log")
    right.set_xticks([0, 0.5, 1], ["first\nlayer", "middle", "last\nlayer"])
    right.legend(fontsize=8.5, ncols=2)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data", choices=["digits", "fashion-mnist"], help="default: Fashion-MNIST if it is found")
    args = arguments.parse_args()
    found = {row.name for row in data.describe() if row.found}
    name = args.data or ("fashion-mnist" if "fashion-mnist" in found and not args.tiny else "digits")
    if args.tiny:
        images, size, epochs, width, batch = 500, 8, 6, 4, 50
    elif name == "digits":
        images, size, epochs, width, batch = 1437, 8, 40, 8, 64
    else:
        images, size, epochs, width, batch = 3000, 14, 12, 8, 64
    parts = load(name, images, size)
    where = f"{len(parts[0][0]):,} images of {name} at {size} x {size}, width {width}, {epochs} epochs"
    print(f"Four networks, {where}, SGD 0.1")

    runs = [train(*network, parts, epochs, width, batch) for network in NETWORKS]
    report(runs)
    plain_20, plain_56, res_20, res_56 = (r.train[-1] for r in runs)
    heading("The figure in two lines")
    print(f"  plain:    36 more layers change the training error by {plain_56 - plain_20:+.1f} points")
    print(f"  residual: 36 more layers change the training error by {res_56 - res_20:+.1f} points")
    print(
        "\n  What so short a run can show: the deep plain network trains far worse, and shortcuts take most of that away."
    )
    print("  What it cannot: that ResNet-56 ends *better* than ResNet-20 (CIFAR-10: 6.97 against 8.75 % test error).")
    steps = len(parts[0][0]) // batch * epochs
    print(f"  That takes the paper's 64,000 steps; these are {steps}, and a deeper network is slower to start.")

    stem = "07_depth_hurts_tiny.png" if args.tiny else "07_depth_hurts.png"
    picture(args.out / stem, (12, 4.2), lambda figure: draw(figure, runs, f"Depth with and without shortcuts: {where}"))
    closing(
        "depth that ruins a plain network, on its own training images, costs one with shortcuts far less.",
        "08_one_file_two_frameworks.py; or try this one with lr=0.01 in the first epoch, and see whom it helps.",
    )


if __name__ == "__main__":
    main()
