"""Every example runs with --tiny, says what it promises, and leaves its picture."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None and importlib.util.find_spec("PIL") is not None


def run(*command: str) -> str:
    """Run Python with `command` as a person would; its output. One BLAS thread: the tests share the machine."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, encoding="utf-8", env=environment, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def tiny(name: str, out: Path) -> str:
    """Run the example whose file begins with `name`; check what all of them have in common."""
    (script,) = EXAMPLES.glob(f"{name}_*.py")
    text = run(str(script), "--tiny", "--out", str(out))
    assert re.search(r"^what you saw: .+\nnext: .+$", text, re.MULTILINE)
    return text


def check_picture(out: Path, name: str, text: str) -> None:
    """A PNG of a readable size, with something on it, and small enough to be committed; or the word how to get it."""
    if not HAS_MATPLOTLIB:
        assert "no picture: matplotlib is missing (pip install matplotlib" in text
        return
    content = (out / name).read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width >= 800 and height >= 350
    assert 5_000 < len(content) < 60_000
    from PIL import Image

    with Image.open(out / name) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def row(text: str, label: str) -> list[float]:
    """The numbers behind `label` at the beginning of a line; 1,234 is one number."""
    match = re.search(rf"^ *{re.escape(label)}\s(.*)$", text, re.MULTILINE)
    assert match, f"no line begins with {label!r} in:\n{text}"
    return [float(n.replace(",", "")) for n in re.findall(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]\d+)?", match[1])]


def test_backprop_by_hand_shows_wrong_and_right_orders(tmp_path: Path) -> None:
    text = tiny("01", tmp_path)
    assert row(text, "naive DFS")[0] == 24 and "24   WRONG" in text
    assert row(text, "push again")[0] == 78 and "78   WRONG" in text
    assert row(text, "path by path")[0] == row(text, "topological")[0] == 54
    assert row(text, "finite differences") == [54]
    assert len(re.findall(r"RecursionError \(", text)) == 3
    by_paths, by_order = (row(text.split("in a row: visits")[1], name) for name in ("path by path", "topological"))
    assert by_paths == [2 ** (n + 1) - 1 for n in (1, 5, 10, 12)]
    assert by_order == [n + 1 for n in (1, 5, 10, 12)]
    with_minires = text.split("The same with minires")[1]
    assert "diamond        dy/dx = 54" in with_minires and "chain          dy/dx = 1" in with_minires
    check_picture(tmp_path, "01_diamond.png", text)


def test_tensors_gradients_agree_and_the_network_learns(tmp_path: Path) -> None:
    text = tiny("02", tmp_path)
    for name in ("w1", "b1", "w2", "b2"):
        largest, by_minires, by_differences = row(text, name)[-3:]
        assert largest > 1e-3
        assert by_minires < 1e-15
        assert by_differences < 1e-8
    assert "grad_b = [6.0, 60.0]" in text
    hand, minires = row(text, "by hand"), row(text, "minires")
    assert len(hand) == 6 and hand == minires
    assert hand[-1] < 0.05 < 0.5 < hand[0]
    assert row(text, "accuracy on 1,000 new points:")[0] > 97
    check_picture(tmp_path, "02_spirals.png", text)


def test_convolutions_are_equal_and_loops_are_slow(tmp_path: Path) -> None:
    text = tiny("03", tmp_path)
    equal, adjoints = text.split("The adjoints:")
    for case in ("stride 1, padding 0", "stride 1, padding 1", "stride 2, padding 1", "stride 3, padding 2"):
        differences = row(equal, case)[-3:]
        assert max(differences) < 1e-13
        forward, by_x, by_w, engine = row(adjoints, case)
        assert abs(forward) > 1
        assert math.isclose(forward, by_x, abs_tol=1e-8) and math.isclose(forward, by_w, abs_tol=1e-8)
        assert engine < 1e-12
    assert row(text, "4 x 8 x 8 x 8")[-1] > 20  # loops take many times as long as the best, on any machine
    check_picture(tmp_path, "03_convolution.png", text)


@pytest.mark.slow
def test_batch_norm_numbers(tmp_path: Path) -> None:
    text = tiny("04", tmp_path)
    assert row(text, "biased,   14 / 4") == [3.5] and row(text, "unbiased, 14 / 3") == [4.6667]
    assert row(text, "running_var") == [4.6667]
    modes = text.split("2. Four modes")[1]
    # mean(y), std(y), running mean before and after, influence of the neighbour, weight before and after
    assert row(modes, "train")[:4] == [0, 1, 0, 0.29] and row(modes, "train")[4] > 0.01
    assert row(modes, "eval") == [2.9, 1.94, 0, 0, 0]
    frozen = row(modes, "frozen statistics")
    assert frozen[:5] == [2.9, 1.94, 0, 0, 0] and frozen[5] == 1 != frozen[6]
    assert row(modes, "no running statistics")[:2] == [0, 1] and "none" in modes
    assert row(text, "momentum None") == row(text, "mean of the batches")
    assert row(text, "momentum 0.1")[0] < 0.6
    company = text.split("4. model.eval() forgotten")[1]
    good = row(company, "eval()")
    assert len(set(good)) == 1 and good[0] > 90
    assert row(company, "train mode, mixed batches")[0] < good[0] - 5
    assert row(company, "train mode, one class a batch")[-1] < good[0] - 25
    check_picture(tmp_path, "04_batch_norm.png", text)


