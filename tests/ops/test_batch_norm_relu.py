"""batch_norm_relu in its every mode against PyTorch's relu(batch_norm(x) + shortcut), and against our separate operations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, GradError, ShapeError
from minires.kernels import reference
from minires.ops.activation import relu
from minires.ops.batch_norm import batch_norm
from minires.ops.batch_norm_relu import batch_norm_relu
from minires.tensor import Tensor
from tests.ops.test_batch_norm import MODES, SHAPES, buffers
from tests.strategies import in_memory_form, memory_forms, values
from tests.tolerances import assert_close
from tests.torch_oracle import compare, torch

TF = torch.nn.functional
joins = pytest.mark.parametrize("joined", [True, False])


def tensor(array):
    return Tensor(np.array(array))


def torchs(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, shortcut=None
):
    """The same in PyTorch's parts."""
    z = TF.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return TF.relu(z if shortcut is None else z + shortcut)


def parts(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, shortcut=None
):
    """The same in our own parts."""
    z = batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return relu(z if shortcut is None else z + shortcut)


def in_mode(function, wrap, mode, running, affine, joined, **options):
    """`function` of x[, weight, bias][, shortcut] in `mode`, with its own copies of the buffers."""

    def call(x, *rest):
        given_buffers = (
            (None, None) if "no running" in mode else [wrap(b.astype(x.numpy(force=True).dtype)) for b in running]
        )
        weight, bias = rest[:2] if affine else (None, None)
        shortcut = rest[-1] if joined else None
        return function(x, *given_buffers, weight, bias, training=mode != "eval", shortcut=shortcut, **options)

    return call


def draw(shape, affine, joined, dtype="float64", form="contiguous", seed=0):
    """x[, weight, bias][, shortcut]; the values of each channel of x lie at least 0.25 apart (see test_batch_norm)."""
    random = np.random.default_rng(seed)
    rest = int(np.prod(shape)) // shape[1]
    x = np.stack([random.permutation(rest) * 0.5 + random.uniform(-0.1, 0.1, rest) for _ in range(shape[1])], axis=1)
    arrays = [np.moveaxis(x.reshape(shape[0], *shape[2:], shape[1]), -1, 1)]
    arrays += [values((shape[1],), seed + k) for k in (1, 2)] if affine else []
    arrays += [values(shape, seed + 3)] if joined else []
    return [in_memory_form(a.astype(dtype), form) for a in arrays]


@given(
    shape=SHAPES,
    mode=st.sampled_from(MODES),
    affine=st.booleans(),
    joined=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    form=memory_forms(),
    eps=st.sampled_from([1e-5, 0.1]),
    seed=st.integers(0, 50),
)
@settings(deadline=None, max_examples=60)
def test_batch_norm_relu_equals_torch(shape, mode, affine, joined, dtype, form, eps, seed):
    """Two values in a channel without shortcut come out at +-weight + bias: no element lies at the kink by design."""
    running = buffers(shape[1], seed)
    compare(
        in_mode(batch_norm_relu, tensor, mode, running, affine, joined, eps=eps),
        in_mode(torchs, lambda a: torch.tensor(a), mode, running, affine, joined, eps=eps),
        *draw(shape, affine, joined, dtype, form, seed),
        dtype=dtype,
        n=16 * int(np.prod(shape)) // shape[1],
    )


@joins
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batch_norm_relu_is_its_parts_to_the_last_bit(dtype, mode, affine, joined):
    """On the reference kernels, values and first gradients alike."""
    arrays = draw((3, 4, 2, 3), affine, joined, dtype)
    grad_y = Tensor(values((3, 4, 2, 3), 9).astype(dtype))
    results = []
    for function in (batch_norm_relu, parts):
        leaves = [Tensor(a.copy(), requires_grad=True) for a in arrays]
        y = in_mode(function, tensor, mode, buffers(4), affine, joined)(*leaves)
        results.append((y, *minires.autograd.grad(y, leaves, grad_y)))
    for got, wanted in zip(*results, strict=True):
        assert got.array.dtype == dtype
        np.testing.assert_array_equal(got.array, wanted.array)


