"""Every schedule beside torch's, step for step: rates, cycled momenta, state dicts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires import optim
from minires.optim import lr_scheduler
from minires.tensor import Tensor
from tests.torch_oracle import torch

STEPS = 40
EXACT = {"rtol": 1e-13, "atol": 1e-300}  # the same recursion in Python's floats: at most the last digit differs

Build = Callable[[Any, Any], Any]  # (module lr_scheduler, optimizer) -> scheduler


def wave(t: int) -> float:
    return 1.1 + math.sin(t)


SCHEDULES: dict[str, Build] = {
    "step": lambda L, o: L.StepLR(o, 7, 0.3),
    "step_each": lambda L, o: L.StepLR(o, step_size=1),
    "multistep": lambda L, o: L.MultiStepLR(o, [3, 10, 10, 25], gamma=0.5),
    "constant": lambda L, o: L.ConstantLR(o, 0.3, 6),
    "constant_one": lambda L, o: L.ConstantLR(o, 1.0, 6),
    "linear": lambda L, o: L.LinearLR(o),
    "linear_down": lambda L, o: L.LinearLR(o, 1.0, 0.0, 17),
    "exponential": lambda L, o: L.ExponentialLR(o, 0.9),
    "polynomial": lambda L, o: L.PolynomialLR(o),
    "polynomial_square": lambda L, o: L.PolynomialLR(o, 31, 2.0),
    "cosine": lambda L, o: L.CosineAnnealingLR(o, 50),
    "cosine_beyond": lambda L, o: L.CosineAnnealingLR(o, 9, 0.001),
    "restarts": lambda L, o: L.CosineAnnealingWarmRestarts(o, 5),
    "restarts_growing": lambda L, o: L.CosineAnnealingWarmRestarts(o, 3, 2, 0.001),
    "one_cycle": lambda L, o: L.OneCycleLR(o, 0.5, total_steps=STEPS),
    "one_cycle_linear": lambda L, o: L.OneCycleLR(o, 0.5, epochs=9, steps_per_epoch=5, anneal_strategy="linear"),
    "one_cycle_three": lambda L, o: L.OneCycleLR(o, [0.5, 0.1], STEPS, pct_start=0.22, three_phase=True),
    "one_cycle_momentum": lambda L, o: L.OneCycleLR(o, 0.5, STEPS, base_momentum=[0.7, 0.8], max_momentum=0.99),
    "one_cycle_rates_only": lambda L, o: L.OneCycleLR(o, 0.5, STEPS, cycle_momentum=False, div_factor=3),
    "lambda": lambda L, o: L.LambdaLR(o, wave),
    "lambda_each": lambda L, o: L.LambdaLR(o, [wave, lambda t: 0.9**t]),
    "multiplicative": lambda L, o: L.MultiplicativeLR(o, wave),
    "sequential": lambda L, o: L.SequentialLR(
        o, [L.LinearLR(o, 0.1, 1.0, 5), L.CosineAnnealingLR(o, 20), L.ExponentialLR(o, 0.8)], [5, 25]
    ),
    "sequential_at_zero": lambda L, o: L.SequentialLR(o, [L.ConstantLR(o, 0.1, 5), L.StepLR(o, 3)], [0]),
    "sequential_in_sequential": lambda L, o: L.SequentialLR(
        o, [L.SequentialLR(o, [L.LinearLR(o), L.StepLR(o, 3)], [4]), L.ExponentialLR(o, 0.9)], [12]
    ),
    "chained": lambda L, o: L.ChainedScheduler([L.LinearLR(o, 0.1, 1.0, 4), L.ExponentialLR(o, 0.9)]),
    "chained_more": lambda L, o: L.ChainedScheduler(
        [L.CosineAnnealingLR(o, 13), L.StepLR(o, 5, 0.5), L.MultiplicativeLR(o, wave), L.PolynomialLR(o, 30)],
        optimizer=o,
    ),
    "chained_first_in_sequential": lambda L, o: L.SequentialLR(
        o, [L.ChainedScheduler([L.ConstantLR(o), L.StepLR(o, 2)]), L.ExponentialLR(o, 0.9)], [7]
    ),
}


def make_optimizer(module: Any, tensor: Any, name: str = "SGD") -> Any:
    return getattr(module, name)([{"params": [tensor]}, {"params": [tensor + 0], "lr": 0.02}], lr=0.1)


def pair(build: Build, name: str = "SGD") -> tuple[Any, Any, Any, Any]:
    """Our optimiser and schedule, torch's optimiser and schedule."""
    ours = make_optimizer(optim, Tensor(np.zeros(1)), name)
    theirs = make_optimizer(torch.optim, torch.zeros(1), name)
    return ours, build(lr_scheduler, ours), theirs, build(torch.optim.lr_scheduler, theirs)


