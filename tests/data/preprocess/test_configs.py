"""Configurations of timm, Hugging Face and torchvision: the transform equals the library's own, bit for bit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires.data.preprocess import (
    Resize,
    from_huggingface,
    from_timm,
    imagenet_class_names,
    torchvision,
    transform_for,
)
from minires.data.preprocess import configs as configs_module
from minires.errors import ArgumentError, CheckpointError, UnknownNameError
from minires.io.safetensors import save_file
from minires.nn import init
from tests.io import judges

Image = pytest.importorskip("PIL.Image", reason="Pillow, with which the judges resize, is not installed")

SIZES = [(300, 400), (400, 300), (57, 91), (225, 225), (224, 224), (500, 130), (31, 200), (100, 100)]


def picture(h: int, w: int) -> np.ndarray:
    return np.random.default_rng(h * w).integers(0, 256, (h, w, 3), np.uint8)


TIMM: dict[str, dict[str, Any]] = {
    "a1_in1k": {"interpolation": "bicubic", "crop_pct": 0.95},
    "inception's mean": {"interpolation": "bilinear", "crop_pct": 0.875, "mean": [0.5] * 3, "std": [0.5] * 3},
    "288, whole": {"input_size": [3, 288, 288], "crop_pct": 1.0},
    "squash": {"crop_mode": "squash", "crop_pct": 0.9, "input_size": [3, 96, 96]},
    "border": {"crop_mode": "border", "crop_pct": 0.9, "input_size": [3, 96, 96]},
    "not square": {"input_size": [3, 96, 128], "crop_pct": 0.9},
    "not square, border": {"input_size": [3, 96, 128], "crop_pct": 0.9, "crop_mode": "border"},
    "defaults": {"tag": "a1_in1k"},
}


@pytest.mark.parametrize("case", TIMM)
def test_from_timm_equals_timm(case: str) -> None:
    judges.timm()
    from timm.data import create_transform, resolve_data_config

    judge = create_transform(**resolve_data_config({}, pretrained_cfg=TIMM[case]), is_training=False)
    ours = from_timm(json.loads(json.dumps(TIMM[case])), "config.json")
    for size in SIZES:
        image = picture(*size)
        assert np.array_equal(ours(image), judge(Image.fromarray(image)).numpy()), size


def test_from_timm_rounds_the_resize_down() -> None:
    """floor(size / crop_pct), also of another size than the configuration's: 288 / .95 is 303.16."""
    config = {"interpolation": "bicubic", "crop_pct": 0.95}
    assert from_timm(config, "c").resize == Resize("shorter", 235, 235)
    assert from_timm(config, "c", image_size=288).resize == Resize("shorter", 303, 303)
    assert from_timm(config, "c").interpolation == "bicubic"
    grey = from_timm({"input_size": [1, 28, 28], "mean": [0.5], "std": [0.25]}, "c")
    assert grey.shape == (1, 28, 28)


def test_torchvision_equals_torchvision() -> None:
    """Every published ResNet: its transform, and its file's name in the table."""
    judges.torchvision()
    from torchvision.models import resnet

    tables = {**configs_module.TORCHVISION_V1, **configs_module.TORCHVISION_V2}
    seen = 0
    for enum in [value for name, value in vars(resnet).items() if name.endswith("_Weights")]:
        for weights in enum:
            model, digits = weights.url.rpartition("/")[2].removesuffix(".pth").split("-")
            assert tables.pop(digits) == model
            judge, ours = weights.transforms(), torchvision(model, weights.name)
            for size in SIZES[:3]:
                image = picture(*size)
                assert np.array_equal(ours(image), judge(Image.fromarray(image)).numpy()), weights
            seen += 1
    assert seen == 17 and not tables


def test_torchvision_knows_both_recipes() -> None:
    assert torchvision("resnet50").resize == Resize("shorter", 256, 256)
    assert torchvision("resnet50", "IMAGENET1K_V2").resize == Resize("shorter", 232, 232)
    assert torchvision("resnext101_64x4d").resize == Resize("shorter", 232, 232)
    with pytest.raises(UnknownNameError, match="unknown model with weights V2 of torchvision 'resnet18'"):
        torchvision("resnet18", "V2")
    with pytest.raises(UnknownNameError, match="unknown weights of torchvision 'V3'"):
        torchvision("resnet50", "V3")