@joins
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_batch_norm_relu_derivatives_by_finite_differences(mode, affine, joined):
    call = in_mode(batch_norm_relu, tensor, mode, buffers(2, 4), affine, joined, eps=0.1)
    inputs = tuple(Tensor(a, requires_grad=True) for a in draw((2, 2, 3), affine, joined))
    y = call(*inputs).array
    assert 2 <= (y > 0).sum() <= y.size - 2, "both sides of the kink must be there"
    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs)


@joins
def test_batch_norm_relu_third_derivative_is_that_of_its_parts(joined):
    arrays = draw((3, 2, 2), True, joined)

    def third(function):
        t, *rest = (Tensor(a.copy(), requires_grad=True) for a in arrays)
        y = in_mode(function, tensor, "train", buffers(2), True, joined)(t, *rest)
        (first,) = minires.autograd.grad((y**3).sum(), t, create_graph=True)
        (second,) = minires.autograd.grad((first**2).sum(), t, create_graph=True)
        return minires.autograd.grad((second**2).sum(), t)[0].array

    expected = third(parts)
    assert np.abs(expected).max() > 0
    assert_close(third(batch_norm_relu), expected, "float64", 10)


@joins
@pytest.mark.parametrize("momentum", [0.0, 0.3, 1])
def test_batch_norm_relu_updates_the_running_statistics_as_batch_norm(momentum, joined):
    ours, theirs = ([Tensor(b.copy()) for b in buffers(2)] for _ in range(2))
    kept = [b.array for b in ours]
    for step in range(3):
        x = Tensor(3 * values((3, 2, 2), step) + 1)
        batch_norm_relu(x, *ours, training=True, momentum=momentum, shortcut=x if joined else None)
        batch_norm(x, *theirs, training=True, momentum=momentum)
        for a, b, array in zip(ours, theirs, kept, strict=True):
            np.testing.assert_array_equal(a.array, b.array)
            assert a.array is array, "the update must be in place"
    batch_norm_relu(x, *ours)  # evaluation leaves them alone
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.array, b.array)


def test_batch_norm_relu_update_after_eval_is_noticed_by_backward():
    running = [Tensor(b) for b in buffers(3)]
    x = Tensor(values((4, 3)), requires_grad=True)
    y = batch_norm_relu(x, *running)
    batch_norm_relu(x, *running, training=True)
    with pytest.raises(
        GradError, match="batch_norm_relu_eval: input 4 was saved for the backward pass and then changed"
    ):
        y.sum().backward()


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_relu_write_to_the_output_is_noticed_by_backward(training):
    """y is the mask: who overwrites it must be told."""
    x = Tensor(values((4, 3)), requires_grad=True)
    y = batch_norm_relu(x, *[Tensor(b) for b in buffers(3)], training=training)
    loss = y.sum()
    with minires.no_grad():
        y.fill_(1)
    with pytest.raises(GradError, match="output 0 was saved for the backward pass and then changed"):
        loss.backward()


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_relu_saves_no_more_than_it_needs(training):
    """x, y, weight and the statistics: of the sizes of x there are two, the mask is y."""
    leaves = [Tensor(a, requires_grad=True) for a in draw((3, 4, 5), True, True)]
    statistics = [Tensor(b) for b in buffers(4)]
    kept = []
    with minires.autograd.saved_tensors_hooks(lambda t: kept.append(t.array) or t, lambda t: t):
        y = batch_norm_relu(leaves[0], *statistics, *leaves[1:3], training=training, shortcut=leaves[3])
    large = [a for a in kept if a.size == leaves[0].array.size]
    assert len(large) == 2 and large[0] is leaves[0].array and large[1] is y.array
    assert len(kept) == (3 if training else 5)


