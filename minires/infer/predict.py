"""From images to the most probable classes, through a plan: many files, some of them broken, in batches.

    plan = minires.compile(model, (1, *transform.shape))
    for prediction in predict(plan, transform, ["cat.jpg", "dog.jpg"], top=3):
        print(prediction.file, prediction.top or prediction.error)

Files are decoded and prepared by a thread of their own while the plan works on the batch before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minires.data.prefetch import background_map
from minires.data.preprocess.transform import ImageTransform
from minires.errors import ArgumentError, DataError, MiniresError, ShapeError
from minires.infer.plan import Plan

__all__ = ["ClassProbability", "Prediction", "predict", "softmax"]

LIGHT = 160  # a border of this median, of 0 .. 255, is paper


@dataclass(frozen=True)
class ClassProbability:
    """One class of the network's answer."""

    index: int
    name: str  # its number, where no names are known
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one file: its most probable classes, first the best, or why there is none."""

    file: str
    top: list[ClassProbability] = field(default_factory=list)
    error: str | None = None
    looks_inverted: bool = False  # probably dark ink on light paper, for a network that knows light on dark


def predict(
    plan: Plan,
    transform: ImageTransform,
    files: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 16,
    invert: bool = False,
    report: Callable[[int], None] = lambda done: None,
) -> Iterator[Prediction]:
    """Classify image files.

    Args:
        plan: from (n, *transform.shape) to logits (n, classes).
        transform: how images are prepared; its class names are used.
        files: image files; or .npy files with an image, (H, W), (H, W, 1) or (H, W, 3) uint8, or with what the network
            takes, (C, H, W) float32 as `transform` gives it. The latter need no Pillow.
        top: how many classes to name for each.
        batch_size: images at once, at most.
        invert: swap dark and light first (a network trained on light digits on black, a photograph of ink on paper).
        report: called with the number of files done.

    Yields:
        One Prediction a file, in the order of the files. A file that cannot be used has an `error`, and the rest goes on.

    Raises:
        ArgumentError: top or batch_size below 1.
        ShapeError: the plan does not take what the transform gives, or gives no logits.
    """
    if top < 1 or batch_size < 1:
        raise ArgumentError(f"predict: top and batch_size must be at least 1, got {top} and {batch_size}")
    if plan.input_shape[1:] != transform.shape or len(plan.output_shape) != 2:
        raise ShapeError(
            f"predict: needs a plan from (n, {', '.join(map(str, transform.shape))}) to (n, classes), got one from "
            f"{plan.input_shape} to {plan.output_shape}"
        )
    if not files:
        return
    # Batches of one size, so that buffers are planned once; 17 images at 16 are 9 and 8.
    size = math.ceil(len(files) / math.ceil(len(files) / batch_size))
    batch = np.zeros((size, *transform.shape), plan.graph.dtype)
    waiting: list[Prediction] = []  # in the files' order, those without an error lie in the batch
    filled = 0
    for prepared in background_map(lambda file: _prepare(file, transform, invert), files, workers=1, depth=size + 2):
        waiting.append(prepared.prediction)
        if prepared.array is not None:
            batch[filled] = prepared.array
            filled += 1
        if filled == size:
            yield from _answer(plan, transform, batch, filled, waiting, top)
            filled, waiting = 0, []
        report(1)
    yield from _answer(plan, transform, batch, filled, waiting, top)


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(x) / sum exp(x) along the last axis in float64, shifted by the largest so that exp cannot overflow."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class _Prepared:
    prediction: Prediction  # without its classes yet
    array: np.ndarray | None  # (C, H, W); None where the prediction has an error


def _answer(
    plan: Plan, transform: ImageTransform, batch: np.ndarray, filled: int, waiting: list[Prediction], top: int
) -> Iterator[Prediction]:
    """The predictions that were waiting for this batch."""
    rows = iter(plan(batch)[:filled]) if filled else iter(())
    names = transform.class_names
    for prediction in waiting:
        if prediction.error is not None:
            yield prediction
            continue
        logits = next(rows)
        if not np.isfinite(logits).all():
            yield Prediction(prediction.file, error=f"{prediction.file}: the network's answer is not finite")
            continue
        shares = softmax(logits)
        best = np.argsort(-shares, kind="stable")[:top]
        found = [ClassProbability(int(i), names[i] if names else str(i), float(shares[i])) for i in best]
        yield Prediction(prediction.file, found, looks_inverted=prediction.looks_inverted)


def _prepare(file: str, transform: ImageTransform, invert: bool) -> _Prepared:
    try:
        content = _read_npy(file, transform) if Path(file).suffix.lower() == ".npy" else file
        if isinstance(content, np.ndarray) and content.dtype == np.float32:
            if invert:
                raise DataError(f"{file}: is prepared already, and is not inverted")
            return _Prepared(Prediction(file), content)
        pixels = transform.pixels(content)
        pixels = 255 - pixels if invert else pixels
        inverted = not invert and _looks_inverted(pixels, transform)
        return _Prepared(Prediction(file, looks_inverted=inverted), transform.normalize(pixels))
    except (MiniresError, OSError) as error:
        text = str(error)
        return _Prepared(Prediction(file, error=text if text.startswith(file) else f"{file}: {text}"), None)


def _read_npy(file: str, transform: ImageTransform) -> np.ndarray:
    """The array of a .npy file: uint8 pixels, or a prepared float32 image of the network's own shape."""
    if not Path(file).exists():
        raise DataError(f"{file}: there is no such file")
    try:
        # Mapped: a file's header may lie about its size, and costs no memory so.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{file}: not a readable .npy file ({error})") from error
    if array.dtype == np.uint8:
        return np.asarray(array)
    if array.dtype == np.float32 and array.shape == transform.shape:
        return np.asarray(array)
    raise DataError(
        f"{file}: needs (H, W) or (H, W, 3) uint8 pixels, or {transform.shape} float32 as the network takes it, got "
        f"{array.shape} {array.dtype}"
    )


def _looks_inverted(pixels: np.ndarray, transform: ImageTransform) -> bool:
    """Grey data sets of digits or clothes are light on black. An image with a light border is probably ink on paper."""
    if transform.channels != 1 or transform.mean[0] > 0.45:
        return False
    grey = pixels[..., 0]
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return bool(np.median(border) > LIGHT)
