"""Images from files: one file, or a folder with a sub-folder for each class.

Needs Pillow (`pip install minires[app]`), which is imported when it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minires.data.array_dataset import ArrayDataset
from minires.errors import ArgumentError, DataError

Array = npt.NDArray[Any]

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 89_478_485  # Pillow's own limit (a quarter of a GiB of RGB); Pillow only warns up to twice of it
_BACKGROUND = (255, 255, 255, 255)


def image_folder(
    path: str | Path, size: int, *, channels: int = 3, resize: int | None = None, name: str | None = None
) -> ArrayDataset:
    """Read `path/CLASS/*.png` and so on into memory.

    Classes are the sub-folders, in alphabetical order; a class's images are the files in it whose names end in a known
    extension, in alphabetical order. Hidden files and folders, and other files, do not count.

    Args:
        size, channels, resize: as in `read_image`.

    Raises:
        DataError: no class folders, a class without images, or a corrupt image, with its name.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"image folder {path}: no such folder")
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise DataError(f"image folder {path}: needs one sub-folder for each class, found none")
    images, labels = [], []
    for label, folder in enumerate(folders):
        files = sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
        if not files:
            raise DataError(f"image folder {path}: class {folder.name!r} has no images ({', '.join(EXTENSIONS)})")
        images += [read_image(file, size, channels=channels, resize=resize) for file in files]
        labels += [label] * len(files)
    return ArrayDataset(np.stack(images), np.asarray(labels), [f.name for f in folders], name or path.name)


def read_image(path: str | Path, size: int, *, channels: int = 3, resize: int | None = None) -> Array:
    """One image file as an array of fixed size.

    Turn it as its EXIF note says; put transparent pixels on white; scale 16-bit grey to 8 bits; convert to grey or RGB;
    resize the shorter side to `resize` (bilinear, antialiased), the longer in proportion, rounded down; cut
    `size` x `size` out of the centre, at round((side - size) / 2). These are torchvision's rules.

    Args:
        size: pixels, of both sides.
        channels: 1 or 3.
        resize: pixels, at least `size`; default `size`.

    Returns:
        (channels, size, size) uint8.

    Raises:
        DataError: the file is missing, no image, corrupt, or larger than Pillow's limit of pixels.
    """
    resize = size if resize is None else resize
    if channels not in (1, 3):
        raise ArgumentError(f"read_image: channels must be 1 or 3, got {channels}")
    if not 1 <= size <= resize:
        raise ArgumentError(f"read_image: needs 1 <= size <= resize, got size = {size}, resize = {resize}")
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise DataError("reading image files needs Pillow: pip install minires[app]") from None
    try:
        with Image.open(path) as file:
            width, height = file.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{path}: {width}x{height} pixels are more than the {MAX_PIXELS} allowed")
            image = ImageOps.exif_transpose(file)
            image = _to_8_bits(image, "L" if channels == 1 else "RGB")
    except DataError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... for a corrupt file
        raise DataError(f"{path}: not a readable image ({type(error).__name__}: {error})") from error
    width, height = image.size
    short = min(width, height)
    new = (resize * width // short, resize * height // short)
    if new != image.size:
        image = image.resize(new, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in new)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _to_8_bits(image: Any, mode: str) -> Any:
    """The image in mode L or RGB."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's own conversion cuts everything above 255 off, and a 16-bit picture comes out white.
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"mode {image.mode} with values in {values.min()} .. {values.max()} has no 8-bit form")
        return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8)).convert(mode)
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        # What lies under a transparent pixel is arbitrary and must not show.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _BACKGROUND), image)
    return image.convert(mode)
