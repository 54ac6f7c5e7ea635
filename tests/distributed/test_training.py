"""`mpiexec -n N minires train --distributed mpi`: the figures of one process; and what becomes of the others when one fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minires.io import archive
from tests.cli.conftest import environment
from tests.distributed.conftest import ended, launch
from tests.train.same_run import assert_same_run, rows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, limits and /proc as Linux has them")

RUN = "runs/a"
TRAIN = (
    "train", "--name", "a", "--epochs", "2", "--limit", "86", "--batch-size", "16", "--test-every", "0",
    "--checkpoint-every", "2", "--model-options", "width=4", "--lr", "0.02",
)  # fmt: skip
RESUME = ("train", "--resume", RUN)
TOGETHER = ("--distributed", "mpi")
# The child: the hook, then the command line. `at(n, rank, do)`: do it after step n, on that rank alone.
SCRIPT = """
import os, signal, sys, time
from minires.distributed import get_rank
from minires.train import loop, saver, session
session.curves_available = lambda: False
session.report_available = lambda: "no report"
def at(step, rank, do):
    original, calls = saver.Saver.after_step, [0]
    def counted(self):
        calls[0] += 1
        if calls[0] == step and get_rank() == rank:
            do()
        return original(self)
    saver.Saver.after_step = counted
def send(number): os.kill(os.getpid(), number)
{hook}
from minires.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def together(
    ranks: int,
    *words: str,
    cwd: Path,
    hook: str = "",
    code: int | None = 0,
    seconds: float = 120,
    kernels: str = "reference",
) -> tuple[str, str]:
    """Run it on so many ranks; it must end with this code, in time. Returns standard output and error."""
    process = launch(ranks, "-c", SCRIPT.format(hook=hook), *words, *TOGETHER, cwd=cwd, MINIRES_KERNELS=kernels)
    found, out, err = ended(process, seconds)
    assert found == code if code is not None else found != 0, f"{found}\n{out}\n{err}"
    assert "Traceback" not in err
    return out, err


def single(*words: str, cwd: Path, kernels: str = "reference") -> None:
    """One process, without MPI."""
    cwd.mkdir(exist_ok=True)
    env = environment(MINIRES_KERNELS=kernels, MINIRES_THREADS="1")
    command = [sys.executable, "-c", SCRIPT.format(hook=""), *words]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def weights(folder: Path) -> dict[str, Any]:
    return {name: np.asarray(t) for name, t in archive.load(folder / "last.ckpt")["model"].items()}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    place = tmp_path_factory.mktemp("one")
    single(*TRAIN, cwd=place)
    return place / RUN


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_train_what_one_process_trains(one: Path, tmp_path: Path, ranks: int) -> None:
    out, _ = together(ranks, *TRAIN, cwd=tmp_path)
    folder = tmp_path / RUN
    assert f"ranks   {ranks} processes" in out
    assert out.count("test accuracy by class") == 1  # rank 0 alone speaks
    assert_nearly_the_same(folder, one)
    for a, b in zip(rows(folder), rows(one), strict=True):
        assert a["val_accuracy"] == b["val_accuracy"]
    names = {path.name for path in one.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "env.json").read_text())["ranks"] == ranks


def assert_nearly_the_same(ours: Path, theirs: Path) -> None:
    """Weights and losses of two runs, but for the rounding of ten steps in float32; test_group.py compares in float64."""
    mine, other = weights(ours), weights(theirs)
    assert list(mine) == list(other)
    for name in mine:
        np.testing.assert_allclose(mine[name], other[name], rtol=2e-3, atol=2e-4, err_msg=name)
    for a, b in zip(rows(ours), rows(theirs), strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)


