"""A run that is killed goes on with the same bits, whichever call to the file system was its last.

Real kills are in tests/cli/test_faults.py, at some points. Here every point has its turn: a run is watched, and before and
after each call that changes something on the disk its folder is copied. That copy is what a SIGKILL there would have left.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minires.errors import CheckpointError
from minires.train import saver, session
from minires.train.checkpoint import load_checkpoint
from minires.train.config import build_config
from minires.train.guard import LossNotFiniteError
from minires.train.run_folder import read_metrics
from minires.train.session import resume_training, run_training
from tests.train.same_run import assert_same_run, checkpoint, result, rows

SETTINGS = {
    "epochs": 2, "limit": 30, "batch_size": 16, "test_every": 0, "checkpoint_every": 1, "model_options": ["width=2"],
    "optimizer": "adam", "lr": 0.01, "name": "a", "workers": 0, "ema_decay": 0.9, "run_dir": "runs",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(reference_kernels: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of its own, few test images, and nothing that takes longer than the training: pictures, waiting for the
    disk.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(session, "curves_available", lambda: False)
    build = session.build_parts
    monkeypatch.setattr(session, "build_parts", lambda *args, **kwargs: fewer_tests(build(*args, **kwargs)))


def fewer_tests(parts: Any) -> Any:
    parts.test = parts.test.subset(range(16))
    return parts


def train(place: Path, **changes: Any) -> Path:
    """A whole run in a working folder of its own; gives back its folder."""
    place.mkdir()
    os.chdir(place)
    run_training(build_config({**SETTINGS, **changes}), io.StringIO())
    return place / "runs" / "a"


def go_on(folder: Path) -> str:
    """Resume in place, from its own working folder, so that what is written down of paths is the same."""
    os.chdir(folder.parent.parent)
    stream = io.StringIO()
    resume_training("runs/a", stream)
    return stream.getvalue()


class Camera:
    """Copies a folder around every call that changes the disk; equal states are kept once."""

    def __init__(self, folder: Path, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.album, self.seen = folder, album, set[tuple[tuple[str, bytes], ...]]()
        for name in ("replace", "fsync", "unlink", "ftruncate", "link"):
            monkeypatch.setattr(os, name, self.around(getattr(os, name)))

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.shoot()
            done = call(*args, **kwargs)
            self.shoot()
            return done

        return wrapped

    def shoot(self) -> None:
        if not self.folder.exists():
            return
        # The names of temporary files are random; what matters is that there is one.
        state = tuple(sorted((f.name.split(".tmp")[0][:12], f.read_bytes()) for f in self.folder.iterdir()))
        if state not in self.seen:
            self.seen.add(state)
            shutil.copytree(self.folder, self.album / f"{len(self.seen):03}" / "runs" / "a")

    def pictures(self) -> Iterator[Path]:
        for place in sorted(self.album.iterdir()):
            yield place / "runs" / "a"


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_run_killed_at_any_call_to_the_disk_goes_on_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    with monkeypatch.context() as patch:
        camera = Camera(tmp_path / "watched" / "runs" / "a", tmp_path / "album", patch)
        whole = train(tmp_path / "watched")
    assert [path.name for path in whole.glob(".*")] == []
    stages = set()
    for picture in list(camera.pictures())[::stride]:
        if not (picture / "last.ckpt").exists():  # killed before the first save: there is nothing to lose
            with pytest.raises(CheckpointError, match=r"there is no file or folder .*last\.ckpt"):
                resume_training(picture, io.StringIO())
            continue
        progress = load_checkpoint(picture / "last.ckpt").progress
        stages.add((progress["epoch"], progress["batch"], len(read_metrics(picture))))
        if (picture / "result.json").exists():  # the last word was said
            with pytest.raises(CheckpointError, match="has finished its 2 epochs"):
                go_on(picture)
        else:
            go_on(picture)
        assert_same_run(picture, whole)
        left = {path.name for path in picture.iterdir()}
        assert not [name for name in left if name.startswith(".") or name in ("run.lock", "before.ckpt")]
    # Two steps an epoch (27 images, 16 at a time); the row of an epoch comes after its checkpoint.
    steps = [(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 2, 1), (2, 0, 1), (2, 0, 2)]
    assert sorted(stages) == steps or (stride > 1 and stages < set(steps))
    assert len(camera.seen) > 30


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_row_that_a_kill_cut_is_repaired(tmp_path: Path, length: int) -> None:
    whole = train(tmp_path / "whole")
    cut = tmp_path / "cut" / "runs" / "a"
    shutil.copytree(whole, cut)
    (cut / "result.json").unlink()
    lines = (cut / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "metrics.jsonl").write_bytes(lines[0] + lines[1][:length])
    with open(cut / "log.txt", "a") as log:
        log.write("half a li")
    go_on(cut)
    assert_same_run(cut, whole)
    assert "half a li\n" in (cut / "log.txt").read_text()


def test_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    settings = {"augment": ["translate:1", "mixup:0.4"], "label_smoothing": 0.1}
    first, second, other = (
        train(tmp_path / name, seed=seed, **settings) for name, seed in (("one", 1), ("two", 1), ("three", 2))
    )
    assert_same_run(first, second)
    assert rows(first) != rows(other)


@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_loader_workers_changes_no_bit(tmp_path: Path, workers: int) -> None:
    settings = {"augment": ["translate:1", "random_erasing:p=0.5"]}
    alone, together = train(tmp_path / "a", **settings), train(tmp_path / "b", workers=workers, **settings)
    assert rows(alone) == rows(together)
    assert result(alone) == result(together)
    ours, theirs = checkpoint(alone), checkpoint(together)
    for name in ours["model"]:
        assert ours["model"][name].numpy().tobytes() == theirs["model"][name].numpy().tobytes(), name


def test_checkpoints_within_an_epoch_come_by_steps_or_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves: list[tuple[int, int]] = []
    save = session.fit.__globals__["Saver"].last

    def note(self: Any, *args: Any) -> None:
        saves.append((self.state.epoch, self.state.batch))
        save(self, *args)

    monkeypatch.setattr(session.fit.__globals__["Saver"], "last", note)
    ends = [(0, 0), (1, 0), (2, 0)]
    train(tmp_path / "a", checkpoint_every=0, checkpoint_seconds=0)
    assert saves == ends
    saves.clear()
    train(tmp_path / "b", checkpoint_every=2, checkpoint_seconds=0)
    assert saves == sorted([*ends, (0, 2), (1, 2)])
    saves.clear()
    train(tmp_path / "c", checkpoint_every=0, checkpoint_seconds=1e-9)
    assert saves == sorted([*ends, *[(epoch, batch) for epoch in (0, 1) for batch in (1, 2)]])


def test_weights_that_a_step_ruined_and_a_save_kept_are_taken_back(tmp_path: Path) -> None:
    """The first update makes the weights huge, still finite, and they are saved; the second step's loss is no number."""
    with pytest.raises(LossNotFiniteError, match="training loss is nan at step 2"):
        train(tmp_path / "a", optimizer="sgd", lr=1e30, schedule="constant", ema_decay=0.0)
    folder = tmp_path / "a" / "runs" / "a"
    kept = load_checkpoint(folder / "last.ckpt")
    assert kept.progress["batch"] == 0
    assert max(abs(value.numpy()).max() for value in kept.model.values()) < 100
    assert not (folder / "before.ckpt").exists()


