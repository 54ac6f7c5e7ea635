"""Run in a process of its own: two training steps, and how much resident memory they took at most. Prints the bytes.

python measured_step.py MODEL SIZE BATCH
"""

from __future__ import annotations

import sys

import numpy as np

from minires import models, optim
from minires.bench.memory import growth
from minires.nn import functional as F
from minires.tensor import Tensor


def steps(model, batch: int, size: int, optimizer) -> None:
    """Two, as a training loop does them: the second holds the momentum beside the activations."""
    images = Tensor(np.zeros((batch, 3, size, size), np.float32) + 0.5)
    labels = Tensor(np.zeros(batch, np.int64))
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def main(name: str, size: int, batch: int) -> None:
    model = models.build(name, num_classes=10, in_channels=3, image_size=size)
    # With one tiny step the code is loaded, which is no part of what is measured.
    steps(model, 2, size, optim.SGD(model.parameters(), lr=0.0, momentum=0.9))
    model.zero_grad()
    optimizer = optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    print(growth(lambda: steps(model, batch, size, optimizer))[0])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
