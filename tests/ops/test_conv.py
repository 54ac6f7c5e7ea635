"""conv2d and conv_transpose2d: against PyTorch to the second order, finite differences, the adjoint identity, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minires
from minires.autograd import gradcheck, gradgradcheck
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.ops.conv import conv2d, conv_transpose2d
from tests.strategies import in_memory_form, memory_forms, values
from tests.tolerances import tolerance
from tests.torch_oracle import compare, torch

F = torch.nn.functional


def zeros(*shape):
    return minires.tensor(np.zeros(shape))


@st.composite
def convolutions(draw):
    """(shapes of x, weight, bias; options) of a convolution that fits."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    padding = draw(
        st.one_of(
            st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(0, 4)), st.sampled_from(["same", "valid"])
        )
    )
    if padding == "same":
        stride = (1, 1)
    amount = (0, 0) if isinstance(padding, str) else padding if isinstance(padding, tuple) else (padding, padding)
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 4))
        for k, d, p in zip(kernel, dilation, amount, strict=True)
    ]
    c_in, c_out = (groups * draw(st.integers(1, 2)) for _ in range(2))
    batch = draw(st.sampled_from([(), (0,), (1,), (2,), (3,)]))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    bias = draw(st.booleans())
    return (*batch, c_in, *size), (c_out, c_in // groups, *kernel), (c_out,) if bias else None, options


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's, about its own copy
@settings(max_examples=100, deadline=None)
@given(convolutions(), st.sampled_from(["float64", "float32"]), memory_forms())
def test_conv2d_matches_torch(case, dtype, form):
    x, weight, bias, options = case
    arrays = [values(shape, seed).astype(dtype) for seed, shape in enumerate((x, weight, bias)) if shape]
    n = 4 * max(int(np.prod(x)) * weight[0], 1)
    compare(
        lambda *tensors: conv2d(*tensors, **options),
        lambda *tensors: F.conv2d(*tensors, **options),
        *[in_memory_form(a, form) for a in arrays],
        dtype=dtype,
        n=n,
    )


@st.composite
def transposed(draw):
    """(shapes of x, weight, bias; options) of a transposed convolution with something left after the padding."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel, size, stride, padding, dilation, extra = [], [], [], [], [], []
    for _ in range(2):
        k, s, d = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
        h, e = draw(st.integers(1, 4)), draw(st.integers(0, max(s, d) - 1))
        full = (h - 1) * s + d * (k - 1) + 1 + e
        for values_, value in zip(
            (kernel, size, stride, padding, dilation, extra),
            (k, h, s, draw(st.integers(0, (full - 1) // 2)), d, e),
            strict=True,
        ):
            values_.append(value)
    c_in, c_out_per_group = groups * draw(st.integers(1, 2)), draw(st.integers(1, 2))
    batch = draw(st.sampled_from([(), (0,), (1,), (2,)]))
    options = {
        "stride": tuple(stride),
        "padding": tuple(padding),
        "output_padding": tuple(extra),
        "groups": groups,
        "dilation": tuple(dilation),
    }
    bias = (c_out_per_group * groups,) if draw(st.booleans()) else None
    return (*batch, c_in, *size), (c_in, c_out_per_group, *kernel), bias, options


@settings(max_examples=150, deadline=None)
@given(transposed(), st.sampled_from(["float64", "float32"]), memory_forms())
def test_conv_transpose2d_matches_torch(case, dtype, form):
    x, weight, bias, options = case
    arrays = [values(shape, seed).astype(dtype) for seed, shape in enumerate((x, weight, bias)) if shape]
    compare(
        lambda *tensors: conv_transpose2d(*tensors, **options),
        lambda *tensors: F.conv_transpose2d(*tensors, **options),
        *[in_memory_form(a, form) for a in arrays],
        dtype=dtype,
        n=4 * max(int(np.prod(x)) * weight[1], 1) * weight[2] * weight[3],
    )


RESNET = {
    "stem": ((2, 3, 17, 17), (4, 3, 7, 7), {"stride": 2, "padding": 3}),
    "3x3": ((2, 4, 6, 6), (4, 4, 3, 3), {"padding": 1}),
    "3x3 stride 2, remainder": ((2, 4, 8, 7), (6, 4, 3, 3), {"stride": 2, "padding": 1}),
    "1x1 stride 2 shortcut": ((2, 4, 8, 7), (6, 4, 1, 1), {"stride": 2}),
    "resnext groups": ((2, 8, 5, 5), (8, 2, 3, 3), {"padding": 1, "groups": 4}),
    "depthwise": ((2, 4, 5, 5), (8, 1, 3, 3), {"padding": 1, "groups": 4}),
    "depthwise stride 2": ((2, 4, 6, 6), (4, 1, 3, 3), {"padding": 1, "stride": 2, "groups": 4}),
    "1x1 on 1x1": ((2, 4, 1, 1), (3, 4, 1, 1), {}),
    "same, even kernel": ((2, 2, 5, 5), (2, 2, 4, 2), {"padding": "same"}),
    "padding beyond the window": ((1, 1, 2, 2), (1, 1, 2, 2), {"padding": 3}),
}


@pytest.mark.parametrize(("x", "weight", "options"), RESNET.values(), ids=RESNET)
def test_conv2d_of_residual_networks_matches_torch(x, weight, options):
    for dtype in ("float64", "float32"):
        compare(
            lambda *t: conv2d(*t, **options),
            lambda *t: F.conv2d(*t, **options),
            values(x, 0),
            values(weight, 1),
            values(weight[:1], 2),
            dtype=dtype,
            n=int(np.prod(x)) * weight[0],
        )


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"groups": 2, "dilation": 2, "padding": (1, 2)}])
def test_conv2d_gradients_match_finite_differences(options):
    groups = options.get("groups", 1)
    x, weight, bias = values((2, 2, 4, 4), 0), values((2, 2 // groups, 2, 2), 1), values((2,), 2)
    inputs = tuple(minires.tensor(a, requires_grad=True) for a in (x, weight, bias))
    assert gradcheck(lambda *t: conv2d(*t, **options), inputs)
    assert gradgradcheck(lambda *t: conv2d(*t, **options), inputs)


def test_conv_transpose2d_gradients_match_finite_differences():
    inputs = tuple(
        minires.tensor(values(s, i), requires_grad=True) for i, s in enumerate([(1, 2, 2, 3), (2, 1, 2, 2), (2,)])
    )
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}
    assert gradcheck(lambda *t: conv_transpose2d(*t, **options), inputs)
    assert gradgradcheck(lambda *t: conv_transpose2d(*t, **options), inputs)


@settings(max_examples=60, deadline=None)
@given(transposed())
def test_conv_transpose2d_is_the_adjoint_of_conv2d(case):
    """<conv2d(y), x> = <y, conv_transpose2d(x)> with one weight and one set of options, and no oracle."""
    x_shape, weight_shape, _, options = case
    x, weight = minires.tensor(values(x_shape, 0)), minires.tensor(values(weight_shape, 1))
    sent = conv_transpose2d(x, weight, **options)
    y = minires.tensor(values(sent.shape, 2))
    forward = {name: value for name, value in options.items() if name != "output_padding"}
    gathered = conv2d(y, weight, **forward)
    h, w = x_shape[-2:]  # where output_padding >= stride, the convolution has a window more
    close = tolerance("float64", 4 * max(int(np.prod(sent.shape)), 1) * weight_shape[0])
    np.testing.assert_allclose(float((gathered[..., :h, :w] * x).sum().item()), float((y * sent).sum().item()), **close)


def test_conv2d_third_derivative_matches_torch():
    """d3/dx dw dx of a cubic of the output: the three operations call one another as deep as one likes."""
    x, weight = values((1, 2, 5, 4), 0), values((2, 2, 3, 2), 1)

    def third(library, convolution, x, weight):
        loss = (convolution(x, weight, stride=2, padding=1) ** 3).sum()
        (first,) = library.autograd.grad(loss, x, create_graph=True)
        (second,) = library.autograd.grad((first**2).sum(), weight, create_graph=True)
        return library.autograd.grad((second**2).sum(), x)[0]

    ours = third(minires, conv2d, *(minires.tensor(a, requires_grad=True) for a in (x, weight)))
    theirs = third(torch, F.conv2d, *(torch.tensor(a, requires_grad=True) for a in (x, weight))).numpy()
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours.numpy() / scale, theirs / scale, **tolerance("float64", x.size))


def test_conv2d_bias_none_and_frozen_weight():
    x, weight = minires.tensor(values((1, 1, 3, 3)), requires_grad=True), minires.tensor(values((1, 1, 2, 2), 1))
    conv2d(x, weight).sum().backward()
    assert weight.grad is None and x.grad.shape == x.shape
    x, weight = x.detach(), weight.requires_grad_()
    conv2d(x, weight).sum().backward()
    assert x.grad is None and weight.grad.shape == weight.shape


def test_conv_transpose2d_frozen_weight_and_frozen_input():
    """Each keeps only what the other's gradient needs."""
    for frozen in (0, 1):
        ours = [minires.tensor(values((2, 2, 3, 3), i), requires_grad=i != frozen) for i in (0, 1)]
        theirs = [torch.tensor(values((2, 2, 3, 3), i), requires_grad=i != frozen) for i in (0, 1)]
        (conv_transpose2d(*ours, stride=2) ** 2).sum().backward()
        (F.conv_transpose2d(*theirs, stride=2) ** 2).sum().backward()
        assert ours[frozen].grad is None
        np.testing.assert_allclose(
            ours[1 - frozen].grad.numpy(), theirs[1 - frozen].grad.numpy(), **tolerance("float64", 36)
        )


def test_conv2d_second_derivative_with_frozen_weight_or_input():
    """Conv2dBackwardX and Conv2dBackwardWeight, differentiated where one of their arguments requires no gradient."""
    for frozen in (0, 1):
        results = []
        for library, convolution in ((minires, conv2d), (torch, F.conv2d)):
            tensors = [library.tensor(values((2, 2, 3, 3), i), requires_grad=i != frozen) for i in (0, 1)]
            loss = (convolution(*tensors, padding=1) ** 3).sum()
            (first,) = library.autograd.grad(loss, tensors[1 - frozen], create_graph=True)
            results.append(library.autograd.grad((first**2).sum(), tensors[1 - frozen])[0].numpy())
        scale = np.abs(results[1]).max()
        np.testing.assert_allclose(results[0] / scale, results[1] / scale, **tolerance("float64", 36))


def test_conv2d_nan_and_infinity_reach_only_the_windows_that_see_them():
    x = values((1, 1, 6, 6))
    x[0, 0, 0, 0], x[0, 0, 5, 5] = np.nan, np.inf
    compare(conv2d, F.conv2d, x, np.ones((1, 1, 3, 3)), gradients=False, n=9)
    y = conv2d(minires.tensor(x), minires.tensor(np.ones((1, 1, 3, 3)))).numpy()
    assert np.isnan(y).sum() == 1 and np.isinf(y).sum() == 1


def test_conv2d_empty_batch_gives_zero_weight_gradient():
    x = minires.tensor(np.zeros((0, 2, 5, 5)), requires_grad=True)
    weight = minires.tensor(values((3, 2, 3, 3)), requires_grad=True)
    conv2d(x, weight).sum().backward()
    assert x.grad.shape == (0, 2, 5, 5)
    np.testing.assert_array_equal(weight.grad.numpy(), np.zeros((3, 2, 3, 3)))


CONV2D_ERRORS = [
    (
        lambda: conv2d(np.zeros((1, 1, 3, 3)), zeros(1, 1, 1, 1)),
        DTypeError,
        r"conv2d: input must be a Tensor, got ndarray",
    ),
    (
        lambda: conv2d(zeros(3, 3), zeros(1, 1, 1, 1)),
        ShapeError,
        r"conv2d: input needs 3 or 4 dimensions, got .*\(3, 3\)",
    ),
    (lambda: conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 1)), ShapeError, r"conv2d: weight needs 4 dimensions"),
    (
        lambda: conv2d(zeros(1, 32, 8, 8), zeros(64, 8, 3, 3), groups=2),
        ShapeError,
        r"conv2d: weight needs 16 input channels \(C_in / groups = 32 / 2\), got weight.shape = \(64, 8, 3, 3\)",
    ),
    (
        lambda: conv2d(zeros(1, 3, 8, 8), zeros(4, 1, 3, 3)),
        ShapeError,
        r"conv2d: weight needs 3 input channels \(C_in\), got weight.shape = \(4, 1, 3, 3\)",
    ),
    (
        lambda: conv2d(zeros(1, 3, 8, 8), zeros(4, 1, 3, 3), groups=2),
        ShapeError,
        r"conv2d: input channels must divide into groups = 2, got input.shape = \(1, 3, 8, 8\)",
    ),
    (
        lambda: conv2d(zeros(1, 4, 8, 8), zeros(3, 2, 3, 3), groups=2),
        ShapeError,
        r"conv2d: weight's output channels must divide into groups = 2, got 3",
    ),
    (
        lambda: conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), groups=0),
        ArgumentError,
        r"conv2d: groups must be an int of at",
    ),
    (lambda: conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), groups=1.0), ArgumentError, r"conv2d: groups .* got 1\.0"),
    (
        lambda: conv2d(zeros(1, 1, 3, 3), zeros(2, 1, 1, 1), zeros(3)),
        ShapeError,
        r"conv2d: bias needs one value an output channel, \(2,\), got bias.shape = \(3,\)",
    ),
    (
        lambda: conv2d(zeros(1, 1, 3, 3).float(), zeros(1, 1, 1, 1)),
        DTypeError,
        r"conv2d: all tensors need one dtype, got input float32, weight float64",
    ),
    (
        lambda: conv2d(minires.tensor([[[[1]]]]), minires.tensor([[[[1]]]])),
        DTypeError,
        r"conv2d: input needs a floating dtype, got int64",
    ),
    (
        lambda: conv2d(zeros(1, 1, 4, 4), zeros(1, 1, 3, 3), dilation=2),
        ShapeError,
        r"conv2d: the window covers 5 x 5 \(kernel 3 x 3, dilation 2 x 2\), which the padded input of 4 x 4 does not hold",
    ),
    (
        lambda: conv2d(zeros(1, 1, 0, 4), zeros(1, 1, 1, 1), padding=1),
        ShapeError,
        r"conv2d: .* got input.shape = \(1, 1, 0, 4\)",
    ),
    (
        lambda: conv2d(zeros(1, 1, 4, 4), zeros(1, 1, 0, 1)),
        ShapeError,
        r"conv2d: weight needs a kernel of at least 1 x 1, got 0 x 1",
    ),
    (
        lambda: conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), stride=0),
        ArgumentError,
        r"conv2d: stride must be at least 1, got 0",
    ),
    (
        lambda: conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), stride=(1, 2, 3)),
        ArgumentError,
        r"conv2d: stride must be an int or a pair of ints, got \(1, 2, 3\)",
    ),
    (
        lambda: conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), padding=-1),
        ArgumentError,
        r"conv2d: padding must be at least 0, got -1",
    ),
    (
        lambda: conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), dilation=0),
        ArgumentError,
        r"conv2d: dilation must be at least 1",
    ),
    (
        lambda: conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), padding="full"),
        ArgumentError,
        r"conv2d: padding must be an int, a pair, 'same' or 'valid', got 'full'",
    ),
    (
        lambda: conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 3, 3), padding="same", stride=2),
        ArgumentError,
        r"conv2d: padding 'same' needs stride 1, got stride = \(2, 2\)",
    ),
    (
        lambda: conv_transpose2d(zeros(1, 3, 2, 2), zeros(4, 1, 3, 3)),
        ShapeError,
        r"conv_transpose2d: weight needs 3 input channels \(its first dimension\), got weight.shape = \(4, 1, 3, 3\)",
    ),
    (
        lambda: conv_transpose2d(zeros(1, 3, 2, 2), zeros(3, 1, 3, 3), groups=2),
        ShapeError,
        r"conv_transpose2d: weight's input channels must divide into groups = 2, got 3",
    ),
    (
        lambda: conv_transpose2d(zeros(1, 2, 2, 2), zeros(2, 1, 3, 3), output_padding=1),
        ArgumentError,
        r"conv_transpose2d: output_padding must be smaller than stride or dilation, got output_padding = \(1, 1\)",
    ),
    (
        lambda: conv_transpose2d(zeros(1, 2, 2, 2), zeros(2, 1, 3, 3), padding=2),
        ShapeError,
        r"conv_transpose2d: the output would have 0 x 0 pixels, got input.shape = \(1, 2, 2, 2\)",
    ),
    (
        lambda: conv_transpose2d(zeros(1, 2, 2, 2), zeros(2, 3, 3, 3), zeros(2)),
        ShapeError,
        r"conv_transpose2d: bias needs one value an output channel, \(3,\), got bias.shape = \(2,\)",
    ),
    (
        lambda: conv_transpose2d(zeros(1, 2, 2, 2), zeros(2, 3, 3, 3), padding="same"),
        ArgumentError,
        r"conv_transpose2d: padding must be an int or a pair of ints, got 'same'",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), CONV2D_ERRORS)
def test_conv_errors_name_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call()
