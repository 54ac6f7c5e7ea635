"""Schedules: values by hand, order of calls, saving, errors. No oracle needed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minires import optim
from minires.errors import ArgumentError, StateDictError, UnsupportedError
from minires.optim import lr_scheduler as lrs
from minires.tensor import Tensor


def make_optimizer(lr: float = 1.0, groups: int = 1, name: str = "SGD") -> optim.Optimizer:
    params = [{"params": [Tensor(np.zeros(1), requires_grad=True)]} for _ in range(groups)]
    return getattr(optim, name)(params, lr=lr)


def rates(scheduler: lrs.LRScheduler, steps: int) -> list[float]:
    """The first group's rate before each step and after the last."""
    values = []
    for _ in range(steps):
        values.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return [*values, scheduler.get_last_lr()[0]]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda o: lrs.StepLR(o, 2, 0.5), [1, 1, 0.5, 0.5, 0.25]),
        (lambda o: lrs.MultiStepLR(o, [1, 3, 3], 0.5), [1, 0.5, 0.5, 0.125, 0.125]),
        (lambda o: lrs.ConstantLR(o, 0.5, 2), [0.5, 0.5, 1, 1, 1]),
        (lambda o: lrs.LinearLR(o, 0.25, 1.0, 3), [0.25, 0.5, 0.75, 1, 1]),
        (lambda o: lrs.ExponentialLR(o, 0.5), [1, 0.5, 0.25, 0.125, 0.0625]),
        (lambda o: lrs.PolynomialLR(o, 4, 2.0), [1, 9 / 16, 4 / 16, 1 / 16, 0]),
        (lambda o: lrs.LambdaLR(o, lambda t: 1 / (1 + t)), [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]),
        (lambda o: lrs.MultiplicativeLR(o, lambda t: t), [1, 1, 2, 6, 24]),
        (lambda o: lrs.CosineAnnealingLR(o, 4), [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, 1, 2), [1, 1, 0.5, 1, (1 + math.sqrt(0.5)) / 2]),
        (lambda o: lrs.OneCycleLR(o, 1.0, 5, pct_start=0.6, anneal_strategy="linear", div_factor=2, final_div_factor=2),
         [0.5, 0.75, 1, 0.625, 0.25]),
    ],
)  # fmt: skip
def test_schedule_by_hand(make, expected):
    np.testing.assert_allclose(rates(make(make_optimizer()), 4), expected, rtol=1e-12, atol=1e-12)


def test_plateau_by_hand():
    optimizer = make_optimizer()
    scheduler = lrs.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=1, min_lr=0.3)
    seen = []
    for loss in [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, float("nan"), 0.5, 0.5, 0.5]:
        scheduler.step(loss)
        seen.append(optimizer.param_groups[0]["lr"])
    # bad epochs: 0 1 2! (cooldown) 1 2! ...: the second reduction would go to 0.25 and stops at min_lr
    assert seen == [1, 1, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3]
    assert scheduler.best == 0.5


def test_one_cycle_phase_without_length_starts_at_the_peak():
    """pct_start * total_steps = 1: the first phase begins and ends at step 0, where torch divides by zero."""
    optimizer = make_optimizer()
    lrs.OneCycleLR(optimizer, 3.0, 10, pct_start=0.1, cycle_momentum=False)
    assert optimizer.param_groups[0]["lr"] == 3.0


def test_one_cycle_moves_momentum_against_the_rate():
    optimizer = make_optimizer(name="SGD")
    scheduler = lrs.OneCycleLR(optimizer, 1.0, 11, pct_start=0.5, base_momentum=0.8, max_momentum=0.9)
    pairs = []
    for _ in range(10):
        pairs.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    by_rate = sorted(pairs)
    assert [m for _, m in by_rate] == sorted((m for _, m in pairs), reverse=True)
    assert pairs[0][1] == 0.9


