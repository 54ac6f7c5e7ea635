"""batch_norm in its every mode against PyTorch: outputs, buffers, first and second derivatives, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, GradError, ShapeError
from minires.kernels import reference
from minires.ops.batch_norm import batch_norm
from minires.tensor import Tensor
from tests.strategies import in_memory_form, memory_forms, values
from tests.tolerances import assert_close
from tests.torch_oracle import compare, torch

torch_batch_norm = torch.nn.functional.batch_norm
SHAPES = st.one_of(
    st.tuples(st.integers(2, 5), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(2, 4)),
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.just(1), st.integers(2, 3), st.integers(1, 2)),
)
MODES = ("train", "train, no running statistics", "eval")


def buffers(c, seed=9):
    """(running_mean, running_var) as arrays."""
    return values((c,), seed), values((c,), seed + 1, 0.5, 2.0)


def in_mode(function, wrap, mode, running, affine, **options):
    """`function` of x, weight, bias (the last two dropped if not affine), with its own copies of the buffers."""

    def call(x, *parameters):
        given_buffers = (
            (None, None) if "no running" in mode else [wrap(b.astype(x.numpy(force=True).dtype)) for b in running]
        )
        weight, bias = parameters if affine else (None, None)
        return function(x, *given_buffers, weight, bias, training=mode != "eval", **options)

    return call


def tensor(array):
    return Tensor(np.array(array))


@given(
    shape=SHAPES,
    mode=st.sampled_from(MODES),
    affine=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    form=memory_forms(),
    eps=st.sampled_from([1e-5, 0.1]),
    seed=st.integers(0, 50),
)
@settings(deadline=None, max_examples=50)
def test_batch_norm_equals_torch(shape, mode, affine, dtype, form, eps, seed):
    # Values at least 0.25 apart in each channel: where two of them meet, the second derivative grows as 1 / eps.
    random = np.random.default_rng(seed)
    rest = int(np.prod(shape)) // shape[1]
    x = np.stack([random.permutation(rest) * 0.5 + random.uniform(-0.1, 0.1, rest) for _ in range(shape[1])], axis=1)
    x = np.moveaxis(x.reshape(shape[0], *shape[2:], shape[1]), -1, 1).astype(dtype)
    arrays = [in_memory_form(x, form)]
    if affine:
        arrays += [in_memory_form(values((shape[1],), seed + k).astype(dtype), form) for k in (1, 2)]
    running = buffers(shape[1], seed)
    compare(
        in_mode(batch_norm, tensor, mode, running, affine, eps=eps),
        in_mode(torch_batch_norm, lambda a: torch.tensor(a), mode, running, affine, eps=eps),
        *arrays,
        dtype=dtype,
        n=16 * rest,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4, 2), (2, 2, 3), (2, 2, 2, 2)])
def test_batch_norm_derivatives_by_finite_differences(mode, affine, shape):
    call = in_mode(batch_norm, tensor, mode, buffers(2), affine, eps=0.1)
    inputs = [Tensor(values(shape, 1), requires_grad=True)]
    inputs += [Tensor(values((2,), k), requires_grad=True) for k in (2, 3)] if affine else []
    assert gradcheck(call, tuple(inputs))
    assert gradgradcheck(call, tuple(inputs))


def test_batch_norm_second_derivative_moves_inv_std():
    """The classic mistake holds inv_std constant. For y = x_hat and L = sum of c y, the Hessian must show it.

    Scaling x by (1 + t) about its mean scales dL/dx by 1 / (1 + t) (eps aside): the Hessian times (x - mean) is -dL/dx.
    """
    x = Tensor(values((6, 2), 1), requires_grad=True)
    c = Tensor(values((6, 2), 2))
    y = batch_norm(x, None, None, training=True, eps=1e-12)
    (grad,) = minires.autograd.grad((c * y).sum(), x, create_graph=True)
    direction = Tensor(x.array - x.array.mean(axis=0))
    (hessian_times_direction,) = minires.autograd.grad(grad, x, direction)
    assert_close(hessian_times_direction.array, -grad.array, "float64", 12)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_third_derivative_equals_elementary_operations(affine):
    """The judge is the formula written out: torch's own batch_norm holds its saved statistics constant from here on."""
    x, weight = values((5, 2), 1), values((2,), 2)

    def written_out(t, _mean, _var, w, _bias, training):
        centred = t - t.mean(0)
        x_hat = centred / ((centred**2).mean(0) + 1e-5).sqrt()
        return x_hat if w is None else x_hat * w

    def third(function, leaf, grad):
        t, w = leaf(x), leaf(weight) if affine else None
        y = function(t, None, None, w, None, training=True)
        (first,) = grad((y**3).sum(), t)
        (second,) = grad((first**2).sum(), t)
        return grad((second**2).sum(), t)[0]

    ours = third(
        batch_norm,
        lambda a: Tensor(a.copy(), requires_grad=True),
        lambda y, t: minires.autograd.grad(y, t, create_graph=True),
    )
    theirs = third(
        written_out,
        lambda a: torch.tensor(a, requires_grad=True),
        lambda y, t: torch.autograd.grad(y, t, create_graph=True),
    )
    assert_close(ours.array, theirs.detach().numpy(), "float64", 10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.3, 1.0, 1])
