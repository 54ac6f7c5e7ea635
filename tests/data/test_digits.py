"""The data set in the package: its hash, its equality with scikit-learn's copy, its fixed split."""

import hashlib
from importlib import resources

import numpy as np
import pytest

from minires.data import digits, load
from minires.errors import DataError


def test_digits_content_is_the_stated_one():
    images, labels = digits.arrays()
    assert images.shape == (1797, 8, 8) and labels.shape == (1797,)
    assert images.dtype == labels.dtype == np.uint8 and images.min() == 0 and images.max() == 16
    assert digits.content_hash(images, labels) == digits.SHA256
    provenance = (resources.files(digits) / "PROVENANCE.md").read_text()
    assert digits.SHA256 in provenance and "CC BY 4.0" in provenance
    assert len((resources.files(digits) / "digits.npz").read_bytes()) < 80_000


def test_digits_equal_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn, whose copy this is, is not installed")
    theirs = datasets.load_digits()
    images, labels = digits.arrays()
    assert np.array_equal(images, theirs.images) and np.array_equal(labels, theirs.target)


def test_digits_split_is_the_fixed_one():
    train, test = load("digits")
    assert (len(train), len(test)) == (digits.TRAIN_COUNT, digits.TEST_COUNT) == (1437, 360)
    assert train.image_shape == digits.IMAGE_SHAPE and train.classes == tuple("0123456789")
    assert np.bincount(test.labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert np.array_equal(train.mean, test.mean) and np.array_equal(train.std, test.std)
    whole = np.concatenate([train.images, test.images]).reshape(1797, 64).tolist()
    images, _ = digits.arrays()
    spread = np.rint(images * (255 / 16)).astype(np.uint8).reshape(1797, 64)
    assert sorted(whole) == sorted(spread.tolist())
    assert np.array_equal(np.unique(spread), np.rint(np.arange(17) * 255 / 16))
    # Another split would change every accuracy that was ever stated.
    assert hashlib.sha256(test.images.tobytes()).hexdigest() == SPLIT_SHA256


def test_digits_corrupt_file_is_named(monkeypatch):
    monkeypatch.setattr(digits, "SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"digits\.npz: the content has sha256 87ff0c9e.*, expected 0000"):
        digits.load()


SPLIT_SHA256 = "933b670f1c0c42f36ab7a754cd75e99a5661811b8d83836798ce77634505971e"
