"""`minires train`, as a person runs it: in a process of its own."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minires.io import archive
from minires.train.checkpoint import load_checkpoint, load_model
from tests.cli.conftest import Run, environment


def test_train_without_arguments_reaches_97_percent_on_the_digits(minires: Run, tmp_path: Path) -> None:
    """The README's command. That it takes less than a minute is seen where nothing runs beside it: in .ci/run."""
    done = minires("train", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["test_accuracy"] >= 0.97
    assert result["test"]["images"] == sum(map(sum, result["test"]["confusion_matrix"]))
    folder = tmp_path / result["run"]
    names = {
        "config.toml",
        "env.json",
        "metrics.jsonl",
        "results.csv",
        "best.safetensors",
        "last.ckpt",
        "log.txt",
        "result.json",
    }
    assert names <= {p.name for p in folder.iterdir()}
    assert json.loads((folder / "result.json").read_text()) == result


def test_train_writes_every_file_and_says_what_comes_next(minires: Run, trained: Path) -> None:
    folder = trained / "runs" / "digits-resnet8"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(np.isfinite(line[key]) for line in lines for key in ("train_loss", "val_loss", "test_accuracy", "lr"))
    assert lines[1]["lr"] < 1e-4 < lines[0]["lr"] <= 0.1, "the schedule was not followed"
    with open(folder / "results.csv", newline="") as file:
        assert [float(row["train_loss"]) for row in csv.DictReader(file)] == [line["train_loss"] for line in lines]
    assert tomllib.loads((folder / "config.toml").read_text())["limit"] == 300
    log = (folder / "log.txt").read_text()
    assert "digits: 270 training, 30 validation" in log
    assert "2/2" in log


def test_train_prints_the_closing_table_and_next_commands(minires: Run, tmp_path: Path) -> None:
    done = minires("train", "--epochs", "1", "--limit", "200", "--name", "my run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test accuracy by class" in done.stdout
    assert "after the last epoch" in done.stdout
    assert "minires eval 'runs/my run'" in done.stdout
    assert "\x1b" not in done.stdout, "colours in a pipe"
    said = [line for line in done.stderr.splitlines() if not line.startswith("minires: compiling CPU kernels")]
    assert said == []


def test_train_chooses_the_best_checkpoint_by_validation(trained: Path) -> None:
    folder = trained / "runs" / "digits-resnet8"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: (line["val_accuracy"], -line["val_loss"]))["epoch"]
    assert load_checkpoint(folder / "best.safetensors").progress["epoch"] == best
    assert archive.load(folder / "last.ckpt")["progress"]["epoch"] == 2


def test_train_again_from_the_config_gives_the_same_weights(minires: Run, trained: Path, tmp_path: Path) -> None:
    folder = trained / "runs" / "digits-resnet8"
    done = minires("train", "--config", str(folder / "config.toml"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours, theirs = (archive.load(f / "last.ckpt")["model"] for f in (tmp_path / "runs" / "digits-resnet8", folder))
    for name, value in ours.items():
        np.testing.assert_array_equal(value.numpy(), theirs[name].numpy(), err_msg=name)


def test_train_print_config_round_trips(minires: Run, tmp_path: Path) -> None:
    first = minires(
        "train", "--data", "mnist", "--lr", "0.05", "--set", "milestones=3,5", "--print-config", cwd=tmp_path
    )
    assert first.returncode == 0, first.stderr
    assert tomllib.loads(first.stdout)["lr"] == 0.05
    (tmp_path / "a.toml").write_text(first.stdout)
    second = minires("train", "--config", "a.toml", "--print-config", cwd=tmp_path)
    assert second.stdout == first.stdout
    third = minires("train", "--config", "a.toml", "--set", "lr=0.2", "--print-config", cwd=tmp_path)
    assert tomllib.loads(third.stdout) == {**tomllib.loads(first.stdout), "lr": 0.2}


def interrupted(folder: Path, *args: str, times: int = 1) -> tuple[int, str]:
    """Start a long run, press Ctrl-C when its first epoch is on the disk, and give back the exit code and the output."""
    command = [
        sys.executable,
        "-m",
        "minires",
        "train",
        "--epochs",
        "500",
        "--limit",
        "600",
        "--test-every",
        "0",
        *args,
    ]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    metrics = folder / "runs" / "digits-resnet8" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_train_interrupted_saves_exits_130_and_resumes_exactly(minires: Run, tmp_path: Path) -> None:
    code, output = interrupted(tmp_path)
    assert code == 130, output
    assert "stopping after this step and saving; Ctrl-C again leaves at once" in output
    assert "interrupted after" in output
    assert "minires train --resume runs/digits-resnet8" in output
    assert "Traceback" not in output
    folder = tmp_path / "runs" / "digits-resnet8"
    checkpoint = load_checkpoint(folder / "last.ckpt")
    assert checkpoint.progress["epoch"] >= 1
    load_model(checkpoint)
    assert not list(folder.glob(".*")), "a half-written file was left"


def test_train_resume_gives_the_weights_of_an_uninterrupted_run(
    minires: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop after some batches of an epoch, go on in another process, and compare with the run that was never stopped."""
    from minires.train import loop
    from minires.train.config import build_config
    from minires.train.guard import InterruptGuard
    from minires.train.session import run_training

    monkeypatch.chdir(tmp_path)
    guards: list[InterruptGuard] = []
    enter, count = InterruptGuard.__enter__, [0]

    def remember(self: InterruptGuard) -> InterruptGuard:
        guards.append(self)
        return enter(self)

    loss_of = loop.loss_of

    def press_in_the_second_epoch(*args: Any) -> Any:
        count[0] += 1
        if count[0] == 5 + 2:  # an epoch has 5 batches of 64 (270 images); the second batch of epoch 2
            os.kill(os.getpid(), signal.SIGINT)
        return loss_of(*args)

    with monkeypatch.context() as patch, open(tmp_path / "out.txt", "w") as stream:
        patch.setattr(InterruptGuard, "__enter__", remember)
        patch.setattr(loop, "loss_of", press_in_the_second_epoch)
        result = run_training(build_config({"epochs": 2, "limit": 300}), stream)
    assert result.interrupted
    progress = load_checkpoint(result.path / "last.ckpt").progress
    assert (progress["epoch"], progress["batch"]) == (1, 2)
    done = minires("train", "--resume", str(result.path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there = trained / "runs" / "digits-resnet8"
    ours, theirs = (archive.load(f / "last.ckpt")["model"] for f in (result.path, there))
    for name, value in ours.items():
        np.testing.assert_array_equal(value.numpy(), theirs[name].numpy(), err_msg=name)
    rows = [
        [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second")} for line in lines]
        for lines in ((f / "metrics.jsonl").read_text().splitlines() for f in (result.path, there))
    ]
    assert rows[0] == rows[1]


def test_train_second_interrupt_leaves_at_once_with_a_whole_checkpoint(tmp_path: Path) -> None:
    code, output = interrupted(tmp_path, times=2)
    assert code == 130, output
    assert "Traceback" not in output
    load_model(load_checkpoint(tmp_path / "runs" / "digits-resnet8" / "last.ckpt"))


def test_train_loss_not_finite_exits_4_and_keeps_good_weights(minires: Run, tmp_path: Path) -> None:
    done = minires("train", "--lr", "1e30", "--schedule", "constant", "--limit", "300", cwd=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    # The first step's loss is fine; its update ruins the weights; the second step's loss shows it, and nothing after that.
    assert re.search(r"training loss is (nan|inf) at step 2 \(epoch 1, lr 1e\+30\)", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    checkpoint = load_checkpoint(tmp_path / "runs" / "digits-resnet8" / "last.ckpt")
    assert all(np.isfinite(value.numpy()).all() for value in checkpoint.model.values())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "resnett20"], "unknown model 'resnett20': did you mean resnet20"),
        (["--data", "digitz"], "unknown data set 'digitz': did you mean digits"),
        (["--optimizer", "sdg"], "unknown optimizer 'sdg': did you mean sgd"),
        (["--set", "epohcs=3"], "unknown setting 'epohcs': did you mean epochs"),
        (["--epochs", "many"], "setting epochs must be a whole number, got 'many'"),
        (["--epcohs", "3"], "unknown option --epcohs: did you mean --epochs"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml"),
        (["--model-options", "shortcutt=B"], "unknown option of model resnet8 'shortcutt': did you mean shortcut"),
        (["--limit", "1", "--val-fraction", "0.9"], "leave no image to train on"),
        (["--resume", "runs/x", "--lr", "1"], "--resume goes on with the settings of the run; leave out --lr"),
    ],
)
def test_train_usage_errors_exit_2_with_one_message(
    minires: Run, tmp_path: Path, args: list[str], message: str
) -> None:
    done = minires("train", *args, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists(), "an empty run folder was left behind"


def test_train_missing_data_exits_3(minires: Run, tmp_path: Path) -> None:
    done = minires("train", "--data", f"folder:{tmp_path}/nothing", cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_train_resume_of_a_finished_or_missing_run_exits_3(minires: Run, trained: Path) -> None:
    done = minires("train", "--resume", "runs/digits-resnet8", cwd=trained)
    assert done.returncode == 3
    assert "has finished its 2 epochs" in done.stderr
    done = minires("train", "--resume", "runs/none", cwd=trained)
    assert done.returncode == 3
    assert "Runs here: runs/digits-resnet8" in done.stderr
