"""The data set in the package: 1,797 handwritten digits of 8 x 8 pixels. The first training run needs no network.

Origin, conversion, hashes and licence are in PROVENANCE.md beside this file.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np

from minires.data.array_dataset import Array, ArrayDataset, stratified_indices
from minires.data.formats import check_hash, read_npz

TITLE = "UCI handwritten digits"
LICENCE = "CC BY 4.0, E. Alpaydin and C. Kaynak (see minires/data/digits/PROVENANCE.md)"
SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
IMAGE_SHAPE = (1, 8, 8)
TRAIN_COUNT, TEST_COUNT = 1437, 360
SPLIT_SEED = 0


def arrays() -> tuple[Array, Array]:
    """The data as it is stored: images (1797, 8, 8) uint8 in 0 .. 16, labels (1797,) uint8; the hash is checked."""
    path = resources.files(__name__) / "digits.npz"
    stored = read_npz(path.read_bytes(), path)
    images, labels = stored["images"], stored["labels"]
    check_hash(images.tobytes() + labels.tobytes(), SHA256, path)
    return images, labels


def load() -> tuple[ArrayDataset, ArrayDataset]:
    """(train, test): 1,437 and 360 images of 1 x 8 x 8, grey levels 0 .. 16 spread over 0 .. 255.

    The split is stratified and fixed (seed 0): each class in its proportion, and old and new hands mixed, as in most
    published figures. It is the easier one: scikit-learn's SVC (RBF kernel, gamma .001) reaches 99 % on a mixed split
    and 96 % when trained on the first 1,437 rows and tested on the last 360, presumably because the rows come writer by
    writer. So the test accuracy tells how well new digits of known writers are read.
    """
    images, labels = arrays()
    spread = np.rint(images * (255 / 16)).astype(np.uint8)  # 17 levels stay 17 levels
    rest, taken = stratified_indices(labels.astype(np.int64), TEST_COUNT, SPLIT_SEED)
    classes = [str(digit) for digit in range(10)]
    train = ArrayDataset(spread[rest, None], labels[rest], classes, "digits/train")
    return train, ArrayDataset(spread[taken, None], labels[taken], classes, "digits/test", train.mean, train.std)


def content_hash(images: Array, labels: Array) -> str:
    """SHA-256 of the images' bytes followed by the labels'."""
    return hashlib.sha256(images.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
