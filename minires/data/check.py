"""What is wrong with a folder of images, before a night of training is spent on it.

    report = check_folder("photos")          # photos/CLASS/*.jpg, or photos/train/CLASS, photos/test/CLASS
    report.faults                            # corrupt files, empty classes, images in two splits or two classes
    report.notes                             # copies within a class, imbalance, odd sizes

Every image is decoded once, as training would decode it. Two images are the same if all their pixels are, whatever the files
are called and however they were compressed without loss.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from minires.data.preprocess.decode import EXTENSIONS, decode_image
from minires.errors import DataError

__all__ = ["FolderReport", "ImageFacts", "check_folder"]

SPLITS = ("train", "test", "val", "valid", "validation")
RARE = 10.0  # the largest class has more than this many times the images of the smallest: worth a word
FEW = 10  # images of a class, below which it can hardly be learned
LONG = 3.0  # longer than wide by more than this: a square cut shows a third
SMALL = 32  # pixels of the shorter side


@dataclass(frozen=True)
class ImageFacts:
    """One image that could be decoded.

    Attributes:
        file: relative to the folder that was checked.
        split: "train", "test", ...; "" where the folder has no splits.
        label: the class's name.
        width, height: pixels, as turned by EXIF.
        digest: of its size and pixels.
        grey: whether red, green and blue are equal everywhere.
    """

    file: str
    split: str
    label: str
    width: int
    height: int
    digest: str
    grey: bool


@dataclass
class FolderReport:
    """What was found.

    Attributes:
        folder: what was checked.
        images: those that could be decoded.
        unreadable: (file, why) of the others.
        other_files: files in class folders that are no images by their names.
        empty: class folders (relative) without an image.
        copies: groups of files with equal pixels.
    """

    folder: Path
    images: list[ImageFacts] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    other_files: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    copies: list[list[ImageFacts]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Images of each class, split by split: counts[label][split]."""
        found: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(self.splits, 0))
        for image in self.images:
            found[image.label][image.split] += 1
        for name in self.empty:
            split, _, label = name.rpartition("/")
            found[label][split] += 0
        return {label: found[label] for label in sorted(found)}

    @property
    def splits(self) -> list[str]:
        order = {name: i for i, name in enumerate(SPLITS)}
        found = {image.split for image in self.images} | {name.rpartition("/")[0] for name in self.empty}
        return sorted(found, key=lambda name: order.get(name, len(order)))

    @property
    def faults(self) -> list[str]:
        """What makes a result wrong or a run stop; one line each."""
        lines = [f"{file}: {why}" for file, why in self.unreadable]
        lines += [f"{name}: a class folder without images" for name in self.empty]
        for group in self.copies:
            names = ", ".join(image.file for image in group)
            if len({image.label for image in group}) > 1:
                lines.append(f"the same picture in two classes: {names}")
            if len({image.split for image in group}) > 1:
                lines.append(f"the same picture in two splits, so the test is no test: {names}")
        for split in self.splits:
            missing = [label for label, counts in self.counts.items() if not counts.get(split)]
            missing = [label for label in missing if f"{split}/{label}".lstrip("/") not in self.empty]
            if missing and len(self.splits) > 1:
                lines.append(f"{split} has no images of {_few(missing)}")
        return lines

    @property
    def notes(self) -> list[str]:
        """What is worth knowing and may be meant; one line each."""
        lines = []
        within = [group for group in self.copies if len({(i.label, i.split) for i in group}) < len(group)]
        if within:
            copies = sum(len(group) - 1 for group in within)
            lines.append(
                f"{copies:,} copies of pictures within a class, for example {within[0][0].file} and {within[0][1].file}"
            )
        for split in self.splits:
            sizes = {label: counts[split] for label, counts in self.counts.items() if counts.get(split)}
            if len(sizes) < 2:
                continue
            (most, many), (least, few) = (pick(sizes.items(), key=lambda item: item[1]) for pick in (max, min))
            where = f"{split}: " if split else ""
            if many > RARE * few:
                lines.append(
                    f"{where}{most} has {many / few:.0f} times as many images as {least} ({many:,} and {few:,})"
                )
            rare = [label for label, count in sizes.items() if count < FEW and split in ("", "train")]
            if rare:
                lines.append(f"{where}fewer than {FEW} images of {_few(rare)}")
        long = [i for i in self.images if max(i.width, i.height) > LONG * min(i.width, i.height)]
        if long:
            lines.append(
                f"{len(long):,} images are more than {LONG:g} times as long as wide, for example {long[0].file}"
            )
        small = [i for i in self.images if min(i.width, i.height) < SMALL]
        if small and len(small) < len(self.images):
            lines.append(f"{len(small):,} images have a side of less than {SMALL} pixels, for example {small[0].file}")
        grey = [i for i in self.images if i.grey]
        if grey and len(grey) < len(self.images):
            lines.append(f"{len(grey):,} of {len(self.images):,} images are grey, for example {grey[0].file}")
        if self.other_files:
            lines.append(f"{len(self.other_files):,} files are no images by their names: {_few(self.other_files)}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "folder": str(self.folder),
            "images": len(self.images),
            "counts": self.counts,
            "sizes": self.sizes(),
            "faults": self.faults,
            "notes": self.notes,
            "unreadable": [{"file": file, "reason": why} for file, why in self.unreadable],
            "copies": [[image.file for image in group] for group in self.copies],
        }

    def sizes(self) -> dict[str, dict[str, float]]:
        """Least, median and largest of width and height; {} without images."""
        if not self.images:
            return {}
        sides = {"width": [i.width for i in self.images], "height": [i.height for i in self.images]}
        return {name: {"least": min(v), "median": median(v), "largest": max(v)} for name, v in sides.items()}


