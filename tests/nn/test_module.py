"""Module: what assignments register, walks over the tree, modes, conversion, text."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import minires
from minires import nn
from minires.errors import DTypeError, ModuleError, UnsupportedError
from tests.nn.networks import net, tensor
from tests.torch_oracle import torch


def scale(n: int = 2) -> nn.Parameter:
    return nn.Parameter(minires.ones(n))


class Tied(nn.Module):
    """Two layers that share their weight, and one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.again = self.a


def test_module_names_and_shapes_equal_torchs() -> None:
    ours, theirs = net(nn), net(torch.nn)
    for walk in ("named_parameters", "named_buffers"):
        assert [(name, tuple(t.shape)) for name, t in getattr(ours, walk)()] == [
            (name, tuple(t.shape)) for name, t in getattr(theirs, walk)()
        ]
    for walk in ("named_modules", "named_children"):
        assert [(name, type(m).__name__) for name, m in getattr(ours, walk)()] == [
            (name, type(m).__name__) for name, m in getattr(theirs, walk)()
        ]
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert len(list(ours.modules())) == len(list(theirs.modules()))
    assert len(list(ours.children())) == len(list(theirs.children()))
    assert len(list(ours.buffers())) == len(list(theirs.buffers()))


def test_module_repr_equals_torchs() -> None:
    assert repr(net(nn)) == repr(net(torch.nn))


def test_named_walks_drop_duplicates_only_when_asked() -> None:
    tied = Tied()
    assert [name for name, _ in tied.named_parameters()] == ["a.weight", "a.bias", "b.bias"]
    assert [name for name, _ in tied.named_parameters(remove_duplicate=False)] == [
        *["a.weight", "a.bias", "b.weight", "b.bias", "again.weight", "again.bias"]
    ]
    assert [name for name, _ in tied.named_modules()] == ["", "a", "b"]
    assert [name for name, _ in tied.named_modules(remove_duplicate=False)] == ["", "a", "b", "again"]
    assert [name for name, _ in tied.named_children()] == ["a", "b"]
    assert [name for name, _ in tied.named_parameters(prefix="net", recurse=False)] == []
    assert next(iter(tied.a.named_parameters("net")))[0] == "net.weight"


def test_assignment_registers_and_may_change_the_kind() -> None:
    m = nn.Module()
    m.x = scale()
    assert list(m._parameters) == ["x"]
    m.x = None
    assert m.x is None and "x" in m._parameters
    m.x = scale()
    m.x = nn.ReLU()
    assert list(m._modules) == ["x"] and not m._parameters
    m.x = None
    assert m.x is None
    del m.x
    assert not hasattr(m, "x")
    m.y = 3
    m.y = nn.Buffer(minires.zeros(2), persistent=False)
    assert list(m._buffers) == ["y"] and "y" not in m.__dict__ and m.state_dict() == {}
    m.y = minires.ones(2)  # a plain tensor under a buffer's name stays that buffer, persistent or not as before
    assert m._buffers["y"].tolist() == [1, 1] and m.state_dict() == {}
    m.y = scale()
    assert list(m._parameters) == ["y"] and not m._buffers and list(m.state_dict()) == ["y"]
    m.plain = minires.ones(2)
    assert "plain" in m.__dict__ and "plain" not in m.state_dict()


