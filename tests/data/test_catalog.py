"""load(name): where files are looked for, how they are checked, what is said when they are not to be had."""

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest

from minires.data import catalog, describe, load, names
from minires.data.sources import SOURCES
from minires.errors import DataError, UnknownNameError
from tests.data.files import serve, tar_bytes, tiny_cifar, tiny_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path, monkeypatch):
    """No data set anywhere, and a home of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MINIRES_DATA", raising=False)
    monkeypatch.setattr(catalog, "SYSTEM_ROOT", tmp_path / "system")


def put(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("place", ["argument", "argument itself", "environment", "cache", "system", "torchvision's"])
def test_load_idx_finds_the_files(name, place, tmp_path, monkeypatch):
    source, contents, arrays = tiny_idx(name)
    monkeypatch.setitem(SOURCES, name, source)
    data_dir = None
    if place == "argument":
        data_dir = tmp_path / "mine"
        put(data_dir / name, contents)
    elif place == "argument itself":
        data_dir = tmp_path / "mine"
        put(data_dir, contents)
    elif place == "environment":
        monkeypatch.setenv("MINIRES_DATA", str(tmp_path / "env"))
        put(tmp_path / "env" / name, contents)
    elif place == "cache":
        put(tmp_path / "home/.cache/minires" / name, contents)
    elif place == "system":
        put(tmp_path / "system" / name, contents)
    else:
        data_dir = str(tmp_path / "torch")
        put(tmp_path / "torch" / {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}[name], contents)
    train, test = load(name, data_dir, download=False)
    assert np.array_equal(train.images[:, 0], arrays[0]) and np.array_equal(train.labels, arrays[1])
    assert np.array_equal(test.images[:, 0], arrays[2]) and np.array_equal(test.labels, arrays[3])
    assert train.name == f"{name}/train" and test.classes == SOURCES[name].classes
    np.testing.assert_array_equal(test.mean, np.float32(SOURCES[name].mean))


def test_data_roots_are_in_the_stated_order(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIRES_DATA", "/environment")
    expected = [Path("/argument"), Path("/environment"), tmp_path / "home/.cache/minires", tmp_path / "system"]
    assert catalog.data_roots("/argument") == expected and catalog.data_roots() == expected[1:]


def test_load_idx_takes_decompressed_files_too(tmp_path, monkeypatch):
    source, contents, arrays = tiny_idx()
    monkeypatch.setitem(SOURCES, "fashion-mnist", source)
    put(tmp_path, {name.removesuffix(".gz"): gzip.decompress(content) for name, content in contents.items()})
    assert np.array_equal(load("fashion-mnist", tmp_path, download=False)[0].images[:, 0], arrays[0])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["archive", "archive in its folder", "extracted"])
def test_load_cifar(name, form, tmp_path, monkeypatch):
    source, members, arrays = tiny_cifar(name)
    monkeypatch.setitem(SOURCES, name, source)
    if form == "extracted":
        put(tmp_path, members)
    else:
        archive = {source.archive: tar_bytes({f"{source.inside}/readme.html": b"hello", **members})}
        put(tmp_path if form == "archive" else tmp_path / name, archive)
    train, test = load(name, tmp_path, download=False)
    assert np.array_equal(train.images, np.concatenate([images for images, _ in arrays[:-1]]))
    assert np.array_equal(train.labels, np.concatenate([labels for _, labels in arrays[:-1]]))
    assert np.array_equal(test.images, arrays[-1][0]) and np.array_equal(test.labels, arrays[-1][1])
    assert train.image_shape == (3, 32, 32) and train.num_classes == len(SOURCES[name].classes)


def test_load_refuses_another_data_sets_files(tmp_path, monkeypatch):
    source, contents, _ = tiny_idx()
    file = source.train[1]
    wrong = dataclasses.replace(source, train=(source.train[0], dataclasses.replace(file, sha256="0" * 64)))
    monkeypatch.setitem(SOURCES, "fashion-mnist", wrong)
    put(tmp_path, contents)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.gz: the content has sha256 .*, expected 0000"):
        load("fashion-mnist", tmp_path)


def test_load_cifar_wrong_member(tmp_path, monkeypatch):
    source, members, _ = tiny_cifar()
    monkeypatch.setitem(SOURCES, "cifar10", source)
    members[f"{source.inside}/test_batch.bin"] = bytes(len(members[f"{source.inside}/test_batch.bin"]))
    put(tmp_path, {source.archive: tar_bytes(members)})
    with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz: test_batch.bin: the content has sha256"):
        load("cifar10", tmp_path)


def test_load_downloads_what_is_missing_and_only_once(tmp_path, monkeypatch):
    source, contents, arrays = tiny_idx()
    with serve({f"/good/{name}": content for name, content in contents.items()}) as (base, asked):
        source = dataclasses.replace(source, mirrors=(base + "bad/", base + "good/"))
        monkeypatch.setitem(SOURCES, "fashion-mnist", source)
        first = source.train[0].name
        put(tmp_path / "fashion-mnist", {first: contents[first]})
        train, _ = load("fashion-mnist", tmp_path)
        assert np.array_equal(train.images[:, 0], arrays[0])
        assert asked == [f"/{mirror}/{f.name}" for f in source.files[1:] for mirror in ("bad", "good")]
        asked.clear()
        load("fashion-mnist", tmp_path)
        assert not asked
    assert sorted(p.name for p in (tmp_path / "fashion-mnist").iterdir()) == sorted(contents)


def test_load_downloads_an_archive_to_the_cache(tmp_path, monkeypatch):
    source, members, arrays = tiny_cifar()
    with serve({"/" + source.archive: tar_bytes(members)}) as (base, _):
        monkeypatch.setitem(SOURCES, "cifar10", dataclasses.replace(source, mirrors=(base,)))
        assert np.array_equal(load("CIFAR-10")[1].images, arrays[-1][0])
    assert (tmp_path / "home/.cache/minires/cifar10" / source.archive).is_file()


def test_load_bad_download_is_not_kept(tmp_path, monkeypatch):
    source, contents, _ = tiny_idx()
    bad = dict.fromkeys(("/" + name for name in contents), gzip.compress(b"another content"))
    with serve(bad) as (base, _):
        monkeypatch.setitem(SOURCES, "fashion-mnist", dataclasses.replace(source, mirrors=(base,)))
        with pytest.raises(DataError, match=r"no mirror gave the file") as caught:
            load("fashion-mnist", tmp_path)
    assert "bytes of content, got 15" in str(caught.value) and "Put into" in str(caught.value)
    assert not list((tmp_path / "fashion-mnist").iterdir())


def test_load_without_network_says_where_to_put_what(tmp_path, monkeypatch):
    monkeypatch.setitem(
        SOURCES, "fashion-mnist", dataclasses.replace(SOURCES["fashion-mnist"], mirrors=("http://127.0.0.1:1/",))
    )
    for download in (True, False):
        with pytest.raises(DataError) as caught:
            load("fashion-mnist", download=download)
        text = str(caught.value)
        folder = tmp_path / "home/.cache/minires"
        assert f"fashion-mnist: not found in {folder}, {tmp_path / 'system'}." in text
        assert f"Put into {folder / 'fashion-mnist'}:" in text
        for file in SOURCES["fashion-mnist"].files:
            assert f"{file.name}  (content: {file.size} bytes, sha256 {file.sha256})" in text
        assert "apt-get install dataset-fashion-mnist" in text
        assert ("refused" in text) == download
    with pytest.raises(
        DataError, match=r"cifar-10-binary\.tar\.gz, or the folder cifar-10-batches-bin out of it, with"
    ):
        load("cifar10", tmp_path, download=False)


@pytest.mark.parametrize(
    ("name", "near"), [("fashon-mnist", "fashion-mnist"), ("cifar", "cifar10"), ("digit", "digits"), ("minst", "mnist")]
)
def test_load_unknown_name_gives_the_nearest(name, near):
    with pytest.raises(UnknownNameError, match=rf"unknown data set '{name}': did you mean [^?]*{near}"):
        load(name)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("MNIST", "mnist"),
        ("FashionMNIST", "fashion-mnist"),
        ("fashion_mnist", "fashion-mnist"),
        ("cifar-100", "cifar100"),
    ],
)
def test_source_names_are_forgiving(alias, name):
    assert catalog.source_for(alias).name == name


def test_describe_lists_all_and_where_they_are(tmp_path, monkeypatch):
    source, contents, _ = tiny_idx()
    monkeypatch.setitem(SOURCES, "fashion-mnist", source)
    put(tmp_path / "fashion-mnist", contents)
    rows = {row.name: row for row in describe(tmp_path)}
    assert list(rows) == names() == ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"]
    assert rows["digits"].found == "in the package" and (rows["digits"].train, rows["digits"].test) == (1437, 360)
    assert rows["fashion-mnist"].found == str(tmp_path / "fashion-mnist") and rows["mnist"].found is None
    assert rows["cifar100"].classes == 100 and rows["cifar10"].image_shape == (3, 32, 32)
    assert all(row.licence and row.title for row in rows.values())


def test_sources_are_consistent():
    for source in SOURCES.values():
        assert len(source.mean) == len(source.std) == source.image_shape[0]
        assert len(set(source.classes)) == len(source.classes)
        for file in source.files:
            assert len(file.sha256) == 64 and int(file.sha256, 16) >= 0
        assert all(mirror.endswith("/") for mirror in source.mirrors)
        if source.kind == "cifar":
            record = source.label_bytes + 3072
            assert sum(f.size for f in source.train) == 50_000 * record and source.test[0].size == 10_000 * record
    assert SOURCES["cifar100"].classes == tuple(sorted(SOURCES["cifar100"].classes))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the real files are not here: apt-get install dataset-fashion-mnist")
def test_load_fashion_mnist_of_debian(monkeypatch):
    monkeypatch.setattr(catalog, "SYSTEM_ROOT", DEBIAN.parent)
    train, test = load("fashion-mnist", download=False)
    assert len(train) == 60_000 and len(test) == 10_000 and train.image_shape == (1, 28, 28)
    assert np.bincount(train.labels).tolist() == [6000] * 10 and np.bincount(test.labels).tolist() == [1000] * 10
    assert abs(train.images.mean() / 255 - train.mean[0]) < 1e-4 and abs(train.images.std() / 255 - train.std[0]) < 1e-4
    assert train.classes[9] == "Ankle boot" and train.labels[0] == 9
