"""What is read off a machine, and kernels for other machines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minires.kernels.cpu import machine as m

ROOT = Path(__file__).resolve().parents[3]
AVX2 = "+avx,+avx2,+fma"


@pytest.mark.parametrize(
    ("architecture", "features", "expected"),
    [
        ("x86_64", f"{AVX2},+avx512f", "avx512"),
        ("x86_64", f"{AVX2},-avx512f", "avx2"),
        ("AMD64", AVX2, "avx2"),
        ("x86_64", "+avx,+avx2,-fma", "sse"),
        ("x86_64", "", "sse"),
        ("aarch64", "+neon,+sve", "neon"),
        ("arm64", "", "neon"),
        ("riscv64", "+v", "sse"),
    ],
)
def test_instruction_set_follows_from_the_features(architecture, features, expected):
    assert m.instruction_set_of(architecture, features) == expected


@pytest.mark.parametrize("name", sorted(m.TILES))
def test_tiles_leave_no_block_over_and_fit_the_registers(name, monkeypatch):
    monkeypatch.setattr(m, "machine", lambda: m.Machine("", "", name, 1, 1))
    lanes, registers = {"avx512": (16, 32), "avx2": (8, 16), "neon": (4, 32), "sse": (4, 16)}[name]
    for c_out in range(1, 200):
        tile = m.tile_for(c_out)
        assert -(-c_out // 16) % tile.vectors == 0  # else the last tile would write behind the last block
        needed = tile.pixels * tile.vectors * 16 // lanes + tile.vectors + 1
        assert needed <= registers


def test_a_name_in_the_environment_counts_as_the_machine(monkeypatch):
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", AVX2)
    found = m.machine.__wrapped__()
    assert (found.cpu, found.features) == ("haswell", AVX2)
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    monkeypatch.delenv("NUMBA_CPU_FEATURES")
    assert m.machine.__wrapped__().features == ""  # and not those of this machine, as Numba reads it


def write_cache(folder: Path, level: int, kind: str, size: str, shared: str) -> None:
    folder.mkdir(parents=True)
    for name, text in (("level", str(level)), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
        (folder / name).write_text(text + "\n")


def test_cache_sizes_are_a_cores_share(tmp_path):
    write_cache(tmp_path / "index0", 1, "Data", "48K", "0,64")  # two hyper-threads of one core
    write_cache(tmp_path / "index1", 1, "Instruction", "32K", "0,64")
    write_cache(tmp_path / "index2", 2, "Unified", "2M", "0-7")  # four cores with two hyper-threads each
    write_cache(tmp_path / "index3", 3, "Unified", "32M", "0-63")
    assert m._cache_bytes(tmp_path) == (48 << 10, 512 << 10)
    assert m._cache_bytes(tmp_path / "nowhere") == m._USUAL
    (tmp_path / "index2" / "size").write_text("a lot")
    assert m._cache_bytes(tmp_path) == m._USUAL


@pytest.mark.parametrize(("text", "count"), [("0", 1), ("0-3", 4), ("0-3,8,10-11", 7), ("", 0)])
def test_lists_of_processors_are_counted(text, count):
    assert m.count_cpus(text) == count


def test_quota_of_either_version_is_read(tmp_path):
    assert m.cgroup_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert m.cgroup_quota(tmp_path) == 1.5
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    assert m.cgroup_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert m.cgroup_quota(tmp_path) == 4
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert m.cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("total", "bound", "quota", "local", "expected"),
    [
        (8, 8, None, None, 8),
        (8, 3, None, None, 3),
        (8, 8, 2.4, None, 2),
        (8, 8, 0.1, None, 1),
        (8, 8, None, "4", 2),
        (8, 2, None, "4", 2),  # the launcher has bound each process to its share
        (2, 2, None, "8", 1),
    ],
)
def test_usable_cores_are_those_that_others_leave(total, bound, quota, local, expected, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: total)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(bound)), raising=False)
    monkeypatch.setattr(m, "cgroup_quota", lambda: quota)
    for name in m._LOCAL_SIZES:
        monkeypatch.delenv(name, raising=False)
    if local is not None:
        monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", local)
    assert m.usable_cores() == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cpu", "features", "expected"),
    [("haswell", "+avx,+avx2,+fma,+sse4.2,+popcnt,+bmi,+bmi2", "avx2"), ("generic", None, "sse")],
)
def test_kernels_of_another_machine_compute_the_same(cpu, features, expected, tmp_path):
    if m.machine().instruction_set not in ("avx2", "avx512"):
        pytest.skip("this machine cannot run x86-64 code with AVX2")
    environment = {**os.environ, "NUMBA_CPU_NAME": cpu, "XDG_CACHE_HOME": str(tmp_path)}
    if features is not None:
        environment["NUMBA_CPU_FEATURES"] = features
    code = f"from minires.kernels.cpu.machine import machine; assert machine().instruction_set == {expected!r}"
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)
    here = Path(__file__).parent
    tests = [here / "test_conv.py", here / "test_layout.py", here / "test_batch_norm.py"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-k",
        "not every_tile",
        *map(str, tests),
    ]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert list(tmp_path.glob("minires/kernels-*/*.o"))  # they were compiled for that machine, not found
