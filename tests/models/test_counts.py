"""Parameter counts of every model and its plain twin: torchvision's, the papers', and those of the docstrings."""

from __future__ import annotations

import math

import pytest

from minires import models, nn

# name: (parameters, parameters of the plain twin). ImageNet's family as torchvision has it, 1000 classes; d and se as
# timm; CIFAR's family with 10 classes: the paper's .27 .46 .66 .85 1.7 19.4 M; WRN 2.7, 8.9 and 36.5 M.
COUNTS = {
    "resnet18": (11_689_512, 11_515_688),
    "resnet34": (21_797_672, 21_623_848),
    "resnet50": (25_557_032, 22_780_456),
    "resnet101": (44_549_160, 41_772_584),
    "resnet152": (60_192_808, 57_416_232),
    "resnext50_32x4d": (25_028_904, 22_252_328),
    "resnext101_32x8d": (88_791_336, 86_014_760),
    "resnext101_64x4d": (83_455_272, 80_678_696),
    "wide_resnet50_2": (68_883_240, 66_106_664),
    "wide_resnet101_2": (126_886_696, 124_110_120),
    "resnet18d": (11_708_744, 11_534_920),
    "resnet50d": (25_576_264, 22_799_688),
    "seresnet18": (11_779_624, 11_605_800),
    "seresnet50": (28_088_024, 25_311_448),
    "resnet8": (75_290, 75_290),
    "resnet9": (6_573_130, 6_573_130),
    "resnet14": (172_506, 172_506),
    "resnet20": (269_722, 269_722),
    "resnet32": (464_154, 464_154),
    "resnet44": (658_586, 658_586),
    "resnet56": (853_018, 853_018),
    "resnet110": (1_727_962, 1_727_962),
    "resnet1202": (19_421_274, 19_421_274),
    "preact_resnet18": (11_687_720, 11_515_688),
    "preact_resnet34": (21_795_880, 21_623_848),
    "preact_resnet50": (25_549_352, 22_780_456),
    "preact_resnet101": (44_541_480, 41_772_584),
    "preact_resnet152": (60_185_128, 57_416_232),
    "preact_resnet200": (64_666_152, 61_897_256),
    "preact_resnet20": (272_282, 269_722),
    "preact_resnet56": (855_578, 853_018),
    "preact_resnet110": (1_730_522, 1_727_962),
    "preact_resnet164": (1_703_258, 1_661_274),
    "preact_resnet1001": (10_327_706, 10_285_722),
    "wrn_16_4": (2_748_890, 2_706_906),
    "wrn_40_4": (8_949_210, 8_907_226),
    "wrn_28_10": (36_479_194, 36_220_634),
}


@pytest.fixture(autouse=True)
def _no_draws(monkeypatch):
    """Leave every weight as it was allocated: counting needs no random numbers (126 million of them, say)."""
    for name in ("kaiming_uniform_", "kaiming_normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)


def test_every_model_is_counted():
    assert set(models.list_models(plain=False)) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_model_has_its_papers_parameters(name):
    residual, plain = COUNTS[name]
    assert models.count_parameters(models.build(name)) == residual
    assert models.count_parameters(models.build(f"plain_{name}")) == plain


@pytest.mark.parametrize("name", COUNTS)
def test_docstring_names_count_source_and_stem(name):
    doc = getattr(models, name).__doc__
    assert f"{COUNTS[name][0]:,}" in doc
    assert any(
        source in doc for source in ("He et al.", "Xie et al.", "Zagoruyko", "Hu et al.", "He's form", "Page 2018")
    )
    assert "stem" in doc.lower()
    assert "stride on" in doc.lower()


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_depth_counts_the_layers_with_weights(depth):
    """6n convolutions in blocks, conv1 and fc; option A adds none."""
    layers = [m for m in models.CifarResNet(depth).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize(("depth", "factor"), [(16, 4), (28, 10), (40, 4)])
def test_wide_depth_counts_the_convolutions(depth, factor):
    convolutions = [m for m in models.WideResNet(depth, factor).modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == depth


def test_option_b_adds_its_two_projections():
    a, b = models.resnet20(), models.resnet20(shortcut="B")
    added = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert models.count_parameters(b) - models.count_parameters(a) == added
    assert models.count_parameters(b) == 272_474


def test_in_channels_and_classes_change_only_the_ends():
    colour, grey = models.resnet18(), models.resnet18(num_classes=10, in_channels=1)
    stem, head = 64 * 2 * 7 * 7, (512 + 1) * 990
    assert models.count_parameters(colour) - models.count_parameters(grey) == stem + head


def test_count_parameters_counts_no_buffers():
    batch_norm = nn.BatchNorm2d(5)
    assert models.count_parameters(batch_norm) == 10
    assert sum(math.prod(b.shape) for b in batch_norm.buffers()) == 11
