"""Downloads, against a web server on this machine: good, truncated, wrong, refused, too long; nothing half-written."""

import os

import pytest

from minires.data.download import fetch
from minires.errors import DataError
from tests.data.files import serve

GOOD = bytes(range(256)) * 2000


def check(path):
    if path.read_bytes() != GOOD:
        raise DataError("the content has another sha256")


ROUTES = {
    "/good": GOOD,
    "/unannounced": (GOOD, None),
    "/truncated": (GOOD[:-1000], len(GOOD)),
    "/wrong": b"x" * len(GOOD),
    "/short": (GOOD[:-1000], None),
    "/announces": (b"", 10**9),
    "/endless": (GOOD * 4, None),
    "/broken": 500,
}


@pytest.fixture(scope="module")
def base():
    with serve(ROUTES) as (url, _):
        yield url


def get(base, tmp_path, *paths, **options):
    return fetch([base + p for p in paths], tmp_path / "sub" / "f", check, max_bytes=len(GOOD) + 10, **options)


@pytest.mark.parametrize("path", ["good", "unannounced"])
def test_fetch_writes_the_file(base, tmp_path, path):
    out = get(base, tmp_path, path, quiet=True)
    assert out.read_bytes() == GOOD and [p.name for p in out.parent.iterdir()] == ["f"]
    assert out.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("truncated", "truncated: 511000 of 512000 bytes"),
        ("wrong", "the content has another sha256"),
        ("short", "the content has another sha256"),
        ("announces", "announces 1000000000 bytes, at most 512010 were expected"),
        ("endless", "sends more than the 512010 bytes expected at most"),
        ("broken", "HTTP 500 Internal Server Error"),
        ("absent", "HTTP 404 Not Found"),
    ],
)
def test_fetch_bad_answer_is_refused_and_the_next_mirror_tried(base, tmp_path, path, reason):
    with pytest.raises(DataError) as caught:
        get(base, tmp_path, path, quiet=True)
    assert "f: no mirror gave the file:" in str(caught.value) and f"{base}{path}: {reason}" in str(caught.value)
    assert not list((tmp_path / "sub").iterdir())  # nothing half-written
    assert get(base, tmp_path, path, "good", quiet=True).read_bytes() == GOOD


def test_fetch_keeps_the_old_file_when_the_new_one_is_bad(base, tmp_path):
    out = get(base, tmp_path, "good", quiet=True)
    with pytest.raises(DataError):
        get(base, tmp_path, "wrong", quiet=True)
    assert out.read_bytes() == GOOD


def test_fetch_unreachable_and_other_schemes(base, tmp_path):
    (tmp_path / "local").write_bytes(GOOD)
    urls = ["http://127.0.0.1:1/f", (tmp_path / "local").as_uri(), "ftp://127.0.0.1/f"]
    with pytest.raises(DataError) as caught:
        fetch(urls, tmp_path / "f", check, max_bytes=10**6, timeout=5, quiet=True)
    lines = str(caught.value).splitlines()
    assert "refused" in lines[1]
    assert "only http and https are fetched" in lines[2] and "only http and https are fetched" in lines[3]


def test_fetch_interrupt_leaves_nothing(base, tmp_path):
    def interrupted(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([base + "good"], tmp_path / "f", interrupted, max_bytes=10**6, quiet=True)
    assert not list(tmp_path.iterdir())


def test_fetch_folder_that_cannot_be_written(base, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write into .*file.*give another data_dir"):
        fetch([base + "good"], tmp_path / "file" / "f", check, max_bytes=10**6, quiet=True)


def test_fetch_progress_in_plain_lines(base, tmp_path, capsys):
    get(base, tmp_path, "broken", "good")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"f: {base}broken: HTTP 500 Internal Server Error"
    assert " % of 0.5 MB, " in lines[1] and lines[-1].startswith("f: 0.5 MB, ") and len(lines) <= 12


def test_fetch_progress_bar_on_a_terminal(base, tmp_path, capsys, monkeypatch):
    pytest.importorskip("rich", reason="rich is not installed")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setitem(os.environ, "TERM", "xterm")
    get(base, tmp_path, "good")
    assert "512.0/512.0 kB" in capsys.readouterr().err
