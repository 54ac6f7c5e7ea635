"""04: batch norm's two variances and four modes, and what happens when somebody forgets model.eval().

    python examples/04_batch_norm.py --tiny

    y = weight * (x - mean) / sqrt(var + eps) + bias            one mean and variance a channel, over N, H and W

Whose mean and variance? That is the whole difficulty of this layer, and the source of its bugs. In training they are the
batch's own, so an image's output depends on its neighbours in the batch. Afterwards a single image must give a single
answer, so running averages, collected during training, take their place.
"""

from __future__ import annotations

import numpy as np
from _course import BLUE, GREEN, GREY, ORANGE, closing, heading, parser, picture, table

import minires
from minires import data, models, nn, optim
from minires.nn import functional as F


def two_variances() -> None:
    heading("1. Two variances: one normalises, the other is remembered")
    x = np.array([1.0, 2.0, 3.0, 6.0])
    bn = nn.BatchNorm2d(1, momentum=1.0)  # momentum 1: remember this batch only
    y = bn(minires.tensor(x, dtype=minires.float32).reshape(4, 1, 1, 1))
    biased, unbiased = x.var(), x.var(ddof=1)
    print(f"  x = {x.tolist()}: squared distances from the mean sum to {((x - 3) ** 2).sum():g}")
    table(
        ["", "value", "where"],
        [
            ["biased,   14 / 4", f"{biased:.4f}", "normalises this batch"],
            ["unbiased, 14 / 3", f"{unbiased:.4f}", "goes into running_var"],
            ["var(y)", f"{y.detach().numpy().var():.4f}", "one: the biased variance was used (eps takes 0.000003)"],
            ["running_var", f"{bn.running_var.item():.4f}", "as remembered"],
        ],
    )
    print("  With 128 images of 32 x 32 the two differ by a factor of 1.0000076. With a batch of 2 values, by 2.")


def four_modes() -> None:
    heading("2. Four modes: the same x (mean 3, std 2) in a layer that has seen other data (mean 0, std 1)")
    rng = np.random.default_rng(0)
    x = minires.tensor(3 + 2 * rng.standard_normal((64, 1, 4, 4)), dtype=minires.float32)

    def show(name: str, bn: nn.BatchNorm2d, learns: bool = True) -> list[str]:
        remembered = None if bn.running_mean is None else bn.running_mean.item()
        images = x.clone().requires_grad_()
        y = bn(images)
        y[0].sum().backward(retain_graph=True)
        neighbour = images.grad[1].abs().sum().item()  # how image 1 acts on what becomes of image 0
        after = "none" if remembered is None else f"{remembered:.2f} -> {bn.running_mean.item():.2f}"
        if learns:
            optimizer = optim.SGD(bn.parameters(), lr=0.01)
            optimizer.zero_grad()
            (y**2).mean().backward()  # any loss
            optimizer.step()
        weight = f"1.00 -> {bn.weight.item():.2f}" if learns else "not trained"
        return [name, f"{y.mean().item():.2f}", f"{y.std().item():.2f}", after, f"{neighbour:.4f}", weight]

    frozen = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train()  # the network trains...
    frozen[1].eval()  # ...this layer keeps its statistics
    rows = [
        show("train", nn.BatchNorm2d(1)),
        show("eval", nn.BatchNorm2d(1).eval(), learns=False),
        show("frozen statistics", frozen[1]),
        show("no running statistics", nn.BatchNorm2d(1, track_running_stats=False).eval(), learns=False),
    ]
    table(["mode", "mean(y)", "std(y)", "running_mean", "|dy[0]/dx[1]|", "weight after a step"], rows)
    print("""
  train                  the batch's statistics; the running ones move a tenth of the way (momentum 0.1)
  eval                   the running ones, here still mean 0 and var 1: x goes through unchanged, image by image
  frozen statistics      eval() on this layer after model.train(): weight and bias learn, statistics stay. For
                         fine-tuning with batches too small to measure anything
  no running statistics  track_running_stats=False: the batch's own, in eval too: neighbours always matter""")


