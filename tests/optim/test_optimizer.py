"""What every optimiser shares: groups, zeroing, state dicts, errors. No oracle needed."""

from __future__ import annotations

import numpy as np
import pytest

from minires import optim
from minires.backend import use_kernels
from minires.errors import ArgumentError, StateDictError, UnsupportedError
from minires.kernels.reference.optimizer import BLOCK, blocks
from minires.tensor import Tensor


def parameter(*shape: int, seed: int = 0, dtype: str = "float64") -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype), requires_grad=True)


def give_grads(optimizer: optim.Optimizer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = Tensor(rng.standard_normal(p.shape).astype(p.array.dtype))


# ---- the step ----


def test_sgd_step_by_hand():
    p = Tensor(np.array([1.0, -2.0]), requires_grad=True)
    optimizer = optim.SGD([p], lr=0.5, momentum=0.5)
    p.grad = Tensor(np.array([2.0, 4.0]))
    optimizer.step()  # buffer = g = (2, 4); p -= 0.5 (2, 4)
    np.testing.assert_array_equal(p.array, [0.0, -4.0])
    optimizer.step()  # buffer = 0.5 (2, 4) + (2, 4) = (3, 6); p -= 0.5 (3, 6)
    np.testing.assert_array_equal(p.array, [-1.5, -7.0])
    np.testing.assert_array_equal(optimizer.state[p]["momentum_buffer"].array, [3.0, 6.0])


def test_adam_first_step_has_length_lr_whatever_the_gradient():
    """At t = 1 both bias corrections cancel exactly: m / sqrt(v) = sign(g)."""
    p = Tensor(np.zeros(4), requires_grad=True)
    p.grad = Tensor(np.array([1e-3, -1e3, 7.0, -1e-2]))
    optim.Adam([p], lr=0.25, eps=0).step()
    np.testing.assert_allclose(p.array, [-0.25, 0.25, -0.25, 0.25], rtol=1e-12)


def test_adamw_decays_all_weights_alike():
    p = Tensor(np.array([10.0, 10.0]), requires_grad=True)
    p.grad = Tensor(np.array([0.0, 0.0]))
    optim.AdamW([p], lr=0.1, weight_decay=0.5).step()
    np.testing.assert_allclose(p.array, [9.5, 9.5], rtol=1e-15)


def test_step_writes_in_place_and_leaves_the_gradient():
    for make in (lambda p: optim.SGD(p, 0.1, 0.9, weight_decay=0.1, maximize=True), lambda p: optim.AdamW(p)):
        p = parameter(3, 4)
        optimizer = make([p])
        give_grads(optimizer, 1)
        array, grad = p.array, p.grad.array.copy()
        optimizer.step()
        optimizer.step()
        assert p.array is array
        np.testing.assert_array_equal(p.grad.array, grad)


def test_step_bumps_the_version_so_that_autograd_notices():
    for make in (optim.SGD, optim.Adam):
        p, untouched = parameter(3), parameter(3)
        optimizer = make([p, untouched], lr=0.1)
        p.grad = Tensor(np.ones(3))
        before, before_untouched = p._version, untouched._version
        optimizer.step()
        assert p._version > before
        assert untouched._version == before_untouched


def test_step_between_forward_and_backward_is_an_error():
    p = parameter(3)
    loss = (p * p).sum()
    p.grad = Tensor(np.ones(3))
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match=r"modified|in-place|in place"):
        loss.backward()


