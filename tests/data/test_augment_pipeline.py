"""Pipelines: mixing of samples and labels, the text form, independence of the batch."""

import numpy as np
import pytest

from minires.data.augment import CutMix, Pipeline, Step, known_steps, one_hot, parse_step
from minires.data.augment.step import ImageStep
from minires.data.counter_random import Draws
from minires.errors import ArgumentError, UnknownNameError
from tests.data.samples import flat_dataset, random_dataset
from tests.tolerances import tolerance

EVERYTHING = [
    "pad_crop:2",
    "flip",
    "color_jitter",
    "cutout:3",
    "random_erasing:value=noise",
    "mixup",
    "cutmix",
    "translate",
]


@pytest.mark.parametrize("spec", [EVERYTHING, ["pad_crop:2", "flip"], ["cutmix"], []], ids=str)
def test_pipeline_sample_depends_on_seed_epoch_and_index_alone(spec):
    dataset, pipeline = random_dataset(30), Pipeline(spec)
    images, labels = pipeline.batch(dataset, np.arange(30), 3, 2)
    parts = [pipeline.batch(dataset, part, 3, 2) for part in ([29, 4], [7])]
    for (part_images, part_labels), where in zip(parts, ([29, 4], [7]), strict=True):
        assert np.array_equal(part_images, images[where]) and np.array_equal(part_labels, labels[where])
    if spec:
        assert not np.array_equal(pipeline.batch(dataset, np.arange(30), 3, 3)[0], images)
        assert not np.array_equal(pipeline.batch(dataset, np.arange(30), 4, 2)[0], images)


def test_pipeline_without_steps_normalises():
    dataset = random_dataset(5)
    images, labels = Pipeline().batch(dataset, [3, 0], 0, 0)
    expected = (dataset.images[[3, 0]] / 255 - dataset.mean[:, None, None]) / dataset.std[:, None, None]
    np.testing.assert_allclose(images, expected, **tolerance("float32", 4))
    assert images.dtype == np.float32 and labels.dtype == np.int64 and labels.tolist() == [3, 0]


def test_pipeline_adding_a_step_leaves_what_the_others_draw():
    dataset = random_dataset(20, height=9, width=9)
    alone = Pipeline(["pad_crop:2"]).batch(dataset, range(20), 0, 0)[0]
    after = Pipeline(["flip:0", "pad_crop:2", "cutout:1"]).batch(dataset, range(20), 0, 0)[0]
    assert (alone == after).all(axis=1).reshape(20, -1).sum(axis=1).min() >= 80  # all pixels but the one painted over


def test_pipeline_the_same_step_twice_draws_twice():
    once, twice = Pipeline(["flip"]), Pipeline(["flip", "flip"])
    dataset = random_dataset(64)
    assert not np.array_equal(twice.batch(dataset, range(64), 0, 0)[0], Pipeline().batch(dataset, range(64), 0, 0)[0])
    assert not np.array_equal(twice.batch(dataset, range(64), 0, 0)[0], once.batch(dataset, range(64), 0, 0)[0])


def test_mixup_mixes_images_and_labels_alike():
    dataset = flat_dataset(1000)
    images, labels = Pipeline(["mixup:0.4"]).batch(dataset, range(1000), 0, 0)
    # Every image is one level that tells its label: the mixed level must be the labels' mean level.
    level = labels @ (20 * np.arange(10) / 255)
    np.testing.assert_allclose(
        images[:, 0], np.broadcast_to(level[:, None, None], (1000, 8, 8)), **tolerance("float32", 16)
    )
    np.testing.assert_allclose(labels.sum(axis=1), np.ones(1000), **tolerance("float32", 10))
    assert labels.dtype == np.float32
    own = labels[np.arange(1000), dataset.labels]
    assert 0.4 < np.median(own) < 0.65  # symmetric, and a tenth of the partners has the same label