def momentum_none(batches: int) -> dict[str, list[float]]:
    heading("3. momentum: a number forgets, None averages")
    rng = np.random.default_rng(1)
    means, layers = [], {"0.1": nn.BatchNorm2d(1), "None": nn.BatchNorm2d(1, momentum=None)}
    paths: dict[str, list[float]] = {name: [] for name in ("batch", *layers)}
    for _ in range(batches):
        x = 5 + rng.standard_normal((8, 1, 2, 2))
        means.append(x.mean())
        paths["batch"].append(means[-1])
        for name, bn in layers.items():
            bn(minires.tensor(x, dtype=minires.float32))
            paths[name].append(bn.running_mean.item())
    table(
        ["after batch", *(str(b) for b in (1, 3, 10, batches))],
        [[f"momentum {name}", *(f"{paths[name][b - 1]:.3f}" for b in (1, 3, 10, batches))] for name in layers]
        + [["mean of the batches", *(f"{np.mean(means[:b]):.3f}" for b in (1, 3, 10, batches))]],
    )
    print(
        "  The data's mean is 5. running_mean starts at 0, and with momentum 0.1 a part of that 0, 0.9^batches, stays:"
    )
    print("  whoever evaluates after ten batches gets odd results. None is exactly the mean of all batches so far.")
    return paths


def forgotten_eval(epochs: int) -> dict[str, list[float]]:
    heading("4. model.eval() forgotten: digits, one trained network, asked in different company")
    minires.manual_seed(0)
    train, test = data.load("digits")
    model = models.CifarResNet(8, in_channels=1, width=8)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = data.BatchLoader(train, 64, shuffle=True, drop_last=True)
    model.train()
    for epoch in range(epochs):
        for images, labels in loader.iterate(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

    x, y = data.normalize(test.images, test.mean, test.std), test.labels
    mixed, sorted_ = np.random.default_rng(0).permutation(len(y)), np.argsort(y, kind="stable")
    state = {k: v.clone() for k, v in model.state_dict().items()}

    def accuracy(training: bool, order: np.ndarray, size: int) -> float:
        model.load_state_dict(state)  # in training mode each forward pass changes the running statistics
        model.train(training)
        with minires.no_grad():
            answers = [model(minires.from_numpy(x[order[i : i + size]])).numpy() for i in range(0, len(y), size)]
        return 100 * float((np.concatenate(answers).argmax(axis=1) == y[order]).mean())

    sizes = [1, 2, 4, 12, 36]
    results = {
        "eval()": [accuracy(False, mixed, s) for s in sizes],
        "train mode, mixed batches": [accuracy(True, mixed, s) for s in sizes],
        "train mode, one class a batch": [accuracy(True, sorted_, s) for s in sizes],
    }
    table(
        ["accuracy (%) with batches of", *map(str, sizes)],
        [[name, *(f"{v:.1f}" for v in row)] for name, row in results.items()],
    )
    name = next(k for k in state if k.endswith("running_mean"))
    accuracy(True, sorted_, 36)
    moved = np.abs(model.state_dict()[name].numpy() - state[name].numpy()).max()
    print(f"  With eval() the company does not matter. Without it, it decides, and {name} has moved by {moved:.3f}:")
    print("  looking at the test set has changed the network. no_grad() does not prevent that; eval() does.")
    return results


def main() -> None:
    args = parser(__doc__).parse_args()
    two_variances()
    four_modes()
    paths = momentum_none(30)
    results = forgotten_eval(6 if args.tiny else 15)
    picture(args.out / "04_batch_norm.png", (10, 3.8), lambda figure: draw(figure, paths, results))
    closing(
        "train() and eval() are different functions; which one runs is part of the result.",
        "05_what_is_wrong_with_this_resnet.py, another bug that raises no error.",
    )


def draw(figure, paths: dict[str, list[float]], results: dict[str, list[float]]) -> None:
    left, right = figure.subplots(1, 2)
    batch = range(1, len(paths["batch"]) + 1)
    left.plot(batch, paths["batch"], ".", color=GREY, label="mean of each batch")
    left.plot(batch, paths["0.1"], "-", color=ORANGE, label="running_mean, momentum 0.1")
    left.plot(batch, paths["None"], "--", color=BLUE, label="running_mean, momentum None")
    left.set(title="What the layer remembers", xlabel="batches seen", ylim=(0, 6.2))
    left.legend(loc="lower right")
    place = np.arange(5)
    for k, ((name, row), colour) in enumerate(zip(results.items(), (BLUE, GREEN, ORANGE), strict=True)):
        right.bar(place + 0.27 * (k - 1), row, 0.25, color=colour, label=name)
    right.set(title="Test accuracy (%) of one network, digits", xlabel="images in a batch", ylim=(0, 135))
    right.set_xticks(place, ["1", "2", "4", "12", "36"])
    right.set_yticks([0, 25, 50, 75, 100])
    right.grid(False, axis="x")
    right.legend(loc="upper left", fontsize=9)


if __name__ == "__main__":
    main()
