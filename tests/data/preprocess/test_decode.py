"""decode_image: what Pillow leaves open is decided, and whatever is wrong with a file is one DataError that names it."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minires.data.preprocess import decode as decode_module
from minires.data.preprocess import decode_image, find_images
from minires.errors import ArgumentError, DataError

Image = pytest.importorskip("PIL.Image", reason="Pillow, which decodes image files, is not installed")


def color(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def test_decode_gives_the_pixels_of_the_file(tmp_path: Path) -> None:
    pixels = color(5, 7)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decode_image(tmp_path / "a.png"), pixels)
    assert np.array_equal(decode_image(str(tmp_path / "a.png")), pixels)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(decode_image(tmp_path / "a.png", 1), grey[..., None])


@pytest.mark.parametrize("ending", ["bmp", "gif", "jpg", "png", "ppm", "tif", "webp"])
def test_decode_takes_every_format_whatever_the_files_name(tmp_path: Path, ending: str) -> None:
    Image.fromarray(color(6, 9)).save(tmp_path / f"a.{ending}")
    (tmp_path / f"a.{ending}").rename(tmp_path / "nameless")
    with Image.open(tmp_path / "nameless") as judge:
        expected = np.asarray(judge.convert("RGB"))
    assert np.array_equal(decode_image(tmp_path / "nameless"), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_turns_as_exif_says(tmp_path: Path, orientation: int) -> None:
    upright = color(4, 6)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode_image(tmp_path / "a.png"), upright)


def test_decode_passes_over_a_damaged_exif_note(tmp_path: Path) -> None:
    Image.fromarray(color(8, 8)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0" + b"\xff" * 30)
    Image.fromarray(color(8, 8)).save(tmp_path / "b.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(decode_image(tmp_path / "a.jpg"), decode_image(tmp_path / "b.jpg"))


def test_decode_puts_transparency_of_every_kind_on_white(tmp_path: Path) -> None:
    """Half of each picture is a hidden colour, the other half a shown one; half-transparent pixels are mixed."""
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[...] = (200, 100, 0, 255)
    rgba[:, 0, 3], rgba[:, 1, 3] = 0, 128
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    mixed = [round((c * 128 + 255 * 127) / 255) for c in (200, 100, 0)]
    out = decode_image(tmp_path / "rgba.png").astype(int)
    assert out[0, 0].tolist() == [255] * 3 and out[0, 2].tolist() == [200, 100, 0]
    assert np.abs(out[0, 1] - mixed).max() <= 1

    la = np.zeros((2, 2, 2), np.uint8)
    la[:, 1] = (50, 255)
    Image.fromarray(la).save(tmp_path / "la.png")
    assert decode_image(tmp_path / "la.png", 1)[..., 0].tolist() == [[255, 50]] * 2

    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "p.png", transparency=1)
    palette.save(tmp_path / "p.gif", transparency=1)
    palette.save(tmp_path / "opaque.png")
    for name, second in (("p.png", [255] * 3), ("p.gif", [255] * 3), ("opaque.png", [200, 0, 0])):
        assert decode_image(tmp_path / name)[0].tolist() == [[10, 20, 30], second]

    Image.fromarray(np.array([[[9, 9, 9], [7, 7, 7]]], np.uint8)).save(tmp_path / "rgb.png", transparency=(9, 9, 9))
    assert decode_image(tmp_path / "rgb.png")[0, :, 0].tolist() == [255, 7]
    Image.fromarray(np.array([[9, 7]], np.uint8)).save(tmp_path / "l.png", transparency=9)
    assert decode_image(tmp_path / "l.png")[0, :, 0].tolist() == [255, 7]


def test_decode_scales_16_bit_grey(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    (tmp_path / "a.pgm").write_bytes(b"P5 6 4 65535\n" + values.astype(">u2").tobytes())
    for name in ("a.png", "a.tif", "a.pgm"):
        out = decode_image(tmp_path / name)
        assert np.array_equal(out, np.repeat((values >> 8)[..., None], 3, axis=2)), name
        assert len(np.unique(out)) == 24


def test_decode_16_bit_grey_with_a_transparent_value(tmp_path: Path) -> None:
    values = np.array([[300, 40000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=300)
    with Image.open(tmp_path / "a.png") as file:
        assert file.info["transparency"] == 300
    assert decode_image(tmp_path / "a.png", 1)[0, :, 0].tolist() == [255, 40000 >> 8]


def test_decode_1_bit_and_cmyk(tmp_path: Path) -> None:
    bits = np.array([[0, 1, 1], [1, 0, 1]], bool)
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert np.array_equal(decode_image(tmp_path / "a.png", 1)[..., 0], bits * np.uint8(255))
    for name in ("c.jpg", "c.tif"):
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / name)  # no cyan, all magenta and yellow: red
        assert np.abs(decode_image(tmp_path / name).astype(int) - (255, 0, 0)).max() <= 3, name


def test_decode_takes_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (10, 200)]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert (decode_image(tmp_path / name) == (10, 0, 0)).all(), name


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.full((4, 4), 0.5, np.float32),
            "pixels are floating-point values, which do not say what is black and white",
        ),
        (np.full((4, 4), 70_000, np.int32), "pixels are 32-bit integers, which do not say what is black and white"),
        (np.full((4, 4), 200, np.int32), "pixels are 32-bit integers, which do not say what is black and white"),
    ],
)
def test_decode_refuses_values_without_a_scale(tmp_path: Path, array: np.ndarray, message: str) -> None:
    Image.fromarray(array).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif: not a readable image \(.*{message}; save it with 8 or 16 bits"):
        decode_image(tmp_path / "a.tif")


def test_decode_names_damaged_files_and_the_way_out(tmp_path: Path) -> None:
    Image.fromarray(color(64, 64)).save(tmp_path / "a.png")
    Image.fromarray(color(64, 64)).save(tmp_path / "a.jpg")
    png, jpg = (tmp_path / "a.png").read_bytes(), (tmp_path / "a.jpg").read_bytes()
    for name, content, message in [
        ("cut.png", png[:300], "cut short: copy or download it again"),
        ("cut.jpg", jpg[:900], "cut short: copy or download it again"),
        ("text.png", b"hello", "its first bytes are of none of BMP, GIF, JPEG, PNG"),
        ("empty.jpg", b"", "it is empty"),
        ("header.png", png[:8] + b"\0" * 40, "not a readable image"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "its first bytes are of none of"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            decode_image(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
    with pytest.raises(DataError, match=r"absent\.png: there is no such file"):
        decode_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="not a readable image"):
        decode_image(tmp_path)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_decode_of_any_damaged_file_is_an_image_or_a_data_error(tmp_path: Path, ending: str) -> None:
    """Bytes flipped one at a time over the whole file: no other exception gets out."""
    buffer = io.BytesIO()
    Image.fromarray(color(12, 9)).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(ending, ending))
    good = buffer.getvalue()
    path, refused = tmp_path / f"a.{ending}", 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for position in range(0, len(good), max(1, len(good) // 150)):
            path.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
            try:
                out = decode_image(path)
            except DataError as error:
                refused += 1
                assert str(path) in str(error)
            else:
                assert out.dtype == np.uint8 and out.ndim == 3 and out.shape[2] == 3
    assert refused > 0


def test_decode_refuses_bombs_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def header(width: int, height: int) -> bytes:
        out = b"\x89PNG\r\n\x1a\n"
        for chunk in (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT"):
            out += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return out

    for width, height in [(60_000, 60_000), (10_000, 10_000), (8_948, 10_001)]:
        (tmp_path / "bomb.png").write_bytes(header(width, height))
        with pytest.raises(DataError, match=r"bomb\.png: .*more than the 89,478,485 .*make it smaller first"):
            decode_image(tmp_path / "bomb.png")
    (tmp_path / "strip.png").write_bytes(header(1_000_001, 2))
    with pytest.raises(DataError, match=r"strip\.png: 1000001x2 pixels; no side may have more than 1,000,000"):
        decode_image(tmp_path / "strip.png")
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 1000)
    Image.fromarray(color(32, 32)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: 32x32 pixels are more than the 1,000 allowed"):
        decode_image(tmp_path / "a.png")


def test_decode_never_hands_postscript_to_an_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def run(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with Image.open(tmp_path / "a.jpg") as file:
        assert file.format == "EPS"  # Pillow itself would
    with pytest.raises(DataError, match="its first bytes are of none of"):
        decode_image(tmp_path / "a.jpg")


def test_decode_without_pillow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"needs Pillow: pip install minires\[app\]"):
        decode_image(tmp_path / "a.png")


def test_decode_refuses_other_numbers_of_channels(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="channels must be 1 or 3, got 4"):
        decode_image(tmp_path / "a.png", 4)


def test_find_images_is_recursive_sorted_and_passes_over_hidden_files(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "sub/c.webp", "sub/d.npy", ".hidden.png", ".git/e.png", "notes.txt", "sub/.f.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    relative = lambda *more: [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path, *more)]  # noqa: E731
    assert relative() == ["a.jpg", "b.PNG", "sub/c.webp"]
    assert relative((".npy",)) == ["a.jpg", "b.PNG", "sub/c.webp", "sub/d.npy"]