HUGGINGFACE: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext, default": ("ConvNext", {}),
    "resnet-50": ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    "resnet-50, its first form": ("ConvNext", {"size": 224, "resample": 2}),
    "convnext, 383": ("ConvNext", {"size": {"shortest_edge": 383}, "crop_pct": 0.95}),
    "convnext, odd": ("ConvNext", {"size": {"shortest_edge": 101}, "crop_pct": 0.9}),
    "convnext, bytes": ("ConvNext", {"size": {"shortest_edge": 64}, "do_rescale": False, "image_mean": [120.0] * 3}),
    "vit": ("ViT", {}),
    "vit, 160": ("ViT", {"size": {"height": 160, "width": 120}, "resample": 0}),
    "vit, not normalised": ("ViT", {"do_normalize": False}),
    "vit, in -1 .. 1": ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
    "bit": ("Bit", {}),
    "bit, crop below the image": ("Bit", {"size": {"shortest_edge": 100}, "crop_size": {"height": 121, "width": 90}}),
    "bit, only cropped": ("Bit", {"do_resize": False}),
    "deit": ("DeiT", {}),
    "clip": ("CLIP", {}),
    "mobilenet": ("MobileNetV1", {}),
}


@pytest.mark.parametrize("case", HUGGINGFACE)
def test_from_huggingface_equals_its_processor(transformers: Any, tmp_path: Path, case: str) -> None:
    kind, options = HUGGINGFACE[case]
    judge = getattr(transformers, f"{kind}ImageProcessorPil", None) or getattr(transformers, f"{kind}ImageProcessor")
    judge = judge(**options)
    judge.save_pretrained(tmp_path)
    ours = from_huggingface(json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8")), "p.json")
    for size in SIZES:
        image = picture(*size)
        theirs = np.asarray(judge(Image.fromarray(image), return_tensors="np")["pixel_values"][0])
        assert np.array_equal(ours(image), theirs), size


def test_from_huggingface_reads_the_first_form_of_resnet_50s() -> None:
    config = {
        "crop_pct": 0.875, "do_normalize": True, "do_resize": True, "feature_extractor_type": "ConvNextFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 224,
    }  # fmt: skip
    transform = from_huggingface(config, "preprocessor_config.json")
    assert transform.resize == Resize("shorter", 256, 256) and transform.size == (224, 224)
    assert transform.interpolation == "bicubic" and transform.crop == "huggingface"
    assert from_huggingface(config, "p", image_size=384).resize == Resize("exact", 384, 384)
    assert from_huggingface(config, "p", image_size=288).resize == Resize("shorter", 329, 329)
    vit = from_huggingface({"image_processor_type": "ViTImageProcessorFast"}, "p", image_size=96)
    assert vit.resize == Resize("exact", 96, 96) and vit.size == (96, 96)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "says its images are prepared by None, which minires does not know. It knows ConvNextImageProcessor"),
        (
            {"image_processor_type": "LevitImageProcessor"},
            "prepared by 'LevitImageProcessor'.*an ImageTransform of your own",
        ),
        ({"image_processor_type": ["x"]}, "prepared by "),
        (
            {"do_flip_channel_order": True, "do_pad": True},
            "with do_flip_channel_order, do_pad, which minires does not do",
        ),
        ({"rescale_offset": True}, "with rescale_offset, which"),
        ({"resample": 9}, "resample must be one of Pillow's numbers 0 .. 5, got 9"),
        ({"resample": True}, "resample must be one of Pillow's numbers"),
        ({"size": {"longest_edge": 9}}, "size must be an integer, a shortest_edge, or height and width, got"),
        ({"size": None}, "size must be an integer"),
        ({"size": {"shortest_edge": "224"}}, "size must be an integer"),
        ({"size": {"shortest_edge": 10**9}}, "height must be 1 .. 16384 pixels"),
        ({"size": {"shortest_edge": 0}}, "height must be 1 .. 16384 pixels, got 0"),
        ({"do_resize": False}, "without a shortest_edge to resize to"),
        ({"do_resize": "yes"}, "do_resize must be true or false, got 'yes'"),
        ({"size": 224, "crop_pct": 0}, "crop_pct must be a number above 0, got 0"),
        ({"image_mean": [0.5, 0.5]}, "image_mean must be 3 numbers, one a channel"),
        ({"image_std": [0.5, 0.5, 0]}, "std and rescale must be above 0"),
        ({"image_std": ["a"] * 3}, "image_std must be numbers"),
        ({"image_processor_type": "BitImageProcessor", "do_center_crop": False}, "keep their proportions and are not"),
        ({"image_processor_type": "BitImageProcessor", "crop_size": {"height": 3}}, "crop_size must be an integer"),
    ],
)
def test_from_huggingface_refuses_what_it_does_not_know(config: dict[str, Any], message: str) -> None:
    whole = {"image_processor_type": "ConvNextImageProcessor", **config} if config else config
    with pytest.raises(CheckpointError, match=message) as caught:
        from_huggingface(whole, "preprocessor_config.json")
    assert str(caught.value).startswith("preprocessor_config.json: ")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"crop_mode": "random"}, "crop_mode must be one of center, squash, border, got 'random'"),
        ({"interpolation": "random"}, "unknown interpolation 'random'"),
        ({"interpolation": 3}, "interpolation must be a name, got 3"),
        ({"input_size": [224, 224]}, "input_size must be three sizes, channels, height and width, got"),
        ({"input_size": [3, 10**9, 224]}, "input_size must be three sizes"),
        ({"mean": [0.5, 0.5]}, "mean must be 3 numbers, one a channel"),
        ({"input_size": [1, 28, 28]}, "mean must be 1 number, one a channel, got None"),
        ({"crop_pct": "all"}, "crop_pct must be a number above 0, got 'all'"),
        ({"crop_pct": 1e-9}, "height must be 1 .. 16384 pixels"),
    ],
)
def test_from_timm_refuses_what_means_nothing(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        from_timm(config, "config.json")


def model_with(**beside: Any) -> Any:
    """A small network as `load_model` leaves it."""
    with init.skipped():  # nobody looks at the weights
        name, classes = beside.pop("name", "resnet18"), beside.pop("num_classes", 3)
        model = minires.models.build(name, num_classes=classes, **beside.pop("options", {}))
    model.eval()
    for name in ("pretrained_config", "preprocess_config", "weights_file"):
        setattr(model, name, beside.get(name))
    return model


PROCESSOR = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}}