def test_sequential_restarts_each_part_at_its_own_zero():
    optimizer = make_optimizer()
    warm = lrs.LinearLR(optimizer, 0.5, 1.0, 2)
    decay = lrs.ExponentialLR(optimizer, 0.5)
    scheduler = lrs.SequentialLR(optimizer, [warm, decay], [2])
    np.testing.assert_allclose(rates(scheduler, 4), [0.5, 0.75, 1, 0.5, 0.25], rtol=1e-12)


def test_chained_schedules_multiply():
    optimizer = make_optimizer()
    scheduler = lrs.ChainedScheduler([lrs.ConstantLR(optimizer, 0.5, 2), lrs.ExponentialLR(optimizer, 0.5)])
    np.testing.assert_allclose(rates(scheduler, 3), [0.5, 0.25, 0.25, 0.125], rtol=1e-12)


def test_every_group_follows_from_its_own_rate():
    optimizer = make_optimizer(groups=2)
    optimizer.param_groups[1]["lr"] = 10.0
    scheduler = lrs.StepLR(optimizer, 1, 0.5)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5, 5.0]
    assert [g["initial_lr"] for g in optimizer.param_groups] == [1.0, 10.0]


def test_resuming_with_last_epoch_needs_and_uses_the_initial_rate():
    optimizer = make_optimizer()
    with pytest.raises(ArgumentError, match=r"StepLR: last_epoch = 3 resumes .* param_groups\[0\] has no 'initial_lr'"):
        lrs.StepLR(optimizer, 2, last_epoch=3)
    optimizer.param_groups[0].update(initial_lr=1.0, lr=0.25)
    scheduler = lrs.StepLR(optimizer, 2, 0.5, last_epoch=4)
    assert scheduler.base_lrs == [1.0]
    assert rates(scheduler, 2) == [0.25, 0.125, 0.125]


# ---- order of calls ----


def test_step_before_the_optimizers_step_warns_once():
    scheduler = lrs.StepLR(make_optimizer(), 2)
    with pytest.warns(UserWarning, match=r"StepLR.step\(\) was called before optimizer.step\(\)"):
        scheduler.step()
    scheduler.step()  # an error here, were it to warn again


def test_a_step_written_by_a_subclass_counts_as_a_step():
    class SignSGD(optim.SGD):
        def step(self, closure=None):
            return "own"

    optimizer = SignSGD([Tensor(np.zeros(1), requires_grad=True)], lr=1.0)
    scheduler = lrs.ExponentialLR(optimizer, 0.5)
    assert optimizer.step() == "own"
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_get_lr_outside_a_step_warns():
    scheduler = lrs.ExponentialLR(make_optimizer(), 0.5)
    with pytest.warns(UserWarning, match=r"ExponentialLR.get_lr\(\) is for step\(\) alone; call get_last_lr\(\)"):
        scheduler.get_lr()


def test_step_to_an_epoch_warns_and_uses_the_closed_form():
    optimizer = make_optimizer()
    scheduler = lrs.StepLR(optimizer, 2, 0.5)
    optimizer.step()
    with pytest.warns(UserWarning, match=r"StepLR.step\(epoch\) is discouraged"):
        scheduler.step(5)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_plateau_step_with_epoch_warns():
    with pytest.warns(UserWarning, match="leave epoch out"):
        lrs.ReduceLROnPlateau(make_optimizer()).step(1.0, epoch=3)


# ---- saving ----