@joins
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (0, 3, 2, 2), (2, 3, 0)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_relu_empty_batch(shape, training, joined):
    ours = [Tensor(b) for b in buffers(3)]
    theirs = [torch.tensor(b) for b in buffers(3)]
    compare(
        lambda x, w, b, s: batch_norm_relu(x, *ours, w, b, training=training, shortcut=s if joined else None),
        lambda x, w, b, s: torchs(x, *theirs, w, b, training=training, shortcut=s if joined else None),
        np.zeros(shape),
        values((3,)),
        values((3,)),
        np.zeros(shape),
        second=False,
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.array, b.numpy())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("where", ["x", "shortcut"])
def test_batch_norm_relu_nan_and_infinity_equal_torch(bad, training, where):
    x, shortcut = values((4, 2, 3)), values((4, 2, 3), 1)
    (x if where == "x" else shortcut)[1, 0, 2] = bad
    compare(
        lambda x, s: batch_norm_relu(x, *[Tensor(b) for b in buffers(2)], training=training, shortcut=s),
        lambda x, s: torchs(x, *[torch.tensor(b) for b in buffers(2)], training=training, shortcut=s),
        x,
        shortcut,
        second=False,
    )


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_relu_of_a_zero_has_gradient_zero(training):
    """shortcut = -batch_norm(x): y = 0 everywhere, and so is every gradient, as torch's."""
    x = Tensor(values((4, 3)), requires_grad=True)
    running = [Tensor(b) for b in buffers(3)]
    z = batch_norm(x, *[r.clone() for r in running], training=training).detach()
    shortcut = (-z).requires_grad_()
    y = batch_norm_relu(x, *running, training=training, shortcut=shortcut)
    assert not y.array.any()
    (y * 5).sum().backward()
    assert not x.grad.array.any() and not shortcut.grad.array.any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "shortcut"])
def test_batch_norm_relu_gives_only_the_gradients_that_are_wanted(wanted, training):
    names = ("x", "weight", "bias", "shortcut")
    arrays = dict(zip(names, draw((4, 2, 3), True, True), strict=True))
    ours = {name: Tensor(a.copy(), requires_grad=name == wanted) for name, a in arrays.items()}
    theirs = {name: torch.tensor(a, requires_grad=name == wanted) for name, a in arrays.items()}
    for function, wrap, leaves in ((batch_norm_relu, Tensor, ours), (torchs, torch.tensor, theirs)):
        x, *rest = leaves.values()
        y = function(x, *[wrap(b) for b in buffers(2)], *rest[:2], training=training, shortcut=rest[2])
        (y**2).sum().backward()
    for name, t in ours.items():
        if name == wanted:
            assert_close(t.grad.array, theirs[name].grad.numpy(), "float64", 12)
        else:
            assert t.grad is None


@pytest.mark.usefixtures("reference_kernels")
@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_norm_relu_uses_the_kernel_set(monkeypatch, mode, requires_grad):
    """One kernel each way, and no gradient of a shortcut is computed that nobody wants."""
    calls = []
    for name in (f"batch_norm_relu_{mode}", f"batch_norm_relu_{mode}_backward"):
        real = getattr(reference, name)
        monkeypatch.setattr(reference, name, lambda *a, n=name, r=real: calls.append((n, a[-1])) or r(*a))
    x = Tensor(values((4, 2)), requires_grad=True)
    shortcut = Tensor(values((4, 2), 1), requires_grad=requires_grad)
    batch_norm_relu(x, *[Tensor(b) for b in buffers(2)], training=mode == "train", shortcut=shortcut).sum().backward()
    (forward, given_shortcut), (backward, has_shortcut) = calls
    assert (forward, backward) == (f"batch_norm_relu_{mode}", f"batch_norm_relu_{mode}_backward")
    assert given_shortcut is shortcut.array and has_shortcut is requires_grad


def test_batch_norm_relu_of_one_tensor_twice():
    """The shortcut of the input itself: both gradients arrive."""
    compare(
        lambda a: batch_norm_relu(a, None, None, training=True, shortcut=a),
        lambda a: torchs(a, None, None, training=True, shortcut=a),
        values((5, 2)),
        n=5,
    )


