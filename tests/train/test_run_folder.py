"""The folder of a run: nothing is overwritten, nothing is half-written."""

from __future__ import annotations

import csv
import errno
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from minires.backend import use_kernels
from minires.errors import CheckpointError, ConfigError
from minires.train import run_folder
from minires.train.config import TrainConfig, build_config
from minires.train.lock import RunBusyError
from minires.train.run_folder import (
    RunFolder,
    StorageError,
    available_cores,
    find_checkpoint,
    json_safe,
    read_metrics,
)


def make(tmp_path: Path, **settings: Any) -> RunFolder:
    return RunFolder.create(TrainConfig(run_dir=str(tmp_path / "runs"), model="resnet8", **settings))


def test_run_folder_never_takes_a_name_twice(tmp_path: Path) -> None:
    names = [make(tmp_path).path.name for _ in range(3)]
    assert names == ["digits-resnet8", "digits-resnet8-2", "digits-resnet8-3"]
    assert make(tmp_path, name="mine").path.name == "mine"
    assert make(tmp_path, name="mine").path.name == "mine-2"


def test_run_folder_name_has_no_path_in_it(tmp_path: Path) -> None:
    assert make(tmp_path, data="folder:/a/b c").path == tmp_path / "runs" / "folder-a-b-c-resnet8"


def test_run_folder_holds_config_and_environment(tmp_path: Path) -> None:
    folder = make(tmp_path, seed=7)
    config = build_config(tomllib.loads((folder.path / "config.toml").read_text()))
    assert (config.seed, config.model) == (7, "resnet8")
    env = json.loads((folder.path / "env.json").read_text())
    assert {"minires", "python", "numpy", "cores", "command", "platform"} <= set(env)
    assert env["cores"] == available_cores() >= 1


def test_run_folder_rows_come_as_json_lines_and_as_a_table(tmp_path: Path) -> None:
    folder = make(tmp_path)
    folder.add_epoch({"epoch": 1, "train_loss": 0.5, "val_loss": None})
    folder.add_epoch({"epoch": 2, "train_loss": float("nan"), "val_loss": 0.25})
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"epoch": 1, "train_loss": 0.5, "val_loss": None},
        {"epoch": 2, "train_loss": None, "val_loss": 0.25},
    ]
    with open(folder.path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"epoch": "1", "train_loss": "0.5", "val_loss": ""}
    assert rows[1]["val_loss"] == "0.25"


def test_run_folder_reads_on_where_a_crash_cut_the_last_line(tmp_path: Path) -> None:
    folder = make(tmp_path)
    folder.add_epoch({"epoch": 1, "train_loss": 0.5})
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "train_lo')
    folder.close()
    again = RunFolder.claim(folder.path)
    assert [row["epoch"] for row in again.rows] == [1]
    again.go_on(None, 1)
    again.add_epoch({"epoch": 2, "train_loss": 0.4})
    assert [row["epoch"] for row in read_metrics(folder.path)] == [1, 2]


def test_run_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file stands here")
    with pytest.raises(ConfigError, match=r"run_dir: cannot make a folder in .*runs: "):
        make(tmp_path)


def test_find_checkpoint_prefers_best_then_last(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder.path / "last.ckpt").write_bytes(b"")
    assert find_checkpoint(folder.path).name == "last.ckpt"
    (folder.path / "best.ckpt").write_bytes(b"")  # what older runs have
    assert find_checkpoint(folder.path).name == "best.ckpt"
    (folder.path / "best.safetensors").write_bytes(b"")
    assert find_checkpoint(folder.path).name == "best.safetensors"
    assert find_checkpoint(folder.path / "last.ckpt").name == "last.ckpt"
    with pytest.raises(
        CheckpointError, match=r"has no best\.safetensors or last\.ckpt; it holds the runs digits-resnet8"
    ):
        find_checkpoint(tmp_path / "runs")


