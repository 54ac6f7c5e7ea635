"""The files of a run that hold weights: what is in them, who can read them, and from which of them training goes on."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires.backend import use_kernels
from minires.errors import CheckpointError
from minires.io import archive
from minires.io.safetensors import SafetensorsFile, load_file, save_file
from minires.tensor import Tensor
from minires.train import session
from minires.train.checkpoint import load_checkpoint, load_model, restore, save_checkpoint, save_weights
from minires.train.config import build_config
from minires.train.run_folder import find_checkpoint
from minires.train.session import resume_training, run_training
from minires.train.setup import build_parts

SETTINGS = {
    "epochs": 1, "limit": 40, "batch_size": 16, "model_options": ["width=4"], "test_every": 0, "name": "a",
    "schedule": "constant",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("runs")
    with use_kernels("reference"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "curves_available", lambda: False)
        return run_training(build_config({**SETTINGS, "run_dir": str(folder)}), io.StringIO()).path


class Counter:
    """Something with a state that is no part of model, optimiser and schedule."""

    def __init__(self, steps: int = 0) -> None:
        self.steps, self.average = steps, np.full(3, steps / 7, np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": Tensor(self.average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.average = state["steps"], state["average"].numpy()


def save(path: Path, **stateful: Any) -> Any:
    """A checkpoint of fresh parts, and the parts."""
    parts = build_parts(build_config(SETTINGS))
    parts.stateful = stateful
    save_checkpoint(
        path, config=parts.config, model=parts.model, optimizer=parts.optimizer, schedule=parts.schedule,
        stateful=parts.stateful, data={"classes": []}, progress={"epoch": 0},
    )  # fmt: skip
    return parts


def test_checkpoint_holds_everything_a_run_goes_on_from(run: Path) -> None:
    tree = archive.load(run / "last.ckpt")
    wanted = {
        "format", "version", "model", "optimizer", "schedule", "stateful", "random", "progress", "rows", "config", "data",
        "runtime", "versions",
    }  # fmt: skip
    assert set(tree) == wanted
    assert tree["versions"]["minires"] == minires.__version__
    assert set(tree["runtime"]) == {"kernels", "workers", "ranks", "linear_algebra", "cpu", "numpy"}
    assert tree["runtime"]["kernels"] == "reference"
    assert "bn1.running_var" in tree["model"]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert tree["rows"] == [json.loads(line) for line in lines]


def test_checkpoint_keeps_whatever_else_has_a_state(tmp_path: Path) -> None:
    save(tmp_path / "a.ckpt", counter=Counter(5))
    parts = build_parts(build_config(SETTINGS))
    parts.stateful = {"counter": Counter()}
    restore(load_checkpoint(tmp_path / "a.ckpt"), parts)
    counter = parts.stateful["counter"]
    assert counter.steps == 5
    np.testing.assert_array_equal(counter.average, np.full(3, 5 / 7, np.float32))
    for there in ({}, {"other": Counter()}):
        parts.stateful = there
        with pytest.raises(
            CheckpointError, match=r"has a state of \['counter'\] beside model and optimiser, its settings ask"
        ):
            restore(load_checkpoint(tmp_path / "a.ckpt"), parts)


def test_restore_of_what_does_not_fit_says_so(tmp_path: Path) -> None:
    save(tmp_path / "a.ckpt")
    parts = build_parts(build_config({**SETTINGS, "model_options": ["width=8"]}))
    with pytest.raises(CheckpointError, match=r"resume: .*a\.ckpt does not fit its own settings: "):
        restore(load_checkpoint(tmp_path / "a.ckpt"), parts)


def test_best_weights_open_in_the_official_reader_and_in_load_model(run: Path) -> None:
    official = pytest.importorskip("safetensors.numpy", reason="the official reader is not installed")
    theirs = official.load_file(run / "best.safetensors")
    ours = load_model(load_checkpoint(run)).state_dict()
    assert {"conv1.weight", "layer1.0.bn2.running_mean", "fc.bias"} <= set(theirs) == set(ours)
    images = Tensor(np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32))
    logits = [
        net(images).detach().numpy()
        for net in (
            load_model(load_checkpoint(run)),
            minires.load_model(run / "best.safetensors"),
            minires.load_model(run),
        )
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])


def test_best_weights_say_what_they_are_of(run: Path) -> None:
    with SafetensorsFile(run / "best.safetensors") as file:
        metadata = dict(file.metadata)
    assert metadata["format"] == "pt" and "architecture" not in metadata  # resnet8 is 16 wide, this one 4
    found, whole = load_checkpoint(run / "best.safetensors"), load_checkpoint(run / "last.ckpt")
    assert (found.config, found.data, found.versions) == (whole.config, whole.data, whole.versions)
    assert found.progress["epoch"] == 1
    assert whole.complete and not found.complete


def test_training_does_not_go_on_from_the_best_weights(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "a")
    with pytest.raises(
        CheckpointError, match=r"best\.safetensors holds weights for use; training goes on from last\.ckpt"
    ):
        resume_training(tmp_path / "a" / "best.safetensors", io.StringIO())
    assert not (tmp_path / "a" / "run.lock").exists()
    with pytest.raises(CheckpointError, match=r"holds weights for use"):
        restore(load_checkpoint(run / "best.safetensors"), build_parts(build_config(SETTINGS)))


def test_older_run_with_a_best_ckpt_is_read_as_before(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "older"
    folder.mkdir()
    tree = archive.load(run / "last.ckpt")
    for key in ("rows", "runtime", "stateful"):  # which it does not have
        del tree[key]
    del tree["progress"]["lr"]
    archive.save(tree, folder / "best.ckpt")
    archive.save({**tree, "progress": {**tree["progress"], "epoch": 2}}, folder / "last.ckpt")
    assert find_checkpoint(folder).name == "best.ckpt"
    found = load_checkpoint(folder)
    assert found.complete and found.progress["epoch"] == 1
    load_model(found)
    shutil.copy(run / "best.safetensors", folder)
    assert find_checkpoint(folder).name == "best.safetensors"


def test_older_run_goes_on_with_the_rows_that_are_there(
    run: Path, tmp_path: Path, reference_kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "curves_available", lambda: False)
    shutil.copytree(run, tmp_path / "a")
    tree = archive.load(run / "last.ckpt")
    tree["config"]["epochs"] = 2
    for key in ("rows", "runtime", "stateful"):
        del tree[key]
    archive.save(tree, tmp_path / "a" / "last.ckpt")
    result = resume_training(tmp_path / "a", io.StringIO())
    assert [row["epoch"] for row in result.rows] == [1, 2]
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # in the last tensor's bytes
    path.write_bytes(content)


def test_best_weights_with_a_flipped_bit_are_refused(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "best.safetensors", tmp_path / "best.safetensors")
    flip(tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match=r"is damaged: its weights are not those that were written \(sha256\)"):
        load_checkpoint(tmp_path / "best.safetensors")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, r"holds a state dict \(weights alone\), not a training run"),
        ({"minires": "{"}, "what it says of its run is damaged"),
        ({"minires": "[]"}, r"holds a state dict \(weights alone\)"),
        ({"minires": "[" * 100_000}, "what it says of its run is damaged"),
    ],
)
def test_safetensors_of_something_else_are_a_checkpoint_error(tmp_path: Path, metadata: Any, message: str) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("key", ["progress", "config", "data"])
def test_best_weights_that_lack_something_are_a_checkpoint_error(run: Path, tmp_path: Path, key: str) -> None:
    with SafetensorsFile(run / "best.safetensors") as file:
        document = json.loads(file.metadata["minires"])
    del document[key]
    save_file(load_file(run / "best.safetensors"), tmp_path / "a.safetensors", {"minires": json.dumps(document)})
    with pytest.raises(CheckpointError, match=f"is incomplete: {key} missing or of the wrong kind"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_equal_weights_give_equal_bytes_whatever_the_clock_said(tmp_path: Path) -> None:
    parts = build_parts(build_config(SETTINGS))
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        progress = {"epoch": 1, "seconds": seconds}
        save_weights(tmp_path / name, config=parts.config, model=parts.model, data={}, progress=progress)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_best_weights_name_a_network_of_the_names_own_width(tmp_path: Path) -> None:
    parts = build_parts(build_config({**SETTINGS, "model_options": ["shortcut=B"]}))
    save_weights(tmp_path / "a", config=parts.config, model=parts.model, data={}, progress={"epoch": 1})
    with SafetensorsFile(tmp_path / "a") as file:
        assert file.metadata["architecture"] == "resnet8"
    minires.load_model(tmp_path / "a")


@pytest.mark.parametrize("kind", ["checkpoint", "weights"])
def test_save_is_on_the_disk_before_the_old_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The machine, too, may stop: contents first, then the name, then the folder that holds the name."""
    parts = build_parts(build_config(SETTINGS))
    said: list[str] = []
    replace, fsync = os.replace, os.fsync

    def note_fsync(file: int) -> None:
        said.append("folder" if os.path.isdir(f"/proc/self/fd/{file}") else "contents")
        fsync(file)

    def note_replace(source: Any, target: Any) -> None:
        said.append("name")
        replace(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not say what a file descriptor is of")
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    if kind == "checkpoint":
        save(tmp_path / "a.ckpt")
    else:
        save_weights(tmp_path / "a", config=parts.config, model=parts.model, data={}, progress=OrderedDict(epoch=1))
    assert said == ["contents", "name", "folder"]