@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 3, 2), (2, 2, 1, 1)])
def test_batch_norm_running_statistics_equal_torch(dtype, momentum, shape):
    ours = [Tensor(b.astype(dtype)) for b in buffers(2)]
    theirs = [torch.tensor(b.astype(dtype)) for b in buffers(2)]
    kept = [b.array for b in ours]
    for step in range(3):
        x = (3 * values(shape, step) + 1).astype(dtype)
        batch_norm(Tensor(x), *ours, training=True, momentum=momentum)
        torch_batch_norm(torch.tensor(x), *theirs, training=True, momentum=momentum)
        for a, b, array in zip(ours, theirs, kept, strict=True):
            assert_close(a.array, b.numpy(), dtype, 12)
            assert a.array is array, "the update must be in place"
            assert not a.requires_grad and a.grad_fn is None


def test_batch_norm_eval_leaves_the_buffers_alone():
    running = [Tensor(b) for b in buffers(3)]
    before = [b.array.copy() for b in running]
    batch_norm(Tensor(values((4, 3))), *running, training=False)
    for a, b in zip(running, before, strict=True):
        np.testing.assert_array_equal(a.array, b)


def test_batch_norm_update_after_eval_is_noticed_by_backward():
    """eval, then train on the same buffers, then backward of the first: the values it needs have been overwritten."""
    running = [Tensor(b) for b in buffers(3)]
    x = Tensor(values((4, 3)), requires_grad=True)
    y = batch_norm(x, *running, training=False)
    batch_norm(x, *running, training=True)
    with pytest.raises(GradError, match="batch_norm_eval: input 3 was saved for the backward pass and then changed"):
        y.sum().backward()


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (0, 3, 2, 2), (2, 3, 0)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_empty_batch(shape, training):
    ours = [Tensor(b) for b in buffers(3)]
    theirs = [torch.tensor(b) for b in buffers(3)]
    compare(
        lambda x, w, b: batch_norm(x, *ours, w, b, training=training),
        lambda x, w, b: torch_batch_norm(x, *theirs, w, b, training=training),
        np.zeros(shape),
        values((3,)),
        values((3,)),
        second=False,
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.array, b.numpy())


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_empty_batch_has_zero_second_derivatives(training):
    x, w = Tensor(np.zeros((0, 3, 2)), requires_grad=True), Tensor(np.ones(3), requires_grad=True)
    y = batch_norm(x, *[Tensor(b) for b in buffers(3)], w, None, training=training)
    first = minires.autograd.grad(y.sum(), (x, w), create_graph=True)
    second = minires.autograd.grad(first[1].sum(), w, allow_unused=True)[0]
    assert second is None or not second.array.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_nan_and_infinity_stay_in_their_channel(bad, training):
    x = values((4, 2, 3))
    x[1, 0, 2] = bad
    compare(
        lambda x: batch_norm(x, *[Tensor(b) for b in buffers(2)], training=training),
        lambda x: torch_batch_norm(x, *[torch.tensor(b) for b in buffers(2)], training=training),
        x,
        second=False,
    )
    y = batch_norm(Tensor(x), *[Tensor(b) for b in buffers(2)], training=training)
    assert np.isfinite(y.array[:, 1]).all() and not np.isfinite(y.array[1, 0, 2])


def test_batch_norm_float32_with_a_large_mean():
    """A mean of 10,000 and a deviation of 0.1: the variance must not come out of a difference of squares."""
    x = (1e4 + 0.1 * np.random.default_rng(0).standard_normal((32, 2, 4, 4))).astype(np.float32)
    y = batch_norm(Tensor(x), None, None, training=True)
    wide = x.astype(np.float64)
    mean, var = (f(wide, axis=(0, 2, 3)).reshape(2, 1, 1) for f in (np.mean, np.var))
    assert y.array.dtype == np.float32
    assert_close(y.array, (wide - mean) / np.sqrt(var + 1e-5), "float32")


