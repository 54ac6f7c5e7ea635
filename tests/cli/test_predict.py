"""`minires predict --weights`: the answers of the library that made the weights, for files, folders and arrays; broken files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires as package
from minires.cli import counter as counter_module
from minires.cli.counter import Counter
from minires.cli.main import main
from tests.cli.conftest import Run
from tests.io import judges
from tests.io.checkpoints import folder, named, timm_config, twin
from tests.torch_oracle import torch

Image = pytest.importorskip("PIL.Image", reason="predict reads image files with Pillow")
pytestmark = pytest.mark.usefixtures("reference_kernels")

NAMES = ["tench", "goldfish", "great white shark", "tiger shark", "hammerhead", "electric ray", "stingray"]
WITHIN = 1e-5  # of a probability: float32 roundings of two implementations through some ten layers


def photos(path: Path, count: int = 3) -> list[str]:
    """Smooth pictures of several sizes and formats, which a net that is not trained tells apart."""
    rng = np.random.default_rng(0)
    files = []
    for i, (size, ending) in enumerate([((120, 90), "jpg"), ((61, 200), "png"), ((80, 80), "webp"), ((50, 40), "bmp")]):
        if i < count:
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
            file = path / f"photo{i}.{ending}"
            coarse.resize(size, Image.Resampling.BICUBIC).save(file)
            files.append(str(file))
    return files


def answers(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> dict[str, Any]:
    assert main(["predict", *args, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def assert_same_answers(document: dict[str, Any], expected: np.ndarray, names: list[str]) -> None:
    """The five best classes in order, and their probabilities."""
    assert len(document["predictions"]) == len(expected)
    for prediction, shares in zip(document["predictions"], expected, strict=True):
        best = np.argsort(-shares, kind="stable")[:5]
        gaps = -np.diff(np.sort(shares)[::-1])[:5]
        assert gaps.min() > 2 * WITHIN  # else the order would be a matter of roundings
        assert [row["index"] for row in prediction["top"]] == best.tolist()
        assert [row["class"] for row in prediction["top"]] == [names[i] for i in best]
        got = [row["probability"] for row in prediction["top"]]
        np.testing.assert_allclose(got, shares[best], rtol=0, atol=WITHIN)


@pytest.mark.parametrize("layer", ["basic", "bottleneck"])
def test_predict_equals_transformers_end_to_end(
    transformers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], layer: str
) -> None:
    """A folder of save_pretrained, and files on disk, to the five best classes: as transformers' own two classes."""
    torch.manual_seed(0)
    sizes = [16, 24, 40, 48] if layer == "basic" else [32, 64, 72, 128]
    config = transformers.ResNetConfig(
        layer_type=layer, depths=[1, 2, 1, 1], embedding_size=16, hidden_sizes=sizes,
        id2label=dict(enumerate(NAMES)), label2id={name: i for i, name in enumerate(NAMES)},
    )  # fmt: skip
    net = judges.with_statistics(transformers.ResNetForImageClassification(config))
    processor = getattr(transformers, "ConvNextImageProcessorPil", None) or transformers.ConvNextImageProcessor
    processor = processor(size={"shortest_edge": 64}, crop_pct=0.875, image_mean=[0.485, 0.456, 0.406])
    net.save_pretrained(tmp_path / "net")
    processor.save_pretrained(tmp_path / "net")
    files = photos(tmp_path)
    images = [Image.open(file).convert("RGB") for file in files]
    with torch.no_grad():
        expected = net(**processor(images, return_tensors="pt")).logits.softmax(-1).numpy()
    document = answers(capsys, *files, "--weights", str(tmp_path / "net"))
    assert_same_answers(document, expected, NAMES)
    assert document["model"] == "ResNetForImageClassification"
    assert document["preprocessing"]["crop"] == "huggingface"
    assert [Path(p["file"]).name for p in document["predictions"]] == ["photo0.jpg", "photo1.png", "photo2.webp"]


