"""Plans in files: what is written comes back to the bit, and what does not fit is refused before anything runs."""

from __future__ import annotations

import json
import time
import tracemalloc

import numpy as np
import pytest

import minires
from minires.errors import ArgumentError, CheckpointError
from minires.infer.executor import ReferenceExecutor
from minires.infer.saved import KEY, MAX_TEXT
from minires.io.safetensors import load_file, save_file
from tests.infer.nets import Lambda, images, small
from tests.infer.test_rules import CASES


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The tensors of a plan's file and its JSON, read apart."""
    path = tmp_path_factory.mktemp("plan") / "plan.safetensors"
    plan = minires.compile(small("resnet18d"), (2, 3, 32, 32), kernels="reference")
    plan.save(path)
    with minires.io.safetensors.SafetensorsFile(path) as file:
        return load_file(path), json.loads(file.metadata[KEY])


@pytest.mark.parametrize("name", ["resnet20", "resnet18d", "seresnet18", "preact_resnet18", "resnext50_32x4d"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_of_networks(name, dtype, tmp_path):
    net = small(name)
    plan = minires.compile(net.double() if dtype == "float64" else net, (2, 3, 16, 16), kernels="reference")
    plan.save(tmp_path / "plan.safetensors")
    loaded = minires.load_plan(tmp_path / "plan.safetensors", kernels="reference")
    x = images(3, 3, 16, 16, dtype=dtype)
    np.testing.assert_array_equal(loaded(x), plan(x))
    assert str(loaded) == str(plan)
    assert [step.name for step in loaded.graph.steps] == [step.name for step in plan.graph.steps]


@pytest.mark.parametrize("case", CASES)
def test_round_trip_of_every_kind(case, tmp_path):
    function, shape, _ = CASES[case]
    plan = minires.compile(Lambda(function), shape, kernels="reference")
    plan.save(tmp_path / "plan.safetensors")
    loaded = minires.load_plan(tmp_path / "plan.safetensors", kernels="reference")
    x = images(*shape, dtype="float32")
    np.testing.assert_array_equal(loaded(x), plan(x))
    for a, b in zip(plan.graph.steps, loaded.graph.steps, strict=True):
        assert (a.kind, a.inputs, a.output, a.attributes) == (b.kind, b.inputs, b.output, b.attributes)


def load(tmp_path, tensors, tree):
    path = tmp_path / "plan.safetensors"
    save_file(tensors, path, {KEY: tree if isinstance(tree, str) else json.dumps(tree)})
    return minires.load_plan(path, kernels="reference")


def test_a_rewritten_file_loads(saved, tmp_path):
    """So that the refusals below are of the change, not of the way the file is written here."""
    tensors, tree = saved
    assert load(tmp_path, tensors, tree)(images(1, 3, 32, 32, dtype="float32")).shape == (1, 5)


def step(tree, kind, number=0):
    return [one for one in tree["steps"] if one["kind"] == kind][number]


def change(path, value):
    """A change of the tree: `path` leads to an entry, which becomes `value`."""

    def apply(tensors, tree):
        node = step(tree, path[0]) if isinstance(path[0], str) and path[0] not in tree else tree[path[0]]
        *way, last = path[1:]
        for key in way:
            node = node[key]
        node[last] = value

    return apply


def drop_tensor(tensors, tree):
    del tensors["0.weight"]


def extra_tensor(tensors, tree):
    tensors["99.weight"] = np.zeros(3, np.float32)


def double_tensor(tensors, tree):
    tensors["0.weight"] = tensors["0.weight"].astype(np.float64)


def narrow_tensor(tensors, tree):
    tensors["0.weight"] = tensors["0.weight"][:, :2]


def no_steps(tensors, tree):
    tensors.clear()
    tree["steps"] = []


G = "geometry"
HOSTILE = [
    (change(("conv2d", "kind"), "exec"), r"step 0 is of kind 'exec'; known are conv2d, linear"),
    (change(("conv2d", "kind"), ["conv2d"]), "kind must be a string"),
    (change(("conv2d", "inputs"), []), r"step 0 \(conv2d\): takes 1 to 2 inputs, got 0"),
    (change(("conv2d", "inputs"), [7]), r"step 0 \(conv2d\): reads value 7, which no step before it writes"),
    (change(("conv2d", "inputs"), [True]), "a value's number must be an integer"),
    (change(("conv2d", "inputs"), [0, 0]), r"step 0 \(conv2d\): needs a shortcut of shape"),
    (change(("conv2d", "output"), 0), r"step 0 \(conv2d\): value 0 is written twice"),
    (change(("conv2d", "output"), 1.5), "a value's number must be an integer"),
    (change(("conv2d", "constants"), ["bias"]), r"its tensors do not fit its steps: missing \[\], left over \['0.weight'\]"),
    (change(("conv2d", "constants"), "weight"), "step 0: constants must be a list of names"),
    (change(("conv2d", "name"), 3), "step 0: name must be a text of at most 200 printable characters"),
    (change(("conv2d", "name"), "a\nb"), "step 0: name must be a text of at most 200 printable characters"),
    (change(("conv2d", "name"), "a" * 201), "step 0: name must be a text of at most 200 printable characters"),
    (change(("conv2d", "attributes", "relu"), 1), r"relu must be a bool, got 1"),
    (change(("conv2d", "attributes", "padding"), 1), r"needs the attributes geometry relu, got .*padding"),
    (change(("conv2d", "attributes", G), 3), "geometry must be a Conv2dGeometry, got int"),
    (change(("conv2d", "attributes", G), {"type": "Path"}), "an attribute is no geometry"),
    (change(("conv2d", "attributes", G, "type"), "os.system"), "an attribute is no geometry"),
    (change(("conv2d", "attributes", G, "type"), "Pool2dGeometry"), "an attribute is no geometry"),
    (change(("conv2d", "attributes", G, "shell"), 1), "an attribute is no geometry"),
    (change(("conv2d", "attributes", G, "n"), 3), "needs an input of shape"),
    (change(("conv2d", "attributes", G, "c_out"), 2**50), "geometry.c_out cannot be"),
    (change(("conv2d", "attributes", G, "c_out"), 17), "needs weight of shape"),
    (change(("conv2d", "attributes", G, "stride_h"), 0), "geometry.stride_h cannot be 0"),
    (change(("conv2d", "attributes", G, "stride_h"), 1), "gives shape"),
    (change(("conv2d", "attributes", G, "pad_top"), -1), "geometry.pad_top cannot be -1"),
    (change(("conv2d", "attributes", G, "k_h"), 3.0), "geometry.k_h cannot be 3.0"),
    (change(("conv2d", "attributes", G, "k_h"), 99), "the window does not fit"),
    (change(("conv2d", "attributes", G, "groups"), 7), "do not divide into 7 groups"),
    (change(("max_pool2d", "attributes", G, "pad_top"), 2), "padding is more than half of the window"),
    (change(("max_pool2d", "attributes", G, "dilation_h"), 2**39), "geometry|window"),
    (change(("max_pool2d", "attributes", G, "ceil_mode"), 0), "geometry.ceil_mode cannot be 0"),
    (change(("max_pool2d", "attributes", G, "divisor_override"), 2**50), "geometry.divisor_override cannot be"),
    (change(("reshape", "attributes", "shape"), [13]), "cannot give .* the shape"),
    (change(("reshape", "attributes", "shape"), [-1]), "shape must be integers from 0"),
    (change(("reshape", "attributes", "shape"), [1] * 33), "shape must be a list of at most 32 integers"),
    (change(("reshape", "attributes", "shape"), {"a": 1}), "an attribute is no geometry"),
    (change(("linear", "inputs"), [0]), "does not fit an input of shape"),
    (change(("shapes", "0"), [2, 3, 32]), "needs an input of shape|needs a"),
    (change(("shapes", "0"), [0, 3, 32, 32]), "the input needs a shape of positive integers"),
    (change(("shapes", "0"), [2**41]), "the input is too large"),
    (change(("shapes", "0"), []), r"the input needs a batch in front, got shape \(\)"),
    (change(("shapes", "0"), 5), "the input needs a shape of positive integers"),
    (change(("shapes", "-1"), [2, 3]), "which is no value's number"),
    (change(("shapes", "777"), [2, 3]), r"shapes of values that no step writes: \[777\]"),
    (lambda tensors, tree: tree.update(output=999), "the output, value 999, is written by no step"),
    (lambda tensors, tree: tree.update(input=999), "the input needs a shape of positive integers, got None"),
    (lambda tensors, tree: tree.update(version=2), "its plan has version 2; this minires reads version 1"),
    (lambda tensors, tree: tree.update(dtype="float16"), "dtype must be float32 or float64, got 'float16'"),
    (lambda tensors, tree: tree.update(dtype="float64"), "weight has dtype float32, the plan float64|bias has dtype"),
    (lambda tensors, tree: tree.update(extra=1), "the plan needs exactly the entries version, dtype"),
    (lambda tensors, tree: tree.pop("steps"), "the plan needs exactly the entries version, dtype"),
    (lambda tensors, tree: tree.update(steps={}), "steps a list"),
    (lambda tensors, tree: tree["steps"].insert(0, 3), "step 0 needs exactly the entries kind, inputs"),
    (no_steps, "is written by no step"),
    (drop_tensor, r"missing \['0.weight'\], left over \[\]"),
    (extra_tensor, r"missing \[\], left over \['99.weight'\]"),
    (double_tensor, "weight has dtype float64, the plan float32"),
    (narrow_tensor, "needs weight of shape"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_what_does_not_fit_is_refused(saved, tmp_path, monkeypatch, number):
    changed, message = HOSTILE[number]
    tensors, tree = dict(saved[0]), json.loads(json.dumps(saved[1]))
    changed(tensors, tree)
    monkeypatch.setattr(ReferenceExecutor, "__init__", lambda *args: pytest.fail("something was prepared to run"))
    with pytest.raises(CheckpointError, match=f"load_plan: .*plan.safetensors: .*({message})"):
        load(tmp_path, tensors, tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "the plan needs exactly the entries"),
        ("3", "the plan needs exactly the entries"),
        ("[" * 100_000, "nested too deeply"),
        ('{"version": ' + "9" * 10_000 + "}", "Exceeds the limit"),
        ("[" + "[]," * (MAX_TEXT // 3 - 1) + "[]]", "the plan needs exactly the entries"),
        ("[" + "[]," * MAX_TEXT + "[]]", "at most 2,000,000 are read"),
    ],
)  # fmt: skip
def test_junk_is_refused_quickly_and_cheaply(tmp_path, text, message):
    path = tmp_path / "plan.safetensors"
    save_file({}, path, {KEY: text})
    start = time.thread_time()
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        minires.load_plan(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Text that is too long is never parsed as a plan; what its file's header costs is the safetensors reader's.
    assert peak < 50e6 + 8 * (len(text) > MAX_TEXT) * len(text)
    assert time.thread_time() - start < 5


def test_a_file_without_a_plan_is_refused(tmp_path):
    save_file({"w": np.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"there is no plan in it .*`minires.load_model` reads weights"):
        minires.load_plan(tmp_path / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        minires.load_plan(tmp_path / "none.safetensors")


def test_a_plan_too_long_to_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("minires.infer.saved.MAX_TEXT", 100)
    plan = minires.compile(small("resnet8"), (1, 3, 8, 8), kernels="reference")
    with pytest.raises(ArgumentError, match=r"save: the plan has .* characters; 100 are read back. Split the model"):
        plan.save(tmp_path / "plan.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "plan.safetensors"
    plan = minires.compile(small("resnet8"), (1, 3, 8, 8), kernels="reference")
    plan.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        plan.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.safetensors"]


def test_a_layer_whose_name_could_not_be_read_back_is_saved_without(tmp_path):
    net = Lambda(
        lambda x, *layers: layers[1](layers[0](x)), **{"a\nb": minires.nn.Linear(3, 3), "c": minires.nn.Linear(3, 3)}
    )
    plan = minires.compile(net, (1, 3), kernels="reference")
    assert [step.name for step in plan.graph.steps] == ["a\nb", "c"]
    plan.save(tmp_path / "plan.safetensors")
    loaded = minires.load_plan(tmp_path / "plan.safetensors", kernels="reference")
    assert [step.name for step in loaded.graph.steps] == ["", "c"]
