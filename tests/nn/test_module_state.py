"""State dicts: keys and values out, values in, and one error that lists everything."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import StateDictError
from tests.nn.networks import copy_weights, net
from tests.torch_oracle import torch


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_state_dict_keys_equal_torchs_in_order() -> None:
    ours, theirs = net(nn).state_dict(), net(torch.nn).state_dict()
    assert isinstance(ours, OrderedDict) and list(ours) == list(theirs)
    assert [tuple(v.shape) for v in ours.values()] == [tuple(v.shape) for v in theirs.values()]
    assert {str(v.dtype).split(".")[1] for v in ours.values()} == {"float32", "int64"}


def test_state_dict_gives_detached_tensors_that_share_memory() -> None:
    m = small()
    state = m.state_dict()
    assert not state["0.weight"].requires_grad
    assert np.shares_memory(state["0.weight"].array, m[0].weight.array)
    assert m.state_dict(keep_vars=True)["0.weight"] is m[0].weight
    assert next(iter(m.state_dict(prefix="net."))) == "net.0.weight"
    mine: dict = {"before": 1}
    assert m.state_dict(destination=mine) is mine and list(mine)[:2] == ["before", "0.weight"]


def test_state_dict_leaves_out_none_and_non_persistent_and_names_shared_twice() -> None:
    m = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    m[1].weight = m[0].weight
    m.register_buffer("kept", minires.zeros(1))
    m.register_buffer("scratch", minires.zeros(1), persistent=False)
    m.register_buffer("empty", None)
    assert list(m.state_dict()) == ["kept", "0.weight", "1.weight"]


def test_load_state_dict_copies_into_the_same_parameters() -> None:
    m, source = small(), small()
    weight = m[0].weight
    keys = m.load_state_dict(source.state_dict())
    assert keys == ([], []) and repr(keys) == "<All keys matched successfully>"
    assert m[0].weight is weight and weight.tolist() == source[0].weight.tolist()
    assert not np.shares_memory(weight.array, source[0].weight.array) and weight.requires_grad
    assert (keys.missing_keys, keys.unexpected_keys) == ([], [])


def test_load_state_dict_takes_torchs_arrays_and_converts_dtype() -> None:
    ours, theirs = net(nn), net(torch.nn)
    copy_weights(ours, theirs)
    for name, value in ours.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), theirs.state_dict()[name].numpy())
    m = nn.Linear(2, 1)
    m.load_state_dict({"weight": np.array([[1.0, 2.0]]), "bias": np.array([3.0], dtype=np.float16)})
    assert m.weight.dtype == minires.float32 and m.weight.tolist() == [[1, 2]] and m.bias.tolist() == [3]


def test_load_state_dict_error_lists_everything_and_writes_nothing() -> None:
    m = small()
    state = m.state_dict()
    before = m[0].bias.detach().numpy().copy()
    broken = {
        "0.weight": np.zeros((5, 2), np.float32),
        "0.bias": np.full(3, 7, np.float32),
        "1.weight": "text",
        "1.running_mean": state["1.running_mean"],
        "1.running_var": state["1.running_var"],
        "other": np.zeros(1),
    }
    with pytest.raises(StateDictError) as caught:
        m.load_state_dict(broken)
    assert str(caught.value) == (
        "Error(s) in loading state_dict for Sequential:\n"
        '\tMissing key(s) in state_dict: "1.bias". \n'
        '\tUnexpected key(s) in state_dict: "other". \n'
        "\tsize mismatch for 0.weight: copying a param with shape (5, 2) from state_dict, "
        "the shape in current model is (3, 2).\n"
        "\t1.weight: expected a Tensor or a NumPy array in state_dict, got str"
    )
    np.testing.assert_array_equal(m[0].bias.detach().numpy(), before)


@pytest.mark.parametrize("form", [lambda a: a.astype(">f4"), lambda a: a[::-1][::-1], np.asfortranarray, np.ma.asarray])
def test_load_state_dict_takes_arrays_in_any_memory_form(form) -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    for assign in (False, True):
        m = nn.Linear(2, 3, bias=False)
        m.load_state_dict({"weight": form(values)}, assign=assign)
        assert m.weight.tolist() == values.tolist()
        assert m(minires.ones(1, 2)).tolist() == [[1, 5, 9]]


def test_load_state_dict_lists_arrays_of_no_known_dtype() -> None:
    with pytest.raises(StateDictError, match=r"\n\tweight: .*dtype"):
        nn.Linear(2, 3, bias=False).load_state_dict({"weight": np.zeros((3, 2), complex)})


def test_load_state_dict_error_begins_like_torchs() -> None:
    broken = {"0.weight": np.zeros((5, 2), np.float32), "other": np.zeros(1, np.float32)}
    theirs = torch.nn.Sequential(torch.nn.Linear(2, 3))
    with pytest.raises(RuntimeError) as expected:
        theirs.load_state_dict({name: torch.tensor(value) for name, value in broken.items()})
    with pytest.raises(RuntimeError) as got:
        nn.Sequential(nn.Linear(2, 3)).load_state_dict(broken)
    wanted = str(expected.value).replace("torch.Size([5, 2])", "(5, 2)").replace("torch.Size([3, 2])", "(3, 2)")
    assert str(got.value) == wanted.replace("from checkpoint", "from state_dict")


def test_load_state_dict_not_strict_returns_the_keys_it_left() -> None:
    m = small()
    keys = m.load_state_dict({"0.bias": np.full(3, 7, np.float32), "head.bias": np.zeros(1)}, strict=False)
    assert keys.unexpected_keys == ["head.bias"] and m[0].bias.tolist() == [7, 7, 7]
    assert keys.missing_keys == ["0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
    assert repr(keys).startswith("IncompatibleKeys(missing_keys=['0.weight'")
    with pytest.raises(StateDictError, match=r"size mismatch for 0.bias"):
        m.load_state_dict({"0.bias": np.zeros(4, np.float32)}, strict=False)


def test_load_state_dict_accepts_files_older_than_num_batches_tracked() -> None:
    def load(model, state) -> object:
        state.pop("1.num_batches_tracked")
        return model.load_state_dict(state)

    theirs = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    assert load(theirs, dict(theirs.state_dict())) == ([], [])
    m = small()
    m[1].num_batches_tracked.fill_(5)
    assert load(m, m.state_dict()) == ([], []) and m[1].num_batches_tracked.item() == 5


def test_load_state_dict_accepts_one_element_for_a_scalar() -> None:
    m = nn.Module()
    m.scale = nn.Parameter(minires.zeros(()))
    m.load_state_dict({"scale": np.array([4.0], np.float32)})
    assert m.scale.item() == 4


def test_load_state_dict_assign_takes_the_tensors_themselves() -> None:
    m = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    m[0].weight.requires_grad_(False)
    state = {name: value.double() if value.is_floating_point() else value for name, value in m.state_dict().items()}
    m.load_state_dict(state, assign=True)
    assert m[0].weight.dtype == minires.float64 and m[1].running_var.dtype == minires.float64
    assert np.shares_memory(m[0].weight.array, state["0.weight"].array)
    assert isinstance(m[0].weight, nn.Parameter) and not m[0].weight.requires_grad and m[0].bias.requires_grad


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_load_state_dict_names_the_wrapper_that_put_a_prefix_before_every_key(prefix) -> None:
    m = small()
    state = {prefix + name: value for name, value in m.state_dict().items()}
    with pytest.raises(
        StateDictError, match=rf"Every unexpected key is an expected one after '{prefix}': load \{{name.remove"
    ):
        m.load_state_dict(state)
    m.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()})


def test_load_state_dict_refuses_what_is_no_mapping() -> None:
    with pytest.raises(StateDictError, match=r"load_state_dict: state_dict must be a mapping, got list"):
        small().load_state_dict([1])
