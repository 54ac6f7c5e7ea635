"""Losses against PyTorch: classification (labels, probabilities, weights, smoothing, ignored samples) and regression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, GradError, LabelError, ShapeError, UnsupportedError
from minires.kernels import reference
from minires.ops import loss as ours
from minires.tensor import Tensor
from tests.strategies import in_memory_form, memory_forms, shapes, values
from tests.tolerances import assert_close
from tests.torch_oracle import compare, torch

F = torch.nn.functional
REDUCTIONS = ("mean", "sum", "none")
CLASSIFICATION = {"cross_entropy": (ours.cross_entropy, F.cross_entropy), "nll_loss": (ours.nll_loss, F.nll_loss)}


@st.composite
def labelled(draw):
    """(logits, labels, class weights or None, ignore_index): unbatched, batched, K-dimensional; some labels ignored."""
    c = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 50))
    random = np.random.default_rng(seed)
    if draw(st.integers(0, 5)) == 0:
        shape, label_shape = (c,), ()
    else:
        n, rest = draw(st.integers(0, 4)), draw(st.lists(st.integers(0, 3), max_size=2))
        shape, label_shape = (n, c, *rest), (n, *rest)
    ignore_index = draw(st.sampled_from([-100, -1, 0]))
    labels = np.asarray(random.integers(0, c, label_shape))
    labels = np.where(random.random(label_shape) < draw(st.sampled_from([0.0, 0.3])), ignore_index, labels)
    weight = random.uniform(0.1, 2, c) if draw(st.booleans()) else None
    return values(shape, seed, -4, 4), labels, weight, ignore_index


@pytest.mark.parametrize("name", CLASSIFICATION)
@given(
    case=labelled(),
    reduction=st.sampled_from(REDUCTIONS),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    dtype=st.sampled_from(["float32", "float64"]),
    form=memory_forms(),
)
@settings(deadline=None, max_examples=60)
def test_classification_loss_equals_torch(name, case, reduction, smoothing, dtype, form):
    mine, theirs = CLASSIFICATION[name]
    x, labels, weight, ignore_index = case
    options = {"ignore_index": ignore_index, "reduction": reduction}
    if name == "cross_entropy":
        options["label_smoothing"] = smoothing
    w = None if weight is None else weight.astype(dtype)
    compare(
        lambda x, t: mine(x, t, None if w is None else Tensor(w), **options),
        lambda x, t: theirs(x, t, None if w is None else torch.tensor(w), **options),
        in_memory_form(x.astype(dtype), form),
        labels if labels.ndim == 0 else in_memory_form(labels, form),
        dtype=dtype,
        n=64,
        second=reduction != "mean"
        or bool((labels != ignore_index).any()),  # the mean of nothing is NaN, and so is all of it
    )


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("integer", ["uint8", "int8", "int16", "int32", "int64"])
def test_classification_loss_takes_every_integer_dtype(name, integer):
    mine, theirs = CLASSIFICATION[name]
    labels = np.array([2, 0, 1])
    y = mine(Tensor(values((3, 4))), Tensor(labels.astype(integer)))
    assert_close(y.array, theirs(torch.tensor(values((3, 4))), torch.tensor(labels)).numpy(), "float64", 4)


@given(
    n=st.integers(0, 4),
    c=st.integers(1, 4),
    rest=st.lists(st.integers(0, 3), max_size=2),
    batched=st.booleans(),
    weighted=st.booleans(),
    reduction=st.sampled_from(REDUCTIONS),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    dtype=st.sampled_from(["float32", "float64"]),
    form=memory_forms(),
    seed=st.integers(0, 20),
)
@settings(deadline=None, max_examples=60)
def test_cross_entropy_of_probabilities_equals_torch(
    n, c, rest, batched, weighted, reduction, smoothing, dtype, form, seed
):
    shape = (n, c, *rest) if batched else (c,)
    arrays = [values(shape, seed, -4, 4), values(shape, seed + 1, 0, 1)]
    if weighted:
        arrays.append(values((c,), seed + 2, 0.1, 2))
    options = {"reduction": reduction, "label_smoothing": smoothing}
    compare(  # gradients flow to the target and the weight too
        lambda x, t, w=None: ours.cross_entropy(x, t, w, **options),
        lambda x, t, w=None: F.cross_entropy(x, t, w, **options),
        *[in_memory_form(a.astype(dtype), form) for a in arrays],
        dtype=dtype,
        n=64,
        second=reduction != "mean" or arrays[0].size > 0,
    )


def test_cross_entropy_of_one_hot_probabilities_is_that_of_labels():
    x, labels = Tensor(values((5, 4))), np.array([3, 0, 2, 1, 1])
    one_hot = Tensor(np.eye(4)[labels])
    for smoothing in (0.0, 0.2):
        a = ours.cross_entropy(x, Tensor(labels), label_smoothing=smoothing)
        b = ours.cross_entropy(x, one_hot, label_smoothing=smoothing)
        assert_close(a.array, b.array, "float64", 4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 2)])
def test_cross_entropy_derivatives_by_finite_differences(shape, smoothing):
    labels = Tensor(np.array(1) if len(shape) == 1 else np.zeros((shape[0], *shape[2:]), int) + 2)
    x = Tensor(values(shape), requires_grad=True)
    weight = Tensor(values((shape[0] if len(shape) == 1 else shape[1],), 1, 0.1, 2))

    def call(x):
        return ours.cross_entropy(x, labels, weight, reduction="none", label_smoothing=smoothing)

    assert gradcheck(call, x)
    assert gradgradcheck(call, x)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss_derivatives_by_finite_differences(reduction):
    x = Tensor(values((3, 4)), requires_grad=True)
    assert gradcheck(lambda x: ours.nll_loss(x, Tensor(np.array([1, -100, 3])), reduction=reduction), x)


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("labels", [np.zeros(0, int), np.array([-100, -100])])
@pytest.mark.parametrize("weighted", [True, False])
def test_classification_mean_of_nothing_is_nan(name, labels, weighted):
    """An empty batch, or every label ignored: 0 / 0, without a warning (warnings are errors here)."""
    mine, _ = CLASSIFICATION[name]
    x = Tensor(values((len(labels), 3)), requires_grad=True)
    weight = Tensor(np.ones(3)) if weighted else None
    y = mine(x, Tensor(labels), weight)
    assert y.shape == () and np.isnan(y.array)
    assert mine(x, Tensor(labels), weight, reduction="sum").array == 0
    mine(x, Tensor(labels), weight, reduction="sum").backward()
    assert not x.grad.array.any()


def test_cross_entropy_of_an_empty_batch_of_probabilities_is_nan():
    y = ours.cross_entropy(Tensor(np.zeros((0, 3))), Tensor(np.zeros((0, 3))))
    assert np.isnan(y.array)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_classification_loss_ignored_sample_may_hold_nan(name):
    """The value is torch's. The gradient is 0, where torch's cross_entropy gives NaN: ignored is ignored."""
    mine, theirs = CLASSIFICATION[name]
    x = np.array([[np.nan, 1.0], [np.inf, -np.inf], [0.5, -0.5]])
    labels = np.array([-100, -100, 1])
    compare(lambda x, t: mine(x, t), lambda x, t: theirs(x, t), x, labels, gradients=False)
    t = Tensor(x, requires_grad=True)
    mine(t, Tensor(labels)).backward()
    assert not t.grad.array[:2].any()


@pytest.mark.parametrize("row", [[1e300, -1e300, 0], [np.nan, 0, 1], [-np.inf, 0, 1], [800, -800, 0]])
@pytest.mark.parametrize("label", [0, 1])
def test_cross_entropy_at_the_edges_equals_torch(row, label):
    x = np.array([row, [0, 1, 2]], float)
    compare(ours.cross_entropy, F.cross_entropy, x, np.array([label, 2]), second=False)


def test_cross_entropy_of_equal_logits_is_log_of_the_number_of_classes():
    y = ours.cross_entropy(Tensor(np.zeros((2, 10), np.float32)), Tensor(np.array([3, 9])))
    assert_close(y.array, np.log(10), "float32")


@pytest.mark.usefixtures("reference_kernels")
def test_cross_entropy_uses_the_kernel_set(monkeypatch):
    calls = []
    for name in ("cross_entropy_forward", "cross_entropy_backward"):
        real = getattr(reference, name)
        monkeypatch.setattr(reference, name, lambda *a, n=name, r=real: calls.append(n) or r(*a))
    ours.cross_entropy(Tensor(values((2, 3)), requires_grad=True), Tensor(np.array([0, 2]))).backward()
    assert calls == ["cross_entropy_forward", "cross_entropy_backward"]


# --- regression ------------------------------------------------------------------------------------------------------

REGRESSION = {
    "mse_loss": (ours.mse_loss, F.mse_loss),
    "l1_loss": (ours.l1_loss, F.l1_loss),
    "smooth_l1_loss": (ours.smooth_l1_loss, F.smooth_l1_loss),
    "smooth_l1_loss beta": (
        lambda *a, **k: ours.smooth_l1_loss(*a, **k, beta=0.3),
        lambda *a, **k: F.smooth_l1_loss(*a, **k, beta=0.3),
    ),
    "smooth_l1_loss beta 0": (
        lambda *a, **k: ours.smooth_l1_loss(*a, **k, beta=0),
        lambda *a, **k: F.smooth_l1_loss(*a, **k, beta=0),
    ),
    "binary_cross_entropy_with_logits": (ours.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits),
}


@pytest.mark.parametrize("name", REGRESSION)
@given(
    shape=shapes(1, 3, 0, 4),
    reduction=st.sampled_from(REDUCTIONS),
    dtype=st.sampled_from(["float32", "float64"]),
    form=memory_forms(),
    seed=st.integers(0, 20),
)
@settings(deadline=None, max_examples=25)
def test_regression_loss_equals_torch(name, shape, reduction, dtype, form, seed):
    mine, theirs = REGRESSION[name]
    arrays = [in_memory_form(values(shape, seed + k).astype(dtype), form) for k in range(2)]
    compare(
        lambda x, t: mine(x, t, reduction=reduction),
        lambda x, t: theirs(x, t, reduction=reduction),
        *arrays,
        dtype=dtype,
        n=64,
        second=reduction != "mean" or arrays[0].size > 0,
    )


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_loss_without_dimensions_equals_torch(name):
    mine, theirs = REGRESSION[name]
    compare(lambda x, t: mine(x, t), lambda x, t: theirs(x, t), np.array(0.9), np.array(0.2), second=False)


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_loss_derivatives_by_finite_differences(name):
    mine, _ = REGRESSION[name]
    x, t = (Tensor(values((3, 4), k), requires_grad=True) for k in (3, 4))
    assert np.abs(np.abs(x.array - t.array)[..., None] - [0, 0.3, 1]).min() > 1e-3  # no kink nearby
    for reduction in REDUCTIONS:
        assert gradcheck(lambda x, t, r=reduction: mine(x, t, reduction=r), (x, t))
        assert gradgradcheck(lambda x, t, r=reduction: mine(x, t, reduction=r) ** 2, (x, t))


@pytest.mark.parametrize("name", [name for name in REGRESSION if "l1" in name])
def test_regression_loss_at_its_kinks_equals_torch(name):
    mine, theirs = REGRESSION[name]
    x = np.array([0.0, 0.3, -0.3, 1.0, -1.0, np.nan, np.inf])
    compare(
        lambda x, t: mine(x, t, reduction="none"),
        lambda x, t: theirs(x, t, reduction="none"),
        x,
        np.zeros(7),
        second=False,
    )


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_mean_of_nothing_is_nan(name):
    mine, _ = REGRESSION[name]
    assert np.isnan(mine(Tensor(np.zeros((0, 2))), Tensor(np.zeros((0, 2)))).array)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss"])
def test_regression_loss_broadcasts_with_a_warning(name):
    mine, theirs = REGRESSION[name]
    x, t = values((3, 2), 1), values((2,), 2)
    with pytest.warns(UserWarning, match=rf"{name}: target.shape = \(2,\) differs from input.shape = \(3, 2\)"):
        y = mine(Tensor(x), Tensor(t))
    with pytest.warns(UserWarning):
        expected = theirs(torch.tensor(x), torch.tensor(t))
    assert_close(y.array, expected.numpy(), "float64", 6)


@pytest.mark.parametrize("weighted", [(), ("weight",), ("pos_weight",), ("weight", "pos_weight")])
def test_binary_cross_entropy_with_weights_equals_torch(weighted):
    arrays = [values((3, 4), 1), values((3, 4), 2, 0, 1), *(values((4,), 3 + k, 0.1, 3) for k in range(len(weighted)))]
    compare(
        lambda x, t, *w: ours.binary_cross_entropy_with_logits(x, t, **dict(zip(weighted, w, strict=True))),
        lambda x, t, *w: F.binary_cross_entropy_with_logits(
            x, t, **{name: a.detach() for name, a in zip(weighted, w, strict=True)}
        ),
        arrays[0],
        arrays[1],
        *arrays[2:],
        gradients=not weighted,
    )


def test_binary_cross_entropy_of_large_logits_equals_torch():
    x = np.array([1e4, -1e4, 1e4, -1e4, np.nan])
    compare(
        lambda x, t: ours.binary_cross_entropy_with_logits(x, t, reduction="none"),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none"),
        x,
        np.array([1.0, 1.0, 0.0, 0.0, 1.0]),
        second=False,
    )


# --- refusals --------------------------------------------------------------------------------------------------------

LABELS = Tensor(np.array([0, 1, 2, 1]))


def labels_with(value, shape=(2, 3)):
    labels = np.zeros(shape, int)
    labels[1, 2] = labels[1, 1] = value
    return Tensor(labels)


CLASSIFICATION_REFUSED = {
    "label too large": (
        lambda f, x: f(x, Tensor(np.array([0, 1, 3, 9]))),
        LabelError,
        r"labels must be in \[0, 3\), 3 being the number of classes, or ignore_index = -100; got target\[2\] = 3 "
        r"\(the first of 2\)",
    ),
    "label -1": (
        lambda f, x: f(x, Tensor(np.array([0, -1, 1, 1]))),
        LabelError,
        r"got target\[1\] = -1 \(the first of 1\)",
    ),
    "label in two dimensions": (
        lambda f, x: f(Tensor(np.zeros((2, 4, 3))), labels_with(4)),
        LabelError,
        r"\[0, 4\).*got target\[1, 1\] = 4 \(the first of 2\)",
    ),
    "label unbatched": (lambda f, x: f(x[0], Tensor(np.array(3))), LabelError, "got target = 3"),
    "ignored label of another option": (
        lambda f, x: f(x, Tensor(np.array([0, -100, 1, 1])), ignore_index=-1),
        LabelError,
        r"or ignore_index = -1; got target\[1\] = -100",
    ),
    "fewer labels": (
        lambda f, x: f(x, LABELS[:2]),
        ShapeError,
        r"target of class indices needs input's shape without the classes, \(4,\), got \(2,\)",
    ),
    "no classes": (
        lambda f, x: f(x[0, 0], LABELS),
        ShapeError,
        r"input needs a dimension of classes: \(C,\), \(N, C\)",
    ),
    "input integers": (lambda f, x: f(x.long(), LABELS), DTypeError, "input needs a floating dtype, got int64"),
    "input no tensor": (lambda f, x: f(x.array, LABELS), DTypeError, "input must be a Tensor, got ndarray"),
    "target no tensor": (lambda f, x: f(x, [0, 1, 2, 1]), DTypeError, "target must be a Tensor, got list"),
    "weight size": (
        lambda f, x: f(x, LABELS, Tensor(np.ones(4))),
        ShapeError,
        r"weight must have shape \(3,\), one value per class, got \(4,\)",
    ),
    "weight dtype": (
        lambda f, x: f(x, LABELS, Tensor(np.ones(3, np.float32))),
        DTypeError,
        "all tensors need one dtype, got input float64, weight float32",
    ),
    "weight no tensor": (lambda f, x: f(x, LABELS, [1, 1, 1]), DTypeError, "weight must be a Tensor, got list"),
    "weight requires grad": (
        lambda f, x: f(x, LABELS, Tensor(np.ones(3), requires_grad=True)),
        GradError,
        "weight must not require grad: no derivative flows to class weights; use .detach",
    ),
    "reduction": (
        lambda f, x: f(x, LABELS, reduction="avg"),
        ArgumentError,
        "reduction must be 'mean', 'sum' or 'none', got 'avg'",
    ),
    "size_average": (
        lambda f, x: f(x, LABELS, size_average=True),
        UnsupportedError,
        "size_average and reduce are not supported; use reduction='mean', 'sum' or 'none'",
    ),
    "reduce": (lambda f, x: f(x, LABELS, reduce=False), UnsupportedError, "size_average and reduce are not supported"),
}


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("case", CLASSIFICATION_REFUSED)
def test_classification_loss_refuses(name, case):
    call, error, text = CLASSIFICATION_REFUSED[case]
    with pytest.raises(error, match=f"^{name}: .*{text}"):
        call(CLASSIFICATION[name][0], Tensor(values((4, 3))))


def test_cross_entropy_refuses():
    x = Tensor(values((4, 3)))
    for smoothing in (-0.1, 1.5):
        with pytest.raises(ArgumentError, match=f"cross_entropy: label_smoothing must be from 0 to 1, got {smoothing}"):
            ours.cross_entropy(x, LABELS, label_smoothing=smoothing)
    with pytest.raises(
        ShapeError,
        match=r"cross_entropy: a floating target holds class probabilities and needs input's shape \(4, 3\), got \(4,\)",
    ):
        ours.cross_entropy(x, LABELS.double())
    with pytest.raises(
        DTypeError, match="cross_entropy: all tensors need one dtype, got input float64, target float32"
    ):
        ours.cross_entropy(x, x.float())
    with pytest.raises(
        ArgumentError, match="cross_entropy: ignore_index has no meaning for a target of class probabilities, got 1"
    ):
        ours.cross_entropy(x, x, ignore_index=1)
    with pytest.raises(ShapeError, match=r"\(4,\), got \(4, 3\); a one-hot target must be floating"):
        ours.cross_entropy(x, x.long())
    with pytest.raises(DTypeError, match="nll_loss: target of class indices needs an integer dtype, got float64"):
        ours.nll_loss(x, LABELS.double())


def test_regression_loss_refuses():
    x = Tensor(values((2, 3)))
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"):
        function = getattr(ours, name)
        with pytest.raises(DTypeError, match=f"{name}: input needs a floating dtype, got int64"):
            function(x.long(), x.long())
        with pytest.raises(DTypeError, match=f"{name}: target must be a Tensor, got float"):
            function(x, 1.0)
        with pytest.raises(DTypeError, match=f"{name}: all tensors need one dtype, got input float64, target float32"):
            function(x, x.float())
        with pytest.raises(ArgumentError, match=f"{name}: reduction must be 'mean', 'sum' or 'none', got 'x'"):
            function(x, x, reduction="x")
        with pytest.raises(UnsupportedError, match=f"{name}: size_average and reduce are not supported"):
            function(x, x, size_average=False)
    with pytest.raises(ArgumentError, match="smooth_l1_loss: beta must not be negative, got -1"):
        ours.smooth_l1_loss(x, x, beta=-1)
    with pytest.raises(
        ShapeError,
        match=r"binary_cross_entropy_with_logits: target must have input's shape \(2, 3\), got \(3,\)",
    ):
        ours.binary_cross_entropy_with_logits(x, x[0])
    with pytest.raises(DTypeError, match="pos_weight float32"):
        ours.binary_cross_entropy_with_logits(x, x, pos_weight=x.float())


def test_losses_keep_their_positional_order():
    """torch's positions: weight third, the two old arguments fourth and sixth, so ignore_index is fifth."""
    x = Tensor(values((4, 3)))
    a = ours.cross_entropy(x, LABELS, None, None, 1, None, "sum", 0.1)
    b = ours.cross_entropy(x, LABELS, ignore_index=1, reduction="sum", label_smoothing=0.1)
    assert a.array == b.array
    assert ours.mse_loss(x, x * 2, None, None, "sum").array == minires.tensor((x.array**2).sum()).array