def undecided(judge: Any) -> Any:
    """The network with logits of about one, so that each class has its share."""
    torch.manual_seed(0)
    with torch.no_grad():
        smooth = torch.nn.functional.interpolate(2 * torch.randn(16, 3, 5, 5), 64, mode="bicubic")
        scale = judge(smooth).std()
        for parameter in (judge.fc.weight, judge.fc.bias):
            parameter.div_(scale)
    return judge


def timm_folder(path: Path, **more: Any) -> tuple[str, Any]:
    """A folder as timm writes it, with a random resnet10 of seven classes for 64 pixels, and its twin in torch."""
    judge = undecided(twin([1, 1, 1, 1], seed=3))
    config = timm_config("resnet10", **more)
    config["pretrained_cfg"] |= {"input_size": [3, 64, 64], "crop_pct": 0.95, "std": [0.25] * 3, "label_names": NAMES}
    return str(folder(path, named(judge), config)), judge


def timm_by_hand(judge: Any, files: list[str]) -> np.ndarray:
    """timm's evaluation for that configuration, from Pillow and torch: floor(64 / .95) = 67, bicubic, centre 64."""
    batch = []
    for file in files:
        image = Image.open(file).convert("RGB")
        w, h = image.size
        new = (67, int(67 * h / w)) if w <= h else (int(67 * w / h), 67)
        image = image.resize(new, Image.Resampling.BICUBIC)
        left, top = (round((side - 64) / 2) for side in image.size)
        x = torch.from_numpy(np.array(image.crop((left, top, left + 64, top + 64)))).permute(2, 0, 1)
        batch.append((x.float() / 255 - 0.5) / 0.25)
    with torch.no_grad():
        return np.asarray(judge(torch.stack(batch)).softmax(-1).numpy())


def test_predict_equals_timms_evaluation_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, judge = timm_folder(tmp_path / "net")
    files = photos(tmp_path)
    document = answers(capsys, *files, "--weights", path)
    assert_same_answers(document, timm_by_hand(judge, files), NAMES)
    assert document["model"] == "resnet10"


def test_predict_searches_folders_and_works_in_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, judge = timm_folder(tmp_path / "net")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    files = photos(tmp_path / "photos", 4) + photos(tmp_path / "photos" / "more", 1)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    files = sorted(files)
    expected = timm_by_hand(judge, files)
    for batch in ("1", "2", "3", "64"):
        document = answers(capsys, str(tmp_path / "photos"), "--weights", path, "--batch-size", batch)
        assert [p["file"] for p in document["predictions"]] == files
        assert_same_answers(document, expected, NAMES)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["predict", str(empty), "--weights", path]) == 3
    assert "empty holds no images (looked for *.jpg" in capsys.readouterr().err


def test_predict_goes_on_after_a_broken_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, judge = timm_folder(tmp_path / "net")
    good = photos(tmp_path)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "photo0.jpg").read_bytes()[:700])
    files = [good[0], str(tmp_path / "cut.jpg"), good[1], str(tmp_path / "absent.png"), good[2]]
    document = answers(capsys, *files, "--weights", path, "--batch-size", "2", code=3)
    assert [p["file"] for p in document["predictions"]] == files
    broken = [p for p in document["predictions"] if "error" in p]
    assert [set(p) for p in broken] == [{"file", "error"}] * 2
    assert "cut.jpg: not a readable image" in broken[0]["error"] and "it is cut short" in broken[0]["error"]
    assert broken[1]["error"] == f"{files[3]}: there is no such file"
    whole = {**document, "predictions": [p for p in document["predictions"] if "top" in p]}
    assert_same_answers(whole, timm_by_hand(judge, good), NAMES)

    assert main(["predict", *files, "--weights", path]) == 3
    out, err = capsys.readouterr()
    assert out.count("%") == 15 and "cut.jpg" not in out.split("next:")[0]
    assert "minires: error: 2 of 5 images could not be classified:\n" in err
    assert f"  {files[3]}: there is no such file" in err
    assert main(["predict", files[1], "--weights", path]) == 3
    out, err = capsys.readouterr()
    assert out == "" and "the image could not be classified" in err