def test_dir_lists_what_is_registered() -> None:
    m = nn.Sequential(nn.ReLU())
    m.register_buffer("table", minires.zeros(1))
    m.weight = scale()
    assert {"table", "weight", "forward"} <= set(dir(m)) and "0" not in dir(m)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: m.nothing, r"module 'Module' object has no attribute 'nothing'"),
        (lambda m: setattr(m, "p", minires.ones(1)), r"cannot assign 'Tensor' as parameter 'p' \(nn.Parameter or None"),
        (
            lambda m: setattr(m, "child", 3),
            r"cannot assign 'int' as child module 'child' \(nn.Module or None expected\)",
        ),
        (lambda m: setattr(m, "b", 3), r"cannot assign 'int' object to buffer 'b' \(Tensor or None required\)"),
        (lambda m: m.register_parameter("q", minires.ones(1)), r"cannot assign 'Tensor' object to parameter 'q'"),
        (lambda m: m.register_parameter("b", scale()), r"cannot register parameter 'b': attribute 'b' already exists"),
        (
            lambda m: m.register_buffer("train", None),
            r"cannot register buffer 'train': attribute 'train' already exists",
        ),
        (lambda m: m.register_buffer("a.b", None), r'buffer name can\'t be empty or contain ".", got \'a.b\''),
        (lambda m: m.register_parameter("", None), r'parameter name can\'t be empty or contain ".", got \'\''),
        (lambda m: m.add_module("a.b", None), r'module name can\'t be empty or contain ".", got \'a.b\''),
        (lambda m: m.add_module(3, None), r"module name should be a string, got int"),
        (
            lambda m: m.add_module("q", nn.ReLU),
            r"'q' must be a Module, got the class ReLU itself: did you mean ReLU\(\)\?",
        ),
        (lambda m: m.register_module("q", 3), r"'q' must be a Module, got int"),
        (lambda m: m.get_submodule("child.x"), r"get_submodule: ReLU has no attribute `x`"),
        (lambda m: m.get_submodule("child.training"), r"get_submodule: `training` of ReLU is not an nn.Module"),
        (lambda m: m.get_parameter("child.training"), r"get_parameter: `training` of ReLU is not an nn.Parameter"),
        (lambda m: m.get_buffer("p"), r"get_buffer: `p` of Module is not a buffer"),
        (lambda m: m.set_submodule("", nn.ReLU()), r"set_submodule: target must name a submodule, got ''"),
        (lambda m: m.train(1), r"train: mode is expected to be a bool, got 1"),
        (lambda m: m(3), r'Module \[Module\] is missing the required "forward" function'),
    ],
)
def test_module_errors_say_what_is_wrong(act, message) -> None:
    m = nn.Module()
    m.p, m.child = scale(), nn.ReLU()
    m.register_buffer("b", minires.zeros(1))
    with pytest.raises(ModuleError, match=message):
        act(m)


def test_missing_attribute_is_an_attribute_error_that_python_can_complete() -> None:
    m = nn.Sequential()
    m.conv1 = nn.ReLU()
    assert not hasattr(m, "conv2")
    assert getattr(m, "conv2", 5) == 5
    with pytest.raises(AttributeError) as caught:
        m.conv2  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("conv2", m)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("module", nn.ReLU()), ("parameter", scale()), ("buffer", nn.Buffer(minires.zeros(1)))],
)
def test_assignment_before_init_errors(kind, value) -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            self.layer = value
            super().__init__()

    message = rf"cannot assign {kind} 'layer' before Module.__init__\(\) call: begin Early.__init__ with super"
    with pytest.raises(ModuleError, match=message):
        Early()


def test_register_buffer_before_init_errors() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            self.register_buffer("layer", None)

    with pytest.raises(ModuleError, match=r"cannot assign buffer 'layer' before Module.__init__\(\) call"):
        Early()


def test_register_parameter_refuses_a_computed_tensor() -> None:
    m = nn.Module()
    parameter = nn.Parameter(minires.ones(2), requires_grad=False)
    parameter.mul_(minires.ones(2, requires_grad=True))  # now its values depend on another tensor
    with pytest.raises(ModuleError, match=r"cannot assign a non-leaf Tensor to parameter 'w'"):
        m.w = parameter


def test_dotted_look_ups_find() -> None:
    m = net(nn)
    assert m.get_submodule("") is m
    assert m.get_submodule("layers.1.conv1") is m.layers[1].conv1
    assert m.get_parameter("layers.1.conv1.weight") is m.layers[1].conv1.weight
    assert m.get_buffer("layers.1.bn1.running_var") is m.layers[1].bn1.running_var
    new = nn.Identity()
    m.set_submodule("layers.1.conv1", new)
    assert m.layers[1].conv1 is new


def test_apply_visits_children_before_their_parents() -> None:
    def names(nn_module) -> list[str]:
        seen: list[str] = []
        assert nn_module.apply(lambda m: seen.append(type(m).__name__)) is nn_module
        return seen

    assert names(net(nn)) == names(net(torch.nn))


def test_train_and_eval_reach_every_module() -> None:
    m = net(nn)
    assert m.eval() is m and not any(child.training for child in m.modules())
    assert m.train() is m and all(child.training for child in m.modules())


def test_requires_grad_freezes_and_zero_grad_forgets() -> None:
    m = nn.Linear(2, 2)
    m(minires.ones(1, 2)).sum().backward()
    kept = m.weight.grad
    m.zero_grad(set_to_none=False)
    assert m.weight.grad is not None and m.weight.grad.tolist() == [[0, 0], [0, 0]]
    m.zero_grad()
    assert kept is not None and m.weight.grad is None and m.bias.grad is None
    assert m.requires_grad_(False) is m and not any(p.requires_grad for p in m.parameters())


