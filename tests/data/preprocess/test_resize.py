"""resize: equal to Pillow's in every bit, on any sizes; only a region of it; what it refuses."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minires.data.preprocess import INTERPOLATIONS, resize
from minires.errors import ArgumentError, DTypeError, ShapeError, UnknownNameError

Image = pytest.importorskip("PIL.Image", reason="Pillow, the judge of resize, is not installed")
PIL = pytest.importorskip("PIL")

# Pillow 13 begins with the columns where much more height than width is lost; before, it never did.
BEFORE_13 = int(PIL.__version__.split(".")[0]) < 13
ROWS_FIRST = True if BEFORE_13 else None
SIDES = st.one_of(st.integers(1, 12), st.integers(1, 130))


def pixels(h: int, w: int, channels: int | None, seed: int = 0) -> np.ndarray:
    """Noise, with black and white patches at which a cubic filter overshoots."""
    rng = np.random.default_rng(seed)
    shape = (h, w) if channels is None else (h, w, channels)
    image = rng.integers(0, 256, shape, np.uint8)
    image[rng.random(shape[:2]) < 0.3] = 0
    image[rng.random(shape[:2]) < 0.3] = 255
    return image


def pillow(image: np.ndarray, h: int, w: int, interpolation: str) -> Any:
    resample = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(image).resize((w, h), resample))


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(INTERPOLATIONS), st.sampled_from([None, 3]), st.integers(0, 99))
def test_resize_equals_pillow_bit_for_bit(
    h: int, w: int, height: int, width: int, interpolation: str, channels: int | None, seed: int
) -> None:
    image = pixels(h, w, channels, seed)
    expected = pillow(image, height, width, interpolation)
    assert np.array_equal(resize(image, height, width, interpolation, rows_first=ROWS_FIRST), expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("h", "w", "height", "width"),
    [
        (1, 1, 7, 5),
        (480, 640, 224, 299),
        (33, 900, 17, 450),  # thirds and halves of a pixel: ties of the rounding
        (900, 33, 450, 17),
        (61, 61, 61, 20),
        (61, 61, 20, 61),
        (2500, 3, 2, 3),
        (3, 2500, 3, 2),
        (40, 30, 400, 301),
    ],
)
def test_resize_equals_pillow_on_sizes_that_matter(interpolation: str, h: int, w: int, height: int, width: int) -> None:
    image = pixels(h, w, 3)
    expected = pillow(image, height, width, interpolation)
    assert np.array_equal(resize(image, height, width, interpolation, rows_first=ROWS_FIRST), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_equals_pillow_on_a_photo_in_blocks(monkeypatch: pytest.MonkeyPatch, interpolation: str) -> None:
    """A photo is worked on in pieces; here small ones, so that pieces meet."""
    module = importlib.import_module("minires.data.preprocess.resize")  # the package gives the function this name
    monkeypatch.setattr(module, "FLOATS", 50_000)
    monkeypatch.setattr(module, "WORK", 5_000)
    image = pixels(750, 1000, 3)
    assert np.array_equal(resize(image, 256, 341, interpolation), pillow(image, 256, 341, interpolation))


@pytest.mark.skipif(BEFORE_13, reason="Pillow before 13 has one order of passes")
def test_resize_order_of_passes_is_pillow_13s() -> None:
    """Of each pair one size begins with the columns, one with the rows, and the two orders differ there."""
    for h, w, height, width in [(115, 40, 94, 30), (114, 40, 94, 30), (84, 76, 35, 52), (84, 77, 35, 52)]:
        image = pixels(h, w, None)
        rows_first = resize(image, height, width, rows_first=True)
        columns_first = resize(image, height, width, rows_first=False)
        assert not np.array_equal(rows_first, columns_first)
        assert np.abs(rows_first.astype(int) - columns_first).max() == 1
        assert np.array_equal(resize(image, height, width), pillow(image, height, width, "bilinear"))
        by_rows = pillow(pillow(image, h, width, "bilinear"), height, width, "bilinear")
        assert np.array_equal(rows_first, by_rows)


@given(st.data(), st.sampled_from(INTERPOLATIONS), st.booleans())
def test_resize_a_region_is_cut_out_of_the_whole(data: st.DataObject, interpolation: str, rows_first: bool) -> None:
    h, w, height, width = (data.draw(SIDES) for _ in range(4))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    image = pixels(h, w, 3)
    whole = resize(image, height, width, interpolation, rows_first=rows_first)
    part = resize(image, height, width, interpolation, (top, left, rows, columns), rows_first)
    assert np.array_equal(part, whole[top : top + rows, left : left + columns])


def test_resize_a_region_costs_what_the_region_costs() -> None:
    """A line of one pixel's height, enlarged to 256: the whole result would have 20 GB."""
    image = pixels(1, 100_000, 3)
    out = resize(image, 256, 25_600_000, "bilinear", (16, 12_000_000, 224, 224))
    assert out.shape == (224, 224, 3)
    assert (out == out[:1]).all()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_resize_gives_a_new_array_of_any_memory_form(interpolation: str) -> None:
    image = pixels(40, 60, 3)
    for view in (image[::2, ::-1], image.transpose(1, 0, 2), np.asfortranarray(image)):
        before = view.copy()
        expected = pillow(np.ascontiguousarray(view), 21, 30, interpolation)
        assert np.array_equal(resize(view, 21, 30, interpolation), expected)
        same = resize(view, *view.shape[:2], interpolation)
        assert np.array_equal(same, before) and not np.may_share_memory(same, view)
        assert np.array_equal(view, before)