@pytest.mark.parametrize("wanted", ["x", "weight", "bias"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_gives_only_the_gradients_that_are_wanted(wanted, training):
    """Frozen parts of a network: the others' gradients are None, the wanted one is right."""
    arrays = {"x": values((4, 2, 3), 1), "weight": values((2,), 2), "bias": values((2,), 3)}
    ours = {name: Tensor(a.copy(), requires_grad=name == wanted) for name, a in arrays.items()}
    theirs = {name: torch.tensor(a, requires_grad=name == wanted) for name, a in arrays.items()}
    y = batch_norm(ours["x"], *[Tensor(b) for b in buffers(2)], ours["weight"], ours["bias"], training=training)
    z = torch_batch_norm(
        theirs["x"], *[torch.tensor(b) for b in buffers(2)], theirs["weight"], theirs["bias"], training=training
    )
    (y**2).sum().backward()
    (z**2).sum().backward()
    for name, t in ours.items():
        if name == wanted:
            assert_close(t.grad.array, theirs[name].grad.numpy(), "float64", 12)
        else:
            assert t.grad is None


@pytest.mark.usefixtures("reference_kernels")
def test_batch_norm_uses_the_kernel_set(monkeypatch):
    calls = []
    for name in ("batch_norm_train", "batch_norm_train_backward"):
        real = getattr(reference, name)
        monkeypatch.setattr(reference, name, lambda *a, n=name, r=real: calls.append(n) or r(*a))
    x = Tensor(values((4, 2)), requires_grad=True)
    batch_norm(x, None, None, training=True).sum().backward()
    assert calls == ["batch_norm_train", "batch_norm_train_backward"]


MEAN, VAR = Tensor(np.zeros(3)), Tensor(np.ones(3))
REFUSED = {
    "not a tensor": (
        lambda x: batch_norm(x.array, MEAN, VAR),
        DTypeError,
        "batch_norm: input must be a Tensor, got ndarray",
    ),
    "integers": (
        lambda x: batch_norm(x.long(), MEAN, VAR),
        DTypeError,
        "batch_norm: input needs a floating dtype, got int64",
    ),
    "rank": (
        lambda x: batch_norm(x[0], MEAN, VAR),
        ShapeError,
        r"batch_norm: input needs at least 2 dimensions \(N, C, \*\), got input.shape = \(3,\)",
    ),
    "one running statistic": (
        lambda x: batch_norm(x, MEAN, None, training=True),
        ArgumentError,
        "batch_norm: running_mean and running_var must both be given or both be None",
    ),
    "eval without statistics": (
        lambda x: batch_norm(x, None, None),
        ArgumentError,
        "batch_norm: running_mean and running_var must be given where training=False",
    ),
    "mean of another size": (
        lambda x: batch_norm(x, Tensor(np.zeros(4)), Tensor(np.zeros(4))),
        ShapeError,
        r"batch_norm: running_mean must have shape \(3,\), one value per channel of input.shape = \(4, 3\), got \(4,\)",
    ),
    "weight of another size": (
        lambda x: batch_norm(x, MEAN, VAR, Tensor(np.zeros((3, 1)))),
        ShapeError,
        r"batch_norm: weight must have shape \(3,\).*got \(3, 1\)",
    ),
    "weight no tensor": (
        lambda x: batch_norm(x, MEAN, VAR, 2.0),
        DTypeError,
        "batch_norm: weight must be a Tensor, got float",
    ),
    "statistics require grad": (
        lambda x: batch_norm(x, Tensor(np.zeros(3), requires_grad=True), VAR),
        GradError,
        "batch_norm: running_mean must not require grad: no derivative flows to running statistics; use .detach()",
    ),
    "two dtypes": (
        lambda x: batch_norm(x.float(), MEAN, VAR),
        DTypeError,
        "batch_norm: all tensors need one dtype, got input float32, running_mean float64, running_var float64",
    ),
    "momentum None": (
        lambda x: batch_norm(x, MEAN, VAR, training=True, momentum=None),
        ArgumentError,
        r"batch_norm: momentum must be a number, got None; a cumulative average \(momentum=None\) is the module's",
    ),
    "eps no number": (
        lambda x: batch_norm(x, MEAN, VAR, eps="1"),
        DTypeError,
        "batch_norm: eps must be a number, got '1'",
    ),
    "eps zero": (
        lambda x: batch_norm(x, None, None, training=True, eps=0),
        ArgumentError,
        "batch_norm: eps must be positive in training, got 0",
    ),
    "one value per channel": (
        lambda x: batch_norm(x[:1], None, None, training=True),
        ShapeError,
        r"batch_norm: training needs more than one value per channel.*got input.shape = \(1, 3\); use a larger batch",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_batch_norm_refuses(case):
    call, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        call(Tensor(values((4, 3))))


def test_batch_norm_refusal_leaves_the_buffers_alone():
    running = [Tensor(b) for b in buffers(3)]
    before = [b.array.copy() for b in running]
    with pytest.raises(ShapeError):
        batch_norm(Tensor(values((1, 3))), *running, training=True)
    for a, b in zip(running, before, strict=True):
        np.testing.assert_array_equal(a.array, b)


def test_batch_norm_one_value_per_channel_is_fine_in_eval():
    compare(
        lambda x: batch_norm(x, *[Tensor(b) for b in buffers(3)]),
        lambda x: torch_batch_norm(x, *[torch.tensor(b) for b in buffers(3)]),
        values((1, 3, 1, 1)),
    )
