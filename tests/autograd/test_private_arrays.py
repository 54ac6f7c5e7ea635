"""Private arrays: from one structured operation to the next as they are, plain for everyone else, and the same numbers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minires
from minires.autograd import Op, apply, checkpoint, saved_tensors_hooks
from minires.backend import use_kernels
from minires.errors import GradError
from minires.kernels.private import PrivateArray, takes_plain
from minires.nn import functional as F
from tests.autograd.channels_last import ChannelsLast, kernels
from tests.strategies import values
from tests.tolerances import assert_close


@pytest.fixture(autouse=True)
def private_kernels() -> Iterator[None]:
    ChannelsLast.converted = ChannelsLast.added = 0
    with use_kernels(kernels, check=False):
        yield


def image(seed: int = 0, requires_grad: bool = False) -> minires.Tensor:
    return minires.Tensor(values((2, 3, 5, 4), seed), requires_grad=requires_grad)


def private(seed: int = 0) -> minires.Tensor:
    """A tensor that holds a private array."""
    return minires.Tensor(ChannelsLast.of(values((2, 3, 5, 4), seed)))


WEIGHTS = [values((3, 3, 3, 3), 1), values((3,), 2), values((3,), 3), values((3, 3, 1, 1), 4)]


def parameters() -> list[minires.Tensor]:
    return [minires.Tensor(w.copy(), requires_grad=True) for w in WEIGHTS]


def block(x: minires.Tensor, w: minires.Tensor, scale: minires.Tensor, shift: minires.Tensor, p: minires.Tensor) -> Any:
    """Every structured operation, and a shortcut: x is used twice, and so is h."""
    h = F.relu(F.batch_norm(F.conv2d(x, w, padding=1), None, None, scale, shift, True))
    joined = F.residual_relu(F.conv2d(h, p), h) + F.batch_norm(h, scale.detach(), scale.detach().abs(), scale, shift)
    return F.adaptive_avg_pool2d(F.max_pool2d(F.avg_pool2d(joined, 3, 1, 1), 2), (2, 1))


def loss_of(y: minires.Tensor) -> minires.Tensor:
    return (y * minires.Tensor(values(tuple(y.shape), 9))).sum()


def gradients(kernel_set: Any, function: Any = block) -> list[np.ndarray]:
    """The value of loss(function(x, parameters)) and its gradients on a kernel set."""
    inputs = [image(requires_grad=True), *parameters()]
    with use_kernels(kernel_set, check=False):
        loss = loss_of(function(*inputs))
        loss.backward()
    return [loss.array, *(t.grad.array for t in inputs if t.grad is not None)]


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert type(a) is np.ndarray
        assert a.flags.c_contiguous
        assert_close(a, b, "float64", 100)


def test_a_structured_chain_is_not_converted() -> None:
    y = block(image(requires_grad=True), *parameters())
    assert isinstance(y.raw, ChannelsLast)
    assert (ChannelsLast.converted, ChannelsLast.added) == (0, 1)
    assert (tuple(y.shape), y.ndim, y.dtype, y.numel(), y.size(1), y.device.type) == (
        (2, 3, 2, 1),
        4,
        minires.float64,
        12,
        3,
        "cpu",
    )
    assert (y.nbytes, y.itemsize, y.is_floating_point(), len(y)) == (96, 8, True, 2)
    assert ChannelsLast.converted == 0
    loss = loss_of(y)
    assert ChannelsLast.converted == 1
    loss.backward()
    # Of the whole backward pass only the gradient of the image, a leaf, is made plain.
    assert ChannelsLast.converted == 2


def test_a_structured_chain_computes_what_the_reference_does() -> None:
    assert_same(gradients(kernels), gradients("reference"))


def test_gradients_of_several_branches_add_up_in_private() -> None:
    def fan(x: Any, w: Any, *_: Any) -> Any:
        h = F.conv2d(x, w, padding=1)
        return F.relu(h) + F.avg_pool2d(h, 3, 1, 1) + F.max_pool2d(h, 3, 1, 1)

    inputs = [image(requires_grad=True), *parameters()]
    y = fan(*inputs)
    grad_y = private(5)
    before = grad_y.raw.nhwc.copy()
    ChannelsLast.added = 0
    y.backward(grad_y)
    assert ChannelsLast.added == 2  # one new sum, then one in place
    assert np.array_equal(grad_y.raw.nhwc, before)
    h = F.relu(inputs[0])
    (h + h).backward(grad_y)  # both branches get the very same tensor, the caller's own
    assert np.array_equal(grad_y.raw.nhwc, before)
    inputs = [image(requires_grad=True), *parameters()]
    fan(*inputs).backward(grad_y)
    with use_kernels("reference"):
        twins = [image(requires_grad=True), *parameters()]
        fan(*twins).backward(grad_y)
    assert_same([t.grad.array for t in inputs[:2]], [t.grad.array for t in twins[:2]])


def test_private_and_plain_gradients_add_up() -> None:
    def mixed(x: Any, w: Any, *_: Any) -> Any:
        h = F.conv2d(x, w, padding=1)
        return h * h + F.relu(h) + h.exp() + F.relu(h)

    assert_same(gradients(kernels, mixed), gradients("reference", mixed))


def test_other_operations_get_plain_arrays_and_convert_once() -> None:
    x = private()
    plain = x.raw.logical.copy()
    y = x * 2 + x.exp()
    assert ChannelsLast.converted == 1
    assert type(x.raw) is np.ndarray
    assert_close(y.array, plain * 2 + np.exp(plain), "float64")
    assert isinstance(F.relu(x).raw, ChannelsLast)  # and a plain one may come back to a structured operation


class Probe(Op):
    """Notes the types of what forward gets."""

    name = "probe"
    seen: tuple[type, ...] = ()

    @staticmethod
    def forward(ctx: Any, *arrays: Any) -> Any:
        Probe.seen = tuple(type(a) for a in arrays)
        return np.zeros(())


class StructuredProbe(Probe):
    structured = True


class AlikeProbe(Probe):
    structured = alike = True


@pytest.mark.parametrize(
    ("op", "kernel_set", "second", "seen"),
    [
        (Probe, kernels, private(), (np.ndarray, np.ndarray)),
        (StructuredProbe, kernels, private(), (ChannelsLast, ChannelsLast)),
        (StructuredProbe, kernels, image(), (ChannelsLast, np.ndarray)),
        (StructuredProbe, "reference", private(), (np.ndarray, np.ndarray)),
        (AlikeProbe, kernels, private(), (ChannelsLast, ChannelsLast)),
        (AlikeProbe, kernels, image(), (np.ndarray, np.ndarray)),
        (AlikeProbe, kernels, private().raw, (np.ndarray, ChannelsLast)),  # given as it is, not as a tensor
        (AlikeProbe, kernels, minires.Tensor(ChannelsLast.of(values((1, 3, 1, 1), 0))), (np.ndarray, np.ndarray)),
        (AlikeProbe, "reference", private(), (np.ndarray, np.ndarray)),
    ],
)
def test_what_forward_gets(op: Any, kernel_set: Any, second: Any, seen: Any) -> None:
    second = copy.copy(second)  # cases share it, and converting would change it for the next
    with use_kernels(kernel_set):
        apply(op, private(), second)
    assert Probe.seen == seen


def test_sums_of_unequal_shapes_and_numbers_are_plain() -> None:
    assert type((private() + 1).raw) is np.ndarray
    small = minires.Tensor(ChannelsLast.of(values((1, 3, 1, 1), 1)))
    total = private() + small
    assert type(total.raw) is np.ndarray
    assert_close(total.array, values((2, 3, 5, 4), 0) + values((1, 3, 1, 1), 1), "float64")
    both = private(1) + private(2)
    assert isinstance(both.raw, ChannelsLast)
    assert_close(both.array, values((2, 3, 5, 4), 1) + values((2, 3, 5, 4), 2), "float64")


def test_another_kernel_set_in_the_middle() -> None:
    def switched(x: Any, w: Any, scale: Any, shift: Any, p: Any) -> Any:
        h = F.relu(F.conv2d(x, w, padding=1))
        with use_kernels("reference"):
            h = F.batch_norm(F.conv2d(h, p), None, None, scale, shift, True)
            assert type(h.raw) is np.ndarray
        return F.max_pool2d(F.relu(h), 2)

    assert_same(gradients(kernels, switched), gradients("reference", switched))


def test_backward_on_another_kernel_set() -> None:
    inputs = [image(requires_grad=True), *parameters()]
    loss = loss_of(block(*inputs))
    with use_kernels("reference"):
        loss.backward()
    assert_same([loss.array, *(t.grad.array for t in inputs)], gradients("reference"))


def test_second_derivatives() -> None:
    def penalised(kernel_set: Any) -> list[np.ndarray]:
        inputs = [image(requires_grad=True), *parameters()]
        with use_kernels(kernel_set, check=False):
            first = minires.autograd.grad(loss_of(block(*inputs)), inputs, create_graph=True)
            sum((g * g).sum() for g in first).backward()
        return [t.grad.array for t in inputs]

    assert_same(penalised(kernels), penalised("reference"))


def test_create_graph_leaves_plain_gradients() -> None:
    x = image(requires_grad=True)
    F.relu(x).backward(private(1), create_graph=True)
    assert type(x.grad.raw) is np.ndarray


def test_checkpoint_and_saved_tensors_hooks() -> None:
    def again(*inputs: Any) -> Any:
        return checkpoint(block, *inputs)

    packed = []

    def hooked(*inputs: Any) -> Any:
        def pack(t: Any) -> Any:
            packed.append(type(t.raw))
            return t.numpy(force=True).copy()

        with saved_tensors_hooks(pack, minires.Tensor):
            return block(*inputs)

    expected = gradients("reference")
    assert_same(gradients(kernels, again), expected)
    assert ChannelsLast.converted == 2  # the result's and the image's gradient, as without a checkpoint
    assert_same(gradients(kernels, hooked), expected)
    assert ChannelsLast in packed


def test_saved_values_stay_private() -> None:
    x = image(requires_grad=True)
    h = F.relu(F.relu(x))
    (saved,) = h.grad_fn.saved_tensors
    assert isinstance(saved.raw, ChannelsLast)
    assert saved.raw is h.raw
    _ = saved.array
    assert isinstance(h.raw, ChannelsLast)  # a saved value that is converted is so for itself


def test_hooks_get_tensors_whose_arrays_are_plain() -> None:
    x, w = image(requires_grad=True), parameters()[0]
    h = F.conv2d(x, w, padding=1)
    y = F.relu(h)
    seen = []
    h.register_hook(lambda g: seen.append(type(g.raw)))
    h.register_hook(lambda g: seen.append(type(g.array)))
    h.register_hook(lambda g: g * 2)
    h.retain_grad()
    y.backward(private(1))
    assert seen == [ChannelsLast, np.ndarray]
    expected = 2 * values((2, 3, 5, 4), 1) * (y.array > 0)
    assert type(h.grad.raw) is np.ndarray
    assert_close(h.grad.array, expected, "float64")


def test_retained_and_captured_gradients() -> None:
    x, w = image(requires_grad=True), parameters()[0]
    h = F.conv2d(x, w, padding=1)
    h.retain_grad()
    y = F.relu(h)
    y.backward(private(1), retain_graph=True)
    assert type(h.grad.raw) is np.ndarray
    kept, h.grad = h.grad.array, None
    (captured,) = minires.autograd.grad(y, h, private(1), retain_graph=True)
    assert isinstance(captured.raw, ChannelsLast)
    assert np.array_equal(captured.array, kept)
    other = image(requires_grad=True)
    minires.autograd.backward(F.relu(other), private(1), inputs=[other])
    assert type(other.grad.raw) is np.ndarray


def test_anomaly_detection_sees_nan_in_private_gradients() -> None:
    x = image(requires_grad=True)
    bad = private(1)
    bad.raw.nhwc[0, 0, 0, 0] = np.nan
    with minires.autograd.detect_anomaly(), pytest.raises(GradError, match="avg_pool2d: backward returned NaN"):
        F.avg_pool2d(x, 1).backward(bad)


def test_in_place_operations_keep_private_arrays_private() -> None:
    """torchvision's blocks: `out += identity; relu(out, inplace=True)`."""

    def written(x: Any, w: Any, scale: Any, shift: Any, p: Any) -> Any:
        h = F.conv2d(x, w, padding=1)
        out = F.batch_norm(F.conv2d(h, p), None, None, scale, shift, True)
        out += h
        F.relu(out, inplace=True)
        if kernels_are_ours:
            assert isinstance(out.raw, ChannelsLast)
        return F.max_pool2d(out, 2)

    kernels_are_ours = True
    ours = gradients(kernels, written)
    kernels_are_ours = False
    assert_same(ours, gradients("reference", written))