def test_ranks_train_what_one_process_trains_on_the_fast_kernels(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")
    single(*TRAIN, cwd=tmp_path / "one", kernels="cpu")
    together(2, *TRAIN, cwd=tmp_path, kernels="cpu")
    assert_nearly_the_same(tmp_path / RUN, tmp_path / "one" / RUN)


def test_the_same_ranks_give_the_same_bits_and_go_on_with_them(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    together(2, *TRAIN, cwd=tmp_path / "a")
    together(2, *TRAIN, cwd=tmp_path / "b", hook="at(3, 0, lambda: send(signal.SIGTERM))", code=143)
    together(2, *RESUME, cwd=tmp_path / "b")
    assert_same_run(tmp_path / "b" / RUN, tmp_path / "a" / RUN)


def test_augmented_accumulated_smoothed_averaged_and_clipped(tmp_path: Path) -> None:
    more = ("--augment", "pad_crop:1,mixup:0.3", "--accumulate", "2", "--label-smoothing", "0.1", "--ema-decay", "0.9",
            "--clip-norm", "1", "--max-steps", "4")  # fmt: skip
    single(*TRAIN, *more, cwd=tmp_path / "one")
    together(2, *TRAIN, *more, cwd=tmp_path)
    ours, theirs = weights(tmp_path / RUN), weights(tmp_path / "one" / RUN)
    # Batch norm sees a piece at a time: two pieces of eight, the same eight or not. So the weights differ, but not by much.
    for name in ours:
        assert np.abs(ours[name] - theirs[name]).max() <= 0.1 + 0.2 * np.abs(theirs[name]).max(), name


def test_batch_norms_by_themselves_are_an_option(one: Path, tmp_path: Path) -> None:
    out, _ = together(2, *TRAIN, "--sync-bn", "false", cwd=tmp_path)
    assert "batch norm each by itself" in out
    ours, theirs = weights(tmp_path / RUN), weights(one)
    assert any(not np.allclose(ours[name], theirs[name], rtol=2e-3, atol=2e-4) for name in ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_one_rank_hears_stops_all_and_is_saved(one: Path, tmp_path: Path, number: int) -> None:
    hook = f"at(3, 1, lambda: send({int(number)}))"
    out, _ = together(2, *TRAIN, cwd=tmp_path, hook=hook, code=128 + number)
    assert "interrupted" in out
    tree = archive.load(tmp_path / RUN / "last.ckpt")
    assert tree["progress"]["batch"] in (3, 4)  # the step in which it came, or the next: all stop at the same one
    together(3, *RESUME, cwd=tmp_path)  # and as many as there are now go on
    assert_nearly_the_same(tmp_path / RUN, one)
    resumed = json.loads((tmp_path / RUN / "env.json").read_text())["resumed"]
    assert [each["ranks"] for each in resumed] == [3]
    assert "the run began with" in (tmp_path / RUN / "log.txt").read_text()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_others_and_the_run_goes_on_with_another_number(
    one: Path, tmp_path: Path, victim: int
) -> None:
    began = time.monotonic()
    words = together(
        2, *TRAIN, cwd=tmp_path, hook=f"at(4, {victim}, lambda: send(signal.SIGKILL))", code=None, seconds=60
    )
    assert time.monotonic() - began < 60
    assert "signal 9" in "".join(words).lower()  # the launcher's words
    if victim == 0:
        single(*RESUME, cwd=tmp_path)
    else:
        together(3, *RESUME, cwd=tmp_path)
    assert len(rows(tmp_path / RUN)) == 2
    assert_nearly_the_same(tmp_path / RUN, one)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_rank_alone_meets_ends_all_with_its_message(tmp_path: Path, rank: int) -> None:
    hook = f"""
def full():
    raise OSError(28, "No space left on device")
at(3, {rank}, full)"""
    _, err = together(2, *TRAIN, cwd=tmp_path, hook=hook, code=3, seconds=60)
    assert "No space left on device" in err
    assert (f"rank {rank} of 2" in err) == (rank > 0)
    archive.load(tmp_path / RUN / "last.ckpt")


def test_a_nan_on_one_rank_stops_all_and_names_it(tmp_path: Path) -> None:
    hook = """
original = loop.F.cross_entropy
calls, rank = [0], []
def poisoned(logits, labels, **options):
    calls[0] += 1
    rank.append(get_rank())  # the first is its own; who searches alone is rank 0 of one
    loss = original(logits, labels, **options)
    return loss * float("nan") if rank[0] == 1 and calls[0] > 3 else loss
session.memory_line = lambda parts: ""
loop.F.cross_entropy = poisoned"""
    _, err = together(2, *TRAIN, cwd=tmp_path, hook=hook, code=4, seconds=60)
    assert err.count("training loss is nan at step 4") == 1
    assert "It began on rank 1 in the loss itself" in err
    assert archive.load(tmp_path / RUN / "last.ckpt")["progress"]["batch"] == 2


def test_ranks_that_have_drifted_apart_stop(tmp_path: Path) -> None:
    hook = """
def drift():
    import gc
    from minires.models import CifarResNet
    (model,) = [each for each in gc.get_objects() if type(each) is CifarResNet]
    model.fc.weight.array[0, 0] += 1e-6
at(3, 1, drift)"""
    _, err = together(2, *TRAIN, cwd=tmp_path, hook=hook, code=1, seconds=60)
    assert "weights of rank 1 differ from those of rank 0" in err


def test_too_many_ranks_for_a_batch_are_refused_once(tmp_path: Path) -> None:
    _, err = together(3, *TRAIN, "--batch-size", "2", cwd=tmp_path, code=2, seconds=60)
    assert err.count("batch_size must be at least 3 with 3 processes, got 2") == 1
    assert not (tmp_path / "runs").exists()


def test_one_rank_is_one_process_bit_for_bit(one: Path, tmp_path: Path) -> None:
    together(1, *TRAIN, cwd=tmp_path)
    assert_same_run(tmp_path / RUN, one)


def test_several_seeds_write_one_summary(tmp_path: Path) -> None:
    out, _ = together(2, *TRAIN, "--epochs", "1", "--seeds", "0,1", cwd=tmp_path)
    assert out.count("over 2 seeds") == 1
    document = json.loads((tmp_path / "runs" / "a-seeds.json").read_text())
    assert len(document["runs"]) == 2
    assert os.listdir(tmp_path / "runs").count("a-seeds.json") == 1
