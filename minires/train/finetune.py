"""Beginning from given weights: which network they are of, how they are put into one with another head.

    given = read_weights(config)         # a run of ours, or a file or folder that `minires.load_model` reads
    config = given.settle(config)        # the settings now name its network
    given.put_into(model, config)        # all but the head; channels of the image are fitted

`setup.build_parts` calls these where `weights` is set, freezes the stages of `freeze`, and fits the head on the features
where `head = "probe"`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minires import models
from minires.errors import CheckpointError, ConfigError
from minires.io import archive
from minires.io.load_model import load_model as load_any_model
from minires.io.safetensors import SafetensorsFile, is_safetensors
from minires.models import Bottleneck
from minires.nn import Module
from minires.tensor import Tensor
from minires.train.checkpoint import BEST, FORMAT, LAST, load_checkpoint, load_model
from minires.train.config import TrainConfig, model_arguments

__all__ = ["Given", "read_weights"]


@dataclass(frozen=True)
class Given:
    """Weights, and what is known of them.

    name, options: the network, as `model` and `model_options`.
    mean, std: how its images were normalised, a value a channel; None where nothing says so.
    """

    state: dict[str, np.ndarray]
    name: str
    options: list[str]
    mean: list[float] | None
    std: list[float] | None

    @property
    def classes(self) -> int:
        """Outputs of its head."""
        return len(self.state["fc.bias"])

    def settle(self, config: TrainConfig) -> TrainConfig:
        """`config` with the network of the weights.

        Raises:
            ConfigError: it names another one.
        """
        if config.model and config.model != self.name:
            raise ConfigError(
                f"weights: {config.weights} are of {self.name}, not of model = {config.model!r}; leave it out"
            )
        return replace(config, model=self.name, model_options=self.options)

    def put_into(self, model: Module, config: TrainConfig) -> None:
        """Copy the weights into `model`, which has them already but for the head and the image's channels.

        With head = "keep" the head is copied too. The first convolution is fitted to other channels: from colour to grey its
        weights are summed over the channels (a grey image shown in colour gives the same), from grey to colour divided
        among them.

        Raises:
            ConfigError: head = "keep" with another number of classes.
            StateDictError: something does not fit.
        """
        state = {name: array for name, array in self.state.items() if not name.startswith("fc.")}
        fresh = model.state_dict()
        if config.head == "keep":
            if len(fresh["fc.bias"]) != self.classes:
                raise ConfigError(
                    f"head = 'keep': the weights know {self.classes} classes, the data has {len(fresh['fc.bias'])}; "
                    "take head = 'new' or 'probe'"
                )
            state = dict(self.state)
        else:
            state |= {name: fresh[name].numpy() for name in ("fc.weight", "fc.bias")}
        first = next(name for name, array in state.items() if array.ndim == 4)
        state[first] = fit_channels(state[first], fresh[first].shape[1])
        model.load_state_dict({name: Tensor(np.asarray(array)) for name, array in state.items()})


def read_weights(config: TrainConfig) -> Given:
    """The weights that the settings name.

    Raises:
        CheckpointError: nothing there, damaged, or of no network of ours.
        ConfigError: a file that does not say which network it is of, and no `model` either.
    """
    path = Path(config.weights)
    if not path.exists():
        raise CheckpointError(f"weights: there is no file or folder {path}")
    if _is_run(path):
        checkpoint = load_checkpoint(path)
        state = {name: tensor.numpy() for name, tensor in load_model(checkpoint).state_dict().items()}
        found, facts = checkpoint.config, checkpoint.data
        return Given(state, found.model, found.model_options, facts["mean"], facts["std"])
    net = load_any_model(path, model=config.model or None)
    about = {**(net.preprocess_config or {}), **(net.pretrained_config or {})}
    name = config.model or str(about.get("architecture", "")).partition(".")[0]
    if name not in models.list_models():
        raise ConfigError(f"weights: nothing beside {path} says which of our networks it is; say it: --model NAME")
    mean, std = (about.get(key) or about.get(f"image_{key}") for key in ("mean", "std"))
    state = {key: tensor.numpy() for key, tensor in net.state_dict().items()}
    return Given(state, name, _options(net, name, config), mean, std)


def _is_run(path: Path) -> bool:
    """Whether it is a run's folder, or a file that `minires train` wrote."""
    if path.is_dir():
        return any((path / name).is_file() for name in (BEST, "best.ckpt", LAST))
    with open(path, "rb") as file:
        head = file.read(16)
    if is_safetensors(head):
        with SafetensorsFile(path) as tensors:
            return "minires" in tensors.metadata
    tree = archive.load(path)
    return isinstance(tree, dict) and tree.get("format") == FORMAT


def _options(net: Module, name: str, config: TrainConfig) -> list[str]:
    """`model_options` with what shapes and strides say of the stem and the bottlenecks, so that the name rebuilds it."""
    options, known = list(config.model_options), models.model_options(name)
    given = model_arguments(config)
    stem = net.state_dict().get("conv1.weight")
    if "small_input" in known and "small_input" not in given:
        options.append(f"small_input={str(stem is not None and stem.shape[2] == 3).lower()}")
    on_1x1 = any(isinstance(module, Bottleneck) and module.conv1.stride[0] == 2 for module in net.modules())
    if on_1x1 and "stride_on_1x1" not in given:
        options.append("stride_on_1x1=true")
    return options


def fit_channels(weight: Any, channels: int) -> Any:
    """A first convolution's weights, (C_out, C_in, k, k), for images of `channels` channels.

    The sum over the input channels stays the same, so that an image whose channels are all alike gives the same output.
    Source: timm's adapt_input_conv.
    """
    c_in = weight.shape[1]
    if c_in == channels:
        return weight
    total = weight.sum(axis=1, keepdims=True)
    return np.repeat(total / channels, channels, axis=1).astype(weight.dtype)