def test_predict_takes_arrays_without_pillow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, judge = timm_folder(tmp_path / "net")
    file = photos(tmp_path, 1)[0]
    pixels = np.asarray(Image.open(file))
    np.save(tmp_path / "pixels.npy", pixels)
    model = package.load_model(path)
    transform = package.data.preprocess.transform_for(model)
    np.save(tmp_path / "ready.npy", transform(pixels))
    np.save(tmp_path / "wrong.npy", np.zeros((3, 64, 63), np.float32))
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "ready.npy").read_bytes()[:200])
    monkeypatch.setitem(sys.modules, "PIL", None)
    names = ("pixels", "ready", "wrong", "object", "cut", "absent")
    document = answers(capsys, *(str(tmp_path / f"{n}.npy") for n in names), "--weights", path, code=3)
    monkeypatch.undo()
    pixels_row, ready, wrong, pickled, cut, absent = document["predictions"]
    expected = timm_by_hand(judge, [file])
    assert_same_answers({"predictions": [pixels_row, ready]}, np.repeat(expected, 2, axis=0), NAMES)
    assert "(3, 64, 64) float32 as the network takes it, got (3, 64, 63) float32" in wrong["error"]
    assert "not a readable .npy file" in pickled["error"] and "not a readable .npy file" in cut["error"]
    assert "there is no such file" in absent["error"]


def test_predict_few_lines_of_python_give_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = timm_folder(tmp_path / "net")
    image = photos(tmp_path, 1)[0]
    document = answers(capsys, image, "--weights", path, "--top", "1")
    minires = package

    model = minires.load_model(path)
    transform = minires.data.preprocess.transform_for(model)
    plan = minires.compile(model, (1, *transform.shape))
    logits = plan(transform(image)[None])

    assert document["predictions"][0]["top"][0]["class"] == transform.class_names[int(logits.argmax())]


def bare_weights(path: Path) -> tuple[str, Any]:
    judge = undecided(twin([1, 1, 1, 1], seed=3))
    torch.save(judge.state_dict(), path)
    return str(path), judge


def test_predict_of_bare_weights_announces_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = bare_weights(tmp_path / "net.pth")
    image = photos(tmp_path, 1)[0]
    assert main(["predict", image, "--weights", path, "--model", "resnet10", "--image-size", "64"]) == 0
    out, err = capsys.readouterr()
    assert "note: transform_for: nothing beside the weights says how images are prepared. Assumed" in err
    assert "images: shorter side to 73 (bilinear), centre 64x64, RGB, mean 0.485 0.456 0.406" in out
    assert "resnet10 from" in out and "--labels NAMES.txt" in out
    classes = {line.split()[-3] for line in out.splitlines() if line.endswith(" %")}
    assert len(classes) == 5 and classes <= {str(i) for i in range(7)}
    given = ("--image-size", "64", "--mean", "0.5", "--std", "0.2,0.3,0.4")
    document = answers(capsys, image, "--weights", path, "--model", "resnet10", *given)
    assert document["preprocessing"]["mean"] == [0.5] * 3 and document["preprocessing"]["std"] == [0.2, 0.3, 0.4]
    assert document["preprocessing"]["resize"] == {"how": "shorter", "height": 64, "width": 64}


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(NAMES) + "\n\n",
        "\ufeff" + "\r\n".join(NAMES),
        json.dumps(NAMES),
        json.dumps({str(i): name for i, name in enumerate(NAMES)}),
        json.dumps({str(i): [f"n{i:08}", name] for i, name in enumerate(NAMES)}),
    ],
)
def test_predict_takes_class_names_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path, _ = timm_folder(tmp_path / "net")
    (tmp_path / "names").write_bytes(text.replace("tench", "Tench ☺").encode())
    args = [*photos(tmp_path, 1), "--weights", path, "--labels", str(tmp_path / "names"), "--top", "7"]
    shown = {row["index"]: row["class"] for row in answers(capsys, *args)["predictions"][0]["top"]}
    assert [shown[i] for i in range(7)] == ["Tench ☺", *NAMES[1:]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("a\nb\n", "has 2 names, the network 7 classes"),
        ("[1, ", "not a list of names"),
        ('{"1": "a"}', "not a list of names"),
        ("[[]]", "not a list of names"),
    ],
)
def test_predict_refuses_other_class_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: str, message: str
) -> None:
    path, _ = timm_folder(tmp_path / "net")
    (tmp_path / "names").write_text(labels)
    assert main(["predict", *photos(tmp_path, 1), "--weights", path, "--labels", str(tmp_path / "names")]) == 2
    assert message in capsys.readouterr().err