def test_step_calls_the_closure_with_gradients_enabled_and_returns_its_loss():
    p = Tensor(np.array([3.0]), requires_grad=True)
    optimizer = optim.SGD([p], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    from minires.autograd import no_grad

    with no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 9.0
    np.testing.assert_array_equal(p.array, [0.0])  # 3 - 0.5 * 6


def test_parameters_without_gradient_are_left_alone():
    with_grad, without = parameter(2), parameter(2)
    before = without.array.copy()
    optimizer = optim.Adam([with_grad, without], weight_decay=0.1)
    with_grad.grad = Tensor(np.ones(2))
    optimizer.step()
    np.testing.assert_array_equal(without.array, before)
    assert without not in optimizer.state


def test_float32_stays_float32_even_with_numpy_options():
    p = parameter(5, dtype="float32")
    optimizer = optim.SGD([p], lr=np.float64(0.1), momentum=np.float64(0.9), weight_decay=np.float64(0.1))
    give_grads(optimizer, 2)
    optimizer.step()
    assert p.array.dtype == np.float32
    assert optimizer.state[p]["momentum_buffer"].array.dtype == np.float32


@pytest.mark.parametrize("form", ["contiguous", "transposed", "sliced", "scalar"])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_blocked_update_equals_the_whole_one_for_every_memory_form(name, form):
    """Arrays larger than a block take another path than small ones; both must write to the parameter itself."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((600, 250))
    assert base.size > 2 * BLOCK
    make = {
        "contiguous": lambda a: a,
        "transposed": lambda a: a.T,
        "sliced": lambda a: a[::2, 1:],
        "scalar": lambda a: a[0, 0].copy().reshape(()),
    }[form]
    options = {"SGD": {"momentum": 0.9, "nesterov": True}, "Adam": {"amsgrad": True}}[name]

    def run(pieces: bool) -> np.ndarray:
        array = make(base.copy())
        grads = [np.array(make(np.random.default_rng(seed).standard_normal(base.shape)), order="C") for seed in (1, 2)]
        if pieces:  # one parameter for each row: never more than a block
            params = [Tensor(row, requires_grad=True) for row in np.atleast_2d(array)]
            split = [list(np.atleast_2d(grad)) for grad in grads]
        else:
            params, split = [Tensor(array, requires_grad=True)], [[grad] for grad in grads]
        optimizer = getattr(optim, name)(params, lr=0.1, weight_decay=0.01, **options)
        for step in split:
            for p, grad in zip(params, step, strict=True):
                p.grad = Tensor(np.asarray(grad))
            optimizer.step()
        return array

    np.testing.assert_array_equal(run(pieces=False), run(pieces=True))


def test_step_is_taken_once_where_kernels_are_checked():
    """MINIRES_CHECK runs each kernel beside the reference; a kernel that writes to its arguments must not be run twice."""
    for name in ("SGD", "Adam"):
        results = []
        for check in (False, True):
            p = Tensor(np.ones(3), requires_grad=True)
            p.grad = Tensor(np.full(3, 2.0))
            with use_kernels("reference", check=check):
                getattr(optim, name)([p], lr=0.1).step()
            results.append(p.array)
        np.testing.assert_array_equal(*results)


def test_blocks_cover_every_element_once():
    a, b = np.zeros(3 * BLOCK + 5), np.zeros(3 * BLOCK + 5)
    sizes = []
    for part_a, part_b in blocks(a, b):
        part_a += 1
        part_b += part_a
        sizes.append(part_a.size)
    assert (a == 1).all()
    assert (b == 1).all()
    assert max(sizes) == BLOCK


# ---- zero_grad ----


def test_zero_grad_forgets_or_fills():
    p = parameter(2)
    optimizer = optim.SGD([p, parameter(1)], lr=0.1)
    p.grad = Tensor(np.array([np.nan, 1.0]))
    kept = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is kept
    np.testing.assert_array_equal(p.grad.array, [0.0, 0.0])
    optimizer.zero_grad()
    assert p.grad is None


def test_zero_grad_does_not_write_into_a_recorded_gradient():
    p = Tensor(np.array([2.0]), requires_grad=True)
    (p * p * p).sum().backward(create_graph=True)
    recorded = p.grad
    optim.SGD([p], lr=0.1).zero_grad(set_to_none=False)
    assert recorded.item() == 12.0
    assert p.grad.item() == 0.0
    assert not p.grad.requires_grad
    p.grad = None  # breaks the cycle gradient -> graph -> parameter


# ---- groups ----


def test_groups_take_defaults_and_keep_their_own_options():
    a, b = parameter(2), parameter(3)
    optimizer = optim.SGD([{"params": a}, {"params": [b], "lr": 0.5}], lr=0.1, momentum=0.9)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.5]
    assert [g["momentum"] for g in optimizer.param_groups] == [0.9, 0.9]
    assert optimizer.param_groups[0]["params"][0] is a
    c = parameter(1)
    optimizer.add_param_group({"params": (p for p in [c]), "weight_decay": 1.0})
    assert optimizer.param_groups[2]["params"][0] is c
    assert optimizer.defaults["lr"] == 0.1


def test_named_parameters_keep_their_names():
    optimizer = optim.SGD([("weight", parameter(2)), ("bias", parameter(1))], lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_repr_is_torchs():
    optimizer = optim.SGD([parameter(1)], lr=0.1)
    assert repr(optimizer) == (
        "SGD (\nParameter Group 0\n    dampening: 0\n    differentiable: False\n    foreach: None\n    fused: None\n"
        "    lr: 0.1\n    maximize: False\n    momentum: 0\n    nesterov: False\n    weight_decay: 0\n)"
    )


SHARED = parameter(2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], r"SGD: got an empty parameter list; was it a generator"),
        (SHARED, r"SGD: params must be an iterable of tensors or dicts, got one Tensor; write \[tensor\]"),
        ([1.0], r"SGD.add_param_group: params\[0\] must be a Tensor, got float"),
        ([SHARED, SHARED], r"params\[1\] is already in parameter group 0"),
        ([{"params": [SHARED]}, {"params": [SHARED]}], r"params\[0\] is already in parameter group 0"),
        ([{"params": {SHARED}}], r"params is a set, whose order changes between runs; pass a list"),
        ([{"lr": 1.0}], r"expected a dict with a 'params' entry, got a dict with keys \['lr'\]"),
        ([{"params": [SHARED]}, SHARED], r"expected a dict with a 'params' entry, got Tensor"),
        ([("w", SHARED), parameter(1)], r"either all parameters are named or none; 1 of 2 are"),
        ([{"params": [("w", SHARED)]}, {"params": [parameter(1)]}], r"the parameters of all groups are named or none"),
    ],
)
def test_optimizer_refuses_bad_parameters(params, message):
    with pytest.raises(ArgumentError, match=message):
        optim.SGD(params, lr=0.1)


def test_optimizer_refuses_a_non_leaf():
    with pytest.raises(
        ArgumentError, match=r"SGD.add_param_group: params\[0\] is not a leaf, it was computed by .*detach"
    ):
        optim.SGD([SHARED * 2], lr=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.SGD(p, lr=-0.1), r"SGD: lr must be at least 0, got -0.1"),
        (lambda p: optim.SGD(p, lr=float("nan")), r"SGD: lr must be at least 0, got nan"),
        (lambda p: optim.SGD(p, lr="0.1"), r"SGD: lr must be a number, got '0.1' of type str"),
        (lambda p: optim.SGD(p, momentum=-1), r"SGD: momentum must be at least 0, got -1"),
        (lambda p: optim.SGD(p, weight_decay=-1), r"SGD: weight_decay must be at least 0, got -1"),
        (lambda p: optim.SGD(p, nesterov=True), r"SGD: nesterov needs momentum > 0 and dampening = 0, got momentum 0"),
        (lambda p: optim.SGD(p, momentum=0.9, dampening=0.1, nesterov=True), r"dampening = 0, got .*dampening 0.1"),
        (lambda p: optim.Adam(p, lr=-1), r"Adam: lr must be at least 0, got -1"),
        (lambda p: optim.Adam(p, eps=-1), r"Adam: eps must be at least 0, got -1"),
        (lambda p: optim.Adam(p, betas=(1.0, 0.9)), r"Adam: betas\[0\] must be at least 0 and below 1, got 1.0"),
        (lambda p: optim.AdamW(p, betas=(0.9, -0.1)), r"AdamW: betas\[1\] must be at least 0 and below 1, got -0.1"),
        (lambda p: optim.Adam(p, betas=0.9), r"Adam: betas must be two numbers \(beta1, beta2\), got 0.9"),
        (lambda p: optim.AdamW(p, weight_decay=-1), r"AdamW: weight_decay must be at least 0, got -1"),
    ],
)
def test_optimizer_refuses_bad_options(make, message):
    with pytest.raises(ArgumentError, match=message):
        make([parameter(1)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.SGD(p, lr=Tensor(np.array(0.1))), r"SGD: lr as a Tensor is not supported; .*lr.item\(\)"),
        (lambda p: optim.SGD(p, fused=True), r"SGD: fused=True is not supported; leave it out"),
        (lambda p: optim.Adam(p, capturable=True), r"Adam: capturable=True is not supported; leave it out"),
        (lambda p: optim.RMSprop(p), r"optim.RMSprop is not part of minires; use optim.SGD"),
    ],
)
def test_optimizer_names_what_is_outside_the_subset(make, message):
    with pytest.raises(UnsupportedError, match=message):
        make([parameter(1)])


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Sgd'"):
        optim.Sgd  # noqa: B018


def test_a_subclass_without_update_says_so():
    class Lazy(optim.Optimizer):
        pass

    with pytest.raises(NotImplementedError, match=r"Lazy must define step\(\) or _update\(group\)"):
        Lazy([parameter(1)], {}).step()


# ---- state dicts ----


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_state_dict_round_trip_midway_continues_exactly(name):
    options = {"SGD": {"momentum": 0.9}, "Adam": {"amsgrad": True}, "AdamW": {}}[name]

    def make():
        params = [parameter(3, 2, seed=1), parameter(4, seed=2)]
        return params, getattr(optim, name)(
            [{"params": params[:1]}, {"params": params[1:], "lr": 0.3}], lr=0.1, **options
        )

    params, straight = make()
    for step in range(6):
        give_grads(straight, step)
        straight.step()

    first_params, first = make()
    for step in range(3):
        give_grads(first, step)
        first.step()
    second_params, second = make()
    for target, source in zip(second_params, first_params, strict=True):
        target.array[...] = source.array
    second.load_state_dict(first.state_dict())
    give_grads(first, 99)
    first.step()  # goes on alone: what was loaded is a copy
    for step in range(3, 6):
        give_grads(second, step)
        second.step()
    for expected, got in zip(params, second_params, strict=True):
        np.testing.assert_array_equal(got.array, expected.array)


def test_state_dict_has_torchs_form():
    p, q = parameter(2), parameter(3)
    optimizer = optim.Adam([{"params": [p]}, {"params": [q], "lr": 0.5}])
    give_grads(optimizer, 0)
    optimizer.step()
    state = optimizer.state_dict()
    assert [g["params"] for g in state["param_groups"]] == [[0], [1]]
    assert list(state["state"]) == [0, 1]
    assert list(state["state"][1]) == ["step", "exp_avg", "exp_avg_sq"]
    assert state["state"][1]["step"].array.dtype == np.float32
    assert state["state"][1]["step"].shape == ()


def test_load_state_dict_casts_to_the_parameters_dtype():
    p = parameter(2, dtype="float32")
    optimizer = optim.SGD([p], momentum=0.9)
    state = {"state": {0: {"momentum_buffer": np.array([1.0, 2.0])}}, "param_groups": [{"lr": 0.5, "params": [0]}]}
    optimizer.load_state_dict(state)
    assert optimizer.state[p]["momentum_buffer"].array.dtype == np.float32
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["momentum"] == 0.9  # the file lacks it: the default
    assert optimizer.param_groups[0]["params"][0] is p


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": 1}, r"SGD.load_state_dict: expected a dict with 'state' and 'param_groups', got a dict with keys"),
        ([], r"SGD.load_state_dict: expected a dict with 'state' and 'param_groups', got list"),
        (
            {"state": {}, "param_groups": [{"params": [0]}, {"params": [1]}]},
            r"this optimiser has 1 parameter groups of sizes \[1\], the state dict has 2 of sizes \[1, 1\]",
        ),
        (
            {"state": {}, "param_groups": [{"params": [0, 1]}]},
            r"has 1 parameter groups of sizes \[1\], .* 1 of sizes \[2\]",
        ),
        (
            {"state": {0: {"momentum_buffer": np.zeros(3)}}, "param_groups": [{"params": [0], "lr": 7}]},
            r"state\[0\]\['momentum_buffer'\] has shape \(3,\), its parameter \(2,\)",
        ),
    ],
)
def test_load_state_dict_refuses_and_changes_nothing(state, message):
    optimizer = optim.SGD([parameter(2)], lr=0.1, momentum=0.9)
    give_grads(optimizer, 0)
    optimizer.step()
    before = optimizer.state_dict()["state"][0]["momentum_buffer"].array.copy()
    with pytest.raises(StateDictError, match=message):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    np.testing.assert_array_equal(optimizer.state_dict()["state"][0]["momentum_buffer"].array, before)


def test_an_adam_checkpoint_loaded_into_adamw_decays_adamws_way():
    p = parameter(2)
    adamw = optim.AdamW([p])
    adamw.load_state_dict(optim.Adam([p], weight_decay=0.1).state_dict())
    assert adamw.param_groups[0]["decoupled_weight_decay"] is True
    assert adamw.param_groups[0]["weight_decay"] == 0.1
