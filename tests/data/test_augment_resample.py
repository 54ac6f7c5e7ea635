"""Resampling against PyTorch's antialiased interpolation, and what is drawn against its distribution."""

from __future__ import annotations

import numpy as np
import pytest

from minires.data.augment import RandomResizedCrop, Shrink, resample, resampling_matrix
from minires.data.augment.pipeline import Pipeline
from minires.data.counter_random import Draws
from minires.errors import ArgumentError
from tests.data.samples import random_dataset
from tests.tolerances import assert_close

MEAN = np.array([0.2, 0.5, 0.8])


def draws(count: int, epoch: int = 0) -> Draws:
    return Draws(0, epoch, range(count))


@pytest.mark.parametrize("out", [(5, 9), (14, 14), (28, 28), (40, 31), (1, 1)])
def test_resample_is_torchs_antialiased_bilinear(out: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch judges the interpolation")
    images = np.random.default_rng(0).random((3, 2, 28, 19), np.float32)
    top, left, tall, wide = np.array([0, 3, 10]), np.array([0, 2, 7]), np.array([28, 17, 4]), np.array([19, 5, 12])
    ours = resample(images, resampling_matrix(top, tall, 28, out[0]), resampling_matrix(left, wide, 19, out[1]))
    for n in range(3):
        window = torch.tensor(images[n : n + 1, :, top[n] : top[n] + tall[n], left[n] : left[n] + wide[n]])
        theirs = torch.nn.functional.interpolate(window, out, mode="bilinear", antialias=True, align_corners=False)
        assert_close(ours[n], theirs[0].numpy(), "float32", 28 * 19)


def test_resampling_of_the_whole_to_its_own_size_is_the_identity() -> None:
    zero, whole = np.zeros(1), np.full(1, 9)
    np.testing.assert_array_equal(resampling_matrix(zero, whole, 9, 9)[0], np.eye(9, dtype=np.float32))


def test_random_resized_crop_windows_fit_and_have_their_area_and_shape() -> None:
    step = RandomResizedCrop(low=0.2, ratio=0.5)
    top, left, tall, wide = step.windows(100, 80, draws(20000))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 100).all()
    assert (left + wide <= 80).all()
    share, aspect = tall * wide / 8000, wide / tall
    assert 0.19 < share.min() < 0.22
    assert 0.9 < share.max() <= 1
    assert 0.48 < aspect.min() < 0.53
    assert 1.9 < aspect.max() < 2.1
    # Small windows always fit: among them the logarithm of the ratio is fair to tall and wide.
    small = np.log(aspect[share < 0.3])
    assert abs(small.mean()) < 4 * small.std() / np.sqrt(len(small)) + 0.01
    free = tall < 60  # every place is as likely: the mean of a uniform fraction is 1/2
    assert abs((top[free] / (100 - tall[free])).mean() - 0.5) < 0.02


def test_random_resized_crop_that_never_fits_takes_the_whole() -> None:
    images = random_dataset(5).images
    top, left, tall, wide = RandomResizedCrop(low=1.0, ratio=0.99).windows(3, 400, draws(50))
    assert set(tall) == {3}
    assert set(wide) == {400}
    assert not top.any()
    assert not left.any()
    out = RandomResizedCrop(low=1.0, ratio=1.0)(images, draws(5), MEAN)
    assert out.shape == images.shape
    assert out.dtype == np.float32


def test_shrink_shows_smaller_images_in_the_first_epochs_only() -> None:
    data = random_dataset(4)
    side = data.images.shape[2]
    pipeline = Pipeline([f"shrink:{side // 4},2", f"shrink:{side // 2},3"])
    shapes = [pipeline.batch(data, range(4), 0, epoch)[0].shape[2] for epoch in range(5)]
    assert shapes == [side // 4, side // 4, side // 2, side, side]


def test_shrink_to_half_is_the_triangle_mean_and_keeps_a_constant() -> None:
    images = np.full((2, 3, 8, 8), 200, np.uint8)
    out = Shrink(4, 1)(images, draws(2), MEAN)
    assert out.shape == (2, 3, 4, 4)
    assert_close(out, np.full_like(out, 200 / 255), "float32", 8)
    wide = Shrink(4, 1)(np.zeros((1, 3, 8, 16), np.uint8), draws(1), MEAN)
    assert wide.shape == (1, 3, 4, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shrink(0), "shrink: pixels must be at least 1, got 0"),
        (lambda: Shrink(8, -1), "shrink: epochs must be at least 0, got -1"),
        (lambda: RandomResizedCrop(0.0), r"random_resized_crop: low must be in 0 \.\. 1, and not 0, got 0\.0"),
        (lambda: RandomResizedCrop(0.1, 2.0), r"random_resized_crop: ratio must be in 0 \.\. 1, and not 0, got 2\.0"),
    ],
)
def test_resampling_steps_refuse_bad_options(make, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()