def test_resize_keeps_a_plain_image_plain() -> None:
    """Coefficients add up to one within a rounding of 2^-22 each: 0 and 255 stay, whatever the filter."""
    for value in (0, 1, 127, 128, 254, 255):
        for interpolation in INTERPOLATIONS:
            out = resize(np.full((37, 53), value, np.uint8), 300, 11, interpolation)
            assert (out == value).all()


def test_resize_of_a_photo_is_as_fast_as_a_few_passes_over_it() -> None:
    image = np.zeros((1500, 2000, 3), np.uint8)
    resize(image[:300], 25, 341)  # BLAS is warm

    def seconds(run: Any) -> float:
        begin = time.thread_time()
        run()
        return time.thread_time() - begin

    # Beside honest work on the same pixels in the same thread: a float64 copy of them all. Idle, it is 5 times that.
    honest = min(seconds(lambda: image.astype(np.float64)) for _ in range(3))
    ours = min(seconds(lambda: resize(image, 256, 341, "bicubic")) for _ in range(3))
    assert ours < 20 * honest


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((4, 4), np.float32), 2, 2), DTypeError, "image must be a uint8 array, got float32"),
        (([[0]], 2, 2), DTypeError, "image must be a uint8 array, got list"),
        ((np.zeros(4, np.uint8), 2, 2), ShapeError, r"must be \(H, W\) or \(H, W, C\) and not empty, got shape \(4,\)"),
        ((np.zeros((4, 0, 3), np.uint8), 2, 2), ShapeError, r"not empty, got shape \(4, 0, 3\)"),
        ((np.zeros((4, 4), np.uint8), 0, 2), ArgumentError, "height must be a positive int, got 0"),
        ((np.zeros((4, 4), np.uint8), 2, 2.5), ArgumentError, "width must be a positive int, got 2.5"),
        ((np.zeros((4, 4), np.uint8), 2, 2, "cubic"), UnknownNameError, "unknown interpolation 'cubic': did you mean"),
        (
            (np.zeros((4, 4), np.uint8), 2, 2, "box", (1, 0, 2, 2)),
            ArgumentError,
            r"region \(1, 0, 2, 2\) .* is not inside of 2x2 pixels",
        ),
    ],
)
def test_resize_refuses(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resize(*arguments)
