"""Split state dicts: joined where the files are what the index says; an index can lead nowhere but into its own folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires.errors import CheckpointError
from minires.io.safetensors import save_file
from minires.io.shards import read_shards

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
W, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)


def split(folder: Path, **changes: Any) -> Path:
    """A set of two files; `changes` replaces entries of the table, None takes one out."""
    save_file({"module.fc.weight": W}, folder / FIRST)
    save_file({"module.fc.bias": B}, folder / SECOND)
    table = {"module.fc.weight": FIRST, "module.fc.bias": SECOND}
    table |= {name.replace("__", "."): file for name, file in changes.items()}
    index = folder / "model.safetensors.index.json"
    content = {"weight_map": {name: file for name, file in table.items() if file is not None}}
    index.write_text(json.dumps({"metadata": {"total_size": 32}, **content}), encoding="utf-8")
    return index


def test_load_state_dict_file_joins_the_files_of_an_index(tmp_path: Path) -> None:
    state = minires.load_state_dict_file(split(tmp_path))
    assert list(state) == ["fc.weight", "fc.bias"]  # without the prefix, which all of them have
    np.testing.assert_array_equal(state["fc.weight"], W)
    np.testing.assert_array_equal(state["fc.bias"], B)


def test_read_shards_joins_every_format(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch writes one of the files")
    index = split(tmp_path, module__fc__bias="pytorch_model-2.bin")
    torch.save({"module.fc.bias": torch.tensor(B)}, tmp_path / "pytorch_model-2.bin")
    np.testing.assert_array_equal(minires.load_state_dict_file(index)["fc.bias"], B)


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:model.safetensors",
        "model\0.safetensors",
        "..",
        "",
        ".hidden.safetensors",
        "model.safetensors\n",
        "model.json",
        "model.safetensors.index.json",
        3,
        ["model.safetensors"],
        None,
    ],
)
def test_read_shards_refuses_what_is_no_plain_name(tmp_path: Path, name: Any) -> None:
    """Nothing is opened, so that it does not matter what is there."""
    folder = tmp_path / "inside" / "folder"
    folder.mkdir(parents=True)
    save_file({"w": W}, tmp_path / "inside" / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match=r"here: tensor 'w' is said to be in .*expected the plain name of a file"):
        read_shards(index, "here", lambda file: pytest.fail(f"{file} was opened"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module__fc__bias": FIRST}, f"{FIRST} has no tensor 'module.fc.bias'; the files are not of one set"),
        ({"module__fc__bias": None}, None),
        ({"extra": SECOND}, f"{SECOND} has no tensor 'extra'"),
        (
            {"extra": "model-3.safetensors"},
            "there is no file model-3.safetensors beside the index; fetch all 3 of them",
        ),
        ({"module__fc__weight": None, "other": FIRST}, f"{FIRST} has no tensor 'other'"),
    ],
)
def test_read_shards_refuses_files_that_are_not_what_the_index_says(
    tmp_path: Path, changes: dict[str, Any], message: str | None
) -> None:
    index = split(tmp_path, **changes)
    if message is None:  # the second file is not named at all, and not read
        assert list(minires.load_state_dict_file(index)) == ["fc.weight"]
        return
    with pytest.raises(CheckpointError, match=message):
        minires.load_state_dict_file(index)


def test_read_shards_refuses_a_tensor_in_two_files(tmp_path: Path) -> None:
    index = split(tmp_path)
    save_file({"module.fc.weight": W + 1, "module.fc.bias": B}, tmp_path / SECOND)
    with pytest.raises(
        CheckpointError, match=f"{SECOND} has a tensor that the index does not give it, 'module.fc.weight'"
    ):
        minires.load_state_dict_file(index)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "holds a list"),
        ("{}", "it has no weight_map"),
        ('{"weight_map": []}', "it has no weight_map"),
        ('{"weight_map": {}}', "it has no weight_map"),
        ('{"weight_map": {"a": "x.bin", "a": "y.bin"}}', "not JSON: a JSON object has a key twice"),
    ],
)
def test_read_shards_refuses_what_is_no_index(tmp_path: Path, text: str, message: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError, match=f"model.safetensors.index.json: {message}"):
        minires.load_state_dict_file(index)


def test_read_shards_refuses_a_file_that_holds_no_names(tmp_path: Path) -> None:
    minires.save([1, 2], tmp_path / "a.bin")
    index = split(tmp_path, module__fc__bias="a.bin")
    with pytest.raises(CheckpointError, match=r"a\.bin holds a list, not names and tensors"):
        minires.load_state_dict_file(index)
    minires.save({"module.fc.bias": 3}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=r"'module\.fc\.bias' is a int, not a tensor"):
        minires.load_state_dict_file(index)
