"""Checkpoints for tests, made by torch: networks of the family in the names that other libraries give them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minires
from minires.io.safetensors import save_file
from minires.nn import Module
from tests.models.twins import Twin, net
from tests.tolerances import assert_close
from tests.torch_oracle import torch

FOUR, THREE = [64, 128, 256, 512], [16, 32, 64]


def twin(layers: list[int], widths: list[int] = FOUR, seed: int = 0, num_classes: int = 7, **options: Any) -> Any:
    """A network in torch, in evaluation mode, none of whose numbers is a special one."""
    options.setdefault("stem", "imagenet")
    tiered = options.pop("tiered", False)
    model = Twin(**net(layers, widths, num_classes=num_classes, **options))
    if tiered:  # timm's `t` stems
        conv, norm = torch.nn.Conv2d, torch.nn.BatchNorm2d
        first, second = conv(3, 24, 3, 2, 1, bias=False), conv(24, 32, 3, 1, 1, bias=False)
        relu = torch.nn.ReLU()
        model.conv1 = torch.nn.Sequential(
            first, norm(24), relu, second, norm(32), relu, conv(32, 64, 3, 1, 1, bias=False)
        )
    rng = np.random.default_rng(seed)
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if value.ndim >= 2:
            drawn = rng.standard_normal(value.shape) * (2 / np.prod(value.shape[1:])) ** 0.5
        elif key.endswith(("weight", "running_var")):
            drawn = rng.uniform(0.5, 1.5, value.shape)
        else:
            drawn = 0.1 * rng.standard_normal(value.shape)
        value.copy_(torch.tensor(drawn))
    return model.eval()


def huggingface_name(name: str) -> str:
    """FACTS of ResNetForImageClassification, read backwards."""
    kind = {"conv": "convolution", "bn": "normalization"}
    if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"resnet.embedder.embedder.{kind[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name):
        stage, block, factor, layer, rest = match.groups()
        return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.layer.{int(layer) - 1}.{kind[factor]}.{rest}"
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.(\d)\.(\w+)", name):
        stage, block, place, rest = match.groups()
        factor = ["convolution", "normalization"][int(place)]
        return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.shortcut.{factor}.{rest}"
    return name.replace("fc.", "classifier.1.")


def cifar_name(name: str) -> str:
    """pytorch-cifar's and akamaster's."""
    return name.replace("downsample", "shortcut").replace("fc.", "linear.")


def named(model: Any, rename: Callable[[str], str] = str, prefix: str = "") -> dict[str, Any]:
    return {prefix + rename(name): value for name, value in model.state_dict().items()}


def folder(path: Path, state: dict[str, Any], config: dict[str, Any], **more: Any) -> Path:
    """model.safetensors, config.json, and other JSON files by name, as timm and Hugging Face lay them out."""
    path.mkdir(exist_ok=True)
    save_file({name: value.numpy() for name, value in state.items()}, path / "model.safetensors", {"format": "pt"})
    for name, content in {"config": config, **more}.items():
        (path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def timm_config(architecture: str, **more: Any) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "num_classes": 7,
        "num_features": 512,
        "pretrained_cfg": {"tag": "a1_in1k", "mean": [0.5, 0.5, 0.5], "crop_pct": 0.95, "interpolation": "bicubic"},
        **more,
    }


def huggingface_config(**more: Any) -> dict[str, Any]:
    return {"architectures": ["ResNetForImageClassification"], "model_type": "resnet", **more}


def assert_same_logits(model: Module, judge: Any, size: int = 40, channels: int = 3) -> None:
    """Both classify the same images alike, to float32's tolerance."""
    images = np.random.default_rng(5).standard_normal((2, channels, size, size)).astype(np.float32)
    with minires.no_grad(), torch.no_grad():
        ours = model(minires.tensor(images)).numpy()
        theirs = judge(torch.tensor(images))
    theirs = getattr(theirs, "logits", theirs).numpy()
    assert_close(ours, theirs, "float32", n=512 * 9)
