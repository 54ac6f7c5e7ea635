"""Small data sets for the tests of this room."""

import numpy as np

from minires.data import ArrayDataset


def random_dataset(count=60, channels=3, height=8, width=8, classes=5, seed=0):
    """Random bytes with labels 0, 1, ..., each image different."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    return ArrayDataset(images, np.arange(count) % classes, [f"class{i}" for i in range(classes)], "random")


def flat_dataset(count=40, size=8):
    """Image i is one grey level everywhere, and the level tells the label: level = 20 * label. Normalisation: none."""
    labels = np.arange(count) % 10
    images = np.broadcast_to((20 * labels).astype(np.uint8)[:, None, None, None], (count, 1, size, size))
    return ArrayDataset(images, labels, name="flat", mean=[0.0], std=[1.0])