def test_mixup_ratio_has_the_beta_distribution():
    dataset = flat_dataset(20_000)
    alpha = 0.5
    labels = Pipeline([f"mixup:{alpha}"]).batch(dataset, range(20_000), 0, 0)[1]
    own = labels[np.arange(20_000), dataset.labels]
    own = own[(labels > 0).sum(axis=1) == 2]  # leave out the partners of the same label
    assert abs(own.mean() - 0.5) < 5 * np.sqrt(1 / (4 * (2 * alpha + 1)) / own.size)
    assert abs(own.var() - 1 / (4 * (2 * alpha + 1))) < 5 * np.sqrt(1 / 64 / own.size)


def test_mix_partners_are_uniform_over_the_data_set():
    dataset = flat_dataset(10_000)
    labels = Pipeline(["mixup:1000"]).batch(dataset, range(10_000), 0, 0)[1]
    other = np.delete(labels[dataset.labels == 0], 0, axis=1).argmax(axis=1)
    counts = np.bincount(other[np.delete(labels[dataset.labels == 0], 0, axis=1).max(axis=1) > 0], minlength=9)
    assert abs(counts / counts.sum() - 1 / 9).max() < 5 * np.sqrt(1 / 9 * 8 / 9 / counts.sum())


@pytest.mark.parametrize("step", ["mixup", "cutmix"])
def test_mix_probability(step):
    dataset = flat_dataset(4000)
    labels = Pipeline([f"{step}:alpha=1,p=0.25"]).batch(dataset, range(4000), 0, 0)[1]
    untouched = Pipeline([f"{step}:p=0"]).batch(dataset, range(4000), 0, 0)
    assert np.array_equal(untouched[1], one_hot(dataset.labels, 10))
    assert np.array_equal(untouched[0], Pipeline().batch(dataset, range(4000), 0, 0)[0])
    mixed = (labels > 0).sum(axis=1) == 2
    assert 0.15 < mixed.mean() < 0.27  # 0.25 less the partners with the same label and the rectangles of no pixel


def test_cutmix_label_share_is_the_area_seen():
    dataset = flat_dataset(2000)
    images, labels = Pipeline(["cutmix"]).batch(dataset, range(2000), 0, 0)
    seen = np.rint(images * 255 / 20).astype(int)[:, 0]  # the label that each pixel comes from
    shares = np.stack([(seen == label).mean(axis=(1, 2)) for label in range(10)], axis=1)
    np.testing.assert_allclose(labels, shares, **tolerance("float32", 64))
    two = (shares > 0).sum(axis=1) == 2
    foreign = seen != dataset.labels[:, None, None]
    for patch in foreign[two][:100]:
        assert patch.sum() == patch.any(axis=1).sum() * patch.any(axis=0).sum()  # one full rectangle
    assert shares[two].min() < 0.1 and two.mean() > 0.5


def test_cutmix_rectangle_sides_are_the_roots_of_the_ratio():
    draws, shape = Draws(0, 0, range(400)), (400, 1, 16, 24)
    black, white, labels = np.zeros(shape, np.uint8), np.ones(shape, np.uint8), np.ones((400, 1), np.float32)
    patch = CutMix().mix(black, labels, white, labels, draws)[0][:, 0] == 1
    side = np.sqrt(1 - draws.stream("ratio").beta(1.0))
    inside = ~(patch[:, [0, -1]].any(axis=(1, 2)) | patch[:, :, [0, -1]].any(axis=(1, 2))) & patch.any(axis=(1, 2))
    assert inside.sum() > 50  # those that no border has cut
    assert np.array_equal(patch.any(axis=2).sum(axis=1)[inside], np.floor(16 * side)[inside])
    assert np.array_equal(patch.any(axis=1).sum(axis=1)[inside], np.floor(24 * side)[inside])


def test_cutmix_of_bytes_and_fractions():
    dataset = random_dataset(10)
    images, _ = Pipeline(["color_jitter:0,0,0", "cutmix"]).batch(dataset, range(10), 0, 0)
    plain, _ = Pipeline(["cutmix"]).batch(dataset, range(10), 0, 0)
    np.testing.assert_allclose(images, plain, **tolerance("float32", 16))


