"""The program of an exported model: images and raw numbers, good and damaged; weights from a file."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

import minires
from minires import nn
from minires.infer.c_export import export_c
from tests.infer.c_programs import CC, NAMES, STRICT, H, W, cc, classifier, needs_cc, plan_of, run, sanitized
from tests.infer.nets import images
from tests.tolerances import assert_close

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ---------------------------------------------------------------------------------------------- the program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A classifier of 6 x 5 colour images with awkward class names, compiled under the sanitizers."""
    if CC is None:
        pytest.skip("there is no C compiler (cc)")
    folder = tmp_path_factory.mktemp("program")
    minires.manual_seed(0)
    plan = classifier()
    source, _ = export_c(plan, folder / "net.c", class_names=NAMES, mean=MEAN, std=STD)
    cc(*STRICT, *sanitized(), "-DMINIRES_MAIN", source, "-o", folder / "net")
    return folder, plan


def ppm(pixels, maxval=255, head=None):
    """(h, w, 3) or (h, w) samples as P6 or P5."""
    h, w = pixels.shape[:2]
    magic = 6 if pixels.ndim == 3 else 5
    head = f"P{magic}\n{w} {h}\n{maxval}\n" if head is None else head
    return head.encode() + pixels.astype(">u2" if maxval > 255 else "u1").tobytes()


def pixels_of(*shape, maxval=255):
    return np.random.default_rng(0).integers(0, maxval + 1, shape)


def as_input(pixels, maxval=255):
    """(1, 3, h, w) float32, normalised."""
    x = (pixels / maxval - np.array(MEAN)) / np.array(STD)
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None], "float32")


