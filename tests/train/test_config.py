"""Settings: types, ranges, layers, and TOML there and back."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minires.errors import ArgumentError, ConfigError, UnknownNameError
from minires.train.config import FIELDS, TrainConfig, build_config, parse_assignment, read_toml, to_toml
from minires.train.recipes import DEFAULTS, load_recipe


def test_config_defaults_are_the_digits_recipe() -> None:
    config = build_config()
    assert config.data == "digits"
    for name, value in load_recipe("digits").settings.items():
        assert getattr(config, name) == value
    assert config.recipe == "digits"


def test_config_of_an_unlisted_data_set_is_the_generic_recipe() -> None:
    assert build_config({"data": "folder:/photos"}) == TrainConfig(data="folder:/photos")


@pytest.mark.parametrize("data", [*DEFAULTS, "cifar100"])
def test_config_round_trip_through_toml(data: str) -> None:
    config = build_config({"data": data}, {"milestones": [3, 5], "name": "a"})
    assert build_config(tomllib.loads(to_toml(config))) == config


@given(text=st.text(st.characters(exclude_categories=["Cs"])), number=st.floats(min_value=1e-300, max_value=1e300))
def test_config_round_trip_keeps_every_text_and_number(text: str, number: float) -> None:
    config = TrainConfig(data_dir=text, lr=number)
    assert build_config(tomllib.loads(to_toml(config))) == config


def test_config_later_layers_go_over_earlier_ones() -> None:
    config = build_config({"lr": 1.0, "epochs": 3}, {"lr": 2.0})
    assert (config.lr, config.epochs) == (2.0, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=0.05", ("lr", 0.05)),
        ("lr=1", ("lr", 1.0)),
        ("epochs = 3", ("epochs", 3)),
        ("nesterov=false", ("nesterov", False)),
        ("model=resnet20", ("model", "resnet20")),
        ('model="resnet20"', ("model", "resnet20")),
        ("name=2026", ("name", "2026")),
        ("data_dir=", ("data_dir", "")),
        ("augment=pad_crop:4,flip", ("augment", ["pad_crop:4", "flip"])),
        ("augment=pad_crop:4 flip", ("augment", ["pad_crop:4", "flip"])),
        ('augment=["flip"]', ("augment", ["flip"])),
        ("augment=", ("augment", [])),
        (
            "augment=flip,random_erasing:p=0.5,value=noise,mixup:0.2,1.0",
            ("augment", ["flip", "random_erasing:p=0.5,value=noise", "mixup:0.2,1.0"]),
        ),
        ("milestones=10,20", ("milestones", [10, 20])),
        ("milestones=[10, 20]", ("milestones", [10, 20])),
        ("milestones=10", ("milestones", [10])),
    ],
)
def test_config_assignment_is_typed(text: str, expected: tuple[str, Any]) -> None:
    key, value = parse_assignment(text)
    assert (key, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("epochs=many", ConfigError, r"setting epochs must be a whole number, got 'many'"),
        ("epochs=1.5", ConfigError, r"setting epochs must be a whole number, got 1\.5"),
        ("epochs=true", ConfigError, r"setting epochs must be a whole number, got True"),
        ("lr=fast", ConfigError, r"setting lr must be a number, got 'fast'"),
        ("nesterov=1", ConfigError, r"setting nesterov must be true or false, got 1"),
        ("milestones=a,3", ConfigError, r"setting milestones must be a list of whole numbers, got \['a', 3\]"),
        ("augment=[1]", ConfigError, r"setting augment must be a list of names, got \[1\]"),
        ("epochs", ConfigError, r"--set epochs: write it as KEY=VALUE"),
        ("epohcs=3", UnknownNameError, r"unknown setting 'epohcs': did you mean epochs"),
        ("batchsize=3", UnknownNameError, r"unknown setting 'batchsize': did you mean batch_size"),
    ],
)
def test_config_assignment_errors_say_what_is_wrong(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_assignment(text)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"optimizer": "sdg"}, UnknownNameError, "unknown optimizer 'sdg': did you mean sgd"),
        ({"schedule": "cosin"}, UnknownNameError, "unknown schedule 'cosin': did you mean cosine"),
        ({"augment": ["flipp"]}, UnknownNameError, "'flipp': did you mean flip"),
        ({"epochs": 0}, ConfigError, "epochs must be at least 1, got 0"),
        ({"workers": -1}, ConfigError, "workers must be 0 or more, got -1"),
        ({"lr": 0.0}, ConfigError, r"lr must be a positive number, got 0\.0"),
        ({"lr": float("nan")}, ConfigError, "lr must be a positive number, got nan"),
        ({"weight_decay": float("nan")}, ConfigError, "weight_decay must be 0 or more, got nan"),
        ({"momentum": 1.0}, ConfigError, r"momentum must be in \[0, 1\), got 1\.0"),
        ({"momentum": 0.0}, ConfigError, "nesterov must be false where momentum is 0, got True"),
        ({"val_fraction": 1.0}, ConfigError, r"val_fraction must be in \[0, 1\), got 1\.0"),
        ({"label_smoothing": 1.0}, ConfigError, r"label_smoothing must be in \[0, 1\), got 1\.0"),
        ({"gamma": 0.0}, ConfigError, r"gamma must be in \(0, 1\], got 0\.0"),
        ({"milestones": [5, 3]}, ConfigError, r"milestones must be in ascending order, got \[5, 3\]"),
        ({"milestones": [0]}, ConfigError, r"milestones must be epochs from 1 on, got \[0\]"),
        ({"milestone_steps": [3, 2]}, ConfigError, r"milestone_steps must be in ascending order, got \[3, 2\]"),
        ({"milestone_steps": [0]}, ConfigError, r"milestone_steps must be steps from 1 on, got \[0\]"),
        ({"ema_decay": 1.0}, ConfigError, r"ema_decay must be in \[0, 1\), got 1\.0"),
        ({"stage_lr": 0.0}, ConfigError, r"stage_lr must be in \(0, 1\], got 0\.0"),
        ({"accumulate": 0}, ConfigError, "accumulate must be at least 1, got 0"),
        ({"accumulate": 9, "batch_size": 8}, ConfigError, "accumulate must be at most batch_size = 8, got 9"),
        (
            {"patience": 2, "val_fraction": 0.0},
            ConfigError,
            "patience must be 0 where val_fraction is 0: it watches val",
        ),
        ({"head": "knob"}, UnknownNameError, "unknown head 'knob'"),
        ({"head": "probe"}, ConfigError, r"weights must be given where head = 'probe' \(--weights FILE\), got ''"),
        ({"freeze": "stem"}, ConfigError, r"weights must be given where freeze = 'stem' \(--weights FILE\), got ''"),
        ({"device": "tpu"}, ConfigError, "device must be cpu or cuda, got 'tpu'"),
        ({"name": "../up"}, ConfigError, r"name must be a name, not a path, got '\.\./up'"),
    ],
)
def test_config_range_errors_name_setting_and_limit(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_config(settings)


def test_config_bad_augmentation_option_is_an_argument_error() -> None:
    with pytest.raises(ArgumentError, match="flip"):
        build_config({"augment": ["flip:p=7"]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs = = 3", r"--config: .*my\.toml is not valid TOML: .*line 1"),
        (b"epohcs = 3", r"my\.toml: unknown setting 'epohcs': did you mean epochs"),
        (b"epochs = '3'", r"my\.toml: setting epochs must be a whole number, got '3'"),
        (b"\xff\xfe", r"--config: .*my\.toml is not UTF-8 text"),
        (None, r"--config: cannot read .*my\.toml: No such file"),
    ],
)
def test_config_file_errors_name_the_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "my.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        read_toml(path)


def test_config_every_setting_has_an_explanation_and_a_place_in_the_printed_form() -> None:
    text = to_toml(TrainConfig())
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata["text"]
        assert f"{field.name} = " in text
    assert list(tomllib.loads(text)) == list(FIELDS)
