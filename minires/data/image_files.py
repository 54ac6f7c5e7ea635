"""Images from files for training: one file, or a folder with a sub-folder for each class.

Needs Pillow (`pip install minires[app]`), which is imported when it is used. How a file becomes pixels is decided in
`preprocess.decode`, how pixels become the size that is wanted in `preprocess.transform`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minires.data.array_dataset import ArrayDataset
from minires.data.preprocess.decode import EXTENSIONS
from minires.data.preprocess.transform import ImageTransform, Resize
from minires.errors import ArgumentError, DataError

Array = npt.NDArray[Any]


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

    Decoded as `decode_image` says (turned by its EXIF note, transparent pixels on white, 16-bit grey scaled), in grey or
    RGB; the shorter side resized to `resize` (bilinear, antialiased), the longer in proportion, rounded down; `size` x
    `size` cut out of the centre, at round((side - size) / 2). These are torchvision's rules.

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
    unit = (1.0,) * channels
    shorter = Resize("shorter", resize, resize)
    pixels = ImageTransform((size, size), shorter, mean=unit, std=unit).pixels(path)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
