"""Augmentations: each against its formula, its distribution, and as a pure function of (seed, epoch, index)."""

import numpy as np
import pytest

from minires.data.augment import (
    AlternatingFlip,
    ColorJitter,
    Cutout,
    Flip,
    PadCrop,
    RandomErasing,
    Translate,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    crop,
    grey,
    known_steps,
    parse_step,
)
from minires.data.augment.step import ImageStep, fill_value
from minires.data.counter_random import Draws
from minires.errors import ShapeError
from tests.data.samples import random_dataset
from tests.tolerances import tolerance

MEAN = np.array([0.2, 0.5, 0.8])
IMAGES = random_dataset(24).images
IMAGE_STEPS = [name for name in known_steps() if isinstance(parse_step(name), ImageStep)]

COMPUTE_IN_FLOAT = ("color_jitter", "random_resized_crop", "shrink")


def draws(count, seed=0, epoch=0, first=0):
    return Draws(seed, epoch, range(first, first + count))


@pytest.mark.parametrize("name", [*IMAGE_STEPS, "random_erasing:value=noise", "pad_crop:mode=reflect"])
def test_image_step_depends_on_each_sample_alone(name):
    step = parse_step(name)
    together = step(IMAGES, draws(24), MEAN)
    order = np.random.default_rng(0).permutation(24)
    assert np.array_equal(step(IMAGES[order], Draws(0, 0, order), MEAN), together[order])
    for index in (0, 7):
        assert np.array_equal(step(IMAGES[[index]], Draws(0, 0, [index]), MEAN)[0], together[index])


# shrink draws nothing, and changes the shape: see test_augment_resample.py
@pytest.mark.parametrize("name", [n for n in IMAGE_STEPS if n != "shrink"])
def test_image_step_changes_with_the_epoch_and_not_its_input(name):
    step, before = parse_step(name), IMAGES.copy()
    first, second = step(IMAGES, draws(24), MEAN), step(IMAGES, draws(24, epoch=1), MEAN)
    assert first.shape == IMAGES.shape
    assert not np.array_equal(first, second)
    assert np.array_equal(IMAGES, before)


@pytest.mark.parametrize("name", [n for n in IMAGE_STEPS if n not in COMPUTE_IN_FLOAT])
def test_image_step_bytes_and_fractions_agree(name):
    step = parse_step(name)
    as_bytes = step(IMAGES, draws(24), fill_value(IMAGES, MEAN)[:, 0, 0] / 255.0) / 255.0
    as_floats = step((IMAGES / 255.0).astype(np.float32), draws(24), fill_value(IMAGES, MEAN)[:, 0, 0] / 255.0)
    assert as_floats.dtype == np.float32
    np.testing.assert_allclose(as_floats, as_bytes, **tolerance("float32", 1))


def test_crop_cuts_the_window():
    padded = np.arange(2 * 3 * 6 * 7).reshape(2, 3, 6, 7)
    out = crop(padded, np.array([0, 2]), np.array([3, 1]), 4, 4)
    assert np.array_equal(out[0], padded[0, :, 0:4, 3:7]) and np.array_equal(out[1], padded[1, :, 2:6, 1:5])


@pytest.mark.parametrize("mode", ["zeros", "mean", "reflect"])
def test_pad_crop_is_a_crop_of_the_padded_image_and_reaches_every_place(mode):
    image, p = IMAGES[:1], 2
    out = PadCrop(p, mode)(np.repeat(image, 2000, 0), draws(2000), MEAN)
    widths = ((0, 0), (p, p), (p, p))
    if mode == "reflect":
        padded = np.pad(image[0], widths, mode="reflect")
    else:
        fill = fill_value(IMAGES, MEAN) if mode == "mean" else 0
        inside = np.pad(np.ones_like(image[0]), widths)
        padded = np.where(inside, np.pad(image[0], widths), fill)
    windows = {padded[:, i : i + 8, j : j + 8].tobytes(): (i, j) for i in range(5) for j in range(5)}
    counts = np.zeros((5, 5))
    for each in out:
        counts[windows[each.tobytes()]] += 1  # a KeyError: no window of the padded image
    assert abs(counts / 2000 - 1 / 25).max() < 5 * np.sqrt(0.04 * 0.96 / 2000)


