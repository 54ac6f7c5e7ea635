"""The picture of a run. Its looks are judged by eye; here: that it is there, whole, and shows what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minires.train import curves

pytest.importorskip("matplotlib", reason="the curves are matplotlib's")


def rows(epochs: int, **changes: Any) -> list[dict[str, Any]]:
    splits = {f"{split}_{key}": 0.5 for split in ("train", "val", "test") for key in ("loss", "accuracy")}
    return [{"epoch": e, **splits, "lr": 0.1 / e, **changes} for e in range(1, epochs + 1)]


@pytest.mark.parametrize(
    "table",
    [
        rows(12),
        rows(1),
        rows(100),
        rows(3, val_loss=None, val_accuracy=None, test_loss=None, test_accuracy=None),
        rows(2, train_loss=0.0),
    ],
)
def test_draw_curves_writes_a_png(tmp_path: Path, table: list[dict[str, Any]]) -> None:
    path = tmp_path / "curves.png"
    curves.draw_curves(table, path, "resnet8 on digits", best_epoch=1)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content.endswith(b"IEND\xaeB`\x82")
    assert int.from_bytes(content[16:20]) == 1800


def test_draw_curves_shows_every_split_and_the_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    table = rows(5)
    table[3]["val_accuracy"] = 0.75
    curves.draw_curves(table, tmp_path / "curves.png", "a title", best_epoch=4)
    loss, accuracy, rate = figures[0].axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation", "test"]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "training", "validation", "test", "best.ckpt: epoch 4, 75.00 %",
    ]  # fmt: skip
    assert list(accuracy.lines[3].get_xydata()[0]) == [4, 0.75]
    assert list(rate.lines[0].get_ydata()) == [row["lr"] for row in table]
    assert figures[0].get_suptitle() == "a title"