def test_mix_partner_is_augmented_as_itself():
    """With ratio 0 in all but name (p = 1, the partner's share near one) the result is the partner's own augmented form."""
    dataset, spec = random_dataset(40), ["pad_crop:2", "flip"]
    augmented = Pipeline(spec).batch(dataset, range(40), 0, 0)[0].astype(np.float64)
    mixed = Pipeline([*spec, "mixup:1"]).batch(dataset, range(40), 0, 0)[0]
    draws = Draws(0, 0, range(40)).stream("mixup#0")
    partner, ratio = draws.stream("partner").integers(0, 40)[:, 0], draws.stream("ratio").beta(1.0)[:, None, None, None]
    np.testing.assert_allclose(mixed, ratio * augmented + (1 - ratio) * augmented[partner], **tolerance("float32", 64))


@pytest.mark.parametrize("name", known_steps())
def test_step_text_form_round_trips(name):
    step = parse_step(name)
    assert parse_step(str(step)) == step
    assert Pipeline([step]).spec == Pipeline([str(step)]).spec


def test_parse_step_by_place_and_by_name():
    assert parse_step("pad_crop:3, mode=mean") == parse_step("pad_crop:padding=3,mode=mean")
    assert repr(Pipeline(["flip:0.25"])) == "Pipeline(['flip:p=0.25'])"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pad_crop:1,zeros,3", "pad_crop: too many options in 'pad_crop:1,zeros,3'; it takes 'pad_crop:padding=4,mode"),
        ("flip:q=1", "flip: no option 'q' in 'flip:q=1'; it takes 'flip:p=0.5'"),
        ("flip:0.5,p=1", "flip: twice the option 'p'"),
        ("cutout:big", "cutout: size must be a whole number, got 'big'"),
        ("flip:often", "flip: p must be a number, got 'often'"),
        ("flip:2", "flip: p must be in 0 .. 1, got 2.0"),
        ("pad_crop:-1", "pad_crop: padding must be at least 0, got -1"),
        ("pad_crop:1,wrap", "pad_crop: mode must be one of zeros, mean, reflect, got 'wrap'"),
        ("translate:-1", "translate: pixels must be at least 0, got -1"),
        ("cutout:0", "cutout: size must be at least 1, got 0"),
        ("random_erasing:p=-1", "random_erasing: p must be in 0 .. 1"),
        ("random_erasing:low=0", "random_erasing: low must be in 0 .. 1, and not 0"),
        ("random_erasing:low=.5,high=.4", "random_erasing: high must be in 0.5 .. 1, got 0.4"),
        ("random_erasing:ratio=2", "random_erasing: ratio must be in 0 .. 1, and not 0, got 2.0"),
        ("random_erasing:value=red", "random_erasing: value must be one of mean, noise, got 'red'"),
        ("color_jitter:-1", "color_jitter: brightness must be at least 0, got -1.0"),
        ("mixup:0", "mixup: alpha must be positive, got 0.0"),
        ("mixup:p=2", "mixup: p must be in 0 .. 1, got 2.0"),
        ("cutmix:-1", "cutmix: alpha must be positive, got -1.0"),
        ("cutmix:p=-1", "cutmix: p must be in 0 .. 1, got -1.0"),
    ],
)
def test_parse_step_errors(text, message):
    with pytest.raises(ArgumentError) as caught:
        parse_step(text)
    assert message in str(caught.value)


def test_parse_step_unknown_name_gives_the_nearest():
    with pytest.raises(
        UnknownNameError, match=r"unknown augmentation 'cutot': did you mean cutout.*\? Known: .*pad_crop"
    ):
        parse_step("cutot:3")


def test_pipeline_errors():
    with pytest.raises(ArgumentError, match=r"steps must be a list, got the text 'flip'; write \['flip'\]"):
        Pipeline("flip")

    class Neither(Step):
        name = "neither"

    with pytest.raises(ArgumentError, match="is neither an ImageStep nor a MixStep"):
        Pipeline([Neither()]).batch(random_dataset(2), [0], 0, 0)
    with pytest.raises(ArgumentError, match="padding must be less than the image's 8x8 for reflect, got 8"):
        Pipeline(["pad_crop:8,reflect"]).batch(random_dataset(2), [0], 0, 0)


def test_image_step_and_step_are_told_apart():
    assert {name for name in known_steps() if not isinstance(parse_step(name), ImageStep)} == {"mixup", "cutmix"}
