"""`load(name)`: find a data set on this machine, or fetch it, and give it as (train, test).

A file is looked for in this order: the `data_dir` argument; $MINIRES_DATA; ~/.cache/minires; /usr/share/datasets, where
Debian's packages put theirs. A download goes to the first of the first three that is given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from minires.config import read_settings
from minires.data import digits
from minires.data.array_dataset import ArrayDataset, split_validation
from minires.data.formats import Array, check_hash, parse_cifar, parse_idx, read_bytes, read_tar_members
from minires.data.image_files import image_folder
from minires.data.sources import SOURCES, File, Source
from minires.errors import DataError, UnknownNameError

FOLDER = "folder:"
SYSTEM_ROOT = Path("/usr/share/datasets")


@dataclass(frozen=True)
class Description:
    """A row of `describe()`. `found` is where the files lie ("in the package" for digits), or None; not yet checked."""

    name: str
    title: str
    classes: int
    image_shape: tuple[int, int, int]
    train: int
    test: int
    download_bytes: int
    licence: str
    found: str | None


def names() -> list[str]:
    """What `load` knows, beside `folder:PATH`."""
    return ["digits", *SOURCES]


def load(
    name: str, data_dir: str | Path | None = None, download: bool = True, *, size: int = 64
) -> tuple[ArrayDataset, ArrayDataset]:
    """Give a data set's training and test part.

    Args:
        name: one of `names()`, or `folder:PATH`: an image folder with `train/` and `test/` (or `val/`) inside, or,
            without them, class folders, of which a stratified fifth is the test part.
        data_dir: looked at first, and where a download goes.
        download: False: an error instead of a download.
        size: of image folders: every image becomes size x size.

    Returns:
        (train, test). Both carry the training part's mean and std.

    Raises:
        UnknownNameError: no such data set, with the nearest names.
        DataError: not found and not to be had, or a file that is corrupt. The message says where to put which file.
    """
    if name.startswith(FOLDER):
        return _load_folder(Path(name.removeprefix(FOLDER)).expanduser(), size)
    if name.lower() == "digits":
        return digits.load()
    source = source_for(name)
    folder = find(source, data_dir)
    if folder is None:
        folder = _download(source, data_dir) if download else None
    if folder is None:
        raise DataError(_where_to_put(source, data_dir))
    arrays = _read_idx(source, folder) if source.kind == "idx" else _read_cifar(source, folder)
    return tuple(  # type: ignore[return-value]
        ArrayDataset(images, labels, source.classes, f"{source.name}/{part}", source.mean, source.std)
        for part, (images, labels) in zip(("train", "test"), arrays, strict=True)
    )


def describe(data_dir: str | Path | None = None) -> list[Description]:
    """All known data sets, and where each was found."""
    shape, counts = digits.IMAGE_SHAPE, (digits.TRAIN_COUNT, digits.TEST_COUNT)
    rows = [Description("digits", digits.TITLE, 10, shape, *counts, 0, digits.LICENCE, "in the package")]
    for s in SOURCES.values():
        found = find(s, data_dir)
        where = None if found is None else str(found)
        rows.append(
            Description(s.name, s.title, len(s.classes), s.image_shape, *s.counts, s.download_bytes, s.licence, where)
        )
    return rows


def source_for(name: str) -> Source:
    """The downloadable data set of that name or alias; capitals and underscores do not matter."""
    wanted = name.lower().replace("_", "-")
    for source in SOURCES.values():
        if wanted == source.name or wanted in source.aliases:
            return source
    raise UnknownNameError.for_name("data set", name, [*names(), FOLDER + "PATH"])


def data_roots(data_dir: str | Path | None = None) -> list[Path]:
    """Where data sets are looked for, in this order."""
    environment = read_settings(os.environ).data_dir
    given = [Path(root).expanduser() for root in (data_dir, environment) if root]
    return [*given, Path("~/.cache/minires").expanduser(), SYSTEM_ROOT]


def find(source: Source, data_dir: str | Path | None = None) -> Path | None:
    """The first folder that has all the files of `source` (what is in them is checked when they are read)."""
    for root in data_roots(data_dir):
        # Files may lie directly in a folder that was given for this data set; in shared roots a name stands between,
        # since MNIST and Fashion-MNIST use the same file names.
        folders = [root / name for name in source.folders]
        if source.archive or (data_dir is not None and root == Path(data_dir).expanduser()):
            folders.append(root)
        for folder in folders:
            with contextlib.suppress(OSError):  # a folder that may not be looked into has nothing for us
                if _present(source, folder):
                    return folder
    return None


def _present(source: Source, folder: Path) -> bool:
    if source.archive and (folder / source.archive).is_file():
        return True
    return all(_path(source, folder, file) is not None for file in source.files)


def _path(source: Source, folder: Path, file: File) -> Path | None:
    """Where one file lies in `folder`: as it is named, already decompressed, or in the extracted archive's folder."""
    for path in (folder / file.name, folder / file.name.removesuffix(".gz"), folder / source.inside / file.name):
        if path.is_file():
            return path
    return None