MEAN, VAR = Tensor(np.zeros(3)), Tensor(np.ones(3))
REFUSED = {
    "not a tensor": (
        lambda x: batch_norm_relu(x.array, MEAN, VAR),
        DTypeError,
        "batch_norm_relu: input must be a Tensor, got ndarray",
    ),
    "integers": (
        lambda x: batch_norm_relu(x.long(), MEAN, VAR),
        DTypeError,
        "batch_norm_relu: input needs a floating dtype, got int64",
    ),
    "rank": (
        lambda x: batch_norm_relu(x[0], MEAN, VAR),
        ShapeError,
        r"batch_norm_relu: input needs at least 2 dimensions \(N, C, \*\), got input.shape = \(3,\)",
    ),
    "one running statistic": (
        lambda x: batch_norm_relu(x, MEAN, None, training=True),
        ArgumentError,
        "batch_norm_relu: running_mean and running_var must both be given or both be None",
    ),
    "eval without statistics": (
        lambda x: batch_norm_relu(x, None, None),
        ArgumentError,
        "batch_norm_relu: running_mean and running_var must be given where training=False",
    ),
    "weight of another size": (
        lambda x: batch_norm_relu(x, MEAN, VAR, Tensor(np.zeros((3, 1)))),
        ShapeError,
        r"batch_norm_relu: weight must have shape \(3,\).*got \(3, 1\)",
    ),
    "statistics require grad": (
        lambda x: batch_norm_relu(x, Tensor(np.zeros(3), requires_grad=True), VAR),
        GradError,
        "batch_norm_relu: running_mean must not require grad",
    ),
    "two dtypes": (
        lambda x: batch_norm_relu(x.float(), MEAN, VAR),
        DTypeError,
        "batch_norm_relu: all tensors need one dtype, got input float32, running_mean float64, running_var float64",
    ),
    "momentum None": (
        lambda x: batch_norm_relu(x, MEAN, VAR, training=True, momentum=None),
        ArgumentError,
        "batch_norm_relu: momentum must be a number, got None",
    ),
    "eps no number": (
        lambda x: batch_norm_relu(x, MEAN, VAR, eps="1"),
        DTypeError,
        "batch_norm_relu: eps must be a number, got '1'",
    ),
    "eps zero": (
        lambda x: batch_norm_relu(x, None, None, training=True, eps=0),
        ArgumentError,
        "batch_norm_relu: eps must be positive in training, got 0",
    ),
    "one value per channel": (
        lambda x: batch_norm_relu(x[:1], None, None, training=True),
        ShapeError,
        r"batch_norm_relu: training needs more than one value per channel.*got input.shape = \(1, 3\)",
    ),
    "shortcut no tensor": (
        lambda x: batch_norm_relu(x, MEAN, VAR, shortcut=1.0),
        DTypeError,
        "batch_norm_relu: shortcut must be a Tensor, got float",
    ),
    "shortcut of another shape": (
        lambda x: batch_norm_relu(x, MEAN, VAR, shortcut=x[:1]),
        ShapeError,
        r"batch_norm_relu: shortcut must have input's shape \(4, 3\), got \(1, 3\); give the block a projection",
    ),
    "shortcut of another dtype": (
        lambda x: batch_norm_relu(x, MEAN, VAR, shortcut=x.float()),
        DTypeError,
        "batch_norm_relu: all tensors need one dtype, got input float64, shortcut float32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_batch_norm_relu_refuses(case):
    call, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        call(Tensor(values((4, 3))))


def test_batch_norm_relu_refusal_leaves_the_buffers_alone():
    running = [Tensor(b) for b in buffers(3)]
    before = [b.array.copy() for b in running]
    x = Tensor(values((4, 3)))
    with pytest.raises(ShapeError):
        batch_norm_relu(x, *running, training=True, shortcut=x[:2])
    for a, b in zip(running, before, strict=True):
        np.testing.assert_array_equal(a.array, b)
