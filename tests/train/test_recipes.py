"""Recipes: each file can be read, says where it is from, and lies where it belongs among the layers of settings."""

from __future__ import annotations

import json
import tomllib

import pytest

from minires import models
from minires.errors import UnknownNameError
from minires.train import recipes
from minires.train.config import FIELDS, TrainConfig, build_config, model_arguments, to_toml
from minires.train.recipes import DEFAULTS, all_recipes, load_recipe, recipe_names

ISSUE = {"digits", "fashion-mnist", "fashion-mnist-fast", "cifar10", "cifar10-strong", "imagenet", "finetune"}


def test_recipes_are_there() -> None:
    assert set(recipe_names()) >= ISSUE
    assert set(DEFAULTS.values()) <= set(recipe_names())
    for data, name in DEFAULTS.items():
        assert load_recipe(name).settings["data"] == data


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_says_what_where_from_and_what_it_reached(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.title
    assert recipe.source
    assert recipe.reached
    assert "\n" not in recipe.title + recipe.source + recipe.reached


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_makes_a_config_that_round_trips(name: str) -> None:
    weights = {"weights": "a.pth"} if name == "finetune" else {}
    config = build_config({"recipe": name}, weights)
    assert config.recipe == name
    for key, value in load_recipe(name).settings.items():
        assert getattr(config, key) == value
    assert build_config(tomllib.loads(to_toml(config))) == config
    if config.model:  # else that of the weights
        models.build(config.model, num_classes=10, image_size=28, **model_arguments(config))


def test_recipe_layers_lie_in_order() -> None:
    named = load_recipe("fashion-mnist").settings
    config = build_config({"recipe": "fashion-mnist"}, {"lr": 0.7}, {"lr": 0.3})
    assert (config.lr, config.epochs, config.data) == (0.3, named["epochs"], "fashion-mnist")
    assert build_config({"recipe": "digits"}, {"recipe": "fashion-mnist"}).epochs == named["epochs"]
    # Another data set keeps the recipe that was asked for.
    assert build_config({"recipe": "fashion-mnist", "data": "mnist"}).epochs == named["epochs"]


def test_recipe_without_data_lies_over_the_data_sets_own() -> None:
    finetune = load_recipe("finetune").settings
    config = build_config({"recipe": "finetune", "weights": "a.pth"})
    assert config.augment == load_recipe("digits").settings["augment"], "a digit must not be mirrored"
    assert config.label_smoothing == finetune["label_smoothing"] != load_recipe("digits").settings["label_smoothing"]
    photos = build_config({"recipe": "finetune", "weights": "a.pth", "data": "folder:x"})
    assert photos.augment == TrainConfig().augment


def test_recipe_of_the_data_set_is_taken_and_named() -> None:
    assert build_config({"data": "fashion-mnist"}).recipe == DEFAULTS["fashion-mnist"]
    assert build_config({"data": "cifar100"}) == TrainConfig(data="cifar100")


def test_recipe_of_the_paper_is_the_papers() -> None:
    """He et al. 2015, section 4.2, word by word."""
    config = build_config({"recipe": "cifar10"})
    assert (config.model, model_arguments(config)) == ("resnet20", {"shortcut": "A"})
    assert (config.batch_size, config.lr, config.weight_decay, config.momentum) == (128, 0.1, 1e-4, 0.9)
    assert (config.schedule, config.milestone_steps, config.max_steps) == ("multistep", [32000, 48000], 64000)
    assert (config.gamma, config.nesterov, config.decay_bn) == (0.1, False, True)
    assert config.augment == ["pad_crop:4", "flip"]
    assert config.val_fraction == 0.1  # 45k / 5k


def test_another_model_drops_the_recipes_options_of_its_own() -> None:
    assert build_config({"recipe": "cifar10"}).model_options == ["shortcut=A"]
    assert build_config({"recipe": "cifar10", "model": "resnet18"}).model_options == []
    assert build_config({"recipe": "cifar10", "model": "resnet20"}).model_options == ["shortcut=A"]
    given = {"recipe": "cifar10", "model": "resnet56", "model_options": ["shortcut=B"]}
    assert build_config(given).model_options == ["shortcut=B"]


def test_recipe_of_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown recipe 'cifar': did you mean cifar10"):
        build_config({"recipe": "cifar"})


def test_recipe_comment_is_read_by_paragraphs(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    text = "# A title.\n#\n# Some words.\n#\n# Source: one\n# two.\n#\n# Reached here: 9 %.\nlr = 0.5\n# Source: not this\n"
    (tmp_path / "own.toml").write_text(text)
    monkeypatch.setattr(recipes, "_folder", lambda: tmp_path)
    (recipe,) = all_recipes()
    assert (recipe.name, recipe.title, recipe.source, recipe.reached) == ("own", "A title.", "one two.", "9 %.")
    assert recipe.settings == {"lr": 0.5}


def test_every_setting_is_an_option_of_the_command_line() -> None:
    from minires.cli.train import GROUPS

    assert sorted(name for names in GROUPS.values() for name in names) == sorted(FIELDS)


def test_list_recipes_names_each_with_source_and_figure(capsys: pytest.CaptureFixture[str]) -> None:
    from minires.cli.main import main

    assert main(["train", "--list-recipes"]) == 0
    printed = capsys.readouterr().out
    for recipe in all_recipes():
        assert (
            f"{recipe.name}\n    {recipe.title}\n    source  {recipe.source}\n    reached {recipe.reached}" in printed
        )
    assert main(["train", "--list-recipes", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == recipe_names()


def test_print_config_of_a_recipe_says_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    from minires.cli.main import main

    assert main(["train", "--recipe", "cifar10", "--lr", "0.2", "--print-config"]) == 0
    assert build_config(tomllib.loads(capsys.readouterr().out)) == build_config({"recipe": "cifar10", "lr": 0.2})
