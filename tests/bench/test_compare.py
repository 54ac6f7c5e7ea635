"""The comparison: who is wrong is not timed, who fails does not stop the others, and what is measured is what is said."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from minires.bench.compare import Result, compare, failures, judge, measure
from minires.bench.contenders import Contender, find
from minires.bench.process import WorkerError
from minires.bench.verify import LIMITS
from minires.bench.workload import Workload
from tests.bench.planted import planted

TINY = Workload("resnet8", batch=2, image_size=16, threads=1)


def silent(text: str, fleeting: bool = False) -> None:
    pass


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return judge(TINY, "infer", tmp_path_factory.mktemp("judged"), silent)


@pytest.fixture(scope="module")
def results(judged: Workload) -> dict[str, Result]:
    variants = ("wrong-logit", "nan", "too-few", "raises", "dies", "fails-later")
    absent = Contender("absent", "nowhere", packages=(("torch-of-tomorrow", "torch_of_tomorrow"),))
    chosen = [find("minires"), find("minires-reference"), absent, *map(planted, variants)]
    return {r.name: r for r in compare("infer", judged, chosen, rounds=3, say=silent)}


def test_compare_times_those_that_are_right(results: dict[str, Result]) -> None:
    for name in ("minires", "minires-reference"):
        result = results[name]
        assert result.state == "timed"
        assert result.timing is not None
        assert len(result.timing.rounds) == 3
        assert all(0 < t < 10 for t in result.timing.rounds)
        assert 0 < result.error < LIMITS["infer"]
        assert result.setup > 0
        assert result.versions["numpy"] == np.__version__
    assert results["minires"].ratio == 1
    assert results["minires-reference"].ratio > 0
    assert "kernel set reference" in results["minires-reference"].detail


@pytest.mark.parametrize("variant", ["wrong-logit", "nan", "too-few"])
def test_compare_refuses_a_wrong_output_before_timing_it(results: dict[str, Result], variant: str) -> None:
    result = results[f"planted-{variant}"]
    assert result.state == "wrong"
    assert result.timing is None
    assert math.isnan(result.ratio)
    assert result.error > LIMITS["infer"]
    assert result.detail.startswith("wrong, not timed: output differs from float64 by ")


def test_compare_goes_on_when_a_contender_fails(results: dict[str, Result]) -> None:
    assert results["planted-raises"].detail == "ZeroDivisionError: oh"
    assert results["planted-dies"].detail.startswith("its process ended with exit code 7")
    assert results["planted-fails-later"].detail == "RuntimeError: tired"
    for variant in ("raises", "dies", "fails-later"):
        assert results[f"planted-{variant}"].state == "failed"
        assert results[f"planted-{variant}"].timing is None


def test_compare_says_how_to_install_what_is_missing(results: dict[str, Result]) -> None:
    assert results["absent"].state == "not installed"
    assert results["absent"].detail == "not installed (pip install torch-of-tomorrow)"
    names = [r.name for r in failures(list(results.values()))]
    assert "absent" not in names
    assert len(names) == 6


def test_compare_notices_a_contender_that_works_out_of_turn(judged: Workload) -> None:
    chosen = [find("minires"), planted("spins")]
    quiet, spinning = compare("infer", judged, chosen, rounds=1, say=silent, warm_up=0)
    assert spinning.detail == "its threads kept spinning after its turns"
    assert spinning.stolen > 0.3  # a whole core, where it gets one
    assert "spinning" not in quiet.detail
    assert quiet.stolen < 0.1


def test_judge_weights_have_batch_norm_that_matters(judged: Workload) -> None:
    weights = judged.weights()
    assert np.ptp(weights["bn1.weight"]) > 0.5
    assert np.abs(weights["bn1.running_mean"]).max() > 0.01
    assert not np.allclose(weights["bn1.running_var"], 1)
    with np.load(judged.path("reference.npz")) as file:
        assert file["output"].dtype == np.float64
        assert 0.05 < np.abs(file["output"]).mean() < 50


def test_judge_failure_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="unknown model 'resnet19'"):
        judge(Workload("resnet19", 1, 16), "infer", tmp_path, silent)


@pytest.mark.parametrize("variant", ["no-decay", "no-momentum", "lost-gradient"])
def test_training_step_that_is_wrong_is_refused(training: dict[str, Result], variant: str) -> None:
    result = training[f"planted-{variant}"]
    assert result.state == "wrong"
    assert result.timing is None


@pytest.fixture(scope="module")
def training() -> dict[str, Result]:
    chosen = [find("minires"), *(planted(v, "train") for v in ("no-decay", "no-momentum", "lost-gradient"))]
    ((workload, results),) = measure("train", TINY, [8], chosen, rounds=1, say=silent)
    assert workload.batch == 8
    return {r.name: r for r in results}


def test_training_step_is_timed_with_its_memory(training: dict[str, Result]) -> None:
    result = training["minires"]
    assert result.state == "timed"
    assert 0 < result.error < LIMITS["train"]
    activations = 8 * 16 * 16 * 16 * 4  # bytes of the first one
    assert result.memory > 3 * activations
    assert result.memory_by in ("VmHWM", "ru_maxrss", "unknown")


def test_smaller_batches_are_the_first_images_of_the_largest() -> None:
    found = [
        (workload.batch, workload.images(), results[0].state)
        for workload, results in measure("infer", TINY, [3, 1], [find("minires-reference")], rounds=1, say=silent)
    ]
    (three, many, _), (one, first, state) = found
    assert (three, one, state) == (3, 1, "timed")
    assert np.array_equal(first, many[:1])
