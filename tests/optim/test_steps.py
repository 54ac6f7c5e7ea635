"""Fifty steps beside torch, for every combination of options."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from minires import optim
from minires.tensor import Tensor
from tests.tolerances import tolerance
from tests.torch_oracle import torch

STEPS = 50
SHAPES = [(3, 2), (5,), ()]


def zero_or(low: float, high: float) -> st.SearchStrategy[float]:
    return st.just(0.0) | st.floats(low, high)


@st.composite
def sgd_options(draw) -> dict:
    options = {
        "lr": draw(zero_or(1e-3, 0.5)),
        "momentum": draw(zero_or(0.1, 0.99)),
        "dampening": draw(zero_or(-0.5, 0.9)),
        "weight_decay": draw(zero_or(1e-4, 0.1)),
        "maximize": draw(st.booleans()),
    }
    if options["momentum"] > 0 and options["dampening"] == 0:
        options["nesterov"] = draw(st.booleans())
    return options


@st.composite
def adam_options(draw) -> dict:
    return {
        "lr": draw(zero_or(1e-3, 0.1)),
        "betas": (draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99])), draw(st.sampled_from([0.0, 0.5, 0.99, 0.999]))),
        "eps": draw(st.sampled_from([1e-8, 1e-3])),
        "weight_decay": draw(zero_or(1e-4, 0.1)),
        "amsgrad": draw(st.booleans()),
        "maximize": draw(st.booleans()),
    }


def run_both(name: str, options: dict, second_group: dict, dtype: str, seed: int):
    """The same parameters and gradients through both; sometimes a parameter has no gradient in a step.

    Returns:
        our optimiser, theirs, our parameters, theirs.
    """
    rng = np.random.default_rng(seed)
    starts = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    ours = [Tensor(np.array(start), requires_grad=True) for start in starts]
    theirs = [torch.tensor(start, requires_grad=True) for start in starts]

    def make(module, params):
        groups = [{"params": params[:2]}, {"params": params[2:], **second_group}]
        return getattr(module, name)(groups, **options)

    our_optimizer, their_optimizer = make(optim, ours), make(torch.optim, theirs)
    for _ in range(STEPS):
        for p, q in zip(ours, theirs, strict=True):
            if rng.random() < 0.1:
                p.grad = q.grad = None
            else:
                grad = rng.standard_normal(p.shape).astype(dtype)
                p.grad, q.grad = Tensor(np.array(grad)), torch.tensor(grad)
        our_optimizer.step()
        their_optimizer.step()
    return our_optimizer, their_optimizer, ours, theirs


def check(our_optimizer, their_optimizer, ours, theirs, dtype):
    limit = tolerance(dtype, n=STEPS)
    for p, q in zip(ours, theirs, strict=True):
        assert p.array.dtype == np.dtype(dtype)
        np.testing.assert_allclose(p.array, q.detach().numpy(), **limit)
    our_state, their_state = our_optimizer.state_dict(), their_optimizer.state_dict()
    assert our_state["param_groups"] == their_state["param_groups"]
    assert our_state["state"].keys() == their_state["state"].keys()
    for index, entry in their_state["state"].items():
        assert our_state["state"][index].keys() == entry.keys()
        for key, value in entry.items():
            np.testing.assert_allclose(our_state["state"][index][key].array, value.numpy(), **limit, err_msg=key)


DTYPES = st.sampled_from(["float32", "float64"])
SEEDS = st.integers(0, 2**16)


@settings(max_examples=60, deadline=None)
@given(options=sgd_options(), second=sgd_options(), dtype=DTYPES, seed=SEEDS)
def test_sgd_follows_torch_for_fifty_steps(options, second, dtype, seed):
    check(*run_both("SGD", options, second, dtype, seed), dtype)


@settings(max_examples=60, deadline=None)
@given(options=adam_options(), second=adam_options(), decoupled=st.booleans(), dtype=DTYPES, seed=SEEDS)
def test_adam_follows_torch_for_fifty_steps(options, second, decoupled, dtype, seed):
    options = {**options, "decoupled_weight_decay": decoupled}
    check(*run_both("Adam", options, second, dtype, seed), dtype)


@settings(max_examples=30, deadline=None)
@given(options=adam_options(), second=adam_options(), dtype=DTYPES, seed=SEEDS)
def test_adamw_follows_torch_for_fifty_steps(options, second, dtype, seed):
    check(*run_both("AdamW", options, second, dtype, seed), dtype)


def test_defaults_and_repr_are_torchs():
    for name in ("SGD", "Adam", "AdamW"):
        ours = getattr(optim, name)([Tensor(np.zeros(2), requires_grad=True)])
        theirs = getattr(torch.optim, name)([torch.zeros(2, requires_grad=True)])
        assert ours.defaults == theirs.defaults
        assert repr(ours) == repr(theirs)


def test_torchs_state_dict_loads_and_goes_on():
    """A checkpoint of torch's optimiser, its tensors as arrays, is continued here step for step."""
    for name, options in [("SGD", {"momentum": 0.9}), ("AdamW", {"amsgrad": True})]:
        _, their_optimizer, _, theirs = run_both(name, options, {}, "float64", seed=3)
        ours = [Tensor(q.detach().numpy().copy(), requires_grad=True) for q in theirs]
        our_optimizer = getattr(optim, name)([{"params": ours[:2]}, {"params": ours[2:]}], **options)
        saved = their_optimizer.state_dict()
        saved["state"] = {
            i: {key: value.numpy().copy() for key, value in entry.items()} for i, entry in saved["state"].items()
        }
        our_optimizer.load_state_dict(saved)
        rng = np.random.default_rng(0)
        for p, q in zip(ours, theirs, strict=True):
            grad = rng.standard_normal(p.shape)
            p.grad, q.grad = Tensor(np.array(grad)), torch.tensor(grad)
        our_optimizer.step()
        their_optimizer.step()
        check(our_optimizer, their_optimizer, ours, theirs, "float64")
