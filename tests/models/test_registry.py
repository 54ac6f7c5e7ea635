"""Names, options, stems, and what a bad one gets."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from minires import models, nn
from minires.autograd import no_grad
from minires.errors import ArgumentError, UnknownNameError
from minires.tensor import Tensor


def images(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def run(model: nn.Module, x: Tensor) -> np.ndarray:
    with no_grad():
        return model(x).array


def test_list_models_has_each_model_and_its_plain_twin():
    residual, both = models.list_models(plain=False), models.list_models()
    assert len(both) == 2 * len(residual)
    assert both == sorted(residual + [f"plain_{name}" for name in residual])
    assert {"resnet18", "resnet20", "resnet1202", "wrn_28_10", "preact_resnet110"} <= set(residual)


def test_build_passes_everything_on():
    model = models.build("resnet20", num_classes=7, in_channels=1, width=4, shortcut="B")
    assert model.fc.weight.shape == (7, 16)
    assert model.conv1.weight.shape == (4, 1, 3, 3)
    assert isinstance(model.layer2[0].downsample, nn.Sequential)


@pytest.mark.parametrize(("image_size", "kernel"), [(None, 7), (28, 3), (32, 3), ((32, 224), 3), (64, 7), (224, 7)])
@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
def test_build_picks_the_stem_for_the_image_size(name, image_size, kernel):
    model = models.build(name, image_size=image_size)
    assert model.conv1.kernel_size == (kernel, kernel)


def test_build_keeps_a_stem_that_was_asked_for():
    assert models.build("resnet18", image_size=32, small_input=False).conv1.kernel_size == (7, 7)
    assert models.build("resnet20", image_size=224).conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("name", ["resnet8", "resnet18", "resnet18d", "seresnet18", "preact_resnet20", "wrn_16_4"])
def test_models_and_their_twins_take_the_digits(name, in_channels):
    """8x8 pixels, the smallest images that we train on."""
    for full_name in (name, f"plain_{name}"):
        model = models.build(full_name, num_classes=10, in_channels=in_channels, image_size=8).eval()
        assert run(model, images(2, in_channels, 8, 8)).shape == (2, 10)


def test_stages_halve_the_map():
    """224 -> 112 -> 56 56 28 14 7 in the ImageNet form, 32 -> 32 32 16 8 4 with the stem for small images."""
    for options, size, expected in [({}, 64, [16, 8, 4, 2]), ({"small_input": True}, 16, [16, 8, 4, 2])]:
        model = models.resnet18(**options).eval()
        sizes = {}
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            model.get_submodule(stage).register_forward_hook(partial(note_size, sizes, stage))
        run(model, images(1, 3, size, size))
        assert list(sizes.values()) == expected


def note_size(sizes, stage, module, args, out):
    sizes[stage] = out.shape[-1]


@pytest.mark.parametrize(("stride_on_1x1", "strides"), [(False, (1, 2)), (True, (2, 1))])
def test_stride_stands_on_the_3x3_unless_told(stride_on_1x1, strides):
    block = models.build("resnet50", stride_on_1x1=stride_on_1x1).layer2[0]
    assert (block.conv1.stride[0], block.conv2.stride[0]) == strides


def test_zero_init_residual_makes_every_block_an_identity():
    """With the last batch norm at 0, a block gives relu(shortcut): the four stages pass on what a projection makes."""
    for name, last in [("resnet18", "bn2"), ("resnet50", "bn3")]:
        model = models.build(name, zero_init_residual=True)
        for block in model.layer1:
            assert (getattr(block, last).weight.array == 0).all()
            assert (block.bn1.weight.array == 1).all()
    block = models.build("resnet18", zero_init_residual=True).layer1[1].eval()
    x = images(2, 64, 4, 4)
    np.testing.assert_array_equal(run(block, x), np.maximum(x.array, 0))


def test_initial_weights_have_the_variance_of_fan_out():
    weight = models.resnet18().layer3[0].conv1.weight.array
    fan_out = 256 * 9
    assert weight.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.01)
    assert abs(weight.mean()) < 1e-3


def test_pad_shortcut_takes_every_second_pixel_and_adds_zero_channels():
    shortcut = models.resnet20(width=4).layer2[0].downsample
    x = images(2, 4, 5, 4)
    y = run(shortcut, x)
    assert y.shape == (2, 8, 3, 2)
    np.testing.assert_array_equal(y[:, 2:6], x.array[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


def test_plain_twin_has_no_shortcut_at_all():
    """Zero the last batch norm of a block: a plain block gives 0, a residual one its input."""
    for name in ("resnet20", "preact_resnet20"):
        x = images(2, 16, 4, 4)
        for twin, expected in [(name, np.maximum(x.array, 0)), (f"plain_{name}", np.zeros_like(x.array))]:
            block = models.build(twin).layer1[1].eval()
            block.conv2.weight.array[...] = 0
            if name.startswith("preact") and not twin.startswith("plain"):
                expected = x.array  # no ReLU over the sum
            np.testing.assert_array_equal(run(block, x), expected)


def test_dropout_acts_in_training_alone():
    model = models.build("wrn_16_4", dropout=0.5)
    x = images(2, 3, 8, 8)
    model.eval()
    np.testing.assert_array_equal(run(model, x), run(model, x))
    model.train()
    assert (run(model, x) != run(model, x)).any()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"unknown model 'resnet19': did you mean .*resnet18"),
        ("plain_resnet19", r"unknown model 'plain_resnet19': did you mean .*plain_resnet18"),
        ("efficientnet", r"unknown model 'efficientnet'"),
    ],
)
def test_unknown_model_lists_the_nearest_names(name, message):
    with pytest.raises(UnknownNameError, match=message):
        models.build(name)


def test_unknown_option_lists_the_models_options():
    with pytest.raises(
        UnknownNameError, match=r"unknown option of model resnet18 'smal_input': did you mean small_input"
    ):
        models.build("resnet18", smal_input=True)
    with pytest.raises(UnknownNameError, match=r"unknown option of model resnet20 'small_input'"):
        models.build("resnet20", small_input=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.build("resnet18", num_classes=0), r"ResNet: num_classes must be a positive int, got 0"),
        (lambda: models.build("resnet18", in_channels=-1), r"ResNet: in_channels must be a positive int, got -1"),
        (
            lambda: models.build("resnet20", num_classes="10"),
            r"CifarResNet: num_classes must be a positive int, got '10'",
        ),
        (lambda: models.build("resnet18", image_size=0), r"build: image_size must be a positive int, got 0"),
        (lambda: models.build("resnet18", stride_on_1x1=True), r"BasicBlock: stride_on_1x1 needs bottleneck blocks"),
        (lambda: models.build("resnet18", groups=2), r"BasicBlock: groups must be 1 and base_width 64, got 2 and 64"),
        (
            lambda: models.build("plain_resnet18", zero_init_residual=True),
            r"ResNet: plain has no shortcuts: leave zero",
        ),
        (lambda: models.build("plain_resnet18", avg_pool_shortcut=True), r"ResNet: plain has no shortcuts: leave zero"),
        (lambda: models.build("resnet20", shortcut="C"), r"CifarResNet: shortcut must be 'A' or 'B', got 'C'"),
        (lambda: models.build("resnet20", width=0), r"CifarResNet: width must be a positive int, got 0"),
        (lambda: models.CifarResNet(21), r"CifarResNet: depth must be 6n \+ 2 with n >= 1 \(8, 14, 20, ...\), got 21"),
        (lambda: models.CifarResNet(2), r"CifarResNet: depth must be 6n \+ 2 with n >= 1"),
        (lambda: models.CifarPreActResNet(21), r"CifarPreActResNet: depth must be 6n \+ 2 with n >= 1, got 21"),
        (lambda: models.CifarPreActResNet(30, bottleneck=True), r"depth must be 9n \+ 2 with n >= 1, got 30"),
        (lambda: models.PreActResNet(None, [1], num_classes=0), r"PreActResNet: num_classes must be a positive int"),
        (lambda: models.WideResNet(28, 0), r"WideResNet: widen_factor must be a positive int, got 0"),
        (lambda: models.WideResNet(20, 4), r"WideResNet: depth must be 6n \+ 4 with n >= 1 \(10, 16, .*\), got 20"),
        (lambda: models.build("wrn_16_4", dropout=1.0), r"WideResNet: dropout must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_preact_bottleneck_refuses_dropout():
    from minires.models.preact import PreActBottleneck

    with pytest.raises(ArgumentError, match=r"PreActBottleneck: has no dropout, got dropout = 0.5"):
        PreActBottleneck(16, 16, dropout=0.5)


def test_resnet_has_four_stages() -> None:
    from minires.models import BasicBlock, ResNet

    with pytest.raises(ArgumentError, match=r"ResNet: layers and widths must have four entries, got \[1, 1, 1\]"):
        ResNet(BasicBlock, [1, 1, 1])
    with pytest.raises(ArgumentError, match=r"four entries, got \[1, 1, 1, 1\] and \(64, 128\)"):
        ResNet(BasicBlock, [1, 1, 1, 1], widths=(64, 128))
