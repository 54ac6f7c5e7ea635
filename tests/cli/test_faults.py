"""`minires train` under faults: real signals to real processes, full disks, folders that cannot be written, no network.

A child runs the command line as a person's does; where a fault must strike at one certain place, a few lines in the
child's script patch that place to bring it about.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minires.train.checkpoint import load_checkpoint, load_model
from tests.cli.conftest import environment
from tests.train.same_run import assert_same_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, limits and /proc as Linux has them")

RUN = "runs/a"
TRAIN = (
    "train", "--name", "a", "--epochs", "3", "--limit", "60", "--batch-size", "16", "--test-every", "0",
    "--checkpoint-every", "2", "--model-options", "width=4",
)  # fmt: skip
DROPOUT = (*TRAIN[:-2], "--model", "wrn_16_4", "--model-options", "dropout=0.3")
RESUME = ("train", "--resume", RUN)
# The child: the hook, then the command line. Pictures take longer than this training.
SCRIPT = """
import os, signal, sys, time
from minires.train import loop, saver, session
session.curves_available = lambda: False
def count(owner, name, call):
    '''After `call(n)` for the n-th call of owner.name, the call itself.'''
    original, calls = getattr(owner, name), [0]
    def counted(*args, **kwargs):
        calls[0] += 1
        call(calls[0])
        return original(*args, **kwargs)
    setattr(owner, name, counted)
def kill(): os.kill(os.getpid(), signal.SIGKILL)
{hook}
from minires.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
AFTER_STEP = "count(saver.Saver, 'after_step', lambda n: n == {} and kill())"
AT_REPLACE = "count(os, 'replace', lambda n: n == {} and kill())"


def start(*args: str, cwd: Path, hook: str = "", **more: Any) -> subprocess.Popen[str]:
    """A child with the hook, in a process group of its own, on the reference set unless told otherwise."""
    cwd.mkdir(exist_ok=True)
    kernels = more.pop("kernels", "reference")
    limits = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(hook=hook), *args],
        cwd=cwd, env=environment(MINIRES_KERNELS=kernels, **limits, **more.pop("env", {})), text=True, encoding="utf-8",
        stdout=more.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE, start_new_session=True, **more,
    )  # fmt: skip


def run(*args: str, cwd: Path, code: int = 0, **more: Any) -> str:
    """Run a child to its end, which must have this code; gives back what it said on standard error."""
    process = start(*args, cwd=cwd, **more)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (out or "") + err
    assert "Traceback" not in err
    return err


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Until it is true; the process must live so long."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    place = tmp_path_factory.mktemp("whole")
    run(*TRAIN, cwd=place)
    return place / RUN


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its second epoch; tests copy it."""
    place = tmp_path_factory.mktemp("stopped")
    run(*TRAIN, cwd=place, hook=AFTER_STEP.format(7), code=-signal.SIGKILL)
    return place


@pytest.fixture
def killed(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it: the folder from which `runs/a` can be resumed."""
    shutil.copytree(stopped, tmp_path / "killed")
    return tmp_path / "killed"


def survive(tmp_path: Path, whole: Path, command: tuple[str, ...], kernels: str = "reference") -> None:
    """Kill a run in the middle of an epoch; what goes on at once, twice in a row; and at both edges of an epoch."""
    place = tmp_path / "killed"
    for hook in (
        AFTER_STEP.format(3),  # 54 images make 4 steps an epoch: in the first epoch, after the save at step 2
        AFTER_STEP.format(1),  # before it has got any further
        AFTER_STEP.format(1),
        "count(loop.RunFolder, 'add_epoch', lambda n: n == 1 and kill())",  # last.ckpt is written, the row is not
        "count(saver, 'save_checkpoint', lambda n: n == 3 and kill())",  # the row and last.ckpt are not, the best is
        AFTER_STEP.format(2),
    ):
        run(*(RESUME if place.exists() else command), cwd=place, hook=hook, kernels=kernels, code=-signal.SIGKILL)
        load_model(load_checkpoint(place / RUN / "last.ckpt"))  # whatever happened, it loads
    run(*RESUME, cwd=place, kernels=kernels)
    assert_same_run(place / RUN, whole)
    assert not list((place / RUN).glob(".*"))


