"""How figures are shown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from minires.bench.compare import Result
from minires.bench.machine import describe_machine, headline, instruction_set
from minires.bench.report import columns, format_bytes, format_seconds, result_row, write_json
from minires.bench.rounds import Timing


def test_seconds_and_bytes_take_the_unit_that_suits() -> None:
    seconds = {
        0.00032: "320 us",
        0.00994: "9.94 ms",
        0.0575: "57.5 ms",
        1.357: "1.36 s",
        123.4: "123 s",
        4e-7: "0.40 us",
    }
    assert {value: format_seconds(value) for value in seconds} == seconds
    assert format_bytes(1_234_000_000) == "1,234 MB"
    assert format_bytes(12_340_000_000) == "12.3 GB"


@pytest.mark.parametrize("kind", ["infer", "train", "start"])
def test_every_row_has_a_cell_for_every_column(kind: str) -> None:
    rows = [
        Result("a", "timed", timing=Timing((0.1,)), ratio=1.0, error=1e-7, setup=1.0, memory=5),
        Result("b", "not installed", "not installed (pip install b)"),
        Result("c", "wrong", "wrong, not timed", error=math.inf),
    ]
    for row in rows:
        assert len(result_row(row, 8, kind)) == len(columns(kind))
    cells = dict(zip(columns(kind), result_row(rows[2], 8, kind), strict=True))
    assert (cells["median"], cells["error"], cells[""]) == ("", "inf", "wrong, not timed")
    assert ("images/s" in columns(kind)) == (kind != "start")


def test_row_tells_of_stolen_time() -> None:
    row = result_row(Result("a", "timed", "eager", timing=Timing((0.1,)), stolen=0.25), 1, "infer")
    assert row[-1] == "eager; used 25 % of a core while others ran"


def test_json_is_whole_and_strict(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    write_json(file, {"cores": 2}, [{"results": [Result("a", "failed").as_dict()]}], complete=False)
    document = json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert document["complete"] is False
    assert document["rows"][0]["results"][0]["error"] is None
    assert list(tmp_path.iterdir()) == [file]


def test_machine_is_described() -> None:
    machine = describe_machine(3, ["bench", "infer", "--json", "a b"])
    assert machine["command"] == "minires bench infer --json 'a b'"
    assert machine["threads"] == 3
    assert "3 threads each" in headline(machine)
    assert "others are at work" in headline({**machine, "load": 9.0, "cores": 2})
    assert "others are at work" not in headline({**machine, "load": 0.1, "cores": 2})


def test_instruction_set_is_the_widest() -> None:
    assert instruction_set({"sse2", "avx", "avx2", "avx512f"}) == "AVX-512"
    assert instruction_set({"avx512f", "amx_tile"}) == "AVX-512 with AMX"
    assert instruction_set({"asimd", "fp"}) == "NEON"
    assert instruction_set(set()) == "instruction set unknown"