def _contents(source: Source, folder: Path) -> Iterator[tuple[bytes, object]]:
    """The checked content of every file of `source`, in order, and its name for messages."""
    if source.archive and (folder / source.archive).is_file():
        yield from _archive_contents(source, folder / source.archive)
        return
    for file in source.files:
        path = _path(source, folder, file)
        if path is None:
            raise DataError(f"{source.name}: {file.name} has gone from {folder}")
        content = read_bytes(path, file.size)
        check_hash(content, file.sha256, path)
        yield content, path


def _archive_contents(source: Source, archive: Path) -> Iterator[tuple[bytes, object]]:
    members = read_tar_members(archive, {f"{source.inside}/{file.name}": file.size for file in source.files})
    for file in source.files:
        content, where = members.pop(f"{source.inside}/{file.name}"), f"{archive}: {file.name}"
        check_hash(content, file.sha256, where)
        yield content, where


def _read_idx(source: Source, folder: Path) -> list[tuple[Array, Array]]:
    images_train, labels_train, images_test, labels_test = (parse_idx(*each) for each in _contents(source, folder))
    return [(images_train[:, None], labels_train), (images_test[:, None], labels_test)]


def _read_cifar(source: Source, folder: Path) -> list[tuple[Array, Array]]:
    batches = [parse_cifar(content, source.label_bytes, where) for content, where in _contents(source, folder)]
    parts = batches[: len(source.train)], batches[len(source.train) :]
    return [
        (np.concatenate([images for images, _ in part]), np.concatenate([labels for _, labels in part]))
        for part in parts
    ]


def _download(source: Source, data_dir: str | Path | None) -> Path:
    """Fetch the files of `source` that are not there yet; returns their folder."""
    folder = _download_folder(source, data_dir)
    try:
        if source.archive:
            _fetch(source, folder, source.archive, sum(f.size for f in source.files), partial(_check_archive, source))
            return folder
        for file in source.files:
            if _path(source, folder, file) is None:
                _fetch(source, folder, file.name, file.size, partial(_check_gzip, file))
        return folder
    except DataError as error:
        raise DataError(f"{error}\n{_where_to_put(source, data_dir)}") from error


def _fetch(source: Source, folder: Path, name: str, size: int, check: Callable[[Path], None]) -> None:
    from minires.data.download import fetch  # urllib's HTTP stack is loaded by those who need it

    # gzip may make data that cannot be compressed a little larger, never by a mebibyte at these sizes.
    fetch([mirror + name for mirror in source.mirrors], folder / name, check, max_bytes=size + 2**20)


def _check_archive(source: Source, path: Path) -> None:
    for _ in _archive_contents(source, path):
        pass


def _check_gzip(file: File, path: Path) -> None:
    check_hash(read_bytes(path, file.size, compressed=True), file.sha256, file.name)


def _download_folder(source: Source, data_dir: str | Path | None) -> Path:
    return data_roots(data_dir)[0] / source.folders[0]


def _where_to_put(source: Source, data_dir: str | Path | None) -> str:
    """What to do where there is no network."""
    roots = ", ".join(str(root) for root in data_roots(data_dir))
    lines = [f"{source.name}: not found in {roots}.", f"Put into {_download_folder(source, data_dir)}:"]
    if source.archive:
        lines.append(f"  {source.archive}, or the folder {source.inside} out of it, with")
    lines += [f"  {file.name}  (content: {file.size} bytes, sha256 {file.sha256})" for file in source.files]
    lines.append(f"from {' or '.join(source.mirrors)}")
    lines += [f"or, {hint}" for hint in source.hints]
    return "\n".join(lines)


def _load_folder(path: Path, size: int) -> tuple[ArrayDataset, ArrayDataset]:
    if not path.is_dir():
        raise DataError(f"{FOLDER}{path}: no such folder")
    parts = [path / name for name in ("test", "val") if (path / name).is_dir()]
    if (path / "train").is_dir() and parts:
        train, test = image_folder(path / "train", size), image_folder(parts[0], size)
        if train.classes != test.classes:
            different = ", ".join(sorted(set(train.classes) ^ set(test.classes)))
            raise DataError(f"{path}: train/ and {parts[0].name}/ must have the same classes; only in one: {different}")
    else:
        train, test = split_validation(image_folder(path, size), 0.2, seed=0)
    train = ArrayDataset(train.images, train.labels, train.classes, f"{path.name}/train")
    return train, ArrayDataset(test.images, test.labels, train.classes, f"{path.name}/test", train.mean, train.std)