def write(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


def numbers_of(done):
    assert done.returncode == 0 and not done.stderr, done.stderr
    return np.array([[float(line) for line in done.stdout.split()]])


@pytest.mark.parametrize("maxval", [1, 100, 255, 256, 1000, 65535])
def test_program_reads_colours(program, maxval):
    folder, plan = program
    pixels = pixels_of(H, W, 3, maxval=maxval)
    path = write(folder, "image.ppm", ppm(pixels, maxval))
    got = numbers_of(run(folder / "net", "--logits", path))
    assert_close(got, plan(as_input(pixels, maxval)), "float32", n=256)


def test_program_reads_grey_into_all_channels(program):
    folder, plan = program
    grey = pixels_of(H, W)
    path = write(folder, "image.pgm", ppm(grey))
    got = numbers_of(run(folder / "net", "--logits", path))
    assert_close(got, plan(as_input(np.repeat(grey[..., None], 3, axis=2))), "float32", n=256)


@pytest.mark.parametrize(
    "head",
    [
        f"P6 {W} {H} 255 ",
        f"P6#c\n{W}#w\n#\n{H}\r\n#x\r255\t",
        f"P6\n\n  {W}\v{H}\f0255\n",
        f"P6\n#{'x' * 9999}\n{W} {H} 255\n",
    ],
    ids=["blanks", "comments", "other space", "a long comment"],
)
def test_program_reads_every_form_of_header(program, head):
    folder, plan = program
    pixels = pixels_of(H, W, 3)
    got = numbers_of(run(folder / "net", "--logits", write(folder, "image.ppm", ppm(pixels, head=head))))
    assert_close(got, plan(as_input(pixels)), "float32", n=256)


def test_program_reads_raw_numbers(program):
    folder, plan = program
    x = images(1, 3, H, W, dtype="float32")
    path = write(folder, "x.raw", x.astype("<f4").tobytes())
    assert_close(numbers_of(run(folder / "net", "--logits", path)), plan(x), "float32", n=256)
    # Numbers whose bytes begin like an image.
    x.reshape(-1)[0] = np.frombuffer(b"P6\n0", "<f4")[0]
    path = write(folder, "x.raw", x.astype("<f4").tobytes())
    assert run(folder / "net", path).returncode == 1
    assert_close(numbers_of(run(folder / "net", "--raw", "--logits", path)), plan(x), "float32", n=256)


def test_program_prints_the_five_most_probable_classes(program):
    folder, plan = program
    x = images(1, 3, H, W, dtype="float32")
    path = write(folder, "x.raw", x.tobytes())
    done = subprocess.run([folder / "net", path, path], capture_output=True)
    logits = plan(x)[0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    best = np.argsort(-shares)[:5]
    lines = "".join(f"{shares[i]:8.4f}  {NAMES[i]}\n" for i in best)
    assert done.stdout.decode() == f"{path}\n{lines}" * 2
    assert done.returncode == 0


REFUSED = {
    "nothing": (b"", "ends early"),
    "two bytes": (b"P6", "ends early"),
    "magic alone": (b"P6\n", "bad header"),
    "no height": (b"P6 5", "bad header"),
    "no maximum": (b"P6 5 6\n", "bad header"),
    "letters": (b"P6 five 6 255\n", "bad header"),
    "negative": (b"P6 -5 6 255\n", "bad header"),
    "nothing behind the maximum": (b"P6 5 6 255", "bad header"),
    "no space behind the maximum": (b"P6 5 6 255#" + bytes(90), "bad header"),
    "maximum 0": (b"P6 5 6 0\n" + bytes(90), "bad header"),
    "maximum 65536": (b"P6 5 6 65536\n" + bytes(180), "bad header"),
    "huge": (b"P6 99999999 99999999 255\n" + bytes(90), "has 99999999 x 99999999 pixels, the model takes 5 x 6"),
    "overflow": (b"P6 4294967301 18446744073709551622 255\n" + bytes(90), "bad header"),
    "zeros": (b"P6 000000000005 6 255\n" + bytes(90), "bad header"),
    "rows and columns exchanged": (b"P6 6 5 255\n" + bytes(90), "has 6 x 5 pixels, the model takes 5 x 6"),
    "an endless comment": (b"P6 5 6 # 255 " + b"x" * 5000, "bad header"),
    "a sample is missing": (b"P6 5 6 255\n" + bytes(89), "ends early, in row 6 of 6"),
    "half a sample is missing": (b"P6 5 6 256\n" + bytes(179), "ends early, in row 6 of 6"),
    "a sample too many": (b"P6 5 6 255\n" + bytes(91), "goes on behind the image"),
    "above the maximum": (
        b"P6 5 6 100\n" + bytes(40) + b"e" + bytes(49),
        "has a sample of 101; its header says at most 100",
    ),
    "grey, too long": (b"P5 5 6 255\n" + bytes(90), "goes on behind the image"),
    "text image": (b"P3\n5 6 255\n" + b"0 " * 90, "is a P3 image; P5 and P6 are read"),
    "bits": (b"P4\n5 6\n" + bytes(30), "is a P4 image"),
    "raw, short": (bytes(359), "ends early: the model takes 90 numbers of 4 bytes"),
    "raw, long": (bytes(361), "goes on behind the 90 numbers of 4 bytes"),
    "raw, NaN": (np.full(90, np.nan, "f4").tobytes(), "there are no probabilities"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_program_refuses(program, case):
    folder, _ = program
    data, why = REFUSED[case]
    done = run(folder / "net", write(folder, "bad", data))
    assert done.returncode == 1
    assert why in done.stderr and done.stderr.count("\n") == 1
    assert not done.stdout


def test_program_survives_any_damage(program):
    """Each image cut short or with bytes changed gives a result or one line that says what is wrong."""
    folder, _ = program
    rng = np.random.default_rng(0)
    whole = ppm(pixels_of(H, W, 3), head=f"P6 #c\n{W} {H}\n255\n")
    damaged = [whole[:length] for length in range(0, len(whole), 3)]
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            # Most damage goes where it matters: the header.
            place = rng.integers(0, 18 if rng.random() < 0.9 else len(data))
            data[place] = rng.choice(list(b"0123456789 #\n\r\x00\xffP-") if rng.random() < 0.8 else range(256))
        damaged.append(bytes(data))
    paths = [write(folder, f"damaged{i}", data) for i, data in enumerate(damaged)]
    done = run(folder / "net", *paths)
    assert done.returncode == 1
    refused = {line.split(": ")[0] for line in done.stderr.splitlines()}
    accepted = {line for line in done.stdout.splitlines() if line.startswith(str(folder))}
    assert len(done.stderr.splitlines()) == len(refused) and refused | accepted == set(map(str, paths))
    assert not refused & accepted


def test_program_says_what_it_cannot_open(program):
    folder, _ = program
    done = run(folder / "net", folder / "missing", folder)
    assert done.returncode == 1
    assert "missing: cannot be opened: No such file" in done.stderr
    assert f"{folder}: cannot be read" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--wrong", "x"], ["--raw"], ["--weights", "x", "y"], ["--"]])
def test_program_says_how_to_use_it(program, arguments):
    folder, _ = program
    done = run(folder / "net", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ") and not done.stdout


def test_program_says_that_results_could_not_be_written(program):
    folder, _ = program
    path = write(folder, "x.raw", images(1, 3, H, W, dtype="float32").tobytes())
    with open("/dev/full", "w") as full:
        done = subprocess.run([folder / "net", path], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "could not be written" in done.stderr


@needs_cc
def test_program_of_a_model_that_ends_in_softmax(tmp_path):
    """Its outputs are the probabilities."""
    plan = classifier(softmax=True)
    source, _ = export_c(plan, tmp_path / "net")
    cc(*STRICT, "-DNET_MAIN", source, "-o", tmp_path / "net")
    x = images(1, 3, H, W, dtype="float32")
    done = run(tmp_path / "net", write(tmp_path, "x", x.tobytes()))
    best = int(plan(x).argmax())
    assert done.stdout.splitlines()[1] == f"{plan(x)[0, best]:8.4f}  class {best}"


@needs_cc
def test_program_of_a_grey_model_takes_no_colours(tmp_path):
    plan = classifier(channels=1)
    source, _ = export_c(plan, tmp_path / "net", mean=0.25, std=[0.5])
    cc(*STRICT, "-DMINIRES_MAIN", source, "-o", tmp_path / "net")
    grey = pixels_of(H, W)
    got = numbers_of(run(tmp_path / "net", "--logits", write(tmp_path, "grey", ppm(grey))))
    assert_close(got, plan(((grey / 255 - 0.25) / 0.5)[None, None].astype("float32")), "float32", n=256)
    done = run(tmp_path / "net", write(tmp_path, "colours", ppm(pixels_of(H, W, 3))))
    assert done.returncode == 1 and "has colours, the model takes grey" in done.stderr


@needs_cc
def test_program_of_a_model_without_images_or_classes(tmp_path):
    plan = plan_of(nn.Conv2d(2, 3, 1), 2, 2, 3)
    source, _ = export_c(plan, tmp_path / "net")
    cc(*STRICT, "-DMINIRES_MAIN", source, "-o", tmp_path / "net")
    x = images(1, 2, 2, 3, dtype="float32")
    done = run(tmp_path / "net", write(tmp_path, "x", x.tobytes()))
    got = [float(line) for line in done.stdout.splitlines()[1:]]
    assert_close(np.array(got).reshape(1, 3, 2, 3), plan(x), "float32")
    done = run(tmp_path / "net", write(tmp_path, "image", ppm(pixels_of(2, 3))))
    assert done.returncode == 1 and "is a P5 image, and this model takes none" in done.stderr


# ---------------------------------------------------------------------------------------------- weights beside


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    if CC is None:
        pytest.skip("there is no C compiler (cc)")
    folder = tmp_path_factory.mktemp("beside")
    plan = classifier()
    source, header, weights = export_c(plan, folder / "net.c", weights="beside")
    assert (header.name, weights.name) == ("net.h", "net.bin")
    cc(*STRICT, *sanitized(), "-DMINIRES_MAIN", source, "-o", folder / "net")
    x = images(1, 3, H, W, dtype="float32")
    write(folder, "x", x.tobytes())
    return folder, plan, x


def test_weights_beside_are_loaded(beside, tmp_path):
    folder, plan, x = beside
    got = numbers_of(run(folder / "net", "--logits", folder / "x", cwd=folder))
    assert_close(got, plan(x), "float32", n=256)
    shutil.copy(folder / "net.bin", tmp_path / "moved")
    arguments = ["--logits", "--weights", tmp_path / "moved", folder / "x"]
    np.testing.assert_array_equal(numbers_of(run(folder / "net", *arguments, cwd=tmp_path)), got)


def test_weights_of_another_export_are_refused(beside, tmp_path):
    folder, _, _ = beside
    whole = (folder / "net.bin").read_bytes()
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 1
    cases = {
        "cannot be opened": None,
        "has another size": whole[:-1],
        "another size": whole + b"\0",
        "no weights file": b"",
        "checksum": bytes(changed),
        "of another export": bytes(len(whole)),
    }
    for why, data in cases.items():
        path = tmp_path / "bad" if data is not None else tmp_path / "missing"
        if data is not None:
            path.write_bytes(data)
        done = run(folder / "net", "--weights", path, folder / "x")
        assert done.returncode == 1 and why in done.stderr and not done.stdout, done.stderr
    done = run(folder / "net", "--weights", tmp_path, folder / "x")
    assert done.returncode == 1 and "cannot be read" in done.stderr


@needs_cc
def test_run_without_weights_says_so(tmp_path):
    """Before a load, and after one that failed."""
    export_c(classifier(), tmp_path / "net.c", weights="beside")
    (tmp_path / "main.c").write_text(
        '#include "net.h"\nstatic float x[NET_INPUT_SIZE], y[NET_OUTPUT_SIZE];\n'
        "int main(void) { return net_run(x, y) == NET_NOT_LOADED && net_load(NET_WEIGHTS_FILE) == NET_OK\n"
        '    && net_run(x, y) == NET_OK && net_load("main.c") == NET_WRONG_SIZE && net_run(x, y) == NET_NOT_LOADED\n'
        "    && net_load(NET_WEIGHTS_FILE) == NET_OK && net_run(x, y) == NET_OK\n"
        '    && net_load("missing") == NET_CANNOT_OPEN && net_run(x, y) == NET_NOT_LOADED ? 0 : 9; }\n'
    )
    cc(*STRICT, tmp_path / "net.c", tmp_path / "main.c", "-o", tmp_path / "main")
    assert run(tmp_path / "main", cwd=tmp_path).returncode == 0