def test_transform_for_takes_what_lies_beside_the_weights() -> None:
    labels = {"0": "cat", "1": "dog", "2": "owl"}
    hugging = transform_for(model_with(pretrained_config={"id2label": labels}, preprocess_config=PROCESSOR))
    assert hugging.source == "preprocessor_config.json" and hugging.class_names == ("cat", "dog", "owl")
    timm = {"architecture": "resnet18", "pretrained_cfg": {"crop_pct": 0.95, "label_names": ["n1", "n2", "n3"]}}
    ours = transform_for(model_with(pretrained_config=timm, preprocess_config=timm["pretrained_cfg"]))
    assert ours.source == "config.json (timm)" and ours.class_names == ("n1", "n2", "n3")
    described = {**timm, "label_descriptions": {"n1": "tench", "n3": "shark"}}
    assert transform_for(
        model_with(pretrained_config=described, preprocess_config=timm["pretrained_cfg"])
    ).class_names == ("tench", "n2", "shark")
    facts = {
        "channels": 3,
        "height": 32,
        "width": 32,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4] * 3,
        "classes": list("abc"),
    }
    run = transform_for(model_with(name="resnet8", preprocess_config=facts))
    assert run.size == (32, 32) and run.mean == (0.1, 0.2, 0.3) and run.class_names == ("a", "b", "c")


def test_transform_for_knows_torchvisions_files(caplog: pytest.LogCaptureFixture) -> None:
    for name, resize, weights in [
        ("resnet50-0676ba61.pth", 256, "V1"),
        ("resnet50-11ad3fa6.pth", 232, "V2"),
        ("resnext101_64x4d-173b62eb.pth", 232, "V1"),
    ]:
        transform = transform_for(model_with(weights_file=Path("x") / name))
        assert transform.resize == Resize("shorter", resize, resize) and transform.source.endswith(weights)
    assert transform_for(model_with(weights_file="resnet18-f37072fd.pth"), image_size=112).resize == Resize(
        "shorter", 128, 128
    )
    assert caplog.messages == []
    transform_for(model_with(weights_file="resnet18-0676ba61.pth"))  # another network's digits
    assert "nothing beside the weights" in caplog.text


def test_transform_for_announces_what_it_assumes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    transform = transform_for(model_with())
    assert transform.resize == Resize("shorter", 256, 256) and transform.source == "torchvision's V1, assumed"
    assert "nothing beside the weights says how images are prepared. Assumed" in caplog.text
    assert "shorter side to 256 (bilinear), centre 224x224" in caplog.text


def test_imagenet_names_are_those_of_torchvision_in_its_order() -> None:
    names = imagenet_class_names()
    assert len(names) == len(set(names)) == 1000
    # Russakovsky et al.: by WordNet number; every published label file has these at these places.
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 282: "tiger cat", 285: "Egyptian cat",
             340: "zebra", 463: "bucket", 985: "daisy", 999: "toilet tissue"}  # fmt: skip
    assert {place: names[place] for place in known} == known
    meta = pytest.importorskip("torchvision.models._meta", reason="torchvision is not installed")
    assert list(names) == meta._IMAGENET_CATEGORIES


