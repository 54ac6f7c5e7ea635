"""Whole models as C: logits, files, names, errors."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import ArgumentError
from minires.infer.c.order import MAX_STATIC
from minires.infer.c.text import identifier, number, string
from minires.infer.c_export import export_c
from minires.io import files
from tests.infer.c_programs import FAST, NAMES, STRICT, H, W, cc, classifier, needs_cc, plan_of, run, run_graphs
from tests.infer.nets import images, small
from tests.tolerances import assert_close

# ---------------------------------------------------------------------------------------------- logits

FAMILIES = [
    ("resnet8", {}, 16),
    ("resnet18", {"small_input": True}, 16),
    ("resnet18d", {"deep_stem": (12, 16)}, 33),
    ("seresnet18", {}, 32),
    ("resnext50_32x4d", {}, 32),
    ("preact_resnet20", {}, 16),
    ("wrn_16_4", {}, 16),
]


@needs_cc
@pytest.mark.parametrize(("name", "options", "pixels"), FAMILIES, ids=[name for name, *_ in FAMILIES])
def test_logits_of_every_family(name, options, pixels, tmp_path):
    plan = plan_of(small(name, **options), 3, pixels, pixels)
    x = images(1, 3, pixels, pixels, dtype="float32")
    (y,) = run_graphs(tmp_path, [plan.graph], [x], ["-O1"], weights="beside")
    assert np.abs(y).max() > 1e-3
    assert_close(y, plan(x), "float32", n=256)


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("weights", ["inside", "beside"])
def test_resnet18_at_64_pixels(weights, tmp_path):
    """At full width with its 11 million weights beside; inside, as text, they would take a compiler a minute."""
    plan = plan_of(minires.models.resnet18() if weights == "beside" else small("resnet18"), 3, 64, 64)
    x = images(1, 3, 64, 64, dtype="float32")
    (y,) = run_graphs(tmp_path, [plan.graph], [x], FAST, weights=weights)
    assert_close(y, plan(x), "float32", n=512)


@needs_cc
def test_a_plan_for_a_batch_becomes_c_for_one_image(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    plan = minires.compile(net, (7, 3, H, W), kernels="reference")
    x = images(1, 3, H, W, dtype="float32")
    (y,) = run_graphs(tmp_path, [plan.graph], [x], ["-O1"])
    assert_close(y, plan(x), "float32", n=27)


# ---------------------------------------------------------------------------------------------- what the files are


@needs_cc
@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm")
def test_nothing_is_called_but_libm_and_stdio(tmp_path):
    undefined = {}
    for weights in ("inside", "beside"):
        for main in ([], ["-DMINIRES_MAIN"]):
            source = export_c(classifier(softmax=True), tmp_path / f"{weights}.c", weights=weights, class_names=NAMES)[
                0
            ]
            cc(*STRICT, *main, "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-c", source, "-o", tmp_path / "net.o")
            done = subprocess.run(["nm", "-u", tmp_path / "net.o"], capture_output=True, text=True, check=True)
            names = set(done.stdout.replace("U ", "").split()) - {"_GLOBAL_OFFSET_TABLE_"}
            undefined[weights, bool(main)] = names - {"expf", "memcpy", "memset"}
    assert undefined["inside", False] == set()
    assert undefined["beside", False] <= {"fopen", "fread", "ferror", "fclose", "getc"}
    stdio = {"fopen", "fread", "ferror", "fclose", "fflush", "getc", "stdin", "stdout", "stderr"}
    prints = {"fprintf", "printf", "puts", "fputs", "putchar", "putc", "fputc", "fwrite"}
    for weights in ("inside", "beside"):
        more = {"exp", "strcmp", "strerror", "__errno_location", "__isoc99_sscanf"}
        assert undefined[weights, True] <= stdio | prints | more


@needs_cc
def test_only_the_header_s_names_are_visible(tmp_path):
    """Two models go into one program."""
    plan = classifier()
    x = images(1, 3, H, W, dtype="float32")
    first, second = run_graphs(tmp_path, [plan.graph] * 2, [x, x], ["-O1"])
    np.testing.assert_array_equal(first, second)


@needs_cc
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_header_serves_cpp(tmp_path):
    source, header = export_c(classifier(), tmp_path / "net.c", class_names=NAMES)
    main = tmp_path / "main.cpp"
    main.write_text(
        f'#include "{header.name}"\nfloat x[NET_INPUT_SIZE], y[NET_CLASSES];\nint main() {{ return net_run(x, y); }}\n'
    )
    cc("-c", source, "-o", tmp_path / "net.o")
    cc("-Wall", "-Werror", main, tmp_path / "net.o", "-o", tmp_path / "main", compiler=shutil.which("c++"))
    assert run(tmp_path / "main").returncode == 0


@needs_cc
@pytest.mark.parametrize("name", ["18 layers, v1.2-β.c", "int", "_x", "conv2d", "模型", "block", "main.old"])
def test_files_of_any_name(name, tmp_path):
    source, header = export_c(classifier(), tmp_path / name, class_names=NAMES)
    assert source.name == (name if name.endswith(".c") else f"{name}.c")
    assert header.read_text().count(f"int {identifier(source.stem)}_run(const float *input, float *output);") == 1
    cc(*STRICT, "-DMINIRES_MAIN", source, "-o", tmp_path / "out")


@needs_cc
def test_names_of_steps_stay_in_their_comments(tmp_path):
    """A plan from a file may call its steps anything."""
    plan = classifier()
    plan.graph = replace(
        plan.graph, steps=tuple(replace(step, name='*/ #error "\\" /* ??/') for step in plan.graph.steps)
    )
    source, _ = export_c(plan, tmp_path / "net.c")
    assert "/* __ _error ___ __ ___: conv2d +relu -> 8x6x5 */" in source.read_text()
    cc(*STRICT, "-c", source, "-o", tmp_path / "net.o")


def test_identifier_is_one():
    expected = {"resnet-18.v2": "resnet_18_v2", "18 layers": "net_18_layers", "_x_": "x", "é": "net", "": "net"}
    assert {name: identifier(name) for name in expected} == expected


def test_string_escapes():
    assert string('a"b\\c', "x") == '"a\\"b\\\\c"'
    assert string("??/1", "x") == '"\\?\\?/1"'
    assert string("é9\n\x07", "x") == '"\\303\\2519\\n\\007"'
    with pytest.raises(ArgumentError, match="class name 3 is no text that UTF-8 can write"):
        string("\ud800", "class name 3")
    for bad in ("a\0b", "x" * 4096):
        with pytest.raises(ArgumentError, match="class name 3 must have no NUL and at most 4,095 bytes"):
            string(bad, "class name 3")


def test_number_has_the_value_exactly():
    for dtype in ("float32", "float64"):
        for value in (0.1, 1.0, -2.5, 1e-45, 3e38, 123456789.0):
            text = number(value, np.dtype(dtype))
            assert re.fullmatch(r"-?\d+(\.\d*)?(e[+-]\d+)?f?", text) and ("." in text or "e" in text)
            assert np.dtype(dtype).type(text.rstrip("f")) == np.dtype(dtype).type(value)
    assert [number(v, np.dtype("f4")) for v in (0.0, -0.0, np.inf, -np.inf, np.nan, 1e300)] == [
        *("0", "-0.f", "INFINITY", "-INFINITY", "NAN", "INFINITY")
    ]


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "outside"}, "export_c: weights must be one of inside, beside, got 'outside'"),
        ({"class_names": ["a"]}, r"export_c: class_names needs one name for each output, of shape \(7,\), got 1 names"),
        ({"class_names": "seven"}, "export_c: class_names must be strings in a list, got 'seven'"),
        ({"class_names": [1] * 7}, "export_c: class_names must be strings in a list, got 1"),
        ({"class_names": ["a\0"] * 7}, "export_c: class name 0 must have no NUL"),
        ({"mean": (1, 2)}, r"export_c: mean must be a number or 3, one a channel, got \(1, 2\)"),
        ({"mean": "grey"}, "export_c: mean must be a number or one a channel, got 'grey'"),
        ({"mean": float("nan")}, "export_c: mean must be finite, got nan"),
        ({"std": (1, 1, 0)}, r"export_c: std must be finite, above 0, got \(1, 1, 0\)"),
    ],
)
def test_options_that_do_not_fit(options, message, tmp_path):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        export_c(classifier(), tmp_path / "net.c", **options)
    assert not list(tmp_path.iterdir())


def test_images_need_one_or_three_channels(tmp_path):
    with pytest.raises(
        ArgumentError, match=r"mean and std are for images of 1 or 3 channels, and the input is \(1, 9\)"
    ):
        export_c(plan_of(nn.Linear(9, 2), 9), tmp_path / "net.c", mean=0.5)


def test_model_is_no_plan(tmp_path):
    with pytest.raises(ArgumentError, match="plan must be a Plan, got Linear; "):
        export_c(nn.Linear(2, 2), tmp_path / "net.c")


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a?b"])
def test_file_names_that_c_cannot_include(name, tmp_path):
    with pytest.raises(ArgumentError, match="an #include cannot name a file with"):
        export_c(classifier(), tmp_path / name)


def test_what_no_static_memory_holds_is_refused(tmp_path):
    from tests.infer.test_rewrite import Draft

    d = Draft()
    d.shapes[0] = (1, MAX_STATIC // 8 + 1)
    plan = minires.infer.Plan(d.graph(d.relu(0)), minires.backend.kernel_set("reference"))
    with pytest.raises(ArgumentError, match=r"the values need .* bytes of static memory, and compilers give at most"):
        export_c(plan, tmp_path / "net.c")


def test_a_failure_leaves_the_old_files(tmp_path, monkeypatch):
    plan = classifier()
    paths = export_c(plan, tmp_path / "net.c", weights="beside")
    before = [path.read_bytes() for path in paths]
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        export_c(classifier(softmax=True), tmp_path / "net.c", weights="beside")
    assert [path.read_bytes() for path in paths] == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)
