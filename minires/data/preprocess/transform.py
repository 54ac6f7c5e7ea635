"""From an image to what a network was trained on: resize, crop the centre, normalise.

    transform = ImageTransform(size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    transform("cat.jpg").shape                          # (3, 224, 224), float32
    transform.batch(["cat.jpg", "dog.jpg"]).shape       # (2, 3, 224, 224)

The libraries agree on the idea and differ in roundings, each of which moves every pixel of some images by one. H, W are the
image's sizes, h, w those asked for:

| step                    | torchvision, timm              | Hugging Face                  |
|-------------------------|--------------------------------|-------------------------------|
| longer side             | int(shorter * long / short)    | the same                      |
| crop begins at          | round((H - h) / 2), to even    | (H - h) // 2                  |
| image below crop: before | (h - H) // 2 rows of zeros    | ceil((h - H) / 2)             |
| bytes to floats         | x / 255                        | x * rescale_factor            |

Only the pixels that the crop keeps are resized. Normalising is a table of 256 floats a channel, made with the libraries'
own float32 operations, so the result is theirs bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minires.data.preprocess.decode import decode_image, pixels_of
from minires.data.preprocess.resize import INTERPOLATIONS, resize
from minires.errors import ArgumentError, DataError, DTypeError, ShapeError, UnknownNameError

__all__ = ["CROPS", "ImageTransform", "Resize"]

Array = npt.NDArray[Any]

CROPS = ("torchvision", "huggingface")
HOW = ("shorter", "exact", "cover", "contain")
MAX_SIDE = 16_384  # pixels of an image for a network: a configuration that asks for more is wrong


@dataclass(frozen=True)
class Resize:
    """The size an image is brought to before the crop.

    Attributes:
        how: "shorter": the shorter side becomes `height`, the longer int(height * long / short). "exact": both sides, the
            image is warped. "cover", "contain": the least that covers, or the most that fits into, height x width in the
            image's own proportions, rounded (timm's ResizeKeepRatio).
        height, width: pixels.
    """

    how: str
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise UnknownNameError.for_name("way to resize", str(self.how), HOW)
        for name, side in (("height", self.height), ("width", self.width)):
            if type(side) is not int or not 1 <= side <= MAX_SIDE:
                raise ArgumentError(f"Resize: {name} must be 1 .. {MAX_SIDE} pixels, got {side!r}")

    def target(self, h: int, w: int) -> tuple[int, int]:
        """(height, width) of the result for an image of h x w."""
        if self.how == "exact":
            return self.height, self.width
        if self.how == "shorter":
            longer = int(self.height * max(h, w) / min(h, w))
            return (self.height, longer) if h <= w else (longer, self.height)
        ratios = (h / self.height, w / self.width)
        ratio = min(ratios) if self.how == "cover" else max(ratios)
        return max(1, round(h / ratio)), max(1, round(w / ratio))

    def __str__(self) -> str:
        both = f"{self.height}x{self.width}"
        return {
            "shorter": f"shorter side to {self.height}",
            "exact": f"warped to {both}",
            "cover": f"resized to cover {both}",
            "contain": f"resized to fit into {both}",
        }[self.how]


@dataclass(frozen=True, repr=False)
class ImageTransform:
    """How images are prepared for a network. Call it with one image, `batch` with several.

    Attributes:
        size: (height, width) of the result; an int stands for a square.
        resize: what comes before the crop: a `Resize`; an int (the shorter side); a pair (exactly this size); None.
        interpolation: of the resize, as Pillow names it.
        crop: whose roundings: "torchvision" or "huggingface"; see the table above.
        mean, std: one number a channel, in units of the rescaled image. Their number is the number of channels, 1 or 3.
        rescale: bytes are multiplied by it first.
        fill: bytes, one a channel, around an image smaller than the crop.
        class_names: of the network's outputs, if known.
        source: where all this was read, for people.
    """

    size: tuple[int, int]
    resize: Resize | None = None
    interpolation: str = "bilinear"
    crop: str = "torchvision"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    rescale: float = 1 / 255
    fill: tuple[int, ...] = ()
    class_names: tuple[str, ...] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)  # how a frozen dataclass brings its own values into form
        put("size", _pair("size", self.size))
        if not isinstance(self.resize, Resize) and self.resize is not None:
            how = "shorter" if isinstance(self.resize, int) else "exact"
            put("resize", Resize(how, *_pair("resize", self.resize)))
        if self.interpolation not in INTERPOLATIONS:
            raise UnknownNameError.for_name("interpolation", str(self.interpolation), INTERPOLATIONS)
        if self.crop not in CROPS:
            raise UnknownNameError.for_name("crop", str(self.crop), CROPS)
        for name in ("mean", "std"):
            put(name, _numbers(name, getattr(self, name)))
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ArgumentError(
                f"ImageTransform: mean and std need one number a channel, 1 or 3, got {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0 or not (math.isfinite(self.rescale) and self.rescale > 0):
            raise ArgumentError(f"ImageTransform: std and rescale must be above 0, got {self.std} and {self.rescale}")
        put("fill", tuple(self.fill) or (0,) * len(self.mean))
        if len(self.fill) != len(self.mean) or not all(type(v) is int and 0 <= v <= 255 for v in self.fill):
            raise ArgumentError(f"ImageTransform: fill must be {len(self.mean)} bytes, one a channel, got {self.fill}")
        if self.class_names is not None:
            put("class_names", tuple(map(str, self.class_names)))

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a result."""
        return (self.channels, *self.size)

    def __call__(self, image: Any) -> Array:
        """Prepare one image.

        Args:
            image: a path; or (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB; or an image that Pillow has opened.

        Returns:
            (C, height, width) float32.

        Raises:
            DataError: a file that is no readable image.
            DTypeError, ShapeError: an array of another kind.
        """
        return self.normalize(self.pixels(image))

    def batch(self, images: Iterable[Any]) -> Array:
        """(N, C, height, width) float32: every image by itself, stacked. Raises as a call does."""
        prepared = [self(image) for image in images]
        return np.stack(prepared) if prepared else np.empty((0, *self.shape), np.float32)

    def pixels(self, image: Any) -> Array:
        """The image resized and cropped, not normalised: (height, width, C) uint8."""
        pixels = self._read(image)
        h, w = pixels.shape[:2]
        new_h, new_w = self.resize.target(h, w) if self.resize is not None else (h, w)
        top, height, above = self._place(new_h, self.size[0])
        left, width, before = self._place(new_w, self.size[1])
        kept = resize(pixels, new_h, new_w, self.interpolation, (top, left, height, width))
        if (height, width) == self.size:
            return kept
        out = np.empty((*self.size, self.channels), np.uint8)
        out[:] = self.fill
        out[above : above + height, before : before + width] = kept
        return out

    def normalize(self, pixels: Array) -> Array:
        """(x * rescale - mean) / std: (H, W, C) uint8 to (C, H, W) float32."""
        scaled = (np.arange(256) * self.rescale).astype(np.float32)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        table = (scaled - mean[:, None]) / std[:, None]
        return np.stack([table[c][pixels[..., c]] for c in range(self.channels)])

    def at(self, size: int | tuple[int, int]) -> ImageTransform:
        """The same for another size of input, the resize in proportion (rounded down, as timm rounds size / crop_pct)."""
        height, width = _pair("size", size)
        new = self.resize
        if new is not None:
            new = Resize(new.how, new.height * height // self.size[0], new.width * width // self.size[1])
            if new.how == "shorter" and height != width:
                new = Resize("cover", new.height, new.width)
        return dataclasses.replace(self, size=(height, width), resize=new)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the class names, for JSON."""
        values = dataclasses.asdict(self)
        del values["class_names"]
        return values

    def __str__(self) -> str:
        h, w = self.size
        steps = [f"{self.resize} ({self.interpolation})"] if self.resize is not None else []
        if self.resize is None or self.resize.how != "exact" or (self.resize.height, self.resize.width) != self.size:
            steps.append(f"centre {h}x{w}" + (" by Hugging Face's rounding" if self.crop == "huggingface" else ""))
        steps.append(f"{'RGB' if self.channels == 3 else 'grey'}")
        if self.rescale != 1 / 255:
            steps.append(f"times {self.rescale:g}")
        steps.append(f"mean {_short(self.mean)}, std {_short(self.std)}")
        return ", ".join(steps)

    def __repr__(self) -> str:
        names = f"; {len(self.class_names)} class names" if self.class_names is not None else ""
        return f"<ImageTransform to {self.shape}: {self}{names}{f'; from {self.source}' if self.source else ''}>"

    def _read(self, image: Any) -> Array:
        """(H, W, C) uint8 in the transform's channels."""
        if isinstance(image, (str, os.PathLike)):
            return decode_image(os.fspath(image), self.channels)
        if hasattr(image, "getexif"):  # a PIL.Image.Image, told without importing Pillow
            try:
                return pixels_of(image, self.channels)
            except (OSError, ValueError) as error:
                raise DataError(f"ImageTransform: the image cannot be used: {error}") from error
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            got = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
            raise DTypeError(
                f"ImageTransform: image must be a path, a Pillow image or a uint8 array of bytes 0 .. 255, got {got}"
            )
        pixels = image[..., None] if image.ndim == 2 else image
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
            hint = "; move the channels to the end: image.transpose(1, 2, 0)" if image.shape[:1] in ((1,), (3,)) else ""
            raise ShapeError(f"ImageTransform: image must be (H, W), (H, W, 1) or (H, W, 3), got {image.shape}{hint}")
        if pixels.shape[2] == self.channels:
            return pixels
        if self.channels == 3:
            return np.repeat(pixels, 3, axis=2)
        # ITU-R 601 in 16 bits, as Pillow's convert("L").
        grey = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        return ((grey + 0x8000) >> 16).astype(np.uint8)[..., None]

    def _place(self, have: int, want: int) -> tuple[int, int, int]:
        """(first pixel kept, pixels kept, pixels of filling before) along one axis."""
        if have >= want:
            first = (have - want) // 2 if self.crop == "huggingface" else round((have - want) / 2)
            return first, want, 0
        before = (want - have + 1) // 2 if self.crop == "huggingface" else (want - have) // 2
        return 0, have, before


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, (int, np.integer)) else value
    try:
        height, width = (side if isinstance(side, bool) else int(side) for side in pair if side == int(side))
        if isinstance(height, bool) or isinstance(width, bool) or not (1 <= min(height, width) <= MAX_SIDE):
            raise ValueError
    except (TypeError, ValueError):
        raise ArgumentError(
            f"ImageTransform: {name} must be an int or (height, width) in 1 .. {MAX_SIDE} pixels, got {value!r}"
        ) from None
    return height, width


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if isinstance(values, (int, float)):
        values = (values,)
    try:
        numbers = tuple(float(v) for v in values)
        if not all(map(math.isfinite, numbers)):
            raise ValueError
    except (TypeError, ValueError):
        raise ArgumentError(f"ImageTransform: {name} must be finite numbers, one a channel, got {values!r}") from None
    return numbers


def _short(values: Sequence[float]) -> str:
    """One number where all are the same."""
    return f"{values[0]:.4g}" if len(set(values)) == 1 else " ".join(f"{v:.4g}" for v in values)