def test_a_thousand_outputs_of_a_published_network_are_imagenets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    thousand = {"options": {}, "num_classes": 1000}
    published = transform_for(model_with(**thousand, weights_file="resnet18-f37072fd.pth"))
    assert published.class_names == imagenet_class_names()
    assert caplog.messages == []  # known by the file's own name
    assert transform_for(model_with(**thousand)).class_names == imagenet_class_names()
    assert "taken for the classes of ImageNet's challenge" in caplog.text
    timm = {"architecture": "resnet18", "pretrained_cfg": {"crop_pct": 0.95}}
    beside = {"pretrained_config": timm, "preprocess_config": timm["pretrained_cfg"]}
    assert transform_for(model_with(**thousand, **beside)).class_names == imagenet_class_names()
    assert (
        transform_for(model_with(**thousand, preprocess_config=PROCESSOR)).class_names is None
    )  # id2label would say it
    assert transform_for(model_with(**thousand), image_size=224, mean=0.5, std=0.5).class_names is None
    assert transform_for(model_with(num_classes=999)).class_names is None
    small = model_with(**{**thousand, "name": "resnet8"})
    assert transform_for(small, image_size=32, mean=0.5, std=0.5).class_names is None


def test_transform_for_takes_the_callers_values() -> None:
    small = model_with(name="resnet8")
    given = transform_for(small, image_size=32, mean=[0.1, 0.2, 0.3], std=0.5)
    assert given.shape == (3, 32, 32) and given.resize == Resize("shorter", 32, 32)
    assert given.mean == (0.1, 0.2, 0.3) and given.std == (0.5,) * 3 and given.source == "the caller"
    changed = transform_for(model_with(preprocess_config=PROCESSOR), mean=0.25, image_size=160)
    assert changed.mean == (0.25,) * 3 and changed.std == (0.5,) * 3 and changed.size == (160, 160)


def test_transform_for_of_a_plan_takes_its_sizes() -> None:
    model = model_with()
    plan = minires.compile(model, (1, 3, 160, 160), kernels="reference")
    transform = transform_for(plan)
    assert transform.size == (160, 160) and transform.resize == Resize("shorter", 182, 182)
    with pytest.raises(ArgumentError, match="the plan takes 160 pixels a side, got image_size = 224"):
        transform_for(plan, image_size=224)
    wide = minires.compile(model, (1, 3, 64, 96), kernels="reference")
    with pytest.raises(ArgumentError, match="not square images"):
        transform_for(wide)


def test_transform_for_refuses(caplog: pytest.LogCaptureFixture) -> None:
    small = model_with(name="resnet8")
    with pytest.raises(
        ArgumentError, match="it is one for small images: give image_size, mean and std as in its training"
    ):
        transform_for(small)
    with pytest.raises(ArgumentError, match="it is one for small images"):
        transform_for(small, image_size=32, mean=0.5)
    grey = model_with(options={"in_channels": 1})
    with pytest.raises(ArgumentError, match=r"it takes images of 1 channel\(s\): give"):
        transform_for(grey)
    grey.preprocess_config = PROCESSOR
    with pytest.raises(
        CheckpointError, match=r"takes 1 channel\(s\), preprocessor_config.json gives values for 3; give"
    ):
        transform_for(grey)
    assert transform_for(grey, mean=0.5, std=0.25).shape == (1, 224, 224)
    with pytest.raises(ArgumentError, match="image_size must be a positive int, got -1"):
        transform_for(small, image_size=-1)
    with pytest.raises(ArgumentError, match="the model has no convolution"):
        transform_for(minires.nn.Linear(3, 2))
    names = {"id2label": {"0": "cat", "1": "dog"}}
    assert transform_for(model_with(pretrained_config=names, preprocess_config=PROCESSOR)).class_names is None
    assert "2 class names are known, the network has 3 classes; they are not used" in caplog.text


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"2": "c", "0": "a"}, ("a", "1", "c")),
        (["a", "b", "c"], ("a", "b", "c")),
        ({"x": "a"}, None),
        ({"99999999999": "a"}, None),
        ([], None),
        ("abc", None),
    ],
)
def test_transform_for_class_names_in_every_form(labels: Any, names: tuple[str, ...] | None) -> None:
    for key in ("id2label", "label_names", "labels"):
        model = model_with(pretrained_config={key: labels}, preprocess_config=PROCESSOR)
        assert transform_for(model).class_names == names


def test_load_model_leaves_what_transform_for_needs(tmp_path: Path) -> None:
    model = model_with()
    save_file({k: v.numpy() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    config = {"model_type": "resnet", "layer_type": "basic", "depths": [2] * 4, "hidden_sizes": [64, 128, 256, 512]}
    config["id2label"] = {"0": "cat", "1": "dog", "2": "owl"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    loaded = minires.load_model(tmp_path)
    assert loaded.weights_file == tmp_path / "model.safetensors"
    transform = minires.data.preprocess.transform_for(loaded)
    assert transform.crop == "huggingface" and transform.class_names == ("cat", "dog", "owl")
