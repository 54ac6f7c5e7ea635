"""A ResNet of ours in Hugging Face's layout: transformers opens it and gives the same logits; what it cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires import models, nn
from minires.data.preprocess import ImageTransform, Resize, from_huggingface
from minires.errors import ArgumentError
from minires.io.huggingface import huggingface_preprocessor, save_huggingface, to_huggingface
from minires.io.names import to_minires
from tests.infer.nets import eager, images, small
from tests.tolerances import assert_close

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "basic": ("resnet18", {}),
    "bottleneck": ("resnet50", {}),
    "bottleneck, stride on the 1x1": ("resnet50", {"stride_on_1x1": True}),
    "grey images": ("resnet18", {"in_channels": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_save_huggingface_is_opened_by_transformers(case: str, tmp_path: Path, transformers: Any) -> None:
    from tests.torch_oracle import torch

    name, options = CASES[case]
    net = small(name, **options)
    written = save_huggingface(net, tmp_path / "net", class_names=["ä", "b", "c", "d", "e"])
    assert [file.name for file in written] == ["model.safetensors", "config.json"]
    x = images(2, options.get("in_channels", 3), 64, 64, dtype="float32")
    judge, loading = transformers.ResNetForImageClassification.from_pretrained(
        tmp_path / "net", output_loading_info=True
    )
    with torch.no_grad():
        y = judge.eval()(torch.tensor(x)).logits.numpy()
    assert not any(loading.values()), loading  # no missing, unexpected or mismatched names
    assert judge.config.id2label == dict(enumerate(["ä", "b", "c", "d", "e"]))
    assert_close(y, eager(net, x), "float32", n=512)


@pytest.mark.parametrize("case", CASES)
def test_save_huggingface_comes_back(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name, options = CASES[case]
    net = small(name, **options)
    save_huggingface(net, tmp_path)
    x = images(2, options.get("in_channels", 3), 64, 64, dtype="float32")
    np.testing.assert_array_equal(eager(minires.load_model(tmp_path), x), eager(net, x))
    assert caplog.messages == []  # nothing had to be guessed


def test_to_huggingface_is_the_inverse_of_to_minires() -> None:
    state = {name: value.array for name, value in models.resnet50(num_classes=3).state_dict().items()}
    theirs = to_huggingface(state)
    assert len(theirs) == 320
    back = to_minires(theirs, "test")
    assert list(back) == list(state)
    assert all(back[name] is state[name] for name in state)
    with pytest.raises(ArgumentError, match=r"has no place for layer1\.0\.se\.fc1\.weight"):
        to_huggingface({"layer1.0.se.fc1.weight": np.zeros(1)})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Linear(2, 2), "transformers has no Linear; its ResNet is the ImageNet family's"),
        (lambda: small("resnet20"), "transformers has no CifarResNet"),
        (lambda: small("seresnet18"), "transformers has no ResNet with squeeze_excitation True"),
        (lambda: small("resnet18d"), "transformers has no ResNet with stem deep, shortcut avg"),
        (lambda: small("resnext50_32x4d"), "transformers has no ResNet with groups 32, width_per_group 4"),
        (lambda: small("wide_resnet50_2"), "transformers has no ResNet with width_per_group 128"),
        (lambda: small("resnet18", small_input=True), "transformers has no ResNet with stem 3x3"),
        (lambda: small("plain_resnet18"), "transformers has no ResNet with shortcut none"),
    ],
)
def test_save_huggingface_refuses_what_theirs_cannot_be(model: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        save_huggingface(model(), tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_save_huggingface_wants_a_name_for_each_class(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="the model has 5 classes, got 2 names"):
        save_huggingface(small("resnet18"), tmp_path, class_names=["a", "b"])


@pytest.mark.parametrize(
    "transform",
    [
        ImageTransform(224, Resize("shorter", 256, 256), interpolation="bicubic"),
        ImageTransform((64, 96), Resize("exact", 64, 96), mean=(0.5,) * 3, std=(0.25,) * 3, rescale=1 / 127.5),
    ],
)
def test_huggingface_preprocessor_is_read_back_as_the_same(transform: ImageTransform) -> None:
    back = from_huggingface(json.loads(json.dumps(huggingface_preprocessor(transform))), "test")
    for name in ("size", "resize", "interpolation", "mean", "std", "rescale"):
        assert getattr(back, name) == getattr(transform, name)


@pytest.mark.parametrize(
    "transform",
    [
        ImageTransform(32, 32, mean=(0.5,), std=(0.25,)),
        ImageTransform(32, 36, fill=(9, 9, 9)),
        ImageTransform((32, 48), Resize("cover", 32, 48)),
        ImageTransform(32, Resize("exact", 36, 36)),
        ImageTransform(32, None),
    ],
)
def test_huggingface_preprocessor_is_none_where_none_does_the_same(transform: ImageTransform) -> None:
    assert huggingface_preprocessor(transform) is None


def test_save_huggingface_writes_how_images_are_prepared(tmp_path: Path) -> None:
    transform = ImageTransform(64, Resize("shorter", 72, 72))
    written = save_huggingface(small("resnet18"), tmp_path, transform=transform)
    assert [file.name for file in written] == ["model.safetensors", "config.json", "preprocessor_config.json"]
    x = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    ours = minires.data.preprocess.transform_for(minires.load_model(tmp_path))
    assert (ours.size, ours.resize) == (transform.size, transform.resize)
    assert ours(x).shape == (3, 64, 64)
