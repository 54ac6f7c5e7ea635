"""Every reader on damaged and forged files: content or one CheckpointError, cheaply, and nothing of the file is run.

Each case goes through the doors that users have: load, load_model, load_plan, the readers themselves.
The quick part looks at samples; `-m slow` at every byte.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import json
import pickle
import re
import struct
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minires
from minires import nn
from minires.infer.saved import KEY, read_plan
from minires.io.npz import load_npz
from minires.io.safetensors import load_file, save_file
from minires.io.torch_file import read_torch_file
from minires.models import BasicBlock, ResNet
from tests.io.mutations import (
    EXTENSION,
    FLIPS,
    Call,
    attacks,
    directory_bomb,
    flips,
    lay_canary,
    members_of,
    npy,
    resized,
    safetensors_bytes,
    sang,
    survive,
    truncations,
    zip_headers,
    zipped,
)

pytestmark = pytest.mark.usefixtures("reference_kernels")
# By path. `load_state_dict_file` is the first half of `load_model`, and `load` of both.
DOORS: dict[str, Callable[[Path], Any]] = {
    "load": minires.load,
    "load_model": minires.load_model,
    "load_plan": read_plan,
    "safetensors": load_file,
    "torch": read_torch_file,
    "npz": load_npz,
}


def network() -> ResNet:
    net = ResNet(BasicBlock, [1, 1, 1, 1], 5, widths=(4, 4, 6, 8), stem_width=4)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.array[...] += 0.5
    return net.eval()


def tiny_state() -> dict[str, np.ndarray]:
    weight = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 8
    return {"conv1.weight": weight, "fc.weight": weight[0].reshape(3, 4), "steps": np.array(7)}


def written(folder: Path, state: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The state in every format; and a plan."""
    save_file(state, folder / "safetensors", {"format": "pt"})
    tensors = {name: minires.tensor(value) for name, value in state.items()}
    minires.save({"model": tensors, "epoch": 3, "history": [0.5, (0.25, None)]}, folder / "archive")
    with open(folder / "npz", "wb") as file:
        np.savez(file, **state)
    with open(folder / "npz packed", "wb") as file:
        np.savez_compressed(file, **state)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    minires.compile(net, (1, 1, 4, 4), kernels="reference").save(folder / "plan")
    with contextlib.suppress(ImportError):
        import torch

        tree = {"model": OrderedDict((name, torch.tensor(value)) for name, value in state.items()), "epoch": 3}
        tree["model"]["fc.weight"] = tree["model"]["fc.weight"].T.contiguous().T  # strides of its own
        torch.save(tree, folder / "torch zip")
        torch.save(tree, folder / "torch legacy", _use_new_zipfile_serialization=False)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One good file of each format, of three tensors: so small that every byte can be tried."""
    return written(tmp_path_factory.mktemp("tiny"), tiny_state())


@pytest.fixture(scope="module")
def network_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same of a network that `load_model` builds."""
    state = {name: value.numpy() for name, value in network().state_dict().items()}
    return written(tmp_path_factory.mktemp("network"), state)


FORMATS = ["safetensors", "archive", "npz", "npz packed", "plan", "torch zip", "torch legacy"]