def test_pad_crop_of_zero_is_the_identity():
    assert np.array_equal(PadCrop(0)(IMAGES, draws(24), MEAN), IMAGES)


def test_translate_moves_and_fills_with_the_mean():
    out = Translate(1)(np.repeat(IMAGES[:1], 200, 0), draws(200), MEAN)
    fill, moves = fill_value(IMAGES, MEAN), set()
    for each in out:
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                expected = np.broadcast_to(fill, IMAGES[0].shape).copy()
                for i in range(8):
                    for j in range(8):
                        if 0 <= i - dy < 8 and 0 <= j - dx < 8:
                            expected[:, i, j] = IMAGES[0][:, i - dy, j - dx]
                if np.array_equal(each, expected):
                    moves.add((dy, dx))
                    break
            else:
                continue
            break
        else:
            pytest.fail("a result is no translation of the image")
    assert len(moves) == 9


def test_flip_mirrors_left_and_right_with_its_probability():
    images = np.repeat(IMAGES[:1], 4000, 0)
    out = Flip(0.3)(images, draws(4000), MEAN)
    mirrored = (out == images[..., ::-1]).all(axis=(1, 2, 3))
    assert ((out == images).all(axis=(1, 2, 3)) ^ mirrored).all()
    assert abs(mirrored.mean() - 0.3) < 5 * np.sqrt(0.21 / 4000)
    assert np.array_equal(Flip(0.0)(IMAGES, draws(24), MEAN), IMAGES)
    assert np.array_equal(Flip(1.0)(IMAGES, draws(24), MEAN), IMAGES[..., ::-1])


def test_alternating_flip_shows_the_other_side_in_the_next_epoch():
    images = np.repeat(IMAGES[:1], 2000, 0)
    epochs = [AlternatingFlip()(images, draws(2000, epoch=epoch), MEAN) for epoch in range(5)]
    for epoch in range(1, 5):
        assert np.array_equal(epochs[epoch], epochs[epoch - 1][..., ::-1])
    assert abs((epochs[0] == images).all(axis=(1, 2, 3)).mean() - 0.5) < 5 * np.sqrt(0.25 / 2000)


@pytest.mark.parametrize("size", [3, 4])
def test_cutout_paints_one_square_with_a_uniform_centre(size):
    images = np.full((4000, 1, 8, 8), 255, np.uint8)
    holes = Cutout(size)(images, draws(4000), np.zeros(1))[:, 0] == 0
    # A pixel is covered if the centre is one of the `size` places around it in each axis, as far as they exist.
    centres = np.arange(8) - size // 2
    covers = np.array([((centres <= i) & (i < centres + size)).mean() for i in range(8)])
    expected = np.outer(covers, covers)
    assert abs(holes.mean(axis=0) - expected).max() < 5 * np.sqrt(0.25 / 4000)
    for hole in holes[:50]:
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        assert len(rows) <= size and len(columns) <= size
        assert hole.sum() == len(rows) * len(columns) > 0  # one full rectangle


def test_cutout_paints_the_mean_colour():
    out = Cutout(8)(IMAGES, draws(24), MEAN)
    painted = (out != IMAGES).any(axis=1, keepdims=True)
    assert painted.any()
    assert (np.where(painted, out, fill_value(IMAGES, MEAN)) == fill_value(IMAGES, MEAN)).all()