def test_find_checkpoint_names_the_runs_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no file or folder nowhere\. `minires train` makes one"):
        find_checkpoint("nowhere")
    (make(tmp_path).path / "last.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"nowhere\. Runs here: runs/digits-resnet8"):
        find_checkpoint("nowhere")


def test_json_safe_has_a_word_for_everything() -> None:
    import numpy as np

    value = {"a": (np.float32(1.5), float("inf")), "b": np.arange(2), "c": np.int64(3), "d": "x"}
    assert json_safe(value) == {"a": [1.5, None], "b": [0, 1], "c": 3, "d": "x"}


def test_available_cores_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(run_folder.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(run_folder.os, "cpu_count", lambda: None)
    assert available_cores() == 1


@pytest.mark.parametrize(
    ("load", "cores", "limit", "advised"),
    [(4.0, 2, "", True), (0.5, 2, "", False), (4.0, 2, "1", False), (4.0, 1, "", False)],
)
def test_busy_advice_only_where_threads_would_wait_for_a_core(
    monkeypatch: pytest.MonkeyPatch, load: float, cores: int, limit: str, advised: bool
) -> None:
    for name in ("MINIRES_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if limit:
        monkeypatch.setenv("MINIRES_THREADS", limit)
    monkeypatch.setattr(run_folder.os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(run_folder, "available_cores", lambda: cores)
    assert ("MINIRES_THREADS=1" in run_folder.busy_advice()) == advised


def test_run_folder_belongs_to_one_process_until_it_is_closed(tmp_path: Path) -> None:
    with make(tmp_path) as folder:
        with pytest.raises(RunBusyError, match=rf"belongs to process {os.getpid()} on "):
            RunFolder.claim(folder.path)
        assert RunFolder(folder.path).rows == []  # reading takes no lock
    with RunFolder.claim(folder.path):
        pass
    folder.close()  # twice is as good as once


def test_run_folder_says_what_it_runs_on(tmp_path: Path) -> None:
    with use_kernels("reference"):
        env = json.loads((make(tmp_path).path / "env.json").read_text())
    assert (env["kernels"], env["workers"]) == ("reference", 1)
    assert env["cpu"]
    assert "git" not in env


def test_run_folder_that_goes_on_notes_every_environment(tmp_path: Path) -> None:
    with make(tmp_path) as folder:
        began = json.loads((folder.path / "env.json").read_text())
        folder.go_on([], 0)
        folder.go_on([], 0)
    env = json.loads((folder.path / "env.json").read_text())
    assert len(env.pop("resumed")) == 2
    assert env == began


def test_run_folder_takes_its_rows_from_the_checkpoint(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "train_loss": 0.1}, {"epoch": 2, "train_loss": float("nan")}]
    for there in ("", '{"epoch": 1, "train_loss": 0.1}\n', "no JSON", '{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"ep'):
        with make(tmp_path) as folder:
            (folder.path / "metrics.jsonl").write_text(there)
            folder.go_on(rows, 2)
            text = (folder.path / "metrics.jsonl").read_text()
        assert text == '{"epoch": 1, "train_loss": 0.1}\n{"epoch": 2, "train_loss": null}\n'
        assert (folder.path / "results.csv").read_text() == "epoch,train_loss\n1,0.1\n2,nan\n"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room on that disk (or raise the quota or limit)"),
        (errno.EFBIG, "make room on that disk (or raise the quota or limit)"),
        (errno.EROFS, "give this user the right to write there"),
        (errno.EIO, "see what is wrong with that place"),
    ],
)
def test_writing_that_fails_says_what_is_kept_and_what_to_do(tmp_path: Path, number: int, remedy: str) -> None:
    folder = make(tmp_path)

    def fail() -> None:
        with folder.writing("results.csv"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(StorageError) as caught:
        fail()
    file, way = folder.path / "results.csv", f"The way out: {remedy}"
    assert str(caught.value) == f"train: cannot write {file}: {os.strerror(number)}. {way}"
    (folder.path / "last.ckpt").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        fail()
    kept = f"{folder.path / 'last.ckpt'} is whole, as it was saved last."
    way += f", then: minires train --resume {folder.path}"
    assert str(caught.value) == f"train: cannot write {file}: {os.strerror(number)}. {kept} {way}"
    with pytest.raises(RunBusyError), folder.writing("x"):  # what has said already what is wrong passes as it is
        raise RunBusyError("train: ...")


def test_run_folder_in_a_full_or_closed_place_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        StorageError, match=r"run_dir: cannot make a folder in .*No space left .* name another place: --run-dir"
    ):
        make(tmp_path)


def test_run_folder_that_cannot_be_begun_belongs_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: RunFolder, name: str, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            make(tmp_path)
    path = tmp_path / "runs" / "digits-resnet8"
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "remove_leftovers", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            RunFolder.claim(path)
    RunFolder.claim(path).close()


def test_claim_removes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    with make(tmp_path) as folder:
        pass
    (folder.path / ".last.ckpt.4242-0123abcd.tmp").write_bytes(b"half")
    (folder.path / ".mine.tmp").write_bytes(b"not ours")
    with RunFolder.claim(folder.path):
        assert sorted(path.name for path in folder.path.glob(".*")) == [".mine.tmp"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"interrupted": true}'])
def test_run_is_reported_only_by_a_result_that_says_so(tmp_path: Path, text: str) -> None:
    folder = make(tmp_path)
    assert not folder.reported
    folder.write_text("result.json", text)
    assert not folder.reported
    folder.write_text("result.json", '{"interrupted": false}')
    assert folder.reported
