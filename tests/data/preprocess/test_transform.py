"""ImageTransform: each library's roundings, beside the rules written out with Pillow and torch; arrays, files, errors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minires.data.preprocess import ImageTransform, Resize
from minires.errors import ArgumentError, DataError, DTypeError, ShapeError, UnknownNameError
from tests.torch_oracle import torch

Image = pytest.importorskip("PIL.Image", reason="Pillow, the judge of resizing, is not installed")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNIT: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "rescale": 1.0}  # the bytes as floats
SIDES = st.integers(1, 80)


def picture(h: int, w: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def torchvision_by_hand(image: np.ndarray, resize: int, size: int) -> np.ndarray:
    """torchvision's Resize(int), CenterCrop, ToTensor, Normalize, from its documentation, with Pillow and torch."""
    h, w = image.shape[:2]
    short, long = sorted((h, w))
    new = (resize, int(resize * long / short)) if h <= w else (int(resize * long / short), resize)
    img = Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR)
    pad = [max(size - side, 0) for side in new]
    canvas = Image.new("RGB", (new[1] + pad[1], new[0] + pad[0]))
    canvas.paste(img, (pad[1] // 2, pad[0] // 2))
    top, left = (round((side - size) / 2.0) for side in (canvas.height, canvas.width))
    cropped = np.array(canvas.crop((left, top, left + size, top + size)))
    x = torch.from_numpy(cropped).permute(2, 0, 1).to(torch.float32).div(255)
    return x.sub(torch.tensor(MEAN)[:, None, None]).div(torch.tensor(STD)[:, None, None]).numpy()


@given(SIDES, SIDES, st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_transform_equals_torchvision_bit_for_bit(h: int, w: int, resize: int, size: int, seed: int) -> None:
    image = picture(h, w, seed)
    transform = ImageTransform((size, size), Resize("shorter", resize, resize))
    assert np.array_equal(transform(image), torchvision_by_hand(image, resize, size))


@pytest.mark.parametrize(
    ("crop", "have", "want", "first"),
    [
        ("torchvision", 11, 8, 2),  # 1.5 to the even 2
        ("torchvision", 9, 8, 0),  # 0.5 to the even 0
        ("torchvision", 13, 8, 2),
        ("huggingface", 11, 8, 1),
        ("huggingface", 9, 8, 0),
        ("huggingface", 13, 8, 2),
    ],
)
def test_transform_crops_where_the_library_does(crop: str, have: int, want: int, first: int) -> None:
    image = np.repeat(np.arange(have, dtype=np.uint8)[:, None], 20, axis=1)
    out = ImageTransform((want, 20), crop=crop, **UNIT)(image)
    assert out[0, :, 0].tolist() == list(range(first, first + want))


@pytest.mark.parametrize(("crop", "before"), [("torchvision", 1), ("huggingface", 2)])
def test_transform_pads_an_image_below_the_crop(crop: str, before: int) -> None:
    image = np.full((5, 9, 3), 7, np.uint8)
    out = ImageTransform((8, 6), crop=crop, fill=(1, 2, 3), **UNIT)(image)
    assert out.shape == (3, 8, 6)
    rows = [0] * before + [1] * 5 + [0] * (3 - before)
    for channel, fill in enumerate((1, 2, 3)):
        assert out[channel, :, 3].tolist() == [7 if inside else fill for inside in rows]
    assert (ImageTransform((8, 6), crop=crop, **UNIT)(image)[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("resize", "image", "target"),
    [
        (Resize("shorter", 20, 20), (30, 47), (20, 31)),
        (Resize("shorter", 20, 20), (47, 30), (31, 20)),
        (Resize("shorter", 20, 20), (20, 33), (20, 33)),
        (Resize("exact", 12, 30), (47, 30), (12, 30)),
        (Resize("cover", 20, 30), (40, 50), (24, 30)),
        (Resize("contain", 20, 30), (40, 50), (20, 25)),
        (Resize("contain", 20, 20), (2000, 3), (20, 1)),
    ],
)
def test_resize_targets(resize: Resize, image: tuple[int, int], target: tuple[int, int]) -> None:
    assert resize.target(*image) == target


def test_transform_takes_paths_arrays_and_pillow_images(tmp_path: Path) -> None:
    pixels = picture(30, 40)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    transform = ImageTransform((16, 16), Resize("shorter", 20, 20))
    expected = transform(pixels)
    assert expected.shape == transform.shape == (3, 16, 16) and expected.dtype == np.float32
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels[::1, ::1]):
        assert np.array_equal(transform(image), expected)
    assert np.array_equal(transform.batch([pixels, tmp_path / "a.png"]), np.stack([expected, expected]))
    assert transform.batch([]).shape == (0, 3, 16, 16)


def test_transform_changes_colour_as_pillow() -> None:
    pixels = picture(9, 9)
    grey = ImageTransform((9, 9), mean=(0.0,), std=(1.0,), rescale=1.0)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(grey(pixels)[0], expected)
    assert np.array_equal(grey(Image.fromarray(pixels))[0], expected)
    color = ImageTransform((9, 9), **UNIT)
    for flat in (expected, expected[..., None]):
        assert np.array_equal(color(flat), np.stack([expected] * 3))


@given(st.floats(0, 1), st.floats(0.01, 2), st.sampled_from([1 / 255, 1.0, 1 / 127.5]))
def test_transform_normalises_in_the_libraries_float32(mean: float, std: float, rescale: float) -> None:
    """(float32(x rescale) - float32(mean)) / float32(std), each operation rounded: for every byte."""
    transform = ImageTransform((16, 16), mean=(mean,) * 3, std=(std,) * 3, rescale=rescale)
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    x = torch.from_numpy((every * np.float64(rescale)).astype(np.float32))
    expected = x.sub(torch.tensor(mean)).div(torch.tensor(std)).numpy()
    assert np.array_equal(transform(every), np.stack([expected] * 3))


def test_transform_of_another_size_keeps_the_proportion_of_the_resize() -> None:
    transform = ImageTransform((224, 224), Resize("shorter", 256, 256))
    assert transform.at(288).resize == Resize("shorter", 329, 329)
    assert transform.at(288).shape == (3, 288, 288)
    assert transform.at((96, 128)).resize == Resize("cover", 109, 146)
    assert ImageTransform((8, 8)).at(9).resize is None


def test_transform_is_a_frozen_value() -> None:
    a, b = (ImageTransform((224, 224), resize=Resize("shorter", 256, 256), class_names=("a", "b")) for _ in range(2))
    assert a == b and hash(a) == hash(b)
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.size = (1, 1)  # type: ignore[misc]
    assert ImageTransform(224, 256) == dataclasses.replace(a, class_names=None)  # type: ignore[arg-type]
    assert ImageTransform(224, (256, 300)).resize == Resize("exact", 256, 300)  # type: ignore[arg-type]
    assert "class_names" not in a.as_dict() and a.as_dict()["resize"]["height"] == 256


def test_transform_reads_well() -> None:
    transform = ImageTransform((224, 224), Resize("shorter", 256, 256), class_names=("a", "b"), source="config.json")
    assert repr(transform) == (
        "<ImageTransform to (3, 224, 224): shorter side to 256 (bilinear), centre 224x224, RGB, mean 0.485 0.456 0.406, "
        "std 0.229 0.224 0.225; 2 class names; from config.json>"
    )
    warped = ImageTransform((8, 9), Resize("exact", 8, 9), crop="huggingface", mean=(0.5,), std=(0.5,), rescale=1.0)
    assert str(warped) == "warped to 8x9 (bilinear), grey, times 1, mean 0.5, std 0.5"
    assert "centre 8x8 by Hugging Face's rounding" in str(ImageTransform((8, 8), crop="huggingface"))
    assert str(Resize("contain", 8, 9)) == "resized to fit into 8x9"
    assert str(Resize("cover", 8, 9)) == "resized to cover 8x9"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 0}, ArgumentError, r"size must be an int or \(height, width\) in 1 .. 16384 pixels, got 0"),
        ({"size": (2, 3, 4)}, ArgumentError, r"size must be an int or \(height, width\)"),
        ({"size": "big"}, ArgumentError, "got 'big'"),
        ({"resize": 100_000}, ArgumentError, "resize must be an int"),
        ({"resize": True}, ArgumentError, "resize must be an int"),
        ({"interpolation": "trilinear"}, UnknownNameError, "unknown interpolation 'trilinear': did you mean bilinear"),
        ({"crop": "tf"}, UnknownNameError, "unknown crop 'tf'"),
        ({"mean": (0.5, 0.5)}, ArgumentError, "one number a channel, 1 or 3, got 2 and 3"),
        ({"mean": (0.5,)}, ArgumentError, "one number a channel, 1 or 3, got 1 and 3"),
        ({"std": (1, 0, 1)}, ArgumentError, "std and rescale must be above 0"),
        ({"std": (1, math.nan, 1)}, ArgumentError, "std must be finite numbers"),
        ({"mean": "abc"}, ArgumentError, "mean must be finite numbers"),
        ({"rescale": -1.0}, ArgumentError, "std and rescale must be above 0"),
        ({"fill": (0, 0, 256)}, ArgumentError, "fill must be 3 bytes, one a channel"),
    ],
)
def test_transform_refuses_values(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ImageTransform(**{"size": (8, 8), **arguments})


def test_resize_refuses_values() -> None:
    with pytest.raises(UnknownNameError, match="unknown way to resize 'longer': did you mean"):
        Resize("longer", 8, 8)
    with pytest.raises(ArgumentError, match=r"Resize: width must be 1 .. 16384 pixels, got 0"):
        Resize("exact", 8, 0)


def test_transform_refuses_images() -> None:
    transform = ImageTransform((8, 8))
    with pytest.raises(DTypeError, match=r"a path, a Pillow image or a uint8 array of bytes 0 .. 255, got float32"):
        transform(np.zeros((8, 8), np.float32))
    with pytest.raises(DTypeError, match="got list"):
        transform([[0]])
    with pytest.raises(ShapeError, match=r"got \(3, 8, 8\); move the channels to the end: image.transpose\(1, 2, 0\)"):
        transform(np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(ShapeError, match=r"must be \(H, W\), \(H, W, 1\) or \(H, W, 3\), got \(0, 8, 3\)"):
        transform(np.zeros((0, 8, 3), np.uint8))
    with pytest.raises(DataError, match="the image cannot be used: its pixels are floating-point values"):
        transform(Image.fromarray(np.zeros((8, 8), np.float32)))