def test_run_killed_mid_epoch_twice_in_a_row_and_at_the_edge_ends_with_the_same_bits(
    whole: Path, tmp_path: Path
) -> None:
    survive(tmp_path, whole, TRAIN)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_run_with_dropout_survives_kills_on_either_kernel_set(tmp_path: Path, kernels: str) -> None:
    if kernels == "cpu":
        pytest.importorskip("numba", reason="the cpu kernel set needs numba")
    run(*DROPOUT, cwd=tmp_path / "whole", kernels=kernels)
    survive(tmp_path, tmp_path / "whole" / RUN, DROPOUT, kernels)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_run_killed_at_random_moments_ends_with_the_same_bits(whole: Path, tmp_path: Path, seed: int) -> None:
    place, moments = tmp_path / "killed", random.Random(seed)
    kills = 0
    while True:
        process = start(*(RESUME if (place / RUN / "last.ckpt").exists() else TRAIN), cwd=place)
        log = place / RUN / "log.txt"
        before = log.stat().st_size if log.exists() else 0

        def trains(log: Path = log, before: int = before) -> bool:
            """Whether this process has got as far as the table's head."""
            return log.exists() and b"images/s" in log.read_bytes()[before:]

        wait_for(trains, process)
        time.sleep(moments.uniform(0.0, 0.3) * (1 + kills / 5))  # training takes half a second, on a busy machine more
        process.kill()
        out, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), out + err
        load_model(load_checkpoint(place / RUN / "last.ckpt"))
        if process.returncode == 0 or (place / RUN / "result.json").exists():
            break
        kills += 1
        assert kills < 100, "it never comes to its end"
    assert kills > 0, "it was never killed"
    assert_same_run(place / RUN, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_once_leaves_with_its_code_and_the_run_goes_on(
    whole: Path, tmp_path: Path, number: int, code: int
) -> None:
    """In the sixth step; the save at step 4 has been, the next would be after step 6."""
    hook = f"""
count(saver.Saver, 'last', lambda n: print('saved', file=sys.stderr))
count(loop, 'loss_of', lambda n: n == 6 and (print('signal', file=sys.stderr), os.kill(os.getpid(), {int(number)})))
"""
    place = tmp_path / "a"
    said = run(*TRAIN, cwd=place, hook=hook, code=code)
    assert said.partition("signal")[2].count("saved") == 1, said
    assert "leaves at once" in said
    progress = load_checkpoint(place / RUN / "last.ckpt").progress
    assert (progress["epoch"], progress["batch"]) == (1, 2)
    assert sorted(path.name for path in (place / RUN).iterdir() if path.name.startswith((".", "run.lock"))) == []
    run(*RESUME, cwd=place)
    assert_same_run(place / RUN, whole)


def test_signal_while_an_epoch_is_measured_does_not_wait_for_all_images(whole: Path, tmp_path: Path) -> None:
    hook = "count(loop, 'look', lambda n: n == 2 and os.kill(os.getpid(), signal.SIGTERM))"
    run(*TRAIN, cwd=tmp_path, hook=hook, code=143)
    progress = load_checkpoint(tmp_path / RUN / "last.ckpt").progress
    assert (progress["epoch"], progress["batch"]) == (1, 4)
    run(*RESUME, cwd=tmp_path)
    assert_same_run(tmp_path / RUN, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_second_signal_leaves_at_once_and_nothing_stays_behind(tmp_path: Path, number: int, code: int) -> None:
    """The save after the first signal is made to take a minute; who presses again does not wait for it."""
    hook = """
def slow(n):
    if n == 2:
        print('saving', flush=True)
        time.sleep(60)
count(saver.Saver, 'last', slow)
count(loop, 'loss_of', lambda n: n == 1 and print('in a step', flush=True))
"""
    mark = f"{tmp_path}"  # in the environment of the child and of all that it starts
    args = (*TRAIN, "--checkpoint-every", "0", "--workers", "2", "--set", "epochs=1000")
    process = start(*args, cwd=tmp_path / "a", hook=hook, env={"FAULT_TEST": mark})
    assert process.stdout is not None
    for line in process.stdout:
        if line == "in a step\n":
            process.send_signal(number)
        if line == "saving\n":
            break
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert time.monotonic() - began < 30
    assert "Traceback" not in err
    load_model(load_checkpoint(tmp_path / "a" / RUN / "last.ckpt"))
    assert [pid for pid in processes() if f"FAULT_TEST={mark}" in environment_of(pid)] == []


def processes() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def environment_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:  # it has ended, or is another user's
        return ""


def limit_files(size: int) -> Callable[[], None]:
    """For `preexec_fn`: no file of the child may grow beyond `size` bytes, as on a disk with so much room."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_full_disk_exits_3_keeps_the_checkpoint_and_says_what_to_do(whole: Path, killed: Path) -> None:
    before = (killed / RUN / "last.ckpt").read_bytes()
    said = run(*RESUME, cwd=killed, code=3, preexec_fn=limit_files(len(before) // 2))
    assert f"cannot write {RUN}/last.ckpt: File too large. {RUN}/last.ckpt is whole, as it was saved last" in said
    assert f"make room on that disk (or raise the quota or limit), then: minires train --resume {RUN}" in said
    assert (killed / RUN / "last.ckpt").read_bytes() == before
    assert not list((killed / RUN).glob(".*"))
    run(*RESUME, cwd=killed)  # room was made
    assert_same_run(killed / RUN, whole)


def test_disk_that_fills_up_at_the_log_exits_3_and_the_run_goes_on_later(whole: Path, killed: Path) -> None:
    log = killed / RUN / "log.txt"
    log.unlink()
    log.symlink_to("/dev/full")
    said = run(*RESUME, cwd=killed, code=3)
    assert f"cannot write {RUN}/log.txt: No space left on device" in said
    log.unlink()
    run(*RESUME, cwd=killed)
    assert_same_run(killed / RUN, whole)


def test_output_to_a_full_disk_exits_3_and_says_so(whole: Path, killed: Path) -> None:
    with open("/dev/full", "w") as full:
        said = run(*RESUME, cwd=killed, code=3, stdout=full)
    assert "cannot write the progress to the output: No space left on device" in said
    run(*RESUME, cwd=killed)
    assert_same_run(killed / RUN, whole)


def obey_permissions() -> None:
    """For `preexec_fn`: also root may write only where the permissions say so (without CAP_DAC_OVERRIDE)."""
    if os.getuid() == 0:
        PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
        if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
            os._exit(77)


@pytest.fixture
def read_only(killed: Path) -> Any:
    folder = killed / RUN
    folder.chmod(0o555)
    yield killed
    folder.chmod(0o755)


def test_read_only_folder_exits_3_keeps_the_checkpoint_and_says_what_to_do(whole: Path, read_only: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (read_only / RUN).iterdir() if path.name != "run.lock"}

    before = contents()
    said = run(*RESUME, cwd=read_only, code=3, preexec_fn=obey_permissions)
    assert "Permission denied" in said and f"{RUN}/last.ckpt is whole" in said
    assert f"give this user the right to write there, then: minires train --resume {RUN}" in said
    assert contents() == before
    assert (read_only / RUN / "run.lock").read_bytes() == b"", "it cannot be removed, and must name nobody"
    (read_only / RUN).chmod(0o755)
    run(*RESUME, cwd=read_only, preexec_fn=obey_permissions)
    assert_same_run(read_only / RUN, whole)


def test_folder_that_becomes_read_only_in_the_middle_exits_3(whole: Path, killed: Path) -> None:
    hook = f"count(loop, 'loss_of', lambda n: n == 1 and os.chmod({RUN!r}, 0o555))"
    try:
        said = run(*RESUME, cwd=killed, code=3, hook=hook, preexec_fn=obey_permissions)
    finally:
        (killed / RUN).chmod(0o755)
    assert f"cannot write {RUN}/" in said and f": Permission denied. {RUN}/last.ckpt is whole" in said
    run(*RESUME, cwd=killed)
    assert_same_run(killed / RUN, whole)


def test_run_folder_in_a_read_only_place_exits_3(tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    said = run(*TRAIN, "--run-dir", str(place), cwd=tmp_path, code=3, preexec_fn=obey_permissions)
    assert f"run_dir: cannot make a folder in {place}: Permission denied" in said
    assert "name another place: --run-dir DIR" in said


def test_second_process_is_refused_and_told_who_has_the_folder(whole: Path, killed: Path) -> None:
    hook = "count(loop, 'loss_of', lambda n: n == 1 and (print('in a step', flush=True), sys.stdin.readline()))"
    first = start(*RESUME, cwd=killed, hook=hook, stdin=subprocess.PIPE)
    assert first.stdout is not None and first.stdin is not None
    for line in first.stdout:
        if line == "in a step\n":
            break
    said = run(*RESUME, cwd=killed, code=3)
    host = os.uname().nodename
    assert f"train: {RUN} belongs to process {first.pid} on {host}, which trains in it since 20" in said
    first.communicate("go on\n", timeout=60)
    assert first.returncode == 0
    assert_same_run(killed / RUN, whole)


def test_lock_of_a_killed_process_is_taken_over_with_a_word(killed: Path) -> None:
    assert (killed / RUN / "run.lock").exists()  # SIGKILL left it
    process = start(*RESUME, cwd=killed)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "note    took over the lock of process " in out
    assert "which ended without giving it back" in out
    assert not (killed / RUN / "run.lock").exists()


def test_loss_that_is_no_number_exits_4_names_the_layer_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    said = run(*TRAIN, "--lr", "1e30", "--schedule", "constant", cwd=tmp_path, code=4)
    assert "training loss is nan at step 2 (epoch 1, lr 1e+30). It began in the forward pass of layer1.0." in said
    assert f"The last good weights are in {RUN}/last.ckpt" in said
    checkpoint = load_checkpoint(tmp_path / RUN / "last.ckpt")
    assert (checkpoint.progress["epoch"], checkpoint.progress["batch"]) == (0, 0)
    assert not (tmp_path / RUN / "run.lock").exists()


NO_NETWORK = """
import socket
def refuse(*args, **kwargs): raise OSError('the network was used')
class Refused(socket.socket): __init__ = refuse
socket.socket = Refused
socket.create_connection = socket.getaddrinfo = refuse
"""


def test_everything_but_downloads_works_without_a_network(tmp_path: Path) -> None:
    run(*TRAIN, cwd=tmp_path, hook=NO_NETWORK)
    for words in (["eval", RUN], ["summary", "--model", "resnet20"], ["data"], ["doctor"], ["train", "--print-config"]):
        run(*words, cwd=tmp_path, hook=NO_NETWORK)
    said = run("data", "mnist", "--download", "--data-dir", str(tmp_path), cwd=tmp_path, hook=NO_NETWORK, code=3)
    assert "mnist" in said and "the network was used" in said


def train_with_cache(home: Path, place: Path) -> subprocess.Popen[str]:
    """An epoch on the cpu set, whose compiled kernels are to lie under `home`."""
    return start(
        "train", "--name", "a", "--epochs", "1", "--limit", "40", "--batch-size", "16", "--model-options", "width=4",
        cwd=place, kernels="cpu", env={"XDG_CACHE_HOME": str(home)},
    )  # fmt: skip


@pytest.mark.slow
def test_kernel_cache_that_eight_processes_write_at_once_or_that_is_corrupt_or_closed(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="the cpu kernel set needs numba")
    home = tmp_path / "cache"
    home.mkdir()
    together = [train_with_cache(home, tmp_path / str(i)) for i in range(8)]
    for process in together:
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, out + err
    for i in range(1, 8):
        assert_same_run(tmp_path / str(i) / RUN, tmp_path / "0" / RUN)
    kernels = sorted(home.glob("minires/kernels-*/*.o"))
    assert kernels and not list(home.glob("minires/kernels-*/.new-*"))
    for i, file in enumerate(kernels):  # each in one of four ways
        content = file.read_bytes()
        file.write_bytes([b"", content[:-100], content[:200] + b"\0" + content[201:], os.urandom(3000)][i % 4])
    closed = tmp_path / "a file, no folder"
    closed.write_text("")
    for name, place in (("corrupt", home), ("closed", closed)):
        process = train_with_cache(place, tmp_path / name)
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, out + err
        assert_same_run(tmp_path / name / RUN, tmp_path / "0" / RUN)