def test_to_converts_floating_tensors_in_place_with_their_gradients() -> None:
    m = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    before = list(m.parameters())
    m(minires.ones(2, 1, 2, 2)).sum().backward()
    assert m.double() is m
    assert all(p is q for p, q in zip(m.parameters(), before, strict=True))
    assert m[0].weight.dtype == minires.float64 and m[0].weight.grad.dtype == minires.float64
    assert m[1].running_mean.dtype == minires.float64 and m[1].num_batches_tracked.dtype == minires.int64
    # The converted module computes and differentiates in its new dtype.
    m.zero_grad()
    m(minires.ones(2, 1, 2, 2, dtype=minires.float64)).sum().backward()
    assert m[0].weight.grad.dtype == minires.float64
    assert m.half()[0].weight.dtype == minires.float16
    assert m.float()[0].weight.dtype == minires.float32
    assert m.to(dtype=minires.float64).cpu()[0].weight.dtype == minires.float64
    assert m.to("cpu", minires.float32)[0].weight.dtype == minires.float32
    assert m.to(minires.ones(1, dtype=minires.float64))[0].weight.dtype == minires.float64


def test_to_refuses_what_it_cannot_do() -> None:
    m = nn.Linear(1, 1)
    with pytest.raises(DTypeError, match=r"Module.to: dtype must be a floating point one, got minires.int64"):
        m.to(minires.int64)
    assert m.to(memory_format=object()) is m  # a wish about layout changes no value: accepted, as by Tensor.to
    with pytest.raises(UnsupportedError, match=r"Module.to: unknown argument 'colour'"):
        m.to(colour="red")


def test_deepcopy_and_pickle_copy_the_values_and_share_nothing() -> None:
    m = net(nn)
    for other in (copy.deepcopy(m.layers[0].conv1), pickle.loads(pickle.dumps(m.extra))):
        assert isinstance(next(other.parameters()), nn.Parameter)
    bn = pickle.loads(pickle.dumps(m.layers[0].bn1))
    assert [name for name, _ in bn.named_buffers()] == ["running_mean", "running_var", "num_batches_tracked"]
    tied = copy.deepcopy(Tied())
    assert tied.a.weight is tied.b.weight and tied.again is tied.a
    twin = copy.deepcopy(m)
    x = tensor(np.ones((2, 3, 4, 4), np.float32))
    assert twin(x).tolist() == m(x).tolist()
    with minires.no_grad():
        twin.stem.weight.zero_()
    assert m.stem.weight.abs().sum().item() > 0


def test_deepcopy_keeps_which_buffers_are_persistent() -> None:
    m = nn.Module()
    m.scratch = nn.Buffer(minires.ones(1), persistent=False)
    twin = copy.deepcopy(m)
    twin.scratch = twin.scratch
    assert twin.state_dict() == {} and twin.scratch.tolist() == [1] and twin.scratch is not m.scratch


def test_conversion_while_a_graph_of_the_old_dtype_is_alive() -> None:
    m = nn.Linear(2, 1)
    old = m(minires.ones(1, 2)).sum()
    m.double()
    m(minires.ones(1, 2, dtype=minires.float64)).sum().backward()
    assert m.weight.grad.dtype == minires.float64 and m.weight.grad.tolist() == [[1, 1]]
    assert old.dtype == minires.float32


def test_parameter_shares_memory_and_leaves_history_behind() -> None:
    source = minires.ones(2, requires_grad=True) * 3
    parameter = nn.Parameter(source)
    assert parameter.is_leaf and parameter.requires_grad and parameter.grad_fn is None
    assert np.shares_memory(parameter.array, source.array)
    with minires.no_grad():
        assert nn.Parameter(source).requires_grad
    assert not nn.Parameter(source, requires_grad=False).requires_grad
    assert repr(nn.Parameter(minires.ones(2))).startswith("Parameter containing:\n")
    # What is computed from a parameter is a plain tensor.
    assert type(parameter * 2) is minires.Tensor and type(parameter.detach()) is minires.Tensor
    with pytest.raises(ValueError, match=r"Parameter: data must be a Tensor, got list"):
        nn.Parameter([1.0])


def test_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(UnsupportedError, match=r"minires.nn has no 'Conv3d': .*Conv2d"):
        nn.Conv3d  # noqa: B018
