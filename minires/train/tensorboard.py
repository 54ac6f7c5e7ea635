"""A run's figures as TensorBoard events, by tensorboardX (an extra: `pip install minires[tensorboard]`).

Written from the rows of metrics.jsonl, one after each epoch, into `RUN/tensorboard`. A run that goes on writes the file anew
from the rows it kept, so no epoch stands there twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minires.errors import ConfigError

__all__ = ["EventWriter", "scalar_name"]

FOLDER = "tensorboard"


def scalar_name(column: str) -> str:
    """A column of metrics.jsonl as TensorBoard groups it: "val_accuracy" -> "accuracy/val"."""
    split, _, what = column.partition("_")
    return f"{what}/{split}" if split in ("train", "val", "test") and what else column


class EventWriter:
    """Writes rows as scalars.

    Args:
        run: the run's folder.
        rows: what is there already.

    Raises:
        ConfigError: tensorboardX is missing.
    """

    def __init__(self, run: Path, rows: Sequence[dict[str, Any]] = ()) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError(
                "tensorboard: tensorboardX is missing: pip install minires[tensorboard], or set tensorboard = false"
            ) from None
        shutil.rmtree(run / FOLDER, ignore_errors=True)
        self._writer = SummaryWriter(str(run / FOLDER), flush_secs=5)
        for row in rows:
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """Write one epoch: every number of the row but the epoch's own."""
        for column, value in row.items():
            if column != "epoch" and isinstance(value, (int, float)):
                self._writer.add_scalar(scalar_name(column), float(value), row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
