"""From an image file to the top classes, by a checkpoint alone: it knows the model, the classes, the size and the
normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minires.autograd import no_grad
from minires.data.array_dataset import normalize
from minires.errors import DataError
from minires.nn import Module
from minires.tensor import Tensor

__all__ = ["Prediction", "predict_files", "read_image", "softmax"]

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one file, first the best."""

    file: str
    top: list[tuple[str, float]]  # (class, probability)
    looks_inverted: bool = False


def read_image(path: str | Path, channels: int, height: int, width: int, *, invert: bool = False) -> np.ndarray:
    """Read an image file in the form a model wants.

    The shorter side is brought to the model's size, keeping the proportions, and the middle is cut out.

    Args:
        path: any file that Pillow reads.
        channels: 1 for grey, 3 for red, green, blue.
        height, width: of the result.
        invert: swap dark and light (a model trained on light digits on black, a photograph of ink on paper).

    Returns:
        (channels, height, width) uint8.

    Raises:
        DataError: no such file, not an image, or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if channels not in (1, 3):
        raise DataError(
            f"predict: the model takes {channels} channels; image files have 1 (grey) or 3 (red, green, blue)"
        )
    try:
        with Image.open(path) as opened:
            opened.load()
            # Cameras store "this side up" beside the pixels.
            image = ImageOps.exif_transpose(opened)
    except FileNotFoundError:
        raise DataError(f"predict: there is no file {path}") from None
    except UnidentifiedImageError:
        raise DataError(f"predict: {path} is not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"predict: {path} is too large: {error}") from None
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG chunks
        raise DataError(f"predict: {path} is damaged: {error}") from error
    image = _flatten(image).convert("L" if channels == 1 else "RGB")
    scale = max(height / image.height, width / image.width)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)  # antialiased when it shrinks
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.uint8)
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(255 - pixels if invert else pixels)


def _flatten(image: Any) -> Any:
    """Bring an image to 8 bits a channel, without transparency."""
    from PIL import Image

    if (
        image.mode.startswith("I") or image.mode == "F"
    ):  # 16-bit grey: convert() would clip everything above 255 to white
        values = np.asarray(image, np.float64)
        top = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # Transparent pixels keep whatever colour they were painted with: show them on white, as a page would.
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image


def predict_files(
    model: Module, facts: dict[str, Any], files: list[str], *, top: int = 5, invert: bool = False
) -> list[Prediction]:
    """Classify image files.

    Args:
        model: in evaluation mode.
        facts: the "data" part of its checkpoint: classes, channels, height, width, mean, std.
        files: image files.
        top: how many classes to name for each.
        invert: swap dark and light first.

    Returns:
        One Prediction a file, in the same order.
    """
    classes = facts["classes"]
    mean, std = np.array(facts["mean"]), np.array(facts["std"])
    pixels = [read_image(f, facts["channels"], facts["height"], facts["width"], invert=invert) for f in files]
    predictions = []
    for start in range(0, len(files), BATCH):
        batch = np.stack(pixels[start : start + BATCH])
        with no_grad():
            probabilities = softmax(model(Tensor(normalize(batch, mean, std))).numpy())
        for file, image, row in zip(files[start:], batch, probabilities, strict=False):
            order = np.argsort(-row, kind="stable")[:top]
            named = [(classes[i], float(row[i])) for i in order]
            predictions.append(Prediction(file, named, _looks_inverted(image, mean)))
    return predictions


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(x) / sum exp(x) along the last axis, shifted by the largest so that exp cannot overflow."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _looks_inverted(image: np.ndarray, mean: np.ndarray) -> bool:
    """Grey data sets of digits or clothes are light on black. An image with a light border is probably ink on paper."""
    if len(image) != 1 or mean[0] > 0.45:
        return False
    border = np.concatenate([image[0, 0], image[0, -1], image[0, :, 0], image[0, :, -1]])
    return bool(np.median(border) > 160)