def slow_ones(names: Iterable[str], *slow: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


def content_of(files: dict[str, bytes], name: str) -> bytes:
    if name not in files:
        pytest.skip("torch, which writes this format, is not installed")
    return files[name]


def header_places(name: str, content: bytes) -> list[int]:
    """Places of all bytes that are not elements of a tensor."""
    if name in ("safetensors", "plan"):
        return list(range(8 + int.from_bytes(content[:8], "little")))
    if name == "torch legacy":
        return list(range(len(content)))
    places = zip_headers(content)
    headers = [
        place for found in re.finditer(rb"\x93NUMPY", content) for place in range(found.start(), found.start() + 128)
    ]
    if name == "torch zip":
        start = content.index(b"archive/data.pkl" if b"archive/data.pkl" in content else b"/data.pkl")
        headers = list(range(start, start + len(members_of(content)["torch zip/data.pkl"])))
    if name == "archive":
        start = content.index(b"tree.json")
        headers += list(range(start, start + len(members_of(content)["tree.json"])))
    return sorted({*places, *(place for place in headers if place < len(content))})


def doors_of(name: str) -> list[str]:
    """The doors that a file of this format is meant for, and `load_model`, the longest way through."""
    if name == "plan":
        return ["load_plan"]
    own = {"npz packed": "npz", "torch zip": "torch", "torch legacy": "torch", "archive": "load"}.get(name, name)
    return [own, "load_model"]


def try_all(
    tmp_path: Path, damaged: Any, doors: list[str], allowed: Callable[[Any], bool] = lambda value: True
) -> list[int]:
    """[how many were read, how many were refused] of all contents, through each of the doors."""
    path, counts = tmp_path / "file", {"read": 0, "refused": 0}
    for content in damaged:
        path.write_bytes(content)
        for door in doors:
            counts[survive(lambda: DOORS[door](path), allowed)] += 1
    return list(counts.values())


def test_the_good_files_are_good(files: dict[str, bytes], network_files: dict[str, bytes], tmp_path: Path) -> None:
    """The refusals below are of the damage."""
    for name in FORMATS:
        if name in files:
            assert try_all(tmp_path, [files[name]], doors_of(name)[:1]) == [1, 0]
            assert try_all(tmp_path, [network_files[name]], doors_of(name)) == [len(doors_of(name)), 0]


@pytest.mark.parametrize("name", FORMATS)
def test_readers_refuse_every_truncation(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    content = content_of(files, name)
    read, refused = try_all(tmp_path, truncations(content), doors_of(name)[:1])
    assert read == 0
    assert refused > len(content) // 64
    read, _ = try_all(tmp_path, truncations(content), ["load_model"])
    assert read == 0


def sampled(name: str, content: bytes, count: int) -> list[int]:
    places = header_places(name, content)
    return places[:: max(1, len(places) // count)]


@pytest.mark.parametrize("name", FORMATS)
def test_readers_survive_flipped_bytes(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    content = content_of(files, name)
    for number, place in enumerate(sampled(name, content, 120)):
        try_all(tmp_path, flips(content, [place], (FLIPS[number % 4],)), doors_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_readers_survive_every_flipped_byte(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    content = content_of(files, name)
    places = header_places(name, content)
    _, refused = try_all(tmp_path, flips(content, places), doors_of(name)[:1])
    assert refused > 0.3 * len(FLIPS) * len(places)


@pytest.mark.parametrize("count", [15, pytest.param(1_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "plan"])
def test_load_model_survives_flipped_bytes(
    network_files: dict[str, bytes], tmp_path: Path, name: str, count: int
) -> None:
    """What is read all the same is a network of the family, which answers."""
    content = content_of(network_files, name)
    for number, place in enumerate(sampled(name, content, count)):
        try_all(
            tmp_path,
            flips(content, [place], (FLIPS[number % 4],)),
            ["load_model"],
            lambda net: len(net.state_dict()) == len(network().state_dict()),
        )


@pytest.mark.parametrize("name", ["archive", "npz", "torch zip"])
def test_readers_survive_flipped_bytes_under_checksums_that_fit(
    files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    """The forger computes the CRC-32 of what he changed."""
    members = members_of(content_of(files, name))
    inner = {"archive": "tree.json", "npz": "fc.weight.npy", "torch zip": "torch zip/data.pkl"}[name]
    text = members[inner]
    places = range(0, min(len(text), 4_000), max(1, min(len(text), 4_000) // 150))
    forged = (
        zipped(members | {inner: one})
        for number, place in enumerate(places)
        for one in flips(text, [place], (FLIPS[number % 4],))
    )
    try_all(tmp_path, forged, doors_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["archive", "npz", "torch zip"])
def test_readers_survive_every_flipped_byte_under_checksums_that_fit(
    files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    members = members_of(content_of(files, name))
    inner = {"archive": "tree.json", "npz": "fc.weight.npy", "torch zip": "torch zip/data.pkl"}[name]
    text = members[inner]
    forged = (zipped(members | {inner: one}) for one in flips(text, range(min(len(text), 4_000)), (0x01, 0x5A, 0x80)))
    try_all(tmp_path, forged, doors_of(name)[:1])


# --- configurations ---------------------------------------------------------------------------------------------------

CONFIGS: dict[str, dict[str, Any]] = {
    "timm": {
        "architecture": "resnet10", "num_classes": 5, "model_args": {"in_chans": 3, "block_args": None},
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "crop_pct": 0.9},
    },
    "huggingface": {
        "model_type": "resnet", "layer_type": "basic", "depths": [1, 1, 1, 1], "hidden_sizes": [4, 4, 6, 8],
        "embedding_size": 4, "num_channels": 3, "hidden_act": "relu", "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    },
}  # fmt: skip
STRANGE: list[Any] = [None, True, -1, 10**300, "", "resnet18", "x" * 100_000, "\ud800", "resnet" + "9" * 5_000]
STRANGE += [[], [["a"]], [2**70] * 4, [1] * 50_000, {"in_chans": {"a": []}}]


@pytest.fixture
def model_folder(network_files: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(network_files["safetensors"])
    return folder


@pytest.mark.parametrize("kind", CONFIGS)
def test_load_model_survives_strange_values_in_a_configuration(model_folder: Path, kind: str) -> None:
    counts = {"read": 0, "refused": 0}
    keys = sorted({*CONFIGS[kind], "architecture", "model_type", "global_pool", "model_args"})
    for number, key in enumerate(keys):
        for value in STRANGE[number % 3 :: 3] if number > 3 else STRANGE:
            text = json.dumps({**CONFIGS[kind], key: value})
            (model_folder / "config.json").write_text(text, encoding="utf-8")
            counts[survive(lambda: minires.load_model(model_folder))] += 1
    assert min(counts.values()) > 5


@pytest.mark.parametrize("kind", CONFIGS)
def test_load_model_survives_damaged_configurations(model_folder: Path, kind: str) -> None:
    content = json.dumps(CONFIGS[kind]).encode()
    for one in [*truncations(content, 16), *flips(content, range(0, len(content), 3), (0x20, 0xFF))]:
        (model_folder / "config.json").write_bytes(one)
        survive(lambda: minires.load_model(model_folder))


def many(piece: bytes, count: int) -> bytes:
    return b"[" + b",".join([piece] * count) + b"]"


JSON_BOMBS = {
    "lists": many(b"[]", 1_000_000),
    "objects": many(b"{}", 1_000_000),
    "texts": many(b'"ab"', 1_000_000),
    "keys": b"{" + b",".join(b'"%07d":0' % i for i in range(400_000)) + b"}",
    "deep": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 400_000,
    "long number": b'{"a":' + b"1" * 1_000_000 + b"}",
    "open string": b'{"' + b"a" * 5_000_000,
    "escapes": b'{"' + b'\\"' * 1_000_000 + b'":1}',
    "spaces": b"{" + b" " * 5_000_000,
    "wide": ('{"' + "\U0001f600" * 700_000 + '":1}').encode(),
}


@pytest.mark.parametrize("name", JSON_BOMBS)
def test_readers_of_json_survive_bombs(model_folder: Path, name: str) -> None:
    """As a configuration, an index, a tree of an archive, a header of safetensors and a plan."""
    bomb = JSON_BOMBS[name]
    (model_folder / "config.json").write_bytes(bomb)
    survive(lambda: minires.load_model(model_folder))
    (model_folder / "config.json").unlink()
    (model_folder / "model.safetensors").rename(model_folder / "a.safetensors")
    (model_folder / "model.safetensors.index.json").write_bytes(bomb)
    assert survive(lambda: minires.load_model(model_folder)) == "refused"
    path = model_folder / "file"
    path.write_bytes(zipped({"tree.json": bomb}))
    assert survive(lambda: minires.load(path)) == "refused"
    path.write_bytes(
        zipped({"tree.json": b'{"format":"minires-archive","version":1,"arrays":[],"tensors":[],"tree":' + bomb + b"}"})
    )
    survive(lambda: minires.load(path))
    if len(bomb) < 1_000_000:
        path.write_bytes(safetensors_bytes(bomb))
        assert survive(lambda: load_file(path)) == "refused"
        save_file({}, path, {KEY: bomb.decode()})
        assert survive(lambda: read_plan(path)) == "refused"


# --- bombs and lies in zips -------------------------------------------------------------------------------------------

ZEROS = bytes(3_000_000)  # deflates to 3 kB
TREE = {"format": "minires-archive", "version": 1, "arrays": [], "tensors": [], "tree": None}


def tree(**changes: Any) -> bytes:
    return json.dumps({**TREE, **changes}).encode()


def packed_bomb(name: str, head: bytes, size: int = 200_000_000, claimed: int | None = None) -> bytes:
    """A member that deflates from `head` and `size` zeros; it may claim to be smaller."""
    content = zipped({name: head + bytes(size)}, zipfile.ZIP_DEFLATED)
    return content if claimed is None else resized(content, name, unpacked=claimed)


def colliding(count: int) -> list[Any]:
    """Integers with the hash 0: a dict of n of them takes n * n / 2 comparisons."""
    return [[i * (2**61 - 1), 0] for i in range(count)]


def one_array(member: bytes, dtype: str = "<f8", shape: Any = (3,)) -> bytes:
    row = {"dtype": dtype, "shape": list(shape)}
    return zipped({"tree.json": tree(arrays=[row], tree={"array": 0}), "arrays/0.npy": member})


ZIP_BOMBS: dict[str, Callable[[], bytes]] = {
    "a vast table": lambda: directory_bomb(100_000),
    "a vast table of arrays": lambda: directory_bomb(100_000, b"a.npy"),
    "a vast table of trees": lambda: directory_bomb(100_000, b"tree.json"),
    "a packed tree": lambda: packed_bomb("tree.json", b"[", claimed=100),
    "a packed tree, and honest": lambda: packed_bomb("tree.json", b"["),
    "a packed array that claims little": lambda: packed_bomb("w.npy", npy((10,)), claimed=208),
    "a packed array that claims nothing": lambda: packed_bomb("w.npy", b"", claimed=0),
    "a packed header": lambda: packed_bomb("w.npy", b"\x93NUMPY\x02\x00\x00\x00\x00\x08"),
    "a stored header": lambda: zipped({"w.npy": b"\x93NUMPY\x02\x00\x00\x00\x00\x04" + bytes(60_000_000)}),
    "a packed array that is not there": lambda: resized(
        zipped({"w.npy": npy((2**25,)) + np.random.default_rng(0).bytes(300_000)}, zipfile.ZIP_DEFLATED),
        "w.npy", unpacked=128 + 2**28,
    ),
    "a stored array that is not there": lambda: resized(
        zipped({"w.npy": npy((2**25,)) + bytes(100)}), "w.npy", stored=128 + 2**28, unpacked=128 + 2**28
    ),
    "packed by LZMA": lambda: zipped({"w.npy": npy((3,), data=bytes(24))}, zipfile.ZIP_LZMA),
    "an archive packed by BZIP2": lambda: zipped({"tree.json": tree()}, zipfile.ZIP_BZIP2),
    "a torch zip that is packed": lambda: zipped({"a/data.pkl": b"\x80\x02}." + ZEROS}, zipfile.ZIP_DEFLATED),
    "a huge pickle": lambda: zipped({"a/data.pkl": b"\x80\x02(" + b"]" * 1_000_000 + b"t."}),
    "a header of signs": lambda: zipped({"w.npy": npy((3,)).replace(b"(3,)", b"-" * 9_000 + b"3")}),
    "a header of brackets": lambda: zipped({"w.npy": npy((3,)).replace(b"(3,)", b"(" * 9_000 + b"3")}),
    "an archive's header of signs": lambda: one_array(signs(b"-")),
    "an archive's header of brackets": lambda: one_array(signs(b"[")),
    "colliding keys": lambda: zipped({"tree.json": tree(tree={"dict": colliding(60_000)})}),
    "colliding tuples": lambda: zipped(
        {"tree.json": tree(tree={"dict": [[{"tuple": [a]}, b] for a, b in colliding(8_000)]})}
    ),
    "tensors of one array": lambda: zipped(
        {
            "tree.json": tree(
                arrays=[{"dtype": "<f8", "shape": [3]}],
                tensors=[{"array": 0, "requires_grad": False, "parameter": True}] * 60_000,
            ),
            "arrays/0.npy": npy((3,), data=bytes(24)),
        }
    ),
}  # fmt: skip


def signs(sign: bytes) -> bytes:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': " + sign * 9_000 + b"3, }\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize("name", slow_ones(ZIP_BOMBS, "a huge pickle"))
def test_readers_of_zips_survive_bombs(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(ZIP_BOMBS[name]())
    for door in DOORS.values():
        survive(lambda: door(path))
    assert survive(lambda: minires.load_model(path)) == "refused"


TRICKS = [
    "../evil",
    "/etc/evil",
    "..\\evil",
    "C:evil",
    "a/../../evil",
    "evil\0.npy",
    "evil.npy/",
    "\\\\host\\evil",
    "..",
]


@pytest.mark.parametrize("trick", TRICKS)
def test_readers_of_zips_write_nowhere(files: dict[str, bytes], tmp_path: Path, trick: str) -> None:
    """Names of members lead nowhere: nothing is unpacked to disk."""
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    path = inside / "file"
    for name in ("archive", "npz", "torch zip"):
        if name in files:
            for key in (trick, f"{trick}.npy", f"torch zip/{trick}"):
                path.write_bytes(zipped(members_of(files[name]) | {key: npy((1,), data=bytes(8))}))
                for door in DOORS.values():
                    survive(lambda: door(path))
    assert [entry for entry in tmp_path.rglob("*") if entry.is_file()] == [path]


def test_readers_of_zips_refuse_members_of_one_name(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "file"
    for name in ("archive", "npz", "torch zip"):
        if name in files:
            for again in members_of(files[name]):
                pairs = [*members_of(files[name]).items(), (again, members_of(files[name])[again])]
                path.write_bytes(zipped(pairs))
                for door in doors_of(name):
                    assert survive(lambda: DOORS[door](path)) == "refused"


# --- lies about tensors -----------------------------------------------------------------------------------------------

sizes = st.sampled_from([0, 1, 2, 3, 4, 5, 24, 2**31, 2**32 + 1, 2**62, 2**63 - 1, 2**63, 2**64, -1, -(2**63)])


@given(
    offset=sizes,
    pairs=st.lists(st.tuples(sizes, sizes), max_size=4),
    form=st.sampled_from(["zip", "legacy"]),
)
@settings(max_examples=150)
def test_torch_files_that_lie_about_views_give_torchs_view_or_are_refused(
    offset: int, pairs: list[tuple[int, int]], form: str
) -> None:
    torch = pytest.importorskip("torch", reason="torch, which writes the file and judges it, is not installed")
    size, stride = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
    storage, none = torch.arange(10.0)._typed_storage(), OrderedDict()
    claim = Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, none)
    buffer = io.BytesIO()
    torch.save({"w": claim}, buffer, _use_new_zipfile_serialization=form == "zip")
    content = buffer.getvalue()
    given_back: list[Any] = []

    def load() -> Any:
        given_back.append(read_torch_file(io.BytesIO(content))["w"])
        return given_back[0]

    if survive(load) == "read":
        expected = torch.as_strided(torch.arange(10.0), size, stride, offset) if 0 not in size else torch.empty(size)
        np.testing.assert_array_equal(given_back[0], expected.numpy())


@given(data=st.data())
@settings(max_examples=150)
def test_npz_and_archives_that_lie_about_arrays_are_refused(data: st.DataObject) -> None:
    """Only the one true claim, 24 bytes of elements, is read."""
    shape = data.draw(st.lists(sizes, max_size=4).map(tuple), "shape")
    descr = data.draw(
        st.sampled_from(
            ["<f8", ">f8", "|u1", "<c16", "<f2", "|b1", "|O", "<U3", "|V8", "<M8[s]", [("a", "<f8")], "f", "", 3]
        ),
        "descr",
    )
    member = npy(shape, descr, bytes(24), data.draw(st.sampled_from([(1, 0), (2, 0), (3, 0), (0, 9)]), "version"))

    def fits(value: Any) -> bool:
        array = value["w"] if isinstance(value, dict) else value
        return array.nbytes == 24 and array.shape == shape

    survive(lambda: load_npz(io.BytesIO(zipped({"w.npy": member}))), fits)
    content = one_array(member, str(descr), shape)
    survive(lambda: minires.load(io.BytesIO(content)), fits)


# --- what would run ---------------------------------------------------------------------------------------------------


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder on sys.path in which nothing may appear."""
    folder = tmp_path / "canary"
    folder.mkdir()
    lay_canary(folder)
    monkeypatch.syspath_prepend(folder)
    copyreg.add_extension("canary_module", "x", EXTENSION)
    yield folder
    copyreg.remove_extension("canary_module", "x", EXTENSION)
    sys.modules.pop("canary_module", None)


ATTACKS = sorted(attacks(Path("x")))


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_real(canary: Path, name: str) -> None:
    """pickle itself lets the canary sing; otherwise the tests below would show nothing."""
    with contextlib.suppress(Exception):
        pickle.loads(attacks(canary)[name])
    assert len(sang(canary)) == 1


@pytest.mark.parametrize("name", ATTACKS)
def test_readers_run_nothing(files: dict[str, bytes], tmp_path: Path, canary: Path, name: str) -> None:
    attack = attacks(canary)[name]
    objects = io.BytesIO()
    np.save(objects, np.array([1]))
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + attack
    contents = {
        "bare": attack,
        "zip": zipped({"a/data.pkl": attack, "a/byteorder": b"little", "a/version": b"3\n"}),
        "zip, other names": zipped({"data.pkl": attack}),
        "TorchScript": zipped({"a/data.pkl": attack, "a/constants.pkl": attack, "a/code/m.py": b"x"}),
        "npz": zipped({"w.npy": array}),
        "archive": one_array(array, "|O", (1,)),
        "npy": array,
        "tar": tarred({"pickle": attack, "storages": attack, "tensors": attack}),
        "plan": safetensors_bytes({"__metadata__": {KEY: attack.decode("latin1")}}),
    }
    if "torch zip" in files:
        zip_members, stream = members_of(files["torch zip"]), files["torch legacy"]
        root = next(member.partition("/")[0] for member in zip_members)
        contents["in a state dict"] = zipped(zip_members | {f"{root}/data.pkl": attack})
        contents["byteorder"] = zipped(zip_members | {f"{root}/byteorder": attack})
        for number, stop in enumerate(pickle_ends(stream)):  # in place of each of the five pickles
            contents[f"legacy {number}"] = stream[: stop[0]] + attack + stream[stop[1] :]
            contents[f"before legacy {number}"] = stream[: stop[0]] + attack + stream[stop[0] :]
    path = tmp_path / "file"
    for content in contents.values():
        path.write_bytes(content)
        for door in DOORS.values():
            survive(lambda: door(path))
    assert sang(canary) == []
    assert "canary_module" not in sys.modules


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pickle_ends(stream: bytes) -> list[tuple[int, int]]:
    """Where each of a legacy file's five pickles begins and ends."""
    import pickletools

    file, ends = io.BytesIO(stream), []
    for _ in range(5):
        start = file.tell()
        for _, _, _ in pickletools.genops(file):
            pass
        ends.append((start, file.tell()))
    return ends


def test_a_state_dict_with_an_attack_beside_it_still_gives_its_weights(tmp_path: Path, canary: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch writes the file")
    for legacy in (False, True):
        tree = {"state_dict": {"w": torch.arange(3.0)}, "args": Call(exec, f"open({str(canary / 'a')!r}, 'w')")}
        torch.save(tree, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        np.testing.assert_array_equal(minires.load_state_dict_file(tmp_path / "a.pth")["w"], [0, 1, 2])
    assert sang(canary) == []


MEMO = {
    "a vast index": b"\x80\x02Nr" + struct.pack("<I", 50_000_000) + b".",
    "the largest index": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a vast get": b"\x80\x02j\xff\xff\xff\xff.",
    "many entries": b"\x80\x04N" + b"\x94" * 700_000 + b".",
    "doublings": b"\x80\x02)q\0" + b"0h\0h\0\x86q\0" * 60 + b".",
    "doubled lists": b"\x80\x02]q\0" + b"0](h\0h\0eq\0" * 60 + b".",
    "deep": b"\x80\x02" + b"]" * 5_000 + b"a" * 4_999 + b".",
    "a cycle": b"\x80\x02]q\0h\0a.",
    "a long text": b"\x80\x02X\xff\xff\xff\x7f.",
    "a long integer": b"\x80\x02\x8b\xff\xff\xff\x7f.",
}


@pytest.mark.parametrize("name", slow_ones(MEMO, "many entries"))
def test_torch_files_with_memo_bombs_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    start = magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}."
    for content in (
        zipped({"a/data.pkl": MEMO[name]}),
        start + MEMO[name],
    ):
        path.write_bytes(content)
        for door in ("torch", "load_model"):
            assert survive(lambda: DOORS[door](path)) == "refused"