def check_folder(
    folder: str | Path, *, workers: int | None = None, on_image: Callable[[int, int], None] | None = None
) -> FolderReport:
    """Decode every image of a folder and say what is wrong.

    Args:
        folder: with a sub-folder for each class, or with such folders in train/, test/ or val/.
        workers: threads that decode; default: the processors of this process.
        on_image: is told, after each image, how many of how many are done.

    Raises:
        DataError: no such folder, no class folders in it, or Pillow is missing.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"data check: {root}: there is no such folder")
    classes = list(_class_folders(root))
    if not classes:
        raise DataError(
            f"data check: {root}: needs one sub-folder for each class, in train/ and test/ or without; found none"
        )
    report = FolderReport(root)
    waiting: list[tuple[str, str, Path]] = []
    for split, path in classes:
        inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        images = [p for p in inside if p.suffix.lower() in EXTENSIONS]
        report.other_files += [p.relative_to(root).as_posix() for p in inside if p not in images]
        if not images:
            report.empty.append(path.relative_to(root).as_posix())
        waiting += [(split, path.name, p) for p in images]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        results = pool.map(lambda item: _look(root, *item), waiting)
        for done, (item, found) in enumerate(zip(waiting, results, strict=True), 1):
            if isinstance(found, ImageFacts):
                report.images.append(found)
            else:
                report.unreadable.append((item[2].relative_to(root).as_posix(), found))
            if on_image is not None:
                on_image(done, len(waiting))
    groups: dict[str, list[ImageFacts]] = defaultdict(list)
    times = Counter(image.digest for image in report.images)
    for image in report.images:
        if times[image.digest] > 1:
            groups[image.digest].append(image)
    report.copies = list(groups.values())
    return report


def _class_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """(split, folder) of every class."""
    inside = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if any(p.name in ("train", "test") for p in inside):
        for split in (p for p in inside if p.name in SPLITS):
            for path in sorted(p for p in split.iterdir() if p.is_dir() and not p.name.startswith(".")):
                yield split.name, path
    else:
        for path in inside:
            yield "", path


def _look(root: Path, split: str, label: str, path: Path) -> ImageFacts | str:
    """The facts of one image, or why it cannot be read."""
    file = path.relative_to(root).as_posix()
    try:
        pixels = decode_image(path)
    except DataError as error:
        if "needs Pillow" in str(error):
            raise
        return str(error).removeprefix(f"{path}: ")
    height, width, _ = pixels.shape
    digest = hashlib.sha256(f"{width}x{height}".encode() + pixels.tobytes()).hexdigest()
    grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    return ImageFacts(file, split, label, width, height, digest, grey)


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5:,} more"
