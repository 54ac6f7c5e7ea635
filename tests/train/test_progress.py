"""What the person sees: plain lines, rows, times."""

from __future__ import annotations

import io
from typing import Any

import pytest

from minires.train import progress as module
from minires.train.progress import HEADER, Progress, Step, format_duration, format_row, make_progress


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "epoch": 3,
        "train_loss": 0.5,
        "train_accuracy": 0.9,
        "val_loss": 0.25,
        "val_accuracy": 1.0,
        "test_accuracy": None,
        "lr": 0.1,
        "images_per_second": 1234.5,
        "seconds": 61.0,
    }
    return {**base, **changes}


def test_progress_rows_stand_under_their_headings() -> None:
    line = format_row(row(), 12, True)
    assert line.split() == [
        "3/12", "0.5000", "90.00", "%", "0.2500", "100.00", "%*", "-", "0.10000", "1,234", "1:01",
    ]  # fmt: skip
    assert len(line) == len(HEADER[1]) <= 80
    assert line[: HEADER[1].index("loss") + 4].endswith("0.5000")
    assert line[: HEADER[1].index("images/s") + 8].endswith("1,234")
    assert "*" not in format_row(row(), 12, False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00"), (247, "4:07"), (3723, "1:02:03")],
)
def test_progress_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_progress_plain_lines_give_a_sign_of_life_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    stream, log = io.StringIO(), []
    shown = Progress(stream, log.append)
    shown.start(4, 1)
    shown.epoch_start()
    now[0] = 105.0
    shown.step(Step(1, 5, 20, 0.5, 0.9, 640))
    assert len(stream.getvalue().splitlines()) == len(HEADER), "a line before ten seconds have passed"
    now[0] = 110.0
    shown.step(Step(1, 10, 20, 0.5, 0.9, 1280))
    last = stream.getvalue().splitlines()[-1]
    # 10 s for an eighth of the run: 70 s are left.
    assert " ".join(last.split()) == "1/4 batch 10/20 loss 0.5000 acc 90.00 % 128 images/s 1:10 left"
    now[0] = 121.0
    shown.looker(1, "test")(500, 10_000)
    assert " ".join(stream.getvalue().splitlines()[-1].split()) == "1/4 test images 500/10,000"
    assert log == stream.getvalue().splitlines()


def test_progress_is_plain_where_the_stream_is_no_terminal() -> None:
    assert type(make_progress(io.StringIO())) is Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_live_on_a_terminal_with_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="the live form is rich's")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    live = make_progress(stream)
    live.line("run     runs/[bold]x")
    live.start(2, 1)
    live.epoch_start()
    live.step(Step(1, 5, 20, 0.5, 0.9, 640))
    live.bar.refresh()  # type: ignore[attr-defined]
    live.looker(1, "validation")(5, 10)
    live.bar.refresh()  # type: ignore[attr-defined]
    live.epoch_end(row(epoch=1), True)
    live.finish()
    text = stream.getvalue()
    assert "runs/[bold]x" in text, "square brackets were taken for markup"
    assert "epoch 1/2" in text
    assert "loss 0.500" in text
    assert "left" in text
    assert "validation images 5/10" in text


def test_progress_is_plain_on_a_terminal_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert type(make_progress(Terminal())) is Progress
