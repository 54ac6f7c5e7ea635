"""How much slower than PyTorch is a training step today? The honest figure of the README; not a test.

    OPENBLAS_NUM_THREADS=1 python -m tests.speed [--threads 1] [--rounds 7]

Both run the same ResNet-20 training step (28x28, batch 128, SGD with momentum) from the same weights, in turn, in one
process; the losses are compared before anything is timed. Prints the median of each and of the ratios round by round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import minires
from minires.models import build
from tests.models import twins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; set OPENBLAS_NUM_THREADS for minires")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((128, 1, 28, 28)).astype(np.float32)
    y = generator.integers(0, 10, 128)

    ours = build("resnet20", num_classes=10, in_channels=1, image_size=28)
    theirs = twins.Twin([3, 3, 3], [16, 32, 64], stem_width=16, shortcut="A", num_classes=10, in_channels=1)
    with torch.no_grad():
        twins.copy_weights(ours, theirs)
    contenders: dict[str, Callable[[], float]] = {
        "minires": _step(minires, ours, minires.tensor(x), minires.tensor(y)),
        "torch": _step(torch, theirs.to(memory_format=torch.channels_last), torch.from_numpy(x), torch.from_numpy(y)),
    }
    first = {name: step() for name, step in contenders.items()}
    assert abs(first["minires"] - first["torch"]) < 1e-3, f"the losses differ: {first}"
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, step in contenders.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(
            f"{name:<8} {statistics.median(times) * 1e3:7.0f} ms a step, {128 / statistics.median(times):5.0f} images/s"
        )
    ratios = [a / b for a, b in zip(seconds["minires"], seconds["torch"], strict=True)]
    print(f"minires / torch {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})")


def _step(library, model, x, y) -> Callable[[], float]:
    optimizer = library.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        loss = library.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
