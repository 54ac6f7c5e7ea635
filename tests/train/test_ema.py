"""The running mean of the weights, against PyTorch's AveragedModel and its own formula."""

from __future__ import annotations

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import StateDictError
from minires.tensor import Tensor
from minires.train.ema import WeightAverage
from tests.tolerances import assert_close


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def move(model: nn.Module, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Give every weight and buffer new numbers; gives them back by name."""
    new = {}
    for name, tensor in model.state_dict().items():
        shape = tensor.shape
        new[name] = rng.standard_normal(shape).astype(np.float32) if tensor.array.dtype.kind == "f" else rng.integers(9)
        tensor.array[...] = new[name]
    return new


def test_average_with_a_small_decay_is_torchs_ema_with_buffers() -> None:
    """A decay below the warm-up's first 2 / 11 is constant from the first step on, as torch's."""
    torch = pytest.importorskip("torch", reason="PyTorch judges the formula")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 3)
    )
    ours, rng = net(), np.random.default_rng(0)
    average = WeightAverage(ours, 0.15)
    # torch's first update copies: let it begin where ours begins.
    theirs.load_state_dict({k: torch.tensor(t.numpy()) for k, t in ours.state_dict().items()})
    judge = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.15), use_buffers=True)
    judge.update_parameters(theirs)
    for _ in range(6):
        theirs.load_state_dict({k: torch.tensor(v) for k, v in move(ours, rng).items()})
        average.update(ours)
        judge.update_parameters(theirs)
    for name, expected in judge.module.state_dict().items():
        assert_close(average.arrays[name], expected.numpy(), "float32", 6, name)


def test_average_warms_up_and_copies_counts() -> None:
    model, rng = net(), np.random.default_rng(1)
    average, decay = WeightAverage(model, 0.9), 0.9
    expected = {name: tensor.numpy().astype(np.float64) for name, tensor in model.state_dict().items()}
    for t in range(1, 120):
        d = min(decay, (1 + t) / (10 + t))
        for name, value in move(model, rng).items():
            expected[name] = value if name.endswith("tracked") else d * expected[name] + (1 - d) * value
        average.update(model)
    assert average.steps == 119
    assert (1 + 70) / (10 + 70) < decay < (1 + 90) / (10 + 90), "the warm-up and what follows were both passed through"
    for name, value in expected.items():
        assert_close(average.arrays[name], value, "float32", 119, name)


def test_applied_to_gives_the_model_the_average_and_takes_it_back_bit_for_bit() -> None:
    model, rng = net(), np.random.default_rng(2)
    average = WeightAverage(model, 0.9)
    own = move(model, rng)
    average.update(model)
    weight = model[0].weight
    with pytest.raises(KeyError), average.applied_to(model):
        for name, tensor in model.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), average.arrays[name])
        assert model[0].weight is weight
        raise KeyError("also after an error")
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), own[name])


def test_applied_to_is_seen_by_autograd_as_a_write() -> None:
    """A graph recorded before must not be run through backwards with the other weights."""
    model = net()
    average = WeightAverage(model, 0.9)
    loss = model(Tensor(np.ones((2, 2, 4, 4), np.float32), requires_grad=True)).sum()
    with average.applied_to(model), pytest.raises(minires.errors.GradError, match="in-place"):
        loss.backward()


def test_average_state_round_trips_and_refuses_another_model() -> None:
    model, rng = net(), np.random.default_rng(3)
    average = WeightAverage(model, 0.9)
    for _ in range(3):
        move(model, rng)
        average.update(model)
    other = WeightAverage(net(), 0.9)
    other.load_state_dict(average.state_dict())
    assert other.steps == 3
    for name, array in average.arrays.items():
        np.testing.assert_array_equal(other.arrays[name], array)
    with pytest.raises(StateDictError, match=r"WeightAverage: the state is of another model; different: 0\.bias"):
        WeightAverage(nn.Sequential(nn.Conv2d(2, 5, 3)), 0.9).load_state_dict(average.state_dict())