@pytest.mark.slow
def test_suspect_is_found_out(tmp_path: Path) -> None:
    text = tiny("05", tmp_path)
    count = text.split("Check 2")[0]
    assert row(count, "right")[0] - row(count, "suspect")[0] == 2560 + 192
    twice = text.split("Check 2")[1].split("Check 3")[0]
    assert row(twice, "suspect")[0] > 0.01 and row(twice, "right")[0] == 0
    losses = {name: row(text, f"{name}: loss") for name in ("suspect", "right")}
    assert losses["suspect"][-1] < losses["suspect"][0]  # it learns, too...
    assert all(bad > good for bad, good in zip(losses["suspect"], losses["right"], strict=True))  # ...but worse
    again = text.split("Check 4")[1]
    low, high = row(again, "right")
    assert low == high > 90
    low, high = row(again, "suspect")
    assert low < high
    check_picture(tmp_path, "05_suspect.png", text)


@pytest.mark.slow
def test_resnet20_learns_digits(tmp_path: Path) -> None:
    text = tiny("06", tmp_path)
    assert "1,437 training images of 1 x 8 x 8" in text
    epochs = [row(text, f"epoch  {e}") for e in range(1, 6)]  # loss, training accuracy, test accuracy, images/s
    assert epochs[-1][0] < 0.5 < epochs[0][0]
    assert row(text, "test accuracy")[0] > 85
    check_picture(tmp_path, "06_resnet20_tiny.png", text)


@pytest.mark.slow
def test_depth_hurts_the_plain_network(tmp_path: Path) -> None:
    text = tiny("07", tmp_path)
    errors, gradients = text.split("Errors after the last epoch")[1].split("Gradients of the convolutions")
    training = {name: row(errors, name)[1] for name in ("plain-20", "plain-56", "ResNet-20", "ResNet-56")}
    parameters = {name: row(errors, name)[0] for name in training}
    assert parameters["plain-20"] == parameters["ResNet-20"] and parameters["plain-56"] == parameters["ResNet-56"]
    assert training["plain-56"] > training["plain-20"] + 20
    # What 56 layers learn in so few steps hangs on the last bits: 27 points apart on one processor, more than 30 on another.
    assert training["plain-56"] > training["ResNet-56"] + 20
    assert training["ResNet-56"] < training["plain-20"]
    (plain,) = (row(text, "plain:    36 more layers change the training error by"),)
    assert math.isclose(plain[0], training["plain-56"] - training["plain-20"], abs_tol=0.11)
    assert row(gradients, "plain-56")[0] > 50  # before the first step the gradient grows towards the input...
    assert row(gradients, "ResNet-56")[0] < 20  # ...and shortcuts hold it
    check_picture(tmp_path, "07_depth_hurts_tiny.png", text)


def losses(text: str) -> list[float]:
    found = [float(n) for n in re.findall(r"^step +\d+  loss ([\d.]+)$", text, re.MULTILINE)]
    assert len(found) == 11
    return found


def run_under_minires() -> str:
    return run("-m", "minires", "run-torch", str(EXAMPLES / "08_one_file_two_frameworks.py"), "--tiny")


def test_one_file_learns_under_minires() -> None:
    text = run_under_minires()
    assert "Running on: minires" in text
    assert losses(text)[-1] < 1 < 2 < losses(text)[0]
    assert row(text, "test accuracy")[0] > 80


def test_one_file_gives_the_same_losses_under_both_frameworks(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed, so there is nothing to compare with")
    theirs = tiny("08", tmp_path)
    assert "Running on: torch" in theirs
    assert losses(run_under_minires()) == pytest.approx(losses(theirs), abs=2e-4)


def test_without_matplotlib_an_example_runs_and_says_how_to_get_the_picture(tmp_path: Path) -> None:
    (script,) = EXAMPLES.glob("01_*.py")
    block = (
        "import runpy, sys; sys.modules['matplotlib'] = None; "
        f"sys.path.insert(0, {str(EXAMPLES)!r}); sys.argv = ['x', '--tiny', '--out', {str(tmp_path)!r}]; "
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    text = run("-c", block)
    assert "no picture: matplotlib is missing (pip install matplotlib, then run again for 01_diamond.png)" in text
    assert "what you saw:" in text
    assert not list(tmp_path.iterdir())


def test_every_example_has_a_test_and_a_place_in_the_course() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    scripts = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
    assert len(scripts) == 8
    for script in scripts:
        assert f"({script})" in page
        assert f'tiny("{script[:2]}"' in tests
    for picture in re.findall(r"\((results/[^)]+\.png)\)", page):
        assert (EXAMPLES / picture).is_file(), picture