class Decay:
    """A schedule function with state of its own, which is saved."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, t):
        return self.rate**t


def test_function_objects_are_saved_and_plain_functions_are_not():
    saved = lrs.LambdaLR(make_optimizer(groups=2), [Decay(0.5), lambda t: 1.0]).state_dict()
    assert saved["lr_lambdas"] == [{"rate": 0.5}, None]
    other = lrs.LambdaLR(make_optimizer(groups=2), [Decay(0.1), lambda t: 1.0])
    other.load_state_dict(saved)
    assert other.lr_lambdas[0].rate == 0.5
    assert saved["lr_lambdas"] == [{"rate": 0.5}, None]


def test_load_state_dict_refuses_another_schedules_state():
    state = lrs.StepLR(make_optimizer(), 2).state_dict()
    other = lrs.ExponentialLR(make_optimizer(), 0.5)
    message = r"ExponentialLR.load_state_dict: missing entries \[\], unexpected entries \['step_size'\]; was it saved"
    with pytest.raises(StateDictError, match=message):
        other.load_state_dict(state)
    with pytest.raises(StateDictError, match=r"LambdaLR.load_state_dict: missing entries \['lr_lambdas'\]"):
        lrs.LambdaLR(make_optimizer(), Decay(1)).load_state_dict(state)
    with pytest.raises(StateDictError, match=r"ChainedScheduler.load_state_dict: missing entries \['_schedulers'\]"):
        lrs.ChainedScheduler([other]).load_state_dict(state)


# ---- errors ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: lrs.StepLR("sgd", 2), r"StepLR: optimizer must be an Optimizer, got str"),
        (lambda o: lrs.ReduceLROnPlateau("sgd"), r"ReduceLROnPlateau: optimizer must be an Optimizer, got str"),
        (lambda o: lrs.OneCycleLR("sgd", 1.0, 5), r"OneCycleLR: optimizer must be an Optimizer, got str"),
        (lambda o: lrs.LambdaLR("sgd", abs), r"LambdaLR: optimizer must be an Optimizer, got str"),
        (lambda o: lrs.ConstantLR(o, 1.5), r"ConstantLR: factor must be between 0 and 1, got 1.5"),
        (lambda o: lrs.LinearLR(o, 0.0), r"LinearLR: start_factor must be greater than 0 and at most 1, got 0.0"),
        (lambda o: lrs.LinearLR(o, 0.5, 2.0), r"LinearLR: end_factor must be between 0 and 1, got 2.0"),
        (lambda o: lrs.LambdaLR(o, [abs, abs]), r"lr_lambda needs one value for each of the 1 parameter groups, got 2"),
        (lambda o: lrs.MultiplicativeLR(o, 0.5), r"MultiplicativeLR: lr_lambda\[0\] must be callable, got float"),
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, 0), r"Restarts: T_0 must be a positive int, got 0"),
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, 1, 1.5), r"T_mult must be an int of at least 1, got 1.5"),
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, 1, 1, "0"), r"eta_min must be a number, got '0' of type str"),
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, 2).step(-1), r"epoch must not be negative, got -1"),
        (lambda o: lrs.OneCycleLR(o, 1.0), r"OneCycleLR: give total_steps, or both epochs and steps_per_epoch"),
        (lambda o: lrs.OneCycleLR(o, 1.0, 0), r"OneCycleLR: total_steps must be a positive int, got 0"),
        (lambda o: lrs.OneCycleLR(o, 1.0, epochs=2.0, steps_per_epoch=1), r"epochs must be a positive int, got 2.0"),
        (lambda o: lrs.OneCycleLR(o, 1.0, epochs=2, steps_per_epoch=-1), r"steps_per_epoch must be a positive int"),
        (lambda o: lrs.OneCycleLR(o, 1.0, 5, pct_start=1), r"pct_start must be a float between 0 and 1, got 1"),
        (lambda o: lrs.OneCycleLR(o, 1.0, 5, anneal_strategy="exp"), r"must be 'cos' or 'linear', got 'exp'"),
        (lambda o: lrs.OneCycleLR(o, [1.0, 2.0], 5), r"OneCycleLR: max_lr needs one value for each of the 1 parameter"),
        (lambda o: lrs.ReduceLROnPlateau(o, factor=1.0), r"ReduceLROnPlateau: factor must be below 1, got 1.0"),
        (lambda o: lrs.ReduceLROnPlateau(o, "best"), r"mode must be 'min' or 'max', got 'best'"),
        (lambda o: lrs.ReduceLROnPlateau(o, threshold_mode="x"), r"threshold_mode must be 'rel' or 'abs', got 'x'"),
        (lambda o: lrs.ReduceLROnPlateau(o, min_lr=[0, 0]), r"min_lr needs one value for each of the 1 parameter"),
        (lambda o: lrs.ChainedScheduler([]), r"ChainedScheduler: needs at least one scheduler, got none"),
        (lambda o: lrs.ChainedScheduler(["x"]), r"ChainedScheduler: schedulers\[0\] must be a scheduler, got str"),
        (
            lambda o: lrs.ChainedScheduler([lrs.StepLR(o, 1), lrs.StepLR(make_optimizer(), 1)]),
            r"ChainedScheduler: schedulers\[1\], a StepLR, belongs to another optimizer",
        ),
        (
            lambda o: lrs.SequentialLR(o, [lrs.ReduceLROnPlateau(o)], []),
            r"SequentialLR: schedulers\[0\] is a ReduceLROnPlateau, whose step needs a metric; step it apart",
        ),
        (
            lambda o: lrs.SequentialLR(o, [lrs.StepLR(o, 1), lrs.StepLR(o, 1)], []),
            r"SequentialLR: 2 schedulers need 1 milestones, got 0",
        ),
        (
            lambda o: lrs.SequentialLR(o, [lrs.StepLR(o, 1), lrs.ChainedScheduler([lrs.StepLR(o, 1)])], [2]),
            r"SequentialLR: schedulers\[1\] is a ChainedScheduler, which only works in the first place",
        ),
        (lambda o: lrs.ChainedScheduler([lrs.StepLR(o, 1)]).step(3), r"ChainedScheduler: step takes no epoch, got 3"),
        (lambda o: lrs.SequentialLR(o, [lrs.StepLR(o, 1)], []).step(3), r"SequentialLR: step takes no epoch, got 3"),
    ],
)
def test_schedule_refuses(make, message):
    with pytest.raises(ArgumentError, match=message):
        make(make_optimizer())


def test_one_cycle_needs_momentum_to_cycle():
    class Plain(optim.Optimizer):
        pass

    optimizer = Plain([Tensor(np.zeros(1), requires_grad=True)], {"lr": 1.0})
    with pytest.raises(ArgumentError, match="Plain has neither momentum nor betas; pass cycle_momentum=False"):
        lrs.OneCycleLR(optimizer, 1.0, 5)
    lrs.OneCycleLR(optimizer, 1.0, 5, cycle_momentum=False)


def test_one_cycle_refuses_steps_past_its_end():
    optimizer = make_optimizer()
    scheduler = lrs.OneCycleLR(optimizer, 1.0, 3)
    optimizer.step()
    for _ in range(3):
        scheduler.step()
    with pytest.raises(ArgumentError, match="OneCycleLR: step 4 is past the end of the cycle of total_steps = 3"):
        scheduler.step()


def test_plateau_names_groups_added_without_min_lr():
    optimizer = make_optimizer()
    listed = lrs.ReduceLROnPlateau(optimizer, patience=0, min_lr=[0.1])
    number = lrs.ReduceLROnPlateau(optimizer, patience=0, min_lr=0.1)
    optimizer.add_param_group({"params": [Tensor(np.zeros(1), requires_grad=True)]})
    for scheduler in (listed, number):
        scheduler.step(1.0)
    with pytest.raises(ArgumentError, match="the optimizer has 2 parameter groups by now, min_lrs has 1 values"):
        listed.step(1.0)
    number.step(1.0)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.1]


def test_a_subclass_without_get_lr_says_so():
    class Lazy(lrs.LRScheduler):
        pass

    with pytest.raises(NotImplementedError, match=r"Lazy must define get_lr\(\)"):
        Lazy(make_optimizer())


def test_names_outside_the_subset():
    with pytest.raises(UnsupportedError, match=r"lr_scheduler.CyclicLR is not part of minires; use OneCycleLR"):
        lrs.CyclicLR  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'Cosine'"):
        lrs.Cosine  # noqa: B018