def test_in_place_writes_after_private_are_seen() -> None:
    x = image(requires_grad=True)
    h = F.relu(x)
    held = h.raw
    h.mul_(2)
    assert type(h.raw) is np.ndarray
    assert_close(h.array, 2 * held.logical, "float64")
    h[0] = 0
    assert not h.array[0].any()
    assert held.logical[0].any()  # the private array itself is never written
    y = F.relu(F.relu(x))
    saved_by_relu = y.relu()
    y.detach().zero_()  # detach shares memory, so the write is noticed
    assert not y.array.any()
    with pytest.raises(GradError, match="changed by an in-place operation"):
        loss_of(y * saved_by_relu).backward()


def test_an_in_place_result_is_copied_where_it_is_another_tensor() -> None:
    target, source = private(), image(1)
    minires.autograd.run_inplace("take", lambda old, new: new, target, source)
    assert np.array_equal(target.array, source.array)
    target.zero_()
    assert source.array.all()


def test_views_and_data_share_memory_with_a_private_tensor() -> None:
    for make in (lambda t: t.view(-1), lambda t: t[0], lambda t: t.detach(), lambda t: t.data):
        x = private()
        make(x).fill_(7)
        assert make(x).array.max() == 7
        assert np.shares_memory(make(x).array, x.array)


