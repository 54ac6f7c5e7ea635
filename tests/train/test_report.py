"""The report of a run: what is on the page, that nothing breaks it, and that a browser shows it."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the report's curves are drawn by matplotlib")
pytest.importorskip("PIL", reason="the report's pictures are written by pillow")

from minires import nn
from minires.data import ArrayDataset
from minires.errors import CheckpointError
from minires.tensor import Tensor
from minires.train.config import build_config, to_toml
from minires.train.report import write_report
from minires.train.report.charts import Line, chart
from minires.train.report.comparison import compare_runs, same_but_seed, spread, write_comparison
from minires.train.report.mistakes import as_png, worst_mistakes
from minires.train.report.page import Html, text
from minires.train.report.run_report import best_row, percent

EVIL = ['<script>alert("x")</script>', "a & b", 'it\'s "quoted"', "Zürich ☃"]


class Echo(nn.Module):
    """A net whose logits are the first four pixels of the image: the test decides what it says."""

    def forward(self, x):
        return x.reshape(x.shape[0], -1)[:, :4] * 10.0


def dataset(classes=EVIL, n=12):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 1, 4, 4), np.uint8)
    return ArrayDataset(images, np.arange(n) % len(classes), classes, "made", [0.0], [1.0])


def rows(epochs=3, **more):
    return [
        {
            "epoch": e, "train_loss": 2.0 / e, "train_accuracy": 0.5, "val_loss": 1.0 / e, "val_accuracy": 0.5 + 0.1 * (e == 2),
            "test_loss": 1.0, "test_accuracy": 0.25 * e, "lr": 0.1 / e, "images_per_second": 100.0 * e, "seconds": 50.0,
            "grad_norm/conv1": 0.5, "grad_norm/fc": 0.001 * e, **more,
        }
        for e in range(1, epochs + 1)
    ]  # fmt: skip


class Page(HTMLParser):
    """Whether all elements are closed, what refers to something, and the text."""

    VOID = {"meta", "img", "br"}

    def __init__(self, source):
        super().__init__()
        self.open, self.links, self.tags, self.words = [], [], [], ""
        self.feed(source)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def report(folder, **changes):
    given = {
        "rows": rows(),
        "config": build_config({"epochs": 3, "lr": 0.03}),
        "model": Echo(),
        "test": dataset(),
        **changes,
    }
    return write_report(folder, **given).read_text(encoding="utf-8")


def test_page_is_whole_and_refers_to_nothing_outside(tmp_path):
    page = Page(report(tmp_path))
    assert page.links and all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert "script" not in page.tags
    assert page.tags.count("svg") == 5  # loss, accuracy, learning rate, images/s, gradient norms


def test_page_says_the_figures_and_how_to_repeat_them(tmp_path):
    words = Page(report(tmp_path)).words
    for expected in (
        "75.00\N{NO-BREAK SPACE}%",
        "epoch 2; test 50.00",
        "minires train --config",
        "150 s"[:2],
        "lr",
        "0.03",
    ):
        assert expected in words
    assert "after epoch 3, the last" in words


def test_class_names_cannot_break_the_page(tmp_path):
    source = report(tmp_path)
    assert "<script>alert" not in source
    words = Page(source).words
    for name in EVIL:
        assert name in words


def test_the_same_run_gives_the_same_bytes(tmp_path):
    assert report(tmp_path) == report(tmp_path)


@pytest.mark.parametrize("epochs", [0, 1])
def test_runs_that_have_hardly_begun_have_a_page(tmp_path, epochs):
    Page(report(tmp_path, rows=rows(epochs)))


def test_what_was_not_measured_is_left_out(tmp_path):
    without = rows(val_loss=None, val_accuracy=None, test_accuracy=None, test_loss=None, images_per_second=None)
    words = Page(report(tmp_path, rows=without, model=None, test=None)).words
    assert "chosen by validation" not in words
    assert "the test set was not at hand" in words


def test_many_classes_show_the_worst_and_no_matrix(tmp_path):
    names = [f"class {i}" for i in range(40)]
    source = report(tmp_path, test=dataset(names, n=80), model=Wide())
    assert 'class="matrix"' not in source
    assert "25 classes with the lowest recall" in source


class Wide(nn.Module):
    def forward(self, x):
        return Tensor(np.zeros((x.shape[0], 40), np.float32))


def test_mistakes_are_those_of_the_model_the_surest_first():
    images = np.zeros((5, 1, 2, 2), np.uint8)
    images[0, 0].flat[:] = [255, 0, 0, 0]  # label 0: right
    images[1, 0].flat[:] = [0, 0, 200, 0]  # label 1, says 2
    images[2, 0].flat[:] = [0, 0, 0, 255]  # label 2, says 3, surer
    images[3, 0].flat[:] = [0, 0, 0, 100]  # label 3: right
    images[4, 0].flat[:] = [90, 80, 0, 0]  # label 1, says 0, less sure
    test = ArrayDataset(images, np.array([0, 1, 2, 3, 1]), list("abcd"), "made", [0.0], [1.0])
    model = Echo().train()
    worst = worst_mistakes(model, test, count=2, batch_size=2)
    assert model.training
    assert [(m.index, m.label, m.prediction) for m in worst.mistakes] == [(2, 2, 3), (1, 1, 2)]
    e = np.exp(10 * 200 / 255)
    assert worst.mistakes[1].confidence == pytest.approx(e / (e + 3), rel=1e-5)
    assert worst.mistakes[1].label_probability == pytest.approx(1 / (e + 3), rel=1e-5)
    expected = np.zeros((4, 4), int)
    for label, said in [(0, 0), (1, 2), (2, 3), (3, 3), (1, 0)]:
        expected[label, said] += 1
    np.testing.assert_array_equal(worst.matrix, expected)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_are_pngs_with_white_at_the_highest(channels):
    from io import BytesIO

    from PIL import Image

    image = np.zeros((channels, 2, 3), np.uint8)
    image[0, 0, 0], image[0, 1, 2] = 16, 8
    picture = np.asarray(Image.open(BytesIO(as_png(image, highest=16))))
    shown = picture[..., 0] if channels == 3 else picture
    assert shown[0, 0] == 255 and shown[1, 2] == 127 and shown[0, 1] == 0
    assert picture.ndim == (3 if channels == 3 else 2)


def test_best_row_breaks_ties_by_loss():
    three = rows()
    for row in three:
        row["val_accuracy"] = 0.9
    assert best_row(three)["epoch"] == 3
    assert best_row([]) is None


def test_words_for_shares():
    assert percent(None) == percent(float("nan")) == "-"
    assert percent(0.98765, 1) == "98.8 %"


def test_text_is_escaped_once():
    assert text("<b>") == "&lt;b&gt;"
    assert text(text("<b>")) == "&lt;b&gt;"
    assert text(Html("<b>")) == "<b>"


def test_charts_without_points_or_with_one_are_charts():
    for points in ([], [(1, 0.0)], [(1, 1e-9), (2, 1.0)]):
        assert chart("t", [Line("a", points, "#000000")], log=True, percent=True).startswith("<svg")


def save_run(folder, epochs=3, **settings):
    import json

    folder.mkdir()
    (folder / "config.toml").write_text(to_toml(build_config({"epochs": epochs, **settings})))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(epochs)))
    return folder


def test_comparison_finds_what_differs(tmp_path):
    a = save_run(tmp_path / "a", lr=0.1, name="a")
    b = save_run(tmp_path / "b", lr=0.2, seed=3, name="b")
    comparison = compare_runs([a, b])
    assert comparison.differing == {"lr": [0.1, 0.2], "seed": [0, 3]}
    assert comparison.runs[0].figures["test_accuracy"] == 0.75
    assert comparison.runs[0].figures["best_epoch"] == 2
    assert not same_but_seed(comparison)
    page = Page(write_comparison(comparison, tmp_path / "c.html").read_text())
    assert "what differs" in page.words.lower() and "0.2" in page.words and page.tags.count("svg") == 6


def test_comparison_of_seeds_gives_mean_and_spread(tmp_path):
    paths = [save_run(tmp_path / f"s{i}", epochs=i + 1, seed=i) for i in range(3)]
    comparison = compare_runs(paths)
    found = spread(comparison)
    assert (found.mean, found.std) == pytest.approx((0.5, np.std([0.25, 0.5, 0.75], ddof=1)))
    comparison = compare_runs([save_run(tmp_path / f"t{i}", seed=i) for i in range(2)])
    assert same_but_seed(comparison)


def test_comparison_names_runs_of_one_name_by_their_path(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    runs = compare_runs([save_run(tmp_path / "x" / "run"), save_run(tmp_path / "y" / "run")]).runs
    assert runs[0].name != runs[1].name


def test_comparison_refuses_what_is_no_run(tmp_path):
    save_run(tmp_path / "a")
    with pytest.raises(CheckpointError, match="it holds the runs"):
        compare_runs([tmp_path, tmp_path / "a"])


@pytest.mark.slow
def test_a_browser_shows_the_page(tmp_path):
    """Rendered with scripts and network as they are: the picture must hold the charts' colours and be no blank page."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    report(tmp_path)
    picture = tmp_path / "page.png"
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,2400",
            f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", (tmp_path / "report.html").as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1200, 2400)
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    for colour in ("0072B2", "D55E00", "009E73"):  # training, validation, test: the lines of the first two charts
        wanted = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)])
        assert (np.abs(pixels.astype(int) - wanted).max(axis=1) < 12).sum() > 100, colour
    assert re.search(rb"svg", (tmp_path / "report.html").read_bytes())
