"""Whether two runs are the same, bit for bit, but for what a clock measured."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minires.io import archive
from minires.train.run_folder import CLOCK


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Compare everything that a finished run leaves, except its diaries (env.json, log.txt)."""
    for name in ("config.toml", "best.safetensors", "curves.png"):
        there = (theirs / name).exists()
        assert (ours / name).exists() == there, name
        assert not there or (ours / name).read_bytes() == (theirs / name).read_bytes(), f"{name} differs"
    assert rows(ours) == rows(theirs)
    assert table(ours) == table(theirs)
    assert result(ours) == result(theirs)
    assert_same_tree(checkpoint(ours), checkpoint(theirs), "last.ckpt")


def rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the columns of the clock."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [without_clock(json.loads(line)) for line in lines]


def table(folder: Path) -> list[dict[str, Any]]:
    """results.csv without them."""
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return [without_clock(row) for row in csv.DictReader(file)]


def result(folder: Path) -> dict[str, Any]:
    """result.json without its seconds."""
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert document.pop("seconds") > 0
    return document


def checkpoint(folder: Path) -> dict[str, Any]:
    """The tree of last.ckpt without what a clock measured."""
    tree = archive.load(folder / "last.ckpt")
    assert tree["progress"].pop("seconds") > 0
    tree["rows"] = [without_clock(row) for row in tree["rows"]]
    return tree


def without_clock(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics without the columns that no two runs have in common."""
    return {key: value for key, value in row.items() if key not in CLOCK}


def assert_same_tree(ours: Any, theirs: Any, where: str) -> None:
    """Equal in structure, types and every bit; the message says where not."""
    assert type(ours) is type(theirs), f"{where}: {type(ours)} and {type(theirs)}"
    if isinstance(ours, Mapping):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_same_tree(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same_tree(a, b, f"{where}[{i}]")
    elif hasattr(ours, "numpy") or isinstance(ours, np.ndarray):
        a, b = np.asarray(ours), np.asarray(theirs)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        assert a.tobytes() == b.tobytes(), f"{where}: {np.count_nonzero(a != b)} of {a.size} numbers differ"
    else:
        assert ours == theirs or (ours != ours and theirs != theirs), f"{where}: {ours!r} and {theirs!r}"