def test_random_erasing_frequency_area_and_place():
    images = np.full((4000, 1, 20, 20), 255, np.uint8)
    step = RandomErasing(p=0.4, low=0.1, high=0.3)
    holes = step(images, draws(4000), np.zeros(1))[:, 0] == 0
    erased = holes.any(axis=(1, 2))
    assert abs(erased.mean() - 0.4) < 5 * np.sqrt(0.24 / 4000)
    area = holes[erased].mean(axis=(1, 2))
    assert area.min() > 0.08 and area.max() < 0.34  # rounding to whole pixels moves the limits a little
    assert area.max() - area.min() > 0.15
    tall, wide = holes[erased].any(axis=2).sum(axis=1), holes[erased].any(axis=1).sum(axis=1)
    assert np.array_equal(tall * wide, holes[erased].sum(axis=(1, 2)))
    assert abs((tall > wide).mean() - (tall < wide).mean()) < 0.15  # neither direction is favoured
    covered = holes[erased].mean(axis=0)
    assert covered.min() > 0  # the corners are reached
    assert abs(covered - covered[::-1, ::-1]).max() < 10 * np.sqrt(0.25 / erased.sum())  # symmetric about the centre


def test_random_erasing_noise_is_uniform_and_leaves_the_rest():
    images = np.full((2000, 3, 10, 10), 7, np.uint8)
    out = RandomErasing(p=1.0, value="noise")(images, draws(2000), MEAN)
    changed = out[out != 7]
    counts = np.bincount(changed, minlength=256)
    assert counts[7] == 0 and (np.delete(counts, 7) > 0).all()
    assert abs(changed.mean() - 127.97) < 5 * 74 / np.sqrt(changed.size)
    assert 0.02 < (out != 7).mean() < 0.33
    floats = RandomErasing(p=1.0, value="noise")(np.full((4, 3, 10, 10), 2, np.float32), draws(4), MEAN)
    assert floats.dtype == np.float32 and ((floats == 2) | ((floats >= 0) & (floats <= 1))).all()


def test_random_erasing_that_never_fits_leaves_the_image():
    images = np.full((50, 1, 4, 4), 9, np.uint8)
    assert np.array_equal(RandomErasing(p=1.0, low=1.0, high=1.0)(images, draws(50), np.zeros(1)), images)


@pytest.mark.parametrize(
    ("adjust", "enhancer"),
    [(adjust_brightness, "Brightness"), (adjust_contrast, "Contrast"), (adjust_saturation, "Color")],
)
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_color_adjustments_are_pillows(adjust, enhancer, factor):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    from PIL import ImageEnhance

    ours = adjust(IMAGES[:4] / np.float32(255), np.full(4, factor)) * 255
    for image, mine in zip(IMAGES[:4], ours, strict=True):
        theirs = getattr(ImageEnhance, enhancer)(image_module.fromarray(image.transpose(1, 2, 0))).enhance(factor)
        # Pillow rounds the grey level, and the mean of it, to bytes: each costs up to one level of difference.
        assert abs(np.asarray(theirs).transpose(2, 0, 1) - mine).max() < 1 + 2 * abs(1 - factor)


def test_color_jitter_factors_are_uniform():
    images = np.full((4000, 1, 2, 2), 100, np.uint8)
    factor = ColorJitter(0.5, 0, 0)(images, draws(4000), MEAN)[:, 0, 0, 0] * 255 / 100
    assert 0.5 <= factor.min() < 0.51 and 1.49 < factor.max() <= 1.501
    assert abs(factor.mean() - 1) < 5 / np.sqrt(12 * 4000)


def test_color_jitter_of_nothing_is_the_identity():
    out = ColorJitter(0, 0, 0)(IMAGES, draws(24), MEAN)
    np.testing.assert_allclose(out, IMAGES / 255, **tolerance("float32", 1))


def test_grey_needs_one_or_three_channels():
    assert grey(np.ones((2, 1, 3, 3), np.float32)).shape == (2, 1, 3, 3)
    with pytest.raises(
        ShapeError, match=r"color_jitter: images need 1 or 3 channels, got images.shape = \(2, 4, 3, 3\)"
    ):
        grey(np.ones((2, 4, 3, 3), np.float32))
