"""Images in memory: layouts, normalisation, statistics, fixed splits, and what bad arrays get."""

import numpy as np
import pytest

from minires.data import ArrayDataset, channel_statistics, normalize, split_validation
from minires.data.array_dataset import stratified_indices
from minires.errors import ArgumentError, DataError, DTypeError, ShapeError
from tests.data.samples import random_dataset
from tests.tolerances import tolerance

IMAGES = np.zeros((2, 1, 4, 4), np.uint8)


def test_array_dataset_layouts_agree():
    nchw = random_dataset(6).images
    labels = np.arange(6)
    assert np.array_equal(ArrayDataset(nchw.transpose(0, 2, 3, 1), labels, layout="NHWC").images, nchw)
    grey = ArrayDataset(nchw[:, 0], labels, layout="NHW")
    assert grey.images.shape == (6, 1, 8, 8) and np.array_equal(grey.images[:, 0], nchw[:, 0])
    assert grey.image_shape == (1, 8, 8) and grey.num_classes == 6 and grey.classes[5] == "5"


def test_array_dataset_item_is_normalised():
    dataset = random_dataset(3)
    image, label = dataset[1]
    expected = (dataset.images[1] / 255.0 - dataset.mean[:, None, None]) / dataset.std[:, None, None]
    assert label == 1 and type(label) is int
    np.testing.assert_allclose(np.asarray(image.numpy()), expected, **tolerance("float32", 2))


def test_normalize_bytes_and_fractions_agree():
    images, mean, std = random_dataset(4).images, np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.3, 0.4])
    expected = (images / 255.0 - mean[:, None, None]) / std[:, None, None]
    for given in (images, (images / 255.0).astype(np.float32)):
        out = normalize(given, mean, std)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, expected, **tolerance("float32", 4))


def test_channel_statistics_are_numpys():
    images = random_dataset(10).images
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), **tolerance("float64", images.size))
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), **tolerance("float64", images.size))
    assert channel_statistics(IMAGES)[1].tolist() == [1.0]  # one grey level only: no division by zero


def test_subset_keeps_the_parents_statistics():
    dataset = random_dataset(20)
    part = dataset.subset([3, 1])
    assert np.array_equal(part.images, dataset.images[[3, 1]]) and part.labels.tolist() == [3, 1]
    assert np.array_equal(part.mean, dataset.mean) and np.array_equal(part.std, dataset.std)
    assert repr(part) == "ArrayDataset('random', 2 images of 3x8x8, 5 classes)"


def test_split_validation_is_stratified_disjoint_and_fixed():
    labels = np.repeat(np.arange(4), [100, 50, 30, 20])
    dataset = ArrayDataset(np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1), labels)
    train, validation = split_validation(dataset, 0.1, seed=5)
    assert np.bincount(validation.labels).tolist() == [10, 5, 3, 2]
    assert sorted([*train.images.reshape(-1).tolist(), *validation.images.reshape(-1).tolist()]) == list(range(200))
    again = split_validation(dataset, 0.1, seed=5)[1]
    other = split_validation(dataset, 0.1, seed=6)[1]
    assert np.array_equal(validation.images, again.images)
    assert not np.array_equal(validation.images, other.images)
    assert train.name == "data/train" and validation.name == "data/validation"


def test_stratified_indices_gives_the_exact_count_with_remainders():
    labels = np.array([0] * 5 + [1] * 5 + [2] * 4)
    rest, taken = stratified_indices(labels, 4, seed=0)  # quotas 1.43, 1.43, 1.14: the fourth goes to the first class
    assert np.bincount(labels[taken]).tolist() == [2, 1, 1]
    assert sorted([*rest, *taken]) == list(range(14))
    assert stratified_indices(labels, 0, 0)[1].size == 0 and stratified_indices(labels, 14, 0)[0].size == 0


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: ArrayDataset(IMAGES, [0, 1], layout="CHW"), ArgumentError, "layout must be one of NCHW, NHWC, NHW"),
        (lambda: ArrayDataset(IMAGES[0], [0]), ShapeError, r"needs 4 axes \(NCHW\), got images.shape = \(1, 4, 4\)"),
        (lambda: ArrayDataset(IMAGES / 1.0, [0, 1]), DTypeError, r"must be uint8 \(0 .. 255\), got float64"),
        (lambda: ArrayDataset(IMAGES, [0]), ShapeError, r"labels needs shape \(2,\), one for each image, got \(1,\)"),
        (lambda: ArrayDataset(IMAGES, [0.0, 1.0]), DTypeError, "labels must be integers, got float64"),
        (lambda: ArrayDataset(IMAGES, [0, 3], "ab", "x"), DataError, r"x: label 3 of image 1 is outside 0 .. 1"),
        (lambda: ArrayDataset(IMAGES, [2, 0], "ab"), DataError, "label 2 of image 0 is outside"),
        (lambda: ArrayDataset(IMAGES, [-1, 0], "ab"), DataError, "label -1 of image 0 is outside"),
        (lambda: ArrayDataset(IMAGES, [0, 1], mean=[0, 0]), ShapeError, "mean needs one value for each of 1 channels"),
        (lambda: ArrayDataset(IMAGES, [0, 1], std=[0]), ArgumentError, r"std must be positive, got \[0.0\]"),
        (
            lambda: split_validation(ArrayDataset(IMAGES, [0, 1]), 1.0),
            ArgumentError,
            "fraction must be between 0 and 1",
        ),
        (lambda: stratified_indices(np.zeros(3, int), 4, 0), ArgumentError, "count must be in 0 .. 3, got 4"),
    ],
)
def test_array_dataset_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()