def test_checkpoint_before_the_last_is_kept_by_a_copy_where_files_have_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(LossNotFiniteError):
        train(tmp_path / "a", optimizer="sgd", lr=1e30, schedule="constant", ema_decay=0.0)
    assert load_checkpoint(tmp_path / "a" / "runs" / "a" / "last.ckpt").progress["batch"] == 0


@pytest.mark.parametrize("settings", [{"max_steps": 3}, {"accumulate": 2}, {"patience": 1, "lr": 1e-9, "epochs": 4}])
def test_run_stopped_after_any_step_goes_on_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Settings that end an epoch or a run elsewhere than usual, or have more than one forward pass a step."""
    with monkeypatch.context() as patch:
        camera = Camera(tmp_path / "whole" / "runs" / "a", tmp_path / "album", patch)
        patch.setattr(camera, "shoot", lambda: None)
        save = saver.save_checkpoint

        def saved(*args: Any, **kwargs: Any) -> None:
            save(*args, **kwargs)
            Camera.shoot(camera)

        patch.setattr(saver, "save_checkpoint", saved)
        whole = train(tmp_path / "whole", **settings)
    for picture in list(camera.pictures())[1::2]:
        go_on(picture)
        assert_same_run(picture, whole)
    assert len(camera.seen) >= 6
