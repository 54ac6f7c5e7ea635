"""`minires bench scaling`: ranks are really started, and the arithmetic is that of strong scaling."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from minires.bench import scaling
from minires.bench.scaling import Point, ScalingError, measure_scaling, scaling_rows
from minires.cli.main import main
from tests.distributed.conftest import mpiexec

WORK = {
    "model": "resnet8", "image_size": 8, "in_channels": 1, "batch": 12, "seconds": 0.1, "sync_bn": True, "seed": 0,
}  # fmt: skip


def test_speed_up_and_efficiency_are_of_one_rank_round_by_round() -> None:
    one = Point(1, 1, [1.0, 2.0], [0.0, 0.0])
    two = Point(2, 1, [0.5, 1.25], [0.05, 0.25], bytes=2 << 20)
    threads = Point(1, 2, [0.8, 1.6], [0.0, 0.0])
    rows = scaling_rows([one, two, threads], 100)
    assert [row[:2] for row in rows] == [["1", "1"], ["2", "1"], ["1", "2"]]
    assert [row[4] for row in rows] == ["1.00", "1.80", "1.25"]
    assert [row[5] for row in rows] == ["100 %", "90 %", "62 %"]
    assert [row[6] for row in rows] == ["", "15.0 %", ""]


def test_ranks_are_started_and_communicate() -> None:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    mpiexec()
    seen = list(measure_scaling(WORK, [2], rounds=2, say=lambda *a, **k: None))
    assert [len(points[0].steps) for points in seen] in ([1, 2], [2, 2])  # the same objects grow
    points = {(p.ranks, p.threads): p for p in seen[-1]}
    assert set(points) == {(1, 1), (2, 1), (1, 2)}
    assert points[2, 1].bytes > 4 * 75_000  # resnet8's gradients
    assert 0 < points[2, 1].share < 1
    assert points[1, 1].bytes == 0


def test_a_rank_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    mpiexec()
    with pytest.raises(ScalingError, match="1 ranks: UnknownNameError"):
        list(measure_scaling({**WORK, "model": "nothing"}, [1], rounds=1, say=lambda *a, **k: None))


def test_without_a_launcher_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ScalingError, match="pip install"):
        scaling.find_mpiexec()


def test_cli_prints_the_table_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    mpiexec()
    words = "bench scaling --model resnet8 --image-size 8 --in-channels 1 --batch 12 --ranks 2 --rounds 1 --seconds 0.1"
    assert main([*words.split(), "--json", str(tmp_path / "out.json")]) == 0
    out = capsys.readouterr().out
    assert "efficiency" in out
    assert "communication" in out
    document = json.loads((tmp_path / "out.json").read_text())
    points = [row for row in document["rows"] if "ranks" in row]
    assert {(p["ranks"], p["threads"]) for p in points} == {(1, 1), (2, 1), (1, 2)}