def test_no_grad_keeps_private_arrays_and_a_leaf_made_of_one_works() -> None:
    with minires.no_grad():
        y = F.relu(F.conv2d(image(), parameters()[0], padding=1))
    assert isinstance(y.raw, ChannelsLast)
    assert not y.requires_grad
    y.requires_grad_()
    F.relu(y).backward(private(1))
    assert type(y.grad.raw) is np.ndarray
    assert isinstance(y.raw, ChannelsLast)


def test_what_leaves_a_tensor_is_plain() -> None:
    x = private()
    expected = values((2, 3, 5, 4), 0)
    for plain in (x.numpy(), np.asarray(private()), private().tolist(), copy.deepcopy(private()).raw):
        assert not isinstance(plain, PrivateArray)
        assert np.array_equal(plain, expected)
    assert private()[0, 0, 0, 0].item() == expected[0, 0, 0, 0]
    assert repr(private()) == repr(minires.Tensor(expected))
    parameter = minires.nn.Parameter(private())
    assert type(parameter.raw) is np.ndarray
    assert np.array_equal(pickle.loads(pickle.dumps(parameter)).array, expected)
    holder = minires.nn.Module()
    holder.register_buffer("kept", private())
    assert np.array_equal(holder.state_dict()["kept"].array, expected)
    assert private().is_contiguous()
    assert private().contiguous().stride() == (60, 20, 4, 1)


def test_a_private_array_is_an_array_to_numpy() -> None:
    x = private().raw
    assert np.array_equal(np.asarray(x), values((2, 3, 5, 4), 0))
    assert np.asarray(x, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="ChannelsLast: a private array has no plain memory to share"):
        np.array(x, copy=False)
    assert (x.ndim, x.size, x.nbytes) == (4, 120, 960)
    assert repr(x) == "ChannelsLast(shape=(2, 3, 5, 4), dtype=float64)"
    assert takes_plain(lambda a, b=None: (type(a), type(b)))(x, b=x) == (np.ndarray, np.ndarray)
    for name, args in (("to_plain", ()), ("add", (x,)), ("iadd", (x,)), ("copy", ())):
        with pytest.raises(NotImplementedError, match=f"PrivateArray.{name}"):
            getattr(PrivateArray(), name)(*args)


def test_gradients_given_by_the_user_may_be_private() -> None:
    x = image(requires_grad=True)
    x.grad = private(1)
    F.relu(x).backward(private(2))
    assert type(x.grad.raw) is np.ndarray
    assert_close(x.grad.array, values((2, 3, 5, 4), 1) + values((2, 3, 5, 4), 2) * (x.array > 0), "float64")
