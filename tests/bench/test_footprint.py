"""Bytes on the disk and in memory, counted on packages and processes of known size."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from minires.bench.contenders import CONTENDERS
from minires.bench.footprint import installed_size, peak_memory
from minires.bench.start import COLD, SCRIPTS


def package(folder: Path, name: str, size: int, *requires: str) -> None:
    """An installed package of one module of `size` bytes."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {one}" for one in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    record = f"{name}.py,sha256=x,{size}\n__pycache__/{name}.cpython-311.pyc,,\n{name}-1.0.dist-info/RECORD,,\n"
    (info / "RECORD").write_text(record, encoding="utf-8")


def test_installed_size_counts_all_that_a_package_needs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "planted_a", 1_000, "planted-b>=1.0", "planted_c (<2); python_version > '3'")
    package(tmp_path, "planted_b", 200, "Planted.C")
    package(tmp_path, "planted_c", 30, "planted-a", 'planted_d; extra == "more"', "planted_e; sys_platform == 'other'")
    package(tmp_path, "planted_d", 4_000)
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_size(["planted_c"]) == 1_230  # around the circle, without the extra and what is not there
    assert installed_size(["planted_b", "planted_a"]) == 1_230
    assert installed_size(["planted_d"]) == 4_000
    assert installed_size(["planted_nowhere"]) == 0


def test_installed_size_of_minires_is_its_files_and_numpys() -> None:
    files = importlib.metadata.files("numpy") or []
    numpy = sum(file.size or 0 for file in files)
    assert numpy > 10e6
    ours = installed_size(["minires"]) - numpy
    sources = sum(file.stat().st_size for file in (COLD.parents[1]).rglob("*.py"))
    assert sources < ours < 20e6


@pytest.mark.skipif(sys.platform != "linux", reason="read from Linux's /proc")
def test_peak_memory_is_the_processs_own() -> None:
    def held(megabytes: int) -> int:
        code = f"x = bytearray({megabytes} * 10**6)\nfor i in range(0, len(x), 4096): x[i] = 1\ndel x\nprint(flush=True); input()"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        peak = peak_memory(process.pid)
        process.communicate(b"\n")
        return peak

    before = bytearray(300 * 10**6)  # what this process holds must not count
    before[::4096] = bytes(len(range(0, len(before), 4096)))
    small, large = held(0), held(100)
    assert 1e6 < small < 100e6
    assert 95e6 < large - small < 130e6
    assert peak_memory(2**22 + 1) == 0


def test_everyone_that_starts_has_a_script_and_a_size() -> None:
    able = [contender for contender in CONTENDERS if "start" in contender.kinds]
    assert {contender.name for contender in able} == set(SCRIPTS) >= {"minires", "torch", "onnxruntime", "openvino"}
    for contender in able:
        assert (COLD / SCRIPTS[contender.name][0]).is_file()
        if not contender.missing():
            assert installed_size(contender.installs) > 10e6
