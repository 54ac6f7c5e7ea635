"""Image files as pixels. Pillow only decodes (`pip install minires[app]`, imported when used); what it leaves open is
decided here, the same for every caller:

| in the file                    | becomes                                                                                |
|--------------------------------|----------------------------------------------------------------------------------------|
| EXIF orientation               | the picture is turned; a damaged EXIF note is passed over                              |
| transparency of any kind       | composited on white: what lies under a transparent pixel is arbitrary, and must not show |
| palette, 1 bit, CMYK, YCbCr    | RGB or grey by Pillow's conversion                                                     |
| 16-bit grey                    | its upper 8 bits; Pillow's conversion cuts off at 255, and the picture comes out white |
| 32-bit integers, floats        | refused: nothing says which values mean black and white                                |
| several frames or pages        | the first                                                                              |
| cut short, damaged, huge       | `DataError` with the file's name and the way out                                       |

Only formats that are mere pictures are opened: Pillow would hand an EPS file to Ghostscript, which executes it.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minires.errors import ArgumentError, DataError

__all__ = ["EXTENSIONS", "decode_image", "find_images", "pixels_of"]

Array = npt.NDArray[Any]

EXTENSIONS = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
COMMON = ("BMP", "GIF", "JPEG", "PNG", "PPM")  # what Pillow loads first; the others cost a tenth of a second
FORMATS = (*COMMON, "AVIF", "DIB", "JPEG2000", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # Pillow's own limit (a quarter of a GiB of RGB); Pillow only warns up to twice of it
MAX_SIDE = 1_000_000  # pixels; tables of a resize grow with it
_BACKGROUND = (255, 255, 255, 255)
_opening = threading.Lock()  # warnings.catch_warnings changes what all threads see


def decode_image(path: str | Path, channels: int = 3) -> Array:
    """The pixels of an image file, as the table above says.

    Args:
        path: a file; its first bytes say which format it is, not its name.
        channels: 3 for RGB, 1 for grey.

    Returns:
        (H, W, channels) uint8.

    Raises:
        DataError: the file is missing, no image, cut short, damaged, or larger than MAX_PIXELS; or Pillow is missing.
    """
    if channels not in (1, 3):
        raise ArgumentError(f"decode_image: channels must be 1 or 3, got {channels}")
    try:
        import PIL.Image
    except ImportError:
        raise DataError("reading image files needs Pillow: pip install minires[app]") from None
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    try:
        with _open(path) as file:
            width, height = file.size
            if max(width, height) > MAX_SIDE:
                raise DataError(
                    f"{path}: {width}x{height} pixels; no side may have more than {MAX_SIDE:,}: cut it first"
                )
            if width * height > MAX_PIXELS:
                raise DataError(
                    f"{path}: {width}x{height} pixels are more than the {MAX_PIXELS:,} allowed; make it smaller first"
                )
            file.load()
            return pixels_of(file, channels)
    except DataError:
        raise
    except PIL.UnidentifiedImageError:
        what = "it is empty" if path.stat().st_size == 0 else f"its first bytes are of none of {', '.join(FORMATS)}"
        raise DataError(f"{path}: not a readable image: {what}") from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise DataError(f"{path}: more than the {MAX_PIXELS:,} pixels allowed; make it smaller first") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... for a damaged file
        hint = "; it is cut short: copy or download it again" if "truncated" in str(error) else ""
        raise DataError(f"{path}: not a readable image ({type(error).__name__}: {error}{hint})") from error


def pixels_of(image: Any, channels: int) -> Array:
    """The same for an image that Pillow has opened already.

    Args:
        image: a PIL.Image.Image.
        channels: 3 for RGB, 1 for grey.

    Returns:
        (H, W, channels) uint8.

    Raises:
        ValueError: a mode without an 8-bit form.
    """
    from PIL import ImageOps

    # A picture with a damaged note about its camera is a good picture.
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:
        turned = image
    pixels = np.asarray(_to_8_bits(turned, "L" if channels == 1 else "RGB", image.format))
    return pixels[..., None] if channels == 1 else pixels


def find_images(folder: str | Path, more: tuple[str, ...] = ()) -> list[Path]:
    """The image files in a folder and its sub-folders, sorted by path; hidden files and folders do not count.

    Args:
        folder: where to look.
        more: further endings beside EXTENSIONS.
    """
    endings = (*EXTENSIONS, *more)
    return sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in endings
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _open(path: Path) -> Any:
    """The file's header read, not its pixels. Pillow's warning of a large image becomes an error like its other one."""
    from PIL import Image

    with _opening, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.preinit()
        try:
            return Image.open(path, formats=COMMON)
        except Image.UnidentifiedImageError:
            Image.init()
            # A Pillow may be built without one of them.
            return Image.open(path, formats=[name for name in FORMATS if name not in COMMON and name in Image.OPEN])


def _to_8_bits(image: Any, mode: str, file_format: str | None) -> Any:
    """The image in mode L or RGB."""
    from PIL import Image

    # Older Pillows give 16-bit PNG and PGM as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        values = np.asarray(image)
        hidden = image.info.get("transparency")
        grey = (values.astype(np.uint32) >> 8).astype(np.uint8)
        if isinstance(hidden, int):
            grey[values == hidden] = _BACKGROUND[0]
        return Image.fromarray(grey).convert(mode)
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point values"
        raise ValueError(f"its pixels are {kind}, which do not say what is black and white; save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _BACKGROUND), image)
    return image.convert(mode)
