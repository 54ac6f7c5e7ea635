"""06: train ResNet-20, the smallest network of He et al. (2015), section 4.2, with the whole loop on one screen.

    python examples/06_train_resnet20.py --tiny                     # embedded digits, under a minute
    python examples/06_train_resnet20.py                            # 8,000 images of Fashion-MNIST, some minutes
    python examples/06_train_resnet20.py --images 60000 --epochs 8  # all of it: a lunch break, or a night

    conv 3x3, 16 channels                                 28 x 28        1 layer
    3 residual blocks of two 3x3, 16 channels             28 x 28        6
    3 residual blocks of two 3x3, 32 channels             14 x 14        6
    3 residual blocks of two 3x3, 64 channels              7 x 7         6
    mean over the map, linear to 10 classes                              1      20 layers with weights

The paper's images have three colours and 32 x 32 pixels; ours are grey, so the first convolution has one input channel,
and nothing else changes: a network that ends in a mean takes images of any size. Digits of 8 x 8 go in as they are.

For real work there is `minires train --data fashion-mnist --model resnet20`: this loop, with a validation set,
checkpoints that survive Ctrl-C, and a progress bar.
"""

from __future__ import annotations

import time

import numpy as np
from _course import BLUE, ORANGE, closing, heading, parser, picture, table

import minires
from minires import data, models, optim
from minires.errors import DataError
from minires.nn import functional as F


def find_data(tiny: bool) -> tuple[data.ArrayDataset, data.ArrayDataset]:
    """Fashion-MNIST where it is on this machine, the digits in the package where not, or for --tiny."""
    if not tiny:
        try:
            return data.load("fashion-mnist", download=False)
        except DataError:
            print("Fashion-MNIST is not on this machine (`minires data fashion-mnist --download` gets it), so: digits.")
    return data.load("digits")


@minires.no_grad()
def test_accuracy(model, test: data.ArrayDataset) -> float:
    """In per cent. eval(): batch norm uses its running statistics (example 04); no_grad(): no graph is recorded."""
    model.eval()
    right = 0
    for images, labels in data.BatchLoader(test, 250):
        right += (model(images).argmax(1) == labels).sum().item()
    return 100 * right / len(test)


def train(model, loader: data.BatchLoader, test: data.ArrayDataset, epochs: int, lr: float) -> list[dict[str, float]]:
    """The loop. Everything else in this file is around it."""
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * len(loader))
    rows = []
    for epoch in range(epochs):
        model.train()
        start, loss_sum, right, seen = time.perf_counter(), 0.0, 0, 0
        for images, labels in loader.iterate(epoch):
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()  # else the gradients of all steps would add up
            loss.backward()
            optimizer.step()
            schedule.step()

            loss_sum += loss.item() * len(images)
            right += (logits.argmax(1) == labels).sum().item()
            seen += len(images)
        seconds = time.perf_counter() - start
        row = {"loss": loss_sum / seen, "train": 100 * right / seen, "test": test_accuracy(model, test)}
        rows.append(row)
        numbers = f"loss {row['loss']:.3f}   training {row['train']:5.1f} %   test {row['test']:5.1f} %"
        print(f"  epoch {epoch + 1:2}   {numbers}   {seen / seconds:5.0f} images/s", flush=True)
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--epochs", type=int, help="passes over the training images")
    arguments.add_argument("--images", type=int, default=8000, help="training images used (Fashion-MNIST has 60,000)")
    args = arguments.parse_args()
    train_set, test_set = find_data(args.tiny)
    train_set = train_set.subset(range(min(args.images, len(train_set))), train_set.name)
    digits = train_set.image_shape == (1, 8, 8)
    epochs = args.epochs or (5 if args.tiny else 20 if digits else 6)

    minires.manual_seed(0)
    model = models.resnet20(in_channels=1, width=8 if args.tiny else 16)
    # Move the image a little, mirror it where a mirror image is still the same thing (a shirt is, a 3 is not).
    augment = ["pad_crop:1"] if digits else ["pad_crop:2", "flip"]
    loader = data.BatchLoader(train_set, 64 if digits else 128, shuffle=True, augment=augment, seed=0, drop_last=True)

    heading(f"ResNet-20 on {train_set.name}")
    print(
        f"  {len(train_set):,} training images of {' x '.join(map(str, train_set.image_shape))}, {len(test_set):,} test images"
    )
    print(f"  {models.count_parameters(model):,} parameters" + (", half the paper's width" if args.tiny else ""))
    heading("Training")
    rows = train(model, loader, test_set, epochs, lr=0.1)

    heading("Which classes are hard?")
    print(
        f"  test accuracy {rows[-1]['test']:.2f} % after the last epoch (not the best one: that would be choosing on the test set)"
    )
    predictions = predict(model, test_set)
    hits = [100 * float((predictions[test_set.labels == c] == c).mean()) for c in range(test_set.num_classes)]
    worst = np.argsort(hits)[:3]
    table(["hardest classes", "accuracy"], [[test_set.classes[c], f"{hits[c]:.1f} %"] for c in worst])

    stem = "06_resnet20_tiny.png" if args.tiny else "06_resnet20.png"
    title = f"ResNet-20, {len(train_set):,} images of {train_set.name.split('/')[0]}"
    picture(args.out / stem, (9, 3.6), lambda figure: draw(figure, rows, title))
    closing(
        "a residual network, its loop and its curves: nothing hidden.",
        "07_depth_hurts_without_shortcuts.py, which takes the shortcuts away.",
    )


@minires.no_grad()
def predict(model, test: data.ArrayDataset) -> np.ndarray:
    model.eval()
    return np.concatenate([model(images).argmax(1).numpy() for images, _ in data.BatchLoader(test, 250)])


def draw(figure, rows: list[dict[str, float]], title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(rows) + 1)
    left.plot(epochs, [r["loss"] for r in rows], "o-", ms=4, color=BLUE)
    left.set(title="Training loss", xlabel="epoch", ylim=(0, None))
    right.plot(epochs, [r["train"] for r in rows], "o--", ms=4, color=BLUE, label="training (augmented)")
    right.plot(
        epochs, [r["test"] for r in rows], "s-", ms=4, color=ORANGE, label=f"test ({rows[-1]['test']:.1f} % at the end)"
    )
    right.set(title="Accuracy (%)", xlabel="epoch", ylim=(None, 102))
    right.legend(loc="lower right")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)


if __name__ == "__main__":
    main()