def options_of(optimizer: Any) -> list[float]:
    """Everything that a schedule may write, in a fixed order."""
    values = []
    for group in optimizer.param_groups:
        for key in sorted(set(group) - {"params"}):
            values += [float(v) for v in np.ravel(group[key]) if v is not None]
    return values


def advance(optimizer: Any, scheduler: Any, argument: tuple = ()) -> None:
    optimizer.step()
    scheduler.step(*argument)


def assert_same_state(ours: Any, theirs: Any) -> None:
    """Equal keys and values, floats to rounding, in nested dicts and lists."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert_same_state(ours[key], value)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same_state(a, b)
    elif isinstance(theirs, float):
        np.testing.assert_allclose(ours, theirs, **EXACT)
    else:
        assert ours == theirs


@pytest.mark.filterwarnings(
    "ignore:.*before `?optimizer.step"
)  # a sequence in a sequence enters by step(), torch's too
@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_follows_torch_step_for_step(schedule, name):
    ours, scheduler, theirs, oracle = pair(SCHEDULES[schedule], name)
    for _ in range(STEPS):
        np.testing.assert_allclose(options_of(ours), options_of(theirs), **EXACT)
        np.testing.assert_allclose(scheduler.get_last_lr(), oracle.get_last_lr(), **EXACT)
        advance(ours, scheduler)
        advance(theirs, oracle)
    assert_same_state(scheduler.state_dict(), oracle.state_dict())


@pytest.mark.filterwarnings("ignore:.*before `?optimizer.step")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("source", ["ours", "torchs"])
def test_schedule_saved_midway_continues(schedule, source):
    ours, scheduler, theirs, oracle = pair(SCHEDULES[schedule])
    for _ in range(STEPS // 3):
        advance(ours, scheduler)
        advance(theirs, oracle)
    saved = (
        (ours.state_dict(), scheduler.state_dict()) if source == "ours" else (theirs.state_dict(), oracle.state_dict())
    )
    resumed = make_optimizer(optim, Tensor(np.zeros(1)))
    resumed_scheduler = SCHEDULES[schedule](lr_scheduler, resumed)
    resumed.load_state_dict(saved[0])
    resumed_scheduler.load_state_dict(saved[1])
    for _ in range(STEPS // 2):
        advance(resumed, resumed_scheduler)
        advance(theirs, oracle)
        np.testing.assert_allclose(options_of(resumed), options_of(theirs), **EXACT)


@settings(max_examples=50, deadline=None)
@given(
    losses=st.lists(st.floats(-2, 2) | st.just(math.nan), min_size=5, max_size=60),
    options=st.fixed_dictionaries(
        {
            "mode": st.sampled_from(["min", "max"]),
            "factor": st.sampled_from([0.1, 0.5]),
            "patience": st.integers(0, 3),
            "threshold": st.sampled_from([0.0, 1e-4, 0.3]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 3),
            "min_lr": st.sampled_from([0, 0.01, [0.05, 0.001]]),
            "eps": st.sampled_from([1e-8, 1e-2]),
        }
    ),
)
def test_plateau_follows_torch(losses, options):
    ours, scheduler, theirs, oracle = pair(lambda L, o: L.ReduceLROnPlateau(o, **options))
    for i, loss in enumerate(losses):
        advance(ours, scheduler, (loss,))
        advance(theirs, oracle, (loss,))
        np.testing.assert_allclose(options_of(ours), options_of(theirs), **EXACT)
        if i == len(losses) // 2:  # through a file and back
            fresh = lr_scheduler.ReduceLROnPlateau(ours, **options)
            fresh.load_state_dict(scheduler.state_dict())
            scheduler = fresh
    assert_same_state(scheduler.state_dict(), oracle.state_dict())


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 3))
def test_chains_of_random_schedules_follow_torch(data, seed):
    """Two or three schedules on one optimiser, each multiplying what it finds."""
    alone = [name for name in SCHEDULES if not name.startswith(("sequential", "chained", "restarts", "one_cycle"))]
    names = data.draw(st.lists(st.sampled_from(alone), min_size=2, max_size=3))
    ours, chain, theirs, oracle = pair(lambda L, o: L.ChainedScheduler([SCHEDULES[name](L, o) for name in names]))
    for _ in range(STEPS):
        advance(ours, chain)
        advance(theirs, oracle)
        np.testing.assert_allclose(options_of(ours), options_of(theirs), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("t_mult", [1, 2, 3])
def test_restarts_take_fractions_of_epochs(t_mult):
    ours, scheduler, theirs, oracle = pair(lambda L, o: L.CosineAnnealingWarmRestarts(o, 3, t_mult))
    for epoch in np.arange(0, 20, 0.25).tolist():
        advance(ours, scheduler, (epoch,))
        advance(theirs, oracle, (epoch,))
        np.testing.assert_allclose(options_of(ours), options_of(theirs), **EXACT)


RESUMED: dict[str, tuple] = {
    "StepLR": (3,),
    "MultiStepLR": ([5, 13, 20],),
    "ConstantLR": (0.5, 15),
    "LinearLR": (0.5, 1.0, 20),
    "ExponentialLR": (0.9,),
    "PolynomialLR": (20, 2.0),
    "CosineAnnealingLR": (15,),
    "LambdaLR": (wave,),
    "MultiplicativeLR": (wave,),
}


@pytest.mark.parametrize("name", RESUMED)
def test_schedule_resumed_at_an_epoch_follows_torch(name):
    """last_epoch says where a run stopped; the groups bring `initial_lr` and the rate of that moment."""
    ours, theirs = make_optimizer(optim, Tensor(np.zeros(1))), make_optimizer(torch.optim, torch.zeros(1))
    for group in [*ours.param_groups, *theirs.param_groups]:
        group.update(initial_lr=group["lr"], lr=0.7 * group["lr"])
    scheduler = getattr(lr_scheduler, name)(ours, *RESUMED[name], last_epoch=11)
    oracle = getattr(torch.optim.lr_scheduler, name)(theirs, *RESUMED[name], last_epoch=11)
    for _ in range(STEPS):
        np.testing.assert_allclose(options_of(ours), options_of(theirs), **EXACT)
        advance(ours, scheduler)
        advance(theirs, oracle)


@pytest.mark.filterwarnings("ignore:.*epoch")
@pytest.mark.parametrize("schedule", [n for n in SCHEDULES if not n.startswith(("sequential", "chained", "multiplic"))])
def test_step_to_an_epoch_follows_torch(schedule):
    ours, scheduler, theirs, oracle = pair(SCHEDULES[schedule])
    for epoch in (1, 7, 12, 3, 29):
        advance(ours, scheduler, (epoch,))
        advance(theirs, oracle, (epoch,))
        np.testing.assert_allclose(options_of(ours), options_of(theirs), **EXACT)


@pytest.mark.parametrize("name", lr_scheduler.__all__)
def test_arguments_and_defaults_are_torchs(name):
    ours = inspect.signature(getattr(lr_scheduler, name)).parameters
    theirs = inspect.signature(getattr(torch.optim.lr_scheduler, name)).parameters
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]
