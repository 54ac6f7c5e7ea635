"""Every setting of a training run, in one flat table that can be printed, saved and read back.

Four layers, each over the one before: the defaults below, a recipe (the one named, else the data set's own; see
`recipes/`), a TOML file (`--config`), the command line (`--epochs 5`, `--set lr=0.1`). What came out is written into the
run's folder, so a run can be repeated from it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from minires.errors import ConfigError, UnknownNameError
from minires.train.recipes import DEFAULTS, load_recipe

__all__ = ["TrainConfig", "build_config", "model_arguments", "parse_assignment", "read_toml", "to_toml"]

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "onecycle", "step", "multistep", "linear")
HEADS = ("new", "probe", "keep")


def _setting(default: Any, text: str) -> Any:
    """A field with its one-line explanation, which `--print-config` writes beside it."""
    return field(default=default, metadata={"text": text})


@dataclass
class TrainConfig:
    """The settings of one training run. The defaults suit small photographs; `recipes/` holds what differs.

    Nothing is None: an empty string or 0 means "not set", so that every value can stand in a TOML file.
    """

    recipe: str = _setting("", "named settings below these: `minires train --list-recipes` (empty: the data set's own)")

    data: str = _setting("digits", "data set: `minires data` lists them; or folder:PATH")
    data_dir: str = _setting("", "where its files lie (empty: $MINIRES_DATA, then the usual places)")
    limit: int = _setting(0, "train on the first N images only (0: all)")
    per_class: int = _setting(0, "train on N images of each class only, drawn by the seed (0: all)")
    image_size: int = _setting(64, "pixels a side to which the images of folder:PATH are brought")
    val_fraction: float = _setting(
        0.1, "part of the training images kept aside to choose the best checkpoint (0: none)"
    )

    model: str = _setting("resnet20", "architecture: `minires summary` lists them (empty: that of the weights)")
    model_options: list[str] = field(
        default_factory=list,
        metadata={"text": "options of the architecture as key=value: shortcut=B, width=8, plain=true"},
    )

    zero_gamma: bool = _setting(False, "begin with every residual block as the identity: its last batch norm at 0")
    weights: str = _setting("", "begin from the weights of this file or run (empty: from random ones)")
    head: str = _setting(
        "new", "the last layer over given weights: new (random), probe (fitted on the features), keep (the file's)"
    )
    freeze: str = _setting("", "stem, layer1, ...: given weights up to and with this stage stay as they are")

    epochs: int = _setting(30, "passes over the training images")
    max_steps: int = _setting(
        0, "stop after so many steps, in the middle of an epoch too; sets epochs (0: epochs count)"
    )
    batch_size: int = _setting(128, "images in one step")
    accumulate: int = _setting(1, "pieces in which a step's images are computed; their gradients add up to the batch's")
    optimizer: str = _setting("sgd", "one of: " + ", ".join(OPTIMIZERS))
    lr: float = _setting(0.1, "highest learning rate")
    momentum: float = _setting(0.9, "of sgd; beta1 of adam and adamw")
    nesterov: bool = _setting(True, "sgd looks ahead along its momentum")
    weight_decay: float = _setting(5e-4, "pull of the weights towards zero")
    decay_bn: bool = _setting(True, "weight decay on batch norm and bias parameters too")
    sync_bn: bool = _setting(True, "over several processes: batch norm with the statistics of the whole batch")
    clip_norm: float = _setting(0.0, "scale gradients down to this norm (0: never)")
    label_smoothing: float = _setting(
        0.0, "spread this part of the target over all classes (and of what the training loss can reach)"
    )
    ema_decay: float = _setting(
        0.0, "judge and keep as best the running mean of the weights, this much of it kept at each step (0: none)"
    )
    patience: int = _setting(0, "stop after so many epochs without a better validation (0: never)")

    schedule: str = _setting("onecycle", "one of: " + ", ".join(SCHEDULES))
    warmup_epochs: float = _setting(
        0.0, "epochs of linear warm-up before the schedule (not for onecycle, which has its own)"
    )
    milestones: list[int] = field(
        default_factory=list, metadata={"text": "epochs after which multistep multiplies by gamma"}
    )
    milestone_steps: list[int] = field(
        default_factory=list, metadata={"text": "the same in steps, in place of milestones"}
    )
    step_epochs: int = _setting(30, "step multiplies by gamma every so many epochs")
    gamma: float = _setting(0.1, "factor of step and multistep")
    stage_lr: float = _setting(
        1.0, "each stage below the head learns at this part of the rate of the one above it (1: all alike)"
    )

    augment: list[str] = field(
        default_factory=lambda: ["pad_crop:4", "flip"],
        metadata={"text": "steps in order, see minires.data.augment; options after a colon"},
    )
    seed: int = _setting(0, "of everything random: weights, order of images, augmentation")
    workers: int = _setting(1, "background threads that prepare batches (0: none)")
    device: str = _setting("cpu", "cpu or cuda")
    checkpoint_every: int = _setting(0, "steps between saves of last.ckpt inside an epoch (0: by time alone)")
    checkpoint_seconds: float = _setting(300.0, "seconds between saves of last.ckpt inside an epoch (0: at its end)")
    run_dir: str = _setting("runs", "folder in which the run gets a folder of its own")
    name: str = _setting(
        "", "name of that folder (empty: made from data set and model; a number is added if it is taken)"
    )
    flip_tta: bool = _setting(
        False, "judge by the mean of the logits of an image and its mirror; said wherever the figure is shown"
    )
    tensorboard: bool = _setting(False, "also write the figures as TensorBoard events into the run's folder")
    test_every: int = _setting(
        1, "epochs between looks at the test set; never used to choose anything (0: only at the end)"
    )

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        """Hold every value to its range; the message says which and what is allowed."""
        from minires.data.augment import Pipeline

        def need(ok: bool, name: str, allowed: str) -> None:
            if not ok:
                raise ConfigError(f"{name} must be {allowed}, got {getattr(self, name)!r}")

        known_names = (
            ("optimizer", "optimizer", OPTIMIZERS),
            ("schedule", "schedule", SCHEDULES),
            ("head", "head", HEADS),
        )
        for name, kind, known in known_names:
            if getattr(self, name) not in known:
                raise UnknownNameError.for_name(kind, getattr(self, name), known)
        Pipeline(self.augment)  # reads every step, and complains about those it does not know
        for option in self.model_options:
            need("=" in option, "model_options", "a list of key=value")
        for name in ("epochs", "batch_size", "step_epochs", "accumulate", "image_size"):
            need(getattr(self, name) >= 1, name, "at least 1")
        for name in (
            "limit", "per_class", "workers", "seed", "warmup_epochs", "weight_decay", "clip_norm", "test_every",
            "max_steps", "patience",
        ):  # fmt: skip
            need(getattr(self, name) >= 0, name, "0 or more")
        # Two-sided, or "smaller than" written as "not at least": NaN, which TOML can spell, fails every comparison.
        need(0 < self.lr < float("inf"), "lr", "a positive number")
        need(0 <= self.momentum < 1, "momentum", "in [0, 1)")
        need(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)")
        need(0 <= self.val_fraction < 1, "val_fraction", "in [0, 1)")
        need(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1)")
        need(0 < self.gamma <= 1, "gamma", "in (0, 1]")
        need(0 < self.stage_lr <= 1, "stage_lr", "in (0, 1]")
        for name, unit in (("milestones", "epochs"), ("milestone_steps", "steps")):
            need(all(m >= 1 for m in getattr(self, name)), name, f"{unit} from 1 on")
            need(getattr(self, name) == sorted(getattr(self, name)), name, "in ascending order")
        need(self.accumulate <= self.batch_size, "accumulate", f"at most batch_size = {self.batch_size}")
        need(not self.patience or self.val_fraction > 0, "patience", "0 where val_fraction is 0: it watches validation")
        for name, asked in (("freeze", self.freeze), ("head", self.head != "new"), ("model", not self.model)):
            need(
                bool(self.weights) or not asked,
                "weights",
                f"given where {name} = {getattr(self, name)!r} (--weights FILE)",
            )
        need(self.device.split(":")[0] in ("cpu", "cuda"), "device", "cpu or cuda")
        need(not self.nesterov or self.momentum > 0 or self.optimizer != "sgd", "nesterov", "false where momentum is 0")
        need(
            "/" not in self.name and "\\" not in self.name and self.name not in (".", ".."),
            "name",
            "a name, not a path",
        )


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(TrainConfig)}
TYPES: dict[str, Any] = get_type_hints(TrainConfig)


def model_arguments(config: TrainConfig) -> dict[str, Any]:
    """`model_options` as keyword arguments: ["shortcut=B", "width=8"] -> {"shortcut": "B", "width": 8}."""
    arguments: dict[str, Any] = {}
    for option in config.model_options:
        key, _, text = option.partition("=")
        try:
            arguments[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            arguments[key.strip()] = text.strip()  # a bare word
    return arguments


def build_config(*layers: Mapping[str, Any]) -> TrainConfig:
    """Lay settings over one another: defaults, then the recipe that they name or that their data set has, then each of
    `layers` in order.

    Options of a model belong to it: a layer that names another model drops the recipe's.

    Raises:
        UnknownNameError: a key that is no setting (with the nearest ones), or a name that is not known.
        ConfigError: a value of the wrong type or outside its range.
    """
    given: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            given[key] = _typed(key, value)
    base = _recipe_settings(given)
    if given.get("model", base.get("model")) != base.get("model"):
        base.pop("model_options", None)
    return TrainConfig(**{**base, **given})


def _recipe_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the recipes say under `given`; the name of the one taken is among it."""
    name = given.get("recipe", "")
    named = {key: _typed(key, value) for key, value in load_recipe(name).settings.items()} if name else {}
    if "data" in named:
        return named
    own = DEFAULTS.get(given.get("data", FIELDS["data"].default))
    if own is None:
        return named
    under = {key: _typed(key, value) for key, value in load_recipe(own).settings.items()}
    if named.get("model", under.get("model")) != under.get("model"):
        under.pop("model_options", None)
    return {"recipe": own, **under, **named}


