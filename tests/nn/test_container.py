"""Containers behave as torch's: keys, slices, repr, and errors of their own."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import ArgumentError, LabelError, ModuleError
from tests.torch_oracle import torch


def names(module: Any) -> list[tuple[str, str]]:
    return [(name, type(child).__name__) for name, child in module.named_children()]


def same_on_both(build: Any) -> Any:
    """Build with both libraries, compare children, repr and state-dict keys, return ours."""
    ours, theirs = build(nn), build(torch.nn)
    assert names(ours) == names(theirs)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return ours


def three(n: Any, kind: str = "Sequential") -> Any:
    layers = [n.Linear(2, 3), n.ReLU(), n.Tanh()]
    return n.Sequential(*layers) if kind == "Sequential" else n.ModuleList(layers)


@pytest.mark.parametrize("kind", ["Sequential", "ModuleList"])
@pytest.mark.parametrize(
    "change",
    [
        lambda m, n: m[1:],
        lambda m, n: m[::2],
        lambda m, n: m.append(n.Sigmoid()),
        lambda m, n: m.extend([n.Sigmoid(), n.Linear(1, 1)]),
        lambda m, n: m.insert(1, n.Linear(3, 3)) or m,
        lambda m, n: m.insert(3, n.Sigmoid()) or m,
        lambda m, n: m.__setitem__(-1, n.Sigmoid()) or m,
        lambda m, n: m.__delitem__(0) or m,
        lambda m, n: m.__delitem__(slice(0, 2)) or m,
        lambda m, n: n.Sequential(m.pop(1), *m),
        lambda m, n: m + type(m)(*([n.Sigmoid()] if isinstance(m, n.Sequential) else [[n.Sigmoid()]])),
        lambda m, n: m.__iadd__(three(n, type(m).__name__)),
    ],
)
def test_sequential_and_module_list_edit_as_torchs(kind, change) -> None:
    same_on_both(lambda n: change(three(n, kind), n))


def test_sequential_runs_its_modules_in_order() -> None:
    m = nn.Sequential(OrderedDict(first=nn.Linear(2, 2), second=nn.ReLU()))
    assert names(m) == [("first", "Linear"), ("second", "ReLU")]
    x = minires.ones(1, 2)
    assert m(x).tolist() == nn.functional.relu(m.first(x)).tolist()
    assert nn.Sequential()(x) is x
    same_on_both(lambda n: n.Sequential(OrderedDict(a=n.ReLU(), b=n.Tanh()))[1:])


def test_sequential_repeats_by_sharing() -> None:
    m = same_on_both(lambda n: three(n) * 2)
    assert m[0] is m[3]
    same_on_both(lambda n: 2 * three(n))
    same_on_both(lambda n: three(n).__imul__(3))


def test_append_to_a_slice_does_not_overwrite() -> None:
    tail = three(nn)[1:]
    tail.append(nn.Sigmoid())
    assert [type(m).__name__ for m in tail] == ["ReLU", "Tanh", "Sigmoid"]


def test_module_list_is_a_list() -> None:
    m = three(nn, "ModuleList")
    assert len(m) == 3 and m[-1] is m[2] and m[0] in m and nn.ReLU() not in m
    assert [type(child).__name__ for child in m] == ["Linear", "ReLU", "Tanh"]
    m.extend(m)
    assert len(m) == 6 and m[3] is m[0]


def test_module_list_repr_folds_equal_neighbours_as_torchs() -> None:
    same_on_both(lambda n: n.ModuleList())
    same_on_both(lambda n: n.ModuleList([n.Linear(1, 1), n.Linear(1, 1), n.ReLU(), n.Sequential(n.ReLU(), n.ReLU())]))


def test_module_dict_is_an_ordered_dict() -> None:
    m = same_on_both(lambda n: n.ModuleDict({"b": n.Linear(1, 1), "a": n.ReLU()}))
    m.update([("c", nn.Tanh())])
    m["d"] = nn.Sigmoid()
    assert list(m) == list(m.keys()) == ["b", "a", "c", "d"] and len(m) == 4 and "c" in m and "z" not in m
    assert m.pop("c") is not None and [key for key, _ in m.items()] == ["b", "a", "d"]
    del m["d"]
    assert [type(v).__name__ for v in m.values()] == ["Linear", "ReLU"]
    m.update(nn.ModuleDict({"a": nn.Tanh()}))
    assert type(m["a"]).__name__ == "Tanh"
    m.clear()
    assert len(m) == 0
    with pytest.raises(KeyError, match="gone"):
        m["gone"]


def test_parameter_list_registers_tensors_as_parameters() -> None:
    def build(n: Any) -> Any:
        make = minires.ones if n is nn else torch.ones
        values = n.ParameterList([n.Parameter(make(2, 3)), make(4), "text"])
        values.append(make(1))
        values += [make(1, 1)]
        return values

    ours, theirs = build(nn), build(torch.nn)
    assert repr(ours).replace("minires.", "torch.") == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["0", "1", "3", "4"]
    assert len(ours) == 5 and ours[2] == "text" and isinstance(ours[-1], nn.Parameter)
    ours[0] = minires.zeros(2)
    assert [tuple(p.shape) for p in ours[:2]] == [(2,), (4,)]
    np.testing.assert_array_equal(ours[0].detach().numpy(), np.zeros(2))


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda m: m[3], LabelError, r"Sequential: index 3 is out of range for 3 modules"),
        (lambda m: m.insert(4, nn.ReLU()), LabelError, r"Sequential.insert: index 4 is out of range for 3 modules"),
        (lambda m: m.insert(0, 3), ModuleError, r"Sequential.insert: expected a Module, got int"),
        (lambda m: m.append(nn.ReLU), ModuleError, r"'3' must be a Module, got the class ReLU itself: did you mean"),
        (lambda m: m.extend(3), ModuleError, r"Sequential.extend: expected an iterable of modules, got int"),
        (lambda m: m + 3, ModuleError, r"Sequential \+ needs another Sequential, got int"),
        (lambda m: m * 0, ArgumentError, r"Sequential \*: expected a positive int, got 0"),
        (lambda m: nn.ModuleList(m)[-4], LabelError, r"ModuleList: index -4 is out of range for 3 modules"),
        (lambda m: nn.ModuleDict(3), ModuleError, r"ModuleDict.update: expected a mapping or an iterable of"),
        (lambda m: nn.ModuleDict([m]), ModuleError, r"ModuleDict.update: element 0 must be a \(key, module\) pair"),
        (lambda m: nn.ParameterList(3), ModuleError, r"ParameterList.extend: expected an iterable of values, got int"),
        (lambda m: nn.ParameterList()[0], LabelError, r"ParameterList: index 0 is out of range for 0 values"),
    ],
)
def test_container_errors_say_what_is_wrong(act, error, message) -> None:
    with pytest.raises(error, match=message):
        act(three(nn))