def test_predict_takes_saved_plans_and_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, judge = timm_folder(tmp_path / "net")
    image = photos(tmp_path, 1)[0]
    plan = package.compile(package.load_model(path), (1, 3, 64, 64))
    plan.save(tmp_path / "plan.safetensors")
    package.export_onnx(plan, tmp_path / "net.onnx")
    for file in ("plan.safetensors", "net.onnx"):
        document = answers(capsys, image, "--weights", str(tmp_path / file), "--mean", "0.5", "--std", "0.5")
        assert document["preprocessing"]["source"] == "the caller"  # 64 is the plan's own
        ready = np.zeros((3, 64, 64), np.float32)
        np.save(tmp_path / "ready.npy", ready)
        zero = answers(
            capsys, str(tmp_path / "ready.npy"), "--weights", str(tmp_path / file), "--mean", "0.5", "--std", "1"
        )
        with torch.no_grad():
            shares = judge(torch.zeros(1, 3, 64, 64)).softmax(-1).numpy()
        assert_same_answers(zero, shares, [str(i) for i in range(7)])
        assert main(["predict", image, "--weights", str(tmp_path / file), "--model", "resnet10"]) == 2
        assert "--model goes with bare weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "one of the arguments --weights --checkpoint is required"),
        (("--weights", "w", "--checkpoint", "c"), 2, "not allowed with"),
        (("--weights", "absent.pth"), 3, "load_model: there is no file or folder absent.pth"),
        (("--weights", "w", "--top", "0"), 2, "--top must be at least 1, got 0"),
        (("--weights", "w", "--batch-size", "0"), 2, "--batch-size must be at least 1, got 0"),
        (("--checkpoint", "r", "--model", "resnet8"), 2, "--model goes with --weights"),
        (("--weights", "w", "--mean", "a,b"), 2, "--mean must be numbers with commas between them, for example 0.485"),
    ],
)
def test_predict_usage_errors(
    args: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        got = main(["predict", "x.png", *args])
    except SystemExit as error:  # argparse's own way
        got = int(error.code or 0)
    assert got == code
    assert message in capsys.readouterr().err


def test_predict_of_a_run_is_the_same_by_either_option(minires: Run, trained: Path, tmp_path: Path) -> None:
    pixels = package.data.load("digits")[1].images[:3, 0]
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    documents = []
    for option in ("--checkpoint", "--weights"):
        args = (str(tmp_path), option, "runs/digits-resnet8", "--json", "--top", "10")
        done = minires("predict", *args, cwd=trained, MINIRES_KERNELS="reference")
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
    assert documents[0]["predictions"] == documents[1]["predictions"]
    assert documents[0]["preprocessing"] == documents[1]["preprocessing"]


def test_counter_is_quiet_for_two_seconds_then_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(counter_module.time, "monotonic", lambda: clock[0])
    with Counter("predict", 4000, "images") as counter:
        for clock[0] in (0.5, 1.9, 5.0, 10.0, 12.0, 20.0):
            counter.add(200)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "predict: 800 of 4,000 images, 80.0 images/s",
        "predict: 1,200 of 4,000 images, 60.0 images/s",
    ]


def test_counter_on_a_terminal_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="the bar is rich's")
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    clock = [0.0]
    monkeypatch.setattr(counter_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    with Counter("predict", 40, "images", terminal) as counter:
        counter.add(1)
        assert terminal.getvalue() == ""
        clock[0] = 4.0
        counter.add(9)
        counter._bar.refresh()
    text = terminal.getvalue()
    assert "predict" in text and "10/40" in text and "2.5 images/s" in text
    assert text.rstrip().endswith("\x1b[2K")  # the line is wiped
