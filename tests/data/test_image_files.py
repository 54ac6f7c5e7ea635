"""Image files: resize and crop as torchvision, every colour mode, corrupt files named."""

import sys

import numpy as np
import pytest

from minires.data import image_folder, load, read_image
from minires.errors import ArgumentError, DataError

Image = pytest.importorskip("PIL.Image", reason="Pillow, which reads image files, is not installed")


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


def color(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_read_image_of_the_right_size_is_exact(tmp_path):
    pixels = color(16, 16)
    path = save(tmp_path / "a.png", pixels)
    assert np.array_equal(read_image(path, 16), pixels.transpose(2, 0, 1))
    expected = np.asarray(Image.open(path).convert("L"))
    assert np.array_equal(read_image(path, 16, channels=1), expected[None])


@pytest.mark.parametrize(("height", "width", "new"), [(40, 61, (24, 36)), (61, 40, (36, 24)), (10, 13, (24, 31))])
def test_read_image_resizes_the_shorter_side_and_crops_the_centre(tmp_path, height, width, new):
    path = save(tmp_path / "a.png", color(height, width))
    resized = np.asarray(Image.open(path).resize(new[::-1], Image.Resampling.BILINEAR))
    top, left = round((new[0] - 20) / 2), round((new[1] - 20) / 2)
    expected = resized[top : top + 20, left : left + 20].transpose(2, 0, 1)
    assert np.array_equal(read_image(path, 20, resize=24), expected)


def test_read_image_puts_transparent_pixels_on_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 200  # red that shows only where it is opaque
    pixels[:2, :, 3] = 255
    out = read_image(save(tmp_path / "a.png", pixels), 4)
    assert (out[:, :2] == np.array([200, 0, 0])[:, None, None]).all() and (out[:, 2:] == 255).all()


def test_read_image_puts_a_palettes_transparent_colour_on_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=1)
    out = read_image(tmp_path / "a.png", 4)
    assert out[:, 0, 0].tolist() == [10, 20, 30] and (out[:, 1:] == 255).all()


def test_read_image_scales_16_bit_grey(tmp_path):
    values = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    out = read_image(save(tmp_path / "a.png", values), 4, channels=1)
    assert np.array_equal(out[0], values >> 8) and len(np.unique(out)) == 16


def test_read_image_turns_as_exif_says(tmp_path):
    image = Image.fromarray(color(8, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png", 8), np.asarray(image)[::-1, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
def test_read_image_takes_every_mode(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(color(9, 9)).convert(mode).save(path)
    for channels in (1, 3):
        assert read_image(path, 8, channels=channels).shape == (channels, 8, 8)


def test_read_image_errors(tmp_path, monkeypatch):
    good = save(tmp_path / "good.png", color(64, 64)).read_bytes()
    for name, content in [("cut.png", good[:200]), ("text.png", b"no image"), ("empty.jpg", b"")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: not a readable image"):
            read_image(tmp_path / name, 8)
    with pytest.raises(DataError, match=r"absent\.png: there is no such file"):
        read_image(tmp_path / "absent.png", 8)
    monkeypatch.setattr("minires.data.preprocess.decode.MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="64x64 pixels are more than the 1,000 allowed"):
        read_image(tmp_path / "good.png", 8)
    with pytest.raises(ArgumentError, match="channels must be 1 or 3, got 2"):
        read_image(tmp_path / "good.png", 8, channels=2)
    with pytest.raises(ArgumentError, match="needs 1 <= size <= resize, got size = 8, resize = 4"):
        read_image(tmp_path / "good.png", 8, resize=4)


def test_read_image_without_pillow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"needs Pillow: pip install minires\[app\]"):
        read_image(tmp_path / "a.png", 8)


def tree(root, classes=("cat", "dog"), count=10):
    for label, name in enumerate(classes):
        for i in range(count):
            save(root / name / f"{i:02}.png", np.full((12, 12, 3), 40 * label + i, np.uint8))


def test_image_folder_classes_and_order(tmp_path):
    tree(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    dataset = image_folder(tmp_path, 8)
    assert dataset.classes == ("cat", "dog") and dataset.labels.tolist() == [0] * 10 + [1] * 10
    assert dataset.images[:, 0, 0, 0].tolist() == [*range(10), *range(40, 50)]
    assert image_folder(tmp_path, 8, channels=1, name="pets").name == "pets"


def test_load_folder_with_and_without_its_own_split(tmp_path):
    tree(tmp_path / "train", count=5)
    tree(tmp_path / "val", count=2)
    train, test = load(f"folder:{tmp_path}", size=8)
    assert (len(train), len(test)) == (10, 4) and train.image_shape == (3, 8, 8)
    assert np.array_equal(train.mean, test.mean)
    train, test = load(f"folder:{tmp_path / 'train'}", size=8)
    assert (len(train), len(test)) == (8, 2) and np.bincount(test.labels).tolist() == [1, 1]
    own = (train.images / 255).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(train.mean, own, rtol=1e-6)


def test_image_folder_errors(tmp_path):
    with pytest.raises(DataError, match="absent: no such folder"):
        image_folder(tmp_path / "absent", 8)
    with pytest.raises(DataError, match=r"folder:.*absent: no such folder"):
        load(f"folder:{tmp_path / 'absent'}")
    with pytest.raises(DataError, match="needs one sub-folder for each class, found none"):
        image_folder(tmp_path, 8)
    tree(tmp_path / "train", count=1)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="class 'empty' has no images"):
        image_folder(tmp_path / "train", 8)
    (tmp_path / "train" / "empty").rmdir()
    tree(tmp_path / "test", classes=("cat", "fox"), count=1)
    with pytest.raises(DataError, match="train/ and test/ must have the same classes; only in one: dog, fox"):
        load(f"folder:{tmp_path}")
    (tmp_path / "train" / "cat" / "bad.png").write_bytes(b"oops")
    with pytest.raises(DataError, match=r"train/cat/bad\.png: not a readable image"):
        image_folder(tmp_path / "train", 8)