def read_toml(path: str | Path) -> dict[str, Any]:
    """Settings from a TOML file, checked one by one.

    Raises:
        ConfigError: no such file, or not TOML (with line and column), or a value of the wrong type.
        UnknownNameError: a key that is no setting.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config: {path} is not UTF-8 text") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config: {path} is not valid TOML: {error}") from error
    try:
        return {key: _typed(key, value) for key, value in table.items()}
    except (ConfigError, UnknownNameError) as error:
        raise type(error)(f"{path}: {error}") from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """`--set lr=0.1`: the value is read as TOML; bare words with commas or spaces between them are a list.

    Example:
        >>> parse_assignment("augment=pad_crop:4,flip")
        ('augment', ['pad_crop:4', 'flip'])
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals:
        raise ConfigError(f"--set {text}: write it as KEY=VALUE, for example --set lr=0.05")
    _known(key)
    if TYPES[key] is str and value[:1] not in ("'", '"'):
        return key, value  # name=2026 means the word
    try:
        return key, _typed(key, tomllib.loads(f"value = {value}")["value"])
    except tomllib.TOMLDecodeError:
        pass  # not TOML: a bare word
    if TYPES[key] == list[int]:
        words = value.replace(",", " ").split()
        return key, _typed(key, [int(word) if word.isdecimal() else word for word in words])
    if key == "model_options":
        return key, value.replace(",", " ").split()
    return key, _typed(key, _split_steps(value) if TYPES[key] == list[str] else value)


