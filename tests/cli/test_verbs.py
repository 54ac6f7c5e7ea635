"""The other verbs, and what all have in common: exit codes, messages, help."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires as package
from minires.cli import doctor
from minires.cli.main import main
from minires.data import load
from tests.cli.conftest import Run, environment

RUN = "runs/digits-resnet8"


def test_cli_help_shows_every_verb_without_loading_the_engine(minires: Run, tmp_path: Path) -> None:
    done = minires("--help", cwd=tmp_path)
    assert done.returncode == 0
    for verb in ("train", "eval", "predict", "summary", "data", "doctor", "warmup", "run-torch"):
        assert f"\n    {verb} " in done.stdout
    assert minires("--version", cwd=tmp_path).stdout == f"minires {package.__version__}\n"
    bare = minires(cwd=tmp_path)
    assert bare.returncode == 2
    assert "usage: minires" in bare.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "unknown command 'trian': did you mean train"),
        (["predict", "x.png"], "--checkpoint"),
        (["predict", "x.png", "--checkpoint", "r", "--top", "0"], "--top must be at least 1, got 0"),
        (["summary", "--model", "resnet19"], "unknown model 'resnet19': did you mean"),
        (
            ["summary", "--model", "resnet20", "--input", "3,32"],
            "--input must be C,H,W, for example 3,224,224; got '3,32'",
        ),
        (["data", "mnits"], "unknown data set 'mnits': did you mean mnist"),
        (["data", "--download"], "--download needs the name of a data set"),
    ],
)
def test_cli_usage_errors_exit_2_with_one_message(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(args)
    except SystemExit as error:  # argparse's own way
        code = int(error.code or 0)
    assert code == 2
    error_text = capsys.readouterr().err
    assert message in error_text
    assert "Traceback" not in error_text


def test_cli_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIRES_DEBUG", "4")
    assert main(["summary", "--model", "resnet19"]) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.splitlines()[-1].startswith("minires: error: unknown model 'resnet19'")


def test_cli_unforeseen_error_is_said_to_be_ours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("minires.models.list_models", fail)
    assert main(["summary"]) == 1
    text = capsys.readouterr().err
    assert "this should not have happened: ZeroDivisionError: oh" in text
    assert "MINIRES_DEBUG=4" in text
    assert "Traceback" not in text


def test_cli_closed_pipe_is_quiet(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minires", "summary", "--model", "resnet20"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `head` does when it has seen enough
        assert process.stderr.read() == ""


def digit_png(path: Path, index: int, *, invert: bool = False, size: int = 8) -> int:
    """Write test digit `index` as a PNG; gives back its label."""
    image_module = pytest.importorskip("PIL.Image", reason="predict reads files with Pillow")
    _, test = load("digits")
    pixels = test.images[index, 0]
    image = image_module.fromarray(255 - pixels if invert else pixels)
    if size != 8:
        image = image.resize((size, size), image_module.Resampling.NEAREST)
    image.save(path)
    return int(test.labels[index])


def test_predict_gives_the_probabilities_of_the_model_itself(minires: Run, trained: Path, tmp_path: Path) -> None:
    """The command's answer for a PNG equals the model run by hand on the data set's own normalised pixels."""
    from minires.infer.predict import softmax
    from minires.train.checkpoint import load_checkpoint, load_model

    digit_png(tmp_path / "a.png", 3)
    done = minires("predict", str(tmp_path / "a.png"), "--checkpoint", RUN, "--json", "--top", "10", cwd=trained)
    assert done.returncode == 0, done.stderr
    answer = {row["class"]: row["probability"] for row in json.loads(done.stdout)["predictions"][0]["top"]}
    _, test = load("digits")
    with package.no_grad():
        logits = load_model(load_checkpoint(trained / RUN))(test[3][0].unsqueeze(0)).numpy()
    by_hand = softmax(logits)[0]
    assert sum(answer.values()) == pytest.approx(1)
    for name, share in zip(test.classes, by_hand, strict=True):
        assert answer[name] == pytest.approx(share, rel=1e-4, abs=1e-6)


def test_predict_brings_size_colour_and_darkness_into_the_models_form(
    minires: Run, trained: Path, tmp_path: Path
) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="predict reads files with Pillow")
    for name, options in {"plain": {}, "large": {"size": 80}, "ink": {"invert": True}}.items():
        digit_png(tmp_path / f"{name}.png", 5, **options)  # type: ignore[arg-type]
    image_module.open(tmp_path / "plain.png").convert("RGB").save(tmp_path / "rgb.png")

    def tops(*args: str) -> list[list[dict[str, Any]]]:
        done = minires("predict", *args, "--checkpoint", RUN, "--json", cwd=trained)
        assert done.returncode == 0, done.stderr
        return [p["top"] for p in json.loads(done.stdout)["predictions"]]

    plain, rgb, large = tops(*(str(tmp_path / f"{n}.png") for n in ("plain", "rgb", "large")))
    assert plain == rgb
    assert plain[0]["class"] == large[0]["class"]
    again = tops(str(tmp_path / "ink.png"), "--invert")[0]
    assert [row["class"] for row in again] == [row["class"] for row in plain]
    # One image alone and three in a batch are summed in another order.
    assert [row["probability"] for row in again] == pytest.approx([row["probability"] for row in plain], rel=1e-4)
    hinted = minires("predict", str(tmp_path / "ink.png"), "--checkpoint", RUN, cwd=trained)
    assert "try --invert" in hinted.stderr


def test_predict_prints_a_table(minires: Run, trained: Path, tmp_path: Path) -> None:
    digit_png(tmp_path / "a.png", 0)
    done = minires("predict", str(tmp_path / "a.png"), "--checkpoint", RUN, "--top", "3", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("%") == 3
    assert f"minires eval {RUN}" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a.png: there is no such file"),
        (b"not an image", "a.png: not a readable image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "a.png: not a readable image"),
    ],
)
def test_predict_bad_files_exit_3(
    minires: Run, trained: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    pytest.importorskip("PIL.Image", reason="predict reads files with Pillow; without it, it says so and exits with 2")
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    done = minires("predict", str(path), "--checkpoint", RUN, cwd=trained)
    assert done.returncode == 3, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["eval", "predict"])
def test_corrupt_checkpoint_exits_3(minires: Run, trained: Path, tmp_path: Path, verb: str) -> None:
    for file in ("best.safetensors", "last.ckpt"):
        content = bytearray((trained / RUN / file).read_bytes())
        content[len(content) // 2] ^= 0x10
        (tmp_path / f"flipped {file}.ckpt").write_bytes(content)
        (tmp_path / f"short {file}.ckpt").write_bytes(content[: len(content) // 2])
    digit_png(tmp_path / "a.png", 0)
    for name, message in (
        ("flipped last.ckpt", "Bad CRC-32"),
        ("short last.ckpt", "cut short or damaged"),
        ("flipped best.safetensors", "its weights are not those that were written (sha256)"),
        ("short best.safetensors", "cut short"),
        ("none", "there is no file"),
    ):
        path = str(tmp_path / f"{name}.ckpt")
        args = ["eval", path] if verb == "eval" else ["predict", str(tmp_path / "a.png"), "--checkpoint", path]
        done = minires(*args, cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_eval_agrees_with_the_figure_of_training(minires: Run, trained: Path) -> None:
    done = minires("eval", f"{RUN}/last.ckpt", "--json", cwd=trained)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    lines = [json.loads(line) for line in (trained / RUN / "metrics.jsonl").read_text().splitlines()]
    assert result["accuracy"] == lines[-1]["test_accuracy"]
    assert result["loss"] == pytest.approx(lines[-1]["test_loss"])
    matrix = np.array(result["confusion_matrix"])
    assert matrix.trace() / matrix.sum() == result["accuracy"]


def test_eval_prints_classes_and_confusions(minires: Run, trained: Path) -> None:
    done = minires("eval", RUN, cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "test accuracy by class" in done.stdout
    assert "most frequent confusions" in done.stdout
    assert "next:" in done.stdout


def test_summary_counts_parameters_and_macs(capsys: pytest.CaptureFixture[str]) -> None:
    """He et al. 2015, table 6: ResNet-20 has 0.27 M parameters; its published cost is 41 MMACs."""
    assert main(["summary", "--model", "resnet20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["input"] == [3, 32, 32]
    assert result["parameters"] == sum(layer["parameters"] for layer in result["layers"])
    assert round(result["parameters"] / 1e6, 2) == 0.27
    # By hand: stem 3*9*16, 6n convolutions per stage at 32, 16 and 8 pixels a side, the first of stages 2 and 3 from half
    # the channels, and the linear layer.
    stage = lambda c_in, c, side, n: (c_in + (2 * n - 1) * c) * 9 * c * side**2  # noqa: E731
    expected = 3 * 9 * 16 * 32**2 + stage(16, 16, 32, 3) + stage(16, 32, 16, 3) + stage(32, 64, 8, 3) + 64 * 10
    extra = sum(
        layer["macs"] for layer in result["layers"] if "downsample" in layer["name"] or "shortcut" in layer["name"]
    )
    assert result["macs"] - extra == expected


def test_summary_table_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--model", "resnet8", "--input", "1,8,8"]) == 0
    text = capsys.readouterr().out
    assert "conv1" in text
    assert "16x8x8" in text
    assert "total" in text
    assert main(["summary"]) == 0
    words = capsys.readouterr().out.split()
    assert "plain_NAME:" in words
    assert words.index("resnet8") < words.index("resnet20") < words.index("resnet110")


def test_data_lists_and_describes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    text = capsys.readouterr().out
    assert "digits" in text
    assert "fashion-mnist" in text
    assert main(["data", "digits", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["train"] + facts["test"] == 1797
    assert sum(facts["train_per_class"]) == facts["train"]


def test_data_missing_exits_3_and_says_where_to_put_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["data", "cifar10", "--data-dir", str(tmp_path)]) == 3
    assert str(tmp_path) in capsys.readouterr().err


def test_run_torch_gives_arguments_on_and_the_scripts_exit_code_back(minires: Run, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, torch\nprint(torch.ones(2).sum().item(), sys.argv[1:])\nsys.exit(7)\n")
    done = minires("run-torch", "script.py", "--lr", "0.1", "-h", cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    assert done.stdout == "2.0 ['--lr', '0.1', '-h']\n"
    assert minires("run-torch", "nowhere.py", cwd=tmp_path).returncode == 2


def test_doctor_finds_this_machine_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    found = {finding["what"]: finding for finding in report["findings"]}
    assert found["self-check"]["state"] == "ok"
    assert found["numpy"]["detail"].startswith(np.__version__)
    assert {"python", "cores", "rich", "matplotlib", "kernels: reference", "data: digits"} <= set(found)
    assert main(["doctor"]) == 0
    assert "minires train" in capsys.readouterr().out


def test_doctor_notices_a_wrong_convolution(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from minires.nn import functional as F

    right = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *a, **k: right(*a, **k) * 1.001)
    assert doctor.self_check().state == doctor.BAD
    assert main(["doctor"]) == 1
    assert "1 problem(s): self-check" in capsys.readouterr().out


def test_doctor_says_how_to_install_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "pip install matplotlib, for curves.png" in text
    assert "pip install rich, for live progress bars and tables" in text


def test_a_device_without_kernels_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--device", "cuda"]) == 2
    assert "cuda has no kernel set in this version" in capsys.readouterr().err


def test_warmup_compiles_what_a_model_needs_and_says_where_it_lies(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")
    command = ["warmup", "--model", "resnet8", "--batch", "2", "--train"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "resnet8" in said and "2x3x32x32" in said and "next:" in said
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (model,) = report["models"]
    assert model["compiled"] == 0  # all of them are there now
    assert report["cached_kernels"] > 5 or report["cache"] is None
    assert main(["doctor"]) == 0
    assert f"{report['cached_kernels']} kernels" in capsys.readouterr().out


def test_warmup_refuses_sizes_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warmup", "--image-size", "0"]) == 2
    assert "warmup: --image-size must be at least 1, got 0" in capsys.readouterr().err


def test_report_writes_a_page_and_compare_lays_runs_side_by_side(minires: Run, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("PIL")
    runs = [tmp_path / name for name in ("a", "b")]
    for run in runs:
        shutil.copytree(trained / "runs" / "digits-resnet8", run)
    config = runs[1] / "config.toml"
    config.write_text(config.read_text().replace("seed = 0", "seed = 1"))
    done = minires("report", str(runs[0]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    page = (runs[0] / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "Most confident mistakes" in page
    done = minires("compare", "a", "b", "--html", "c.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed" in done.stdout and "over 2 seeds" in done.stdout
    assert (tmp_path / "c.html").read_text().count("<svg") == 6
    found = json.loads(minires("compare", "a", "b", "--json", cwd=tmp_path).stdout)
    assert found["differing"] == {"seed": [0, 1]}
    assert [run["epochs"] for run in found["runs"]] == [2, 2]


@pytest.mark.parametrize("words", [("report", "nowhere"), ("compare", "nowhere", "here"), ("compare", "one")])
def test_report_and_compare_say_what_is_missing(minires: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = minires(*words, cwd=tmp_path)
    assert done.returncode == (2 if words[-1] == "one" else 3)
    assert words[0] in done.stderr and "Traceback" not in done.stderr


def test_data_check_says_what_is_wrong_and_exits_with_3(minires: Run, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(i + 50 * (label == "dog")).integers(0, 256, (40, 40, 3), np.uint8)
            image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    done = minires("data", "check", "photos", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nothing is wrong" in done.stdout and "folder:photos" in done.stdout
    (tmp_path / "photos/cat/3.png").write_bytes(b"no image")
    done = minires("data", "check", "folder:photos", cwd=tmp_path)
    assert done.returncode == 3
    assert "cat/3.png" in done.stdout
    found = json.loads(minires("data", "check", "photos", "--json", cwd=tmp_path).stdout)
    assert found["images"] == 23 and found["unreadable"][0]["file"] == "cat/3.png"
    assert minires("data", "check", cwd=tmp_path).returncode == 2
    assert minires("data", "digits", "photos", cwd=tmp_path).returncode == 2


def test_tune_finds_the_better_of_two_settings_and_names_the_next_step(minires: Run, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    words = ("tune", "--set", "epochs=2", "--set", "limit=300", "--search", "lr=0.0001,0.1", "--sampler", "grid")
    done = minires(*words, "--study", "s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the best trials" in done.stdout and "minires train --config s/trial-" in done.stdout
    again = minires(*words, "--study", "s", "--json", cwd=tmp_path)
    found = json.loads(again.stdout)
    assert [trial["settings"]["lr"] for trial in found["trials"]] == [0.1, 0.0001]
    assert again.stderr == ""  # nothing was run again
    done = minires("tune", "--search", "seed=1,2", cwd=tmp_path)
    assert done.returncode == 2 and "not searched over" in done.stderr