def _split_steps(text: str) -> list[str]:
    """Commas stand between steps and between a step's options: what is a number or has "=" before any ":" is an option.

    Example:
        >>> _split_steps("flip,random_erasing:p=0.5,value=noise,mixup:0.2,1.0")
        ['flip', 'random_erasing:p=0.5,value=noise', 'mixup:0.2,1.0']
    """
    steps: list[str] = []
    for word in text.replace(",", " ").split():
        option = "=" in word.split(":")[0] or word[0].isdigit() or word[0] in ".-"
        if option and steps:
            steps[-1] += "," + word
        else:
            steps.append(word)
    return steps


def to_toml(config: TrainConfig) -> str:
    """The settings as TOML text, one a line with its explanation. Reading it back gives an equal TrainConfig."""
    rows = [(f"{name} = {_toml_value(getattr(config, name))}", f.metadata["text"]) for name, f in FIELDS.items()]
    width = max(len(left) for left, _ in rows if len(left) <= 40)
    return "".join(f"{left:<{width}}  # {text}\n" for left, text in rows)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(_toml_character(c) for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


def _toml_character(c: str) -> str:
    if c in '"\\':
        return "\\" + c
    return f"\\u{ord(c):04x}" if ord(c) < 0x20 or ord(c) == 0x7F else c


def _known(key: str) -> None:
    if key not in FIELDS:
        raise UnknownNameError.for_name("setting", key, FIELDS)


def _typed(key: str, value: Any) -> Any:
    """The value in the type of its setting. An int may stand for a float, nothing else for anything else."""
    _known(key)
    wanted = TYPES[key]
    if wanted is float and type(value) is int:
        return float(value)
    if wanted in (list[int], list[str]):
        inner = int if wanted == list[int] else str
        if isinstance(value, (list, tuple)) and all(type(item) is inner for item in value):
            return list(value)
        if type(value) is inner:  # one alone
            return [value]
    elif type(value) is wanted:
        return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    expected = names.get(wanted) or ("a list of whole numbers" if wanted == list[int] else "a list of names")
    raise ConfigError(f"setting {key} must be {expected}, got {value!r}")
